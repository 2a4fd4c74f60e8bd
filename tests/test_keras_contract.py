"""Tests of Keras's own contract: `run_layer_test`, configs, saving, dtypes."""

import copy

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src import testing
from support import checks

import keras_node
from keras_node import adjoints, solvers


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(0)


def random_normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


# What Keras's own test does is not ours to warn of.
keras_test = pytest.mark.filterwarnings(
    "ignore:`shuffle=True` was passed:UserWarning",
    "ignore:The model does not have any trainable weights:UserWarning",
)


def run_layer_test(cls, **kwargs):
    testing.TestCase().run_layer_test(cls, **kwargs)


@keras.saving.register_keras_serializable(package="tests")
def swing(t, y):
    return keras.ops.sin(y) * t


@keras.saving.register_keras_serializable(package="tests")
class Swing(keras.layers.Layer):
    """A scaled `sin(y) (1 + t)`, for a scalar time or one of each sample."""

    def build(self, t_shape, y_shape):
        self.scale = self.add_weight(shape=(y_shape[-1],), name="scale")

    def call(self, t, y):
        t = keras.ops.reshape(t, (-1, 1))
        return keras.ops.sin(y) * self.scale * (1 + t)


@keras_test
def test_keras_accepts_an_ode_layer():
    run_layer_test(
        keras_node.ODELayer,
        init_kwargs={"dynamics": keras.layers.Dense(3)},
        input_shape=(2, 3),
        expected_output_shape=(2, 3),
        expected_num_trainable_weights=2,
        expected_num_non_trainable_weights=0,
        expected_num_losses=0,
        supports_masking=True,
    )


@keras_test
def test_keras_accepts_an_ode_layer_of_time_and_images():
    conv = keras.layers.Conv2D(2, 3, padding="same")
    run_layer_test(
        keras_node.ODELayer,
        init_kwargs={
            "dynamics": keras_node.ConcatTime(conv),
            "solver": solvers.RK4(step_size=0.5),
        },
        input_shape=(2, 4, 4, 2),
        expected_output_shape=(2, 4, 4, 2),
        expected_num_trainable_weights=2,
        supports_masking=True,
    )


@keras_test
def test_keras_accepts_an_ode_layer_that_returns_sequences():
    run_layer_test(
        keras_node.ODELayer,
        init_kwargs={
            "dynamics": swing,
            "times": (0.0, 0.5, 2.0),
            "solver": "midpoint",
            "adjoint": "direct",
            "return_sequences": True,
        },
        input_shape=(2, 3),
        expected_output_shape=(2, 3, 3),
        expected_num_trainable_weights=0,
        supports_masking=True,
    )


@keras_test
def test_keras_accepts_an_ode_layer_with_per_sample_steps():
    run_layer_test(
        keras_node.ODELayer,
        init_kwargs={
            "dynamics": Swing(),
            "solver": solvers.Bosh3(per_sample_steps=True),
        },
        input_shape=(2, 3),
        expected_output_shape=(2, 3),
        expected_num_trainable_weights=1,
        supports_masking=True,
    )


@keras_test
def test_keras_accepts_augment():
    run_layer_test(
        keras_node.Augment,
        init_kwargs={"units": 2},
        input_shape=(2, 4, 3),
        expected_output_shape=(2, 4, 5),
        expected_num_trainable_weights=0,
        expected_num_non_trainable_variables=0,
        supports_masking=True,
    )


CONFIGS = {
    "names": {"solver": "heun", "adjoint": "backsolve"},
    "objects": {
        "times": (2.0, 1.0, 0.5),
        "solver": solvers.Dopri8(
            rtol=1e-5, per_sample_steps=True, on_failure="nan"
        ),
        "adjoint": adjoints.CheckpointAdjoint(max_checkpoints=7),
        "return_sequences": True,
    },
    "nested solver": {
        "solver": solvers.Tsit5(max_num_steps=99, safety_factor=0.8),
        "adjoint": adjoints.BacksolveAdjoint(solver=solvers.Bosh3(rtol=1e-4)),
    },
    "direct": {"adjoint": adjoints.DirectAdjoint(), "name": "flow"},
    "tfp": {"solver": "bdf"},
}


@pytest.mark.parametrize("kwargs", CONFIGS.values(), ids=CONFIGS)
def test_layer_round_trips_through_its_config(kwargs):
    layer = keras_node.ODELayer(keras.layers.Dense(3), **kwargs)
    config = layer.get_config()
    kept = copy.deepcopy(config)
    again = keras_node.ODELayer.from_config(config)
    assert config == kept
    assert again.get_config() == kept
    assert again.times == tuple(kwargs.get("times", (0.0, 1.0)))
    assert type(again.solver) is type(layer.solver)
    assert type(again.adjoint) is type(layer.adjoint)


