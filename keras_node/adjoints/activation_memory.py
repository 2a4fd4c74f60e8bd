"""The activations of the first steps of a solve, within a limit of memory."""

import typing

import tensorflow as tf

from keras_node.common import tf_internals
from keras_node.common.arrays import array_of

# Under XLA, which reserves the memory beforehand and fills it with zeros, this
# many steps are kept if they fit into these bytes, else none: a flow by unit
# vectors, which keeps 10 MB a step, took half as long again.
_STEPS_UNDER_XLA = 16
_BYTES_UNDER_XLA = 2**26

# The memory of an empty slot of a `TensorArray`, in bytes.
_SLOT_SIZE = 32


class Log(typing.NamedTuple):
    """What the evaluations of the first steps kept.

    Attributes:
        window: Integer scalar, the number of steps that there is room for.
        evaluations: A `TensorArray` for each tensor that an evaluation keeps:
            at 0 that of the start, then those of the first step, and so on;
            one slot more for evaluations that are not kept.
        starts: The same for each leaf at the start of each step.
    """

    window: tf.Tensor
    evaluations: list
    starts: list


class EvaluationLog:
    """Writes and reads a `Log`.

    Args:
        specs: List of `TensorSpec`s, what an evaluation keeps.
        start_specs: The same for the leaves at the start of each step.
        num_per_step: Integer, the number of evaluations in a step.
        max_num_steps: Integer, the most steps of the solve.
        memory_limit: Integer, the most bytes to keep.

    Attributes:
        is_sized: Whether all sizes are known before the solve.
        keeps_all: Whether no solve can be longer than the log, as far as is
            known before it.
        keeps_none: Whether there is room for no step, as far as is known.
    """

    def __init__(
        self, specs, start_specs, num_per_step, max_num_steps, memory_limit
    ):
        self._specs = specs
        self._num_per_step = num_per_step
        self._memory_limit = memory_limit
        self._most, self._least = max_num_steps, 0
        if tf_internals.in_xla():
            self._most = self._least = min(max_num_steps, _STEPS_UNDER_XLA)
            self._memory_limit = min(memory_limit, _BYTES_UNDER_XLA)
        self.is_sized = all(
            spec.shape.is_fully_defined() for spec in specs + start_specs
        )
        window = self._window_for(specs, start_specs) if self.is_sized else None
        self.keeps_all = window == max_num_steps
        self.keeps_none = window == 0

    def _window_for(self, kept, leaves):
        """Returns how many steps fit, from tensors like those of each."""
        evaluation = sum(_bytes_of(x) for x in kept)
        step = self._num_per_step * evaluation + sum(map(_bytes_of, leaves))
        # What keeps nothing takes no room.
        if isinstance(step, int):
            window = min(self._most, self._memory_limit // max(step, 1))
            return window if window >= self._least else 0
        window = tf.minimum(self._memory_limit // step, self._most)
        window = tf.where(window >= self._least, window, 0)
        return tf.cast(window, tf.int32)

    def start(self, first, leaves):
        """Returns an empty log.

        Args:
            first: List of tensors, what the evaluation at the start kept;
                `None` for none, if all sizes are known.
            leaves: List of leaves at the start.
        """
        window = self._window_for(first or self._specs, leaves)
        window = tf.convert_to_tensor(window)
        size = 2 + window * self._num_per_step
        evaluations = [array_of(spec, size) for spec in self._specs]
        if first is not None:
            evaluations = _write(evaluations, 0, first)
        starts = [array_of(leaf, 1 + window) for leaf in leaves]
        return Log(window, evaluations, _write(starts, window, leaves))

    def record(self, log, n, kept, leaves):
        """Adds the evaluations of step `n`; one tried again overwrites it.

        Args:
            log: `Log`.
            n: Integer scalar.
            kept: List of tensors for each evaluation of the step.
            leaves: List of leaves at its start.
        """
        slots = 1 + n * self._num_per_step + tf.range(self._num_per_step)
        unkept = 1 + log.window * self._num_per_step
        slots = tf.unstack(tf.where(n < log.window, slots, unkept))
        evaluations = log.evaluations
        for slot, tensors in zip(slots, kept, strict=True):
            evaluations = _write(evaluations, slot, tensors)
        starts = _write(log.starts, tf.minimum(n, log.window), leaves)
        return Log(log.window, evaluations, starts)

    def first(self, log):
        """Returns what the evaluation at the start kept."""
        return [array.read(0) for array in log.evaluations]

    def read(self, log, n):
        """Returns `(kept, leaves)` of step `n`."""
        start = 1 + n * self._num_per_step
        kept = [
            [array.read(start + i) for array in log.evaluations]
            for i in range(self._num_per_step)
        ]
        return kept, [array.read(n) for array in log.starts]


def _write(arrays, slot, tensors):
    return [
        array.write(slot, x) for array, x in zip(arrays, tensors, strict=True)
    ]


def _bytes_of(like):
    """Returns the memory of a tensor in its slot; an integer if known."""
    size = like.shape.num_elements()
    if size is None:
        size = tf.size(like, out_type=tf.int64)
    return _SLOT_SIZE + like.dtype.size * size
