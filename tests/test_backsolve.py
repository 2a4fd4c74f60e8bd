"""Tests of the continuous adjoint, integrated backwards."""

import numpy as np
import pytest
import scipy.integrate
import tensorflow as tf
from support.gradients import assert_close, end, float64, gradient, tight

import keras_node
from keras_node.adjoints import BacksolveAdjoint
from keras_node.integration.solve import solve
from keras_node.solvers import RK4, Dopri5, Dopri8, Tsit5


def backward_evaluations(dynamics, state, times, solver, variables=()):
    """Returns the NFE of the backward pass, and the gradient to the state."""

    @tf.function(autograph=False)
    def run(state):
        counts = []
        with tf.GradientTape() as tape:
            tape.watch([state, list(variables)])
            states = solve(
                dynamics,
                state,
                times,
                solver,
                "backsolve",
                on_backward=counts.append,
            ).states
            loss = tf.reduce_sum(tf.sin(states))
        slope, _ = tape.gradient(loss, (state, list(variables)))
        return counts[0], slope

    count, slope = run(state)
    return int(count), slope


def test_number_of_parameters_does_not_add_evaluations():
    # The weights' own integral oscillates with amplitude `size`, which error
    # control on it would have to resolve.
    def evaluations(size):
        weights = tf.Variable(tf.zeros([size], tf.float64))

        def dynamics(t, y):
            signs = tf.cos(30.0 * t) * tf.ones([size], tf.float64)
            return -y + tf.reduce_sum(weights * signs)

        return backward_evaluations(
            dynamics,
            float64([1.0]),
            (0.0, 1.0),
            Tsit5(rtol=1e-6, atol=1e-9),
            [weights],
        )[0]

    assert evaluations(1) == evaluations(10_000)


def test_output_times_are_not_cold_starts():
    def evaluations(num_times):
        times = np.linspace(0.0, 2.0, num_times)
        return backward_evaluations(
            lambda t, y: tf.stack([y[1], -y[0]]),
            float64([1.0, 0.0]),
            times,
            Tsit5(rtol=1e-6, atol=1e-9, first_step_size=1e-4),
        )[0]

    # A step for each interval at least: 6 evaluations, one more for its start.
    # A cold start at 1e-4 would climb up to 0.04 first, in 4 steps of 6.
    assert evaluations(51) <= evaluations(2) + 50 * 7 + 14


def test_state_starts_again_at_each_requested_time():
    # y' = -8 (y - cos t) gains exp(8 t) backwards: 1e10 over the whole, 1e2
    # over each interval.
    def dynamics(t, y):
        return -8.0 * (y - tf.cos(t))

    def slope(times, adjoint):
        return gradient(
            lambda y: tf.reduce_sum(
                end(
                    lambda t, state: [
                        dynamics(t, state[0]),
                        tf.sin(state[0]),
                    ],
                    [y, tf.zeros_like(y)],
                    times,
                    Tsit5(rtol=1e-6, atol=1e-8, on_failure="nan"),
                    adjoint,
                )[1]
            ),
            float64([0.3]),
        )

    expected = slope((0.0, 3.0), "checkpoint")
    anchored = slope(np.linspace(0.0, 3.0, 7), "backsolve")
    assert_close(anchored, expected, 1e-4)
    drifted = slope((0.0, 3.0), "backsolve")
    assert not abs(drifted / expected - 1.0) < 1e-2


