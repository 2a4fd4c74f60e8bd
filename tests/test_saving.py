"""Tests of `.keras` files: in another process, and of other versions."""

import json
import os
import pathlib
import pickle
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from support import zoo

import keras_node

SOLVER = keras_node.solvers.Bosh3(rtol=1e-4, max_num_steps=500)
ADJOINT = keras_node.adjoints.CheckpointAdjoint(max_checkpoints=9)
OPTIONS = {"solver": SOLVER, "adjoint": ADJOINT}
MODELS = {
    "layer": ("ODELayer", lambda: zoo.classifier(zoo.mlp(), **OPTIONS)),
    "functional": ("ODELayer", lambda: zoo.classifier(zoo.functional())),
    "function": ("ODELayer", lambda: zoo.classifier(zoo.swinging)),
    "flow": ("NormalizingFlow", lambda: zoo.flow(**OPTIONS)),
    "latent": ("LatentODE", lambda: zoo.latent(**OPTIONS)),
}
# Run by a process that has not made the models.
PROGRAM = """
import pickle, sys
import keras
import numpy as np
from support import zoo
results = {}
for name, kind in pickle.loads(bytes.fromhex(sys.argv[1])).items():
    model = keras.saving.load_model(f"{name}.keras")
    results[f"{name}/outputs"] = model.predict(zoo.data(kind)[0], verbose=0)
    model.fit(*zoo.data(kind), shuffle=False, verbose=0, batch_size=8)
    for i, weight in enumerate(model.get_weights()):
        results[f"{name}/{i}"] = weight
    results[f"{name}/iterations"] = model.optimizer.iterations.numpy()
np.savez("results.npz", **results)
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Saves a trained model of each kind; returns them, and what another
    process made of the files."""
    folder = tmp_path_factory.mktemp("saved")
    models = {}
    for name, (kind, make) in MODELS.items():
        keras.utils.set_random_seed(0)
        model = zoo.compiled(kind, make())
        model.fit(*zoo.data(kind), shuffle=False, verbose=0, batch_size=8)
        model.save(folder / f"{name}.keras")
        models[name] = model
    kinds = {name: kind for name, (kind, _) in MODELS.items()}
    tests = str(pathlib.Path(__file__).parent)
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, pickle.dumps(kinds).hex()],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": tests, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return models, dict(np.load(folder / "results.npz")), folder


