"""Tests of gradients of what dynamics close over, however they use it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import linalg
from support.gates import GATES, RATE, expected
from support.gradients import ADJOINTS, MODES, assert_close, float64, gradient
from support.modes import (
    RTOL,
    STATE,
    decay,
    face,
    latent_ode,
    log_prob_gradient,
    normalizing_flow,
    rk4,
    series,
    solve,
)

import keras_node


def gradients_by_capture(name, gate, adjoint, mode):
    """Returns the gradients where the dynamics close over a tensor."""
    captured = {}
    solved, _ = face(name, lambda t, y: -gate(captured["rate"]) * y, adjoint)

    def loss(sources):
        # An intermediate tensor of the graph, if there is one.
        captured["rate"] = 1.0 * sources[1]
        return tf.reduce_sum(solved(sources[0]))

    return gradient(loss, [float64(STATE), float64(RATE)], mode)


@pytest.mark.parametrize("mode", ("eager", "function"))
@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("gate", GATES)
def test_captured_tensor_has_its_gradient_through_any_gate(gate, adjoint, mode):
    actual = gradients_by_capture("odeint", GATES[gate][0], adjoint, mode)
    assert_close(actual, expected(gate, adjoint), RTOL[adjoint])


# The gates are one state under XLA, so that they are compiled together.
TOGETHER = [name for name in GATES if name != "jit_function"]


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_captured_tensors_have_their_gradients_under_xla(adjoint):
    state = dict.fromkeys(TOGETHER, float64(STATE))
    rates = {name: float64(RATE) for name in TOGETHER}

    def loss(sources):
        state, rates = sources
        rates = {name: 1.0 * rate for name, rate in rates.items()}

        def dynamics(t, y):
            return {
                name: -GATES[name][0](rates[name]) * y[name]
                for name in TOGETHER
            }

        end = solve(dynamics, state, adjoint)
        return sum(tf.reduce_sum(leaf) for leaf in end.values())

    by_state, by_rate = gradient(loss, (state, rates), "xla")
    wrong = {}
    for name in TOGETHER:
        try:
            assert_close(
                (by_state[name], by_rate[name]),
                expected(name, adjoint),
                RTOL[adjoint],
            )
        except AssertionError as error:
            wrong[name] = error
    assert not wrong


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("name", ("ODELayer", "CNFBijector"))
def test_captured_tensor_has_its_gradient_through_a_layer(name, adjoint, mode):
    actual = gradients_by_capture(name, GATES["silu"][0], adjoint, mode)
    assert_close(actual, expected("silu", adjoint), RTOL[adjoint])


@pytest.mark.parametrize("mode", ("eager", "function"))
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_adaptive_solver_gives_captured_tensors_their_gradient(adjoint, mode):
    gate, value, slope = GATES["silu"]
    solver = keras_node.solvers.Tsit5(rtol=1e-7, atol=1e-9)

    def loss(sources):
        state, rate = sources
        rate = 1.0 * rate
        return tf.reduce_sum(
            keras_node.odeint(
                lambda t, y: -gate(rate) * y,
                state,
                (0.0, 1.0),
                solver=solver,
                adjoint=adjoint,
            ).states[-1]
        )

    actual = gradient(loss, [float64(STATE), float64(RATE)], mode)
    growth = np.exp(-value(RATE))
    by_rate = -growth * slope(RATE) * np.sum(STATE, 0)
    assert_close(
        actual, (np.broadcast_to(growth, STATE.shape), by_rate), rtol=1e-5
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_density_has_its_gradient_to_a_captured_tensor(adjoint, mode):
    gate, value, slope = GATES["silu"]
    captured = {"rate": float64(RATE)}  # A flow makes its weights at once.
    flow = normalizing_flow(lambda t, y: -gate(captured["rate"]) * y, adjoint)

    def loss(rate):
        captured["rate"] = 1.0 * rate
        return tf.reduce_sum(flow.log_prob(float64(STATE)))

    actual = gradient(loss, float64(RATE), mode)
    by_rate = log_prob_gradient(STATE, value(RATE), adjoint)
    assert_close(actual, by_rate * slope(RATE), RTOL[adjoint])


def conditional(gate):
    """Returns the dynamics of a conditional flow."""

    def dynamics(t, y, condition):
        return -gate(condition) * y

    return dynamics


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_conditional_density_has_its_gradient_to_the_condition(adjoint, mode):
    gate, value, slope = GATES["silu"]
    bijector = keras_node.CNFBijector(
        conditional(gate), solver=rk4(), adjoint=adjoint
    )
    base = tfp.distributions.MultivariateNormalDiag(float64([0.0, 0.0]))
    density = tfp.distributions.TransformedDistribution(base, bijector)

    def loss(sources):
        x, condition = sources
        return tf.reduce_sum(
            density.log_prob(
                x, bijector_kwargs={"condition": tf.stack([condition] * 3)}
            )
        )

    actual = gradient(loss, (float64(STATE), float64(RATE)), mode)
    growth, _ = decay(-value(RATE), adjoint)
    by_rate = log_prob_gradient(STATE, value(RATE), adjoint)
    assert_close(
        actual, (-STATE * growth**2, by_rate * slope(RATE)), RTOL[adjoint]
    )


@pytest.mark.parametrize("mode", ("eager", "function"))
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_conditional_model_has_its_gradient_to_the_condition(adjoint, mode):
    gate, value, slope = GATES["silu"]
    flow = normalizing_flow(conditional(gate), adjoint)
    batched = float64(np.tile(RATE, (3, 1)))

    def loss(condition):
        inputs = {"x": float64(STATE), "condition": condition}
        return tf.reduce_sum(flow(inputs, training=True))

    # The model works with float32; rounding errors of a few times 1e-7.
    flow(
        {"x": float64(STATE), "condition": batched}
    )  # Keras builds outside of graphs.
    actual = gradient(loss, batched, mode)
    by_rate = log_prob_gradient(STATE, value(RATE), adjoint)
    assert_close(
        tf.reduce_sum(actual, 0),
        by_rate * slope(RATE),
        max(RTOL[adjoint], 1e-5),
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_latent_trajectory_has_its_gradient_to_a_captured_tensor(adjoint, mode):
    gate, value, slope = GATES["silu"]
    captured = {"rate": tf.constant(RATE[1], tf.float32)}
    model = latent_ode(lambda t, z: -gate(captured["rate"]) * z, adjoint)
    mean = model(series(), training=False)

    def loss(rate):
        captured["rate"] = 1.0 * rate
        return tf.reduce_sum(model(series(), training=False))

    actual = gradient(loss, tf.constant(RATE[1], tf.float32), mode)
    # Each mean is a multiple of exp(-gate t); float32 and four steps of RK4.
    times = np.array([0.0, 0.5, 1.0])[:, None]
    by_rate = -slope(RATE[1]) * np.sum(times * mean)
    assert_close(actual, by_rate, rtol=1e-4)


def state_by_gather(t, y):
    return -tf.gather(y, [2, 0, 0])


def state_by_nd(t, y):
    return -tf.gather_nd(y, [[2], [0], [0]])


def state_by_lookup(t, y):
    return -tf.nn.embedding_lookup(y, [2, 0, 0])


def state_by_take(t, y):
    return -keras.ops.take(y, [2, 0, 0], axis=0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize(
    "dynamics",
    (state_by_gather, state_by_nd, state_by_lookup, state_by_take),
)
def test_state_that_is_gathered_has_its_gradient(dynamics, adjoint, mode):
    if mode != "function" and dynamics is not state_by_gather:
        pytest.skip("the same gradients, in another mode")
    weight = np.random.default_rng(0).normal(size=STATE.shape)
    matrix = np.zeros((3, 3))
    matrix[[0, 1, 2], [2, 0, 0]] = -1.0
    # With an automatic first step, which sees the cotangents too.
    solver = keras_node.solvers.Tsit5(rtol=1e-8, atol=1e-10, max_num_steps=32)

    def loss(y):
        states = keras_node.odeint(
            dynamics, y, (0.0, 1.0), solver=solver, adjoint=adjoint
        ).states
        return tf.reduce_sum(weight * states[-1])

    actual = gradient(loss, float64(STATE), mode)
    # The solver's tolerance is 1e-8 a step.
    assert_close(actual, linalg.expm(matrix).T @ weight, rtol=1e-6)


def constants(kind):
    """Returns a large constant, and what reads one row's rates of it."""
    large = np.tile(RATE, (5000, 1))
    if kind == "float":
        return float64(large), lambda c: c[17]
    if kind == "stopped":
        return float64(large), lambda c: tf.stop_gradient(c)[17]
    if kind == "integer":
        tenths = tf.constant(np.rint(10 * large).astype("int32"))
        return tenths, lambda c: tf.cast(c[17], tf.float64) / 10.0
    return tf.Variable(large, trainable=False), lambda c: c[17]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("kind", ("float", "stopped", "integer", "variable"))
