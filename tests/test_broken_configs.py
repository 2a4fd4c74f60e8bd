"""Configs broken at random: an object, or an error that says what is wrong.

Whatever a config names, nothing runs that Keras does not know.
"""

import base64
import copy
import functools
import marshal
import os

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from hypothesis import strategies as st
from support import strategies
from support.strategies import INF, NAN, examples

import keras_node
from keras_node import adjoints, likelihoods, regularizers, solvers, trace

watchdog = pytest.fixture(scope="module", autouse=True)(strategies.watchdog)


@keras.saving.register_keras_serializable(package="tests")
def slows_down(t, y):
    return -y


@keras.saving.register_keras_serializable(package="tests")
def around(outputs):
    return tfp.distributions.Normal(outputs, 1.0)


def dense():
    return keras.layers.Dense(2)


def layer():
    return keras_node.ODELayer(
        keras.Sequential([dense()]),
        solver=solvers.Dopri5(),
        adjoint=adjoints.BacksolveAdjoint("bosh3"),
        regularizers=["kinetic_energy"],
    )


def bijector():
    return keras_node.CNFBijector(
        keras_node.ConcatTime(dense()),
        trace=trace.Hutchinson(seed=1),
        regularizers=["jacobian_frobenius"],
    )


def flow():
    return keras_node.NormalizingFlow(
        bijector(), tfp.distributions.MultivariateNormalDiag(tf.zeros(2))
    )


def latent_ode(**arguments):
    return keras_node.LatentODE(
        2,
        2,
        encoder=keras.layers.GRU(2, go_backwards=True),
        dynamics=slows_down,
        decoder=dense(),
        **arguments,
    )


OBJECTS = {
    "Tsit5": solvers.Tsit5,
    "RK4": solvers.RK4,
    "DormandPrince": solvers.DormandPrince,
    "BDF": solvers.BDF,
    "AutoAdjoint": adjoints.AutoAdjoint,
    "CheckpointAdjoint": adjoints.CheckpointAdjoint,
    "BacksolveAdjoint": lambda: adjoints.BacksolveAdjoint("tsit5"),
    "DirectAdjoint": adjoints.DirectAdjoint,
    "ExactTrace": trace.ExactTrace,
    "Hutchinson": trace.Hutchinson,
    "HutchPlusPlus": trace.HutchPlusPlus,
    "KineticEnergy": regularizers.KineticEnergy,
    "JacobianFrobenius": regularizers.JacobianFrobenius,
    "NormalLikelihood": likelihoods.NormalLikelihood,
    "BernoulliLikelihood": likelihoods.BernoulliLikelihood,
    "PoissonLikelihood": likelihoods.PoissonLikelihood,
    "CustomLikelihood": lambda: likelihoods.CustomLikelihood(around),
    "PoissonProcessLikelihood": lambda: likelihoods.PoissonProcessLikelihood(
        (0.0, 1.0), marks="normal"
    ),
    "Augment": lambda: keras_node.Augment(2),
    "ConcatTime": lambda: keras_node.ConcatTime(dense()),
    "IgnoreTime": lambda: keras_node.IgnoreTime(dense()),
    "PlanarDynamics": lambda: keras_node.PlanarDynamics(2),
    "ODERNNCell": lambda: keras_node.ODERNNCell(2, dense()),
    "ODELayer": layer,
    "ODELayer of a function": lambda: keras_node.ODELayer(slows_down),
    "CNFBijector": bijector,
    "NormalizingFlow": flow,
    "LatentODE": latent_ode,
    "LatentODE with a prior": lambda: latent_ode(
        prior=tfp.distributions.MultivariateNormalDiag(tf.zeros(2)),
        likelihood=around,
    ),
}
GETTERS = {
    "solver": (solvers.get, lambda: solvers.serialize(solvers.Tsit5())),
    "adjoint": (
        adjoints.get,
        lambda: adjoints.serialize(adjoints.BacksolveAdjoint("bosh3")),
    ),
    "trace": (trace.get, lambda: trace.serialize(trace.Hutchinson())),
    "likelihood": (
        likelihoods.get,
        lambda: likelihoods.serialize(likelihoods.CustomLikelihood(around)),
    ),
    "regularizers": (
        regularizers.get,
        lambda: regularizers.serialize([regularizers.KineticEnergy()]),
    ),
}


def _ran(*arguments):
    raise AssertionError("A config ran code of its own.")


def _bytecode():
    """Returns the config of a lambda, as Keras once wrote it."""
    code = marshal.dumps((lambda *y: __import__("os").system("")).__code__)
    value = [base64.b64encode(code).decode("ascii"), None, None]
    return {"class_name": "__lambda__", "config": {"value": value}}


def _function(module, name):
    return {
        "module": module,
        "class_name": "function",
        "config": name,
        "registered_name": name,
    }


FOREIGN = {
    "os.system": _function("os", "system"),
    "exec": _function("builtins", "exec"),
    "eval": _function("builtins", "eval"),
    "import_module": _function("importlib", "import_module"),
    "load_model": _function("keras.saving", "load_model"),
    "get_file": _function("keras.utils", "get_file"),
    "Popen": {
        "module": "subprocess",
        "class_name": "Popen",
        "config": {"args": "false", "shell": True},
        "registered_name": None,
    },
    "a class of tests": {
        "module": "support.strategies",
        "class_name": "Anything",
        "config": {},
        "registered_name": None,
    },
    "bytecode": _bytecode(),
    "a layer of bytecode": {
        "module": "keras.layers",
        "class_name": "Lambda",
        "config": {"name": "lambda", "function": _bytecode()},
        "registered_name": None,
    },
}


