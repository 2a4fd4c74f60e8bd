"""Eager calls of a `LatentODE` as graphs: fast, and never out of date."""

import keras
import numpy as np
import pytest
import tensorflow_probability as tfp
from support import zoo

import keras_node
from keras_node.solvers import RK4, Euler, Tsit5

DATA = zoo.series(4)


@keras.saving.register_keras_serializable(package="tests")
class Gain(keras.layers.Layer):
    """Multiplies by a number that Python keeps."""

    def __init__(self, gain=1.0, **kwargs):
        super().__init__(**kwargs)
        self.gain = gain

    def call(self, inputs):
        return self.gain * inputs


TRACES = []


class GainedMean(keras.layers.GlobalAveragePooling1D):
    """The same as an encoder, which counts its traces."""

    gain = 1.0

    def call(self, inputs, mask=None):
        TRACES.append(self.name)
        return self.gain * super().call(inputs, mask)


def _model(**kwargs):
    keras.utils.set_random_seed(0)
    encoder = keras.layers.GlobalAveragePooling1D()
    defaults = {
        "encoder": encoder,
        "dynamics": keras.layers.Dense(2),
        "solver": "euler",
    }
    return keras_node.LatentODE(2, 2, **{**defaults, **kwargs})


def _compiled(**kwargs):
    model = _model(**kwargs)
    model.compile(keras.optimizers.SGD(0.0))
    return model


def _use(name, model):
    """Returns what a use of a model gives, an array."""
    if name == "encode":
        return model.encode(**DATA).mean().numpy()
    if name == "generate":
        return model.generate(3, np.linspace(0, 1, 4), seed=1).numpy()
    if name == "reconstruct":
        return model.reconstruct(**DATA).numpy()
    if name == "predict":
        return model.predict(DATA, verbose=0)
    if name == "evaluate":
        # The bound has a sample in it.
        logs = model.evaluate(DATA, verbose=0, return_dict=True)
        return np.array(logs["nfe"])
    return getattr(model, name)(**DATA, seed=1).numpy()


@pytest.mark.parametrize("use", ["elbo", "generate", "predict", "evaluate"])
def test_another_solver_is_used_at_once(use):
    model = _compiled()
    before = _use(use, model)
    model.solver = RK4()
    after = _use(use, model)
    assert np.any(after != before)
    np.testing.assert_array_equal(after, _use(use, _compiled(solver=RK4())))


def test_another_tolerance_is_used_at_once():
    model = _model(solver=Tsit5(rtol=1e-1, atol=1e-1))
    before = _use("reconstruct", model)
    model.solver.rtol = model.solver.atol = 1e-6
    exact = _use("reconstruct", _model(solver=Tsit5(rtol=1e-6, atol=1e-6)))
    after = _use("reconstruct", model)
    assert np.any(after != before)
    np.testing.assert_array_equal(after, exact)


def test_fit_counts_the_evaluations_of_another_solver():
    model = _compiled()
    counts = []
    for solver in ("euler", RK4()):
        model.solver = solver
        history = model.fit(DATA, verbose=0).history
        counts.append(history["nfe"][0])
    assert counts[1] == 4 * counts[0]


class Spy(keras_node.adjoints.AutoAdjoint):
    """Counts the solves that it is asked for."""

    num_solves = 0

    def solve(self, problem):
        self.num_solves += 1
        return super().solve(problem)


def test_another_adjoint_is_used_at_once():
    model = _compiled()
    for use in (_use, lambda _, model: model.fit(DATA, verbose=0)):
        use("elbo", model)
        model.adjoint = Spy()
        use("elbo", model)
        assert model.adjoint.num_solves > 0


def test_compilation_follows_solver_and_adjoint():
    model = _compiled()
    assert model.supports_jit
    model.solver = "bdf"
    assert not model.supports_jit
    assert not model.jit_compile
    model.solver = Euler()
    assert model.supports_jit
    model.adjoint = keras_node.adjoints.BacksolveAdjoint("bdf")
    assert not model.supports_jit
    model.adjoint = "auto"
    assert model.supports_jit
    with pytest.raises(ValueError, match="`solver` must be one of"):
        model.solver = "eulerian"


def test_compilation_that_was_asked_for_is_kept_where_it_is_possible():
    model = _model()
    model.compile("sgd", jit_compile=True)
    model.solver = RK4()
    assert model.jit_compile
    model.solver = "bdf"
    assert not model.jit_compile


