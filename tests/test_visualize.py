"""Pictures, by what is in their axes."""

import importlib
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from matplotlib import colors
from matplotlib import pyplot as plt

import keras_node
from keras_node import diagnostics, solvers, visualize

tfb, tfd = tfp.bijectors, tfp.distributions


@pytest.fixture(autouse=True)
def canvas():
    """Draws to memory, and leaves no figure open."""
    backend = plt.get_backend()
    plt.switch_backend("agg")
    yield
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()  # What cannot be drawn fails here.
    plt.close("all")
    plt.switch_backend(backend)


def rotate(t, y):
    """`dy/dt` of a quarter turn in each unit of time."""
    return np.pi / 2 * tf.stack([-y[:, 1], y[:, 0]], axis=1)


def data(line):
    return np.stack(line.get_data())


# Fields and trajectories.


def test_portrait_shows_field_and_trajectories_with_their_starts():
    ax = visualize.phase_portrait(
        rotate,
        x_limits=(-3, 3),
        y_limits=(-2, 2),
        initial_states=[[1.0, 0.0], [0.0, 1.5]],
        times=(0.0, 1.0),
    )
    assert ax.get_xlim() == (-3, 3)
    assert ax.get_ylim() == (-2, 2)
    assert ax.get_xlabel() == "$y_0$"
    assert len(ax.collections) > 0
    first, first_dot, second, second_dot = ax.lines
    for line, radius in ((first, 1.0), (second, 1.5)):
        norms = np.linalg.norm(data(line), axis=0)
        # The default tolerance of a step is 1e-3.
        np.testing.assert_allclose(norms, radius, rtol=1e-2)
    np.testing.assert_allclose(data(first)[:, -1], [0.0, 1.0], atol=1e-2)
    np.testing.assert_array_equal(data(first_dot), [[1.0], [0.0]])
    np.testing.assert_array_equal(data(second_dot), [[0.0], [1.5]])
    assert first.get_color() != second.get_color()


class Shift(keras.layers.Layer):
    """Dynamics of `(t, y)`: the second number moves at speed `t`."""

    def call(self, t, y):
        return keras.ops.stack([0 * y[:, 0], t + 0 * y[:, 1]], axis=1)


def functional(t_shape):
    t, y = keras.Input(t_shape), keras.Input((2,))
    return keras.Model([t, y], Shift()(t[:, 0], y))


DYNAMICS = {
    "function": lambda: lambda t, y: Shift()(t, y),
    "layer of time": Shift,
    "functional model": lambda: functional((1,)),
    "ODE layer": lambda: keras_node.ODELayer(Shift()),
    "bijector": lambda: keras_node.CNFBijector(Shift()),
    "latent ODE": lambda: keras_node.LatentODE(1, 2, dynamics=Shift()),
}


@pytest.mark.parametrize("make", DYNAMICS.values(), ids=DYNAMICS)
def test_dynamics_of_each_kind_are_drawn_at_their_time(make):
    ax = visualize.phase_portrait(make(), time=3.0, kind="quiver", num=4)
    [arrows] = ax.collections
    np.testing.assert_array_equal(arrows.U, np.zeros(16))
    np.testing.assert_array_equal(arrows.V, np.full(16, 3.0))
    centres = [-1.5, -0.5, 0.5, 1.5]
    np.testing.assert_allclose(arrows.X, np.tile(centres, 4))
    np.testing.assert_allclose(arrows.Y, np.repeat(centres, 4))


def test_autonomous_layer_is_drawn_and_layer_lends_its_times():
    field = keras.layers.Dense(2, use_bias=False, dtype="float64")
    field.build((None, 2))
    field.kernel.assign([[0.0, 1.0], [-1.0, 0.0]])
    layer = keras_node.ODELayer(field, times=(0.0, 0.5, np.pi), dtype="float64")
    ax = visualize.phase_portrait(layer, initial_states=[[1.0, 0.0]])
    np.testing.assert_allclose(data(ax.lines[0])[:, -1], [-1, 0], atol=1e-2)


