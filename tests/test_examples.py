"""The examples run, and show what they promise."""

import importlib.util
import pathlib
import sys

import numpy as np
import pytest
import tensorflow as tf

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


# As if run from its folder: an example may import its neighbour.
sys.path.append(str(EXAMPLES))


def load_example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "name",
    [
        path.stem
        for path in sorted(EXAMPLES.glob("*.py"))
        if "def parse_arguments" in path.read_text()
    ],
)
def test_example_says_how_it_is_called(name, capsys):
    with pytest.raises(SystemExit) as ending:
        load_example(name).parse_arguments(["--help"])
    assert ending.value.code == 0
    assert "usage" in capsys.readouterr().out


def test_log_refuses_a_row_of_other_columns(tmp_path):
    log, path = load_example("csv_log"), tmp_path / "log.csv"
    log.append(path, {"seed": 0, "nats": 2.5})
    with pytest.raises(ValueError, match="columns of log.csv"):
        log.append(path, {"seed": 1, "loss": 0.5, "nats": 2.5})
    log.append(path, {"seed": 1, "nats": 2.25})
    assert [row["nats"] for row in log.read(path)] == ["2.5", "2.25"]


def test_log_that_is_written_anew_stays_until_all_rows_are_there(tmp_path):
    log, path = load_example("csv_log"), tmp_path / "log.csv"
    log.record(path, [{"seed": 0}])

    def rows():
        yield {"seed": 1}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        log.record(path, rows())
    assert log.read(path) == [{"seed": "0"}]
    log.record(path, [{"seed": 2}])
    assert log.read(path) == [{"seed": "2"}]


@pytest.fixture(scope="module")
def mnist():
    return load_example("mnist_odenet")


def test_mnist_example_ends_with_its_table_and_plot(mnist, tmp_path, capsys):
    path = tmp_path / "plot.png"
    mnist.main(["--smoke", "--verbose", "0", "--output", str(path)])
    table = capsys.readouterr().out
    for row in ("Test error", "Parameters", "NFE forward", "NFE backward"):
        assert row in table
    # The paper's ODE-Net has 0.22 M parameters.
    assert "208,266" in table
    assert path.read_bytes().startswith(b"\x89PNG")


def test_mnist_subset_is_balanced_and_of_the_promised_size(mnist):
    arguments = mnist.parse_arguments([])
    (x, y), (x_test, y_test) = mnist.load_arrays(arguments)
    assert x.shape == (10_000, 28, 28)
    assert x_test.shape == (2_000, 28, 28)
    assert x.dtype == x_test.dtype == "uint8"
    assert set(y) == set(y_test) == set(range(10))
    assert (EXAMPLES / "mnist_subset.npz").stat().st_size <= 3 * 2**20


def test_network_that_does_not_exist_is_refused(mnist, capsys):
    with pytest.raises(SystemExit):
        mnist.parse_arguments(["--network", "transformer"])
    assert "odenet" in capsys.readouterr().err


def test_speakers_example_compares_models(tmp_path, capsys):
    example = load_example("speakers")
    picture, log = tmp_path / "plot.png", tmp_path / "log.csv"
    arguments = ["--smoke", "--output", str(picture), "--log", str(log)]
    example.main(arguments)
    rows = example.read(log)
    counts = [int(row["parameters"]) for row in rows]
    # Equal within 10 %.
    assert len(rows) == 4
    assert max(counts) < 1.1 * min(counts)
    # What the log has is not done again.
    example.main(arguments)
    assert example.read(log) == rows
    assert "50 %" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_flow_matching_example_compares_three_ways(tmp_path, capsys):
    example = load_example("flow_matching")
    picture, log = tmp_path / "plot.png", tmp_path / "log.csv"
    arguments = ["--smoke", "--output", str(picture), "--log", str(log)]
    example.main(arguments)
    table = capsys.readouterr().out
    for method in ("likelihood", "flow matching", "both"):
        assert method in table
    assert picture.read_bytes().startswith(b"\x89PNG")
    rows = example.read(log)
    assert len(rows) == 3 and all(int(row["steps"]) > 0 for row in rows)
    # What the log has is not done again.
    example.main(arguments)
    assert example.read(log) == rows


