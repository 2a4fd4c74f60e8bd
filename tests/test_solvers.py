"""The solvers against closed forms, in every mode of execution."""

import copy
import functools
import pickle

import numpy as np
import pytest
import tensorflow as tf
from support import problems

import keras_node
from keras_node import solvers

ADAPTIVE = ["bosh3", "dopri5", "tsit5", "dopri8"]

PROBLEM = problems.all_in_two_leaves()
TIMES = np.linspace(PROBLEM.t0, PROBLEM.t1, 4)

# Options in float64, and the error allowed relative to the largest state. Of
# the fixed step methods it is what their order leaves at that step size.
ACCURATE = {
    "euler": ({"step_size": 1 / 500}, 5e-2),
    "midpoint": ({"step_size": 1 / 300}, 1e-4),
    "heun": ({"step_size": 1 / 300}, 1e-4),
    "rk4": ({"step_size": 1 / 60}, 1e-6),
    "bosh3": ({"rtol": 1e-7, "atol": 1e-9}, 1e-6),
    "dopri5": ({"rtol": 1e-8, "atol": 1e-10}, 1e-7),
    "tsit5": ({"rtol": 1e-8, "atol": 1e-10}, 1e-7),
    "dopri8": ({"rtol": 1e-8, "atol": 1e-10}, 1e-7),
}


def make(name, **options):
    return solvers.get({"class_name": name, "config": options})


@functools.cache
def solve_in_graph(name, dtype):
    """Returns a function of times, whose direction it need not know."""
    options, _ = ACCURATE[name]
    if dtype == "float32" and "rtol" in options:
        options = {"rtol": 1e-5, "atol": 1e-7}
    solver = make(name, **options)

    @tf.function(
        input_signature=[
            tf.TensorSpec([4], tf.float64),
            {
                key: tf.TensorSpec(leaf.shape, dtype)
                for key, leaf in PROBLEM.exact(1.0).items()
            },
        ]
    )
    def solve(times, initial_state):
        return keras_node.odeint(PROBLEM.f, initial_state, times, solver=solver)

    return solve


