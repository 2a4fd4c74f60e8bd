"""Tests of what the gradients of all adjoints have in common."""

import functools

import keras
import numpy as np
import pytest
import scipy.linalg
import tensorflow as tf
from support.gradients import (
    ADJOINTS,
    RTOL,
    Flow,
    assert_close,
    end,
    float64,
    gradient,
    tight,
)

import keras_node
from keras_node import solvers

GRID = (0.2, 0.35, 0.8, 1.2)
GRIDS = {
    "forward": GRID,
    "backward": GRID[::-1],
    "two_times": (1.2, 0.2),
    "a_row_per_sample": (GRID, (0.1, 0.5, 0.6, 0.9)),
}
SOURCES = ("state", "times", "features", "variable", "keras_weight")

each_adjoint = pytest.mark.parametrize("adjoint", ADJOINTS)
each_first_order_adjoint = pytest.mark.parametrize(
    "adjoint", ("checkpoint", "backsolve")
)
in_eager_and_graph = pytest.mark.parametrize("mode", ("eager", "function"))
in_graph_and_slowly_eager = pytest.mark.parametrize(
    "mode", ("function", pytest.param("eager", marks=pytest.mark.slow))
)
in_eager_and_slowly_graph = pytest.mark.parametrize(
    "mode", ("eager", pytest.param("function", marks=pytest.mark.slow))
)


@functools.cache
def exact_gradients(grid):
    flow = Flow(GRIDS[grid])
    return flow.gradients(flow.exact, "eager")


@functools.cache
def solved_gradients(adjoint, mode, grid, solver=None):
    flow = Flow(GRIDS[grid])
    return flow.gradients(flow.numerical(solver or tight(), adjoint), mode)


# Each mode with one grid; the other combinations are slow.
FAST = {("function", "forward"), ("eager", "backward"), ("xla", "two_times")}


@pytest.mark.parametrize(
    "mode, grid",
    [
        pytest.param(
            mode,
            grid,
            marks=[] if (mode, grid) in FAST else [pytest.mark.slow],
        )
        for mode in ("eager", "function", "xla")
        for grid in ("forward", "backward", "two_times")
    ],
)
# One solve, kept, for the five sources.
@pytest.mark.parametrize("source", SOURCES)
@each_adjoint
def test_gradient_is_that_of_the_closed_form(adjoint, mode, grid, source):
    gradients = solved_gradients(adjoint, mode, grid)
    expected = exact_gradients(grid)
    assert_close(gradients[source], expected[source], RTOL[adjoint])


@pytest.mark.parametrize(
    "adjoint",
    (
        "checkpoint",
        "backsolve",
        pytest.param("direct", marks=pytest.mark.slow),
    ),
)
def test_each_sample_has_gradients_to_its_own_times(adjoint):
    grid = "a_row_per_sample"
    gradients = solved_gradients(adjoint, "function", grid)
    assert gradients["times"].shape == (2, 4)
    assert_close(gradients, exact_gradients(grid), RTOL[adjoint])


@each_adjoint
def test_gradient_to_shared_times_sums_over_per_sample_steps(adjoint):
    solver = tight(per_sample_steps=True)
    y0, k = np.array([[1.0], [-2.0]]), np.array([[0.5], [-1.5]])
    dtimes = gradient(
        lambda times: tf.reduce_sum(
            end(lambda t, y: k * y, float64(y0), times, solver, adjoint)
        ),
        float64([0.2, 1.0]),
    )
    slope = np.sum(k * y0 * np.exp(0.8 * k))
    assert_close(dtimes, [-slope, slope], RTOL[adjoint])


OTHER_SOLVERS = {
    "dopri8": tight(solvers.Dopri8),
    "bosh3": solvers.Bosh3(rtol=1e-8, atol=1e-10),
    "rk4": solvers.RK4(step_size=0.005),
}


@pytest.mark.parametrize(
    "adjoint, name",
    [
        ("checkpoint", "rk4"),
        ("backsolve", "rk4"),
        pytest.param("direct", "rk4", marks=pytest.mark.slow),
        ("checkpoint", "dopri8"),
        pytest.param("backsolve", "dopri8", marks=pytest.mark.slow),
        pytest.param("direct", "dopri8", marks=pytest.mark.slow),
        pytest.param("checkpoint", "bosh3", marks=pytest.mark.slow),
        pytest.param("backsolve", "bosh3", marks=pytest.mark.slow),
        pytest.param("direct", "bosh3", marks=pytest.mark.slow),
    ],
)
def test_gradient_of_another_solver_is_that_of_the_closed_form(adjoint, name):
    solver = OTHER_SOLVERS[name]
    gradients = solved_gradients(adjoint, "function", "forward", solver)
    assert_close(gradients, exact_gradients("forward"), RTOL[adjoint])


