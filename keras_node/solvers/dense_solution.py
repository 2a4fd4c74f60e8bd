"""Dense solutions: the polynomials of all steps, to evaluate at any time."""

import typing

import tensorflow as tf

from keras_node.common import tf_internals
from keras_node.common.arrays import array_of
from keras_node.solvers import clocks, solution, step_sequence


class DenseSolution(typing.NamedTuple):
    """The polynomials of the accepted steps, first to last.

    Step `n` from `t_n` is `y(t_n + theta dt_n) = sum_p c_np theta**p`.

    Attributes:
        t, dt: Float64 `(N,)` or `(N, batch)`, start and signed size of each
            step; 0 in the clocks that did not advance. Rows that no step has
            filled, which XLA reserves, start behind the end.
        end: Float64 per clock, the time that the solve has reached.
        coefficients: List of leaves `(N, P, ...)`, those of the powers of
            `theta`, from the constant on.
    """

    t: tf.Tensor
    dt: tf.Tensor
    end: tf.Tensor
    coefficients: list

    @classmethod
    def of(cls, num_steps, t, dt, coefficients):
        """Returns the solution in stacked arrays, cut to the steps in them."""
        last = tf.maximum(num_steps, 1) - 1
        end = t[last] + dt[last]
        if not tf_internals.in_xla():
            t, dt, *coefficients = [
                rows[: last + 1] for rows in [t, dt, *coefficients]
            ]
            return cls(t, dt, end, coefficients)
        is_filled = tf.range(tf.shape(t)[0]) <= last
        is_filled = tf.reshape(is_filled, [-1] + [1] * (t.shape.rank - 1))
        direction = tf.sign(tf.reduce_sum(dt, axis=0))
        behind = end + direction * (1.0 + tf.abs(end - t[0]))
        t = tf.where(is_filled, t, behind)
        dt = tf.where(is_filled, dt, tf.zeros_like(dt))
        return cls(t, dt, end, coefficients)

    def frozen(self):
        """Returns the same steps, cut off from the solve that chose them."""
        t, dt, end = map(tf.stop_gradient, [self.t, self.dt, self.end])
        return self._replace(t=t, dt=dt, end=end)

    def moving_with(self, times, jumps, end):
        """Returns the same steps, differentiable in the times of the solve.

        Args:
            times, jumps: As in `Pieces`.
            end: Float64 per clock, the time that the clock shows at the end:
                that of a sum may differ in the last digit.
        """
        t, dt = step_sequence.moved(self.t, self.dt, times, jumps)
        return self._replace(t=t, dt=dt, end=tf.stop_gradient(end))

    def at(self, times):
        """Returns the leaves at times, NaN outside the solve.

        Args:
            times: Float64 time-major `(T,)` for all samples, or `(T, batch)`.
        """
        if self.t.shape.rank == 2 and times.shape.rank == 1:
            times = tf.tile(times[:, None], [1, tf.shape(self.t)[1]])
        n, is_inside = self._find(times)
        t, dt = [self._read(x, n) for x in (self.t, self.dt)]
        theta = tf.math.divide_no_nan(times - t, dt)
        # NaN in it would be in all gradients, too.
        theta = tf.where(is_inside, theta, tf.zeros_like(theta))
        return solution.nan_unless(
            is_inside,
            [self._polynomial(leaf, n, theta) for leaf in self.coefficients],
        )

    def _find(self, times):
        """Returns the step of each time, and whether the solve reached it."""
        t, dt, queries = map(tf.stop_gradient, [self.t, self.dt, times])
        if times.shape.rank > t.shape.rank:
            t, dt = t[:, None], dt[:, None]
        direction = tf.sign(tf.reduce_sum(dt, axis=0))
        has_begun = direction * (t[:, None] - queries) <= 0.0
        n = tf.reduce_sum(tf.cast(has_begun, tf.int32), axis=0) - 1
        is_inside = (n >= 0) & (direction * (queries - self.end) <= 0.0)
        # A clock that has not moved has no direction.
        is_inside &= tf.not_equal(direction, 0.0) | tf.equal(queries, self.end)
        return tf.maximum(n, 0), is_inside

    def _read(self, values, n):
        """Returns the values of steps `n`, once for all clocks or for each."""
        if n.shape.rank > values.shape.rank:
            return tf.gather(values, n)
        return clocks.rows_of(values, n)

    def _polynomial(self, coefficients, n, theta):
        """Evaluates a leaf's polynomials of steps `n`."""
        rows = _rows_of_samples(coefficients, n)
        powers = tf.unstack(rows, num=coefficients.shape[1], axis=n.shape.rank)
        value = powers[-1]
        theta = clocks.align(theta, value)
        for coefficient in powers[-2::-1]:
            value = value * theta + coefficient
        return value


