"""The benchmarks measure what they say, and run where peers are absent."""

import pathlib
import sys

import numpy as np

sys.path.append(str(pathlib.Path(__file__).parents[1] / "benchmarks"))

import coupling_problems  # noqa: E402
import couplings  # noqa: E402
import transport  # noqa: E402

SHIFT = np.array([3.0, -4.0])


def points(count=50):
    return np.random.default_rng(0).normal(size=(count, 2))


def test_squared_wasserstein_of_a_shift_is_its_squared_length():
    x = points()
    y = np.random.default_rng(1).permutation(x + SHIFT)
    distance = transport.squared_wasserstein(x, y)
    np.testing.assert_allclose(distance, 25.0, rtol=1e-12)


def test_straight_paths_of_optimal_transport_have_no_excess_energy():
    x, times = points(), np.linspace(0.0, 1.0, 11)[:, None, None]
    least = transport.squared_wasserstein(x, x + SHIFT)
    npe = transport.normalized_path_energy(x + times * SHIFT, least)
    np.testing.assert_allclose(npe, 0.0, atol=1e-12)
    # Half of the time 1.5 of the way, the other half 0.5 of it back.
    detour = np.stack([x, x + 1.5 * SHIFT, x + SHIFT])
    npe = transport.normalized_path_energy(detour, least)
    np.testing.assert_allclose(npe, 2 * (1.5**2 + 0.5**2) - 1, rtol=1e-12)


def test_eight_gaussians_have_the_moments_of_torchcfm():
    x = coupling_problems.sample("eight_gaussians", 200_000, 0)
    # 5^2 / 2 of the circle, sqrt(0.1) of each normal; four standard errors.
    np.testing.assert_allclose(x.var(axis=0), 12.5 + 0.1**0.5, atol=0.08)


def test_couplings_run_without_peers_and_not_twice(
    tmp_path, capsys, monkeypatch
):
    log = tmp_path / "log.csv"
    arguments = ["--smoke", "--log", str(log)]
    monkeypatch.delenv("KERAS_NODE_TORCH_PYTHON", raising=False)
    couplings.main(arguments)
    text = log.read_text()
    couplings.main(arguments)
    assert log.read_text() == text
    (row,) = couplings.read(log)
    assert row["library"] == "keras_node" and float(row["w2"]) > 0.0
    assert "W2, keras_node" in capsys.readouterr().out