@each_adjoint
def test_exponential_has_the_gradients_of_its_formula(adjoint):
    k = tf.Variable(-0.8, dtype=tf.float64)
    y0, times = float64([1.5, -2.0]), float64([0.5, 1.25])
    (dy0, dtimes), (dk,) = gradient(
        lambda sources: tf.reduce_sum(
            end(lambda t, y: k * y, *sources, adjoint=adjoint)
        ),
        (y0, times),
        variables=[k],
    )
    length, growth = 0.75, np.exp(-0.8 * 0.75)
    slope = -0.8 * growth * -0.5
    assert_close(dy0, [growth, growth], RTOL[adjoint])
    assert_close(dk, length * growth * -0.5, RTOL[adjoint])
    # dL/dt0 = -a(t0) f(t0, y0).
    assert_close(dtimes, [-slope, slope], RTOL[adjoint])


@each_adjoint
def test_linear_system_has_the_frechet_derivative_of_expm(adjoint):
    rng = np.random.default_rng(1)
    a = rng.normal(size=(4, 4))
    y0, cotangent = rng.normal(size=(2, 4))
    matrix = tf.Variable(a)
    dy0, (da,) = gradient(
        lambda y: tf.reduce_sum(
            cotangent
            * end(
                lambda t, y: tf.linalg.matvec(matrix, y),
                y,
                (0.0, 1.5),
                adjoint=adjoint,
            )
        ),
        float64(y0),
        "function",
        [matrix],
    )
    propagator = scipy.linalg.expm(1.5 * a)
    assert_close(dy0, propagator.T @ cotangent, RTOL[adjoint])
    # The adjoint of the Frechet derivative is the one at the transpose.
    _, frechet = scipy.linalg.expm_frechet(
        1.5 * a.T, 1.5 * np.outer(cotangent, y0)
    )
    assert_close(da, frechet, RTOL[adjoint])


@each_adjoint
def test_riccati_equation_has_the_gradient_of_its_formula(adjoint):
    y0 = np.array([0.5, -1.0, 0.9])
    dy0 = gradient(
        lambda y: tf.reduce_sum(
            end(lambda t, y: (y - t) ** 2 + 1.0, y, (0.0, 0.8), adjoint=adjoint)
        ),
        float64(y0),
    )
    assert_close(dy0, 1.0 / (1.0 - 0.8 * y0) ** 2, RTOL[adjoint])


@in_graph_and_slowly_eager
@each_adjoint
def test_captured_encoder_output_equals_a_constant_part_of_the_state(
    adjoint, mode
):
    encoder = tf.Variable([[0.4, -0.2], [0.3, 0.9]], dtype=tf.float64)
    y0 = float64([[1.0], [2.0]])

    def rate(y, code):
        return tf.sin(y) * code[:, :1] - code[:, 1:]

    def captured(x):
        code = tf.tanh(x @ encoder)
        y = end(lambda t, y: rate(y, code), y0, (0.0, 1.0), adjoint=adjoint)
        return tf.reduce_sum(y**2)

    def carried(x):
        state = (y0, tf.tanh(x @ encoder))
        y, _ = end(
            lambda t, state: (rate(*state), tf.zeros_like(state[1])),
            state,
            (0.0, 1.0),
            adjoint=adjoint,
        )
        return tf.reduce_sum(y**2)

    x = float64([[1.0, -0.5], [0.2, 0.7]])
    actual = gradient(captured, x, mode, [encoder])
    assert_close(actual, gradient(carried, x, mode, [encoder]), RTOL[adjoint])


@each_adjoint
def test_watched_tensor_from_outside_the_graph_gets_its_gradient(adjoint):
    k, y0 = float64(0.6), float64([2.0])
    unused, (dk, dy0) = gradient(
        lambda unused: end(lambda t, y: k * y, y0, (0.0, 1.0), adjoint=adjoint),
        float64(0.0),
        variables=[k, y0],
    )
    assert unused is None
    assert_close(dk, 2.0 * np.exp(0.6), RTOL[adjoint])
    assert_close(dy0, [np.exp(0.6)], RTOL[adjoint])