PARTS = {
    "dynamics": lambda model: model.dynamics,
    "decoder": lambda model: model.decoder,
    "head": lambda model: model._posterior_head,
}


def _quantize(layer):
    layer.quantize("int8")


def _enable_lora(layer):
    layer.enable_lora(1)
    layer.lora_kernel_b.assign(keras.ops.ones_like(layer.lora_kernel_b))


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("dynamics", _quantize),
        pytest.param("decoder", _enable_lora, marks=pytest.mark.slow),
        pytest.param("head", _quantize, marks=pytest.mark.slow),
    ],
)
def test_layer_that_is_quantized_or_gets_lora_is_used_as_it_is(part, change):
    model = _compiled(decoder=keras.layers.Dense(2))
    before = [_use(use, model) for use in ("reconstruct", "elbo", "predict")]
    change(PARTS[part](model))
    after = [_use(use, model) for use in ("reconstruct", "elbo", "predict")]
    for old, new in zip(before, after, strict=True):
        assert np.any(old != new)
    np.testing.assert_allclose(after[0], model(DATA), atol=1e-6)
    np.testing.assert_allclose(after[0], after[2], atol=1e-6)


def test_weights_of_lora_are_trained_after_a_first_fit():
    model = _model(decoder=keras.layers.Dense(2))
    model.compile(keras.optimizers.SGD(0.1))
    model.fit(DATA, verbose=0)
    model.decoder.enable_lora(1)
    model.compile(keras.optimizers.SGD(0.1))
    model.fit(DATA, verbose=0)
    assert np.any(model.decoder.lora_kernel_b != 0)


@pytest.mark.parametrize("part", ["dynamics", "decoder", "encoder"])
def test_number_in_a_layer_of_ones_own_is_seen(part):
    gain = GainedMean() if part == "encoder" else Gain()
    model = _model(**{part: gain})
    before = _use("reconstruct", model)
    gain.gain = 2.0
    after = _use("reconstruct", model)
    assert np.any(after != before)
    np.testing.assert_allclose(after, model(DATA), atol=1e-6)


def test_what_a_python_function_reads_is_seen():
    options = {"gain": 1.0}
    model = _model(dynamics=lambda t, z: options["gain"] * z)
    before = _use("reconstruct", model)
    options["gain"] = 2.0
    after = _use("reconstruct", model)
    assert np.any(after != before)
    np.testing.assert_allclose(after, model(DATA), atol=1e-6)


def test_what_a_lambda_layer_reads_is_seen():
    options = {"gain": 1.0}
    model = _model(decoder=keras.layers.Lambda(lambda z: options["gain"] * z))
    before = _use("reconstruct", model)
    options["gain"] = 2.0
    np.testing.assert_allclose(_use("reconstruct", model), 2.0 * before)


def test_another_prior_is_that_of_unobserved_series_at_once():
    model = _model()
    unseen = {**DATA, "mask": np.zeros(DATA["values"].shape, bool)}
    assert np.all(model.encode(**unseen).mean() == 0.0)
    model.prior = tfp.distributions.MultivariateNormalDiag([5.0, 5.0])
    np.testing.assert_array_equal(
        model.encode(**unseen).mean(), [[5.0, 5.0]] * 4
    )


def test_another_initial_time_is_used_at_once():
    model = _model(encoder="rnn")
    before = _use("encode", model)
    model.initial_time = -5.0
    after = _use("encode", model)
    assert np.any(after != before)
    np.testing.assert_array_equal(
        after, model._process.posterior(model._observe(DATA)).mean()
    )


@pytest.mark.parametrize("use", ["encode", "elbo"])
def test_nothing_is_traced_again_while_nothing_changes(use):
    model = _compiled(encoder=GainedMean())
    _use(use, model)
    for train in (model.fit, model.evaluate, model.predict):
        train(DATA, verbose=0)
    _use(use, model)
    num_traces = len(TRACES)
    for train in (model.fit, model.evaluate, model.predict):
        train(DATA, verbose=0)
    _use(use, model)
    assert len(TRACES) == num_traces


def test_graphs_that_are_out_of_date_are_let_go():
    model = _model()
    for step_size in (0.5, 0.25, 0.125):
        model.solver = Euler(step_size=step_size)
        _use("reconstruct", model)
    assert len(model._kept._functions) == 1