@pytest.mark.parametrize("direction", ["forwards", "backwards"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", ACCURATE)
def test_closed_forms_are_met_at_every_time(name, dtype, direction):
    times = TIMES if direction == "forwards" else TIMES[::-1]
    expected = PROBLEM.exact(times)
    initial_state = {
        key: tf.constant(rows[0], dtype) for key, rows in expected.items()
    }
    results = solve_in_graph(name, dtype)(tf.constant(times), initial_state)
    assert results.diagnostics.status == 0
    assert results.diagnostics.num_ode_fn_evaluations > 0
    tolerance = ACCURATE[name][1]
    if dtype == "float32":
        # rtol=1e-5, and the rounding of a few hundred steps.
        tolerance = max(tolerance, 1e-4)
    for key, rows in expected.items():
        assert results.states[key].dtype == dtype
        np.testing.assert_array_equal(
            results.states[key][0], initial_state[key]
        )
        error = np.abs(results.states[key] - rows)
        size = np.max(np.abs(rows), axis=0)
        assert np.all(error <= tolerance * size), (key, error / size)


def solve_cycle(solver, times, **kwargs):
    problem = problems.cycle()
    return keras_node.odeint(
        problem.f,
        problem.initial_state(times[0]),
        times,
        solver=solver,
        **kwargs,
    )


@pytest.mark.parametrize("name", ["rk4", "dopri8"])
def test_eager_graph_and_xla_take_the_same_steps(name):
    times = (1.5, 0.9, 0.3)
    solver = make(name)
    eager = solve_cycle(solver, times)
    for jit_compile in (False, True):
        function = tf.function(solve_cycle, jit_compile=jit_compile)
        compiled = function(solver, times)
        # Rounding in another order moves the steps, at worst by 1e-10.
        np.testing.assert_allclose(
            compiled.states, eager.states, rtol=1e-9, atol=0
        )
        for ours, theirs in zip(
            compiled.diagnostics, eager.diagnostics, strict=True
        ):
            assert int(ours) == int(theirs)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_tightening_rtol_reduces_the_error(name):
    problem = problems.cycle()
    errors = []
    for rtol in (1e-3, 1e-8):
        solver = make(name, rtol=rtol, atol=rtol)
        results = solve_cycle(solver, (problem.t0, problem.t1))
        error = results.states[-1] - problem.exact(problem.t1)
        errors.append(np.max(np.abs(error)))
    assert errors[0] < 1e-2
    assert errors[1] < 1e-2 * errors[0]


@pytest.mark.parametrize("name", ADAPTIVE)
def test_a_tolerance_below_rounding_counts_as_that_of_rounding(name):
    rounding = 4 * float(np.finfo(np.float32).eps)

    def solve(rtol):
        solver = make(name, rtol=rtol, atol=0.0)
        state = tf.ones([3])
        return keras_node.odeint(lambda t, y: -y, state, (0.0, 2.0), solver)

    at_rounding, below, above = map(solve, (rounding, 1e-12, 1e-5))
    np.testing.assert_array_equal(below.states, at_rounding.states)
    taken = [
        int(results.diagnostics.num_accepted_steps)
        for results in (below, at_rounding, above)
    ]
    assert taken[0] == taken[1] > taken[2]
    np.testing.assert_allclose(below.states[-1], np.exp(-2.0), rtol=1e-5)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_more_times_cost_no_steps_and_are_as_accurate(name):
    solver = make(name, rtol=1e-5, atol=1e-5)
    sparse = solve_cycle(solver, (0.3, 2.7))
    times = np.linspace(0.3, 2.7, 41)
    dense = solve_cycle(solver, times)
    before, after = sparse.diagnostics, dense.diagnostics
    assert after.num_accepted_steps == before.num_accepted_steps
    assert after.num_rejected_steps == before.num_rejected_steps
    # Graphs of their own round each in its way.
    np.testing.assert_allclose(dense.states[-1], sparse.states[-1], rtol=1e-13)
    # With so many times, every step of `Dopri8` spans one.
    per_step = 3 if name == "dopri8" else 0
    assert (
        after.num_ode_fn_evaluations
        == before.num_ode_fn_evaluations + per_step * after.num_accepted_steps
    )
    # Ten times the tolerance: errors of the steps add up.
    np.testing.assert_allclose(
        dense.states, problems.cycle().exact(times), rtol=0, atol=1e-4
    )


def test_dopri8_evaluates_more_only_in_steps_that_span_a_time():
    solver = make("dopri8", rtol=1e-8, atol=1e-8)
    end, middle = [
        solve_cycle(solver, times).diagnostics
        for times in ((0.3, 2.7), (0.3, 1.0, 2.7))
    ]
    assert end.num_accepted_steps > 2
    # One that spans 1.0, and the last, which spans the end.
    assert middle.num_ode_fn_evaluations - end.num_ode_fn_evaluations <= 2 * 3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_solved_in_float32(dtype):
    seen = []

    def dynamics(t, y):
        seen.extend([t.dtype, y.dtype])
        return -y

    y0 = tf.ones([2, 3], dtype)
    half = keras_node.odeint(dynamics, y0, (0.0, 1.0, 2.0))
    assert half.states.dtype == dtype
    assert set(seen) == {tf.as_dtype(dtype)}
    # The dynamics see a rounded state and return a rounded derivative, as if
    # the rate were off by a unit roundoff, for a time of 2; and the result is
    # rounded. Solved in half precision, it would be many more.
    tolerance = 3 * 2.0 ** (-11 if dtype == "float16" else -8)
    np.testing.assert_allclose(
        tf.cast(half.states, tf.float32)[:, 0, 0],
        np.exp([0.0, -1.0, -2.0]),
        rtol=tolerance,
    )


@pytest.mark.parametrize("name", ["rk4", "tsit5", "dopri8"])
def test_float32_states_keep_time_in_float64(name):
    options = {"step_size": 1e-1} if name == "rk4" else {"rtol": 1e-5}
    near, far = [
        keras_node.odeint(
            lambda t, y: -y,
            tf.ones([1]),
            (start, start + 0.5, start + 1.0),
            solver=make(name, **options),
        )
        for start in (0.0, 1e5)
    ]
    assert far.times.dtype == tf.float64
    np.testing.assert_array_equal(far.times, [1e5, 1e5 + 0.5, 1e5 + 1.0])
    # In float32 the clock would tick in units of 1/128 there.
    np.testing.assert_allclose(far.states, near.states, rtol=1e-6)
    np.testing.assert_allclose(far.states[-1], np.exp([-1.0]), rtol=1e-5)
    for ours, theirs in zip(far.diagnostics, near.diagnostics, strict=True):
        assert int(ours) == int(theirs)


def gradient_in_a_bare_graph(name):
    """Returns the gradient of a solve that a `tf.Graph` builds and runs."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        y0 = tf.constant([1.0, 2.0], tf.float64)
        with tf.GradientTape() as tape:
            tape.watch(y0)
            y1 = keras_node.odeint(
                lambda t, y: tf.sin(y), y0, TIMES, solver=name
            ).states[-1]
        return session.run([y1, tape.gradient(y1, y0)])


@pytest.mark.parametrize("name", ["rk4", "tsit5"])
def test_tensors_are_not_compared_by_identity(name):
    # In a `tf.Graph` and without tensor equality `==` is Python's own.
    y0 = tf.constant([1.0, 2.0], tf.float64)

    def solve():
        with tf.GradientTape() as tape:
            tape.watch(y0)
            y1 = keras_node.odeint(
                lambda t, y: tf.sin(y), y0, TIMES, solver=name
            ).states[-1]
        return y1, tape.gradient(y1, y0)

    expected = solve()
    tf.compat.v1.disable_tensor_equality()
    try:
        found = solve()
    finally:
        tf.compat.v1.enable_tensor_equality()
    np.testing.assert_allclose(found, expected, rtol=1e-14)
    np.testing.assert_allclose(
        gradient_in_a_bare_graph(name), expected, rtol=1e-14
    )


@pytest.mark.parametrize("name", ["rk4", "tsit5", "bdf", "dormand_prince"])
@pytest.mark.parametrize(
    "duplicate",
    [lambda solver: pickle.loads(pickle.dumps(solver)), copy.deepcopy],
    ids=["pickle", "deepcopy"],
)
def test_a_solver_alone_is_copied(name, duplicate):
    solver = make(name, rtol=1e-5)
    solver.atol = tf.Variable(1e-4, dtype=tf.float64)
    found = duplicate(solver)
    assert type(found) is type(solver)
    assert (found.rtol, found.atol) == (1e-5, 1e-4)
    # tfp's entry solves the adjoint with what this returns.
    assert found._make_adjoint_solver_fn() is found


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("tsit5", "float32"),
        ("tsit5", "float64"),
        # In a graph tfp wants it in the dtype of the state.
        ("bdf", "float64"),
        ("dormand_prince", "float64"),
    ],
)
def test_first_step_size_may_be_a_scalar_tensor(name, dtype):
    def solve(first_step_size):
        solver = make(name, first_step_size=first_step_size)
        y0 = tf.ones([2], tf.float64)
        return keras_node.odeint(lambda t, y: -y, y0, TIMES, solver=solver)

    expected = solve(0.25)
    for found in (
        solve(tf.constant(0.25, dtype)),
        solve(np.array(0.25, dtype)),
        tf.function(solve)(tf.constant(0.25, dtype)),
    ):
        np.testing.assert_allclose(found.states, expected.states, 1e-7)
    config = make(name, first_step_size=tf.constant(0.25, dtype)).get_config()
    assert config["first_step_size"] == 0.25
    assert type(config["first_step_size"]) is float


@pytest.mark.parametrize("value", [-0.1, [0.1], True, "a", 1j])
def test_first_step_size_is_no_other_tensor(value):
    with pytest.raises(ValueError, match="`first_step_size` must"):
        solvers.Tsit5(first_step_size=tf.constant(value))


def test_first_step_size_of_a_variable_is_read_when_a_solve_runs():
    size = tf.Variable(1e-3, dtype=tf.float64)
    solver = solvers.Tsit5(first_step_size=size)

    @tf.function
    def num_steps():
        y0 = tf.ones([2], tf.float64)
        results = keras_node.odeint(lambda t, y: -y, y0, TIMES, solver=solver)
        return results.diagnostics.num_accepted_steps

    many = num_steps()
    size.assign(0.5)
    assert num_steps() < many
    assert solver.get_config()["first_step_size"] == 0.5


@pytest.mark.parametrize("adjoint", ["checkpoint", "direct"])
@pytest.mark.parametrize("method", [solvers.RK4, solvers.Tsit5])
def test_unrolled_steps_are_those_of_the_loop(method, adjoint):
    ends, gradients, counts = [], [], []
    for unroll in (False, True):
        solver = method(step_size=0.3, unroll=unroll)

        @tf.function
        def solve(y, solver=solver):
            times = (1.0, 0.2, -0.5)
            return keras_node.odeint(
                lambda t, y: tf.sin(t) * y, y, times, solver, adjoint
            )

        y = tf.constant([1.0, 2.0])
        graph = solve.get_concrete_function(y).graph  # No tape watches it.
        loops = [op for op in graph.get_operations() if "While" in op.type]
        assert bool(loops) != unroll
        with tf.GradientTape() as tape:
            tape.watch(y)
            results = solve(y)
        gradients.append(tape.gradient(results.states, y))
        ends.append(results.states)
        counts.append(results.diagnostics.num_ode_fn_evaluations)
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-6)
    np.testing.assert_allclose(gradients[0], gradients[1], rtol=1e-6)
    assert counts[0] == counts[1]


def test_unrolled_steps_beyond_the_budget_fail_as_in_the_loop():
    solver = solvers.RK4(
        step_size=0.1, unroll=True, max_num_steps=3, on_failure="nan"
    )
    results = keras_node.odeint(
        lambda t, y: -y, tf.ones([1]), (0.0, 0.2, 1.0), solver
    )
    assert results.diagnostics.status == -1
    assert np.isfinite(results.states[1]).all()
    assert np.isnan(results.states[-1]).all()
