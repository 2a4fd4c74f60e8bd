"""A bounded store of states, for a solve of unknown length."""

import typing

import tensorflow as tf

from keras_node.common.arrays import array_of


class Store(typing.NamedTuple):
    """States by the number of the step that starts from them.

    Attributes:
        numbers: `(capacity,)` integers, the number in each slot; -1 if empty.
        stride: Integer scalar; on the way forward, the states whose number it
            divides are kept.
        arrays: A `TensorArray` for each leaf, with one slot more than
            `numbers`, for states that are not kept: an unconditional write to
            it is cheaper than a branch.
    """

    numbers: tf.Tensor
    stride: tf.Tensor
    arrays: list


def empty(capacity, leaves):
    """Returns a store for states like `leaves`."""
    arrays = [array_of(leaf, capacity + 1) for leaf in leaves]
    # One written slot gives the others a shape, so that each can be read.
    arrays = [
        array.write(capacity, leaf)
        for array, leaf in zip(arrays, leaves, strict=True)
    ]
    return Store(tf.fill([capacity], -1), tf.constant(1), arrays)


def copy(store):
    """Returns a store whose slots can be written without changing this one."""
    return store._replace(
        arrays=[
            tf.TensorArray(
                array.dtype,
                size=array.size(),
                clear_after_read=False,
            ).unstack(array.stack())
            for array in store.arrays
        ]
    )


def keep(store, n, leaves):
    """Adds state `n`, on the way forward; none if `n` is negative.

    While there is room every state is kept; when there is none, every other
    one is dropped, so that every 2nd, 4th, ... state stays. An eighth of the
    slots is left for the way back, and one more if the rest is odd.

    With room for `c` states, `c` even, state 0 has a slot to itself, and state
    `n` the slot `n mod (c - 1)`. Multiples of a power of 2 share none: once the
    stride is doubled to `2 s`, at `n = c s`, state `n + 2 j s` takes the slot
    of state `(2 j + 1) s`, which is given up.
    """
    capacity = store.numbers.shape[0]
    room = capacity - capacity // 8
    room -= room % 2
    is_full = n >= room * store.stride
    stride = tf.where(is_full, 2 * store.stride, store.stride)
    slot = tf.where(n > 0, n % (room - 1), room - 1)
    is_kept = (n >= 0) & tf.equal(n % stride, 0)
    slot = tf.where(is_kept, slot, capacity)
    return _put(store._replace(stride=stride), slot, n, leaves)


def keep_on_return(store, last, n, target, leaves):
    """Adds state `n` on the way from kept state `last` to state `target`.

    If there is a slot for each state up to the target, each gets one; else
    the state halfway gets one, then the one halfway through the rest, and so
    on, so that a stretch of `s` steps is taken `log(s)` times, not `s`.

    Returns:
        `(store, last)`.
    """
    is_free = (store.numbers < 0) | (store.numbers > target)
    num_free = tf.reduce_sum(tf.cast(is_free, tf.int32))
    fits = target - last <= num_free
    is_middle = 2 * (n - last) >= target - last
    is_kept = (num_free > 0) & (n < target) & (fits | is_middle)
    first_free = tf.argmax(tf.cast(is_free, tf.int32), output_type=tf.int32)
    slot = tf.where(is_kept, first_free, store.numbers.shape[0])
    return _put(store, slot, n, leaves), tf.where(is_kept, n, last)


def nearest(store, n):
    """Returns `(m, leaves)`: the kept state with the largest `m <= n`."""
    numbers = tf.where(store.numbers <= n, store.numbers, -1)
    slot = tf.argmax(numbers, output_type=tf.int32)
    return numbers[slot], [array.read(slot) for array in store.arrays]


def _put(store, slot, n, leaves):
    slots = tf.range(store.numbers.shape[0])
    return store._replace(
        numbers=tf.where(tf.equal(slots, slot), n, store.numbers),
        arrays=[
            array.write(slot, leaf)
            for array, leaf in zip(store.arrays, leaves, strict=True)
        ],
    )
