"""Tests of long runs: precision, compilation, traces, memory, restarts."""

import os
import pathlib
import resource
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from support import zoo

import keras_node
from keras_node.dynamics import traced_field

ALL = pytest.mark.parametrize("name", zoo.MODELS)
SLOW = pytest.mark.slow
# What takes `LatentODE` seconds to trace, and is the same for all models.
ALL_BUT_SLOWLY_LATENT_ODE = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[SLOW] if name == "LatentODE" else [])
        for name in zoo.MODELS
    ],
)
TESTS = str(pathlib.Path(__file__).parent)


def fit(model, name, count=16, **kwargs):
    kwargs = {"verbose": 0, "shuffle": False, "batch_size": 8, **kwargs}
    return model.fit(*zoo.data(name, count), **kwargs).history


@pytest.mark.parametrize(
    "policy", ["mixed_float16", pytest.param("mixed_bfloat16", marks=SLOW)]
)
@ALL
def test_half_precision_trains_and_is_solved_in_float32(name, policy):
    keras.utils.set_random_seed(0)
    try:
        keras.config.set_dtype_policy(policy)
        model = zoo.compiled(name)
        history = fit(model, name, epochs=2)
    finally:
        keras.config.set_dtype_policy("float32")
    assert np.isfinite(history["loss"]).all()
    assert {v.dtype for v in model.trainable_variables} == {"float32"}


@ALL_BUT_SLOWLY_LATENT_ODE
def test_float64_is_kept_throughout(name):
    keras.utils.set_random_seed(0)
    options = {"dtype": "float64"} if name == "NormalizingFlow" else {}
    try:
        keras.config.set_dtype_policy("float64")
        keras.config.set_floatx("float64")
        model = zoo.compiled(name, zoo.MODELS[name](**options))
        x = zoo.data(name)[0]
        outputs = model.predict(x, verbose=0)
        history = fit(model, name)
    finally:
        keras.config.set_dtype_policy("float32")
        keras.config.set_floatx("float32")
    assert outputs.dtype == np.float64
    assert np.isfinite(history["loss"]).all()
    assert {v.dtype for v in model.trainable_variables} == {"float64"}


@pytest.mark.parametrize(
    ("name", "adjoint"),
    [
        (name, adjoint)
        for name in zoo.MODELS
        for adjoint in ("checkpoint", "backsolve", "direct")
        # XLA wants the axes of the trace's sums as constants.
        if (name, adjoint) != ("NormalizingFlow", "direct")
    ],
)
@pytest.mark.slow
def test_xla_trains_as_a_graph_does(name, adjoint):
    histories = []
    # Stacks of `direct` hold `max_num_steps` under XLA.
    solver = keras_node.solvers.Bosh3(max_num_steps=32)
    for jit_compile in (False, True):
        keras.utils.set_random_seed(0)
        model = zoo.MODELS[name](solver=solver, adjoint=adjoint)
        zoo.compiled(name, model, jit_compile=jit_compile)
        # The last batch is smaller.
        histories.append(fit(model, name, count=12)["loss"])
    np.testing.assert_allclose(*histories, rtol=1e-4)


@pytest.mark.slow
@ALL_BUT_SLOWLY_LATENT_ODE
def test_several_steps_per_execution_train_as_one_does(name):
    weights = []
    for steps_per_execution in (1, 4):
        keras.utils.set_random_seed(0)
        model = zoo.compiled(name, steps_per_execution=steps_per_execution)
        fit(model, name, count=32)
        weights.append(model.get_weights())
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@ALL_BUT_SLOWLY_LATENT_ODE
def test_no_epoch_is_traced_after_the_first(name, monkeypatch):
    keras.utils.set_random_seed(0)
    model = zoo.compiled(name)
    data = zoo.data(name)
    options = {"validation_data": data if len(data) > 1 else data[0]}
    # Every solve that is traced traces its dynamics.
    traced, trace = [], traced_field.trace
    monkeypatch.setattr(
        traced_field,
        "trace",
        lambda *args: traced.append(args) or trace(*args),
    )
    fit(model, name, **options)
    assert traced
    traced.clear()
    fit(model, name, epochs=3, **options)
    assert not traced


@SLOW
@ALL
def test_memory_does_not_grow_over_a_thousand_steps(name):
    keras.utils.set_random_seed(0)
    model = zoo.compiled(name)
    fit(model, name, epochs=50)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fit(model, name, epochs=500)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # In kilobytes; a leak of one state of 64 kB a step would be 64 MB.
    assert after - before < 20_000


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=SLOW)])
@ALL_BUT_SLOWLY_LATENT_ODE
def test_nan_terminates_training(name, jit_compile):
    solver = keras_node.solvers.Tsit5(on_failure="nan")
    dynamics = keras.layers.Dense(2, kernel_initializer=_nan)
    model = zoo.MODELS[name](solver=solver)
    if name == "LatentODE":
        model.dynamics.set_weights(
            [np.full_like(w, np.nan) for w in model.dynamics.get_weights()]
        )
    else:
        model = zoo.MODELS[name](dynamics=dynamics, solver=solver)
    zoo.compiled(name, model, jit_compile=jit_compile)
    history = fit(
        model, name, epochs=5, callbacks=[keras.callbacks.TerminateOnNaN()]
    )
    assert len(history["loss"]) == 1


def _nan(shape, dtype=None):
    return tf.fill(shape, tf.constant(np.nan, dtype))


# Trains for five epochs, killing itself in the middle of the third if told so.
PROGRAM = """
import os, signal, sys
import keras
from support import zoo
name, folder, kill = sys.argv[1:]
keras.utils.set_random_seed(0)
model = zoo.compiled(name)
class Kill(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
    def on_train_batch_end(self, batch, logs=None):
        if kill == "kill" and (self.epoch, batch) == (2, 1):
            os.kill(os.getpid(), signal.SIGKILL)
backup = keras.callbacks.BackupAndRestore(folder, delete_checkpoint=False)
model.fit(*zoo.data(name, 32), epochs=5, batch_size=8, shuffle=False,
          verbose=0, callbacks=[backup, Kill()])
model.save_weights(f"{name}.weights.h5")
print(model.optimizer.iterations.numpy())
"""


def _run(folder, name, backup, kill):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, name, backup, kill],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": TESTS, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )


@SLOW
@ALL
def test_killed_run_resumes_to_the_weights_of_an_unbroken_one(name, tmp_path):
    results = []
    for kinds in (["run"], ["kill", "run"]):
        for kind in kinds:
            process = _run(tmp_path, name, f"backup_{len(kinds)}", kind)
            killed = kind == "kill"
            expected = -signal.SIGKILL if killed else 0
            assert process.returncode == expected, process.stderr
        model = zoo.compiled(name)
        model.predict(zoo.data(name)[0], verbose=0)
        model.optimizer.build(model.trainable_variables)
        model.load_weights(tmp_path / f"{name}.weights.h5")
        results.append(model.get_weights())
        assert process.stdout.split()[-1] == "20"
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