@pytest.mark.parametrize("name", MODELS)
def test_model_goes_on_in_another_process_as_it_would_in_this(saved, name):
    models, results, _ = saved
    kind, model = MODELS[name][0], models[name]
    outputs = model.predict(zoo.data(kind)[0], verbose=0)
    np.testing.assert_allclose(
        results[f"{name}/outputs"], outputs, rtol=1e-6, atol=1e-6
    )
    model.fit(*zoo.data(kind), shuffle=False, verbose=0, batch_size=8)
    assert results[f"{name}/iterations"] == model.optimizer.iterations
    for i, weight in enumerate(model.get_weights()):
        np.testing.assert_allclose(
            results[f"{name}/{i}"], weight, rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("name", ["layer", "flow", "latent"])
def test_settings_of_solver_and_adjoint_are_saved(saved, name):
    model = keras.saving.load_model(saved[2] / f"{name}.keras")
    (layer,) = [
        part
        for part in model._flatten_layers(include_self=True)
        if hasattr(part, "adjoint")
    ]
    assert layer.solver.get_config() == SOLVER.get_config()
    assert layer.adjoint.max_checkpoints == 9


def _rewrite(path, new_path, edit):
    """Copies a `.keras` file, its config changed."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(new_path, "w") as new:
        for item in old.namelist():
            content = old.read(item)
            if item == "config.json":
                config = json.loads(content)
                edit(config)
                content = json.dumps(config)
            new.writestr(item, content)
    return new_path


def _set_version(config, version):
    """Sets the version in every config that has one."""
    if isinstance(config, dict):
        if "keras_node_version" in config:
            config["keras_node_version"] = version
        config = list(config.values())
    if isinstance(config, list):
        for part in config:
            _set_version(part, version)


@pytest.mark.parametrize("name", ["layer", "flow", "latent"])
def test_file_of_a_newer_major_version_says_so(saved, tmp_path, name):
    path = _rewrite(
        saved[2] / f"{name}.keras",
        tmp_path / "newer.keras",
        lambda config: _set_version(config, "999.1.0"),
    )
    with pytest.raises(ValueError, match=r"update the package.*999\.1\.0"):
        keras.saving.load_model(path)


def test_config_carries_the_version():
    config = keras_node.ODELayer(zoo.mlp()).get_config()
    assert config["keras_node_version"] == keras_node.__version__
    config["keras_node_version"] = "new"
    with pytest.raises(ValueError, match="must be a version such as"):
        keras_node.ODELayer.from_config(config)


FOREIGN = {
    "a function of another module": {
        "module": "os",
        "class_name": "function",
        "config": "system",
        "registered_name": "function",
    },
    "a lambda": {
        "class_name": "__lambda__",
        "config": {"value": ["gA==", None, None]},
    },
    "a lambda layer": {
        "module": "keras.layers",
        "class_name": "Lambda",
        "config": {
            "name": "foreign",
            "function": {
                "class_name": "__lambda__",
                "config": {"code": "gA==", "defaults": None, "closure": None},
            },
        },
        "registered_name": None,
    },
}


@pytest.mark.parametrize("config", FOREIGN.values(), ids=FOREIGN)
def test_safe_mode_runs_no_foreign_code(saved, tmp_path, config):
    def edit(model):
        layers = model["config"]["layers"]
        (layer,) = [part for part in layers if part["class_name"] == "ODELayer"]
        layer["config"]["dynamics"] = config

    path = _rewrite(saved[2] / "layer.keras", tmp_path / "foreign.keras", edit)
    with pytest.raises((ValueError, TypeError), match="safe|deseriali|locate"):
        keras.saving.load_model(path)


def test_missing_arguments_are_named():
    with pytest.raises(TypeError, match="'dynamics'.*Received"):
        keras_node.ODELayer.from_config({"times": (0.0, 1.0)})
    with pytest.raises(TypeError, match="must be a dict"):
        keras_node.NormalizingFlow.from_config(None)


def test_weights_alone_are_saved_and_loaded(tmp_path):
    for name, make in zoo.MODELS.items():
        x = zoo.data(name)[0]
        model, other = make(), make()
        outputs = model.predict(x, verbose=0)
        other.predict(x, verbose=0)
        model.save_weights(tmp_path / "model.weights.h5")
        other.load_weights(tmp_path / "model.weights.h5")
        np.testing.assert_allclose(
            other.predict(x, verbose=0), outputs, rtol=1e-6, atol=1e-6
        )


def _planar():
    dynamics = keras_node.PlanarDynamics(4)
    layers = [keras.Input((2,)), keras_node.ODELayer(dynamics, solver="rk4")]
    return keras.Sequential(layers), np.ones((3, 2), "float32")


def _neural_cde():
    shapes = {"values": (4, 2), "times": (4,)}
    inputs = {key: keras.Input(shapes[key], name=key) for key in shapes}
    layer = keras_node.NeuralCDE(3, solver="euler")
    times = np.tile(np.linspace(0.0, 1.0, 4, dtype="float32"), (3, 1))
    data = {"values": np.ones((3, 4, 2), "float32"), "times": times}
    return keras.Model(inputs, layer(inputs)), data


@pytest.mark.parametrize(
    "layer", [keras_node.PlanarDynamics(4), keras_node.NeuralCDE(3)]
)
def test_a_layer_that_is_not_built_comes_back_from_its_config(layer):
    config = keras.saving.serialize_keras_object(layer)
    copy = keras.saving.deserialize_keras_object(config)
    assert copy.get_config() == layer.get_config() and not copy.built


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
@pytest.mark.parametrize("mode", ["int8", "float8"])
@pytest.mark.parametrize("make", [_planar, _neural_cde])
def test_layers_that_a_layer_has_made_may_be_quantized(make, mode, tmp_path):
    model, x = make()
    before = model.predict(x, verbose=0)
    model.quantize(mode)
    outputs = model.predict(x, verbose=0)
    assert np.any(outputs != before)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), outputs)
