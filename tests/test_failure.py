"""Solves that fail: they end, and say why."""

import re

import numpy as np
import pytest
import tensorflow as tf

import keras_node
from keras_node import solvers

NAN = float("nan")
# The loop is one for all; these differ most in their tableaus.
ADAPTIVE = [solvers.Bosh3, solvers.Dopri8]

each_adaptive = pytest.mark.parametrize(
    "method", ADAPTIVE, ids=lambda method: method.__name__
)


def is_nan(t, y):
    return NAN * y


def nan_after_half(t, y):
    return tf.where(t > 0.5, NAN * y, -y)


def decays(t, y):
    return -y


def blows_up(t, y):
    return y * y


def oscillates(t, y):
    """Faster than steps that still move the clock can follow."""
    return 1e20 * tf.cos(1e20 * t) * y


def state(dtype="float64"):
    return tf.ones([2], dtype)


# Dynamics, options, state, end, status, cause, argument, time of failure.
FAILURES = {
    "nan from the start": (
        is_nan,
        {},
        state(),
        1.0,
        -3,
        "not finite.*Bound the dynamics",
        0.0,
    ),
    "nan after 0.5": (
        nan_after_half,
        {},
        state(),
        1.0,
        -3,
        "not finite.*Bound the dynamics",
        0.5,
    ),
    "nan state": (
        decays,
        {},
        state() * NAN,
        1.0,
        -3,
        "not finite.*Bound the dynamics",
        0.0,
    ),
    "steps run out": (
        decays,
        {"max_num_steps": 3, "first_step_size": 1e-3},
        state(),
        1.0,
        -1,
        "`max_num_steps` was reached.*Raise `max_num_steps`",
        None,
    ),
    "underflow": (
        oscillates,
        {"first_step_size": 0.1},
        state(),
        1.0,
        -2,
        "step size fell below.*Loosen `rtol` and `atol`",
        0.0,
    ),
}

each_failure = pytest.mark.parametrize("failure", FAILURES)


def solve(failure, method=solvers.Tsit5, **options):
    dynamics, own_options, y0, end, *_ = FAILURES[failure]
    solver = method(**own_options, **options)
    return keras_node.odeint(dynamics, y0, (0.0, end), solver=solver)


@each_failure
def test_error_names_cause_argument_and_time(failure):
    *_, code, cause, time = FAILURES[failure]
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=f"(?s){cause}"
    ) as error:
        solve(failure)
    status, found = received(error.value.message)
    assert status == code
    if time is not None:
        assert found == pytest.approx(time, abs=1e-6)
    assert 0 <= found < 1


@each_failure
def test_error_is_raised_in_a_graph(failure):
    *_, cause, _ = FAILURES[failure]
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"(?s){cause}"):
        tf.function(solve)(failure)


def received(message):
    """Returns the status and the time that an error message ends with."""
    text = message.split("Received:")[1].split("=")[1]
    status, time = re.findall(r"-?[\d.]+(?:e-?\d+)?", text)[:2]
    return int(status), float(time)


@each_failure
@each_adaptive
def test_failure_makes_nan_and_a_status_within_few_evaluations(failure, method):
    results = solve(failure, method, on_failure="nan")
    code = FAILURES[failure][-3]
    assert results.diagnostics.status == code
    assert np.all(np.isnan(results.states[-1]))
    # A step is cut tenfold when it fails, 15 decades at most.
    assert results.diagnostics.num_rejected_steps <= 100
    assert results.diagnostics.num_accepted_steps <= 100


def test_nan_from_the_start_costs_two_evaluations():
    results = solve("nan from the start", on_failure="nan")
    assert results.diagnostics.num_ode_fn_evaluations <= 2


def test_attempts_do_not_exceed_max_num_steps():
    diagnostics = solve("steps run out", on_failure="nan").diagnostics
    attempts = diagnostics.num_accepted_steps + diagnostics.num_rejected_steps
    assert attempts == 3


def test_rejected_steps_count_towards_max_num_steps():
    # Every step is rejected.
    diagnostics = solve(
        "underflow", max_num_steps=2, on_failure="nan"
    ).diagnostics
    assert diagnostics.num_accepted_steps == 0
    assert diagnostics.num_rejected_steps == 2
    assert diagnostics.status == -1


def test_max_num_steps_that_just_suffices_is_no_failure():
    needed = keras_node.odeint(decays, state(), (0.0, 1.0)).diagnostics
    count = int(needed.num_accepted_steps + needed.num_rejected_steps)
    for steps, status in ((count, 0), (count - 1, -1)):
        solver = solvers.Tsit5(max_num_steps=steps, on_failure="nan")
        results = keras_node.odeint(decays, state(), (0.0, 1.0), solver=solver)
        assert results.diagnostics.status == status


@each_adaptive
def test_blow_up_ends_at_the_pole(method):
    solver = method(on_failure="nan", max_num_steps=2000)
    solve = tf.function(keras_node.odeint)
    results = solve(blows_up, state(), (0.0, 0.5, 2.0), solver=solver)
    assert results.diagnostics.status in (-2, -3)
    assert results.diagnostics.num_ode_fn_evaluations < 6000
    # rtol=1e-3 moves the pole as much.
    assert float(results.solver_internal_state.t) == pytest.approx(
        1.0, abs=1e-2
    )
    np.testing.assert_allclose(results.states[1], [2.0, 2.0], rtol=1e-2)
    assert np.all(np.isnan(results.states[2]))


