"""Events that meet rounding, undefined conditions, and jumps."""

import numpy as np
import pytest
import tensorflow as tf

import keras_node
from keras_node import Event

GRAVITY = 8.0


def _falls(t, y):
    """Returns the derivative of height and velocity in free fall."""
    return tf.stack([y[:, 1], -GRAVITY * tf.ones_like(y[:, 0])], axis=1)


def _glides(t, y):
    """Returns that of a body on which no force acts."""
    return tf.stack([y[:, 1], tf.zeros_like(y[:, 1])], axis=1)


def _rises(t, y):
    return tf.ones_like(y)


def _sinks(t, y):
    return -tf.ones_like(y)


def _solver(**options):
    return keras_node.solvers.Tsit5(on_failure="nan", **options)


def _wall(position, direction):
    return Event(
        lambda t, y: y[:, 0] - position,
        direction=direction,
        terminal=False,
        reset=lambda t, y: y * [1.0, -1.0],
        max_events=9,
    )


def test_walls_are_hit_at_late_times_in_float32():
    # A time of 1e4 is known to 1e-3 there; the first wall is 0.05 away.
    results = keras_node.odeint(
        _glides,
        tf.constant([[0.05, -1.0]]),
        (1e4, 1e4 + 4.0),
        _solver(first_step_size=4.0),
        events=[_wall(0.0, -1), _wall(0.5, 1)],
    )
    expected = 1e4 + 0.05 + 0.5 * np.arange(8)
    np.testing.assert_allclose(results.event_times[:8, 0], expected, rtol=1e-9)
    np.testing.assert_array_equal(results.event_indices[:8, 0], [0, 1] * 4)


def test_a_reset_that_almost_stops_does_not_fire_again():
    # What rounding leaves of the condition takes the slow bodies a long time.
    rng = np.random.default_rng(0)
    places = 100.0 + rng.uniform(-0.5, 0.5, (64, 2))
    y0 = np.concatenate([places, rng.normal(size=(64, 2))], axis=1)
    results = keras_node.odeint(
        lambda t, y: tf.concat([y[:, 2:], tf.zeros_like(y[:, 2:])], axis=1),
        tf.constant(y0, tf.float32),
        (0.0, 20.0),
        _solver(),
        events=Event(
            lambda t, y: tf.reduce_sum((y[:, :2] - 100.0) ** 2, axis=1) - 1.0,
            terminal=False,
            reset=lambda t, y: y * [1.0, 1.0, -0.002, -0.002],
            max_events=3,
        ),
    )
    assert np.all(results.diagnostics.status == 0)
    np.testing.assert_array_equal(results.event_indices[0], 0)
    np.testing.assert_array_equal(results.event_indices[1:], -1)


def test_a_small_bounce_after_a_long_step_does_not_graze():
    results = keras_node.odeint(
        _falls,
        tf.constant([[1.0, 0.0]]),
        (0.0, 10.0),
        _solver(),
        events=Event(
            lambda t, y: y[:, 0],
            direction=-1,
            reset=lambda t, y: tf.stack([y[:, 0], 0.005 + 0.0 * y[:, 1]], 1),
            max_events=3,
        ),
    )
    expected = 0.5 + 0.00125 * np.arange(3)
    np.testing.assert_allclose(results.event_times[:, 0], expected, rtol=1e-5)


@pytest.mark.parametrize("first_step_size", [None, 8.0, 16.0, 50.0])
@pytest.mark.parametrize("shape", [tf.math.log, lambda x: tf.sqrt(x) - 1.0])
def test_a_condition_may_be_undefined_behind_its_zero(first_step_size, shape):
    results = keras_node.odeint(
        _sinks,
        tf.constant([[10.0], [10.5], [3.0]]),
        (0.0, 60.0),
        _solver(first_step_size=first_step_size),
        events=Event(lambda t, y: shape(y[:, 0])),
    )
    np.testing.assert_allclose(results.event_times, [9.0, 9.5, 2.0], rtol=1e-5)


def test_a_condition_that_becomes_undefined_before_its_zero_fails():
    results = keras_node.odeint(
        _sinks,
        tf.constant([[10.0], [70.0]]),
        (0.0, 60.0),
        _solver(),
        events=Event(lambda t, y: tf.sqrt(y[:, 0]) + 1.0),
    )
    np.testing.assert_array_equal(results.diagnostics.status, [-3, 0])


