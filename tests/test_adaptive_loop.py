"""The adaptive loop and its recorders, around a step that only counts.

The stub's step moves the state as far as the clock, so that the state is the
time. Its errors come from a script; the next step size is twice the last one
after an accepted attempt, and half of it after a rejected one.
"""

import typing

import numpy as np
import pytest
import tensorflow as tf

from keras_node.adjoints import bounded_state_store
from keras_node.adjoints.base import Problem
from keras_node.adjoints.checkpoint_recorder import CheckpointRecorder
from keras_node.dynamics import traced_field
from keras_node.solvers import (
    Tsit5,
    adaptive,
    failures,
    first_step_size,
    step,
    step_size_control,
)
from keras_node.solvers.adaptive import AdaptiveLoop
from keras_node.solvers.step_sequence import StepRecorder

GOOD, BAD, NAN = 0.5, 2.0, float("nan")


class Attempt(typing.NamedTuple):
    """What the loop hands to a step, of each clock."""

    t: list
    dt: list
    y: list
    f: list


class Stub:
    """Stands in for the step and its error.

    Args:
        script: List with the ratio of each attempt, or a list of those of its
            clocks; the last one is that of all further attempts.
        growth: Float, the factor of the step size after an accepted step.
    """

    def __init__(self, script, growth=2.0):
        self.script = script
        self.growth = growth
        self.attempts = []

    def step(self, tableau, ode_fn, interval, t, dt, y, f):
        """Adds `dt` to the state; the new derivative counts the attempts."""
        self.attempts.append(Attempt(*[x.numpy() for x in (t, dt, *y, *f)]))
        derivative = tf.fill(y[0].shape, np.float64(len(self.attempts)))
        return [y[0] + dt], [derivative], [[dt]] * tableau.num_stages

    def error_ratio(self, tableau, increments, scale, norm):
        number = min(len(self.attempts), len(self.script)) - 1
        ratio = tf.constant(self.script[number], tf.float64)
        return tf.broadcast_to(ratio, scale[0].shape)

    def step_size_factor(self, ratio, previous_ratio, solver):
        return tf.where(ratio <= 1.0, np.float64(self.growth), 0.5)

    def column(self, name):
        """Returns one value of all attempts, as a list."""
        return np.stack([getattr(a, name) for a in self.attempts]).tolist()


@pytest.fixture
def run(monkeypatch):
    """Runs the loop with a stub; the state begins as the first time."""

    def run_stub(
        stub, times, recorder=None, first=1.0, max_num_steps=100, y=None
    ):
        monkeypatch.setattr(step, "runge_kutta_step", stub.step)
        for name in ("error_ratio", "step_size_factor"):
            monkeypatch.setattr(step_size_control, name, getattr(stub, name))
        times = tf.constant(times, tf.float64)
        return AdaptiveLoop(
            solver=Tsit5(max_num_steps=max_num_steps),
            ode_fn=lambda t, y: [tf.zeros_like(y[0])],
            times=times,
            norm=None,
            recorder=recorder,
        ).run([times[0] if y is None else y], first_step_size=first)

    return run_stub


def recorded(solution):
    """Returns starts and sizes of the recorded steps, as lists."""
    steps = solution.steps
    count = int(steps.num_steps)
    return [x.stack()[:count].numpy().tolist() for x in (steps.t, steps.dt)]


def test_accepted_steps_grow_and_the_last_one_is_cut_short(run):
    stub = Stub([GOOD])
    solution = run(stub, [0.0, 10.0])
    assert stub.column("t") == [0, 1, 3, 7]
    assert stub.column("dt") == [1, 2, 4, 3]
    assert stub.column("y") == stub.column("t")
    assert solution.states[0].numpy().tolist() == [0, 10]
    assert solution.diagnostics.status == failures.SUCCESS


def test_steps_backwards_are_negative(run):
    stub = Stub([GOOD])
    solution = run(stub, [10.0, 0.0])
    assert stub.column("t") == [10, 9, 7, 3]
    assert stub.column("dt") == [-1, -2, -4, -3]
    assert solution.states[0][-1] == 0


# The end is not `t + (end - t)` of these, in floating point.
@pytest.mark.parametrize(
    "times, count", [([0.2, 0.9], 1), ([0.9, 0.2], 1), ([1.0, -0.3], 2)]
)
def test_last_step_lands_on_the_end_exactly(run, times, count):
    solution = run(Stub([GOOD], growth=1.0), times, first=0.7)
    assert solution.internal.t == times[-1]
    assert solution.diagnostics.num_accepted_steps == count


