"""Long trajectories: multiple shooting, and horizons that grow."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_node

TIMES = np.linspace(0.0, 2.0, 12)
RATE = 0.7


def _decay(t, y):
    return -RATE * y


def _states(batch=2):
    y0 = np.arange(1.0, batch + 1.0)[:, None, None]
    return y0 * np.exp(-RATE * TIMES)[None, :, None]


@pytest.mark.parametrize("num_segments", [1, 2, 3, 4, 5, 11])
def test_exact_dynamics_predict_the_data_without_a_penalty(num_segments):
    states = _states()
    predictions, penalty = keras_node.multiple_shooting(
        _decay, states, TIMES, num_segments, solver="dopri5"
    )
    assert predictions.shape == states.shape
    np.testing.assert_allclose(predictions, states, rtol=1e-3)
    assert penalty < 1e-6


def test_segments_begin_at_the_data_and_the_penalty_is_their_gap():
    states = _states(1)
    predictions, penalty = keras_node.multiple_shooting(
        lambda t, y: 0.0 * y, states[:, :5], TIMES[:5], 2
    )
    expected = states[0, [0, 0, 2, 2, 2], 0]
    np.testing.assert_allclose(predictions[0, :, 0], expected)
    gap = states[0, 0, 0] - states[0, 2, 0]
    np.testing.assert_allclose(penalty, gap**2)


def test_no_two_segments_are_the_same():
    times, states = np.arange(11.0), np.arange(11.0)[None, :, None]
    predictions, penalty = keras_node.multiple_shooting(
        lambda t, y: 0.0 * y, states, times, 8
    )
    # They start at 0 to 6, and at 8.
    expected = [0, 1, 2, 3, 4, 5, 6, 6, 8, 8, 8]
    np.testing.assert_array_equal(predictions[0, :, 0], expected)
    np.testing.assert_allclose(penalty, (6 * 1.0 + 4.0) / 7)


def test_initial_states_may_be_variables():
    initial = tf.Variable(np.ones((2, 3, 1)))
    with tf.GradientTape() as tape:
        predictions, penalty = keras_node.multiple_shooting(
            _decay, _states(), TIMES, 3, initial_states=initial
        )
        loss = penalty + tf.reduce_mean((predictions - _states()) ** 2)
    gradient = tape.gradient(loss, initial)
    assert np.all(gradient.numpy() != 0.0)


def test_a_layer_shoots_in_a_graph_with_times_of_each_sample():
    layer = keras_node.ODELayer(
        keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros"),
        return_sequences=True,
    )
    states = tf.constant(_states(), tf.float32)
    times = tf.constant(np.stack([TIMES, 3.0 * TIMES]))
    layer(states[:, 0])

    @tf.function(autograph=False)
    def gradient(states):
        with tf.GradientTape() as tape:
            predictions, penalty = keras_node.multiple_shooting(
                layer, states, times, 4
            )
            loss = tf.reduce_mean((predictions - states) ** 2) + penalty
        return tape.gradient(loss, layer.trainable_variables[0])

    # A decay lowers the loss.
    assert gradient(states) > 0.0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_segments": 12}, "`num_segments` must be"),
        ({"num_segments": 0}, "`num_segments` must be"),
        ({"times": TIMES[:5]}, "`states` must have the shape"),
        ({"initial_states": np.ones((2, 4, 1))}, "`initial_states` must"),
        (
            {"layer_or_dynamics": keras_node.ODELayer(keras.layers.Dense(1))},
            "return_sequences=True",
        ),
    ],
)
def test_what_does_not_fit_is_refused(changed, message):
    arguments = {
        "layer_or_dynamics": _decay,
        "states": _states(),
        "times": TIMES,
        "num_segments": 3,
    }
    with pytest.raises(ValueError, match=message):
        keras_node.multiple_shooting(**(arguments | changed))


class Constant(keras.layers.Layer):
    """Predicts a learnt constant at each of five times."""

    def build(self, shape):
        self.constant = self.add_weight(shape=(1, 5, 1), initializer="zeros")

    def call(self, inputs):
        return self.constant + 0.0 * inputs[:, None]


def test_the_loss_sees_the_horizon_alone():
    horizon = keras_node.callbacks.GrowHorizon(5, start=2, num_epochs=3)
    model = keras.Sequential([Constant()])
    model.compile("sgd", horizon.loss("mse"))
    x, y = np.ones((4, 1), "float32"), np.ones((4, 5, 1), "float32")
    # What lies beyond the horizon does not matter.
    y[:, 2:] = np.nan
    history = model.fit(x, y, epochs=1, verbose=0, callbacks=[horizon])
    assert history.history["horizon"] == [2]
    np.testing.assert_allclose(history.history["loss"], [1.0])
    learnt = model.layers[0].constant.numpy().ravel()
    np.testing.assert_array_equal(learnt > 0.0, [1, 1, 0, 0, 0])


def test_the_horizon_grows_in_training_and_is_full_in_validation():
    horizon = keras_node.callbacks.GrowHorizon(5, start=2, num_epochs=3)
    model = keras.Sequential([Constant()])
    model.compile(keras.optimizers.SGD(0.0), horizon.loss("mse"))
    x, y = np.ones((4, 1), "float32"), np.zeros((4, 5, 1), "float32")
    y[:, 4] = 5.0
    history = model.fit(
        x,
        y,
        validation_data=(x, y),
        epochs=5,
        verbose=0,
        callbacks=[horizon],
    ).history
    assert history["horizon"] == [2, 3, 4, 5, 5]
    np.testing.assert_allclose(history["loss"], [0.0, 0.0, 0.0, 5.0, 5.0])
    np.testing.assert_allclose(history["val_loss"], [5.0] * 5)


def test_predictions_without_an_axis_of_features_are_refused():
    loss = keras_node.callbacks.GrowHorizon(5, 2, 1).loss("mse")
    with pytest.raises(ValueError, match="at least three axes"):
        loss(tf.ones([3, 5]), tf.ones([3, 5]))


@pytest.mark.parametrize("arguments", [(5, 6, 1), (0, 1, 1), (5, 2, 1.5)])
def test_a_horizon_that_cannot_grow_is_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        keras_node.callbacks.GrowHorizon(*arguments)