def test_a_condition_may_be_undefined_after_its_last_event():
    results = keras_node.odeint(
        _sinks,
        tf.constant([[10.0]]),
        (0.0, 60.0),
        _solver(),
        events=Event(
            lambda t, y: tf.math.log(y[:, 0]), terminal=False, max_events=1
        ),
    )
    np.testing.assert_allclose(results.event_times[:, 0], [9.0], rtol=1e-5)
    np.testing.assert_allclose(results.states[-1], [[-50.0]], rtol=1e-5)


def test_an_infinite_rate_at_the_start_is_on_no_surface():
    results = keras_node.odeint(
        _rises,
        tf.zeros([1, 1]),
        (0.0, 5.0),
        events=Event(lambda t, y: tf.sqrt(y[:, 0]) - 1.0),
    )
    np.testing.assert_allclose(results.event_times, [1.0], rtol=1e-5)


def test_a_start_on_the_surface_may_have_no_rate_there():
    results = keras_node.odeint(
        _rises,
        tf.zeros([1, 2]),
        (0.0, 5.0),
        events=[
            Event(lambda t, y: tf.norm(y, axis=1)),
            Event(lambda t, y: y[:, 0] - 2.0),
        ],
    )
    np.testing.assert_array_equal(results.event_indices, [1])


@pytest.mark.parametrize("adjoint", ["checkpoint", "direct"])
def test_a_condition_without_gradient_elsewhere_leaves_others_alone(adjoint):
    # The second sample stays where the norm has no derivative.
    radius, y0 = tf.Variable(1.0), tf.constant([[0.5, 0.5], [0.0, 0.0]])
    with tf.GradientTape() as tape:
        tape.watch(y0)
        results = keras_node.odeint(
            lambda t, y: y,
            y0,
            (0.0, 2.0),
            adjoint=adjoint,
            events=Event(lambda t, y: tf.norm(y, axis=1) - radius),
        )
        time = results.event_times[0]
    by_y0, by_radius = tape.gradient(time, [y0, radius])
    # It is log(radius / |y0|).
    np.testing.assert_allclose(by_y0, [[-1.0, -1.0], [0.0, 0.0]], rtol=1e-5)
    np.testing.assert_allclose(by_radius, 1.0, rtol=1e-5)


def test_a_solution_can_be_read_at_its_terminal_events():
    # The last step may end a little before or behind them.
    y0 = tf.stack([tf.linspace(1.0, 1.7, 8), tf.zeros([8])], axis=1)
    results = keras_node.odeint(
        lambda t, y: tf.stack([y[:, 1], -y[:, 0]], axis=1),
        y0,
        (0.0, 9.0),
        events=Event(lambda t, y: y[:, 0] - 0.3),
        dense=True,
    )
    found = results.interpolate(results.event_times[:, None])  # (batch, 1)
    np.testing.assert_allclose(found[..., 0], 0.3, rtol=1e-4)


@pytest.mark.parametrize("offset", [-3e-7, -1e-7, 0.0, 1e-7, 3e-7, 2e-6])
def test_an_event_beside_a_jump_keeps_the_gradient_to_the_jump(offset):
    # The speed becomes 5 at 1, where float32 knows the time to 1e-7.
    jump = tf.constant([1.0], tf.float64)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(jump)
        results = keras_node.odeint(
            lambda t, y: tf.where((t < 1.0)[:, None], 1.0, 5.0) + 0 * y,
            tf.constant([[-1.0 - offset]]),
            (0.0, 2.0),
            events=Event(
                lambda t, y: y[:, 0],
                terminal=False,
                reset=lambda t, y: 2.0 * y + 3.0,
                max_events=2,
            ),
            jump_times=jump,
        )
        end, time = results.states[-1, 0, 0], results.event_times[0, 0]
    np.testing.assert_allclose(time, 1.0, atol=1e-6)
    np.testing.assert_allclose(end, 8.0, rtol=1e-6)
    np.testing.assert_allclose(tape.gradient(end, jump), [-4.0], rtol=1e-5)
    # Behind the jump the event is at `jump - (y0 + jump) / 5`.
    slope = float(tape.gradient(time, jump)[0])
    assert min(abs(slope), abs(slope - 0.8)) < 1e-5
    if abs(offset) > 2e-7:
        assert (slope > 0.4) == (offset > 0.0)


