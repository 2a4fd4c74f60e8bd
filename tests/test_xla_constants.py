"""Tests that XLA compiles a step of training once, whatever its values.

XLA compiles anew for each value of an argument that may decide a shape or an
axis. It leaves such a tensor out of the compiled function's parameters, and
writes the value of such a variable where the variable is read.
"""

import re

import keras
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import keras_node
from keras_node import adjoints, solvers

RK4 = solvers.RK4(step_size=0.5)
BASE = tfp.distributions.MultivariateNormalDiag(tf.zeros(2))


class Folded(keras.layers.Layer):
    """Dynamics with a transpose, a split and sums, all with axes."""

    def build(self, t_shape, y_shape):
        self.w = self.add_weight(shape=(y_shape[-1], y_shape[-1]))

    def call(self, t, y):
        left, right = tf.split(y @ tf.transpose(self.w), 2, axis=-1)
        size = tf.reduce_sum(y**2, axis=-1, keepdims=True)
        return tf.concat([right, left], axis=-1)[:, ::-1] / (1 + size)


def field(depth=1):
    net = [keras.layers.Dense(3, "tanh") for _ in range(depth)]
    net.append(keras.layers.Dense(2))
    return keras_node.ConcatTime(keras.Sequential(net))


def flow(dynamics, objective="likelihood", **options):
    bijector = keras_node.CNFBijector(dynamics, solver=RK4, **options)
    model = keras_node.NormalizingFlow(bijector, BASE)
    model.compile("adam", objective=objective)
    return model


def convolutions():
    net = [keras_node.GroupNormalization(1), keras.layers.Conv2D(2, 3)]
    net[1].padding = "same"
    return keras_node.ODELayer(keras.Sequential(net), solver=RK4)


def layer(dynamics=None, **options):
    options.setdefault("solver", RK4)
    return keras_node.ODELayer(dynamics or field(), **options)


POINTS, IMAGES = (4, 2), (4, 3, 3, 2)
MODELS = {
    "a layer": (layer, POINTS),
    "axes of all kinds": (lambda: layer(Folded()), POINTS),
    "adaptive steps": (lambda: layer(solver="tsit5"), POINTS),
    "a clock for each sample": (
        lambda: layer(solver=solvers.Tsit5(per_sample_steps=True)),
        POINTS,
    ),
    "checkpoints alone": (
        lambda: layer(adjoint=adjoints.CheckpointAdjoint(4, memory_limit=0)),
        POINTS,
    ),
    "a stiff solver": (lambda: layer(solver="rosenbrock23"), POINTS),
    "direct": (lambda: flow(field(depth=3), adjoint="direct"), POINTS),
    "direct, with adaptive steps": (
        lambda: layer(
            Folded(), solver=solvers.Tsit5(max_num_steps=9), adjoint="direct"
        ),
        POINTS,
    ),
    "direct, with a stiff solver": (
        lambda: layer(
            solver=solvers.Rosenbrock23(max_num_steps=9), adjoint="direct"
        ),
        POINTS,
    ),
    "backsolve": (lambda: layer(adjoint="backsolve"), POINTS),
    "convolutions": (convolutions, IMAGES),
    "a flow": (lambda: flow(field()), POINTS),
    "unit vectors": (lambda: flow(field(depth=3)), POINTS),
    "a planar flow": (lambda: flow(keras_node.PlanarDynamics(2)), POINTS),
    "probes": (lambda: flow(field(), trace="hutchinson"), POINTS),
    "flow matching": (lambda: flow(field(), "flow_matching"), POINTS),
}


def compile_time_constants(function, inputs):
    """Returns how many arguments XLA takes for constants of the program."""
    spec = tf.TensorSpec([None, *inputs.shape[1:]], inputs.dtype)
    step = tf.function(function, [spec], autograph=False, jit_compile=True)
    program = step.experimental_get_compiler_ir(inputs)(stage="hlo")
    entry = program[program.index("\nENTRY") :]
    captures = step.get_concrete_function().captured_inputs
    tensors = 1 + len(captures) - len(re.findall(r" parameter\(\d+\)", entry))
    read = re.findall(r" constant\(.*op_type=\"ReadVariableOp\"", entry)
    return tensors + len(read)


@pytest.mark.parametrize("name", MODELS)
def test_no_argument_of_a_training_step_is_a_constant_of_it(name):
    # Of other weights nine steps may not reach the end.
    keras.utils.set_random_seed(0)
    make, shape = MODELS[name]
    inputs = tf.random.stateless_normal(shape, [1, 2])
    model = make()
    model(inputs)

    def step(inputs):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(inputs, training=True))
        return tape.gradient(loss, model.trainable_weights)

    assert compile_time_constants(step, inputs) == 0


def test_an_argument_that_decides_a_shape_is_counted():
    sizes = tf.constant([[2], [3]])
    assert compile_time_constants(lambda n: tf.zeros(n[0]), sizes) == 1


def test_a_variable_that_decides_a_shape_is_counted():
    size = tf.Variable([3.0])
    ones = tf.ones([1])
    assert (
        compile_time_constants(
            lambda x: x + tf.zeros(tf.cast(size, tf.int32)), ones
        )
        == 1
    )
