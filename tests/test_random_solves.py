"""Random solves: right for any shape, dtype, times, tolerance and structure.

The equations are linear, so that all is known in closed form: the states, the
gradients, and what a method of fixed steps makes of them.
"""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from support import strategies
from support.strategies import examples

import keras_node
from keras_node import solvers

# Thousands of generated cases take minutes.
pytestmark = pytest.mark.slow

METHODS = {name: type(solvers.get(name)) for name in strategies.OWN_SOLVERS}
# Of `R` in `y1 = R(rate * dt) y0`, a step of a method of fixed steps.
STABILITY = {
    "euler": [1.0, 1.0],
    "midpoint": [1 / 2, 1.0, 1.0],
    "heun": [1 / 2, 1.0, 1.0],
    "rk4": [1 / 24, 1 / 6, 1 / 2, 1.0, 1.0],
}


@st.composite
def adaptive_solvers(draw, **options):
    """Returns adaptive solvers of any tolerance that they reach soon."""
    method = draw(st.sampled_from(strategies.ADAPTIVE))
    lowest = -5.0 if method == "bosh3" else -8.0
    rtol = 10.0 ** draw(st.floats(lowest, -1.0))
    return METHODS[method](rtol=rtol, atol=rtol, max_num_steps=500, **options)


watchdog = pytest.fixture(scope="module", autouse=True)(strategies.watchdog)


def dynamics_of(spec):
    """Returns the dynamics of leaves that grow or decay, each at its rate."""

    def grow(leaf, y):
        return tf.constant(leaf.rate, y.dtype) * y

    return lambda t, y: tf.nest.map_structure(grow, spec, y)


def initial_state_of(spec):
    return tf.nest.map_structure(lambda leaf: leaf.initial(), spec)


def exact(leaf, times):
    """Returns the solution at each of the times, in float64."""
    y0 = tf.cast(leaf.initial(), "float64").numpy()
    elapsed = np.reshape(times - times[0], (-1,) + (1,) * y0.ndim)
    return y0 * np.exp(leaf.rate * elapsed)


def tolerance(leaf, times, solver, diagnostics):
    """Returns what the errors of all steps may add up to, and rounding.

    A step's error is bounded in the mean over the state, as it is estimated:
    in one place, or between two steps, it may be some times as large.
    """
    growth = np.exp(np.max(leaf.rate * (times - times[0])))
    steps = 1 + np.max(diagnostics.num_accepted_steps)
    step_error = (2 * solver.rtol + solver.atol) * growth
    return steps * (10 * step_error + 8 * leaf.eps * growth)


def assert_states_are_right(results, spec, times, solver):
    tf.nest.assert_same_structure(results.states, initial_state_of(spec))
    for leaf, actual in zip(
        tf.nest.flatten(spec), tf.nest.flatten(results.states), strict=True
    ):
        assert actual.dtype == leaf.dtype
        np.testing.assert_allclose(
            tf.cast(actual, "float64"),
            exact(leaf, times),
            rtol=0,
            atol=tolerance(leaf, times, solver, results.diagnostics),
        )


@examples(
    60,
    spec=strategies.structures(strategies.leaves()),
    times=strategies.monotonic_times(),
    solver=adaptive_solvers(),
    adjoint=st.sampled_from(("auto", "checkpoint", "backsolve")),
)
def test_nested_states_of_any_dtype_decay(spec, times, solver, adjoint):
    results = keras_node.odeint(
        dynamics_of(spec), initial_state_of(spec), times, solver, adjoint
    )
    assert results.diagnostics.status == 0
    np.testing.assert_array_equal(results.times, times)
    assert_states_are_right(results, spec, times, solver)


@examples(
    40,
    spec=strategies.structures(strategies.leaves()),
    times=strategies.monotonic_times(),
    method=st.sampled_from(sorted(STABILITY)),
    step_size=st.none() | st.floats(0.15, 2.0),
)
def test_fixed_steps_are_powers_of_their_polynomial(
    spec, times, method, step_size
):
    solver = METHODS[method](step_size=step_size)
    results = keras_node.odeint(
        dynamics_of(spec), initial_state_of(spec), times, solver
    )
    gaps = np.diff(times)
    counts = np.ceil(np.abs(gaps) / (step_size or 9.0)).astype(int)
    assert results.diagnostics.num_accepted_steps == counts.sum()
    for leaf, actual in zip(
        tf.nest.flatten(spec), tf.nest.flatten(results.states), strict=True
    ):
        factors = np.polyval(STABILITY[method], leaf.rate * gaps / counts)
        factors = np.cumprod(np.append(1.0, factors**counts))
        expected = np.multiply.outer(factors, exact(leaf, times)[0])
        atol = 8 * leaf.eps * (1 + counts.sum()) * np.max(np.abs(expected))
        np.testing.assert_allclose(
            tf.cast(actual, "float64"), expected, rtol=0, atol=atol
        )