@each_adaptive
def test_outputs_before_the_failure_stay_right(method):
    times = (0.0, 0.2, 0.45, 0.55, 1.0)
    results = keras_node.odeint(
        nan_after_half,
        state(),
        times,
        solver=method(on_failure="nan", rtol=1e-6),
    )
    np.testing.assert_allclose(
        results.states[:3, 0], np.exp(-np.array(times[:3])), rtol=1e-5
    )
    assert np.all(np.isnan(results.states[3:]))


@pytest.mark.parametrize("adjoint", ["direct", "backsolve", "checkpoint"])
def test_failure_is_the_same_with_every_adjoint(adjoint):
    def solve(on_failure):
        solver = solvers.Tsit5(
            first_step_size=0.01, max_num_steps=2, on_failure=on_failure
        )
        return keras_node.odeint(
            decays, state(), (0.0, 0.01, 1.0), solver=solver, adjoint=adjoint
        )

    with pytest.raises(
        tf.errors.InvalidArgumentError, match="`max_num_steps` was reached"
    ):
        solve("raise")
    results = solve("nan")
    assert results.diagnostics.status == -1
    np.testing.assert_allclose(
        results.states[1], np.exp([-0.01, -0.01]), rtol=1e-5
    )
    assert np.all(np.isnan(results.states[2]))


def test_fixed_steps_report_nan_and_too_many_steps():
    for dynamics, options, code in (
        (is_nan, {"step_size": 0.25}, -3),
        (decays, {"step_size": 0.25, "max_num_steps": 3}, -1),
    ):
        solver = solvers.RK4(**options, on_failure="nan")
        results = keras_node.odeint(
            dynamics, state(), (0.0, 1.0), solver=solver
        )
        assert results.diagnostics.status == code
        assert results.diagnostics.num_ode_fn_evaluations <= 16
        assert np.all(np.isnan(results.states[-1]))
        with pytest.raises(tf.errors.InvalidArgumentError):
            keras_node.odeint(
                dynamics, state(), (0.0, 1.0), solver=solvers.RK4(**options)
            )


def test_raise_acts_as_nan_under_xla():
    function = tf.function(solve, jit_compile=True)
    results = function("nan after 0.5", solvers.Bosh3)
    assert results.diagnostics.status == -3
    assert np.all(np.isnan(results.states[-1]))


def test_one_failing_sample_raises():
    def dynamics(t, y):
        return tf.where(y < 0, NAN * y, -y)

    y0 = tf.constant([[1.0], [-1.0]])
    with pytest.raises(tf.errors.InvalidArgumentError, match="not finite"):
        keras_node.odeint(
            dynamics,
            y0,
            (0.0, 1.0),
            solver=solvers.Tsit5(per_sample_steps=True),
        )


def test_fixed_steps_take_a_large_state_for_what_it_is():
    results = keras_node.odeint(
        lambda t, y: -60 * y,
        tf.constant([[1e20]]),
        (0.0, 0.5, 1.0),
        solvers.RK4(step_size=0.01),
    )
    assert results.diagnostics.status == 0
    np.testing.assert_allclose(results.states[0], [[1e20]])


def test_a_function_traced_before_can_be_compiled_within_another():
    @tf.function
    def solve(y):
        return keras_node.odeint(decays, y, (0.0, 1.0)).states[-1]

    expected = solve(state())

    @tf.function(jit_compile=True)
    def compiled(y):
        return solve(y) + 1.0

    np.testing.assert_allclose(compiled(state()), expected + 1.0, rtol=1e-12)
    with pytest.raises(tf.errors.InvalidArgumentError, match="not finite"):
        solve(state() * NAN)


@pytest.mark.parametrize("per_sample_steps", [False, True])
def test_a_traced_function_fails_with_nan_once_compiled(per_sample_steps):
    solver = solvers.Tsit5(
        first_step_size=1e-3,
        max_num_steps=2,
        per_sample_steps=per_sample_steps,
    )
    solve = tf.function(keras_node.odeint)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="`max_num_steps` was reached"
    ):
        solve(decays, state(), (0.0, 1.0), solver=solver)

    @tf.function(jit_compile=True)
    def compiled(y):
        return solve(decays, y, (0.0, 1.0), solver=solver).states[-1]

    assert np.all(np.isnan(compiled(state())))


@pytest.mark.parametrize("in_graph", [False, True])
def test_a_solver_for_stiff_dynamics_is_not_advised_to_itself(in_graph):
    def solve(y):
        solver = solvers.BDF(max_num_steps=2)
        return keras_node.odeint(decays, y, (0.0, 10.0), solver=solver).states

    with pytest.raises(
        tf.errors.InvalidArgumentError, match="shorten `times`"
    ) as error:
        (tf.function(solve) if in_graph else solve)(state())
    assert '"bdf"' not in str(error.value).split("def ")[0]
