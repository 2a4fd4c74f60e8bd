"""Adjoints that measure their solves: evaluations and drift."""

import contextlib
import typing

import tensorflow as tf

from keras_node.adjoints import Adjoint, BacksolveAdjoint
from keras_node.common import solving_layers
from keras_node.solvers import clocks


class Drift(typing.NamedTuple):
    """How far a state that is integrated backwards ends from its start.

    Attributes:
        layer: String, the name of the layer that solves.
        absolute: Float, `max |z_back(t0) - z(t0)|` over the batch and all
            numbers of a state, in the units of the state; infinite if the
            backward solve fails. With more than two times it is the largest
            of the intervals between them.
        relative: Float, the same divided by `max |z(t0)|`.
    """

    layer: str
    absolute: float
    relative: float


@contextlib.contextmanager
def adjoint_of_each(layer, make):
    """Gives each layer that solves another adjoint, for a while.

    Args:
        layer: Keras layer or model.
        make: Callable from a layer that solves to its adjoint.

    Yields:
        List of the adjoints.
    """
    solving = solving_layers.differentiable_layers(layer)
    adjoints = [make(part) for part in solving]
    with contextlib.ExitStack() as stack:
        # The outermost first, as this also sets those of the layers within.
        for part, adjoint in zip(solving, adjoints, strict=True):
            stack.enter_context(solving_layers.using(part, adjoint=adjoint))
        yield adjoints


def own_adjoint_or(adjoint_class):
    """Returns a `make`: a layer's own adjoint of the class, or a new one."""

    def make(layer):
        is_own = isinstance(layer.adjoint, adjoint_class)
        return layer.adjoint if is_own else adjoint_class()

    return make


def dtype_of(meters):
    """Returns the name of the coarsest dtype that was solved in.

    Raises:
        ValueError: If nothing was solved.
    """
    dtypes = [meter.dtype for meter in meters if meter.dtype is not None]
    if not dtypes:
        raise ValueError(
            "The layer must solve its ODE when it is called. Is it part of a "
            "`tf.function` that was traced before? Received: a layer that "
            "has solved nothing"
        )
    return min(dtypes, key=lambda dtype: dtype.size).name


class NFEMeter(Adjoint):
    """Counts the evaluations of another adjoint's forward solves.

    Attributes:
        num_evaluations: Float variable, the sum over solves of the NFE, or of
            its mean if each sample has a clock.
        dtype: Dtype of the last state, `None` before the first solve.
    """

    def __init__(self, adjoint):
        self._adjoint = adjoint
        self.num_evaluations = tf.Variable(0.0, dtype=tf.float64)
        self.dtype = None

    def solve(self, problem):
        """Solves a `Problem`; returns a `Solution`."""
        self.dtype = problem.y[0].dtype
        result = self._adjoint.solve(problem)
        count = result.diagnostics.num_ode_fn_evaluations
        self.num_evaluations.assign_add(
            tf.reduce_mean(tf.cast(count, tf.float64))
        )
        return result


class DriftMeter(Adjoint):
    """Solves forwards, and back again as `BacksolveAdjoint` would.

    As in backsolve, the state restarts from the stored one at each requested
    time. Only the state is integrated, without the adjoint.

    Args:
        adjoint: `BacksolveAdjoint`.

    Attributes:
        absolute: Float variable, the largest of all solves; see `Drift`.
        relative: Float variable, likewise.
        dtype: Dtype of the last state, `None` before the first solve.
    """

    def __init__(self, adjoint):
        self._adjoint = adjoint
        self.dtype = None
        self.absolute = tf.Variable(0.0, dtype=tf.float64)
        self.relative = tf.Variable(0.0, dtype=tf.float64)

    def solve(self, problem):
        """Solves a `Problem`; returns a `Solution`."""
        self.dtype = problem.y[0].dtype
        result = self._adjoint.solve(problem)
        _, absolute, relative = tf.while_loop(
            lambda row, *_: row > 0,
            lambda row, absolute, relative: self._reverse(
                problem, result.states, row, absolute, relative
            ),
            (
                tf.shape(problem.times)[0] - 1,
                tf.identity(self.absolute),
                tf.identity(self.relative),
            ),
        )
        self.absolute.assign(absolute)
        self.relative.assign(relative)
        return result

    def _reverse(self, problem, states, row, absolute, relative):
        """Integrates from a row to the one before."""
        start = _state(problem, states, row - 1)
        back = BacksolveAdjoint().solve(
            problem._replace(
                solver=self._adjoint.solver or problem.solver,
                times=tf.gather(problem.times, [row, row - 1]),
                y=_state(problem, states, row),
                on_backward=None,
            )
        )
        end = [leaf[-1] for leaf in back.states]
        gap = _largest([a - b for a, b in zip(end, start, strict=True)])
        size = tf.minimum(_largest(start), tf.float64.max)
        share = tf.where(gap > 0.0, gap / size, 0.0)
        return (
            row - 1,
            tf.maximum(absolute, gap),
            tf.maximum(relative, share),
        )


def _state(problem, states, row):
    # If times are data, rows at the first time may hold anything.
    is_first = tf.equal(problem.times[row], problem.times[0])
    return clocks.select(is_first, problem.y, [leaf[row] for leaf in states])


def _largest(leaves):
    values = [tf.abs(tf.cast(leaf, tf.float64)) for leaf in leaves]
    # A maximum may ignore NaN.
    values = [
        tf.where(tf.math.is_finite(leaf), leaf, float("inf")) for leaf in values
    ]
    return tf.reduce_max([tf.reduce_max(leaf) for leaf in values])
