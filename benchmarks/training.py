"""Vector fields and training steps in Keras, for this folder's scripts."""

import keras
import protocol
import tensorflow as tf
import workloads

import keras_node

TIMES = (0.0, 1.0)


def use_benchmark_threads():
    """Gives TensorFlow as many threads as every other contender."""
    tf.config.threading.set_intra_op_parallelism_threads(protocol.THREADS)


class MLPField(keras.layers.Layer):
    """Two hidden tanh layers, autonomous."""

    def __init__(self, workload):
        super().__init__()
        width = len(workload.weights["bias_0"])
        state = len(workload.weights["bias_2"])
        self.net = keras.Sequential(
            [
                keras.layers.Dense(width, activation="tanh"),
                keras.layers.Dense(width, activation="tanh"),
                keras.layers.Dense(state),
            ]
        )

    def call(self, t, y):
        return self.net(y)


class ConvField(keras.layers.Layer):
    """ODE block of the MNIST example, channels last."""

    def __init__(self, workload):
        super().__init__()
        channels = len(workload.weights["gamma_0"])
        self.norm_0 = self._norm()
        self.conv_0 = keras.layers.Conv2D(channels, 3, padding="same")
        self.norm_1 = self._norm()
        self.conv_1 = keras.layers.Conv2D(channels, 3, padding="same")
        self.norm_2 = self._norm()

    def _norm(self):
        return keras.layers.GroupNormalization(
            workloads.GROUPS, epsilon=workloads.GROUP_EPSILON
        )

    def _convolve(self, conv, t, y):
        return conv(tf.concat([tf.ones_like(y[..., :1]) * t, y], -1))

    def call(self, t, y):
        y = tf.nn.relu(self.norm_0(y))
        y = self._convolve(self.conv_0, t, y)
        y = tf.nn.relu(self.norm_1(y))
        y = self._convolve(self.conv_1, t, y)
        return self.norm_2(y)


class TunedConvField(ConvField):
    """The same function, with the package's group normalization.

    The convolutions are of the state alone: 64 channels fill vector registers
    that 65 do not.
    """

    def _norm(self):
        return keras_node.GroupNormalization(
            workloads.GROUPS, epsilon=workloads.GROUP_EPSILON
        )

    def _convolve(self, conv, t, y):
        if not conv.built:
            return super()._convolve(conv, t, y)
        constant = tf.ones((1, *y.shape[1:3], 1))
        kernel = tf.convert_to_tensor(conv.kernel)
        of_time = tf.nn.conv2d(constant, kernel[:, :, :1], 1, "SAME")
        of_state = tf.nn.conv2d(y, kernel[:, :, 1:], 1, "SAME")
        return of_state + (t * of_time + conv.bias)


def make_field(workload, is_tuned=False):
    """Returns the Keras layer `field(t, y)` with the workload's weights."""
    conv_class = TunedConvField if is_tuned else ConvField
    field = {"mlp": MLPField, "conv": conv_class}[workload.kind](workload)
    field(tf.constant(0.0), tf.constant(workload.initial_state[:1]))
    field.set_weights(list(workload.weights.values()))
    return field


def make_step(field, solve, jit_compile=False):
    """One training step as a `tf.function`.

    Args:
        field: Keras layer, whose variables are trained.
        solve: Function of the initial state that returns the state at the
            end and a tensor to hand through, such as a count.
        jit_compile: Boolean, whether XLA compiles it.

    Returns:
        A `tf.function` of the initial state that returns the gradients (of
        the variables, then of the initial state) and that tensor.
    """

    @tf.function(jit_compile=jit_compile)
    def step(initial_state):
        variables = [v.value for v in field.trainable_variables]
        with tf.GradientTape() as tape:
            tape.watch(initial_state)
            end, count = solve(initial_state)
            loss = tf.reduce_sum(tf.square(end))
        return tape.gradient(loss, [*variables, initial_state]), count

    return step