def test_drift_is_shown_where_dynamics_contract():
    # y' = -40 (y - sin t), z' = tanh(w y): an error of y grows backwards by
    # exp(40), and dz(1)/dw is an integral of y over all times.
    w = tf.Variable(1.0, dtype=tf.float64)

    def dynamics(t, state):
        y, _ = state
        return -40.0 * (y - tf.sin(t)), tf.tanh(w * y)

    # y = (1600 sin t - 40 cos t) / 1601, with no fast part.
    y0 = -40.0 / 1601.0

    def integrand(t):
        y = (1600.0 * np.sin(t) - 40.0 * np.cos(t)) / 1601.0
        return y / np.cosh(y) ** 2

    exact, _ = scipy.integrate.quad(integrand, 0.0, 1.0)

    def error(adjoint):
        _, (dw,) = gradient(
            lambda state: tf.reduce_sum(
                end(dynamics, state, (0.0, 1.0), solver, adjoint)[1]
            ),
            (float64([y0]), float64([0.0])),
            variables=[w],
        )
        return abs(float(dw) / exact - 1.0)

    solver = Tsit5(rtol=1e-6, atol=1e-8, on_failure="nan")
    checkpoint, backsolve = error("checkpoint"), error("backsolve")
    print(f"relative error: {checkpoint=:.1e}, {backsolve=:.1e}")
    assert checkpoint < 1e-5
    # NaN, if the state has run away, is as good a demonstration.
    assert not backsolve < 0.01


@pytest.mark.parametrize("adjoint", ("auto", "backsolve"))
@pytest.mark.parametrize("name", ("dormand_prince", "bdf"))
def test_solvers_of_tfp_have_gradients(name, adjoint):
    solver = {
        "dormand_prince": keras_node.solvers.DormandPrince(
            rtol=1e-7, atol=1e-9
        ),
        "bdf": keras_node.solvers.BDF(rtol=1e-6, atol=1e-8),
    }[name]
    k, c = tf.Variable(-0.5, dtype=tf.float64), float64([2.0])
    times = float64([0.0, 0.4, 1.0])

    def loss(sources):
        states = keras_node.odeint(
            lambda t, y: k * c * y, *sources, solver=solver, adjoint=adjoint
        ).states
        return tf.reduce_sum(states * [[0.0], [1.0], [2.0]])

    (dy0, dtimes), (dk, dc) = gradient(
        loss, (float64([1.5]), times), variables=[k, c]
    )
    t, weight = np.array([0.0, 0.4, 1.0]), np.array([0.0, 1.0, 2.0])
    y = 1.5 * np.exp(-t)
    moments = np.sum(weight * t * y)
    slopes = -weight * y
    slopes[0] = np.sum(weight * y)
    # BDF of order 5 at most, at its rtol of 1e-6, is good to 1e-4.
    rtol = 1e-5 if name == "dormand_prince" else 2e-4
    assert_close(dy0, [np.sum(weight * y) / 1.5], rtol)
    assert_close(dk, 2.0 * moments, rtol)
    assert_close(dc, [-0.5 * moments], rtol)
    assert_close(dtimes, slopes, rtol)


@pytest.mark.parametrize(
    "solver", ("dopri5", Dopri8(rtol=1e-9, atol=1e-12), RK4(step_size=0.01))
)
def test_backward_pass_may_have_its_own_solver(solver):
    adjoint = BacksolveAdjoint(solver=solver)
    dy0 = gradient(
        lambda y: end(lambda t, y: -(y**2), y, (0.0, 1.0), tight(), adjoint),
        float64([1.0]),
    )
    # The named one has the default rtol of 1e-3.
    assert_close(dy0, [0.25], 5e-3 if solver == "dopri5" else 1e-5)
    if solver == "dopri5":
        assert abs(float(dy0[0]) - 0.25) > 1e-9


def test_configuration_makes_an_equal_adjoint():
    adjoint = BacksolveAdjoint(solver=Dopri5(rtol=1e-4))
    config = keras_node.adjoints.serialize(adjoint)
    again = keras_node.adjoints.get(config)
    assert isinstance(again.solver, Dopri5)
    assert again.solver.rtol == 1e-4
    assert BacksolveAdjoint.from_config({"solver": None}).solver is None


def test_backward_pass_that_fails_says_so():
    # Forward y is constant; backward a grows without bound on its step.
    adjoint = BacksolveAdjoint(solver=Tsit5(max_num_steps=3, rtol=1e-8))
    with pytest.raises(tf.errors.InvalidArgumentError, match="max_num_steps"):
        gradient(
            lambda y: end(
                lambda t, y: tf.sin(20.0 * y), y, (0.0, 3.0), "tsit5", adjoint
            ),
            float64([1.0]),
            "eager",
        )


