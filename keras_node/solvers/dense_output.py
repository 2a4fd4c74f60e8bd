"""The requested times that lie between steps: they cost no steps."""

import typing

import tensorflow as tf

from keras_node.common import tf_internals
from keras_node.solvers import solution, step

# The most requested times of one pass, to bound the memory that it takes.
_BLOCK_SIZE = 16


class Outputs(typing.NamedTuple):
    """What a solve has written so far.

    `buffers` hold the requested rows of each leaf and of the steps' numbers,
    time-major, not yet reached ones being 0 (or -1); their last row is for
    lanes that have nothing to write. `next` is each lane's next row.
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


def finish(outputs, succeeded, y):
    """Returns `(states, step numbers)`, the last state being `y` itself."""
    *buffers, steps = outputs.buffers
    states = [
        tf.concat([buffer[:-2], leaf[None]], axis=0)
        for buffer, leaf in zip(buffers, y, strict=True)
    ]
    steps = steps[:-1]
    is_written = tf.concat(
        [tf.ones_like(succeeded)[None], steps[1:-1] >= 0, succeeded[None]],
        axis=0,
    )
    return solution.nan_unless(is_written, states), steps


class Span(typing.NamedTuple):
    """An accepted step: all that its dense output needs.

    Lanes whose step was not accepted have `accepted` False. `number` is the
    step's number in the record of the solve.
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

    One pass writes a block of rows; a step that spans no requested time makes
    no pass, and only one that does evaluates the extra stages of the method's
    dense output.

    Returns:
        `(outputs, num_evaluations)`, the latter for each lane.
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
            _set_rows(buffer, rows, values)
            for buffer, values in zip(
                outputs.buffers, [*states, number], strict=True
            )
        ]
        num_rows = tf.reduce_sum(tf.cast(reached, tf.int32), axis=0)
        return (Outputs(outputs.next + num_rows, buffers),)

    def is_next_reached(outputs):
        return is_reached(outputs.next[None])[0]

    increments, num_evaluations = _all_increments(
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


def _all_increments(tableau, ode_fn, interval, span, writes):
    """Adds the increments that only dense output needs, if any lane writes."""
    if not tableau.num_dense_stages:
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
    """Returns rows to treat in one pass, and in which lanes they are wanted.

    As many as the lane that wants most, up to a limit; under XLA, which must
    know the size of all tensors, one.

    Args:
        row: Integer lanes, the first row; wanted by at least one lane.
        stride: 1 or -1, the way from it.
        holds: Callable from time-major rows to whether they are wanted, which
            those of a lane are up to some row.

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


def one_row(leaves):
    """Gives leaves an axis of time, to broadcast against rows of times."""
    return [leaf[None] for leaf in leaves]


def rows_of(rows, indices):
    """Returns `rows[index]` for each of time-major `indices` with lanes."""
    if indices.shape.rank == 1:
        return tf.gather(rows, indices)
    # As `gather_nd` would, which refuses rows that are empty.
    shape = tf.shape(rows)
    flat = tf.reshape(rows, tf.concat([[shape[0] * shape[1]], shape[2:]], 0))
    lane = tf.range(shape[1])
    found = tf.gather(flat, indices * shape[1] + lane)
    return tf.ensure_shape(found, [*indices.shape, *rows.shape[2:]])


def _set_rows(rows, indices, values):
    """Returns `rows` with `rows[index] = value` for each of the indices."""
    if indices.shape.rank == 1:
        indices = indices[:, None]
    else:
        indices = _lane_indices(indices)
    if not values.shape.num_elements():
        # TensorFlow refuses to scatter anything into what may be empty.
        count = tf.shape(values)[0] * tf.minimum(tf.size(values), 1)
        indices, values = indices[:count], values[:count]
    return tf.tensor_scatter_nd_update(rows, indices, values)


def _lane_indices(indices):
    lane = tf.broadcast_to(tf.range(tf.shape(indices)[1]), tf.shape(indices))
    return tf.stack([indices, lane], axis=-1)
