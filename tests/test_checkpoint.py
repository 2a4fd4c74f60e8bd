"""Tests of the exact discrete gradient from a bounded store of states."""

import math

import numpy as np
import pytest
import tensorflow as tf
from support.gradients import assert_close, end, float64, gradient

import keras_node
from keras_node.adjoints import CheckpointAdjoint, bounded_state_store
from keras_node.solvers import RK4, Heun, Tsit5


def store_after(num_states, capacity):
    """Returns a store to which states 0, 1, ... were offered, y_n = [n, n]."""
    store = bounded_state_store.empty(capacity, [tf.zeros(2)])
    for n in range(num_states):
        store = bounded_state_store.keep(store, n, [tf.fill([2], float(n))])
    return store


def kept(store):
    """Returns the numbers of the states in a store, in order."""
    return sorted(int(n) for n in store.numbers if n >= 0)


def test_store_keeps_every_state_while_there_is_room():
    assert kept(store_after(6, 8)) == list(range(6))


@pytest.mark.parametrize("capacity", (2, 3, 5, 16))
def test_full_store_thins_out_to_multiples_of_a_power_of_two(capacity):
    for num_states in (capacity + 1, 4 * capacity + 1, 100):
        store = store_after(num_states, capacity)
        stride = int(store.stride)
        assert math.log2(stride).is_integer()
        # A state given up stays until its slot is needed.
        assert set(range(0, num_states, stride)) <= set(kept(store))
        assert all(n % max(stride // 2, 1) == 0 for n in kept(store))
        assert len(kept(store)) == {2: 2, 3: 2, 5: 4, 16: 14}[capacity]


def test_full_store_leaves_slots_for_the_way_back():
    assert len(kept(store_after(300, 16))) == 14


def test_states_before_the_first_are_not_kept():
    store = bounded_state_store.empty(4, [tf.zeros(2)])
    for n in range(-3, 2):
        store = bounded_state_store.keep(store, n, [tf.fill([2], float(n))])
    assert kept(store) == [0, 1]


def test_nearest_is_the_last_state_kept_up_to_a_number():
    store = store_after(41, 8)
    numbers = kept(store)
    assert len(numbers) < 41
    for n in range(41):
        number, (leaf,) = bounded_state_store.nearest(store, n)
        assert int(number) == max(m for m in numbers if m <= n)
        np.testing.assert_array_equal(leaf, [float(number)] * 2)


def test_step_that_is_tried_again_replaces_its_state():
    store = store_after(3, 8)
    store = bounded_state_store.keep(store, 2, [tf.fill([2], -5.0)])
    assert kept(store) == [0, 1, 2]
    number, (leaf,) = bounded_state_store.nearest(store, 2)
    assert int(number) == 2
    np.testing.assert_array_equal(leaf, [-5.0, -5.0])


def steps_taken_again(num_steps, capacity):
    """Restores states last to first, as the reversal does."""
    store = store_after(num_steps, capacity)
    taken = 0
    for target in reversed(range(num_steps)):
        n, (leaf,) = bounded_state_store.nearest(store, target)
        n = last = int(n)
        value = float(leaf[0])
        while n < target:
            n, value, taken = n + 1, value + 1.0, taken + 1
            store, last = bounded_state_store.keep_on_return(
                store, last, n, target, [tf.fill([2], value)]
            )
            last = int(last)
        # The right state arrives, and a kept one is what it claims to be.
        assert value == target
        assert len(kept(store)) == len(set(kept(store))) <= capacity
    return taken


def test_no_step_is_taken_again_while_all_states_fit():
    assert steps_taken_again(14, 16) == 0


@pytest.mark.parametrize("num_steps, capacity", ((150, 16), (100, 5)))
def test_work_of_the_way_back_grows_like_the_logarithm(num_steps, capacity):
    stretch = num_steps / capacity
    # Each stretch is halved again and again: log2 times its length each.
    assert steps_taken_again(num_steps, capacity) <= num_steps * (
        1.0 + math.log2(2.0 * stretch)
    )


def pendulum(k):
    return lambda t, y: tf.stack([y[1], -k * tf.sin(y[0]) + tf.cos(3.0 * t)])


def pendulum_gradients(solver, adjoint, times):
    """Returns gradients to state, times and weight."""
    k = tf.Variable(2.0, dtype=tf.float64)

    def loss(sources):
        states = keras_node.odeint(
            pendulum(k), *sources, solver=solver, adjoint=adjoint
        ).states
        return tf.reduce_sum(tf.sin(states))

    sources = (float64([1.0, 0.3]), float64(times))
    return gradient(loss, sources, variables=[k])


TIMES = (0.0, 0.77, 1.1, 2.0)


@pytest.fixture(scope="module")
def direct_gradients_of_100_steps():
    return pendulum_gradients(Tsit5(step_size=0.018), "direct", TIMES)


@pytest.mark.parametrize("max_checkpoints", (2, 3, 5, 16, 128))
def test_gradient_of_100_steps_equals_direct_whatever_is_stored(
    direct_gradients_of_100_steps, max_checkpoints
):
    adjoint = CheckpointAdjoint(max_checkpoints, memory_limit=0)
    gradients = pendulum_gradients(Tsit5(step_size=0.018), adjoint, TIMES)
    assert_close(gradients, direct_gradients_of_100_steps, 1e-12)


@pytest.mark.parametrize(
    "solver",
    (
        Tsit5(rtol=1e-3, atol=1e-6),
        pytest.param(
            keras_node.solvers.Bosh3(rtol=1e-4), marks=pytest.mark.slow
        ),
        pytest.param(
            keras_node.solvers.Dopri5(rtol=1e-3), marks=pytest.mark.slow
        ),
        pytest.param(
            keras_node.solvers.Dopri8(rtol=1e-3), marks=pytest.mark.slow
        ),
        pytest.param(Heun(step_size=0.1), marks=pytest.mark.slow),
    ),
    ids=lambda solver: solver.name,
)
def test_gradient_of_coarse_steps_equals_direct(solver):
    # Coarse: continuous and discrete gradients would differ visibly.
    gradients = pendulum_gradients(
        solver, CheckpointAdjoint(3, memory_limit=0), TIMES[::-1]
    )
    expected = pendulum_gradients(solver, "direct", TIMES[::-1])
    assert_close(gradients, expected, 1e-12)


def test_gradient_equals_finite_differences_of_a_coarse_solve():
    k = tf.Variable(2.0, dtype=tf.float64)
    # Four steps of 0.475, whatever the differences of the times: coarse.
    solver = RK4(step_size=0.5)

    @tf.function(autograph=False)
    def value(y0, times):
        y = end(pendulum(k), y0, times, solver, "checkpoint")
        return tf.reduce_sum(y * [1.0, 2.0])

    @tf.function(autograph=False)
    def gradients(y0, times):
        with tf.GradientTape() as tape:
            tape.watch([y0, times])
            loss = value(y0, times)
        return tape.gradient(loss, [y0, times, k])

    y0, times = np.array([1.0, 0.3]), np.array([0.0, 1.9])

    def at(point):
        k.assign(point[4])
        return float(value(float64(point[:2]), float64(point[2:4])))

    point = np.array([*y0, *times, 2.0])
    eps = 1e-5
    differences = [
        (at(point + eps * e) - at(point - eps * e)) / (2.0 * eps)
        for e in np.eye(5)
    ]
    k.assign(2.0)
    dy0, dtimes, dk = gradients(float64(y0), float64(times))
    # Differences are good to eps^2 and 1e-16 / eps.
    assert_close(tf.concat([dy0, dtimes, [dk]], 0), differences, 1e-8)


def test_gradient_of_contracting_dynamics_does_not_drift():
    # y' = -50 (y - sin t), in steps so small that 1e-6 is left of exp(-25).
    rate = tf.Variable(50.0, dtype=tf.float64)
    dy0, (drate,) = gradient(
        lambda y: tf.reduce_sum(
            end(
                lambda t, y: -rate * (y - tf.sin(t)),
                y,
                (0.0, 0.5),
                Tsit5(step_size=0.00125),
                CheckpointAdjoint(max_checkpoints=8, memory_limit=0),
            )
        ),
        float64([2.0]),
        variables=[rate],
    )

    def exact(y0, r, t=0.5):
        """y = C e^{-rt} + r (r sin t - cos t) / (1 + r^2), by calculus."""
        amplitude = r * (r * np.sin(t) - np.cos(t)) / (1.0 + r * r)
        return (y0 + r / (1.0 + r * r)) * np.exp(-r * t) + amplitude

    assert_close(dy0, [np.exp(-25.0)], 1e-6)
    # A complex step has no rounding error.
    assert_close(drate, exact(2.0, 50.0 + 1e-30j).imag / 1e-30, 1e-6)


@pytest.mark.parametrize("value", (1, 0, 2.5, None))
def test_fewer_than_two_checkpoints_are_refused(value):
    with pytest.raises(ValueError, match=f"Received: max_checkpoints={value}"):
        CheckpointAdjoint(max_checkpoints=value)


def test_configuration_makes_an_equal_adjoint():
    adjoint = CheckpointAdjoint(max_checkpoints=7)
    config = keras_node.adjoints.serialize(adjoint)
    assert keras_node.adjoints.get(config).max_checkpoints == 7
