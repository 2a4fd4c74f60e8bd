"""Tests of training: NFE metrics, `fit` in all its modes, own loops."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_node
from keras_node import solvers
from keras_node.adjoints import CheckpointAdjoint


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(0)


def data(batch=8):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(batch, 2)).astype("float32")
    return x, np.sin(x[:, ::-1]).astype("float32")


class Counted(keras.layers.Layer):
    """Counts how often it is evaluated, and how often traced."""

    def __init__(self, units=2):
        super().__init__()
        self.net = keras.Sequential(
            [keras.layers.Dense(8, "tanh"), keras.layers.Dense(units)]
        )
        self.evaluations = tf.Variable(0, trainable=False, dtype=tf.int64)
        self.traces = 0

    def call(self, y):
        self.traces += 1
        self.evaluations.assign_add(1)
        return self.net(y)


class Record(keras.callbacks.Callback):
    """Keeps the counts of evaluations and traces after each epoch."""

    def __init__(self, fields):
        super().__init__()
        self.fields = fields
        self.evaluations = [[int(f.evaluations) for f in fields]]
        self.traces = []

    def on_epoch_end(self, epoch, logs=None):
        self.evaluations.append([int(f.evaluations) for f in self.fields])
        self.traces.append([f.traces for f in self.fields])


@pytest.fixture(scope="module")
def fitted():
    """A model of two ODELayers, fitted for 3 epochs of 2 batches."""
    keras.utils.set_random_seed(0)
    fields = [Counted(), Counted()]
    model = keras.Sequential(
        [
            keras.Input((2,)),
            keras_node.ODELayer(fields[0], name="first"),
            keras_node.ODELayer(
                fields[1],
                (0.0, 6.0),
                adjoint=CheckpointAdjoint(memory_limit=0),
                name="second",
            ),
        ]
    )
    model.compile(keras.optimizers.Adam(0.02), "mse")
    x, y = data()
    record = Record(fields)
    history = model.fit(
        x, y, batch_size=4, epochs=3, verbose=0, callbacks=[record]
    ).history
    return types.SimpleNamespace(
        model=model, fields=fields, history=history, record=record
    )


def test_history_keeps_two_metrics_for_each_layer(fitted):
    assert sorted(fitted.history) == [
        "first_nfe",
        "first_nfe_backward",
        "loss",
        "second_nfe",
        "second_nfe_backward",
    ]


def test_metrics_are_the_evaluations_that_dynamics_counts(fitted):
    counts = np.diff(fitted.record.evaluations, axis=0)
    for layer, name in enumerate(("first", "second")):
        forward = np.array(fitted.history[f"{name}_nfe"])
        backward = np.array(fitted.history[f"{name}_nfe_backward"])
        assert forward.min() > 0
        # The first keeps its activations, the second takes its steps again.
        assert np.all((backward > 0) == (name == "second"))
        # Means over the epoch's two batches.
        np.testing.assert_allclose(
            2 * (forward + backward), counts[:, layer], rtol=1e-6
        )


def test_longer_interval_has_more_evaluations(fitted):
    first, second = fitted.history["first_nfe"], fitted.history["second_nfe"]
    assert np.all(np.array(second) > np.array(first))


def test_epochs_after_the_first_trace_nothing(fitted):
    assert fitted.record.traces[0] == fitted.record.traces[2]
    assert fitted.record.traces[0][0] > 0


def test_training_lowers_the_loss(fitted):
    assert fitted.history["loss"][2] < 0.8 * fitted.history["loss"][0]


def test_evaluate_counts_the_forward_pass_alone(fitted, capsys):
    before = [int(field.evaluations) for field in fitted.fields]
    logs = fitted.model.evaluate(
        *data(), batch_size=4, return_dict=True, verbose=2
    )
    after = [int(field.evaluations) for field in fitted.fields]
    assert 2 * logs["first_nfe"] == after[0] - before[0]
    assert 2 * logs["second_nfe"] == after[1] - before[1]
    assert logs["first_nfe_backward"] == 0
    assert "first_nfe: " in capsys.readouterr().out


def test_predict_gives_what_the_model_gives(fitted):
    x, _ = data()
    y = fitted.model.predict(x, verbose=0)
    # Rounding moves the steps, and the solution within its tolerance 1e-3.
    np.testing.assert_allclose(y, fitted.model(x), rtol=1e-3)


def nfe(layer):
    return {m.name: float(m.result()) for m in layer.metrics if "nfe" in m.name}


def test_clock_of_each_sample_gives_the_mean_over_the_batch():
    solver = solvers.Tsit5(per_sample_steps=True)
    x = tf.constant([[0.01], [30.0]])
    layer = keras_node.ODELayer(lambda t, y: -(y**3), solver=solver, name="a")
    layer(x)
    counts = keras_node.odeint(
        lambda t, y: -(y**3), x, (0.0, 1.0), solver
    ).diagnostics.num_ode_fn_evaluations
    assert counts[1] > counts[0]
    assert nfe(layer)["a_nfe"] == np.mean(counts)


def test_metric_starts_anew_after_a_reset():
    layer = keras_node.ODELayer(lambda t, y: -y, solver="rk4", name="a")
    layer(tf.ones((1, 1)))
    layer(tf.ones((1, 1)))
    assert nfe(layer) == {"a_nfe": 4.0, "a_nfe_backward": 0.0}
    for metric in layer.metrics:
        metric.reset_state()
    assert nfe(layer)["a_nfe"] == 0.0


@pytest.mark.parametrize(
    "adjoint", ["checkpoint", CheckpointAdjoint(memory_limit=0), "backsolve"]
)
def test_backward_count_is_what_the_gradient_evaluates(adjoint):
    field = Counted()
    layer = keras_node.ODELayer(field, adjoint=adjoint, name="a")
    x = tf.constant(data()[0])
    layer.build(x.shape)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(layer(x) ** 2)
    forward = int(field.evaluations)
    tape.gradient(loss, [x, *layer.trainable_weights])
    backward = int(field.evaluations) - forward
    assert nfe(layer) == {"a_nfe": forward, "a_nfe_backward": backward}


def test_direct_counts_all_evaluations_of_a_training_step():
    # Autodiff takes the accepted steps again, before the backward pass.
    field = Counted()
    layer = keras_node.ODELayer(field, adjoint="direct", name="a")
    x = tf.constant(data()[0])
    layer.build(x.shape)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x) ** 2)
    tape.gradient(loss, layer.trainable_weights)
    counts = nfe(layer)
    # Backward nothing is evaluated anew: it counts what it pulls back.
    assert counts["a_nfe"] == int(field.evaluations)
    assert 0 < counts["a_nfe_backward"] < counts["a_nfe"]


def fit(**compile_options):
    """Returns the history of two epochs of a model with one batch each."""
    keras.utils.set_random_seed(1)
    net = keras.Sequential(
        [keras.layers.Dense(8, "tanh"), keras.layers.Dense(2)]
    )
    # The error of an automatic first step is so small that its rounding
    # decides on the size of the second.
    solver = solvers.Tsit5(first_step_size=0.5)
    # No Input: the layers are built by `fit`.
    model = keras.Sequential(
        [keras_node.ODELayer(net, solver=solver, name="ode")]
    )
    model.compile(keras.optimizers.SGD(0.1), "mse", **compile_options)
    return model.fit(
        *data(), batch_size=4, epochs=2, shuffle=False, verbose=0
    ).history


@pytest.fixture(scope="module")
def eager_history():
    return fit(run_eagerly=True)


@pytest.mark.parametrize(
    "options",
    [{}, {"jit_compile": True}, {"steps_per_execution": 2}],
    ids=str,
)
def test_every_way_to_fit_gives_what_eager_steps_give(options, eager_history):
    history = fit(**options)
    assert sorted(history) == ["loss", "ode_nfe", "ode_nfe_backward"]
    for name, values in eager_history.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-4)


def test_frozen_dynamics_stay_and_let_the_gradient_through():
    net = keras.layers.Dense(2)
    net.trainable = False
    before_ode = keras.layers.Dense(2)
    model = keras.Sequential([before_ode, keras_node.ODELayer(net)])
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    x, y = data()
    model(x)
    kernel, frozen = before_ode.get_weights()[0], net.get_weights()
    assert len(model.trainable_weights) == 2
    model.fit(x, y, verbose=0)
    for weight, old in zip(net.get_weights(), frozen, strict=True):
        np.testing.assert_array_equal(weight, old)
    assert np.abs(before_ode.get_weights()[0] - kernel).max() > 1e-6


def test_own_training_loop_in_a_function_learns():
    field = Counted()
    layer = keras_node.ODELayer(field, name="ode")
    optimizer = keras.optimizers.Adam(0.02)
    x, y = (tf.constant(array) for array in data())
    layer.build(x.shape)
    optimizer.build(layer.trainable_variables)
    traces = field.traces

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((layer(x) - y) ** 2)
        gradients = tape.gradient(loss, layer.trainable_variables)
        optimizer.apply_gradients(
            zip(gradients, layer.trainable_variables, strict=True)
        )
        return loss

    losses = [float(step()) for _ in range(2)]
    traced = field.traces
    losses += [float(step()) for _ in range(8)]
    assert traced > traces
    assert field.traces == traced
    assert losses[-1] < 0.8 * losses[0]
    counts = nfe(layer)
    total = 10 * (counts["ode_nfe"] + counts["ode_nfe_backward"])
    np.testing.assert_allclose(total, int(field.evaluations), rtol=1e-6)


@pytest.mark.parametrize(
    ("solver", "adjoint", "expected"),
    [
        ("tsit5", "auto", True),
        ("dopri8", "checkpoint", True),
        ("rk4", "direct", True),
        ("bdf", "auto", False),
        ("dormand_prince", "auto", False),
        ("tsit5", keras_node.adjoints.BacksolveAdjoint("bdf"), False),
    ],
)
def test_supports_jit_is_true_for_the_solvers_that_compile(
    solver, adjoint, expected
):
    layer = keras_node.ODELayer(
        keras.layers.Dense(2), solver=solver, adjoint=adjoint
    )
    assert layer.supports_jit is expected
