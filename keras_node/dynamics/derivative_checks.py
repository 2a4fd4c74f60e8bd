"""Checks of traced dynamics: derivative, noise and per-sample clocks."""

import tensorflow as tf

from keras_node.common.conversion import as_tensor
from keras_node.common.state import solved_dtype
from keras_node.dynamics.variable_reads import READS, handle_of


def check_derivative(derivative, state):
    """Returns a derivative as tensors, checked against the state.

    Raises:
        ValueError: If it does not match the state.
    """
    _check_structure(derivative, state)
    derivative = tf.nest.map_structure(
        lambda slope: as_tensor(slope, "derivative"), derivative
    )
    pairs = zip(
        tf.nest.flatten(derivative), tf.nest.flatten(state), strict=True
    )
    for slope, leaf in pairs:
        if solved_dtype(slope.dtype) != solved_dtype(leaf.dtype):
            raise ValueError(
                "The dynamics must return a derivative of the state's dtype. "
                f"Received: derivative of dtype {slope.dtype.name}, state of "
                f"dtype {leaf.dtype.name}"
            )
        if not _is_same_shape(slope.shape, leaf.shape):
            raise ValueError(
                "The dynamics must return a derivative of the state's shape; "
                "end the dynamics with a layer that has as many units or "
                "filters as the state. "
                f"Received: derivative of shape {slope.shape}, "
                f"state of shape {leaf.shape}"
            )
    return derivative


def _check_structure(derivative, state):
    hint = ""
    if any(leaf is None for leaf in tf.nest.flatten(derivative)):
        hint = " Is a `return` missing?"
    else:
        try:
            return tf.nest.assert_same_structure(state, derivative)
        except (TypeError, ValueError):
            pass
    raise ValueError(
        "The dynamics must return a derivative of the state's structure."
        f"{hint} Received: derivative={derivative}, state={state}"
    )


def _is_same_shape(shape, expected):
    # Unknown sizes match any other: a state (None, 2) and (3, 2) agree.
    return shape.rank is None or (
        shape.rank == expected.rank and shape.is_compatible_with(expected)
    )


def refuse_noise(graph, variables):
    """Raises `ValueError` if the dynamics draw from a `SeedGenerator`."""
    states = {
        id(v.handle) for v in variables if "seed_generator_state" in v.name
    }
    for op in graph.get_operations():
        if op.type not in READS:
            if any(id(handle_of(graph, x)) in states for x in op.inputs):
                raise ValueError(
                    "`dynamics` must be a function of time and state, not "
                    "draw noise: a solver mistakes noise for error. Draw it "
                    "before the solve, and close over it. Received: dynamics "
                    "that use a `keras.random.SeedGenerator`"
                )


def is_ambiguous(t_shape, state):
    """Whether `y * t` with per-sample clocks may be wrong without an error.

    It may be if the batch is 1, as large as another axis, or of unknown size.
    """
    if len(t_shape) == 0:
        return False
    leaves = tf.nest.flatten(state)
    batch = leaves[0].shape[0]
    sizes = {size for leaf in leaves for size in leaf.shape[1:]}
    return batch in {None, 1, *sizes}


def fails_by_its_clocks(trace, t_shape, state):
    """Whether dynamics can be traced with a scalar time, but not with clocks.

    Tries a batch of a size that no other axis has.

    Args:
        trace: Callable of the shape of the time and the specs of a state.
        t_shape: Shape of the time, `()` or `(batch,)`.
        state: Nested structure of float tensors, or of their `TensorSpec`s.
    """
    if len(t_shape) == 0:
        return False
    state = with_odd_batch(state)
    batch = tf.nest.flatten(state)[0].shape[0]

    def is_traced(t_shape):
        try:
            trace(t_shape, state)
        except Exception:  # Dynamics may raise anything for such a batch.
            return False
        return True

    return not is_traced([batch]) and is_traced([])


def with_odd_batch(state):
    """Returns the specs of a state with a batch that no other axis has."""
    sizes = [size for x in tf.nest.flatten(state) for size in x.shape[1:]]
    batch = next(size for size in _BATCHES if size not in sizes)
    return tf.nest.map_structure(
        lambda leaf: tf.TensorSpec([batch, *leaf.shape[1:]], leaf.dtype), state
    )


# Batch sizes that hardly any other axis has.
_BATCHES = (8191, 8209, 8219, 8221, 8231, 8233, 8237)


def refuse_clocks(state, error=None):
    """Raises `ValueError` for dynamics that only work with a scalar time."""
    raise ValueError(
        "With a clock for each sample the dynamics get `t` of shape (batch,), "
        "which does not broadcast against a state of more axes. Use "
        "`keras_node.ConcatTime(net)`, or give `t` as many axes: "
        "`tf.reshape(t, [-1, 1]) * y`. Received: dynamics that work with a "
        f"scalar `t` alone, a state of shapes "
        f"{[tuple(x.shape) for x in tf.nest.flatten(state)]}"
    ) from error
