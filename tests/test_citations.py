"""What to cite: every method names its publications, and models find them."""

import inspect
import pathlib
import re

import keras
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import keras_node
from keras_node import adjoints, objectives, regularizers, solvers, trace
from keras_node.common.bibliography import ENTRIES

tfb = tfp.bijectors
tfd = tfp.distributions

ROOT = pathlib.Path(__file__).parents[1]
BASES = (
    adjoints.Adjoint,
    keras.layers.Layer,
    objectives.Objective,
    regularizers.Regularizer,
    solvers.Solver,
    tfp.math.ode.Solver,
    trace.TraceEstimator,
)
# Parts of methods: what holds them has the publication.
WITHOUT = {
    keras_node.ConcatTime,
    keras_node.IgnoreTime,
    solvers.ExplicitRungeKutta,
    solvers.Rosenbrock,
}
TSIT5 = {"tsitouras2011"}
CHECKPOINT = {"griewank2000", "hager2000", "zhuang2020"}


def public_classes():
    modules = [
        keras_node,
        adjoints,
        objectives,
        regularizers,
        solvers,
        trace,
    ]
    found = {
        value
        for module in modules
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and name in getattr(module, "__all__", vars(module))
    }
    classes = {
        c for c in found if issubclass(c, (*BASES, keras_node.Event))
    } - {*BASES, *WITHOUT}
    assert {solvers.Rodas5P, solvers.BDF, keras_node.LatentODE} <= classes
    return sorted(classes, key=lambda cls: cls.__name__)


def keys_of(obj):
    entries = keras_node.citation(obj).split("\n\n")
    keys = [re.match(r"@\w+\{(\w+),", entry)[1] for entry in entries]
    assert keys == sorted(set(keys))
    return set(keys)


def flow_of(bijector):
    return keras_node.NormalizingFlow(
        bijector, tfd.MultivariateNormalDiag(tf.zeros(2))
    )


@pytest.mark.parametrize("cls", public_classes(), ids=lambda c: c.__name__)
def test_every_method_cites_what_its_docstring_refers_to(cls):
    assert cls.citations
    for key in cls.citations:
        link = re.search(r"url = \{(.*)\},", ENTRIES[key])[1]
        is_auto = cls is adjoints.AutoAdjoint
        text = (adjoints.CheckpointAdjoint if is_auto else cls).__doc__
        assert f"]({link})" in text


@pytest.mark.parametrize("key", ENTRIES)
def test_an_entry_is_bibtex(key):
    entry = ENTRIES[key]
    assert re.fullmatch(r"@[a-z]+\{\w+,\n(  .*\n)+\}", entry)
    depth = 0
    for character in entry:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    assert entry.isascii()
    names = re.findall(r"(?:^  |, )(\w+) = \{", entry, re.MULTILINE)
    assert len(names) == len(set(names))
    assert {"author", "title", "year", "url"} <= set(names)
    assert re.search(r"year = \{(\d{4})\}", entry)[1] == key[-4:]
    author = re.search(r"author = \{(\w+),", entry)[1]
    assert author.lower() == key[:-4]


def test_keys_are_unique_and_each_entry_is_cited():
    from_text = re.findall(r"@\w+\{(\w+),", "\n".join(ENTRIES.values()))
    assert from_text == sorted(set(from_text)) == list(ENTRIES)
    cited = {key for cls in public_classes() for key in cls.citations}
    assert cited == set(ENTRIES)


def test_the_page_of_methods_has_every_publication():
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    for entry in ENTRIES.values():
        link = re.search(r"url = \{(.*)\},", entry)[1]
        assert f"]({link})" in page


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("tsit5", TSIT5),
        ("dopri5", {"dormand1980", "shampine1986"}),
        ("bdf", {"shampine1997"}),
        ("auto", CHECKPOINT),
        ("backsolve", {"chen2018", "kidger2021"}),
        ("hutch++", {"meyer2021"}),
        ("flow_matching", {"lipman2023", "tong2024"}),
        ("kinetic_energy", {"finlay2020"}),
    ],
)
def test_a_name_stands_for_its_object(name, keys):
    assert keys_of(name) == keys


def test_two_layers_of_a_model_list_each_once():
    model = keras.Sequential(
        [
            keras_node.Augment(1),
            keras_node.ODELayer(keras.layers.Dense(3)),
            keras_node.ODELayer(
                keras.layers.Dense(3),
                solver="rodas5p",
                adjoint="direct",
                regularizers=["kinetic_energy"],
                events=keras_node.Event(lambda t, y: y[:, 0]),
            ),
        ]
    )
    expected = {"chen2018", "dupont2019", "finlay2020", "hager2000"}
    expected |= {"chen2021", "steinebach2023"} | TSIT5 | CHECKPOINT
    assert keys_of(model) == expected


def test_the_default_adjoint_is_that_of_the_solver():
    layer = keras_node.ODELayer(keras.layers.Dense(2), solver="bdf")
    assert keys_of(layer) == {"chen2018", "kidger2021", "shampine1997"}
    layer.solver = "rk4"
    assert keys_of(layer) == {"chen2018", "hairer1993"} | CHECKPOINT


def test_the_solver_of_a_backward_pass_is_cited():
    adjoint = adjoints.BacksolveAdjoint(solver="bosh3")
    assert keys_of(adjoint) == {"bogacki1989", "chen2018", "kidger2021"}


def test_a_flow_finds_the_bijectors_of_its_chain():
    cnf = keras_node.CNFBijector(
        keras_node.PlanarDynamics(4),
        trace="hutchinson",
        evaluation_trace="exact",
    )
    chain = tfb.Chain([tfb.Scale(2.0), tfb.Invert(cnf)])
    expected = {"chen2018", "grathwohl2019", "hutchinson1990"}
    expected |= TSIT5 | CHECKPOINT
    assert keys_of(chain) == expected
    flow = flow_of(chain)
    assert keys_of(flow) == keys_of(flow.distribution) == expected
    flow.compile("adam", objective="flow_matching")
    assert keys_of(flow) == expected | {"lipman2023", "tong2024"}


def test_a_latent_ode_finds_its_encoder():
    model = keras_node.LatentODE(
        observation_dim=1, latent_dim=2, encoder="ode_rnn"
    )
    expected = {"chen2018", "rubanova2019"} | TSIT5 | CHECKPOINT
    # The encoder crosses gaps by the midpoint rule.
    assert keys_of(model) == expected | {"hairer1993"}


def test_a_list_of_objects_is_cited_together():
    objects = [solvers.Tsit5(), adjoints.DirectAdjoint(), keras.layers.ReLU()]
    assert keys_of(objects) == {"hager2000", "tsitouras2011"}


@pytest.mark.parametrize("obj", [None, 5, [], keras.layers.ReLU()])
def test_what_has_no_publication_is_refused(obj):
    with pytest.raises(TypeError, match="(?s)`obj` must be .* Received: obj="):
        keras_node.citation(obj)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="(?s)must be the name .*obj='rk45'"):
        keras_node.citation("rk45")
