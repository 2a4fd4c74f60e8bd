"""Training on several devices gives what training on one gives."""

import json
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import tensorflow as tf

TESTS = pathlib.Path(__file__).parent
PROGRAM = TESTS / "support" / "train_on_replicas.py"
EXAMPLE = TESTS.parent / "examples" / "multi_worker.py"
QUIET = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
LONGEST = 600  # Seconds, on a slow machine with other things to do.
STEPS, KILL_AT = 100, 20
MODELS = pytest.mark.parametrize("name", ["ode_net", "flow", "latent_ode"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Returns what `PROGRAM` found, in a process of its own."""
    path = tmp_path_factory.mktemp("replicas") / "results.json"
    process = subprocess.run(
        [sys.executable, PROGRAM, path],
        env=QUIET,
        capture_output=True,
        text=True,
        timeout=LONGEST,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(path.read_text(encoding="utf-8"))


@MODELS
def test_fit_on_two_devices_ends_with_the_weights_of_one(trained, name):
    one, two = trained[name]
    np.testing.assert_allclose(two["weights"], one["weights"], atol=1e-5)
    np.testing.assert_allclose(two["loss"], one["loss"], rtol=1e-5)


@pytest.mark.parametrize("name", ["flow", "latent_ode"])
def test_metrics_of_two_devices_are_those_of_one(trained, name):
    one, two = trained[name]
    assert set(one) == set(two)
    for metric in set(one) - {"weights"}:
        np.testing.assert_allclose(two[metric], one[metric], rtol=1e-5)
    # Fixed steps: four of two stages each, and no fewer on half a batch.
    for metric in (metric for metric in one if "nfe" in metric):
        expected = 0.0 if "backward" in metric else 8.0
        assert two[metric] == one[metric] == [expected]


def test_samples_with_clocks_of_their_own_have_the_nfe_of_one_device(trained):
    one, two = trained["ode_net"]
    # A sample at the edge of another step may take it: one of 80, three stages.
    np.testing.assert_allclose(
        two["lanes_nfe"], one["lanes_nfe"], atol=2 * 3 / 80
    )


def test_each_replica_chooses_the_steps_of_its_share(trained):
    halves, two = trained["evaluations"]
    assert two["shared_nfe"] == halves["shared_nfe"] > 0
    np.testing.assert_allclose(two["loss"], halves["loss"], rtol=1e-5)


def test_custom_loop_ends_with_the_weights_of_fit(trained):
    fitted, _ = trained["ode_net"]
    np.testing.assert_allclose(
        trained["custom_loop"], fitted["weights"], atol=1e-5
    )


def test_fit_to_density_needs_no_data_on_two_devices_either(trained):
    assert np.all(np.isfinite(trained["density"]))


def test_noise_of_a_batch_does_not_depend_on_the_number_of_replicas(trained):
    one, equal_shares, _ = trained["draws"]
    np.testing.assert_array_equal(equal_shares, one)


def test_replicas_with_unequal_shares_draw_independent_noise(trained):
    _, _, unequal_shares = trained["draws"]
    assert len(set(unequal_shares[1])) == 5


@pytest.mark.slow
def test_two_machines_end_with_the_weights_of_one_device(trained, tmp_path):
    program = [sys.executable, PROGRAM, tmp_path / "w"]
    launcher = runpy.run_path(EXAMPLE.with_name("local_workers.py"))
    launcher["run_locally"](program, count=2, max_restarts=0)
    for path in tmp_path.iterdir():
        across = json.loads(path.read_text(encoding="utf-8"))
        for name, weights in across.items():
            one, _ = trained[name]
            np.testing.assert_allclose(weights, one["weights"], atol=1e-5)


def run_example(folder, victim=None):
    """Runs `multi_worker.py` with two workers, and kills one of them midway.

    Args:
        folder: Path, where it keeps its checkpoints.
        victim: Integer, the worker to kill; `None` (default) for none.

    Returns:
        The words of each line that it printed.
    """
    command = [sys.executable, EXAMPLE, "--smoke", "--local", "2"]
    command += ["--checkpoints", folder, "--checkpoint-every", "8"]
    command += ["--log-every", "1", "--max-restarts", "1"]
    with subprocess.Popen(
        command,
        env=QUIET,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        group = process.pid
        timer = threading.Timer(LONGEST, os.killpg, (group, signal.SIGKILL))
        timer.start()
        try:
            lines = follow(process, victim)
            assert process.wait() == 0, lines
        finally:
            timer.cancel()
            if process.poll() is None:
                os.killpg(group, signal.SIGKILL)
    return lines


def follow(process, victim):
    """Reads all that the example prints, and kills its victim on the way."""
    lines, pids = [], []
    for line in process.stdout:
        lines.append(line.split())
        if line.startswith("worker "):
            pids.append(int(lines[-1][-1]))
        if victim is not None and line.startswith(f"step {KILL_AT} "):
            os.kill(pids[victim], signal.SIGKILL)
            victim = None
    return lines


def steps_that_count(lines):
    """Returns number and metrics of the steps that the weights come of."""
    steps = []
    for words in lines:
        if words[:2] == ["begin", "after"]:
            steps = [step for step in steps if step[0] <= int(words[-1])]
        elif words[0] == "step":
            steps.append((int(words[1]), words[2:]))
    return steps


def weights_in(folder):
    """Returns all that the last checkpoint holds, by its names."""
    reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(folder))
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_dtype_map()
        if not name.startswith(("_CHECKPOINTABLE", "save_counter"))
    }


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Returns the steps and the weights of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("unbroken")
    lines = run_example(folder)
    assert not any("restart" in words for words in lines)
    return steps_that_count(lines), weights_in(folder)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_run_that_lost_a_worker_ends_as_if_it_had_not(
    unbroken, victim, tmp_path
):
    lines = run_example(tmp_path, victim)
    (resumed,) = (i for i, words in enumerate(lines) if "restart" in words)
    begin = next(w for w in lines[resumed:] if w[:2] == ["begin", "after"])
    assert 0 < int(begin[-1]) < STEPS
    steps, weights = unbroken
    assert [number for number, _ in steps] == [*range(1, STEPS + 1)]
    assert steps_that_count(lines) == steps
    actual = weights_in(tmp_path)
    assert set(actual) == set(weights)
    for name, weight in weights.items():
        np.testing.assert_allclose(actual[name], weight, atol=1e-6)
