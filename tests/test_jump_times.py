"""Known discontinuities of the dynamics: `jump_times`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_node

# The rate of decay before and behind the jump.
SLOW, FAST = 1.0, 3.0
ADJOINTS = {
    "checkpoint": "checkpoint",
    "states_alone": keras_node.adjoints.CheckpointAdjoint(2, memory_limit=0),
    "direct": "direct",
    "backsolve": "backsolve",
}
SOLVERS = {
    "tsit5": keras_node.solvers.Tsit5(rtol=1e-7, atol=1e-9),
    "dopri8": keras_node.solvers.Dopri8(rtol=1e-7, atol=1e-9),
    "rk4": keras_node.solvers.RK4(step_size=0.02),
    "fixed_tsit5": keras_node.solvers.Tsit5(step_size=0.05),
}
TSIT5 = SOLVERS["tsit5"]


def _decay(jump):
    """Returns dynamics of `(batch, 1)` whose rate jumps, once for all or each.

    Args:
        jump: Tensor `()` or `(batch, 1)`.
    """

    def f(t, y):
        switch = tf.reshape(jump, [-1]) if jump.shape.rank else jump
        is_before = t < tf.cast(switch, y.dtype)
        rate = tf.where(is_before, SLOW * tf.ones_like(t), FAST)
        return -tf.reshape(rate, [-1, 1]) * y

    return f


def _solution(y0, jump, end=1.0):
    return y0 * np.exp(-SLOW * jump - FAST * (end - jump))


def _solve_and_differentiate(jump, jump_times, times, solver, adjoint):
    y0 = tf.constant([[1.0], [2.0]], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch([jump, y0])
        results = keras_node.odeint(
            _decay(jump),
            y0,
            times,
            SOLVERS[solver],
            ADJOINTS[adjoint],
            jump_times(jump),
        )
        y = results.states[-1]
    return y, *tape.gradient(y, [jump, y0])


@pytest.mark.parametrize("times", [(0.0, 1.0), (0.0, 0.3, 0.7, 1.0)])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_the_gradient_to_a_jump_is_that_of_the_closed_form(
    adjoint, solver, times
):
    jump = tf.constant(0.37, tf.float64)
    y, jump_bar, y0_bar = _solve_and_differentiate(
        jump, lambda jump: jump[None], times, solver, adjoint
    )
    expected = _solution(np.array([[1.0], [2.0]]), 0.37)
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    np.testing.assert_allclose(
        jump_bar, (FAST - SLOW) * expected.sum(), rtol=1e-5
    )
    np.testing.assert_allclose(y0_bar, expected / [[1.0], [2.0]], rtol=1e-5)


@pytest.mark.parametrize(
    ("solver", "adjoint"),
    [*(("tsit5", adjoint) for adjoint in ADJOINTS), ("rk4", "checkpoint")],
)
def test_each_sample_may_have_jumps_of_its_own(solver, adjoint):
    # The first coincides with a requested time.
    jump = tf.constant([[0.3], [0.62]], tf.float64)

    def padded(jump):
        return tf.concat([tf.fill([2, 1], np.float64(np.nan)), jump], axis=1)

    y, jump_bar, _ = _solve_and_differentiate(
        jump, padded, (0.0, 0.3, 0.7, 1.0), solver, adjoint
    )
    expected = _solution(np.array([[1.0], [2.0]]), jump.numpy())
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    np.testing.assert_allclose(jump_bar, (FAST - SLOW) * expected, rtol=1e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_jumps_work_in_graphs(jit_compile):
    run = tf.function(
        lambda jump: _solve_and_differentiate(
            jump, tf.identity, (0.0, 0.3, 1.0), "tsit5", "checkpoint"
        ),
        jit_compile=jit_compile,
        autograph=False,
    )
    jump = tf.constant([[0.3], [0.62]], tf.float64)
    y, jump_bar, _ = run(jump)
    expected = _solution(np.array([[1.0], [2.0]]), jump.numpy())
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    np.testing.assert_allclose(jump_bar, (FAST - SLOW) * expected, rtol=1e-5)


def _evaluation_times(times, jump_times, solver, dtype):
    """Returns the times at which a solve evaluates the dynamics."""
    evaluated = []

    def f(t, y):
        evaluated.append(t.numpy())
        return tf.where(t < jump_times[0], tf.ones_like(y), 1e3) * y / 1e3

    tf.config.run_functions_eagerly(True)
    try:
        keras_node.odeint(
            f,
            tf.ones([1], dtype),
            times,
            solver,
            jump_times=jump_times,
        )
    finally:
        tf.config.run_functions_eagerly(False)
    return np.array(evaluated)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("solver", ["tsit5", "dopri8", "rk4", "fixed_tsit5"])
@pytest.mark.parametrize("times", [(0.0, 0.5, 1.0), (1.0, 0.1, 0.0)])
def test_no_evaluation_is_at_a_jump_or_across_it(times, solver, dtype):
    jump = 1 / 3
    evaluated = _evaluation_times(times, (jump,), SOLVERS[solver], dtype)
    assert evaluated.dtype == dtype
    rounded = np.asarray(jump, dtype)
    assert not np.any(evaluated == rounded)
    is_behind = (evaluated > rounded) == (times[0] < times[-1])
    # The steps before the jump come first.
    assert np.all(np.diff(is_behind.astype(int)) >= 0)
    assert 0 < is_behind.sum() < len(evaluated)


@pytest.mark.parametrize("solver", ["tsit5", "fixed_tsit5"])
@pytest.mark.parametrize("times", [(-1.0, 1.0), (0.0, 1.0), (1.0, 0.0)])
def test_a_jump_may_be_at_zero(times, solver):
    # The neighbour of 0 is a number that a thread may flush to 0.
    def f(t, y):
        return tf.where(t <= 0.0, tf.zeros_like(y), tf.ones_like(y))

    def g(t, y):
        return tf.where(t < 0.0, tf.zeros_like(y), tf.ones_like(y))

    expected = max(times[1], 0.0) - max(times[0], 0.0)
    for dynamics in (f, g):
        solve = tf.function(
            lambda dynamics=dynamics: keras_node.odeint(
                dynamics,
                tf.zeros([1]),
                times,
                SOLVERS[solver],
                jump_times=[0.0],
            ).states[-1],
            autograph=False,
        )
        np.testing.assert_allclose(solve(), [expected], rtol=1e-6)


def test_fixed_steps_land_on_jumps_at_large_times():
    # The steps to the jump miss it by 1e-10, 1e-8 of a step.
    def f(t, y):
        return tf.where(t < 1e6 + 0.5, tf.zeros_like(y), 1.0)

    end = keras_node.odeint(
        f,
        tf.zeros([1], tf.float64),
        (1e6, 1e6 + 1.0),
        keras_node.solvers.Tsit5(step_size=0.007),
        jump_times=[1e6 + 0.5],
    ).states[-1]
    np.testing.assert_allclose(end, [0.5], rtol=1e-8)


def test_jumps_may_be_a_list_of_tensors():
    jump = tf.constant(0.37, tf.float64)
    *_, first = _solve_and_differentiate(
        jump, lambda jump: jump[None], (0.0, 1.0), "tsit5", "checkpoint"
    )
    _, jump_bar, second = _solve_and_differentiate(
        jump, lambda jump: [jump, 2.0], (0.0, 1.0), "tsit5", "checkpoint"
    )
    assert jump_bar is not None
    np.testing.assert_allclose(first, second, rtol=1e-9)


def test_a_jump_is_found_by_no_rejected_step():
    jump = tf.constant(0.37, tf.float64)

    def diagnostics(jump_times):
        return keras_node.odeint(
            _decay(jump),
            tf.ones((1, 1), tf.float64),
            (0.0, 1.0),
            TSIT5,
            jump_times=jump_times,
        ).diagnostics

    known, unknown = diagnostics([0.37]), diagnostics(None)
    assert known.num_rejected_steps <= 1
    assert unknown.num_rejected_steps >= 5
    num_known = int(known.num_ode_fn_evaluations)
    assert num_known < 0.7 * int(unknown.num_ode_fn_evaluations)


def test_a_step_cut_short_does_not_shorten_the_next():
    def f(t, y):
        return -0.01 * y

    def num_steps(jump_times):
        results = keras_node.odeint(
            f, tf.ones([1]), (0.0, 100.0), jump_times=jump_times
        )
        return int(results.diagnostics.num_accepted_steps)

    # Two jumps divide one step, and a third one another.
    assert num_steps((40.0, 40.001, 60.0)) <= num_steps(None) + 3


def test_backwards_in_time_the_gradient_is_that_of_the_closed_form():
    jump = tf.constant(0.37, tf.float64)
    y, jump_bar, _ = _solve_and_differentiate(
        jump, lambda jump: jump[None], (1.0, 0.0), "tsit5", "checkpoint"
    )
    expected = np.array([[1.0], [2.0]]) * np.exp(0.37 * SLOW + 0.63 * FAST)
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    np.testing.assert_allclose(
        jump_bar, (SLOW - FAST) * expected.sum(), rtol=1e-5
    )


def test_order_and_number_of_jumps_do_not_matter():
    jump = tf.constant(0.37, tf.float64)

    def solve(jump_times):
        return keras_node.odeint(
            _decay(jump),
            tf.ones((2, 1), tf.float64),
            (0.0, 1.0),
            TSIT5,
            jump_times=jump_times,
        ).states[-1]

    expected = solve([0.37, 0.6])
    np.testing.assert_array_equal(solve([0.6, 0.37, 0.6]), expected)
    outside = [-1.0, 0.0, 0.6, np.nan, 0.37, 1.0, 2.0]
    np.testing.assert_array_equal(solve(outside), expected)
    own = solve([[0.6, 0.37], [0.37, 0.6]])
    np.testing.assert_allclose(own, expected, rtol=1e-12)
    np.testing.assert_allclose(solve(np.zeros([0])), solve(None), rtol=1e-6)


def test_each_sample_equals_itself_alone():
    jump = tf.constant([[0.2], [0.5], [np.nan]], tf.float64)
    y0 = tf.constant([[1.0], [5.0], [-2.0]], tf.float64)

    def solve(jump, y0):
        return keras_node.odeint(
            _decay(jump), y0, (0.0, 0.4, 1.0), jump_times=jump
        ).states

    together = solve(jump, y0)
    for i in range(3):
        alone = solve(jump[i : i + 1], y0[i : i + 1])
        np.testing.assert_array_equal(together[:, i : i + 1], alone)


def test_dense_output_does_not_span_a_jump():
    jump = tf.constant(0.37, tf.float64)
    times = np.linspace(0.0, 1.0, 41)
    states = keras_node.odeint(
        _decay(jump),
        tf.ones((1, 1), tf.float64),
        times,
        TSIT5,
        jump_times=[0.37],
    ).states
    expected = np.exp(
        -SLOW * np.minimum(times, 0.37) - FAST * np.maximum(times - 0.37, 0.0)
    )
    np.testing.assert_allclose(states[:, 0, 0], expected, rtol=1e-6)


@keras.saving.register_keras_serializable(package="test_jump_times")
class Switched(keras.layers.Layer):
    """A decay whose rate doubles at 0.5."""

    def call(self, t, y):
        rate = tf.where(t < 0.5, tf.ones_like(t), 2.0)
        return -tf.reshape(rate, [-1, 1]) * y


def test_a_layer_with_jumps_is_saved_trained_and_exported(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((1,)),
            keras_node.ODELayer(Switched(), jump_times=(0.5,)),
            keras.layers.Dense(1),
        ]
    )
    model.compile("sgd", "mse")
    x = np.ones((4, 1), "float32")
    model.fit(x, x, verbose=0)
    expected = model.predict(x, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].jump_times == (0.5,)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)
    model.export(tmp_path / "saved", verbose=False)
    served = tf.saved_model.load(tmp_path / "saved")
    np.testing.assert_allclose(served.serve(x), expected, rtol=1e-6)


def test_a_call_may_bring_jumps_of_its_own():
    layer = keras_node.ODELayer(Switched(), jump_times=(0.1, 0.2))
    x = tf.ones((2, 1))
    jump_times = tf.constant([[0.5, np.nan], [0.5, 0.7]])
    y = layer(x, jump_times=jump_times)
    np.testing.assert_allclose(y, np.exp(-1.5) * x, rtol=1e-3)
    inputs = keras.Input((1,)), keras.Input((2,))
    outputs = keras_node.ODELayer(Switched())(inputs[0], jump_times=inputs[1])
    assert outputs.shape == (None, 1)
    model = keras.Model(inputs, outputs)
    np.testing.assert_allclose(model([x, jump_times]), y, rtol=1e-6)


def _solve(jump_times, solver="tsit5", y0=None):
    y0 = tf.ones((2, 1)) if y0 is None else y0
    return keras_node.odeint(
        lambda t, y: -y, y0, (0.0, 1.0), solver, jump_times=jump_times
    )


@pytest.mark.parametrize(
    "jump_times", [0.5, [[0.5], [0.5], [0.5]], np.zeros((1, 2, 1))]
)
def test_jumps_of_a_wrong_shape_are_refused(jump_times):
    with pytest.raises(ValueError, match="`jump_times` must be floats"):
        _solve(jump_times)


def test_jumps_that_are_not_floats_are_refused():
    with pytest.raises(TypeError, match="`jump_times` must be floats"):
        _solve(["noon"])
    with pytest.raises(ValueError, match="`jump_times` must be floats"):
        keras_node.ODELayer(Switched(), jump_times=[[0.5]])


def test_solvers_of_tfp_refuse_jumps():
    with pytest.raises(ValueError, match="need a solver of keras_node"):
        _solve([0.5], "bdf")


def test_states_in_half_precision_refuse_jumps():
    with pytest.raises(ValueError, match="float32 or float64 state"):
        _solve([0.5], y0=tf.ones((2, 1), tf.bfloat16))