@each_adjoint
def test_tensor_within_a_tf_function_of_the_dynamics_gets_its_gradient(
    adjoint,
):
    k, scale = float64(0.6), tf.Variable(0.5, dtype=tf.float64)

    @tf.function
    def dynamics(t, y):
        return scale * k * y

    _, (dk, dscale) = gradient(
        lambda y: end(dynamics, y, (0.0, 1.0), adjoint=adjoint),
        float64([2.0]),
        "eager",
        [k, scale],
    )
    assert_close(dk, 0.5 * 2.0 * np.exp(0.3), RTOL[adjoint])
    assert_close(dscale, 0.6 * 2.0 * np.exp(0.3), RTOL[adjoint])


@each_adjoint
def test_variables_as_state_and_times_get_their_gradients(adjoint):
    y0 = tf.Variable([2.0], dtype=tf.float64)
    times = tf.Variable([0.0, 0.5], dtype=tf.float64)
    with tf.GradientTape() as tape:
        y = end(lambda t, y: t * y, y0, times, adjoint=adjoint)
    dy0, dtimes = tape.gradient(y, [y0, times])
    assert_close(dy0, [np.exp(0.125)], RTOL[adjoint])
    # The slope vanishes at time 0.
    assert_close(dtimes, [0.0, np.exp(0.125)], RTOL[adjoint], atol=1e-12)


@in_graph_and_slowly_eager
@each_adjoint
def test_only_unused_sources_may_lack_a_gradient(adjoint, mode):
    used, read, untouched = (
        tf.Variable(value, dtype=tf.float64) for value in (0.5, 1.0, 2.0)
    )
    captured, ignored = float64(3.0), float64(4.0)

    def dynamics(t, y):
        read.read_value()
        tf.identity(ignored)
        return -used * captured * y

    _, gradients = gradient(
        lambda y: end(dynamics, y, (0.0, 0.5), adjoint=adjoint),
        float64([1.0]),
        mode,
        [used, captured, read, ignored, untouched],
    )
    value = np.exp(-0.75)
    expected = [-1.5 * value, -0.25 * value]
    assert_close(gradients[:2], expected, RTOL[adjoint])
    for unused in gradients[2:]:
        assert unused is None or float(unused) == 0.0


@in_graph_and_slowly_eager
@each_adjoint
def test_gather_from_an_embedding_gets_its_sparse_gradient(adjoint, mode):
    table = keras.layers.Embedding(5, 1, dtype="float64")
    table.build(())
    table.embeddings.assign([[0.1], [0.2], [-0.3], [0.4], [0.5]])
    index = tf.constant([1, 3, 1])
    _, (slope,) = gradient(
        lambda y: end(
            lambda t, y: table(index) * y, y, (0.0, 2.0), adjoint=adjoint
        ),
        float64([[1.0], [2.0], [3.0]]),
        mode,
        [table.embeddings.value],
    )
    expected = np.zeros((5, 1))
    expected[1] = (1.0 + 3.0) * 2.0 * np.exp(0.4)
    expected[3] = 2.0 * 2.0 * np.exp(0.8)
    assert_close(tf.convert_to_tensor(slope), expected, RTOL[adjoint])


@in_eager_and_slowly_graph
@each_adjoint
def test_dynamics_may_take_gradients_themselves(adjoint, mode):
    stiffness = tf.Variable([1.0, 4.0], dtype=tf.float64)

    def hamiltonian_field(t, state):
        with tf.GradientTape() as tape:
            tape.watch(state)
            q, p = state
            energy = tf.reduce_sum(stiffness * q**2 + p**2) / 2.0
        force, velocity = tape.gradient(energy, state)
        return velocity, -force

    (dq, dp), (dk,) = gradient(
        lambda state: tf.reduce_sum(
            end(hamiltonian_field, state, (0.0, 1.0), adjoint=adjoint)[0]
        ),
        (float64([1.0, 2.0]), float64([0.5, 0.0])),
        mode,
        [stiffness],
    )
    # q(1) = q0 cos w + p0 sin(w) / w, with w^2 = k.
    w, q0, p0 = np.array([1.0, 2.0]), np.array([1.0, 2.0]), np.array([0.5, 0.0])
    assert_close(dq, np.cos(w), RTOL[adjoint])
    assert_close(dp, np.sin(w) / w, RTOL[adjoint])
    dq_dw = -q0 * np.sin(w) + p0 * (np.cos(w) / w - np.sin(w) / w**2)
    assert_close(dk, dq_dw / (2.0 * w), RTOL[adjoint])