@pytest.mark.slow
def test_density_example_ends_with_its_table_and_plot(tmp_path, capsys):
    example = load_example("cnf_density")
    path = tmp_path / "plot.png"
    example.main(["--smoke", "--verbose", "0", "--output", str(path)])
    table = capsys.readouterr().out
    assert "Test NLL (nats)" in table and "two_circles" in table
    assert path.read_bytes().startswith(b"\x89PNG")


def test_toy_densities_fill_the_square_that_is_drawn():
    toys = load_example("toy_densities")
    for name in toys.DENSITIES:
        points = toys.sample(name, 2000, seed=0)
        assert points.shape == (2000, 2) and points.dtype == "float32"
        inside = np.all(np.abs(points) < toys.SIDE, axis=1)
        assert inside.mean() > 0.98
        np.testing.assert_allclose(points.mean(axis=0), 0.0, atol=0.2)


@pytest.fixture(scope="module")
def figure_4():
    return load_example("cnf_vs_nf")


@pytest.mark.slow
def test_comparison_ends_with_its_table_and_plot(figure_4, tmp_path, capsys):
    path = tmp_path / "plot.png"
    figure_4.main(["--smoke", "--output", str(path)])
    table = capsys.readouterr().out
    assert "ring, NF" in table and "ring, CNF" in table
    assert path.read_bytes().startswith(b"\x89PNG")


def test_targets_of_the_comparison_have_mass_one_on_the_grid(figure_4):
    points, area = figure_4.grid()
    for target in figure_4.TARGETS.values():
        density = np.exp(figure_4.normalized(target)(points))
        np.testing.assert_allclose(density.sum() * area, 1.0, rtol=1e-4)
        edge = np.abs(points).max(axis=1) > 0.99 * figure_4.SIDE
        assert density[edge].sum() * area < 1e-2


def test_planar_layer_has_the_log_det_of_its_jacobian(figure_4):
    layer = figure_4.PlanarLayer(seed=3)
    z = tf.random.stateless_normal((5, 2), (0, 1))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(z)
        x = layer.forward(z)
    jacobian = tape.batch_jacobian(x, z, experimental_use_pfor=False)
    _, expected = np.linalg.slogdet(jacobian)
    actual = layer.forward_log_det_jacobian(tf.identity(z))
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "line"),
    [
        pytest.param(
            "latent_spirals", "RMSE on 100 times beyond", marks=pytest.mark.slow
        ),
        ("latent_vowels", "RMSE on hidden frames"),
        pytest.param(
            "latent_events", "RMSE of intensity", marks=pytest.mark.slow
        ),
    ],
)
def test_latent_example_ends_with_its_table_and_plot(
    name, line, tmp_path, capsys
):
    path = tmp_path / "plot.png"
    example = load_example(name)
    example.main(["--smoke", "--verbose", "0", "--output", str(path)])
    assert line in capsys.readouterr().out
    assert path.read_bytes().startswith(b"\x89PNG")


def test_long_horizons_are_trained_in_three_ways(tmp_path, capsys):
    path = tmp_path / "plot.png"
    load_example("long_horizon").main(["--smoke", "--output", str(path)])
    table = capsys.readouterr().out
    for way in ("plain", "growing horizon", "multiple shooting"):
        assert way in table
    assert path.read_bytes().startswith(b"\x89PNG")


def test_stiff_rates_are_compared_and_learnt(tmp_path, capsys):
    path = tmp_path / "plot.png"
    rows, _ = load_example("robertson").main(["--smoke", "--output", str(path)])
    assert "learnt" in capsys.readouterr().out
    evaluations, _, error, gradient_error = rows["rodas5p"]
    assert evaluations < 300
    assert max(error, gradient_error) < 1e-4
    assert path.read_bytes().startswith(b"\x89PNG")


def test_heights_are_learnt_from_bounces(tmp_path, capsys):
    path = tmp_path / "plot.png"
    example = load_example("bouncing_ball")
    example.main(["--smoke", "--output", str(path)])
    assert "closed form" in capsys.readouterr().out
    assert path.read_bytes().startswith(b"\x89PNG")
    heights, restitution = example.fit_closed_form(example.observe(0))
    assert abs(restitution - example.RESTITUTION) < 0.005
    np.testing.assert_allclose(heights, example.HEIGHTS, rtol=0.02)


