"""Files, copies and pickles of a `LatentODE`, trained or not."""

import copy
import pickle

import keras
import numpy as np
import pytest
from support import zoo

import keras_node
from keras_node import diagnostics

DATA = zoo.series(3)


def _model(**kwargs):
    keras.utils.set_random_seed(0)
    defaults = {
        "encoder": keras.layers.GlobalAveragePooling1D(),
        "dynamics": keras.layers.Dense(2),
        "decoder": keras.layers.Dense(2),
        "solver": "euler",
    }
    return keras_node.LatentODE(2, 2, **{**defaults, **kwargs})


def _by_file(model, path):
    model.save(path / "model.keras")
    return keras.saving.load_model(path / "model.keras")


def _by_file_not_compiled(model, path):
    model.save(path / "model.keras")
    return keras.saving.load_model(path / "model.keras", compile=False)


def _by_deepcopy(model, path):
    return copy.deepcopy(model)


def _by_pickle(model, path):
    return pickle.loads(pickle.dumps(model))


WAYS = [_by_file, _by_file_not_compiled, _by_deepcopy, _by_pickle]


def _assert_equal(model, other):
    np.testing.assert_array_equal(other(DATA), model(DATA))
    np.testing.assert_array_equal(
        other.elbo(DATA, seed=1), model.elbo(DATA, seed=1)
    )


@pytest.mark.parametrize("way", WAYS)
def test_model_that_was_never_compiled_comes_back(way, tmp_path):
    model = _model()
    other = way(model, tmp_path)
    _assert_equal(model, other)
    assert not other.compiled
    # It can be saved again, and trained.
    other = way(other, tmp_path)
    other.compile("sgd")
    assert np.isfinite(other.fit(DATA, verbose=0).history["loss"][0])


@pytest.mark.parametrize("way", [_by_file, _by_file_not_compiled, _by_deepcopy])
def test_trained_model_comes_back(way, tmp_path):
    model = _model()
    model.compile("adam", num_samples=2)
    model.fit(DATA, verbose=0)
    other = way(model, tmp_path)
    _assert_equal(model, other)
    assert other.compiled == (way is not _by_file_not_compiled)
    _by_file(other, tmp_path)


def _quantize(model):
    for layer in (model.dynamics, model.decoder, model.posterior_head):
        layer.quantize("int8")


def _enable_lora(model):
    for layer in (model.dynamics, model.decoder, model.posterior_head):
        layer.enable_lora(1)
        layer.lora_kernel_b.assign(keras.ops.ones_like(layer.lora_kernel_b))


@pytest.mark.slow
@pytest.mark.parametrize("way", [_by_file, _by_deepcopy])
@pytest.mark.parametrize("change", [_quantize, _enable_lora])
def test_model_that_was_changed_within_comes_back(change, way, tmp_path):
    model = _model()
    before = model(DATA)
    change(model)
    assert np.any(before != model(DATA))
    _assert_equal(model, way(model, tmp_path))


@pytest.mark.slow
def test_whole_model_that_was_quantized_comes_back(tmp_path):
    model = _model(dynamics=zoo.mlp())
    with pytest.warns(UserWarning, match="does not have a `quantize` method"):
        model.quantize("int8")
    other = _by_file(model, tmp_path)
    _assert_equal(model, other)
    assert other.dynamics.layers[0].quantization_mode == "int8"


def test_posterior_head_of_another_size_is_refused():
    with pytest.raises(ValueError, match="(?s)posterior_head.*Received"):
        keras_node.LatentODE(2, 3, posterior_head=keras.layers.Dense(5))


def test_posterior_head_may_be_a_layer_of_ones_own():
    head = keras.Sequential(
        [keras.layers.Dense(5, "tanh"), keras.layers.Dense(4)]
    )
    model = _model(posterior_head=head)
    assert model.encode(DATA).mean().shape == (3, 2)
    assert all(
        any(v is w for w in model.trainable_variables)
        for v in head.trainable_variables
    )
    with pytest.raises(TypeError, match="`posterior_head` must be"):
        _model(posterior_head="dense")


@pytest.mark.slow
def test_diagnostics_work_on_a_model_that_was_never_compiled():
    model = _model(solver="tsit5")
    report = diagnostics.check_gradients(model, DATA)
    assert report.differences["checkpoint"].overall < 1e-5
    report = diagnostics.work_precision(model, DATA, ["tsit5"], [1e-2])
    assert len(report.rows) == 1