def heat(conductivity, num_points=32):
    """Heat conduction of a rod: backwards in time it is unstable."""

    def dynamics(t, y):
        padded = tf.pad(y, [[0, 0]] * (y.shape.rank - 1) + [[1, 1]])
        curvature = padded[..., 2:] - 2.0 * y + padded[..., :-2]
        return conductivity * curvature * (num_points + 1) ** 2

    x = np.pi * np.arange(1, num_points + 1) / (num_points + 1)
    return dynamics, tf.constant(np.sin(x) + 0.3 * np.sin(3.0 * x))


@pytest.mark.parametrize(
    ("on_failure", "mode"),
    [
        ("raise", "eager"),
        ("raise", "graph"),
        ("nan", "graph"),
        pytest.param("nan", "eager", marks=pytest.mark.slow),
    ],
)
def test_a_drift_too_large_gives_no_gradient(on_failure, mode):
    # Without a bound it was 2.6e14 in the place of -1.5, with status 0.
    conductivity = tf.Variable(1.0, dtype=tf.float64)
    dynamics, y0 = heat(conductivity)
    solver = Tsit5(rtol=1e-7, on_failure=on_failure)

    def slope():
        with tf.GradientTape() as tape:
            end_state = end(dynamics, y0, (0.0, 0.02), solver, "backsolve")
        return tape.gradient(end_state, conductivity)

    run = slope if mode == "eager" else tf.function(slope, autograph=False)
    if on_failure == "nan":
        assert np.isnan(run())
    else:
        with pytest.raises(tf.errors.InvalidArgumentError, match="drifted"):
            run()


def test_drift_is_a_metric_of_the_layer():
    dynamics, y0 = heat(1.0, num_points=4)
    layer = keras_node.ODELayer(
        dynamics,
        times=(0.0, 0.02),
        solver=Tsit5(rtol=1e-4),
        adjoint=BacksolveAdjoint(max_drift=None),
        name="rod",
        dtype="float64",
    )

    def drift(scale):
        for metric in layer.metrics:
            metric.reset_state()
        with tf.GradientTape() as tape:
            tape.watch(y0)
            loss = tf.reduce_sum(layer(scale * y0[None])[0])
        tape.gradient(loss, y0)
        return {m.name: float(m.result()) for m in layer.metrics}["rod_drift"]

    # y1 backwards is y0 but for the error, which the tolerances scale.
    assert 1e-3 < drift(1.0) < 1e3
    assert "rod_drift" not in [
        m.name for m in keras_node.ODELayer(dynamics, name="rod").metrics
    ]


@pytest.mark.parametrize("max_drift", (0.0, -1.0, "far"))
def test_a_bound_of_drift_must_be_positive(max_drift):
    with pytest.raises(ValueError, match="max_drift"):
        BacksolveAdjoint(max_drift=max_drift)


def test_a_backward_solve_that_ends_early_names_the_adjoint():
    # Lorenz's attractor pulls together so fast that no way leads back.
    def lorenz(t, y):
        y1, y2, y3 = tf.unstack(y)
        return tf.stack(
            [10.0 * (y2 - y1), y1 * (28.0 - y3) - y2, y1 * y2 - 8.0 / 3.0 * y3]
        )

    with pytest.raises(tf.errors.InvalidArgumentError, match="checkpoint"):
        gradient(
            lambda y: end(lorenz, y, (0.0, 8.0), Tsit5(rtol=1e-6), "backsolve"),
            float64([1.0, 1.0, 1.0]),
        )


def test_no_evaluation_is_outside_the_interval():
    seen = []

    def dynamics(t, y):
        tf.py_function(lambda t: seen.append(float(t)), [t], [])
        return -y

    gradient(
        lambda y: end(dynamics, y, (0.1, 0.7), Tsit5(rtol=1e-6), "backsolve"),
        float64([1.0]),
        "eager",
    )
    assert seen and 0.1 <= min(seen) and max(seen) <= 0.7
