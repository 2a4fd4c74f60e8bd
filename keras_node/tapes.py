"""Questions to the tapes of a thread, for which TensorFlow has no public name.

Seen in TensorFlow 2.20 and 2.21.
"""

import tensorflow as tf
from tensorflow.python.eager import record
from tensorflow.python.ops import gradients_util

are_recording = record.could_possibly_record
stop_recording = record.stop_recording


def is_watched(tensors):
    """Whether a tape may be asked for a gradient of one of the tensors."""
    return record.should_record_backprop(list(tensors))


def may_want_higher_derivatives(tensors):
    """Whether several tapes, or a persistent one, watch the tensors."""
    kind = gradients_util.PossibleTapeGradientTypes(
        [tensor for tensor in tensors if tf.is_tensor(tensor)]
    )
    return kind == gradients_util.POSSIBLE_GRADIENT_TYPES_HIGHER_ORDER