FORMS = {
    "list": lambda times: times.tolist(),
    "tuple": lambda times: tuple(times.tolist()),
    "numbers of NumPy": lambda times: list(times),
    "numbers of TensorFlow": lambda times: [tf.constant(t) for t in times],
    "mixed": lambda times: [int(times[0]), *times[1:].tolist()],
    "int32": lambda times: times.astype("int32"),
    "int64 tensor": lambda times: tf.constant(times, "int64"),
    "float32": lambda times: times.astype("float32"),
    "float32 tensor": lambda times: tf.constant(times, "float32"),
    "float64": lambda times: times,
    "float64 tensor": lambda times: tf.constant(times, "float64"),
    "variable": lambda times: tf.Variable(times),
    "not contiguous": lambda times: np.repeat(times, 2)[::2],
}


@examples(
    50,
    form=st.sampled_from(sorted(FORMS)),
    start=st.integers(-3, 3),
    gaps=st.lists(st.integers(1, 2), min_size=1, max_size=3),
    direction=st.sampled_from((1, -1)),
)
def test_times_may_come_in_any_form(form, start, gaps, direction):
    times = np.cumsum([start, *(direction * np.array(gaps))]).astype(float)
    leaf = strategies.Leaf((2,), "float64", -0.2 * direction, 0)
    solver = solvers.Tsit5(rtol=1e-6)
    results = keras_node.odeint(
        dynamics_of(leaf), leaf.initial(), FORMS[form](times), solver
    )
    assert results.times.dtype == "float64"
    np.testing.assert_array_equal(results.times, times)
    assert_states_are_right(results, leaf, times, solver)


@examples(
    30,
    leaf=strategies.leaves(dtypes=("float32", "float64")),
    offset=st.sampled_from((1e5, -1e5, 1e9, -1e12)),
    span=st.sampled_from((1e-3, 1e-1, 1.0, 7.0)),
    direction=st.sampled_from((1, -1)),
    method=st.sampled_from(sorted(METHODS)),
)
def test_far_times_are_as_good_as_near_ones(
    leaf, offset, span, direction, method
):
    times = offset + direction * span * np.array([0.0, 0.25, 1.0])
    assert np.all(np.diff(times))
    near = times - offset
    solver = METHODS[method]()
    solve = [
        keras_node.odeint(dynamics_of(leaf), leaf.initial(), t, solver)
        for t in (times, near)
    ]
    # The clock's resolution is what a step's size is rounded to.
    rounding = 16 * np.spacing(abs(offset)) / span
    np.testing.assert_allclose(
        solve[0].states, solve[1].states, rtol=100 * leaf.eps + 10 * rounding
    )


@examples(
    3,
    leaf=strategies.leaves(dtypes=("float32", "float64")),
    times=strategies.monotonic_times(max_size=3),
)
def test_states_decay_by_bdf(leaf, times):
    results = keras_node.odeint(
        dynamics_of(leaf), leaf.initial(), times, solver="bdf"
    )
    # Some steps of `rtol=1e-3`.
    np.testing.assert_allclose(
        results.states, exact(leaf, times), rtol=0.05, atol=1e-3
    )


@st.composite
def private_times(draw):
    """Returns `(batch, T)` times, each in a direction of its own."""
    batch, size = draw(st.integers(1, 3)), draw(st.integers(2, 4))
    directions = st.sampled_from((1, -1))
    gaps = st.lists(st.floats(0.01, 0.9), min_size=size - 1, max_size=size - 1)
    rows = [
        draw(st.floats(-2, 2))
        + draw(directions) * np.cumsum([0.0, *draw(gaps)])
        for _ in range(batch)
    ]
    return np.stack(rows)


