# %% [markdown]
"""
# Serving and scaling

You learn to

- train for long, on all devices of a machine, with a budget of evaluations,
- save a model, and export it for a server without `keras_node`,
- compile the served function by XLA.

Details, limits and other formats are in [deployment](../deployment.md).
"""

# %%
import pathlib
import tempfile

import keras
import numpy as np
import tensorflow as tf

import keras_node

keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
x = rng.normal(size=(256, 2)).astype("float32")
y = np.sum(x**2, axis=1, keepdims=True)
folder = tempfile.TemporaryDirectory()
root = pathlib.Path(folder.name)

# %% [markdown]
"""
## Several devices

Make and compile the model within the scope of a strategy. `MirroredStrategy`
takes all GPUs, or the CPU. With one clock for a batch, each device chooses the
steps of its share; `per_sample_steps=True` makes the result independent of the
number of devices. For several machines see `examples/multi_worker.py`.
"""

# %%
with tf.distribute.MirroredStrategy().scope():
    field = keras.Sequential(
        [keras.layers.Dense(16, "tanh"), keras.layers.Dense(2)]
    )
    solver = keras_node.solvers.Tsit5(on_failure="nan")
    model = keras.Sequential(
        [
            keras.Input((2,)),
            keras_node.ODELayer(field, solver=solver, name="ode"),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.Adam(2e-2), "mse")

# %% [markdown]
"""
## Long runs

Callbacks of Keras and of `keras_node`:

- `BackupAndRestore` goes on after a crash from the last epoch.
- `TerminateOnNaN` ends a run whose solve fails; it needs `on_failure="nan"`.
- `NFEBudget` loosens the tolerances, stops or warns when a batch costs too
  much.
- `ToleranceSchedule` starts with cheap solves, and ends with accurate ones.

Nothing is traced again when tolerances change.
"""

# %%
callbacks = [
    keras.callbacks.BackupAndRestore(root / "backup"),
    keras.callbacks.TerminateOnNaN(),
    keras_node.callbacks.NFEBudget(200, action="loosen"),
    keras_node.callbacks.ToleranceSchedule(
        rtol=lambda epoch: max(1e-2 * 0.5**epoch, 1e-3)
    ),
]
logs = model.fit(
    x, y, epochs=8, batch_size=64, callbacks=callbacks, verbose=0
).history
for name in ("loss", "ode_nfe", "rtol"):
    print(f"{name:8}{logs[name][0]:8.3f} ->{logs[name][-1]:8.3f}")
assert logs["loss"][-1] < logs["loss"][0]

# %% [markdown]
"""
## Save and export

A `.keras` file is for training on. A SavedModel is for a server: it needs
TensorFlow, but not Keras or `keras_node`. The size of the batch is free, and
steps stay adaptive. A `NormalizingFlow` exports `log_prob` and `sample`, a
`LatentODE` `encode`, `reconstruct` and `generate`.
"""

# %%
model.save(root / "model.keras")
model.export(root / "served", verbose=False)
restored = tf.saved_model.load(root / "served")  # Its variables live with it.
served = restored.serve
expected = np.array(model(x))
error = np.abs(served(x) - expected).max()
print(f"served: largest difference {error:.0e}")
assert error < 1e-5

# %% [markdown]
"""
For ONNX, OpenVINO and LiteRT put a solver with fixed steps into the layer
first, `RK4(step_size=0.1, unroll=True)`, and `format="onnx"` into `export`.

## Serve with XLA

XLA compiles the whole solve, once for each shape of the input: pad batches to a
few sizes. In training, `model.compile(..., jit_compile=True)` does the same.
Nothing can raise under XLA: a failed solve is NaN, in the samples that failed
if the solver has `per_sample_steps=True`. So check for it.
"""

# %%
fast = tf.function(served, jit_compile=True)
answer = fast(tf.constant(x))
error = np.abs(answer - expected).max()
print(f"compiled: largest difference {error:.0e}")
assert np.all(np.isfinite(answer)) and error < 1e-4
folder.cleanup()