@in_graph_and_slowly_eager
@each_adjoint
def test_gradient_of_an_input_gradient_network_reaches_its_weights(
    adjoint, mode
):
    # y' = -grad E(y), E = log cosh(w y): w enters by second derivatives.
    w = tf.Variable(0.7, dtype=tf.float64)

    def downhill(t, y):
        with tf.GradientTape() as tape:
            tape.watch(y)
            energy = tf.reduce_sum(tf.math.log(tf.cosh(w * y)))
        return -tape.gradient(energy, y)

    def plain(t, y):
        return -w * tf.tanh(w * y)

    y0 = float64([1.0, -0.4])

    def solved(dynamics, adjoint):
        return gradient(
            lambda y: tf.reduce_sum(
                end(dynamics, y, (0.0, 1.0), adjoint=adjoint) ** 2
            ),
            y0,
            mode,
            [w],
        )

    expected = solved(plain, "direct")
    assert_close(solved(downhill, adjoint), expected, RTOL[adjoint])


@pytest.mark.parametrize("loss", (tf.identity, tf.square))
@in_eager_and_graph
@each_first_order_adjoint
def test_second_derivative_names_the_adjoint_that_has_it(adjoint, mode, loss):
    def first(y):
        with tf.GradientTape() as tape:
            tape.watch(y)
            value = loss(
                end(lambda t, y: -(y**2), y, (0.0, 1.0), adjoint=adjoint)
            )
        return tape.gradient(value, y)

    with pytest.raises(NotImplementedError, match='adjoint="direct"'):
        gradient(first, float64([1.0]), mode)


@in_graph_and_slowly_eager
@each_adjoint
def test_rejected_steps_that_overflow_leave_the_gradient_finite(adjoint, mode):
    # A first step of 1 meets exp(exp(...)); y = -log(1 - t) / 400 from 0.
    solver = tight(first_step_size=1.0)
    k = tf.Variable(400.0, dtype=tf.float64)
    y0, times = float64([0.0]), float64([0.0, 0.9])

    def solve(sources):
        return keras_node.odeint(
            lambda t, y: tf.exp(k * y) / k, *sources, solver, adjoint
        )

    (dy0, dtimes), (dk,) = gradient(
        lambda sources: tf.reduce_sum(solve(sources).states[-1]),
        (y0, times),
        mode,
        [k],
    )
    assert solve((y0, times)).diagnostics.num_rejected_steps > 0
    # exp(-k y) = exp(-k y0) - t
    assert_close(dy0, [1.0 / (1.0 - 0.9)], RTOL[adjoint])
    assert_close(dtimes, [-10.0 / 400.0, 10.0 / 400.0], RTOL[adjoint])
    assert_close(dk, np.log(0.1) / 400.0**2, RTOL[adjoint])


@in_graph_and_slowly_eager
@each_adjoint
def test_failing_samples_do_not_touch_the_gradient_of_the_others(adjoint, mode):
    solver = tight(per_sample_steps=True, on_failure="nan", max_num_steps=300)
    # y = y0 / (1 - y0 t): the second sample blows up at t = 0.5.
    k = tf.Variable(1.0, dtype=tf.float64)

    def loss(y):
        states = keras_node.odeint(
            lambda t, y: k * y**2, y, (0.0, 0.25, 0.8), solver, adjoint
        ).states
        finite = tf.where(tf.math.is_finite(states), states, 0.0)
        return tf.reduce_sum(finite)

    dy0, (dk,) = gradient(loss, float64([[0.5], [2.0], [-1.0]]), mode, [k])

    def exact(y0, times):
        # Its gradients at t, to y0 and to k, of y0 / (1 - k y0 t).
        over = 1.0 - y0 * times
        return np.sum(1.0 / over**2), np.sum(y0**2 * times / over**2)

    late = np.array([0.0, 0.25, 0.8])
    rows = [exact(0.5, late), exact(2.0, late[:2]), exact(-1.0, late)]
    # Up to its failure the second sample is right as well.
    assert_close(dy0, np.array(rows)[:, :1], RTOL[adjoint])
    assert_close(dk, np.sum(np.array(rows)[:, 1]), RTOL[adjoint])


@pytest.mark.parametrize("adjoint", ("checkpoint", "direct"))
@pytest.mark.parametrize("name", ("dormand_prince", "bdf"))
def test_exact_gradients_refuse_the_solvers_of_tfp(adjoint, name):
    with pytest.raises(ValueError, match='"backsolve".*Received: solver='):
        keras_node.odeint(
            lambda t, y: -y, float64([1.0]), (0.0, 1.0), name, adjoint
        )
