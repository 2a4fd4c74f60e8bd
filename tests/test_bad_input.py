"""Input that nobody expects: an answer, or an error that says what is wrong.

Never a hang, a silent NaN, a missing gradient or an error of another kind.
"""

import keras
import numpy as np
import pytest
import strategies
import tensorflow as tf
import tensorflow_probability as tfp
from hypothesis import strategies as st
from strategies import anything, examples

import keras_node
from keras_node import adjoints, likelihoods, regularizers, solvers, trace

# Thousands of generated cases take minutes.
pytestmark = pytest.mark.slow

tfd = tfp.distributions
watchdog = pytest.fixture(scope="module", autouse=True)(strategies.watchdog)
# A bound on what is slow because it is far away.
FEW_STEPS = {"max_num_steps": 40}


def decays(t, y):
    return tf.nest.map_structure(tf.negative, y)


def odeint(dynamics=decays, initial_state=(1.0, 2.0), times=(0.0, 1.0), **rest):
    """`keras_node.odeint`, by default of few steps; returns the states."""
    rest.setdefault("solver", solvers.Tsit5(**FEW_STEPS))
    state = initial_state
    if isinstance(state, tuple):
        state = tf.constant(state)
    return keras_node.odeint(dynamics, state, times, **rest).states


def answer_or_refusal(function, *arguments, **options):
    """Calls a function: its answer must be finite, or a refusal well said."""
    try:
        answer = function(*arguments, **options)
    except strategies.ERRORS as error:
        strategies.assert_in_house_form(error)
    else:
        strategies.assert_all_finite(answer)


def solves(solver):
    return odeint(solver=solver)


def differentiates(adjoint):
    y0 = tf.constant([1.0, 2.0])
    with tf.GradientTape() as tape:
        tape.watch(y0)
        states = odeint(initial_state=y0, adjoint=adjoint)
    return tape.gradient(states, [y0])


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
    outputs = tf.ones((2, 3, 2))
    ones = tf.ones((2, 3, 2))
    return likelihood.log_prob(outputs, ones, ones > 0, ones[..., 0] > 0)


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
    "DormandPrince": (solvers.DormandPrince, OF_ALL_SOLVERS, solves),
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
        {"window": (0.0, 1.0), "marks": "normal"},
        lambda likelihood: likelihood.mean(tf.ones((2, 3, 3))),
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


@pytest.mark.parametrize("maker", MAKERS)
@examples(45, data=st.data(), value=anything())
def test_any_argument_is_used_or_refused(maker, data, value):
    make, arguments, use = MAKERS[maker]
    name = data.draw(st.sampled_from(sorted(arguments)))
    # Other people's callables raise errors of their own.
    if callable(value) and name in ("dynamics", "make_distribution"):
        value = "not callable"
    answer_or_refusal(lambda: use(make(**arguments | {name: value})))


OF_ODEINT = ("dynamics", "initial_state", "times", "solver", "adjoint")


@pytest.mark.parametrize("name", OF_ODEINT)
@examples(60, value=anything())
def test_any_argument_of_a_solve_is_used_or_refused(name, value):
    if callable(value) and name == "dynamics":
        value = "not callable"
    answer_or_refusal(odeint, **{name: value})


@examples(100, value=anything())
def test_derivative_of_any_kind_is_used_or_refused(value):
    answer_or_refusal(odeint, lambda t, y: value)
