"""Tests of the callbacks that watch and steer solvers."""

import csv
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from support import zoo

import keras_node
from keras_node.callbacks import NFEBudget, NFELogger, ToleranceSchedule


class CountedTraces(keras.layers.Layer):
    """A layer that counts how often it is traced."""

    count = 0

    def call(self, x):
        CountedTraces.count += 1
        return x


def fit(model, name="ODELayer", **kwargs):
    kwargs = {"verbose": 0, "shuffle": False, "batch_size": 8, **kwargs}
    return model.fit(*zoo.data(name), **kwargs).history


def model(**kwargs):
    keras.utils.set_random_seed(0)
    return zoo.compiled("ODELayer", zoo.classifier(**kwargs))


def test_schedule_sets_tolerances_by_epoch_without_tracing_again():
    traced = keras.Sequential([model(), CountedTraces()])
    zoo.compiled("ODELayer", traced)
    schedule = ToleranceSchedule(rtol=lambda epoch: 1e-1 ** (epoch + 1))
    CountedTraces.count = 0
    nfe = fit(traced, epochs=1, callbacks=[schedule])["ode_nfe"]
    once = CountedTraces.count
    CountedTraces.count = 0
    history = fit(traced, epochs=6, callbacks=[schedule])
    assert CountedTraces.count <= once
    np.testing.assert_allclose(
        history["rtol"], [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6]
    )
    assert history["ode_nfe"][0] == nfe[0]
    assert history["ode_nfe"][-1] > 1.5 * history["ode_nfe"][0]


@pytest.mark.parametrize(
    "name",
    [
        "ODELayer",
        "NormalizingFlow",
        pytest.param("LatentODE", marks=pytest.mark.slow),
    ],
)
def test_training_and_evaluation_have_tolerances_of_their_own(name):
    keras.utils.set_random_seed(0)
    trained = zoo.compiled(name)
    schedule = ToleranceSchedule(1e-1, 1e-1, 1e-6, 1e-6)
    history = fit(
        trained, name, validation_data=zoo.data(name), callbacks=[schedule]
    )
    (key,) = [k for k in history if k.endswith("nfe") and "val" not in k]
    assert history[f"val_{key}"][0] > 1.5 * history[key][0]
    solvers = {id(s): s for s in _solvers(trained)}.values()
    assert [s.rtol for s in solvers] == [1e-6] * len(solvers)
    assert all(isinstance(s.rtol, float) for s in solvers)


def _solvers(trained):
    return [
        layer.solver
        for layer in trained._flatten_layers(include_self=True)
        if hasattr(layer, "solver")
    ]


def test_schedule_holds_in_evaluate_and_is_gone_after():
    trained = model(solver=keras_node.solvers.Tsit5(rtol=1e-2))
    loose = trained.evaluate(*zoo.data("ODELayer"), verbose=0, return_dict=True)
    schedule = ToleranceSchedule(evaluation_rtol=1e-7)
    tight = trained.evaluate(
        *zoo.data("ODELayer"),
        verbose=0,
        return_dict=True,
        callbacks=[schedule],
    )
    assert tight["ode_nfe"] > loose["ode_nfe"]
    assert trained.layers[0].solver.rtol == 1e-2


def test_scheduled_model_is_saved_with_its_present_tolerance(tmp_path):
    path = tmp_path / "{epoch}.keras"
    fit(
        model(),
        epochs=2,
        callbacks=[
            ToleranceSchedule(rtol=lambda epoch: 1e-2 / (epoch + 1)),
            keras.callbacks.ModelCheckpoint(path),
        ],
    )
    for epoch, rtol in ((1, 1e-2), (2, 5e-3)):
        loaded = keras.saving.load_model(tmp_path / f"{epoch}.keras")
        assert loaded.layers[0].solver.rtol == rtol


@pytest.mark.parametrize(
    "options", [{"jit_compile": True}, {"steps_per_execution": 2}], ids=str
)
def test_schedule_works_in_compiled_and_repeated_steps(options):
    trained = zoo.compiled("ODELayer", zoo.classifier(), **options)
    schedule = ToleranceSchedule(rtol=lambda epoch: [1e-1, 1e-6][epoch])
    nfe = fit(trained, epochs=2, callbacks=[schedule])["ode_nfe"]
    assert nfe[1] > 1.5 * nfe[0]


