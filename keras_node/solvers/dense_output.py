"""The requested times that lie between steps: they cost no steps."""

import typing

import tensorflow as tf

from keras_node.solvers import lanes, step


class Outputs(typing.NamedTuple):
    """What a solve has written so far.

    `buffers` hold the requested rows of each leaf and of the steps' numbers,
    time-major, not yet reached ones being NaN (or -1); their last row is for
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
        blank = float("nan") if leaf.dtype.is_floating else -1
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
    states = []
    for buffer, leaf in zip(buffers, y, strict=True):
        last = lanes.select(succeeded, [leaf], [buffer[-2]])[0]
        states.append(tf.concat([buffer[:-2], last[None]], axis=0))
    return states, steps[:-1]


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

    One pass writes one row of each lane; a step that spans no requested time
    makes no pass, and only one that does evaluates the extra stages of the
    method's dense output.

    Returns:
        `(outputs, num_evaluations)`, the latter for each lane.
    """
    num_times = tf.shape(times)[0]
    direction = tf.sign(span.dt)

    def is_reached(row):
        time = row_of(times, tf.minimum(row, num_times - 1))
        reached = direction * (time - span.t1) <= 0
        return span.accepted & (row < num_times) & reached

    def body(outputs):
        reached = is_reached(outputs.next)
        time = row_of(times, tf.minimum(outputs.next, num_times - 1))
        theta = tf.where(reached, (time - span.t) / span.dt, 0.0)
        weights = step.dense_weights(tableau, theta)
        state = step.interpolate(span.y, increments, weights)
        number = tf.fill(tf.shape(outputs.next), span.number)
        row = tf.where(reached, outputs.next, num_times)
        buffers = [
            set_row(buffer, row, values)
            for buffer, values in zip(
                outputs.buffers, [*state, number], strict=True
            )
        ]
        return (Outputs(tf.where(reached, row + 1, outputs.next), buffers),)

    writes = is_reached(outputs.next)
    increments, num_evaluations = _all_increments(
        tableau, ode_fn, interval, span, writes
    )
    outputs = tf.while_loop(
        lambda outputs: tf.reduce_any(is_reached(outputs.next)),
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


def row_of(rows, index):
    """Returns `rows[index]`, with an index for each lane where it has one."""
    if index.shape.rank == 0:
        return tf.gather(rows, index)
    return tf.gather_nd(rows, _lane_index(index))


def rows_of(rows, indices):
    """Returns `rows[index]` for each of time-major `indices` with lanes."""
    if indices.shape.rank == 1:
        return tf.gather(rows, indices)
    lane = tf.broadcast_to(tf.range(tf.shape(indices)[1]), tf.shape(indices))
    return tf.gather_nd(rows, tf.stack([indices, lane], axis=-1))


def set_row(rows, index, values):
    """Returns `rows` with `rows[index] = values`, for each lane its own."""
    if index.shape.rank == 0:
        indices, values = tf.reshape(index, [1, 1]), values[None]
    else:
        indices = _lane_index(index)
    if not values.shape.num_elements():
        # TensorFlow refuses to scatter anything into what may be empty.
        count = tf.shape(values)[0] * tf.minimum(tf.size(values), 1)
        indices, values = indices[:count], values[:count]
    return tf.tensor_scatter_nd_update(rows, indices, values)


def _lane_index(index):
    return tf.stack([index, tf.range(tf.shape(index)[0])], axis=-1)
