"""Random layers, flows and latent ODEs: right answers, whatever goes in."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import linalg
from support import strategies
from support.strategies import examples

import keras_node
from keras_node import solvers

# Thousands of generated cases take minutes.
pytestmark = pytest.mark.slow

watchdog = pytest.fixture(scope="module", autouse=True)(strategies.watchdog)
# Of a few steps that keep `rtol=1e-5`, and of float32.
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def normal(shape, seed, dtype="float32"):
    values = np.random.default_rng(seed).normal(size=shape)
    return tf.constant(0.7 * values, dtype)


@st.composite
def linear_layers(draw):
    """Returns an `ODELayer` of `dy/dt = y A`, and `A`."""
    matrix = normal([draw(st.integers(1, 3))] * 2, draw(st.integers(0, 9)))
    dtype = draw(st.sampled_from(sorted(strategies.FLOATS)))
    eps = strategies.FLOATS[dtype]
    net = keras.layers.Dense(
        len(matrix),
        use_bias=False,
        kernel_initializer=lambda shape, dtype: tf.cast(matrix, dtype),
        dtype=dtype,
    )
    layer = keras_node.ODELayer(
        net,
        times=draw(strategies.monotonic_times(max_size=3)),
        # Below the rounding of the net, there is no error to control.
        solver=solvers.Tsit5(
            rtol=max(1e-5, eps),
            atol=max(1e-5, eps),
            per_sample_steps=draw(st.booleans()),
        ),
        adjoint=draw(st.sampled_from(("auto", "checkpoint", "backsolve"))),
        return_sequences=draw(st.booleans()),
        dtype=dtype,
    )
    return layer, tf.cast(matrix, dtype).numpy().astype("float64")


@st.composite
def times_of_a_call(draw, batch):
    """Returns nothing, or times of shape `(T,)` or `(batch, T)`."""
    kind = draw(st.sampled_from(("none", "shared", "own")))
    if kind == "none":
        return None
    times = draw(strategies.monotonic_times(max_size=3))
    if kind == "own" and batch:
        times = times + np.linspace(0, 2, batch)[:, None]
        times = times * np.linspace(1, 0.5, batch)[:, None]
    return draw(st.sampled_from((tf.constant, np.array, np.ndarray.tolist)))(
        times
    )


@examples(25, data=st.data(), batch=st.integers(0, 3), linear=linear_layers())
def test_linear_layer_is_a_matrix_exponential(data, batch, linear):
    layer, matrix = linear
    times = data.draw(times_of_a_call(batch))
    x = normal((batch, len(matrix)), 5, layer.compute_dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, times=times)
        loss = tf.reduce_sum(y)
    gradients = tape.gradient(loss, [x, layer.dynamics.kernel.value])
    assert y.dtype == layer.compute_dtype
    grid = np.array(layer.times if times is None else times)
    grid = np.broadcast_to(grid, (batch, grid.shape[-1]))
    rows = [_flow(matrix, x[i], row) for i, row in enumerate(grid)]
    expected = np.reshape(rows, (*grid.shape, len(matrix)))
    if not layer.return_sequences:
        expected = expected[:, -1]
    eps = strategies.FLOATS[layer.compute_dtype]
    bound = 1 + np.max(np.abs(expected), initial=0)
    np.testing.assert_allclose(
        tf.cast(y, "float64"), expected, rtol=0, atol=(1e-3 + 20 * eps) * bound
    )
    strategies.assert_all_finite(gradients)
    assert [g.shape for g in gradients] == [x.shape, matrix.shape]


def _flow(matrix, x, row):
    x = tf.cast(x, "float64").numpy()
    return [x @ linalg.expm(matrix * (t - row[0])) for t in row]


def _broadcast(t, y):
    return tf.reshape(t, [-1] + [1] * (y.shape.rank - 1))


@st.composite
def flow_cases(draw):
    """Returns the arguments of a flow, and the shape of what goes in."""
    event_ndims = draw(st.integers(1, 3))
    sizes = st.integers(1, 2)
    event = draw(st.tuples(*[sizes] * event_ndims))
    batch = draw(st.sampled_from(((), (1,), (5,), (4, 5), (2, 1, 2), (0,))))
    arguments = {
        "times": draw(strategies.monotonic_times(max_size=2, max_gap=0.6)),
        "trace": draw(st.sampled_from(("exact", "hutchinson", "hutch++"))),
        "event_ndims": event_ndims,
        "adjoint": draw(st.sampled_from(("checkpoint", "backsolve"))),
        "solver": solvers.Tsit5(
            rtol=1e-5, atol=1e-7, per_sample_steps=draw(st.booleans())
        ),
    }
    return arguments, batch + event


@examples(
    10,
    case=flow_cases(),
    rate=st.floats(-1, 1),
    dtype=st.sampled_from(("float32", "float64")),
)
def test_linear_flow_has_its_value_and_log_det(case, rate, dtype):
    """`dy/dt = rate t y`, of which every trace estimator knows the trace."""
    arguments, shape = case
    flow = keras_node.CNFBijector(
        lambda t, y: tf.constant(rate, y.dtype) * _broadcast(t, y) * y,
        **arguments,
    )
    x = normal(shape, 3, dtype)
    t0, t1 = arguments["times"]
    exponent = rate * (t1**2 - t0**2) / 2
    batch = shape[: len(shape) - arguments["event_ndims"]]
    size = np.prod(shape[len(batch) :])
    y = flow.forward(x)
    assert y.dtype == dtype
    np.testing.assert_allclose(y, x * np.exp(exponent), **CLOSE)
    np.testing.assert_allclose(
        flow.forward_log_det_jacobian(x),
        np.full(batch, size * exponent),
        **CLOSE,
    )


@examples(
    10,
    case=flow_cases(),
    seed=st.integers(0, 99),
    dtype=st.sampled_from(("float32", "float64")),
)
def test_inverse_of_a_flow_undoes_it(case, seed, dtype):
    arguments, shape = case
    matrix = normal([shape[-1]] * 2, seed, dtype)

    def dynamics(t, y):
        return tf.sin(_broadcast(t, y)) + tf.tanh(tf.linalg.matvec(matrix, y))

    flow = keras_node.CNFBijector(dynamics, **arguments)
    x = normal(shape, seed, dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = flow.forward(x)
        log_det = flow.forward_log_det_jacobian(x)
        loss = tf.reduce_sum(y) + tf.reduce_sum(log_det)
    strategies.assert_all_finite(tape.gradient(loss, [x]))
    # Another tensor, which the bijector does not remember.
    y = tf.identity(y)
    np.testing.assert_allclose(flow.inverse(y), x, **CLOSE)
    np.testing.assert_allclose(
        flow.inverse_log_det_jacobian(y), -log_det, **CLOSE
    )


@examples(
    20,
    batch=st.sampled_from(((), (3,), (2, 3), (0,))),
    conditioned=st.sampled_from(((), (3,), (2, 3), (1,), (2, 1))),
    shift=st.floats(-2, 2),
)
def test_density_of_a_flow_broadcasts_its_condition(batch, conditioned, shift):
    """`dy/dt = condition`, which moves a normal density."""

    def dynamics(t, y, condition):
        return condition + 0 * y

    flow = keras_node.NormalizingFlow(
        keras_node.CNFBijector(dynamics),
        tfp.distributions.MultivariateNormalDiag(tf.zeros(2)),
    )
    x = normal((*batch, 2), 0)
    condition = shift + normal((*conditioned, 2), 1)
    try:
        actual = flow.log_prob(x, condition=condition)
    except strategies.ERRORS as error:
        strategies.assert_in_house_form(error)
        with pytest.raises(ValueError):
            np.broadcast_to(condition, x.shape)
    else:
        expected = flow.base_distribution.log_prob(x - condition)
        assert actual.shape == expected.shape
        np.testing.assert_allclose(actual, expected, **CLOSE)


BATCH, STEPS, FEATURES = 3, 4, 2
SHAPE = (BATCH, STEPS, FEATURES)


@pytest.fixture(scope="module")
def decaying():
    """A `LatentODE` of `dz/dt = -z / 2`, seen as it is."""
    keras.utils.set_random_seed(0)
    decoder = keras.layers.Dense(
        FEATURES, use_bias=False, kernel_initializer="identity"
    )
    return keras_node.LatentODE(
        FEATURES,
        FEATURES,
        encoder=keras.layers.GRU(4, go_backwards=True),
        dynamics=lambda t, z: -z / 2,
        decoder=decoder,
        initial_time=0.25,
        solver=solvers.Tsit5(rtol=1e-5),
    )


moderate = st.floats(-3, 3, width=32)


def sorted_times(shape):
    """Returns a strategy of times in order, equal ones among them."""
    return hnp.arrays("float32", shape, elements=moderate).map(
        lambda times: np.sort(times, axis=-1)
    )


values_of_series = hnp.arrays("float32", SHAPE, elements=moderate)
masks = hnp.arrays(bool, SHAPE[:2]) | hnp.arrays(bool, SHAPE)
anywhere = st.sampled_from((np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0, 7.0))


@examples(
    50,
    values=values_of_series,
    times=sorted_times(SHAPE[:2]),
    mask=masks,
    padding=anywhere,
    padded_time=anywhere,
)
def test_what_is_masked_has_no_influence(
    decaying, values, times, mask, padding, padded_time
):
    expected = decaying.elbo(values, times, mask, seed=1)
    strategies.assert_all_finite([expected])
    full = mask if mask.ndim == 3 else np.stack([mask] * FEATURES, axis=-1)
    values = np.where(full, values, np.float32(padding))
    hidden = ~np.any(full, axis=-1)
    times = np.where(hidden, np.float32(padded_time), times)
    actual = decaying.elbo(values, times, mask, seed=1)
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(
        decaying.elbo(values, times, full, seed=1), expected
    )


@examples(25, values=values_of_series, times=sorted_times(4), mask=masks)
def test_nan_is_a_mask_and_shared_times_are_those_of_each(
    decaying, values, times, mask
):
    full = mask if mask.ndim == 3 else np.stack([mask] * FEATURES, axis=-1)
    expected = decaying.elbo(values, times, mask, seed=1)
    with_nan = np.where(full, values, np.nan)
    np.testing.assert_array_equal(
        decaying.elbo(with_nan, times, seed=1), expected
    )
    own = np.tile(times, (BATCH, 1))
    # Each with steps of its own, and errors of its own.
    np.testing.assert_allclose(
        decaying.elbo(with_nan, own, seed=1), expected, rtol=1e-3, atol=1e-3
    )


@examples(
    30,
    values=values_of_series,
    times=sorted_times(4),
    empty=st.integers(0, BATCH - 1),
)
def test_series_without_observations_has_the_prior(
    decaying, values, times, empty
):
    values[empty] = np.nan
    posterior = decaying.encode(values, times)
    np.testing.assert_array_equal(posterior.mean()[empty], 0)
    np.testing.assert_array_equal(posterior.stddev()[empty], 1)
    strategies.assert_all_finite([posterior.mean(), posterior.stddev()])


@examples(
    40,
    values=values_of_series,
    times=sorted_times(4),
    target_times=sorted_times(5) | sorted_times((BATCH, 5)),
)
def test_trajectory_is_right_at_any_time(decaying, values, times, target_times):
    z0 = decaying.encode(values, times).mean()[:, None]
    actual = decaying.reconstruct(values, times, target_times=target_times)
    elapsed = np.broadcast_to(target_times, (BATCH, 5))[..., None] - 0.25
    np.testing.assert_allclose(
        actual, z0 * np.exp(-elapsed / 2), rtol=1e-3, atol=1e-4
    )


@examples(15, times=sorted_times(6), seed=st.integers(0, 2**31 - 1))
def test_series_of_the_prior_decay(decaying, times, seed):
    series = decaying.generate(3, times, seed=seed).numpy()
    decay = np.exp(-(times - times[0]) / 2)[:, None]
    np.testing.assert_allclose(
        series, series[:, :1] * decay, rtol=1e-3, atol=1e-4
    )
    np.testing.assert_array_equal(
        decaying.generate(3, times, seed=seed), series
    )
