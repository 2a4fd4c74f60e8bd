"""Paths through data, read by dynamics at any time."""

import numpy as np
import pytest
import scipy.interpolate
import tensorflow as tf

import keras_node
from keras_node import interpolation

KINDS = ("linear", "rectilinear", "hermite", "natural_cubic")
TIMES = np.array([0.0, 0.4, 1.0, 1.3, 2.0])
INSIDE = np.linspace(0.0, 1.999, 17)


def _values(seed=0, batch=2, channels=3):
    return np.random.default_rng(seed).normal(size=(batch, 5, channels))


def _make(kind, *args):
    return getattr(interpolation, kind)(*args)


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_goes_through_its_data(kind):
    values = _values()
    path = _make(kind, TIMES, values)
    for t, expected in zip(TIMES, values.swapaxes(0, 1), strict=True):
        np.testing.assert_allclose(path(t), expected, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_is_constant_beyond_its_ends(kind):
    values = _values()
    path = _make(kind, TIMES, values)
    np.testing.assert_allclose(path(-1.0), values[:, 0])
    np.testing.assert_allclose(path(9.0), values[:, -1])
    np.testing.assert_array_equal(path.derivative(-1.0), np.zeros((2, 3)))
    np.testing.assert_array_equal(path.derivative(9.0), np.zeros((2, 3)))


def _scipy_path(kind, values):
    """Returns an independent path of one sample, and its derivative."""
    if kind == "natural_cubic":
        spline = scipy.interpolate.CubicSpline(TIMES, values, bc_type="natural")
    elif kind == "hermite":
        slopes = np.diff(values, axis=0) / np.diff(TIMES)[:, None]
        slopes = np.concatenate([slopes[:1], slopes])
        spline = scipy.interpolate.CubicHermiteSpline(TIMES, values, slopes)
    elif kind == "linear":
        spline = scipy.interpolate.make_interp_spline(TIMES, values, k=1)
    else:
        steps = scipy.interpolate.interp1d(
            TIMES, values, kind="previous", axis=0
        )
        return steps, lambda t: np.zeros_like(values[0])
    return spline, spline.derivative()


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_and_its_derivative_equal_scipys(kind):
    values = _values()
    path = _make(kind, TIMES, values)
    for i in range(2):
        expected, derivative = _scipy_path(kind, values[i])
        for t in INSIDE:
            np.testing.assert_allclose(path(t)[i], expected(t), atol=1e-10)
            np.testing.assert_allclose(
                path.derivative(t)[i], derivative(t), atol=1e-9
            )


@pytest.mark.parametrize("kind", KINDS)
def test_each_sample_has_its_own_time_and_its_own_times(kind):
    values = _values()
    times = np.stack([TIMES, 2.0 * TIMES])
    path = _make(kind, times, values)
    t = tf.constant([0.7, 2.9], tf.float64)
    for i in range(2):
        alone = _make(kind, times[i], values[i : i + 1])
        np.testing.assert_allclose(path(t)[i], alone(t[i])[0])
        np.testing.assert_allclose(
            path.derivative(t)[i], alone.derivative(t[i])[0]
        )
    several = path(tf.stack([t, t + 0.1], axis=1))
    assert several.shape == (2, 2, 3)
    np.testing.assert_allclose(several[:, 0], path(t))
    np.testing.assert_allclose(several[:, 1], path(t + 0.1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("as_nan", [False, True])
def test_what_is_missing_is_left_out(kind, as_nan):
    values = _values(batch=1)
    mask = np.ones((1, 5, 3), bool)
    mask[0, 1, 0] = mask[0, 2:4, 1] = mask[0, 4, 2] = False
    shown = np.where(mask, values, np.nan if as_nan else 1e30)
    path = _make(kind, TIMES, shown, None if as_nan else mask)
    for channel in range(3):
        seen = mask[0, :, channel]
        alone = _make(kind, TIMES[seen], values[:, seen, channel : channel + 1])
        for t in INSIDE:
            np.testing.assert_allclose(
                path(t)[0, channel], alone(t)[0, 0], atol=1e-12
            )


@pytest.mark.parametrize("kind", KINDS)
def test_missing_rows_may_have_any_time(kind):
    values = _values(batch=1)
    mask = np.array([[True, True, False, True, False]])
    times = np.where(mask, TIMES, np.nan)
    path = _make(kind, times, values, mask)
    seen = mask[0]
    alone = _make(kind, TIMES[seen], values[:, seen])
    for t in INSIDE:
        np.testing.assert_allclose(path(t), alone(t), atol=1e-12)
    knots = path.knots.numpy()
    np.testing.assert_array_equal(np.isnan(knots), ~mask)


@pytest.mark.parametrize("kind", ["rectilinear", "hermite"])
def test_an_online_path_does_not_look_ahead(kind):
    values, other = _values(batch=1), _values(seed=1, batch=1)
    other[:, :4] = values[:, :4]
    for t in INSIDE[TIMES[3] > INSIDE]:
        np.testing.assert_array_equal(
            _make(kind, TIMES, values)(t), _make(kind, TIMES, other)(t)
        )


@pytest.mark.parametrize("kind", KINDS[1:])
def test_two_observations_are_enough(kind):
    path = _make(kind, [0.0, 1.0], np.array([[[1.0], [3.0]]]))
    expected = 1.0 if kind == "rectilinear" else 2.0
    np.testing.assert_allclose(path(0.5), [[expected]])


def test_a_channel_that_is_never_observed_is_zero():
    values = _values(batch=1)
    values[..., 1] = np.nan
    for kind in KINDS:
        path = _make(kind, TIMES, values)
        np.testing.assert_array_equal(path(0.5)[:, 1], [0.0])
        np.testing.assert_array_equal(path.derivative(0.5)[:, 1], [0.0])


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_flow_to_the_data_and_to_the_time(kind):
    values = tf.constant(_values(batch=1))
    t = tf.constant(0.7, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch([values, t])
        path = _make(kind, TIMES, values)
        y = tf.reduce_sum(path(t) ** 2)
    values_bar, t_bar = tape.gradient(y, [values, t])
    if kind != "rectilinear":
        expected = tf.reduce_sum(2 * path(t) * path.derivative(t))
        np.testing.assert_allclose(t_bar, expected)
    direction = _values(seed=3, batch=1)
    low, high = [
        tf.reduce_sum(_make(kind, TIMES, values + h * direction)(t) ** 2)
        for h in (-1e-6, 1e-6)
    ]
    np.testing.assert_allclose(
        tf.reduce_sum(values_bar * direction), (high - low) / 2e-6, rtol=1e-6
    )


def test_gradients_of_missing_data_are_zero_and_finite():
    values = _values(batch=1)
    values[0, 2] = np.nan
    values = tf.constant(values)
    for kind in KINDS:
        with tf.GradientTape() as tape:
            tape.watch(values)
            y = tf.reduce_sum(_make(kind, TIMES, values)(1.1))
        gradient = tape.gradient(y, values)
        np.testing.assert_array_equal(gradient[0, 2], np.zeros(3))
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("jit_compile", [False, True])
def test_paths_are_inputs_of_dynamics_in_graphs(jit_compile):
    values = tf.constant(_values(channels=1))

    @tf.function(jit_compile=jit_compile, autograph=False)
    def solve(values):
        with tf.GradientTape() as tape:
            tape.watch(values)
            path = interpolation.linear(TIMES, values)
            y = keras_node.odeint(
                lambda t, y: path(t),
                tf.zeros((2, 1), tf.float64),
                (0.0, 2.0),
                jump_times=path.knots,
            ).states[-1]
        return y, tape.gradient(y, values)

    y, gradient = solve(values)
    np.testing.assert_allclose(
        y[:, 0], np.trapezoid(values[..., 0], TIMES, axis=1), rtol=1e-12
    )
    gaps = np.diff(TIMES)
    weights = np.append(gaps, 0.0) / 2 + np.append(0.0, gaps) / 2
    np.testing.assert_allclose(gradient[0, :, 0], weights, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_and_its_gradient_are_the_same_under_xla(kind):
    values = tf.constant(_values())

    def square(values):
        with tf.GradientTape() as tape:
            tape.watch(values)
            end = _make(kind, TIMES, values)(tf.constant(0.7, tf.float64))
        return end, tape.gradient(end, values, output_gradients=end)

    for found, expected in zip(
        tf.function(square, jit_compile=True)(values),
        square(values),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_path_of_each_samples_own_times_is_integrated_exactly():
    values = _values(channels=1)
    times = np.stack([TIMES, 0.5 * TIMES])
    path = interpolation.linear(times, values)
    y = keras_node.odeint(
        lambda t, y: path(t),
        tf.zeros((2, 1), tf.float64),
        (0.0, 1.0),
        jump_times=path.knots,
    ).states[-1, :, 0]
    for i in range(2):
        fine = np.union1d(np.linspace(0.0, 1.0, 3), times[i][times[i] < 1.0])
        line = np.interp(fine, times[i], values[i, :, 0])
        np.testing.assert_allclose(y[i], np.trapezoid(line, fine), rtol=1e-12)


def test_values_in_float32_give_a_path_in_float32():
    path = interpolation.hermite(TIMES, _values().astype("float32"))
    assert path(tf.constant(0.5)).dtype == "float32"
    assert path.knots.dtype == "float64"


@pytest.mark.parametrize(
    ("times", "shape", "message"),
    [
        (TIMES, (2, 5), "`values` must have the shape"),
        (TIMES[:1], (2, 1, 3), "`values` must have the shape"),
        (TIMES[:4], (2, 5, 3), "`times` must have one of the shapes"),
        (np.zeros((3, 5)), (2, 5, 3), "`times` must have one of the shapes"),
        (TIMES[::-1], (2, 5, 3), "ascending"),
        (np.append(TIMES[:4], np.nan), (2, 5, 3), "ascending"),
    ],
)
def test_data_of_wrong_shapes_are_refused(times, shape, message):
    with pytest.raises(ValueError, match=message):
        interpolation.linear(times, np.zeros(shape))


def test_a_mask_of_a_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="`mask` must have one of the shapes"):
        interpolation.linear(TIMES, _values(), np.ones((2, 4), bool))