def test_exported_model_has_the_tolerance_of_its_training(tmp_path):
    trained = model()
    fit(trained, callbacks=[ToleranceSchedule(rtol=1e-5)])
    trained.export(tmp_path / "model", verbose=False)
    x = zoo.points()
    loaded = tf.saved_model.load(tmp_path / "model")
    np.testing.assert_allclose(
        loaded.serve(x), trained.predict(x, verbose=0), rtol=1e-5, atol=1e-6
    )


def test_logger_writes_rows_and_scalars(tmp_path):
    filename, log_dir = tmp_path / "nfe.csv", tmp_path / "logs"
    history = fit(
        model(),
        epochs=3,
        validation_data=zoo.data("ODELayer"),
        callbacks=[NFELogger(log_dir, filename)],
    )
    with open(filename, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert [row["step"] for row in rows] == ["2", "4", "6"]
    for key in ("ode_nfe", "ode_nfe_backward", "val_ode_nfe"):
        assert [float(row[key]) for row in rows] == history[key]
    (event_file,) = log_dir.iterdir()
    events = tf.compat.v1.train.summary_iterator(str(event_file))
    tags = [(v.tag, e.step) for e in events for v in e.summary.value]
    assert ("ode_nfe", 6) in tags and ("ode_nfe_backward", 2) in tags


def test_rows_of_batches_are_means_between_rows(tmp_path):
    filename = tmp_path / "nfe.csv"
    history = fit(
        model(),
        epochs=2,
        batch_size=4,
        callbacks=[NFELogger(filename=filename, frequency=2)],
    )
    with open(filename, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "4", "6", "8"]
    means = np.mean([[float(r["ode_nfe"]) for r in rows]], axis=0)
    np.testing.assert_allclose(
        means.reshape(2, 2).mean(axis=1), history["ode_nfe"], rtol=1e-6
    )


def test_budget_warns():
    with pytest.warns(UserWarning, match="ode_nfe is .* above the budget of 3"):
        fit(model(), callbacks=[NFEBudget(3)])


def test_budget_that_is_kept_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = fit(
            model(), epochs=2, callbacks=[NFEBudget(1000, action="stop")]
        )
    assert len(history["loss"]) == 2


def test_budget_stops_training():
    with pytest.warns(UserWarning, match="above the budget"):
        history = fit(model(), epochs=5, callbacks=[NFEBudget(3, "stop")])
    assert len(history["loss"]) == 1


def test_budget_loosens_until_it_is_kept():
    solver = keras_node.solvers.Tsit5(rtol=1e-6, atol=1e-8)
    trained = model(solver=solver)
    nfe = fit(trained, epochs=1)["ode_nfe"][0]
    history = fit(trained, epochs=9, callbacks=[NFEBudget(0.6 * nfe, "loosen")])
    assert history["ode_nfe"][-1] <= 0.6 * nfe
    assert solver.rtol == pytest.approx(100 * solver.atol, rel=1e-6)
    assert 1e-6 < solver.rtol <= 0.1


def test_budget_that_cannot_be_kept_warns_at_the_loosest_tolerance():
    trained = model(solver=keras_node.solvers.Tsit5(rtol=5e-2))
    with pytest.warns(UserWarning, match="above the budget of 1"):
        fit(trained, epochs=3, callbacks=[NFEBudget(1, "loosen")])
    assert trained.layers[0].solver.rtol == pytest.approx(0.1)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="must set a tolerance"):
        ToleranceSchedule()
    with pytest.raises(ValueError, match="`rtol` must be a positive float"):
        ToleranceSchedule(rtol=-1.0)
    with pytest.raises(ValueError, match="`evaluation_rtol` must be"):
        ToleranceSchedule(evaluation_rtol=lambda epoch: 1.0)
    with pytest.raises(ValueError, match="`filename` for CSV"):
        NFELogger()
    with pytest.raises(ValueError, match='`frequency` must be "epoch"'):
        NFELogger("logs", frequency=0)
    with pytest.raises(ValueError, match="`max_nfe` must be"):
        NFEBudget(0)
    with pytest.raises(ValueError, match="`action` must be"):
        NFEBudget(5, action="panic")


def test_models_without_a_dial_are_told():
    with pytest.raises(ValueError, match="must have an adaptive solver"):
        fit(model(solver="rk4"), callbacks=[ToleranceSchedule(1e-3)])
    plain = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    zoo.compiled("ODELayer", plain)
    with pytest.raises(ValueError, match="counts its evaluations"):
        fit(plain, callbacks=[NFEBudget(5)])
    schedule = ToleranceSchedule(rtol=lambda epoch: float("nan"))
    with pytest.raises(ValueError, match="`rtol` must be a positive float"):
        fit(model(), callbacks=[schedule])
