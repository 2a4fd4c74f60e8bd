# %% [markdown]
"""
# Irregular time series

Three models of the same small data, in which every series has times of its own
and some observations are missing.

You learn to

- describe series, fill their gaps and extrapolate them with `LatentODE`,
- classify them with `NeuralCDE`,
- do the same with a recurrent network, by `ODERNNCell`.
"""

# %%
import keras
import numpy as np

import keras_node

keras.utils.set_random_seed(0)

# %% [markdown]
"""
## Data

Waves of two frequencies, the classes, with any phase: 12 observations at random
times between 0 and 2, a fifth of them hidden. Data are dicts of `values`,
`times` and `mask`; instead of a mask, missing values may be NaN. Pad series of
different lengths with rows that the mask hides.

Give time a unit in which a series takes about 1, whatever your own.
"""

# %%
rng = np.random.default_rng(0)
label = rng.integers(0, 2, 128)
phase = rng.uniform(0.0, 2 * np.pi, (128, 1))
times = np.sort(rng.uniform(0.0, 2.0, (128, 12)), axis=1)
frequency = np.where(label == 0, 2.0, 5.0)[:, None]


def wave(times):
    return np.sin(frequency * times + phase)[..., None]


data = {
    "values": wave(times) + 0.05 * rng.normal(size=(128, 12, 1)),
    "times": times,
    "mask": rng.uniform(size=(128, 12, 1)) < 0.8,
}

# %% [markdown]
"""
## Describe: `LatentODE`

An encoder infers a latent state at time 0 from all observations, an ODE carries
it to any time, and a decoder says what is observed there. `fit` maximises a
lower bound of the likelihood.

Encoder, dynamics, decoder, likelihood and prior have defaults; each may be a
layer, a function or a distribution of your own. For counts put
`likelihood="poisson"`, for event times
`likelihoods.PoissonProcessLikelihood(window)`.
"""

# %%
latent = keras_node.LatentODE(
    observation_dim=1, latent_dim=4, solver=keras_node.solvers.Tsit5(rtol=1e-2)
)
latent.compile(keras.optimizers.Adam(2e-2))
logs = latent.fit(data, epochs=20, batch_size=64, verbose=0).history
for name in ("loss", "rmse", "nfe"):
    print(f"{name:6}{logs[name][0]:8.2f} ->{logs[name][-1]:8.2f}")
assert logs["loss"][-1] < logs["loss"][0]

# %% [markdown]
"""
The NFE is that of one solve for the whole batch: times of each series' own cost
no more steps. So few epochs make a rough model; `examples/latent_spirals.py`
trains one in earnest.

`reconstruct` goes to any times, behind the last observation too, here to 2.5.
With `num_samples=` it returns a band of the posterior as well.
"""

# %%
fine = np.linspace(0.0, 2.5, 60)
band = latent.reconstruct(**data, target_times=fine, num_samples=20, seed=0)
ax = keras_node.visualize.trajectories(
    fine, np.swapaxes(band.mean[:1], 0, 1), labels=["mean"]
)
ax.fill_between(fine, band.lower[0, :, 0], band.upper[0, :, 0], alpha=0.3)
seen = data["mask"][0, :, 0]
ax.plot(times[0, seen], data["values"][0, seen, 0], "k.", label="observed")
ax.legend()

# %% [markdown]
"""
## Classify: `NeuralCDE`

A path through the observations drives a hidden state, `dz = f(z) dX`. The
result depends on the path, not on how often it was looked at.

`solver="midpoint"` takes two evaluations for each observation; the default is
adaptive and takes seven at least. `interpolation="rectilinear"` with
`return_sequences=True` predicts online: nothing depends on later observations.
For a regression put another head and loss behind it.
"""


# %%
def classifier_of(features, inputs):
    model = keras.Model(inputs, keras.layers.Dense(1)(features))
    model.compile(
        keras.optimizers.Adam(2e-2),
        keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0)],
    )
    return model


inputs = {
    "values": keras.Input((12, 1), name="values"),
    "times": keras.Input((12,), name="times"),
    "mask": keras.Input((12, 1), dtype="bool", name="mask"),
}
cde = classifier_of(keras_node.NeuralCDE(8, solver="midpoint")(inputs), inputs)
logs = cde.fit(data, label, epochs=10, batch_size=32, verbose=0).history
print(f"NeuralCDE: accuracy {logs['accuracy'][-1]:.2f}")
assert logs["loss"][-1] < logs["loss"][0]

# %% [markdown]
"""
## The recurrent way: `ODERNNCell`

A cell for `keras.layers.RNN`: a gated unit takes in an observation, and its
state follows an ODE until the next. The last feature of the input is the time
to the next observation; the others are up to you: here the value, and whether
it was observed.
"""

# %%
gap = np.diff(times, axis=1, append=times[:, -1:])[..., None]
mask = data["mask"].astype("float32")
features = np.concatenate([data["values"] * mask, mask, gap], axis=-1)
rows = keras.Input((12, 3))
rnn = classifier_of(keras.layers.RNN(keras_node.ODERNNCell(8))(rows), rows)
logs = rnn.fit(features, label, epochs=10, batch_size=32, verbose=0).history
print(f"ODERNNCell: accuracy {logs['accuracy'][-1]:.2f}")
assert logs["loss"][-1] < logs["loss"][0]

# %% [markdown]
"""
## Which one

- `LatentODE` where you want the series themselves: gaps, the future, bands, new
  samples. One vector has to describe a whole series, which limits it on long
  and noisy ones.
- `NeuralCDE` where you want something about the series, and they are irregular.
- `ODERNNCell` where a recurrent network is at home, and as an encoder:
  `LatentODE(..., encoder="ode_rnn")`.

What they reach on spirals, speech and event times is in [time
series](../time-series.md).
"""