def test_large_constant_that_nobody_watches_leaves_other_gradients(
    kind, adjoint, mode
):
    if mode == "xla" and kind != "float":
        pytest.skip("a graph shows as much")
    constant, read = constants(kind)
    weight = float64([1.0, 1.0])
    actual = gradient(
        lambda sources: tf.reduce_sum(
            solve(
                lambda t, y: -read(constant) * sources[1] * y,
                sources[0],
                adjoint,
            )
        ),
        (float64(STATE), weight),
        mode,
    )
    growth, by_rate = decay(RATE, adjoint)
    assert_close(
        actual,
        (
            np.broadcast_to(growth, STATE.shape),
            RATE * by_rate * np.sum(STATE, 0),
        ),
        RTOL[adjoint],
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("adjoint", ADJOINTS)
@pytest.mark.parametrize("kind", ("float", "variable"))
@pytest.mark.filterwarnings("ignore:Converting sparse IndexedSlices")
def test_large_constant_that_is_watched_has_its_gradient(kind, adjoint, mode):
    constant, read = constants(kind)
    _, (actual,) = gradient(
        lambda y: tf.reduce_sum(
            solve(lambda t, y: -read(constant) * y, y, adjoint)
        ),
        float64(STATE),
        mode,
        [constant],
    )
    expected = np.zeros((5000, 2))
    _, by_rate = decay(RATE, adjoint)
    expected[17] = by_rate * np.sum(STATE, 0)
    assert_close(actual, expected, RTOL[adjoint])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_stopped_capture_that_is_watched_has_no_gradient(adjoint, mode):
    rate = float64(RATE)

    def compute(y):
        with tf.GradientTape() as tape:
            tape.watch([y, rate])
            value = tf.reduce_sum(
                solve(lambda t, y: -tf.stop_gradient(rate) * y, y, adjoint)
            )
        return tape.gradient(value, [y, rate], unconnected_gradients="zero")

    growth, _ = decay(RATE, adjoint)
    assert_close(
        MODES[mode](compute)(float64(STATE)),
        [np.broadcast_to(growth, STATE.shape), np.zeros(2)],
        RTOL[adjoint],
        atol=1e-12,
    )