def test_portrait_of_other_than_two_numbers_is_refused():
    three = keras.layers.Dense(3)
    three.build((None, 3))
    for dynamics in (three, lambda t, y: y @ tf.ones((3, 3))):
        with pytest.raises(ValueError, match=r"state of shape \(batch, 2\)"):
            visualize.phase_portrait(dynamics)
    with pytest.raises(ValueError, match=r"derivative of shape \(625, 3\)"):
        visualize.phase_portrait(keras.layers.Dense(3))


def test_arguments_of_a_portrait_are_checked():
    with pytest.raises(ValueError, match='`kind` must be "stream" or'):
        visualize.phase_portrait(rotate, kind="arrows")
    with pytest.raises(ValueError, match="need `times`"):
        visualize.phase_portrait(rotate, initial_states=[[0.0, 1.0]])
    with pytest.raises(ValueError, match=r"must be of shape \(n, 2\)"):
        visualize.phase_portrait(rotate, initial_states=[0.0, 1.0])
    with pytest.raises(ValueError, match="`x_limits` must be two floats"):
        visualize.phase_portrait(rotate, x_limits=(1, -1))
    with pytest.raises(TypeError, match="`dynamics` must be"):
        visualize.phase_portrait(3.0)


def test_trajectories_over_time_share_a_colour_for_each_feature():
    results = keras_node.odeint(
        rotate, tf.constant([[1.0, 0.0], [0.0, 2.0]]), tf.linspace(0.0, 2.0, 9)
    )
    ax = visualize.trajectories(
        results.times, results.states, labels=["x", "y"]
    )
    assert len(ax.lines) == 4
    for i, line in enumerate(ax.lines):
        feature, sample = divmod(i, 2)
        expected = np.stack([results.times, results.states[:, sample, feature]])
        np.testing.assert_array_equal(data(line), expected)
    shades = [line.get_color() for line in ax.lines]
    assert shades[0] == shades[1] != shades[2] == shades[3]
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["x", "y"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time", "state")


def test_trajectories_have_times_of_their_own():
    times = np.array([[0.0, 5.0], [1.0, 7.0]])
    ax = visualize.trajectories(times, np.zeros((2, 2, 1)), labels=["level"])
    assert [list(line.get_xdata()) for line in ax.lines] == [[0, 1], [5, 7]]
    assert ax.get_ylabel() == "level"
    assert ax.get_legend() is None


def test_trajectories_in_the_plane_are_lines_that_begin_with_a_dot():
    _, ax = plt.subplots()
    states = np.arange(12.0).reshape(3, 2, 2)
    same = visualize.trajectories([0, 1, 2], states, plane=True, ax=ax)
    assert same is ax
    np.testing.assert_array_equal(data(ax.lines[0]), states[:, 0].T)
    np.testing.assert_array_equal(data(ax.lines[3]), states[:1, 1].T)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("$y_{0}$", "$y_{1}$")


def test_shapes_of_trajectories_are_checked():
    with pytest.raises(ValueError, match="`states` must be of shape"):
        visualize.trajectories(np.zeros(3), np.zeros((4, 2)))
    with pytest.raises(ValueError, match="there must be two features"):
        visualize.trajectories(np.zeros(3), np.zeros((3, 3)), plane=True)
    with pytest.raises(ValueError, match="must name each of 3 features"):
        visualize.trajectories(np.zeros(3), np.zeros((3, 3)), labels=["x"])


# Densities.


def grow(t, y):
    """Multiplies all by `exp(1)` in a unit of time."""
    return y


def flow_of(dynamics=grow, **kwargs):
    solver = solvers.RK4(step_size=0.1)
    bijector = keras_node.CNFBijector(dynamics, solver=solver, **kwargs)
    return keras_node.NormalizingFlow(
        bijector, tfd.MultivariateNormalDiag(tf.zeros(2))
    )


def normal_on_grid(scale, side=4.0, num=20, centre=0.0):
    axis = side * ((np.arange(num) + 0.5) / num * 2 - 1)
    squares = (axis[None] - centre) ** 2 + (axis[:, None] - centre) ** 2
    return np.exp(-squares / 2 / scale**2) / (2 * np.pi * scale**2)


def image(ax):
    [image] = ax.images
    return np.asarray(image.get_array())


@pytest.mark.parametrize("time", [1.0, 1.5, 2.0, None], ids=str)
def test_density_is_that_of_its_time(time):
    flow = flow_of(times=(1.0, 2.0))
    ax = visualize.density(flow, time, num=20)
    scale = np.exp((2.0 if time is None else time) - 1.0)
    np.testing.assert_allclose(image(ax), normal_on_grid(scale), rtol=1e-4)
    assert ax.images[0].get_extent() == [-4, 4, -4, 4]
    assert ax.get_title() == ("" if time is None else f"t = {time:g}")


def test_density_of_a_rectangle_has_its_rows_upwards():
    shift = tfd.TransformedDistribution(
        tfd.MultivariateNormalDiag(tf.zeros(2)), tfb.Shift([0.0, 3.0])
    )
    ax = visualize.density(shift, x_limits=(-2, 2), y_limits=(0, 6), num=11)
    assert np.unravel_index(image(ax).argmax(), (11, 11)) == (5, 5)
    assert ax.images[0].origin == "lower"
    assert (ax.get_xlim(), ax.get_ylim()) == ((-2, 2), (0, 6))


def test_densities_stand_side_by_side_in_one_scale():
    axes = visualize.densities(flow_of(), [0.0, 0.5, 1.0], num=20)
    assert axes.shape == (3,)
    assert [ax.get_title() for ax in axes] == ["t = 0", "t = 0.5", "t = 1"]
    for ax, scale in zip(axes, np.exp([0.0, 0.5, 1.0]), strict=True):
        np.testing.assert_allclose(image(ax), normal_on_grid(scale), rtol=1e-4)
    limits = {ax.images[0].get_clim() for ax in axes}
    assert limits == {(0.0, image(axes[0]).max())}


class Drive(keras.layers.Layer):
    """Dynamics that move where the condition says."""

    def call(self, t, y, condition):
        return condition + 0 * y


def test_condition_moves_a_density_between_the_base_and_the_end():
    axes = visualize.densities(
        flow_of(Drive()), [0.0, 1.0], num=20, condition=[2.0]
    )
    for ax, centre in zip(axes, (0.0, 2.0), strict=True):
        np.testing.assert_allclose(
            image(ax), normal_on_grid(1.0, centre=centre), rtol=1e-4
        )


def test_density_of_what_is_no_flow_in_the_plane_is_refused():
    base = tfd.MultivariateNormalDiag(tf.zeros(3))
    solid = tfd.TransformedDistribution(base, keras_node.CNFBijector(grow))
    with pytest.raises(ValueError, match="one density of two numbers"):
        visualize.density(solid)
    with pytest.raises(TypeError, match="must be a `NormalizingFlow`"):
        visualize.density(keras_node.CNFBijector(grow))
    plain = tfd.TransformedDistribution(
        tfd.MultivariateNormalDiag(tf.zeros(2)), tfb.Scale(2.0)
    )
    with pytest.raises(ValueError, match="bijector is a `CNFBijector`"):
        visualize.density(plain, time=0.5)
    with pytest.raises(ValueError, match="lie between 0 and 1"):
        visualize.density(flow_of(), time=1.5)


# Curves.


HISTORY = {
    "loss": [3.0, 2.0, 1.0],
    "a_nfe": [14.0, 20.0, 26.0],
    "a_nfe_backward": [12.0, 18.0, 20.0],
    "val_a_nfe": [15.0, 21.0, 27.0],
    "val_a_nfe_backward": [0.0, 0.0, 0.0],
    "nfe": [30.0, 31.0, 33.0],
}


def test_history_of_evaluations_has_a_line_for_each_metric():
    history = keras.callbacks.History()
    history.history = HISTORY
    ax = visualize.nfe_history(history)
    lines = {line.get_label(): line for line in ax.lines}
    assert list(lines) == ["a_nfe", "a_nfe_backward", "val_a_nfe", "nfe"]
    for name, line in lines.items():
        np.testing.assert_array_equal(data(line), [[1, 2, 3], HISTORY[name]])
    assert [line.get_linestyle() for line in ax.lines] == ["-", "--", "-", "-"]
    assert lines["a_nfe"].get_color() == lines["val_a_nfe"].get_color()
    assert lines["a_nfe"].get_color() != lines["nfe"].get_color()
    assert lines["val_a_nfe"].get_alpha() < lines["a_nfe"].get_alpha()
    assert ax.get_ylim()[0] == 0.0
    assert len(ax.get_legend().get_texts()) == 4


def test_history_of_one_epoch_is_drawn_from_a_dict():
    ax = visualize.nfe_history({"nfe": [14.0]})
    assert ax.lines[0].get_marker() == "."
    np.testing.assert_array_equal(data(ax.lines[0]), [[1], [14.0]])


def test_history_without_evaluations_is_refused():
    with pytest.raises(ValueError, match=r"Received: history of \['loss'\]"):
        visualize.nfe_history({"loss": [1.0]})
    with pytest.raises(TypeError, match="`history` must be what `fit`"):
        visualize.nfe_history([1.0, 2.0])


def report():
    row = diagnostics.WorkPrecision
    return diagnostics.WorkPrecisionReport(
        rows=[
            row("Tsit5", 1e-2, 20.0, 1e-3, 2e-3),
            row("Tsit5", 1e-4, 60.0, 1e-5, 2e-5),
            row("Tsit5", 1e-5, 40.0, 1e-4, 2e-4),
            row("Tsit5", 1e-6, 80.0, 0.0, 2e-7),
            row("RK4(step_size=0.1)", None, 40.0, 5e-4, 6e-4),
            row("Euler", None, 10.0, np.nan, np.nan),
        ],
        own=row("Midpoint", None, 2.0, 0.5, 0.7),
        reference="Dopri8(rtol=1e-10)",
        threshold=0.01,
    )


def test_work_precision_has_a_line_for_each_solver_and_a_star_for_its_own():
    ax = visualize.work_precision(report())
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    lines = {line.get_label(): line for line in ax.lines}
    assert list(lines) == [
        "Tsit5",
        "RK4(step_size=0.1)",
        "Euler",
        "Midpoint (own)",
    ]
    np.testing.assert_array_equal(
        data(lines["Tsit5"]), [[20, 40, 60], [1e-3, 1e-4, 1e-5]]
    )
    assert lines["Euler"].get_xdata().size == 0
    np.testing.assert_array_equal(data(lines["Midpoint (own)"]), [[2], [0.5]])
    assert lines["Midpoint (own)"].get_marker() == "*"
    assert ax.get_ylabel() == "relative error of the outputs"


def test_work_precision_of_the_gradient_is_its_own_picture():
    ax = visualize.work_precision(report(), "gradient_error")
    np.testing.assert_array_equal(
        ax.lines[0].get_ydata(), [2e-3, 2e-4, 2e-5, 2e-7]
    )
    assert ax.get_ylabel() == "relative error of the gradient"


def test_other_reports_and_quantities_are_refused():
    with pytest.raises(TypeError, match="`report` must be what"):
        visualize.work_precision([])
    with pytest.raises(ValueError, match="`quantity` must be one of"):
        visualize.work_precision(report(), "nfe")


# All of them.


def test_colours_are_as_many_as_markers_and_differ():
    palette = [colors.to_rgb(color) for color in visualize.style.COLORS]
    assert len(set(palette)) == len(palette) == 7
    assert visualize.style.color(8) == visualize.style.color(1)


def test_without_matplotlib_the_error_tells_what_to_install(monkeypatch):
    for name in [n for n in sys.modules if n.startswith("keras_node.visu")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        importlib.import_module("keras_node.visualize")
