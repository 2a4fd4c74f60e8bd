"""Tests of gradients from activations that the forward solve kept."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.gradients import MODES, assert_close, float64, gradient

import keras_node
from keras_node.adjoints import CheckpointAdjoint, activation_memory
from keras_node.dynamics import field_gradient, traced_field
from keras_node.integration.solve import solve
from keras_node.solvers import RK4, Bosh3, Dopri8, Tsit5

TIMES = (0.0, 0.77, 1.1, 2.0)
# A step of the pendulum keeps about a thousand bytes, slots included.
FEW_STEPS = 4000


def pendulum(k, t, y):
    angle, speed = tf.unstack(y, axis=-1)
    force = tf.cos(3.0 * t) - k * tf.sin(angle)
    return tf.stack([speed, force], axis=-1)


def gradients_of(solver, adjoint, times, y0=(1.0, 0.3), mode="function"):
    """Returns gradients to state, times and weight."""
    k = tf.Variable(2.0, dtype=tf.float64)

    def loss(sources):
        states = keras_node.odeint(
            functools.partial(pendulum, k), *sources, solver, adjoint
        ).states
        return tf.reduce_sum(tf.sin(states))

    sources = (float64(y0), float64(times))
    return gradient(loss, sources, mode, variables=[k])


def clocks_of_their_own():
    """Returns three samples, of which one is stiffer than the others."""
    return ((1.0, 0.3), (0.1, 0.0), (3.0, 40.0)), (TIMES,) * 3


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("memory_limit", (0, FEW_STEPS, 2**28))
def test_gradient_does_not_depend_on_what_is_kept(memory_limit, mode):
    solver = Tsit5(rtol=1e-6, max_num_steps=64)
    found = gradients_of(
        solver, CheckpointAdjoint(5, memory_limit), TIMES, mode=mode
    )
    assert_close(found, gradients_of(solver, "direct", TIMES), 1e-11)


@pytest.mark.parametrize("memory_limit", (FEW_STEPS, 2**28))
@pytest.mark.parametrize(
    "solver",
    (
        Dopri8(rtol=1e-5),
        RK4(step_size=0.1),
        pytest.param(Bosh3(rtol=1e-4), marks=pytest.mark.slow),
        pytest.param(Tsit5(step_size=0.1), marks=pytest.mark.slow),
    ),
    ids=lambda solver: solver.name,
)
def test_each_method_has_the_gradient_of_its_steps(solver, memory_limit):
    found = gradients_of(solver, CheckpointAdjoint(5, memory_limit), TIMES)
    assert_close(found, gradients_of(solver, "direct", TIMES), 1e-11)


@pytest.mark.parametrize("memory_limit", (0, 4 * FEW_STEPS, 2**28))
def test_clocks_of_their_own_keep_the_gradients_of_their_steps(memory_limit):
    y0, times = clocks_of_their_own()
    solver = Tsit5(rtol=1e-5, per_sample_steps=True)
    adjoint = CheckpointAdjoint(memory_limit=memory_limit)
    found = gradients_of(solver, adjoint, times, y0)
    assert_close(found, gradients_of(solver, "direct", times, y0), 1e-11)


def test_overflow_of_one_clock_does_not_reach_the_gradient_of_the_others():
    # A first step of 1 is far too long for the second sample alone.
    rate = float64([[1.0], [300.0]])
    weight = tf.Variable(1.0, dtype=tf.float64)

    def loss(y, adjoint):
        return tf.reduce_sum(
            keras_node.odeint(
                lambda t, y: -rate * weight * tf.exp(y * y) * y,
                y,
                (0.0, 1.0),
                Tsit5(per_sample_steps=True, first_step_size=1.0),
                adjoint,
            ).states[-1]
        )

    found, expected = [
        gradient(
            lambda y, adjoint=adjoint: loss(y, adjoint),
            float64([[0.5], [2.0]]),
            variables=[weight],
        )
        for adjoint in ("checkpoint", "direct")
    ]
    assert np.all(np.isfinite(found[0]))
    assert_close(found, expected, 1e-10)


def backward_evaluations(memory_limit):
    """Returns the backward NFE of 10 steps of Tsit5."""
    counts = []
    y = tf.Variable([[1.0, 0.3]])
    with tf.GradientTape() as tape:
        states = solve(
            functools.partial(pendulum, 2.0),
            y,
            (0.0, 1.0),
            Tsit5(step_size=0.1),
            CheckpointAdjoint(memory_limit=memory_limit),
            on_backward=counts.append,
        ).states
    tape.gradient(states, y)
    return int(counts[0])


def test_kept_activations_leave_nothing_to_evaluate():
    assert backward_evaluations(2**28) == 0


def test_steps_beyond_the_limit_are_taken_again():
    assert backward_evaluations(0) == 61
    assert 0 < backward_evaluations(FEW_STEPS) < 60


def kept_by(dynamics, shape):
    """Returns the shapes of what an evaluation keeps."""
    field = traced_field.trace(dynamics, (), tf.TensorSpec(shape))
    kept = field_gradient.FieldGradient(field, needs_time=True).kept_specs
    return sorted(tuple(spec.shape) for spec in kept)


def test_activations_are_kept_and_weights_are_not():
    net = keras.Sequential(
        [
            keras.layers.Dense(7, activation="tanh"),
            keras.layers.Dense(2, use_bias=False),
        ]
    )
    net.build((None, 2))
    # The state, for the first kernel, and the hidden layer.
    assert kept_by(lambda t, y: net(y), (5, 2)) == [(5, 2), (5, 7)]


def test_what_all_evaluations_share_is_not_kept():
    weight = tf.Variable(tf.ones([2, 2]))

    def dynamics(t, y):
        # The cosine and the normalised weight are the same each time.
        return y @ (tf.cos(weight) / tf.norm(weight))

    assert kept_by(dynamics, (5, 2)) == [(5, 2)]


@pytest.mark.parametrize("mode", MODES)
def test_dynamics_with_a_loop_keep_nothing_and_have_their_gradient(mode):
    def dynamics(t, y):
        return tf.while_loop(
            lambda i, y: i < 3,
            lambda i, y: (i + 1, tf.sin(y)),
            (tf.constant(0), y),
            maximum_iterations=3,
        )[1]

    def loss(y, adjoint="checkpoint"):
        solver = Tsit5(step_size=0.25, max_num_steps=8)
        states = keras_node.odeint(dynamics, y, (0.0, 1.0), solver, adjoint)
        return tf.reduce_sum(states.states[-1])

    y = float64([0.3, -1.0])
    expected = gradient(functools.partial(loss, adjoint="direct"), y)
    assert_close(gradient(loss, y, mode), expected, 1e-12)


def test_batches_of_any_size_share_a_graph_under_xla():
    net = keras.layers.Dense(2, activation="tanh")
    net.build((None, 2))

    @tf.function(
        input_signature=[tf.TensorSpec((None, 2))],
        jit_compile=True,
        autograph=False,
    )
    def compute(y):
        with tf.GradientTape() as tape:
            end = keras_node.odeint(
                lambda t, y: net(y), y, (0.0, 1.0), RK4(step_size=0.25)
            ).states[-1]
        return tape.gradient(end, net.kernel)

    for batch in (1, 3):
        y = tf.ones((batch, 2))
        with tf.GradientTape() as tape:
            end = keras_node.odeint(
                lambda t, y: net(y), y, (0.0, 1.0), RK4(step_size=0.25)
            ).states[-1]
        assert_close(compute(y), tape.gradient(end, net.kernel), 1e-5)


def gradient_by(adjoint, dynamics, y, weight, **options):
    """Returns gradients to state and weight; `dynamics` is of `(weight, y)`."""
    solver = Tsit5(rtol=1e-5, max_num_steps=200, **options)

    def loss(y):
        states = keras_node.odeint(
            lambda t, y: dynamics(weight, y), y, (0.0, 1.0), solver, adjoint
        ).states
        return tf.reduce_sum(
            [tf.reduce_sum(x) for x in tf.nest.flatten(states)]
        )

    return gradient(loss, y, "function", variables=[weight])


def count_above(weight, y):
    # The shape of the selection depends on the state.
    count = tf.size(tf.boolean_mask(y, y > 0.5))
    return -weight * y / (1.0 + tf.cast(count, y.dtype))


def power(weight, y):
    # Stages below 0 have a derivative that is not finite.
    rate = float64([[1.0], [300.0]])
    return rate * (tf.nn.relu(y) ** (weight * 2.0 / 3.0) - y)


def ignored_leaf(weight, y):
    first, second = y
    return -weight * first, tf.ones_like(second)


@tf.function(autograph=False)
def inner_function(weight, y):
    return tf.tanh(y * weight) - tf.stop_gradient(y)


@pytest.mark.parametrize("memory_limit", (0, 2**28))
@pytest.mark.parametrize(
    ("dynamics", "y", "options"),
    (
        (count_above, [0.4, 0.6, 0.8, 1.5], {}),
        (
            power,
            [[0.5], [2.0]],
            {"per_sample_steps": True, "first_step_size": 1.0},
        ),
        (inner_function, [0.4, -1.0], {}),
    ),
)
def test_gradient_of_awkward_dynamics(dynamics, y, options, memory_limit):
    weight = tf.Variable(1.1, dtype=tf.float64)
    adjoint = CheckpointAdjoint(memory_limit=memory_limit)
    found, expected = [
        gradient_by(each, dynamics, float64(y), weight, **options)
        for each in (adjoint, "direct")
    ]
    assert np.all(np.isfinite(found[0]))
    assert_close(found, expected, 1e-10)


def gradients_by_both(dynamics):
    """Returns the gradients by checkpoints, and through the operations."""
    weight = tf.Variable(1.1, dtype=tf.float64)
    return [
        gradient_by(adjoint, dynamics, float64([0.8, 0.9]), weight)
        for adjoint in ("checkpoint", "direct")
    ]


@pytest.mark.parametrize("of", ("weight", "state"))
@pytest.mark.parametrize(
    "make",
    (
        lambda x: tf.range(0.0, 2.5 + x),
        lambda x: tf.raw_ops.ListDiff(
            x=tf.stack([x, 5.0]), y=tf.zeros([1], x.dtype)
        )[0],
        lambda x: tf.numpy_function(
            lambda x: np.arange(2.5 + x), [x], tf.float64, stateful=False
        ),
    ),
    ids=("a range", "a difference of lists", "an array of NumPy"),
)
def test_size_that_follows_from_a_value_is_that_of_each_evaluation(make, of):
    def dynamics(weight, y):
        x = weight if of == "weight" else tf.reduce_max(y)
        size = tf.cast(tf.size(make(tf.convert_to_tensor(x))), y.dtype)
        return -0.1 * size * weight * y

    assert_close(*gradients_by_both(dynamics), 1e-10)


def test_what_dynamics_assert_of_their_weights_holds_in_the_gradient():
    def dynamics(weight, y):
        positive = tf.debugging.assert_positive(weight)
        with tf.control_dependencies([positive]):
            count = tf.shape(y)[0]
        return -tf.reduce_mean(tf.tile((y * weight)[None], [count, 1]), 0)

    assert_close(*gradients_by_both(dynamics), 1e-10)


def test_leaves_that_the_dynamics_ignore_have_their_cotangent():
    weight = tf.Variable(1.1)
    y = (tf.constant([0.5, 1.0]), tf.constant([2.0, 3.0]))
    (first, second), dweight = gradient_by(
        "checkpoint", ignored_leaf, y, weight
    )
    assert_close(first, 2 * [1.0 + np.exp(-1.1)], 1e-4)
    assert_close(second, [2.0, 2.0], 1e-6)
    assert_close(dweight[0], -1.5 * np.exp(-1.1), 1e-3)


def test_weights_of_an_inner_function_are_not_kept():
    weight = tf.Variable(tf.ones([2, 2]))

    @tf.function(autograph=False)
    def inner(y):
        return tf.tanh(y @ weight)

    assert kept_by(lambda t, y: inner(y), (5, 2)) == [(5, 2)] * 2


def test_gradients_can_be_taken_twice_from_a_persistent_tape():
    y = tf.Variable([1.0, 0.5])
    solver = Tsit5(step_size=0.02)
    with tf.GradientTape(persistent=True) as tape:
        end = keras_node.odeint(
            lambda t, y: tf.sin(3.0 * y),
            y,
            (0.0, 1.0),
            solver,
            CheckpointAdjoint(4, memory_limit=0),
        ).states[-1]
    first = tape.gradient(end, y)
    np.testing.assert_array_equal(tape.gradient(end, y), first)


def test_sizes_that_are_not_known_beforehand_count():
    log = activation_memory.EvaluationLog(
        [tf.TensorSpec((None, None))], [], 6, 1000, memory_limit=2**20
    )
    kept = log.start([tf.zeros([256, 256])], [])
    # Six evaluations of 256 KiB each do not fit.
    assert int(kept.window) == 0
    kept = log.start([tf.zeros([64, 64])], [])
    assert int(kept.window) == 2**20 // (6 * (4 * 64**2 + 32))


def test_dynamics_whose_gradient_cannot_be_split_are_evaluated_again(
    monkeypatch,
):
    def fail(*args):
        raise LookupError("No gradient defined")

    solver = Tsit5(rtol=1e-6, max_num_steps=64)
    expected = gradients_of(solver, "checkpoint", TIMES)
    monkeypatch.setattr(field_gradient.FieldGradient, "__init__", fail)
    assert_close(gradients_of(solver, "checkpoint", TIMES), expected, 1e-11)


@pytest.mark.parametrize("value", (-1, 2.5, None))
def test_a_negative_or_fractional_limit_is_refused(value):
    with pytest.raises(ValueError, match=f"Received: memory_limit={value}"):
        CheckpointAdjoint(memory_limit=value)
