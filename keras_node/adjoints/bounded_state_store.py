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
    """Adds state `n`, on the way forward.

    While there is room every state is kept; when there is none, every other
    one is dropped, so that every 2nd, 4th, ... state stays. An eighth of the
    slots is left for the way back.
    """
    capacity = store.numbers.shape[0]
    # A rejected step is tried again under the same number.
    numbers = tf.where(store.numbers >= n, -1, store.numbers)
    is_open = tf.range(capacity) < capacity - capacity // 8

    def is_free(stride):
        is_given_up = tf.not_equal(numbers % stride, 0)
        return is_open & ((numbers < 0) | is_given_up)

    has_room = tf.reduce_any(is_free(store.stride))
    has_room |= tf.not_equal(n % store.stride, 0)
    stride = tf.where(has_room, store.stride, 2 * store.stride)
    return _put(
        store._replace(numbers=numbers, stride=stride),
        n,
        leaves,
        is_free(stride),
        tf.equal(n % stride, 0),
    )


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
    store = _put(store, n, leaves, is_free, is_kept)
    return store, tf.where(is_kept, n, last)


def nearest(store, n):
    """Returns `(m, leaves)`: the kept state with the largest `m <= n`."""
    numbers = tf.where(store.numbers <= n, store.numbers, -1)
    slot = tf.argmax(numbers, output_type=tf.int32)
    return numbers[slot], [array.read(slot) for array in store.arrays]


def _put(store, n, leaves, is_free, is_kept):
    capacity = store.numbers.shape[0]
    first_free = tf.argmax(tf.cast(is_free, tf.int32), output_type=tf.int32)
    slot = tf.where(is_kept, first_free, capacity)
    return store._replace(
        numbers=tf.where(tf.equal(tf.range(capacity), slot), n, store.numbers),
        arrays=[
            array.write(slot, leaf)
            for array, leaf in zip(store.arrays, leaves, strict=True)
        ],
    )