def test_rates_of_hares_and_lynx_are_drawn(tmp_path, capsys):
    path = tmp_path / "plot.png"
    summary = load_example("hare_lynx").main(["--smoke", "--output", str(path)])
    assert "R-hat" in capsys.readouterr().out
    assert np.all(np.isfinite(summary["mean"]))
    assert path.read_bytes().startswith(b"\x89PNG")


def test_posteriors_of_simulators_are_drawn(tmp_path, capsys):
    example = load_example("simulated_posteriors")
    log = tmp_path / "log.csv"
    example.main(["--smoke", "--log", str(log)])
    rows = example.read(log)
    assert [row["task"] for row in rows] == ["two_moons", "sir"]
    assert all(float(row["nfe"]) > 0 for row in rows)
    # What the log has is not done again.
    example.main(["--smoke", "--log", str(log)])
    assert example.read(log) == rows
    assert "C2ST" in capsys.readouterr().out


@pytest.fixture(scope="module")
def sbibm_tasks():
    return load_example("sbibm_tasks")


def test_simulated_parameters_are_of_their_priors(sbibm_tasks):
    for name, bound in (
        ("two_moons", 1),
        ("gaussian_mixture", 10),
        ("slcp", 3),
    ):
        parameters, _ = sbibm_tasks.TASKS[name].draw(4000, 0)
        assert np.all(np.abs(parameters) < bound)
        # Those of a uniform density; 4 standard errors.
        np.testing.assert_allclose(parameters.mean(0) / bound, 0, atol=0.04)
        np.testing.assert_allclose(
            parameters.var(0) / bound**2, 1 / 3, atol=0.02
        )
    logarithms = np.log(sbibm_tasks.TASKS["sir"].draw(4000, 0)[0])
    np.testing.assert_allclose(logarithms.std(0), [0.5, 0.2], rtol=0.05)
    np.testing.assert_allclose(
        np.exp(logarithms.mean(0)), [0.4, 0.125], rtol=0.04
    )


def test_a_moon_is_half_a_ring_and_hides_the_sign_of_the_sum(sbibm_tasks):
    parameters = np.tile([[0.3, 0.2]], (1000, 1))
    moons, mirrored = (
        sbibm_tasks.two_moons(p, np.random.default_rng(0))
        for p in (parameters, -parameters[:, ::-1])
    )
    np.testing.assert_allclose(moons, mirrored)
    centre = [0.25 - 0.5 / np.sqrt(2), -0.1 / np.sqrt(2)]
    offset = moons - centre
    assert np.all(offset[:, 0] >= 0)
    radius = np.hypot(*offset.T)
    np.testing.assert_allclose(radius.mean(), 0.1, atol=2e-3)
    np.testing.assert_allclose(radius.std(), 0.01, rtol=0.1)


def test_noise_of_the_mixture_is_wide_or_narrow(sbibm_tasks):
    noise = sbibm_tasks.gaussian_mixture(
        np.zeros((20_000, 2)), np.random.default_rng(0)
    )
    np.testing.assert_allclose(noise.var(0), (1 + 0.01) / 2, rtol=0.06)
    # Both coordinates of a draw have the same one.
    near = np.mean(np.hypot(*noise.T) < 0.3)
    expected = 1 - np.exp(-(0.3**2) / 2) / 2 - np.exp(-(0.3**2) / 0.02) / 2
    np.testing.assert_allclose(near, expected, atol=0.02)


def test_points_have_the_moments_that_their_parameters_say(sbibm_tasks):
    parameters = np.tile([[0.7, -2.9, -1.2, 0.9, 0.6]], (20_000, 1))
    data = sbibm_tasks.slcp(parameters, np.random.default_rng(0))
    scale = np.square([1.2, 0.9])
    cross = np.tanh(0.6) * scale[0] * scale[1]
    covariance = [[scale[0] ** 2, cross], [cross, scale[1] ** 2]]
    points = data.reshape(-1, 2)
    np.testing.assert_allclose(points.mean(0), [0.7, -2.9], atol=0.02)
    np.testing.assert_allclose(np.cov(points.T), covariance, atol=0.04)
    # One point says nothing of another.
    assert np.abs(np.corrcoef(data.T)[:2, 2:]).max() < 0.03