def test_options_survive_the_config():
    layer = keras_node.ODELayer(keras.layers.Dense(3), **CONFIGS["objects"])
    again = keras_node.ODELayer.from_config(layer.get_config())
    assert again.solver.rtol == 1e-5
    assert again.solver.per_sample_steps is True
    assert again.solver.on_failure == "nan"
    assert again.adjoint.max_checkpoints == 7
    assert again.return_sequences is True
    nested = CONFIGS["nested solver"]
    layer = keras_node.ODELayer(keras.layers.Dense(3), **nested)
    again = keras_node.ODELayer.from_config(layer.get_config())
    assert again.adjoint.solver.rtol == 1e-4


def test_model_round_trips_through_json():
    layer = keras_node.ODELayer(Swing(), **CONFIGS["objects"])
    model = keras.Sequential([keras.Input((2,)), layer])
    again = keras.models.model_from_json(model.to_json()).layers[0]
    config, kept = again.get_config(), layer.get_config()
    assert config["dynamics"]["registered_name"] == "tests>Swing"
    for name in ("times", "solver", "adjoint", "return_sequences"):
        assert config[name] == kept[name]


def test_ode_layer_keeps_the_contract(tmp_path):
    layer = keras_node.ODELayer(
        Swing(),
        times=(0.0, 0.5, 2.0),
        solver=solvers.Tsit5(rtol=1e-4),
        return_sequences=True,
    )
    loaded = checks.assert_layer_contract(
        layer, random_normal(4, 3), tmp_path / "ode.keras"
    )
    assert loaded.layers[1].solver.rtol == 1e-4


def test_saved_model_trains_on_as_the_first_would(tmp_path):
    x, y = random_normal(8, 2), np.ones((8, 2), "float32")
    net = keras.Sequential(
        [keras.layers.Dense(4, "tanh"), keras.layers.Dense(2)]
    )
    model = keras.Sequential(
        [keras_node.ODELayer(net, solver="rk4", name="ode")]
    )
    # Eager steps, so that nothing is traced for the second model.
    model.compile(keras.optimizers.Adam(0.05), "mse", run_eagerly=True)
    model.fit(x, y, epochs=2, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    loaded.run_eagerly = True
    histories = [
        m.fit(x, y, epochs=3, shuffle=False, verbose=0).history
        for m in (model, loaded)
    ]
    assert sorted(histories[0]) == ["loss", "ode_nfe", "ode_nfe_backward"]
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, rtol=1e-6)
    assert histories[0]["loss"][2] < histories[0]["loss"][0]


def test_functional_model_with_times_as_input_is_saved(tmp_path):
    y0, times = keras.Input((2,)), keras.Input((3,))
    outputs = keras_node.ODELayer(Swing(), return_sequences=True)(
        y0, times=times
    )
    model = keras.Model([y0, times], outputs)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    inputs = [random_normal(2, 2), np.array([[0.0, 0.5, 1], [0, 1, 2]])]
    np.testing.assert_array_equal(loaded(inputs), model(inputs))


def test_dynamics_in_the_middle_of_a_saved_model_share_their_weights(tmp_path):
    net = keras.layers.Dense(2)
    model = keras.Sequential(
        [keras.Input((2,)), keras_node.ODELayer(net), keras_node.ODELayer(net)]
    )
    assert len(model.weights) == 2
    model.save_weights(tmp_path / "model.weights.h5")
    x = random_normal(2, 2)
    before = model(x)
    net.kernel.assign_add(tf.ones((2, 2)))
    assert np.abs(model(x) - before).max() > 1e-2
    model.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(model(x), before)


def test_registered_function_is_saved(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras_node.ODELayer(swing)])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = random_normal(3, 2)
    assert loaded.layers[0].dynamics is swing
    np.testing.assert_array_equal(loaded(x), model(x))


def closure(scale):
    def field(t, y):
        return scale * y

    return field


def plain_function(t, y):
    return -y


@pytest.mark.parametrize(
    "dynamics",
    [lambda t, y: -y, closure(2.0), plain_function],
    ids=["lambda", "closure", "not registered"],
)
def test_function_that_cannot_be_found_again_is_refused_on_save(
    dynamics, tmp_path
):
    model = keras.Sequential([keras.Input((2,)), keras_node.ODELayer(dynamics)])
    with pytest.raises(ValueError, match="Received: dynamics=") as error:
        model.save(tmp_path / "model.keras")
    assert "register_keras_serializable" in str(error.value)


class NotRegistered(keras.layers.Layer):
    def call(self, y):
        return -y


