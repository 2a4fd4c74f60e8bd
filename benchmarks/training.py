"""Vector fields and training steps in Keras, for this folder's scripts."""

import keras
import protocol
import tensorflow as tf
import workloads

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

    def _concat(self, t, y):
        return tf.concat([tf.ones_like(y[..., :1]) * t, y], -1)

    def call(self, t, y):
        y = tf.nn.relu(self.norm_0(y))
        y = self.conv_0(self._concat(t, y))
        y = tf.nn.relu(self.norm_1(y))
        y = self.conv_1(self._concat(t, y))
        return self.norm_2(y)


def make_field(workload):
    """Returns the Keras layer `field(t, y)` with the workload's weights."""
    field = {"mlp": MLPField, "conv": ConvField}[workload.kind](workload)
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
