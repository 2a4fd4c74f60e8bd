"""Objectives: paths and couplings of flow matching, and its configs."""

import builtins
import itertools

import numpy as np
import pytest
import tensorflow as tf

from keras_node import objectives
from keras_node.objectives import FlowMatching


def test_paths_are_straight():
    x0 = tf.constant([[0.0, 0.0], [1.0, 1.0]])
    x1 = tf.constant([[2.0, 4.0], [1.0, 0.0]])
    share, points, way = FlowMatching().path(x0, x1, tf.constant([1, 2]))
    np.testing.assert_allclose(points, x0 + share[:, None] * (x1 - x0))
    np.testing.assert_allclose(way, x1 - x0)


@pytest.mark.parametrize(
    ("times", "spread"), [("uniform", 12**-0.5), ("logit_normal", 0.208)]
)
def test_shares_have_the_distribution_asked_for(times, spread):
    seed = tf.constant([1, 2])
    share = FlowMatching(times=times).shares(20_000, tf.float32, seed).numpy()
    assert 0.0 <= share.min() and share.max() <= 1.0
    np.testing.assert_allclose(share.mean(), 0.5, atol=0.01)
    np.testing.assert_allclose(share.std(), spread, atol=0.005)


def test_noise_lies_around_the_paths():
    zeros = tf.zeros([10_000, 2])
    objective = FlowMatching(sigma=0.3)
    _, points, way = objective.path(zeros, zeros, tf.constant([1, 2]))
    np.testing.assert_allclose(np.std(points), 0.3, rtol=0.03)
    np.testing.assert_array_equal(way, zeros)


@pytest.mark.parametrize("is_graph", [False, True])
def test_optimal_transport_finds_the_cheapest_pairs(is_graph):
    pytest.importorskip("scipy")
    rng = np.random.default_rng(0)
    x0, x1 = rng.normal(size=(2, 6, 3)).astype("float32")
    coupled = FlowMatching("optimal_transport").coupled
    if is_graph:
        coupled = tf.function(coupled)
    found = coupled(tf.constant(x0), tf.constant(x1)).numpy()
    costs = [
        np.sum((x0[list(order)] - x1) ** 2)
        for order in itertools.permutations(range(6))
    ]
    np.testing.assert_allclose(np.sum((found - x1) ** 2), min(costs), rtol=1e-5)
    np.testing.assert_array_equal(np.sort(found, axis=0), np.sort(x0, axis=0))


def test_optimal_transport_says_what_it_needs(monkeypatch):
    pytest.importorskip("scipy")
    step = tf.function(
        FlowMatching("optimal_transport").coupled, jit_compile=True
    )
    with pytest.raises(NotImplementedError, match="jit_compile=False"):
        step(tf.zeros([2, 2]), tf.zeros([2, 2]))
    real = builtins.__import__

    def without_scipy(name, *args, **kwargs):
        if name.startswith("scipy"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(
        objectives.importlib,
        "import_module",
        lambda name: without_scipy(name),
    )
    with pytest.raises(ImportError, match="pip install scipy"):
        FlowMatching("optimal_transport")


@pytest.mark.parametrize(
    "identifier",
    [
        "flow_matching",
        FlowMatching(sigma=0.5, times="logit_normal"),
        {"class_name": "FlowMatching", "config": {"sigma": 0.5}},
        "likelihood",
    ],
)
def test_identifiers_name_objectives(identifier):
    objective = objectives.get(identifier)
    again = objectives.get(objectives.serialize(objective))
    assert type(again) is type(objective)
    assert again.get_config() == objective.get_config()


@pytest.mark.parametrize(
    "options",
    [{"coupling": "sinkhorn"}, {"sigma": -1.0}, {"times": "late"}],
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}` must be"):
        FlowMatching(**options)