def test_class_that_is_not_registered_gets_the_error_of_keras(tmp_path):
    path = tmp_path / "model.keras"
    layer = keras_node.ODELayer(NotRegistered())
    model = keras.Sequential([keras.Input((2,)), layer])
    model.save(path)
    with pytest.raises(TypeError, match="Could not locate class"):
        keras.models.load_model(path)
    objects = {"NotRegistered": NotRegistered}
    loaded = keras.models.load_model(path, custom_objects=objects)
    x = random_normal(3, 2)
    np.testing.assert_array_equal(loaded(x), model(x))


def test_clone_of_a_model_has_its_own_weights():
    layer = keras_node.ODELayer(keras.layers.Dense(2), solver="rk4")
    model = keras.Sequential([keras.Input((2,)), layer])
    clone = keras.models.clone_model(model)
    assert clone.layers[0].dynamics is not layer.dynamics
    clone.set_weights(model.get_weights())
    x = random_normal(3, 2)
    np.testing.assert_array_equal(clone(x), model(x))


# The errors of a unit in the last place of float16 and of bfloat16, which the
# input, the output and the weights each have.
POLICIES = {
    "mixed_float16": ("float16", 3e-3),
    "mixed_bfloat16": ("bfloat16", 3e-2),
    "float64": ("float64", 1e-3),
}


@pytest.mark.parametrize("policy", POLICIES)
def test_policy_sets_the_dtype_and_little_else(policy):
    dtype, tolerance = POLICIES[policy]
    net = keras.Sequential(
        [
            keras.layers.Dense(8, "tanh", dtype=policy),
            keras.layers.Dense(2, dtype=policy),
        ]
    )
    layer = keras_node.ODELayer(net, dtype=policy)
    x = tf.constant(random_normal(4, 2))
    assert layer(keras.Input((2,))).dtype == dtype
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
        loss = tf.reduce_sum(tf.cast(y, tf.float32) ** 2)
    gradients = tape.gradient(loss, [x, *net.trainable_weights])
    assert y.dtype.name == dtype
    weights = net.get_weights()
    assert {w.dtype.name for w in weights} == {
        "float64" if policy == "float64" else "float32"
    }
    expected, expected_gradients = reference(weights, x)
    np.testing.assert_allclose(
        tf.cast(y, tf.float64), expected, rtol=tolerance, atol=tolerance
    )
    for gradient, exact in zip(gradients, expected_gradients, strict=True):
        scale = np.abs(exact).max()
        np.testing.assert_allclose(
            tf.cast(gradient, tf.float64),
            exact,
            atol=2 * tolerance * scale,
            rtol=0,
        )


def reference(weights, x):
    """The solve and its gradients in float64, with a tight tolerance."""
    weights = [tf.constant(w, tf.float64) for w in weights]
    x = tf.cast(x, tf.float64)
    w1, b1, w2, b2 = weights

    def f(t, y):
        return tf.tanh(y @ w1 + b1) @ w2 + b2

    with tf.GradientTape() as tape:
        tape.watch([x, *weights])
        solver = solvers.Dopri8(rtol=1e-9, atol=1e-9)
        y = keras_node.odeint(f, x, (0.0, 1.0), solver).states[-1]
        loss = tf.reduce_sum(y**2)
    return y, tape.gradient(loss, [x, *weights])


def test_float64_layer_is_accurate_beyond_float32():
    layer = keras_node.ODELayer(
        lambda t, y: -y,
        solver=solvers.Dopri8(rtol=1e-12, atol=1e-14),
        dtype="float64",
    )
    y = layer(np.ones((2, 1)))
    np.testing.assert_allclose(y, np.full((2, 1), np.exp(-1.0)), rtol=1e-11)


def test_half_precision_tells_close_times_apart():
    # A float16 has no number between 1000 and 1000.5.
    layer = keras_node.ODELayer(
        lambda t, y: tf.ones_like(y), dtype="mixed_float16"
    )
    y = layer(np.zeros((2, 1), "float32"), times=[1000.0, 1000.1])
    np.testing.assert_allclose(y, np.full((2, 1), 0.1), rtol=1e-3)


def test_global_policy_reaches_the_layer_and_its_fit():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        net = keras.layers.Dense(2)
        model = keras.Sequential(
            [keras_node.ODELayer(net, solver="rk4"), keras.layers.Dense(1)]
        )
        x = random_normal(8, 2)
        y = np.ones((8, 1), "float32")
        # Keras scales the loss of a float16 model by itself.
        model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
        losses = model.fit(x, y, epochs=3, verbose=0).history["loss"]
    finally:
        keras.config.set_dtype_policy(before)
    assert net.compute_dtype == "float16"
    assert losses[2] < losses[0]
