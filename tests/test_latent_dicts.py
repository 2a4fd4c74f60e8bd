"""What `fit` takes, every use of a `LatentODE` takes."""

import keras
import numpy as np
import pytest
from support import zoo

import keras_node

DATA = zoo.series(3)
TARGETS = {"values": np.zeros((3, 2, 2), "float32"), "times": [1.0, 2.0]}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return keras_node.LatentODE(
        2,
        2,
        encoder=keras.layers.GlobalAveragePooling1D(),
        dynamics=keras.layers.Dense(2),
        solver="euler",
    )


@pytest.mark.parametrize("use", ["elbo", "importance_weighted_bound"])
def test_bounds_take_a_dict(model, use):
    bound = getattr(model, use)
    np.testing.assert_array_equal(bound(DATA, seed=1), bound(**DATA, seed=1))
    np.testing.assert_array_equal(
        bound({**DATA, "targets": TARGETS}, seed=1),
        bound(**DATA, targets=TARGETS, seed=1),
    )


def test_encode_takes_a_dict_whose_targets_it_does_not_need(model):
    expected = model.encode(**DATA)
    for data in (DATA, {**DATA, "targets": TARGETS}):
        np.testing.assert_array_equal(
            model.encode(data).stddev(), expected.stddev()
        )


def test_reconstruct_takes_a_dict(model):
    np.testing.assert_array_equal(
        model.reconstruct(DATA), model.reconstruct(**DATA)
    )
    result = model.reconstruct(DATA, num_samples=2, seed=1)
    expected = model.reconstruct(**DATA, num_samples=2, seed=1)
    np.testing.assert_array_equal(result.samples, expected.samples)


def test_reconstruct_is_at_the_times_of_targets_as_predict_is(model):
    data = {**DATA, "targets": {"times": TARGETS["times"]}}
    expected = model.reconstruct(**DATA, target_times=TARGETS["times"])
    np.testing.assert_array_equal(model.reconstruct(data), expected)
    # What is asked for in the call goes first.
    other = model.reconstruct(data, target_times=[0.5])
    np.testing.assert_array_equal(
        other, model.reconstruct(**DATA, target_times=[0.5])
    )


def test_generate_takes_a_dict_for_its_times(model):
    series = model.generate(DATA, seed=1)
    assert series.shape == DATA["values"].shape
    shared = {"values": DATA["values"], "times": np.linspace(0, 1, 5)}
    np.testing.assert_array_equal(
        model.generate(shared, seed=1),
        model.generate(3, shared["times"], seed=1),
    )


@pytest.mark.parametrize(
    "use", ["elbo", "importance_weighted_bound", "encode", "reconstruct"]
)
def test_dict_and_arguments_are_not_mixed(model, use):
    with pytest.raises(ValueError, match="must be a dict alone"):
        getattr(model, use)(DATA, DATA["times"])


def test_dict_without_times_is_told(model):
    for use in (model.encode, model.reconstruct, model.generate, model.elbo):
        with pytest.raises(ValueError, match="must be a dict"):
            use({"values": DATA["values"]})
