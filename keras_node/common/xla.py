"""What a function is being traced for."""

import tensorflow as tf
from tensorflow.python.ops import control_flow_util


def in_xla():
    """Whether the graph being built is for `jit_compile=True`.

    TensorFlow's own while loop asks the same function, which has no public
    name, before it allocates the stacks of its gradient.
    """
    return control_flow_util.GraphOrParentsInXlaContext(
        tf.compat.v1.get_default_graph()
    )
