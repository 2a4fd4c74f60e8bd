"""Tests of gradients of the variables that dynamics read."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.gates import GATES, RATE, expected
from support.gradients import ADJOINTS, MODES, assert_close, float64, gradient
from support.modes import FACES, RTOL, STATE, Field, decay, face, solve


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("name", FACES[1:])
@pytest.mark.parametrize("gate", ("silu", "custom_gradient"))
def test_weight_of_a_layer_has_its_gradient_through_any_gate(
    gate, name, adjoint, mode
):
    if mode == "xla" and gate != "silu":
        pytest.skip("compiled once for each face and adjoint")
    field = Field(GATES[gate][0])
    solved, _ = face(name, field, adjoint)
    solved(float64(STATE))
    actual, (by_weight,) = gradient(
        lambda y: tf.reduce_sum(solved(y)),
        float64(STATE),
        mode,
        [field.rate.value],
    )
    assert_close((actual, by_weight), expected(gate, adjoint), RTOL[adjoint])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("gate", ("silu", "tf_function"))
def test_tf_variable_has_its_gradient_through_any_gate(gate, adjoint, mode):
    variable = tf.Variable(RATE)
    gate_fn = GATES[gate][0]
    actual, (by_variable,) = gradient(
        lambda y: tf.reduce_sum(
            solve(
                lambda t, y: -gate_fn(tf.convert_to_tensor(variable)) * y,
                y,
                adjoint,
            )
        ),
        float64(STATE),
        mode,
        [variable],
    )
    assert_close((actual, by_variable), expected(gate, adjoint), RTOL[adjoint])


class FunctionField(keras.layers.Layer):
    """Reads its weight inside of a `tf.function`."""

    def __init__(self):
        super().__init__(dtype="float64")
        self.rate = self.add_weight(shape=(2,), initializer="ones")
        self.rate.assign(RATE)

    @tf.function
    def call(self, y):
        return -self.rate * y


class WrappedField(keras.layers.Layer):
    """Calls another layer through a `tf.function` that it made once."""

    def __init__(self):
        super().__init__(dtype="float64")
        self.inner = Field()
        self.rate = self.inner.rate
        self.wrapped = tf.function(lambda y: self.inner(y))

    def call(self, y):
        return self.wrapped(y)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("name", ("odeint", "CNFBijector"))
@pytest.mark.parametrize(
    "make, called_before",
    ((FunctionField, False), (FunctionField, True), (WrappedField, True)),
)
def test_function_that_reads_weights_sees_each_of_their_values(
    make, name, adjoint, mode, called_before
):
    if mode == "xla" and (name != "odeint" or called_before):
        pytest.skip("what is added by XLA is shown by one of each")
    field = make()
    if called_before:  # Its graph, which reads a variable, stands already.
        field(float64(STATE))
    solved, _ = face(name, field, adjoint)
    if name != "odeint":
        solved(float64(STATE))

    def compute(y):
        with tf.GradientTape() as tape:
            tape.watch(y)
            value = tf.reduce_sum(solved(y))
        return tape.gradient(value, [y, field.rate.value])

    step = MODES[mode](compute)
    for rate in (RATE, RATE[::-1], 0.5 * RATE):
        field.rate.assign(rate)
        growth, by_rate = decay(rate, adjoint)
        assert_close(
            step(float64(STATE)),
            [
                np.broadcast_to(growth, STATE.shape),
                by_rate * np.sum(STATE, 0),
            ],
            RTOL[adjoint],
        )
        # And the function is as good as before outside of a solve.
        np.testing.assert_allclose(field(float64(STATE)), -rate * STATE)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("name", ("odeint", "ODELayer"))
def test_untrainable_variable_that_is_watched_has_its_gradient(
    name, adjoint, mode
):
    variable = tf.Variable(RATE, trainable=False, name="rate")
    # Nobody trains it, which a layer may say.
    solved, _ = face(name, Holder(variable), adjoint)

    def loss(y):
        return tf.reduce_sum(solved(y))

    actual, (by_variable,) = gradient(
        loss, float64(STATE), mode, variables=[variable]
    )
    assert_close(
        (actual, by_variable), expected("identity", adjoint), RTOL[adjoint]
    )


class Holder(keras.layers.Layer):
    """A field with a `tf.Variable` of its own."""

    def __init__(self, variable):
        super().__init__(dtype="float64")
        self.variable = variable

    def call(self, y):
        return -self.variable * y


@pytest.mark.parametrize("mode", ("eager", "function"))
@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("name", FACES[1:])
def test_frozen_layer_that_is_watched_has_its_gradient(name, adjoint, mode):
    field = Field()
    field.trainable = False
    solved, _ = face(name, field, adjoint)
    solved(float64(STATE))
    actual, (by_weight,) = gradient(
        lambda y: tf.reduce_sum(solved(y)),
        float64(STATE),
        mode,
        [field.rate.value],
    )
    assert_close(
        (actual, by_weight), expected("identity", adjoint), RTOL[adjoint]
    )


TABLE = np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.9]])
ROWS = [2, 0, 2]


class Embedded(keras.layers.Layer):
    """Decays at a rate that is looked up for each sample."""

    def __init__(self):
        super().__init__(dtype="float64")
        self.embedding = keras.layers.Embedding(3, 2, dtype="float64")
        self.embedding.build(())
        self.embedding.embeddings.assign(TABLE)

    def call(self, y):
        return -self.embedding(tf.constant(ROWS)) * y


def table_gradient(adjoint):
    """Returns the gradient of `sum(y(1))` to the table."""
    _, by_rate = decay(TABLE[ROWS], adjoint)
    by_table = np.zeros_like(TABLE)
    np.add.at(by_table, ROWS, by_rate * STATE)
    return by_table


def dense(value):
    """Returns a tensor, of sparse gradients too."""
    assert value is not None, "a gradient is None"
    return tf.convert_to_tensor(value)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.filterwarnings("ignore:Converting sparse IndexedSlices")
def test_embedding_in_a_field_has_its_gradient(adjoint, mode):
    field = Embedded()
    solved, _ = face("ODELayer", field, adjoint)
    table = field.embedding.embeddings.value

    def compute(y):
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(solved(y))
        return dense(tape.gradient(value, table))

    solved(float64(STATE))
    actual = MODES[mode](compute)(float64(STATE))
    assert_close(actual, table_gradient(adjoint), RTOL[adjoint])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("variable", (False, True))
@pytest.mark.filterwarnings("ignore:Converting sparse IndexedSlices")
def test_table_that_is_looked_up_has_its_gradient(variable, adjoint, mode):
    table = tf.Variable(TABLE) if variable else float64(TABLE)

    def compute(table_or_none):
        rates = table if variable else table_or_none
        with tf.GradientTape() as tape:
            tape.watch(rates)
            end = solve(
                lambda t, y: -tf.gather(rates, ROWS) * y,
                float64(STATE),
                adjoint,
            )
            value = tf.reduce_sum(end)
        return dense(tape.gradient(value, rates))

    actual = MODES[mode](compute)(float64(TABLE))
    assert_close(actual, table_gradient(adjoint), RTOL[adjoint])
