"""Random arguments: an answer, or an error that says what is wrong.

Never a hang, a silent NaN, a missing gradient or an error of another kind.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from hypothesis import strategies as st
from support import strategies
from support.strategies import (
    FEW_STEPS,
    Y0,
    answer_or_refusal,
    anything,
    decays,
    examples,
    solve,
)

import keras_node
from keras_node import adjoints, likelihoods, regularizers, solvers, trace

tfd = tfp.distributions
watchdog = pytest.fixture(scope="module", autouse=True)(strategies.watchdog)


def solves(solver):
    return solve(solver=solver)


def differentiates(adjoint):
    with tf.GradientTape() as tape:
        tape.watch(Y0)
        states = solve(adjoint=adjoint)
    return tape.gradient(states, [Y0])


def transforms(bijector):
    y = bijector.forward(tf.ones((2, 2)))
    return [y, bijector.forward_log_det_jacobian(tf.ones((2, 2)))]


def estimates(trace):
    return transforms(keras_node.CNFBijector(decays, trace=trace))


def penalizes(regularizer):
    layer = keras_node.ODELayer(decays, regularizers=[regularizer])
    return [layer(tf.ones((2, 2))), *layer.losses]


def calls(layer):
    return layer(tf.ones((2, 2)))


def calls_with_time(layer):
    return layer(tf.constant(0.5), tf.ones((2, 2)))


def recurs(cell):
    return keras.layers.RNN(cell)(tf.ones((2, 3, 3)))


def likens(likelihood):
    likelihood.build((2, 3, 2))
    return likelihood.mean(tf.ones((2, 3, 2)))


def encodes(model):
    posterior = model.encode(np.ones((2, 3, 2)), [0.0, 0.5, 1.0])
    return [posterior.mean(), posterior.stddev()]


def scores(flow):
    return flow.log_prob(tf.ones((2, 2)))


OF_ALL_SOLVERS = {
    "rtol": 1e-3,
    "atol": 1e-6,
    "first_step_size": None,
    "max_num_steps": 40,
    "on_failure": "raise",
}
OF_OURS = OF_ALL_SOLVERS | {
    "step_size": None,
    "safety_factor": 0.8,
    "min_step_size_factor": 0.2,
    "max_step_size_factor": 10.0,
    "per_sample_steps": False,
}
NOISE = {"num_probes": 1, "distribution": "rademacher", "seed": None}
OF_ODE_LAYER = {
    "dynamics": decays,
    "times": (0.0, 1.0),
    "solver": solvers.Tsit5(**FEW_STEPS),
    "adjoint": "auto",
    "return_sequences": False,
    "regularizers": None,
}
OF_BIJECTOR = {
    "dynamics": decays,
    "times": (0.0, 1.0),
    "solver": solvers.Tsit5(**FEW_STEPS),
    "adjoint": "auto",
    "trace": "exact",
    "event_ndims": 1,
    "name": "cnf",
    "regularizers": None,
    "evaluation_trace": None,
}
OF_LATENT_ODE = {
    "observation_dim": 2,
    "latent_dim": 2,
    "encoder": "rnn",
    "dynamics": None,
    "decoder": None,
    "likelihood": "normal",
    "prior": None,
    "initial_time": 0.0,
    "solver": "tsit5",
    "adjoint": "auto",
}
# What is made, of which arguments, and how to use it.
MAKERS = {
    "Tsit5": (solvers.Tsit5, OF_OURS, solves),
    "RK4": (solvers.RK4, OF_OURS, solves),
    "DormandPrince": (
        solvers.DormandPrince,
        OF_ALL_SOLVERS | {"first_step_size": 0.1},
        solves,
    ),
    "CheckpointAdjoint": (
        adjoints.CheckpointAdjoint,
        {"max_checkpoints": 4},
        differentiates,
    ),
    "BacksolveAdjoint": (
        adjoints.BacksolveAdjoint,
        {"solver": None},
        differentiates,
    ),
    "Hutchinson": (trace.Hutchinson, NOISE, estimates),
    "HutchPlusPlus": (trace.HutchPlusPlus, NOISE, estimates),
    "KineticEnergy": (regularizers.KineticEnergy, {"weight": 0.1}, penalizes),
    "JacobianFrobenius": (
        regularizers.JacobianFrobenius,
        {"weight": 0.1, "seed": None},
        penalizes,
    ),
    "NormalLikelihood": (likelihoods.NormalLikelihood, {"scale": 1.0}, likens),
    "CustomLikelihood": (
        likelihoods.CustomLikelihood,
        {"make_distribution": lambda x: tfd.Normal(x, 1.0)},
        likens,
    ),
    "PoissonProcessLikelihood": (
        likelihoods.PoissonProcessLikelihood,
        {"window": (0.0, 1.0), "marks": None},
        likens,
    ),
    "Augment": (keras_node.Augment, {"units": 2}, calls),
    "ConcatTime": (
        keras_node.ConcatTime,
        {"net": keras.layers.Dense(2)},
        calls_with_time,
    ),
    "IgnoreTime": (
        keras_node.IgnoreTime,
        {"net": keras.layers.Dense(2)},
        calls_with_time,
    ),
    "PlanarDynamics": (
        keras_node.PlanarDynamics,
        {"units": 2, "hypernetwork": False, "hidden_units": 3},
        calls_with_time,
    ),
    "ODERNNCell": (
        keras_node.ODERNNCell,
        {"units": 2, "dynamics": None, "solver": "midpoint"},
        recurs,
    ),
    "ODELayer": (keras_node.ODELayer, OF_ODE_LAYER, calls),
    "CNFBijector": (keras_node.CNFBijector, OF_BIJECTOR, transforms),
    "NormalizingFlow": (
        keras_node.NormalizingFlow,
        {
            "bijector": tfp.bijectors.Identity(),
            "base_distribution": tfd.MultivariateNormalDiag(tf.zeros(2)),
        },
        scores,
    ),
    "LatentODE": (keras_node.LatentODE, OF_LATENT_ODE, encodes),
}


# Functions of other people, who have errors of their own.
FOREIGN = ("dynamics", "kl_weight", "likelihood", "make_distribution", "marks")
# Integers that memory has to hold.
SIZES = (
    "hidden_units",
    "latent_dim",
    "max_checkpoints",
    "max_num_steps",
    "num_probes",
    "num_samples",
    "observation_dim",
    "sample_shape",
    "units",
)


def suitable(name, value):
    """Returns a value, or another where it could only do harm."""
    if name in FOREIGN and callable(value):
        return "not callable"
    if name in SIZES and isinstance(value, int):
        return min(value, 3)
    return value


# Of Keras, of an encoder that takes no mask.
@pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask")
@pytest.mark.parametrize("maker", MAKERS)
@examples(30, data=st.data(), value=anything())
def test_any_argument_is_used_or_refused(maker, data, value):
    make, arguments, use = MAKERS[maker]
    name = data.draw(st.sampled_from(sorted(arguments)))
    arguments = arguments | {name: suitable(name, value)}
    answer_or_refusal(lambda: use(make(**arguments)))


OF_ODEINT = ("dynamics", "initial_state", "times", "solver", "adjoint")


@pytest.mark.parametrize("name", OF_ODEINT)
@examples(40, value=anything())
def test_any_argument_of_a_solve_is_used_or_refused(name, value):
    answer_or_refusal(solve, **{name: suitable(name, value)})


@examples(50, value=anything())
def test_derivative_of_any_kind_is_used_or_refused(value):
    answer_or_refusal(solve, lambda t, y: value)


@pytest.fixture(scope="module")
def layer():
    return keras_node.ODELayer(decays, solver=solvers.Tsit5(**FEW_STEPS))


def _towards(t, y, condition):
    # With any number of features: those are for the dynamics to refuse.
    return tf.reduce_mean(condition, axis=-1, keepdims=True) - y


@pytest.fixture(scope="module")
def flow():
    """A density with a condition, which moves it."""
    flow = keras_node.NormalizingFlow(
        keras_node.CNFBijector(
            _towards,
            solver=solvers.Tsit5(**FEW_STEPS),
        ),
        tfd.MultivariateNormalDiag(tf.zeros(2)),
    )
    flow.compile("sgd")
    return flow


@pytest.fixture(scope="module")
def model():
    model = keras_node.LatentODE(
        2, 2, solver=solvers.Tsit5(max_num_steps=200), dynamics=decays
    )
    model.compile("sgd")
    return model


ONES = tf.ones((2, 2))
SERIES = {"values": np.ones((2, 3, 2)), "times": [0.0, 0.5, 1.0], "mask": None}
DRAWS = {"num_samples": 2, "seed": 1}
# Of which fixture, which method, with which arguments.
CALLS = {
    "layer": ("layer", "__call__", {"inputs": ONES, "times": None}),
    "log_prob": ("flow", "log_prob", {"x": ONES, "condition": ONES}),
    "sample": (
        "flow",
        "sample",
        {"sample_shape": 2, "condition": ONES, "seed": 1},
    ),
    "fit of a flow": ("flow", "fit", {"x": ONES}),
    "encode": ("model", "encode", SERIES),
    "elbo": ("model", "elbo", {**SERIES, "targets": None, **DRAWS}),
    "bound": (
        "model",
        "importance_weighted_bound",
        {**SERIES, "targets": None, **DRAWS},
    ),
    "reconstruct": (
        "model",
        "reconstruct",
        {**SERIES, "target_times": [0.0, 2.0], "credible_mass": 0.9, **DRAWS},
    ),
    "generate": ("model", "generate", {"times": [0.0, 0.5, 1.0], **DRAWS}),
    "compile": ("model", "compile", {"num_samples": 1, "kl_weight": 1.0}),
    "fit": ("model", "fit", {"x": SERIES}),
}


@pytest.mark.parametrize("call", CALLS)
@examples(30, data=st.data(), value=anything())
def test_any_argument_of_a_call_is_used_or_refused(request, call, data, value):
    fixture, method, arguments = CALLS[call]
    function = getattr(request.getfixturevalue(fixture), method)
    name = data.draw(st.sampled_from(sorted(arguments)))
    arguments = arguments | {name: suitable(name, value)}
    if method == "fit":
        arguments["verbose"] = 0
    answer_or_refusal(lambda: _tensors(function(**arguments)))


def _tensors(answer):
    if isinstance(answer, tfd.Distribution):
        return [answer.mean(), answer.stddev()]
    return [] if isinstance(answer, keras.callbacks.History) else answer