def _rows_of_samples(coefficients, n):
    """Returns `(T, P, ...)` of steps `(T,)`, `(T, batch, P, ...)` of others."""
    if n.shape.rank == 1:
        return tf.gather(coefficients, n)
    # The batch before the powers.
    rank = coefficients.shape.rank
    axes = [0, 2, 1, *range(3, rank)]
    return clocks.rows_of(tf.transpose(coefficients, axes), n)


class Recorder:
    """Writes the polynomials of a solve step by step.

    Args:
        tableau: `ButcherTableau` of an adaptive method.
        max_num_steps: Integer, the most steps to keep.
    """

    class Record(typing.NamedTuple):
        """The number of steps, and the arrays of a `DenseSolution`."""

        num_steps: tf.Tensor
        t: tf.TensorArray
        dt: tf.TensorArray
        coefficients: list

    def __init__(self, tableau, max_num_steps):
        self._tableau = tableau
        self._size = max_num_steps

    def start(self, t, y):
        """Returns a record with the initial state, as a step of length 0."""
        num_powers = 1 + len(self._tableau.b_dense[0])
        constant = [
            tf.stack([leaf] + [tf.zeros_like(leaf)] * (num_powers - 1))
            for leaf in y
        ]
        values = [t, tf.zeros_like(t), *constant]
        t, dt, *coefficients = [
            array_of(value, self._size).write(0, value) for value in values
        ]
        return self.Record(tf.constant(0), t, dt, coefficients)

    def record(self, record, advanced, t, dt, y, increments):
        """Adds a step from `(t, y)`; it stays if any clock `advanced`.

        Args:
            record: `Record`.
            advanced: Boolean per clock.
            t, dt: Float64 per clock.
            y: List of leaves.
            increments: List of leaves for each stage of dense output.
        """
        n = record.num_steps
        increments = [clocks.zero_unless(advanced, k) for k in increments]
        values = polynomials(self._tableau, y, increments)
        return self.Record(
            n + tf.cast(tf.reduce_any(advanced), tf.int32),
            record.t.write(n, t),
            record.dt.write(n, tf.where(advanced, dt, 0.0)),
            [
                array.write(n, value)
                for array, value in zip(
                    record.coefficients, values, strict=True
                )
            ],
        )

    def solution(self, record):
        """Returns the `DenseSolution`."""
        t, dt, *coefficients = [
            array.stack()
            for array in [record.t, record.dt, *record.coefficients]
        ]
        return DenseSolution.of(record.num_steps, t, dt, coefficients)


def polynomials(tableau, y, increments, axis=0):
    """Returns the coefficients of a step's dense output, of each leaf.

    Args:
        tableau: `ButcherTableau`.
        y: List of leaves, the state at the start of the step.
        increments: List of leaves for each stage.
        axis: Integer, that of the powers. Default 0; 1 for rows of steps.
    """
    coefficients = []
    for i, leaf in enumerate(y):
        powers = [leaf]
        for weights in zip(*tableau.b_dense, strict=True):
            terms = [
                weight * increment[i]
                for weight, increment in zip(weights, increments, strict=True)
                if weight != 0
            ]
            powers.append(tf.add_n(terms))
        coefficients.append(tf.stack(powers, axis=axis))
    return coefficients


def pull_back(tableau, bars, y_bar, increment_bars):
    """Pulls `polynomials` back; returns those of the state and increments.

    Args:
        tableau: `ButcherTableau`.
        bars: List of the cotangents of each leaf's coefficients.
        y_bar: List of leaves, to which those of the state are added.
        increment_bars: List of leaves for each stage, as above.
    """
    powers = [tf.unstack(bar, num=1 + len(tableau.b_dense[0])) for bar in bars]
    y_bar = [a + leaf[0] for a, leaf in zip(y_bar, powers, strict=True)]
    found = []
    for weights, others in zip(tableau.b_dense, increment_bars, strict=True):
        terms = [
            [
                weight * bar
                for weight, bar in zip(weights, leaf[1:], strict=True)
                if weight != 0
            ]
            for leaf in powers
        ]
        found.append(
            [
                tf.add_n([*term, other])
                for term, other in zip(terms, others, strict=True)
            ]
        )
    return y_bar, found
