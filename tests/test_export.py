"""Tests of SavedModels that live where `keras_node` does not."""

import os
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_node

# Run by a process that has tensorflow, and neither keras_node nor this file.
PROGRAM = """
import sys
import numpy as np
import tensorflow as tf
# Installed or not: from here on its import fails.
sys.modules["keras_node"] = None
try:
    import keras_node
    sys.exit("keras_node can be imported")
except ImportError:
    pass
inputs = dict(np.load("inputs.npz"))
results = {}
for path in ("with_gradients", "without_gradients"):
    model = tf.saved_model.load(path)
    (count,) = [v for v in model.variables if v.dtype.is_integer]
    for name, x in inputs.items():
        before = int(count)
        results[f"{path}/{name}"] = model.serve(tf.constant(x)).numpy()
        results[f"{path}/{name}/count"] = int(count) - before
model = tf.saved_model.load("with_gradients")
x = tf.constant(inputs["batch of 7"])
with tf.GradientTape() as tape:
    tape.watch(x)
    loss = tf.reduce_sum(model.serve(x) ** 2)
results["gradient"] = tape.gradient(loss, x).numpy()
np.savez("results.npz", **results)
"""


class CountedField(keras.layers.Layer):
    """`dy/dt = -y^3 w`, the faster the larger y, counting evaluations."""

    def build(self, shape):
        self.w = self.add_weight(shape=shape[-1:], initializer="ones")
        self.count = self.add_weight(
            shape=(), initializer="zeros", dtype="int32", trainable=False
        )

    def call(self, y):
        self.count.assign_add(1)
        return -(y**3) * self.w


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Exports a model twice, and what another process gets out of it."""
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("exported")
    model = keras.Sequential(
        [
            keras.Input((2,)),
            keras_node.ODELayer(CountedField()),
            keras.layers.Dense(3),
        ]
    )
    for path, custom_gradients in (
        ("with_gradients", True),
        ("without_gradients", False),
    ):
        archive = keras.export.ExportArchive()
        archive.track(model)
        archive.add_endpoint(
            "serve", model.__call__, [tf.TensorSpec((None, 2), tf.float32)]
        )
        options = tf.saved_model.SaveOptions(
            experimental_custom_gradients=custom_gradients
        )
        archive.write_out(str(folder / path), options, verbose=False)
    generator = np.random.default_rng(0)
    inputs = {
        "batch of 1": generator.normal(size=(1, 2)),
        "batch of 7": generator.normal(size=(7, 2)),
        "hard": np.full((2, 2), 30.0),
    }
    inputs = {name: x.astype("float32") for name, x in inputs.items()}
    np.savez(folder / "inputs.npz", **inputs)
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("PYTHONPATH", None)
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return types.SimpleNamespace(
        model=model,
        inputs=inputs,
        results=dict(np.load(folder / "results.npz")),
    )


BOTH = pytest.mark.parametrize("path", ["with_gradients", "without_gradients"])


@BOTH
@pytest.mark.parametrize("name", ["batch of 1", "batch of 7", "hard"])
def test_loaded_model_gives_what_the_model_gives(exported, path, name):
    expected = exported.model(exported.inputs[name])
    np.testing.assert_allclose(
        exported.results[f"{path}/{name}"], expected, rtol=1e-5, atol=1e-5
    )


@BOTH
def test_loaded_model_still_adapts_its_steps(exported, path):
    easy = exported.results[f"{path}/batch of 7/count"]
    hard = exported.results[f"{path}/hard/count"]
    assert 0 < easy
    assert hard >= 2 * easy


def test_loaded_model_can_be_differentiated(exported):
    x = tf.constant(exported.inputs["batch of 7"])
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(exported.model(x) ** 2)
    np.testing.assert_allclose(
        exported.results["gradient"],
        tape.gradient(loss, x),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("solver", ["dormand_prince", "rk4"])
def test_model_export_is_one_call(solver, tmp_path):
    layer = keras_node.ODELayer(lambda t, y: -y, solver=solver)
    model = keras.Sequential([keras.Input((2,)), layer, keras.layers.Dense(1)])
    model.export(tmp_path / "model", format="tf_saved_model", verbose=False)
    x = tf.ones((3, 2))
    loaded = tf.saved_model.load(tmp_path / "model")
    np.testing.assert_allclose(loaded.serve(x), model(x), rtol=1e-5)


@pytest.mark.parametrize("custom_gradients", [True, False])
@pytest.mark.parametrize("adjoint", ["checkpoint", "backsolve", "direct"])
def test_every_adjoint_is_exported(adjoint, custom_gradients, tmp_path):
    keras.utils.set_random_seed(0)
    layer = keras_node.ODELayer(keras.layers.Dense(2, "tanh"), adjoint=adjoint)
    model = keras.Sequential([keras.Input((2,)), layer])
    options = tf.saved_model.SaveOptions(
        experimental_custom_gradients=custom_gradients
    )
    model.export(tmp_path, verbose=False, options=options)
    loaded = tf.saved_model.load(tmp_path)
    served = loaded.serve
    x = tf.constant([[0.5, -1.0]])

    def slope(function):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = function(x)
        return value, tape.gradient(value, x)

    value, expected = slope(model)
    # Another graph rounds otherwise.
    np.testing.assert_allclose(served(x), value, rtol=1e-4)
    if custom_gradients:
        np.testing.assert_allclose(slope(served)[1], expected, rtol=1e-4)


def test_bdf_names_what_it_needs_where_the_batch_is_unknown(tmp_path):
    layer = keras_node.ODELayer(lambda t, y: -y, solver="bdf")
    model = keras.Sequential([keras.Input((2,)), layer])
    with pytest.raises(ValueError, match="drop_remainder=True"):
        model.export(tmp_path / "model", format="tf_saved_model", verbose=False)


@pytest.mark.parametrize("solver", ["rk4", "tsit5"])
@pytest.mark.parametrize("adjoint", ["checkpoint", "backsolve"])
def test_a_graph_that_only_infers_records_nothing(solver, adjoint):
    """ONNX has no lists of tensors, in which steps are recorded."""
    layer = keras_node.ODELayer(
        keras.layers.Dense(2, "tanh"), solver=solver, adjoint=adjoint
    )
    x = tf.constant([[0.5, -0.5]])
    function = tf.function(layer)
    graph = function.get_concrete_function(x).graph.as_graph_def()
    nodes = [*graph.node]
    for inner in graph.library.function:
        nodes.extend(inner.node_def)
    assert not [n.op for n in nodes if n.op.startswith("TensorList")]

    def gradient(call):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(call(x) ** 2)
        return tape.gradient(loss, layer.trainable_variables)

    for actual, expected in zip(
        gradient(function), gradient(layer), strict=True
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-5)