@pytest.mark.parametrize("adjoint", ["checkpoint", "direct"])
def test_a_dose_at_a_jump_keeps_the_gradient_to_the_jump(adjoint):
    # y' = -k y, k 1 before the jump and 2 behind it; a dose of 1 at 1.
    jump = tf.constant([1.0], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(jump)
        results = keras_node.odeint(
            lambda t, y: tf.where((t < 1.0)[:, None], -y, -2.0 * y),
            tf.ones([1, 1], tf.float64),
            (0.0, 2.0),
            _solver(rtol=1e-8, atol=1e-10),
            adjoint,
            jump_times=jump,
            events=Event(
                lambda t, y: t - 1.0,
                terminal=False,
                reset=lambda t, y: y + 1.0,
                max_events=1,
            ),
        )
        end = results.states[-1, 0, 0]
    before = np.exp(-1.0)
    np.testing.assert_allclose(end, (before + 1) * np.exp(-2.0), rtol=1e-7)
    slopes = [(before + 1) * np.exp(-2.0), before * np.exp(-2.0)]
    found = float(tape.gradient(end, jump)[0])
    assert min(abs(found - slope) for slope in slopes) < 1e-6


def test_conditions_keep_their_own_captures():
    # The square root of each sample is defined for its own shift alone.
    shift = tf.constant([0.0, 50.0])
    y0 = tf.constant([[10.0], [100.0]])

    @tf.function(jit_compile=True)
    def gradients():
        with tf.GradientTape() as tape:
            tape.watch([shift, y0])
            results = keras_node.odeint(
                _sinks,
                y0,
                (0.0, 60.0),
                events=Event(lambda t, y: (y[:, 0] - shift) ** 0.5 - 1.0),
            )
            total = tf.reduce_sum(results.event_times)
        return tape.gradient(total, [shift, y0])

    by_shift, by_y0 = gradients()
    np.testing.assert_allclose(by_shift, [-1.0, -1.0], rtol=1e-5)
    np.testing.assert_allclose(by_y0, [[1.0], [1.0]], rtol=1e-5)


def test_a_condition_may_be_in_half_precision():
    results = keras_node.odeint(
        _rises,
        tf.zeros([1, 1]),
        (0.0, 5.0),
        events=Event(lambda t, y: tf.cast(y[:, 0], tf.bfloat16) - 2.3),
    )
    # Rounded to 2 ** -6 there.
    np.testing.assert_allclose(results.event_times, [2.3], atol=2**-6)


def test_balls_at_rest_do_not_fall_through_a_floor():
    # The last bounces are lower than float32 can tell from a floor at 1.
    rng = np.random.default_rng(0)
    heights = 1.0 + rng.uniform(0.05, 8.0, 50)
    y0 = np.stack([heights, rng.normal(size=50)], axis=1)
    results = keras_node.odeint(
        _falls,
        tf.constant(y0, tf.float32),
        (0.0, 4.0),
        _solver(),
        events=Event(
            lambda t, y: y[:, 0] - 1.0,
            direction=-1,
            terminal=False,
            reset=lambda t, y: y * [1.0, -0.7],
            max_events=40,
        ),
    )
    status = results.diagnostics.status.numpy()
    assert {-4, 0} <= set(status) <= {-5, -4, 0}
    assert np.all(results.states[-1, :, 0].numpy()[status == 0] > 0.999)


def test_an_event_between_a_jump_and_the_end_stays_inside():
    # All three within two roundings of float32.
    end = 1000.0
    jump = end - 6.1e-5
    results = keras_node.odeint(
        _rises,
        tf.constant([[-1.0]]),
        (end - 1.0, end),
        _solver(),
        jump_times=[jump],
        events=Event(lambda t, y: y[:, 0] + 3e-5),
    )
    np.testing.assert_array_equal(results.diagnostics.status, [0])
    np.testing.assert_allclose(results.event_times, end - 3e-5, atol=1e-6)


def test_a_condition_of_lower_precision_has_a_surface_of_its_own():
    # Its value at the start is the rounding of float32.
    results = keras_node.odeint(
        _rises,
        tf.constant([[0.1]], tf.float64),
        (0.0, 1.0),
        events=Event(lambda t, y: tf.cast(y[:, 0], tf.float32) - 0.1000001),
    )
    np.testing.assert_array_equal(results.event_indices, [-1])


def test_jumps_behind_a_terminal_event_are_not_counted():
    counts = []
    for jump_times in ([5.0], None):
        results = keras_node.odeint(
            _rises,
            tf.zeros([1, 1]),
            (0.0, 9.0),
            adjoint="direct",
            jump_times=jump_times,
            events=Event(lambda t, y: y[:, 0] - 1.0),
        )
        counts.append(int(results.diagnostics.num_ode_fn_evaluations[0]))
    assert counts[0] == counts[1]