def test_last_step_takes_a_sliver_along(run):
    stub = Stub([GOOD])
    run(stub, [0.0, 1.0], first=1.0 - 1e-12)
    assert stub.column("dt") == [1.0]


def test_rejected_attempt_is_tried_again_from_the_same_place_shorter(run):
    stub = Stub([GOOD, BAD, BAD, GOOD])
    run(stub, [0.0, 8.0])
    assert stub.column("t") == [0, 1, 1, 1, 1.5, 2.5, 4.5]
    assert stub.column("dt") == [1, 2, 1, 0.5, 1, 2, 3.5]
    assert stub.column("y") == stub.column("t")


@pytest.mark.parametrize("ratio", (1 + 1e-9, 2.0, 1e300, float("inf"), NAN))
@pytest.mark.parametrize("previous_ratio", (0.0, 1e-3, 1.0))
def test_controller_shortens_the_step_after_any_rejection(
    ratio, previous_ratio
):
    ratios = tf.constant([ratio, previous_ratio], tf.float64)
    factor = step_size_control.step_size_factor(*tf.unstack(ratios), Tsit5())
    assert 0 < factor < 1


def test_last_step_that_is_rejected_is_no_longer_the_last(run):
    stub = Stub([BAD, GOOD])
    solution = run(stub, [0.0, 1.0], first=5.0)
    assert stub.column("dt") == [1, 0.5, 0.5]
    assert solution.internal.t == 1


def test_attempt_gets_the_derivative_of_the_last_accepted_one(run):
    # That of attempt `n` is `n`; before the first it is 0.
    stub = Stub([GOOD, BAD, GOOD])
    run(stub, [0.0, 8.0])
    assert stub.column("dt") == [1, 2, 1, 2, 4]
    assert stub.column("f") == [0, 1, 1, 3, 4]


def test_attempts_and_evaluations_are_counted(run):
    solution = run(Stub([BAD, GOOD, BAD, GOOD]), [0.0, 4.0])
    counts = solution.diagnostics
    assert counts.num_accepted_steps == 4
    assert counts.num_rejected_steps == 2
    # The first derivative, and six new stages of Tsit5 in each attempt.
    assert counts.num_ode_fn_evaluations == 1 + 6 * 6


def test_short_last_step_does_not_shorten_the_next_solve(run):
    solution = run(Stub([GOOD]), [0.0, 7.5])
    assert solution.internal.step_size == 8  # The last one was of 0.5.


def test_steps_at_rest_are_no_longer_than_the_longest(run, monkeypatch):
    first = first_step_size.FirstStep(*tf.constant([1.0, 1.5], tf.float64))
    monkeypatch.setattr(adaptive, "first_step", lambda *_: first)
    stub = Stub([0.0, 0.0, GOOD])
    run(stub, [0.0, 9.0], first=None)
    assert stub.column("dt") == [1, 1.5, 1.5, 3, 2]


def test_clock_that_is_done_does_not_move(run):
    stub = Stub([GOOD])
    solution = run(stub, [[0.0, 0.0], [10.0, 2.0]])
    assert stub.column("dt") == [[1, 1], [2, 1], [4, 0], [3, 0]]
    assert stub.column("y")[2:] == [[3, 2], [7, 2]]
    assert solution.states[0][-1].numpy().tolist() == [10, 2]
    assert solution.diagnostics.num_accepted_steps.numpy().tolist() == [4, 2]


def test_clock_of_no_length_takes_no_step(run):
    stub = Stub([GOOD])
    solution = run(stub, [[0.0, 5.0], [1.0, 5.0]])
    assert stub.column("dt") == [[1, 0]]
    assert solution.diagnostics.num_accepted_steps.numpy().tolist() == [1, 0]


def test_clock_that_is_rejected_holds_up_no_other(run):
    stub = Stub([[GOOD, BAD], [GOOD, BAD], GOOD])
    solution = run(stub, [[0.0, 0.0], [3.0, 1.0]])
    assert stub.column("t") == [[0, 0], [1, 0], [3, 0], [3, 0.25], [3, 0.75]]
    assert stub.column("dt") == [
        [1, 1],
        [2, 0.5],
        [0, 0.25],
        [0, 0.5],
        [0, 0.25],
    ]
    counts = solution.diagnostics
    assert counts.num_accepted_steps.numpy().tolist() == [2, 3]
    assert counts.num_rejected_steps.numpy().tolist() == [0, 2]