def _places(config):
    """Yields the containers in a config, with each of their keys."""
    keys = {dict: dict.keys, list: lambda items: range(len(items))}
    for key in keys.get(type(config), lambda config: ())(config):
        yield config, key
        yield from _places(config[key])


junk = st.one_of(
    st.sampled_from(
        (None, True, False, -1, 0, 1, 2.5, NAN, INF, -INF, b"", 1j)
    ),
    st.sampled_from(("", "tsit5", "function", "keras_node>Tsit5", "Dense")),
    st.sampled_from(([], {}, [[]], {"config": None}, ["a"], [0.0, 1.0], (1,))),
    st.text(max_size=4),
    st.sampled_from(sorted(FOREIGN)).map(FOREIGN.get),
    st.sampled_from(
        (
            {"class_name": "Tsit5", "config": {"rtol": -1.0}},
            {"class_name": "Dense", "config": {"units": "many"}},
            {"class_name": "__tensor__", "config": {"value": "a"}},
            {"module": None, "class_name": None, "config": None},
        )
    ),
    st.builds(strategies.Anything),
)
changes = st.lists(
    st.tuples(
        st.sampled_from(("remove", "add", "replace", "replace")),
        st.integers(0, 10**6),
        junk,
    ),
    min_size=1,
    max_size=2,
)


def broken(config, changes):
    """Returns a config after some changes at places of any depth."""
    config = {"config": copy.deepcopy(config)}
    for action, place, value in changes:
        places = list(_places(config["config"])) or [(config, "config")]
        container, key = places[place % len(places)]
        value = copy.deepcopy(value)
        if action == "remove":
            del container[key]
        elif action == "replace":
            container[key] = value
        elif isinstance(container, dict):
            container["unknown"] = value
        else:
            container.append(value)
        hypothesis.assume("config" in config)
    return config["config"]


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch):
    monkeypatch.setattr(os, "system", _ran)


@functools.cache
def class_and_config(name):
    item = OBJECTS[name]()
    return type(item), item.get_config()


@pytest.mark.parametrize("name", OBJECTS)
@examples(30, changes=changes)
def test_broken_config_makes_an_object_or_is_refused(name, changes):
    cls, config = class_and_config(name)
    before = repr(config)
    try:
        item = cls.from_config(broken(config, changes))
    except (ValueError, TypeError) as error:
        strategies.assert_in_house_form(error)
    else:
        assert isinstance(item, cls)
    assert repr(config) == before


@pytest.mark.parametrize("name", OBJECTS)
@examples(10, value=junk)
def test_what_is_no_config_is_refused(name, value):
    cls, _ = class_and_config(name)
    if isinstance(value, dict):
        value = {"config": value}
    assert strategies.refused(cls.from_config, value)


@pytest.mark.parametrize("kind", GETTERS)
@examples(50, changes=changes)
def test_broken_identifier_makes_an_object_or_is_refused(kind, changes):
    get, serialize = GETTERS[kind]
    config = broken(serialize(), changes)
    try:
        item = get(config)
    except (ValueError, TypeError) as error:
        strategies.assert_in_house_form(error)
    else:
        assert item is not None


# Whatever holds an object in its config, and under which key.
HOLDERS = {
    "ODELayer": ("dynamics", "solver", "adjoint"),
    "CNFBijector": ("dynamics", "solver", "adjoint", "trace"),
    "ConcatTime": ("net",),
    "IgnoreTime": ("net",),
    "ODERNNCell": ("dynamics", "solver"),
    "BacksolveAdjoint": ("solver",),
    "CustomLikelihood": ("make_distribution",),
    "PoissonProcessLikelihood": ("marks",),
    "NormalizingFlow": ("bijector", "base_distribution"),
    "LatentODE": (
        "encoder",
        "dynamics",
        "decoder",
        "likelihood",
        "prior",
        "solver",
        "adjoint",
    ),
}


@pytest.mark.parametrize("foreign", FOREIGN)
@examples(25, name=st.sampled_from(sorted(HOLDERS)), data=st.data())
def test_foreign_code_is_refused(foreign, name, data):
    cls, config = class_and_config(name)
    key = data.draw(st.sampled_from(HOLDERS[name]))
    assert key in config
    config = copy.deepcopy(config) | {key: copy.deepcopy(FOREIGN[foreign])}
    assert strategies.refused(cls.from_config, config)


@pytest.mark.parametrize("name", OBJECTS)
def test_whole_config_makes_an_equal_object(name):
    cls, config = class_and_config(name)
    again = cls.from_config(copy.deepcopy(config)).get_config()
    assert _plain(again) == _plain(config)


def _plain(config):
    """Returns a config in words, without names that count upwards."""
    names = ("name", "shared_object_id")
    if isinstance(config, dict):
        return {k: _plain(v) for k, v in config.items() if k not in names}
    if isinstance(config, list | tuple):
        return [_plain(item) for item in config]
    return np.asarray(config).tolist()
