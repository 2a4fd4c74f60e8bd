"""What dynamics return, and which tensors they close over."""

import tensorflow as tf

from keras_node.conversion import as_tensor
from keras_node.solvers.state import solved_dtype


def trace(ode_fn, t_shape, state):
    """Traces dynamics once: checks its result and finds what it closes over.

    Args:
        ode_fn: Callable `(t, state) -> derivative`.
        t_shape: Shape of the time, `()` or `(batch,)`.
        state: Nested structure of float tensors, or of their `TensorSpec`s.

    Returns:
        The float tensors that it closes over: constants of the solve to which
        gradients flow.

    Raises:
        ValueError: If the derivative does not match the state.
    """
    return _float_captures(_trace(ode_fn, t_shape, state))


def weights(ode_fn, t_shape, state):
    """Returns the float tensors and trainable variables that dynamics use.

    Args and errors are those of `trace`.
    """
    with tf.GradientTape() as tape:
        graph = _trace(ode_fn, t_shape, state)
    return [*_float_captures(graph), *tape.watched_variables()]


def _trace(ode_fn, t_shape, state):
    graph = tf.__internal__.FuncGraph("dynamics")
    with graph.as_default():
        inputs = tf.nest.map_structure(
            lambda leaf: tf.compat.v1.placeholder(leaf.dtype, leaf.shape),
            state,
        )
        first = tf.nest.flatten(state)[0]
        t = tf.compat.v1.placeholder(first.dtype, t_shape)
        check_derivative(ode_fn(t, inputs), state)
    return graph


def _float_captures(graph):
    return [
        tensor for tensor in graph.external_captures if tensor.dtype.is_floating
    ]


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


def check_derivative(derivative, state):
    """Returns a derivative as tensors.

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
                "end it with a layer that has as many units or filters as "
                f"the state. Received: derivative of shape {slope.shape}, "
                f"state of shape {leaf.shape}"
            )
    return derivative


def _is_same_shape(shape, expected):
    # Only as many axes as both know; a state (None, 2) and (3, 2) agree.
    return shape.rank is None or (
        shape.rank == expected.rank and shape.is_compatible_with(expected)
    )
