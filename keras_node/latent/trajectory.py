"""Latent trajectories: solves forwards and backwards from one time."""

import functools
import typing

import tensorflow as tf

from keras_node.integration.solve import solve


class Trajectory(typing.NamedTuple):
    """The states at the requested times.

    Attributes:
        states: Nested structure of time-major tensors, `(T, batch, ...)`.
        num_evaluations: Integer, the NFE; one, or one per clock.
    """

    states: typing.Any
    num_evaluations: tf.Tensor


def solve_both_ways(
    ode_fn,
    initial_state,
    initial_time,
    times,
    solver,
    adjoint,
    nfe_backward,
    on_drift=None,
):
    """Returns the `Trajectory` through `initial_state` at `initial_time`.

    Times after it take a solve forwards, those before it one backwards, which
    ends where it starts if there are none.

    Args:
        ode_fn: Callable `(t, state) -> derivative`.
        initial_state: Nested structure of float tensors `(batch, ...)`.
        initial_time: Float.
        times: Sorted float64 tensor, `(T,)`, or `(batch, T)` with a clock
            for each sample; neighbours may be equal.
        solver: `tfp.math.ode.Solver`.
        adjoint: `Adjoint`.
        nfe_backward: `NFE` of backward passes.
        on_drift: Callable that gets backsolve's drift; or `None` (default).
    """

    def solve_to(times, on_backward):
        ends = tf.fill(tf.shape(times[..., :1]), start)
        grid = tf.concat([ends, times], axis=-1)
        results = solve(
            ode_fn,
            initial_state,
            grid,
            solver,
            adjoint,
            on_backward=on_backward,
            on_drift=on_drift,
            times_are_data=True,
        )
        states = tf.nest.map_structure(lambda leaf: leaf[1:], results.states)
        return states, results.diagnostics.num_ode_fn_evaluations

    start = tf.constant(initial_time, tf.float64)
    after, num_after = solve_to(
        tf.maximum(times, start), nfe_backward.update_state
    )
    reverse_times = tf.reverse(tf.minimum(times, start), [-1])
    before, num_before = solve_to(reverse_times, nfe_backward.add)
    side = tf.transpose(tf.sign(times - start))
    states = tf.nest.map_structure(
        functools.partial(_choose, side), initial_state, after, before
    )
    return Trajectory(states, num_after + num_before)


def _choose(side, start, after, before):
    """Takes each row from the solve on its side of the initial time.

    Args:
        side: Float `(T,)` or `(T, batch)`: 1 after it, -1 before it, 0 at it.
        start: Tensor `(batch, ...)`, the state at the initial time.
        after: Tensor `(T, batch, ...)`, rows valid where `side` is 1.
        before: The same for -1, the last row first.
    """
    before = tf.reverse(before, [0])
    ones = [1] * (after.shape.rank - side.shape.rank)
    side = tf.reshape(side, tf.concat([tf.shape(side), ones], axis=0))
    return tf.where(side > 0, after, tf.where(side < 0, before, start[None]))