@examples(
    30,
    times=private_times(),
    solver=adaptive_solvers(per_sample_steps=True),
    adjoint=st.sampled_from(("auto", "checkpoint", "backsolve")),
    shared=st.booleans(),
    rate=st.floats(-2.0, 1.0),
)
def test_samples_have_steps_of_their_own(times, solver, adjoint, shared, rate):
    batch = len(times)
    leaf = strategies.Leaf((batch, 2), "float64", rate, 1)
    times = times[0] if shared else times
    results = keras_node.odeint(
        dynamics_of(leaf), leaf.initial(), times, solver, adjoint
    )
    assert results.diagnostics.status.shape == (batch,)
    assert not np.any(results.diagnostics.status)
    for i, row in enumerate(np.broadcast_to(times, (batch, times.shape[-1]))):
        np.testing.assert_allclose(
            results.states[:, i],
            exact(leaf, row)[:, i],
            rtol=0,
            atol=tolerance(leaf, row, solver, results.diagnostics),
        )


@examples(
    20,
    shape=st.sampled_from(((0,), (0, 2), (2, 0), (0, 2, 3))),
    times=strategies.monotonic_times(),
    method=st.sampled_from(sorted(METHODS)),
    adjoint=st.sampled_from(("checkpoint", "backsolve")),
    per_sample_steps=st.booleans(),
    beside=st.booleans(),
)
def test_empty_batch_has_empty_states(
    shape, times, method, adjoint, per_sample_steps, beside
):
    """Alone, and beside a leaf that is not empty."""
    spec = [strategies.Leaf(shape, "float32", -1.0, 0)]
    if beside and not per_sample_steps:
        spec.append(strategies.Leaf((2,), "float32", -0.2, 0))
    y0 = initial_state_of(spec)
    solver = METHODS[method](per_sample_steps=per_sample_steps)
    with tf.GradientTape() as tape:
        tape.watch(y0)
        results = keras_node.odeint(
            dynamics_of(spec), y0, times, solver, adjoint
        )
        loss = sum(tf.reduce_sum(leaf) for leaf in results.states)
    gradients = tape.gradient(loss, y0)
    assert results.states[0].shape == (len(times), *shape)
    assert [g.shape for g in gradients] == [leaf.shape for leaf in y0]
    assert not np.any(results.diagnostics.status)
    strategies.assert_all_finite([results.states, gradients])


def loss_and_sources(leaf, times, solver, adjoint):
    """Returns a weighted sum of states, and its gradients.

    They are those to the initial state, to a tensor and to a variable that
    the dynamics close over, and to the times.
    """
    y0, rate = leaf.initial(), tf.constant(leaf.rate, leaf.dtype)
    scale, clock = tf.Variable(1.0, dtype=leaf.dtype), tf.constant(times)
    weights = np.linspace(0.5, 1, len(times))
    with tf.GradientTape() as tape:
        tape.watch([y0, rate, clock])
        states = keras_node.odeint(
            lambda t, y: scale * rate * y, y0, clock, solver, adjoint
        ).states
        sums = tf.reduce_sum(states, list(range(1, states.shape.rank)))
        loss = tf.reduce_sum(tf.cast(weights, leaf.dtype) * sums)
    return tape.gradient(loss, [y0, rate, scale, clock])


def exact_gradients(leaf, times):
    """Returns the closed forms of `loss_and_sources`."""
    weights = np.linspace(0.5, 1, len(times))
    elapsed = times - times[0]
    factors = weights * np.exp(leaf.rate * elapsed)
    sums = factors * np.sum(exact(leaf, times)[0])
    to_clock = leaf.rate * sums
    to_clock[0] = -np.sum(to_clock[1:])
    return [
        np.full(leaf.shape, np.sum(factors)),
        np.sum(elapsed * sums),
        leaf.rate * np.sum(elapsed * sums),
        to_clock,
    ]


@examples(
    30,
    leaf=strategies.leaves(dtypes=("float32", "float64")),
    times=strategies.monotonic_times(max_gap=0.5, max_size=4),
    solver=adaptive_solvers(),
    # Plain autodiff is slow outside of graphs, and has a test of its own.
    adjoint=st.sampled_from(("auto", "checkpoint", "backsolve")),
)
def test_gradients_flow_to_all_sources(leaf, times, solver, adjoint):
    actual = loss_and_sources(leaf, times, solver, adjoint)
    assert all(gradient is not None for gradient in actual)
    growth = np.exp(np.max(np.abs(leaf.rate * (times - times[0]))))
    # Backwards a growth is undone, and its error with it; at an interval's
    # ends the error of dense output's slope counts too.
    scale = len(times) * max(1.0, np.prod(leaf.shape)) * growth
    atol = scale * (20 * solver.rtol + 100 * leaf.eps)
    for gradient, expected in zip(
        actual, exact_gradients(leaf, times), strict=True
    ):
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=atol)


