"""The reproduction of the paper: logs, interruptions, pages, and smoke runs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from examples.reproduce import (
    FOLDER,
    figure3,
    figure4,
    memory,
    page,
    poisson,
    table1,
    table2,
)
from examples.reproduce import __main__ as command
from examples.reproduce.logs import Log
from examples.reproduce.training import Run

SUBSET = FOLDER / "mnist_subset.npz"


def test_log_returns_what_was_written_numbers_as_floats(tmp_path):
    log = Log(tmp_path / "log.csv", ["name", "value"])
    log.append(name="a", value=1)
    log.append(name="b", value=0.25)
    assert log.rows() == [
        {"name": "a", "value": 1.0},
        {"name": "b", "value": 0.25},
    ]
    assert log.rows(name="b") == [{"name": "b", "value": 0.25}]
    # Another process reads the same.
    assert len(Log(tmp_path / "log.csv", ["name", "value"]).rows()) == 2


def test_log_of_other_columns_is_refused(tmp_path):
    Log(tmp_path / "log.csv", ["name"])
    with pytest.raises(ValueError, match="must have the columns.*Received"):
        Log(tmp_path / "log.csv", ["other"])


def fit(folder, stop):
    """Trains a small network up to an epoch, going on where one ended."""
    log = Log(folder / "log.csv", ["run", "epoch", "epochs", "seconds", "loss"])

    def make_model():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        rate = keras.optimizers.schedules.CosineDecay(0.1, 40)
        model.compile(keras.optimizers.SGD(rate, momentum=0.9), "mse")
        return model

    def read(epoch):
        x = np.random.default_rng(epoch).normal(size=(32, 3))
        return {"x": x, "y": x.sum(axis=1), "batch_size": 8}

    run = Run(log, folder / "runs", "small", 4)
    model = run.fit(
        make_model, read, lambda model, last: {"loss": last["loss"]}, stop
    )
    return model, log


def test_interrupted_training_ends_as_if_it_had_not_been(tmp_path):
    whole, log = fit(tmp_path / "whole", 4)
    fit(tmp_path / "parts", 1)
    fit(tmp_path / "parts", 3)
    parts, parts_log = fit(tmp_path / "parts", 4)
    for a, b in zip(whole.get_weights(), parts.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    losses, others = [[r["loss"] for r in x.rows()] for x in (log, parts_log)]
    np.testing.assert_allclose(losses, others, rtol=1e-5)
    assert len(losses) == 4
    # Only the last model is kept.
    assert len(list((tmp_path / "parts" / "runs").iterdir())) == 1


def test_lines_are_kept_when_their_model_is_not_at_hand(tmp_path):
    _, log = fit(tmp_path, 2)
    for path in (tmp_path / "runs").iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match="2 epochs.*--logs"):
        fit(tmp_path, 3)
    assert [row["epoch"] for row in log.rows()] == [1, 2]


def test_digits_are_shifted_by_at_most_two_pixels():
    images = np.zeros((200, 28, 28, 1), "float32")
    images[:, 14, 14] = 1.0
    moved = table1.shifted(images, np.random.default_rng(0))
    _, rows, columns, _ = np.nonzero(moved)
    assert len(rows) == 200
    assert set(rows - 14) == set(columns - 14) == {-2, -1, 0, 1, 2}


def test_epoch_is_a_function_of_seed_and_number_alone():
    data = np.random.default_rng(0).random((300, 28, 28, 1)), np.arange(300)
    first, again, other = [table1.epoch_of(data, 0, n) for n in (1, 1, 2)]
    np.testing.assert_array_equal(first["x"], again["x"])
    assert len(first["y"]) == 2 * table1.BATCH_SIZE
    assert not np.array_equal(first["y"], other["y"])


def test_validation_of_the_spirals_sees_the_last_third_alone():
    class Model:
        def reconstruct(self, values, times, mask, target_times):
            assert not mask[:, table2.CUT :].any()
            return tf.zeros(values.shape)

    values = np.ones((4, 100, 2))
    values[:, table2.CUT :] = 3.0
    mask = np.random.default_rng(0).random((4, 100)) < 0.5
    data = {"values": values, "times": np.arange(100.0), "mask": mask}
    assert table2.validation_error(Model(), data) == 3.0


def run_smoke(name, tmp_path, *arguments):
    folders = ["--logs", str(tmp_path), "--runs", str(tmp_path / "runs")]
    command.main([name, "--smoke", *folders, *arguments])
    return {path.name for path in tmp_path.iterdir()} - {"runs"}


def test_network_without_a_block_is_trained_and_logged(tmp_path):
    options = ("--mnist", str(SUBSET), "--only", "none")
    assert "table1.csv" in run_smoke("table1", tmp_path, *options)
    (row,) = Log(tmp_path / "table1.csv", table1.COLUMNS).rows()
    assert row["parameters"] == 132_874
    assert 0 <= row["test_error"] <= 100


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, files",
    {
        "table1": {"table1.csv"},
        "figure3": {
            "figure3.png",
            "figure3_dial.csv",
            "figure3_growth.csv",
            "table1.csv",
        },
        "memory": {"memory.csv"},
        "figure4": {"figure4.png", "figure4.csv"},
        "figure5": {"figure5.png", "figure5.csv"},
        "table2": {"table2.csv", "spirals_10.png"},
        "poisson": {"poisson.png", "poisson.csv"},
        "limitations": {
            "annuli.csv",
            "annuli.png",
            "batches.csv",
            "drift.csv",
            "limitations.png",
            "tolerances.csv",
        },
    }.items(),
)
def test_smoke_run_writes_logs_and_pictures(name, files, tmp_path):
    assert run_smoke(name, tmp_path, "--mnist", str(SUBSET)) == files


def test_command_with_a_full_log_says_so_and_needs_no_model(tmp_path, capsys):
    log = Log(tmp_path / "memory.csv", memory.COLUMNS)
    log.append(kind="ResNet", depth=3, megabytes=47)
    run_smoke("memory", tmp_path)
    assert "The logs have all of it" in capsys.readouterr().out


def test_dial_with_a_full_log_does_not_ask_for_the_model(tmp_path):
    options = command.parse_arguments(["figure3", "--logs", str(tmp_path)])
    log = Log(tmp_path / "figure3_dial.csv", figure3.DIAL_COLUMNS)
    for tolerance in figure3.TOLERANCES:
        for adjoint in figure3.ADJOINTS:
            log.append(tolerance=tolerance, adjoint=adjoint)
    rows = figure3.turn_the_dial(None, None, options)
    assert len(rows) == len(log.rows())


def test_unknown_network_is_refused_with_the_names_there_are(tmp_path):
    options = ("--mnist", str(SUBSET), "--only", "vgg")
    with pytest.raises(SystemExit, match="odenet.*Received: vgg"):
        run_smoke("table1", tmp_path, *options)


def test_missing_file_of_digits_ends_in_its_name(tmp_path):
    with pytest.raises(SystemExit, match="no_such"):
        run_smoke("table1", tmp_path, "--mnist", "no_such.npz")


def test_page_of_an_unfinished_run_has_what_there_is(tmp_path):
    log = Log(tmp_path / "figure4.csv", figure4.COLUMNS)
    log.append(target="ring", kind="CNF", size=2, seed=0, steps=1, kl=-1e-9)
    log.append(target="ring", kind="NF", size=8, seed=0, steps=1, kl=0.5)
    run_smoke("page", tmp_path)
    text = (tmp_path / page.PAGE).read_text(encoding="utf-8")
    assert "| ring | CNF | **0.000** |  |" in text
    assert "| ring | NF |  | **0.500** |" in text


def test_page_has_the_tables_that_the_logs_give():
    logs = command.parse_arguments(["page"]).logs
    text = (logs / page.PAGE).read_text(encoding="utf-8")
    assert page.written(text, logs) == text


def test_table_of_the_page_gives_the_mean_and_each_seed(tmp_path):
    log = Log(tmp_path / "poisson.csv", poisson.COLUMNS)
    for seed, bound in ((0, 1.0), (1, 2.0)):
        values = dict.fromkeys(poisson.COLUMNS, 0.5)
        log.append(**{**values, "seed": seed, "bound": bound})
    text = "Before.\n<!-- poisson -->\nold\n<!-- end -->\nAfter.\n"
    new = page.written(text, tmp_path)
    assert "**1.50** (1.00, 2.00)" in new
    assert new.startswith("Before.")
    assert new.endswith("After.\n")
    assert "old" not in new