def test_too_many_attempts_end_with_a_status(run):
    solution = run(Stub([GOOD, BAD], growth=1.0), [0.0, 9.0], max_num_steps=4)
    assert solution.diagnostics.status == failures.MAX_NUM_STEPS
    assert solution.diagnostics.num_accepted_steps == 1
    assert solution.diagnostics.num_rejected_steps == 3
    assert solution.internal.t == 1
    assert np.isnan(solution.states[0][-1])


@pytest.mark.parametrize(
    "ratio, status", [(BAD, failures.UNDERFLOW), (NAN, failures.NON_FINITE)]
)
def test_step_size_below_the_resolution_ends_one_clock_alone(
    run, ratio, status
):
    stub = Stub([[ratio, GOOD]])
    solution = run(stub, [[0.0, 0.0], [8.0, 8.0]])
    assert solution.diagnostics.status.numpy().tolist() == [status, 0]
    assert np.isnan(solution.states[0][-1, 0])
    assert solution.states[0][-1, 1] == 8
    # Halved until 1e-15 of the largest time.
    assert len(stub.attempts) == np.ceil(np.log2(1 / (1e-15 * 8)))


def test_step_below_the_resolution_may_grow_if_it_is_accepted(run):
    solution = run(Stub([GOOD]), [0.0, 1.0], first=1e-18)
    assert solution.diagnostics.status == failures.SUCCESS


def test_start_that_is_not_finite_is_not_attempted(run):
    stub = Stub([GOOD])
    y = tf.constant([0.0, NAN], tf.float64)
    solution = run(stub, [[0.0, 0.0], [1.0, 1.0]], y=y)
    assert stub.column("dt") == [[1, 0]]
    assert solution.diagnostics.status.numpy().tolist() == [
        failures.SUCCESS,
        failures.NON_FINITE,
    ]


def test_recorder_keeps_the_accepted_steps(run):
    stub = Stub([GOOD, BAD, BAD, GOOD])
    solution = run(stub, [0.0, 4.0], StepRecorder(100))
    assert recorded(solution) == [[0, 1, 1.5, 2.5], [1, 0.5, 1, 1.5]]


def test_recorder_keeps_a_step_that_any_clock_accepts(run):
    stub = Stub([[GOOD, BAD], BAD, GOOD])
    solution = run(stub, [[0.0, 0.0], [3.0, 1.0]], StepRecorder(100))
    t, dt = recorded(solution)
    assert t == [[0, 0], [1, 0], [2, 0.25], [3, 0.75]]
    assert dt == [[1, 0], [1, 0.25], [1, 0.5], [0, 0.25]]


def test_times_within_steps_are_written_once_they_are_accepted(run):
    stub = Stub([GOOD, BAD, GOOD])
    times = [0.0, 0.5, 1.0, 1.75, 2.5, 3.0, 4.0]
    solution = run(stub, times, StepRecorder(100))
    assert recorded(solution) == [[0, 1, 2], [1, 1, 2]]
    np.testing.assert_allclose(solution.states[0], times, rtol=1e-14)
    steps = solution.steps.output_steps.numpy().tolist()
    assert steps == [-1, 0, 0, 1, 2, 2, 2]


def state_recorder(capacity):
    """Returns a recorder of steps and of some states."""
    y = tf.zeros([], tf.float64)
    problem = Problem(
        solver=Tsit5(max_num_steps=100),
        field=traced_field.trace(lambda t, y: -y, (), y),
        times=tf.constant([0.0, 10.0], tf.float64),
        y=[y],
        times_vary=False,
    )
    return CheckpointRecorder(problem, capacity, memory_limit=0)


def test_checkpoints_thin_out_and_are_the_states_before_their_steps(run):
    # Steps of 1, each but the last tried first at twice that size.
    stub = Stub([BAD, GOOD] * 9 + [GOOD])
    recorder = state_recorder(capacity=4)
    solution = run(stub, [0.0, 10.0], recorder, first=2.0)
    assert recorded(solution) == [[*range(10)], [1] * 10]
    store = solution.record.store
    assert store.stride == 4
    # 6 was given up, but nothing has needed its slot yet.
    assert sorted(store.numbers.numpy().tolist()) == [0, 4, 6, 8]
    for n, kept in ((0, 0), (3, 0), (5, 4), (7, 6), (9, 8)):
        number, (y, f) = bounded_state_store.nearest(store, n)
        # The derivative is that of the attempt that led there.
        assert (int(number), float(y), float(f)) == (kept, kept, 2 * kept)