def test_an_epidemic_grows_as_its_rates_say_and_is_counted(sbibm_tasks):
    rates = np.array([[0.5, 0.1], [0.1, 0.2]])
    share = sbibm_tasks.infected(rates)
    assert share.shape == (2, 10)
    # Exponential while all are susceptible.
    np.testing.assert_allclose(share[0, 1], 1e-6 * np.exp(0.4 * 17), rtol=2e-3)
    np.testing.assert_allclose(share[1, 1], 1e-6 * np.exp(-0.1 * 17), rtol=1e-3)
    # The days may miss the peak, which has a closed form.
    peak = 1 - (1 + np.log(0.5 / 0.1)) / (0.5 / 0.1)
    assert peak - 0.15 < share[0].max() < peak
    counts = sbibm_tasks.sir(
        np.repeat(rates[:1], 500, 0), np.random.default_rng(0)
    )
    np.testing.assert_allclose(counts.mean(0), 1000 * share[0], atol=4)


def test_spirals_turn_both_ways_and_hide_what_they_should():
    spirals = load_example("latent_spirals")
    curves = spirals.make_spirals(40, seed=0)
    centred = curves - np.where(np.arange(40) % 2, -1.0, 1.0)[
        :, None, None
    ] * np.array([1.0, 0.0])
    x, y = centred[..., 0], centred[..., 1]
    turns = x[:, :-1] * y[:, 1:] - x[:, 1:] * y[:, :-1]
    assert np.all(turns[::2] > 0) and np.all(turns[1::2] < 0)
    data = spirals.observe(curves, 30, 0.1, seed=0)
    assert np.all(data["mask"].sum(axis=1) == 30)


def test_half_of_the_frames_of_each_utterance_are_seen():
    vowels = load_example("latent_vowels")
    lengths = vowels.load()["test"][1]
    seen, hidden = vowels.hide(lengths, seed=0)
    np.testing.assert_array_equal(seen.sum(axis=1), (lengths + 1) // 2)
    np.testing.assert_array_equal(hidden.sum(axis=1), lengths // 2)
    assert not np.any(seen & hidden)


def test_events_follow_their_intensity():
    events = load_example("latent_events")
    data, phases = events.simulate(400, seed=0)
    number = data["mask"].sum(axis=1)
    expected = events.true_integral(phases)
    # Poisson counts: the mean's standard error is sqrt(40 / 400).
    assert abs(np.mean(number - expected)) < 4 * 0.32


def test_steps_of_an_epoch_see_each_digit_once_whoever_asks():
    example = load_example("multi_worker")
    arguments = example.parse_arguments(["--batch-size", "4", "--seed", "7"])
    epoch = [example.digits_of_step(i, 20, arguments) for i in range(5)]
    assert sorted(np.concatenate(epoch)) == [*range(20)]
    np.testing.assert_array_equal(
        example.digits_of_step(3, 20, arguments), epoch[3]
    )
    following = example.digits_of_step(5, 20, arguments)
    assert not np.array_equal(following, epoch[0])


def test_worker_that_fails_ends_the_others_and_restarts_are_counted(capfd):
    # The first worker fails at once, the second would sleep for a minute.
    program = (
        "import json, os, time;"
        "task = json.loads(os.environ['TF_CONFIG'])['task'];"
        "time.sleep(60) if task['index'] else exit(3)"
    )
    workers = load_example("local_workers")
    command = [sys.executable, "-c", program]
    with pytest.raises(SystemExit, match="max_restarts=1"):
        workers.run_locally(command, count=2, max_restarts=1)
    assert capfd.readouterr().out.count("worker 1 is process") == 2


def test_workers_that_end_well_are_not_restarted(capfd):
    workers = load_example("local_workers")
    workers.run_locally([sys.executable, "-c", ""], count=2, max_restarts=1)
    assert capfd.readouterr().out.count("worker 1 is process") == 1
