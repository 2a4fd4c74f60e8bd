"""Events: `odeint(..., events=)`."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_node
from keras_node import Event

GRAVITY = 8.0
ADJOINTS = {
    "checkpoint": "checkpoint",
    "states_alone": keras_node.adjoints.CheckpointAdjoint(2, memory_limit=0),
    "direct": "direct",
}
SOLVERS = {
    "tsit5": keras_node.solvers.Tsit5(rtol=1e-8, atol=1e-10),
    "dopri8": keras_node.solvers.Dopri8(rtol=1e-8, atol=1e-10),
    "bosh3": keras_node.solvers.Bosh3(rtol=1e-6, atol=1e-8),
    "rodas5p": keras_node.solvers.Rodas5P(rtol=1e-7, atol=1e-9),
}
Y0 = np.array([[10.0, 0.0], [5.0, 1.0], [20.0, -1.0]])


def _falls(t, y):
    """Returns the derivative of height and velocity in free fall."""
    return tf.stack([y[:, 1], -GRAVITY * tf.ones_like(y[:, 0])], axis=1)


def _rotates(t, y):
    """Returns the derivative of `(cos t, sin t)`-like states."""
    return tf.stack([-y[:, 1], y[:, 0]], axis=1)


def _height(t, y):
    return y[:, 0]


GROUND = Event(_height, direction=-1)


def _bounce(restitution, max_events=6, floor=0.0):
    return Event(
        lambda t, y: y[:, 0] - floor,
        direction=-1,
        terminal=False,
        reset=lambda t, y: tf.stack([y[:, 0], -restitution * y[:, 1]], axis=1),
        max_events=max_events,
    )


def _ball(x, v, restitution, end):
    """Returns the times of the bounces, and the height at the end."""
    t = (v + np.sqrt(v**2 + 2 * GRAVITY * x)) / GRAVITY
    v = restitution * (GRAVITY * t - v)
    times = [t]
    while t + 2 * v / GRAVITY < end:
        t += 2 * v / GRAVITY
        v *= restitution
        times.append(t)
    rest = end - t
    return times, v * rest - GRAVITY / 2 * rest**2


def _difference(function, x, h=1e-6):
    return (function(x + h) - function(x - h)) / (2 * h)


@pytest.mark.parametrize(
    ("solver", "adjoint"),
    [
        *itertools.product(["tsit5"], ADJOINTS),
        *itertools.product(["dopri8", "bosh3", "rodas5p"], ["checkpoint"]),
        ("rodas5p", "direct"),
    ],
)
def test_a_ball_falls_to_the_ground_when_it_must(solver, adjoint):
    y0 = tf.constant(Y0)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(y0)
        results = keras_node.odeint(
            _falls,
            y0,
            (0.0, 9.0),
            SOLVERS[solver],
            ADJOINTS[adjoint],
            events=GROUND,
        )
        time = results.event_times[0]
        speed = results.states[-1, 0, 1]
    # The reference values for a height of 10 m.
    np.testing.assert_allclose(time, 1.5811388300841898, rtol=1e-9)
    np.testing.assert_allclose(speed, -12.649110640673518, rtol=1e-9)
    np.testing.assert_allclose(
        tape.gradient(time, y0)[0], [0.0790569415, 1 / GRAVITY], rtol=1e-7
    )
    np.testing.assert_allclose(
        tape.gradient(speed, y0)[0], [-0.6324555320, 0.0], rtol=1e-7, atol=1e-9
    )
    np.testing.assert_array_equal(results.event_indices, [0, 0, 0])
    np.testing.assert_allclose(results.states[-1, :, 0], 0.0, atol=1e-12)


@pytest.mark.parametrize(
    ("adjoint", "mode"),
    [
        ("direct", "eager"),
        ("checkpoint", "eager"),
        ("states_alone", "graph"),
        ("checkpoint", "xla"),
    ],
)
def test_gradients_pass_through_bounces(adjoint, mode):
    end = 7.0

    def solve(y0, restitution, floor):
        solver = keras_node.solvers.Tsit5(max_num_steps=200)
        results = keras_node.odeint(
            _falls,
            y0,
            (0.0, end),
            solver,
            ADJOINTS[adjoint],
            events=_bounce(restitution, floor=floor),
        )
        return results.states[-1, 0, 0], results.event_times[2, 0]

    if mode != "eager":
        solve = tf.function(
            solve, autograph=False, jit_compile=mode == "xla" or None
        )
    inputs = [tf.constant(x, tf.float64) for x in (Y0, 0.8, 0.0)]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(inputs)
        height, third = solve(*inputs)
    times, expected = _ball(10.0, 0.0, 0.8, end)
    np.testing.assert_allclose(height, expected, rtol=1e-9)
    np.testing.assert_allclose(third, times[2], rtol=1e-9)
    gradient = tape.gradient(height, inputs)
    _check_ball_gradient(gradient, lambda *x: _ball(*x, end)[1], 1.0)
    gradient = tape.gradient(third, inputs)
    _check_ball_gradient(gradient, lambda *x: _ball(*x, end)[0][2], 0.0)


def _check_ball_gradient(gradient, exact, by_floor):
    """Compares with finite differences of a function of `(x, v, restitution)`.

    Raising the floor lowers the ball; the height is above the old one.
    """
    y_bar, restitution_bar, floor_bar = gradient
    by_height = _difference(lambda x: exact(x, 0.0, 0.8), 10.0)
    by_speed = _difference(lambda v: exact(10.0, v, 0.8), 0.0)
    by_restitution = _difference(lambda r: exact(10.0, 0.0, r), 0.8)
    np.testing.assert_allclose(y_bar[0], [by_height, by_speed], rtol=1e-5)
    np.testing.assert_allclose(restitution_bar, by_restitution, rtol=1e-5)
    np.testing.assert_allclose(floor_bar, by_floor - by_height, rtol=1e-5)
    np.testing.assert_array_equal(y_bar[1:], 0.0)


@pytest.mark.parametrize("solver", ["tsit5", "rodas5p"])
def test_the_weights_of_the_dynamics_and_the_condition_get_gradients(solver):
    def solve(rate, weights):
        results = keras_node.odeint(
            lambda t, y: -rate * y + tf.sin(t)[:, None],
            tf.constant([[1.0, 2.0]], tf.float64),
            (0.0, 5.0),
            SOLVERS[solver],
            events=Event(lambda t, y: tf.linalg.matvec(y, weights) - 0.1 * t),
        )
        return results.event_times[0] + results.states[-1, 0, 1]

    rate = tf.constant(0.7, tf.float64)
    weights = tf.constant([1.0, -0.3], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch([rate, weights])
        output = solve(rate, weights)
    by_rate, by_weights = tape.gradient(output, [rate, weights])
    h = 1e-5
    numeric = (solve(rate + h, weights) - solve(rate - h, weights)) / (2 * h)
    np.testing.assert_allclose(by_rate, numeric, rtol=1e-5)
    for i in range(2):
        step = h * tf.one_hot(i, 2, dtype=tf.float64)
        numeric = solve(rate, weights + step) - solve(rate, weights - step)
        np.testing.assert_allclose(by_weights[i], numeric / (2 * h), rtol=1e-5)


def test_the_gradient_to_the_first_time_moves_the_event():
    def solve(start):
        results = keras_node.odeint(
            _falls,
            tf.constant(Y0),
            tf.stack([start, 1.0 + 0.0 * start, 9.0 + 0.0 * start]),
            events=GROUND,
        )
        return results.event_times[0], results.states[1, 0, 0]

    start = tf.constant(0.0, tf.float64)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(start)
        time, height = solve(start)
    np.testing.assert_allclose(tape.gradient(time, start), 1.0, rtol=1e-9)
    # The height at time 1 is that of a fall of 1 - start.
    np.testing.assert_allclose(tape.gradient(height, start), GRAVITY, rtol=1e-9)


def test_the_first_of_two_events_in_one_step_wins_whatever_their_order():
    at = [Event(lambda t, y, x=x: y[:, 0] - x) for x in (0.47, 0.42)]
    for events, expected in [(at, 1), (at[::-1], 0)]:
        results = keras_node.odeint(
            lambda t, y: tf.ones_like(y),
            tf.zeros([1, 1], tf.float64),
            (0.0, 1.0),
            keras_node.solvers.Tsit5(first_step_size=1.0),
            events=events,
        )
        np.testing.assert_allclose(results.event_times, [0.42], rtol=1e-12)
        np.testing.assert_array_equal(results.event_indices, [expected])


def test_two_crossings_in_one_step_are_seen():
    results = keras_node.odeint(
        lambda t, y: tf.ones_like(y),
        tf.zeros([1, 1], tf.float64),
        (0.0, 1.0),
        keras_node.solvers.Tsit5(first_step_size=1.0),
        events=Event(lambda t, y: (y[:, 0] - 0.4) * (y[:, 0] - 0.6)),
    )
    np.testing.assert_allclose(results.event_times, [0.4], rtol=1e-9)


def test_a_crossing_of_the_wrong_direction_does_not_fire_twice():
    # It rises and falls within one step.
    results = keras_node.odeint(
        lambda t, y: tf.ones_like(y),
        tf.zeros([1, 1], tf.float64),
        (0.0, 100.0),
        keras_node.solvers.Tsit5(first_step_size=100.0),
        events=[
            Event(
                lambda t, y: -(y[:, 0] - 30.0) * (y[:, 0] - 81.0),
                direction=-1,
                terminal=False,
                max_events=3,
            ),
            Event(lambda t, y: y[:, 0] - 80.0, terminal=False, max_events=1),
        ],
    )
    np.testing.assert_allclose(results.event_times[:2, 0], [80.0, 81.0])
    np.testing.assert_array_equal(results.event_indices[:, 0], [1, 0, -1, -1])


def test_an_event_within_a_rejected_step_does_not_fire():
    # Half of the first attempt is wrong by far, and crosses.
    def f(t, y):
        slope = tf.where(t < 0.5, -tf.ones_like(t), 1e4 * (t - 0.5))
        return slope[:, None] * tf.ones_like(y)

    results = keras_node.odeint(
        f,
        tf.ones([1, 1], tf.float64),
        (0.0, 0.6),
        keras_node.solvers.Tsit5(first_step_size=0.6, rtol=1e-6),
        events=Event(lambda t, y: y[:, 0] - 2.0),
    )
    assert results.diagnostics.num_rejected_steps[0] > 1
    expected = 0.5 + np.sqrt(2 * 1.5 / 1e4)
    # The kink at 0.5 costs some accuracy.
    np.testing.assert_allclose(results.event_times, [expected], rtol=1e-5)


def test_a_start_on_the_surface_does_not_fire():
    up = tf.constant([[0.0, 4.0], [-1e-17, 4.0]], tf.float64)
    for event in [GROUND, Event(_height)]:
        results = keras_node.odeint(_falls, up, (0.0, 9.0), events=event)
        np.testing.assert_allclose(results.event_times, 1.0, rtol=1e-9)


def test_a_solve_may_go_on_from_an_event():
    first = keras_node.odeint(
        _falls, tf.constant(Y0, tf.float32), (0.0, 9.0), events=GROUND
    )
    bounced = first.states[-1] * [1.0, -1.0]
    second = keras_node.odeint(
        _falls, bounced, (0.0, 9.0), events=Event(_height)
    )
    np.testing.assert_allclose(
        second.event_times, 2 * bounced[:, 1] / GRAVITY, rtol=1e-5
    )


def test_a_small_bounce_within_one_step_is_not_tunnelled():
    # The step that the error allows is far longer than the last flights.
    results = keras_node.odeint(
        _falls,
        tf.constant([[1.0, 0.0]], tf.float64),
        (0.0, 1.48),
        events=_bounce(0.5, max_events=20),
    )
    times, height = _ball(1.0, 0.0, 0.5, 1.48)
    assert len(times) > 4
    found = results.event_times[: len(times), 0]
    np.testing.assert_allclose(found, times, rtol=1e-8)
    np.testing.assert_allclose(results.states[-1, 0, 0], height, rtol=1e-6)


@pytest.mark.parametrize(
    ("direction", "times"),
    [(None, [0.5, 1.5, 2.5]), (-1, [0.5, 2.5]), (1, [1.5])],
)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_events_are_recorded_in_their_direction(direction, times, sign):
    y0 = tf.constant([[1.0, 0.0]], tf.float64)
    results = keras_node.odeint(
        _rotates,
        y0,
        (0.0, sign * 3.0 * np.pi),
        SOLVERS["tsit5"],
        events=Event(_height, direction, terminal=False, max_events=4),
    )
    found = results.event_times[:, 0]
    count = len(times)
    np.testing.assert_allclose(
        found[:count], sign * np.pi * np.array(times), rtol=1e-7
    )
    assert np.isnan(found[count:]).all()
    np.testing.assert_array_equal(
        results.event_indices[:, 0], [0] * count + [-1] * (4 - count)
    )
    np.testing.assert_allclose(results.states[-1], -y0, atol=1e-6)


def test_events_beyond_max_events_are_not_recorded():
    results = keras_node.odeint(
        _rotates,
        tf.constant([[1.0, 0.0]], tf.float64),
        (0.0, 3.0 * np.pi),
        SOLVERS["tsit5"],
        events=Event(_height, terminal=False, max_events=2),
    )
    np.testing.assert_allclose(
        results.event_times[:, 0], np.pi * np.array([0.5, 1.5]), rtol=1e-7
    )
    np.testing.assert_allclose(results.states[-1, 0, 0], -1.0, rtol=1e-6)


def test_resets_beyond_max_events_fail():
    def solve(on_failure):
        return keras_node.odeint(
            _falls,
            tf.constant(Y0),
            (0.0, 3.0, 9.0),
            keras_node.solvers.Tsit5(on_failure=on_failure),
            events=_bounce(0.8, max_events=2),
        )

    results = solve("nan")
    np.testing.assert_array_equal(results.diagnostics.status, [-5, -5, -5])
    assert np.isfinite(results.states[1]).all()
    assert np.isnan(results.states[-1]).all()
    assert np.isfinite(results.event_times).all()
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="more than `max_events` resets"
    ):
        solve("raise")


@pytest.mark.parametrize("adjoint", ["checkpoint", "direct"])
def test_a_terminal_event_may_end_the_solve_at_a_later_zero(adjoint):
    bounce = _bounce(0.8)
    last = Event(
        bounce.condition, direction=-1, reset=bounce.reset, max_events=3
    )
    y0 = tf.constant(Y0)
    with tf.GradientTape() as tape:
        tape.watch(y0)
        results = keras_node.odeint(
            _falls, y0, (0.0, 99.0), adjoint=adjoint, events=last
        )
        speed = results.states[-1, 0, 1]
    times, _ = _ball(10.0, 0.0, 0.8, 7.0)
    np.testing.assert_allclose(results.event_times[:, 0], times, rtol=1e-9)
    # Where the solve ends nothing is reset any more.
    fall = -np.sqrt(2 * GRAVITY * 10.0) * 0.8**2
    np.testing.assert_allclose(speed, fall, rtol=1e-9)
    by_height = tape.gradient(speed, y0)[0, 0]
    np.testing.assert_allclose(by_height, fall / 20.0, rtol=1e-7)


def test_a_grazing_event_fails_instead_of_an_infinite_gradient():
    def solve(on_failure):
        return keras_node.odeint(
            lambda t, y: tf.ones_like(y),
            tf.constant([[0.0], [0.3]], tf.float64),
            (0.0, 1.0),
            keras_node.solvers.Tsit5(
                first_step_size=1.0, on_failure=on_failure
            ),
            # The first sample touches 0 at a time that is looked at.
            events=Event(lambda t, y: tf.square(t - 0.5) + y[:, 0] - t),
        )

    results = solve("nan")
    np.testing.assert_array_equal(results.diagnostics.status, [-4, 0])
    assert np.isnan(results.states[-1, 0]).all()
    with pytest.raises(tf.errors.InvalidArgumentError, match="has no gradient"):
        solve("raise")


def test_states_stay_as_they_were_behind_a_terminal_event():
    times = (0.0, 1.0, 1.5, 2.0, 4.0)
    y0 = tf.constant(Y0)
    for adjoint in ("checkpoint", "direct"):
        with tf.GradientTape() as tape:
            tape.watch(y0)
            results = keras_node.odeint(
                _falls, y0, times, adjoint=adjoint, events=GROUND, dense=True
            )
            # Twice a row behind the event of the first sample.
            total = tf.reduce_sum(results.states[3:, 0, 1])
        np.testing.assert_allclose(
            results.states[3, 0], results.states[-1, 0], rtol=1e-14
        )
        np.testing.assert_allclose(
            results.states[2, :, 0], [1.0, 0.0, 9.5], atol=1e-9
        )
        by_height, _ = tape.gradient(total, y0)[0].numpy()
        np.testing.assert_allclose(by_height, 2 * -0.6324555320, rtol=1e-7)
        inside = results.interpolate([0.5, 3.0])
        np.testing.assert_allclose(inside[0, :, 0], [9.0, 4.5, 18.5])
        assert np.isnan(inside[1]).all()


def test_an_event_without_a_change_of_sign_never_happens():
    results = keras_node.odeint(
        _falls,
        tf.constant(Y0),
        (0.0, 1.0),
        events=Event(lambda t, y: y[:, 0] + 100.0),
    )
    assert np.isnan(results.event_times).all()
    np.testing.assert_array_equal(results.event_indices, [-1, -1, -1])
    np.testing.assert_allclose(results.states[-1, 0], [6.0, -8.0])


def test_a_terminal_event_may_follow_resets():
    # The ball bounces until it has fallen asleep.
    slow = Event(lambda t, y: t - 5.0)
    results = keras_node.odeint(
        _falls, tf.constant(Y0), (0.0, 9.0), events=[slow, _bounce(0.8)]
    )
    times, height = _ball(10.0, 0.0, 0.8, 5.0)
    np.testing.assert_allclose(results.event_times[:2, 0], times, rtol=1e-9)
    np.testing.assert_allclose(results.event_times[2, 0], 5.0, rtol=1e-12)
    np.testing.assert_array_equal(
        results.event_indices[:, 0], [1, 1, 0, -1, -1, -1, -1]
    )
    np.testing.assert_allclose(results.states[-1, 0, 0], height, rtol=1e-9)


def test_two_walls_hit_at_once_both_reflect():
    def wall(i):
        signs = np.ones(4)
        signs[2 + i] = -1.0
        return Event(
            lambda t, y: y[:, i],
            direction=-1,
            terminal=False,
            reset=lambda t, y: y * signs,
            max_events=2,
        )

    results = keras_node.odeint(
        lambda t, y: tf.concat([y[:, 2:], tf.zeros_like(y[:, 2:])], axis=1),
        tf.constant([[1.0, 1.0, -1.0, -1.0]], tf.float64),
        (0.0, 2.0),
        events=[wall(0), wall(1)],
    )
    np.testing.assert_allclose(
        results.states[-1, 0], [1.0, 1.0, 1.0, 1.0], rtol=1e-9
    )


@pytest.mark.parametrize("solver", ["tsit5", "rodas5p"])
def test_each_sample_equals_itself_alone(solver):
    # Products of matrices round by the size of their batch.
    rtol = 0.0 if solver == "tsit5" else 1e-12
    events = [_bounce(0.7, max_events=8), Event(lambda t, y: y[:, 0] - 19.0)]

    def solve(y0):
        return keras_node.odeint(
            _falls, y0, (0.0, 2.0, 5.0), SOLVERS[solver], events=events
        )

    together = solve(tf.constant(Y0))
    for i in range(3):
        alone = solve(tf.constant(Y0[i : i + 1]))
        for a, b in [
            (together.event_times, alone.event_times),
            (together.states, alone.states),
        ]:
            np.testing.assert_allclose(a[:, i], b[:, 0], rtol=rtol)


def test_jumps_and_events_go_together():
    # Thrust from a jump on; the ground then comes later.
    def f(t, y):
        thrust = 4.0 * tf.cast(t > 1.0, y.dtype)
        return tf.stack([y[:, 1], thrust - GRAVITY], axis=1)

    results = keras_node.odeint(
        f,
        tf.constant([[10.0, 0.0]], tf.float64),
        (0.0, 9.0),
        jump_times=[1.0],
        events=GROUND,
    )
    # 6 - 8 s - 2 s**2 = 0 after the jump.
    expected = 1.0 + (-8.0 + np.sqrt(64.0 + 48.0)) / 4.0
    np.testing.assert_allclose(results.event_times, [expected], rtol=1e-9)


def _falls_with_drag(t, y):
    height, speed = tf.unstack(y, axis=1)
    slope = -GRAVITY - 0.3 * speed * tf.abs(speed)
    return tf.stack([speed, slope + 0.1 * tf.sin(20.0 * t)], axis=1)


@pytest.mark.parametrize("direction", [None, -1])
def test_resets_work_where_the_dense_output_is_not_exact(direction):
    bounce = Event(
        _height,
        direction,
        terminal=False,
        reset=lambda t, y: y * [1.0, -0.6],
        max_events=20,
    )
    y0 = tf.constant([[3.0, 0.0], [1.0, 2.0], [0.8, 0.0]], tf.float64)

    @tf.function(autograph=False)
    def solve(rtol):
        solver = keras_node.solvers.Tsit5(rtol=rtol, atol=rtol)
        with tf.GradientTape() as tape:
            tape.watch(y0)
            results = keras_node.odeint(
                _falls_with_drag, y0, (0.0, 1.55), solver, events=bounce
            )
            total = tf.reduce_sum(results.event_times[0])
        return results, tape.gradient(total, y0)

    results, gradient = solve(1e-4)
    exact, exact_gradient = solve(1e-11)
    np.testing.assert_array_equal(results.event_indices, exact.event_indices)
    np.testing.assert_allclose(
        results.event_times, exact.event_times, rtol=2e-3
    )
    # That of the discrete solution, whose steps pass kinks of the drag.
    np.testing.assert_allclose(gradient, exact_gradient, rtol=1e-2)
    assert np.min(results.states[-1, :, 0]) >= 0.0
    # Steps between bounces grow over whole flights.
    assert np.max(np.sum(exact.event_indices >= 0, axis=0)) > 4


def test_a_sample_that_fails_leaves_the_gradients_of_others_alone():
    solver = keras_node.solvers.Tsit5(
        rtol=1e-8, atol=1e-10, max_num_steps=200, on_failure="nan"
    )

    @tf.function(autograph=False)
    def solve(rate):
        with tf.GradientTape() as tape:
            tape.watch(rate)
            results = keras_node.odeint(
                lambda t, y: rate * y**2,
                # The second explodes at 1, before the others have their events.
                tf.constant([[0.1], [1.0], [0.2]], tf.float64),
                (0.0, 3.0),
                solver,
                events=Event(lambda t, y: y[:, 0] - 0.4),
            )
            time = results.event_times[2]
        return time, results.diagnostics.status, tape.gradient(time, rate)

    time, status, by_rate = solve(tf.constant(1.0, tf.float64))
    assert status[1] < 0
    # 0.2 / (1 - 0.2 rate t) = 0.4
    np.testing.assert_allclose(time, 2.5, rtol=1e-7)
    np.testing.assert_allclose(by_rate, -2.5, rtol=1e-6)


def test_conditions_of_any_magnitude_go_together():
    events = [GROUND, Event(lambda t, y: 1e6 * (y[:, 0] - 100.0) + 0.0 * t)]
    results = keras_node.odeint(
        _falls, tf.constant(Y0, tf.float32), (0.0, 9.0), events=events
    )
    np.testing.assert_allclose(results.event_times[0], 1.5811388, rtol=1e-5)


def test_a_condition_that_jumps_fails():
    results = keras_node.odeint(
        lambda t, y: tf.ones_like(y),
        tf.zeros([1, 1], tf.float64),
        (0.0, 1.0),
        keras_node.solvers.Tsit5(on_failure="nan"),
        events=Event(lambda t, y: (t + 0.25) % 1.0 - 0.6 + 0.0 * y[:, 0]),
    )
    # It rises through 0 before it jumps.
    np.testing.assert_allclose(results.event_times, [0.35], rtol=1e-9)
    results = keras_node.odeint(
        lambda t, y: tf.ones_like(y),
        tf.zeros([1, 1], tf.float64),
        (0.0, 1.0),
        keras_node.solvers.Tsit5(on_failure="nan"),
        events=Event(lambda t, y: (t + 0.25) % 1.0 - 0.6, direction=-1),
    )
    np.testing.assert_array_equal(results.diagnostics.status, [-4])


def test_a_reset_that_is_not_finite_fails_in_its_sample_alone():
    scale = tf.constant(1.0, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(scale)
        results = keras_node.odeint(
            lambda t, y: scale * _falls(t, y),
            tf.constant([[10.0, 0.0], [5.0, 0.0]], tf.float64),
            (0.0, 3.0),
            keras_node.solvers.Tsit5(on_failure="nan"),
            events=Event(
                _height,
                direction=-1,
                terminal=False,
                # Of the slower alone.
                reset=lambda t, y: y * tf.sqrt(-y[:, 1:] - 10.0),
                max_events=3,
            ),
        )
        time = results.event_times[0, 0]
    np.testing.assert_array_equal(results.diagnostics.status, [0, -3])
    assert np.isfinite(tape.gradient(time, scale))


def test_an_event_may_be_at_the_last_time():
    for adjoint in ("checkpoint", "direct"):
        results = keras_node.odeint(
            lambda t, y: tf.ones_like(y),
            tf.zeros([1, 1], tf.float64),
            (0.0, 0.5, 1.0),
            adjoint=adjoint,
            events=Event(
                lambda t, y: t - 1.0,
                terminal=False,
                reset=lambda t, y: y + 5.0,
                max_events=1,
            ),
        )
        np.testing.assert_allclose(results.states[-1], [[6.0]])
        np.testing.assert_allclose(results.event_times, [[1.0]])


def test_a_condition_with_large_constants_is_trained():
    """The gradient to a large constant is kept apart from the others."""
    table = tf.constant(np.linspace(0.0, 1.0, 2000))
    weight = tf.Variable(2.0, dtype=tf.float64)

    @tf.function(autograph=False)
    def gradient():
        with tf.GradientTape() as tape:
            time = keras_node.odeint(
                lambda t, y: tf.ones_like(y),
                tf.zeros([2, 1], tf.float64),
                (0.0, 9.0),
                events=Event(
                    lambda t, y: y[:, 0] * tf.reduce_mean(table) - weight
                ),
            ).event_times[0]
        return time, tape.gradient(time, weight)

    time, by_weight = gradient()
    np.testing.assert_allclose([time, by_weight], [4.0, 2.0], rtol=1e-9)


def test_a_condition_of_an_unknown_batch_is_checked():
    layer = keras_node.ODELayer(fall, events=Event(lambda t, y: y[0]))
    with pytest.raises(ValueError, match="for each sample"):
        layer(keras.Input((2,)))


def test_nested_states_of_any_batch_bounce():
    bounce = Event(
        lambda t, y: y["x"][:, 0],
        direction=-1,
        terminal=False,
        reset=lambda t, y: {"x": y["x"], "v": -0.8 * y["v"]},
        max_events=6,
    )

    @tf.function(
        input_signature=[tf.TensorSpec([None, 1], tf.float64)] * 2,
        autograph=False,
    )
    def run(x, v):
        with tf.GradientTape() as tape:
            tape.watch(x)
            results = keras_node.odeint(
                lambda t, y: {"x": y["v"], "v": -GRAVITY * tf.ones_like(v)},
                {"x": x, "v": v},
                (0.0, 3.0, 7.0),
                events=bounce,
            )
            height = results.states["x"][-1]
        return height, results.event_times, tape.gradient(height, x)

    x, v = tf.split(tf.constant(Y0), 2, axis=1)
    height, times, gradient = run(x, v)
    expected, last = _ball(10.0, 0.0, 0.8, 7.0)
    np.testing.assert_allclose(times[:3, 0], expected, rtol=1e-9)
    np.testing.assert_allclose(height[0, 0], last, rtol=1e-9)
    by_height = _difference(lambda x: _ball(x, 0.0, 0.8, 7.0)[1], 10.0)
    np.testing.assert_allclose(gradient[0, 0], by_height, rtol=1e-5)
    assert [x.shape[-1] for x in run(x[:0], v[:0])] == [1, 0, 1]


def test_each_sample_may_go_in_its_own_direction():
    results = keras_node.odeint(
        _falls,
        tf.constant([[10.0, 0.0], [10.0, 0.0]]),
        tf.constant([[0.0, 9.0], [0.0, -9.0]]),
        events=Event(_height),
    )
    np.testing.assert_allclose(
        results.event_times, [1.5811388, -1.5811388], rtol=1e-5
    )


def test_results_of_events_leave_a_function():
    solve = tf.function(
        lambda y0: keras_node.odeint(_falls, y0, (0.0, 9.0), events=GROUND)
    )
    results = solve(tf.constant(Y0, tf.float32))
    assert isinstance(results, keras_node.odeint.__globals__["Results"])
    np.testing.assert_allclose(results.event_times[0], 1.5811388, rtol=1e-5)


def test_events_can_be_debugged_in_python():
    seen = []

    def condition(t, y):
        seen.append(t)
        return y[:, 0]

    tf.config.run_functions_eagerly(True)
    try:
        y0 = tf.constant(Y0)
        with tf.GradientTape() as tape:
            tape.watch(y0)
            results = keras_node.odeint(
                _falls, y0, (0.0, 9.0), events=Event(condition)
            )
            time = results.event_times[0]
        gradient = tape.gradient(time, y0)
    finally:
        tf.config.run_functions_eagerly(False)
    assert len(seen) > 10
    np.testing.assert_allclose(gradient[0, 0], 0.0790569415, rtol=1e-7)


def test_a_second_derivative_of_an_event_raises():
    y0 = tf.constant(Y0)
    with tf.GradientTape() as outer:
        outer.watch(y0)
        with tf.GradientTape() as inner:
            inner.watch(y0)
            results = keras_node.odeint(
                _falls, y0, (0.0, 9.0), adjoint="direct", events=GROUND
            )
            time = results.event_times[0]
        first = inner.gradient(time, y0)
        with pytest.raises(NotImplementedError, match="first derivatives"):
            outer.gradient(first, y0)


@pytest.mark.parametrize(
    ("options", "kind", "match"),
    [
        ({"direction": 2}, ValueError, "`direction` must be"),
        ({"terminal": False}, ValueError, "`max_events` must be a positive"),
        ({"max_events": 0}, ValueError, "`max_events` must be a positive"),
        ({"reset": _height}, ValueError, "needs one"),
        ({"terminal": "no"}, TypeError, "`terminal` must be a boolean"),
        ({"reset": 3, "terminal": False}, TypeError, "`reset` must be"),
    ],
)
def test_wrong_options_of_an_event_are_refused(options, kind, match):
    with pytest.raises(kind, match=match):
        Event(_height, **options)


@pytest.mark.parametrize(
    ("options", "kind", "match"),
    [
        ({"events": Event(lambda t, y: y)}, ValueError, "for each sample"),
        ({"events": Event(lambda t, y: y[0])}, ValueError, "for each sample"),
        ({"events": Event(lambda t, y: t > 1.0)}, ValueError, "a float"),
        ({"events": Event(lambda t: t)}, TypeError, "`condition` must take"),
        ({"events": _height}, TypeError, "must be a `keras_node.Event`"),
        ({"adjoint": "backsolve"}, ValueError, "adaptive one-step solver"),
        ({"solver": "rk4"}, ValueError, "adaptive one-step solver"),
        ({"solver": "bdf"}, ValueError, "adaptive one-step solver"),
        ({"initial_state": tf.zeros([])}, ValueError, "batch axis"),
        (
            {"initial_state": tf.zeros([3, 2], tf.float16)},
            ValueError,
            "half precision",
        ),
        (
            {
                "events": Event(
                    _height,
                    terminal=False,
                    max_events=1,
                    reset=lambda t, y: y[:, 0],
                )
            },
            ValueError,
            "`reset` of an event must return a state",
        ),
    ],
)
def test_wrong_solves_with_events_are_refused(options, kind, match):
    arguments = {
        "initial_state": tf.constant(Y0),
        "times": (0.0, 1.0),
        "events": GROUND,
    }
    with pytest.raises(kind, match=match):
        keras_node.odeint(
            lambda t, y: tf.zeros_like(y), **(arguments | options)
        )


@keras.saving.register_keras_serializable(package="test_events")
def fall(t, y):
    return _falls(t, y)


@keras.saving.register_keras_serializable(package="test_events")
def reflect(t, y):
    return y * [1.0, -0.8]


def _layer(**options):
    return keras_node.ODELayer(
        fall,
        times=(0.0, 7.0),
        events=Event(
            keras.layers.Dense(1, use_bias=False, kernel_initializer="ones"),
            direction=-1,
            terminal=False,
            reset=reflect,
            max_events=9,
        ),
        return_event_times=True,
        **options,
    )


def test_a_layer_returns_event_times_and_is_saved(tmp_path):
    inputs = keras.Input((2,))
    model = keras.Model(inputs, _layer()(inputs))
    assert len(model.trainable_variables) == 1
    assert [x.shape for x in model.outputs] == [(None, 2), (None, 9)]
    y0 = Y0.astype("float32")
    states, times = model(y0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(y0)[1], times)
    model.export(tmp_path / "saved", verbose=False)
    exported = tf.saved_model.load(str(tmp_path / "saved"))
    served = exported.serve(y0)
    np.testing.assert_allclose(served[1], times, rtol=1e-6)
    np.testing.assert_allclose(served[0], states, rtol=1e-4)


def test_a_layer_learns_its_condition():
    inputs = keras.Input((2,))
    _, times = keras_node.ODELayer(
        fall,
        times=(0.0, 7.0),
        events=Event(keras.layers.Dense(1, kernel_initializer="ones")),
        return_event_times=True,
        regularizers=[keras_node.regularizers.KineticEnergy(1e-6)],
    )(inputs)
    model = keras.Model(inputs, times)
    model.compile(keras.optimizers.Adam(0.3), "mse")
    y0 = Y0.astype("float32")
    targets = _ball(10.0, 0.0, 1.0, 2.0)[0][0] * np.ones(3) + [0, -0.3, 0.5]
    history = model.fit(y0, targets, epochs=20, verbose=0).history["loss"]
    assert history[-1] < 0.5 * history[0]


def test_a_layer_without_events_returns_no_times():
    with pytest.raises(ValueError, match="needs `events`"):
        keras_node.ODELayer(fall, return_event_times=True)