# One graph for many numbers, the sizes of batch and times being open.
GRAPHS = {
    "tsit5, checkpoint": ("tsit5", "checkpoint", False),
    "dopri5, direct": ("dopri5", "direct", False),
    "bosh3, backsolve": ("bosh3", "backsolve", False),
    "dopri8, checkpoint, per sample": ("dopri8", "checkpoint", True),
    "dormand_prince, backsolve": ("dormand_prince", "auto", False),
}


@pytest.fixture(scope="module", params=sorted(GRAPHS))
def graph(request):
    """A compiled solve of `dy/dt = rate y`, with its gradients."""
    method, adjoint, per_sample_steps = GRAPHS[request.param]
    options = {"per_sample_steps": True} if per_sample_steps else {}
    solver = type(solvers.get(method))(
        rtol=1e-5, atol=1e-8, max_num_steps=1000, **options
    )
    floats = tf.float64

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 1], floats),
            tf.TensorSpec([], floats),
            tf.TensorSpec([None], floats),
        ]
    )
    def solve(y0, rate, times):
        with tf.GradientTape() as tape:
            tape.watch([y0, rate, times])
            results = keras_node.odeint(
                lambda t, y: rate * y, y0, times, solver, adjoint
            )
            loss = tf.reduce_sum(results.states[-1])
        gradients = tape.gradient(loss, [y0, rate, times])
        return results.states, results.diagnostics.status, gradients

    return solve


@examples(
    75,
    batch=st.integers(0, 3),
    rate=st.floats(0.1, 3.0),
    # Towards rest, in as long a time as a stable method takes.
    times=st.one_of(
        strategies.monotonic_times(max_gap=10.0),
        strategies.monotonic_times(max_gap=1e-6, starts=(0.0, 1.0)),
        strategies.monotonic_times(starts=(1e5, -1e7)),
    ),
)
def test_compiled_solves_have_values_and_gradients(graph, batch, rate, times):
    elapsed = times[-1] - times[0]
    rate = -math.copysign(rate, elapsed)
    y0 = np.arange(1.0, 1.0 + batch).reshape(batch, 1)
    try:
        states, status, (to_y0, to_rate, to_times) = graph(y0, rate, times)
    except tf.errors.InvalidArgumentError as error:
        # Backwards the state grows by this factor, and its error, too.
        assert "drifted away" in str(error)
        assert np.exp(np.max(np.abs(rate * np.diff(times)))) > 10
        return
    assert not np.any(status)
    factor, total = np.exp(rate * elapsed), np.sum(y0)
    # Tolerance, steps and batch; a far clock has coarse ticks.
    close = {
        "rtol": 0,
        "atol": 10
        * max(1.0, total)
        * (1e-4 + np.spacing(np.max(np.abs(times)))),
    }
    expected = y0 * np.exp(rate * (times - times[0]))[:, None, None]
    np.testing.assert_allclose(states, expected, **close)
    np.testing.assert_allclose(to_y0, np.full_like(y0, factor), **close)
    slope = rate * factor * total
    np.testing.assert_allclose(to_rate, elapsed * factor * total, **close)
    expected = [-slope, *np.zeros(len(times) - 2), slope]
    np.testing.assert_allclose(to_times, expected, **close)


@examples(
    75,
    times=st.one_of(
        st.lists(st.floats(-2, 2), max_size=4),
        st.lists(st.floats(), min_size=2, max_size=4),
        st.lists(st.sampled_from((0.0, 1.0, 1.0 + 2**-52)), max_size=4),
    ),
)
def test_times_that_only_a_run_knows_are_checked(graph, times):
    times = np.array(times, float)
    gaps = np.diff(times)
    good = (
        len(times) > 1
        and np.all(np.isfinite(times))
        and (np.all(gaps > 0) or np.all(gaps < 0))
    )
    try:
        states, status, gradients = graph([[1.0]], -0.1, times)
    except tf.errors.InvalidArgumentError as error:
        strategies.assert_in_house_form(error)
        # A solve of good times may yet fail: they may be far apart.
        assert not good or "times` must" not in error.message
    else:
        assert good
        strategies.assert_all_finite([states, gradients])
