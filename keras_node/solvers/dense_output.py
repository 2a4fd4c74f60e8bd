"""Dense output: the state at requested times within steps."""

import typing

import tensorflow as tf

from keras_node.common import tf_internals
from keras_node.solvers import solution, step
from keras_node.solvers.clocks import one_row, rows_of, select, set_rows

# The most requested times written in one pass, to bound its memory.
_BLOCK_SIZE = 16


def has_rows_within(times):
    """Whether times between the first and the last are requested."""
    return times.shape[0] != 2


class Outputs(typing.NamedTuple):
    """The outputs that a solve has written so far.

    `buffers` hold the requested rows of each leaf and of the step numbers,
    time-major; rows that are not reached yet are 0 (or -1). The last row takes
    the writes of clocks that have nothing to write. `next` is each clock's
    next row.
    """

    next: tf.Tensor
    buffers: list


def start(times, y):
    """Returns `Outputs` with the initial state in row 0."""
    num_rows = tf.shape(times)[0] + 1
    steps = tf.fill(tf.shape(times[0]), -1)
    buffers = []
    for leaf in [*y, steps]:
        blank = 0.0 if leaf.dtype.is_floating else -1
        fill = tf.fill([num_rows] + [1] * leaf.shape.rank, blank)
        rows = tf.tile(
            tf.cast(fill, leaf.dtype), tf.concat([[1], tf.shape(leaf)], 0)
        )
        rows = tf.concat([leaf[None], rows[1:]], axis=0)
        rows.set_shape([None, *leaf.shape])
        buffers.append(rows)
    return Outputs(next=tf.ones_like(steps), buffers=buffers)


def finish(outputs, succeeded, y, has_ended=None):
    """Returns `(states, step numbers)`, the last state being `y` itself.

    Args:
        outputs: `Outputs`.
        succeeded: Boolean per clock.
        y: List of leaves, the state at the end.
        has_ended: Boolean per clock, whether an event ended its solve: the
            state stays as it was. `None` (default) for none.
    """
    *buffers, steps = outputs.buffers
    steps = steps[:-1]
    is_written = steps[1:-1] >= 0
    rows = [buffer[1:-2] for buffer in buffers]
    if has_ended is not None:
        rows = select(is_written | ~has_ended, rows, one_row(y))
        is_written |= has_ended & succeeded
    states = [
        tf.concat([buffer[:1], leaf, end[None]], axis=0)
        for buffer, leaf, end in zip(buffers, rows, y, strict=True)
    ]
    is_written = tf.concat(
        [tf.ones_like(succeeded)[None], is_written, succeeded[None]],
        axis=0,
    )
    return solution.nan_unless(is_written, states), steps


class Span(typing.NamedTuple):
    """An accepted step, with what its dense output needs.

    Clocks whose step was not accepted have `accepted` False. `number` is the
    step's number in the record of the solve. The increments are those of all
    stages, or of the main ones.
    """

    accepted: tf.Tensor
    number: tf.Tensor
    t: tf.Tensor
    t1: tf.Tensor
    dt: tf.Tensor
    y: list
    increments: list


def write(tableau, ode_fn, interval, times, span, outputs):
    """Writes every requested time that the step has reached.

    Each pass writes a block of rows. A step that spans no requested time makes
    no pass, and does not evaluate the extra stages of the method's dense
    output.

    Returns:
        `(outputs, num_evaluations)`, the latter for each clock.
    """
    num_times = tf.shape(times)[0]
    direction = tf.sign(span.dt)

    def times_at(rows):
        return rows_of(times, tf.minimum(rows, num_times - 1))

    def is_reached(rows):
        reached = direction * (times_at(rows) - span.t1) <= 0
        return span.accepted & (rows < num_times) & reached

    def body(outputs):
        rows, reached = block(outputs.next, 1, is_reached)
        theta = tf.math.divide_no_nan(times_at(rows) - span.t, span.dt)
        theta = tf.where(reached, theta, 0.0)
        weights = step.dense_weights(tableau, theta)
        states = step.interpolate(
            one_row(span.y), [one_row(k) for k in increments], weights
        )
        number = tf.fill(tf.shape(rows), span.number)
        rows = tf.where(reached, rows, num_times)
        buffers = [
            set_rows(buffer, rows, values)
            for buffer, values in zip(
                outputs.buffers, [*states, number], strict=True
            )
        ]
        num_rows = tf.reduce_sum(tf.cast(reached, tf.int32), axis=0)
        return (Outputs(outputs.next + num_rows, buffers),)

    def is_next_reached(outputs):
        return is_reached(outputs.next[None])[0]

    increments, num_evaluations = all_increments(
        tableau, ode_fn, interval, span, is_next_reached(outputs)
    )
    outputs = tf.while_loop(
        lambda outputs: tf.reduce_any(is_next_reached(outputs)),
        body,
        (outputs,),
        parallel_iterations=1,
        maximum_iterations=num_times,
    )[0]
    return outputs, num_evaluations


def all_increments(tableau, ode_fn, interval, span, writes):
    """Adds the increments that only dense output needs, if any clock writes.

    Returns:
        `(increments, num_evaluations)`, the latter for each clock.
    """
    if len(span.increments) == len(tableau.c):
        return span.increments, 0

    def evaluate():
        return step.dense_increments(
            tableau,
            ode_fn,
            interval,
            span.t,
            span.dt,
            span.y,
            span.increments,
        )[tableau.num_stages :]

    def skip():
        zeros = [tf.zeros_like(leaf) for leaf in span.y]
        return [zeros] * tableau.num_dense_stages

    extra = tf.cond(tf.reduce_any(writes), evaluate, skip)
    num_evaluations = tableau.num_dense_stages * tf.cast(writes, tf.int32)
    return [*span.increments, *extra], num_evaluations


def block(row, stride, holds):
    """Returns the rows of one pass, and in which clocks they are wanted.

    There are as many as the clock with the most needs, up to a limit; one
    under XLA, which must know the size of all tensors.

    Args:
        row: Integer per clock, the first row; wanted by at least one clock.
        stride: 1 or -1, the direction from it.
        holds: Callable from time-major rows to whether they are wanted; each
            clock wants all rows up to a certain one.

    Returns:
        Time-major `(rows, wanted)`.
    """
    size = 1 if tf_internals.in_xla() else _BLOCK_SIZE
    offsets = tf.reshape(tf.range(size), [-1] + [1] * row.shape.rank)
    rows = row + stride * offsets
    wanted = holds(rows)
    if size == 1:
        return rows, wanted
    count = tf.reduce_max(tf.reduce_sum(tf.cast(wanted, tf.int32), axis=0))
    return rows[:count], wanted[:count]
