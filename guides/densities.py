# %% [markdown]
"""
# Densities

A continuous normalizing flow carries samples of a simple distribution to the
data by an ODE, and knows the density on the way.

You learn to

- fit a density by maximum likelihood, draw it, and sample from it,
- train by flow matching, which solves nothing,
- make the density depend on a condition.
"""

# %%
import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import keras_node

keras.utils.set_random_seed(0)

# %% [markdown]
"""
## Data

Two half-circles with noise, one for each of two classes.
"""

# %%
rng = np.random.default_rng(0)
angle = rng.uniform(0.0, np.pi, 512)
label = rng.integers(0, 2, 512)
sign = 1 - 2 * label
x = np.stack([np.cos(angle) - 0.5, np.sin(angle) - 0.25], axis=1)
x = x * sign[:, None] + 0.1 * rng.normal(size=x.shape)
x = x.astype("float32")

# %% [markdown]
"""
## Maximum likelihood

The dynamics are a network of the state; `ConcatTime` feeds it the time as well.
The base is a distribution of TensorFlow Probability: put there any that you can
sample from, with events of the same size. `fit` minimises the mean of `-log
p(x)`, in nats.

The log-density needs the divergence of the dynamics. For a small network of
`Dense` layers it costs one product of matrices. For others of many dimensions
put `trace="hutchinson"`, an estimate, into the `CNFBijector`.
"""

# %%
field = keras.Sequential(
    [keras.layers.Dense(32, "tanh"), keras.layers.Dense(2)]
)
flow = keras_node.NormalizingFlow(
    keras_node.CNFBijector(keras_node.ConcatTime(field)),
    tfp.distributions.MultivariateNormalDiag(tf.zeros(2)),
)
flow.compile(keras.optimizers.Adam(2e-2))
history = flow.fit(x, epochs=20, batch_size=128, verbose=0).history
print(f"nats: {history['loss'][0]:.2f} -> {history['loss'][-1]:.2f}")
assert history["loss"][-1] < history["loss"][0] - 0.2

# %% [markdown]
"""
The density is a distribution of TensorFlow Probability: `flow.distribution`.
`flow.log_prob(x)` and `flow.sample(n)` are its short forms. So few steps find
the two classes, but not yet their shape; `examples/cnf_density.py` trains in
earnest.
"""

# %%
ax = keras_node.visualize.density(
    flow, x_limits=(-2.5, 2.5), y_limits=(-2.0, 2.0), num=40
)
samples = flow.sample(200)
ax.plot(*np.transpose(samples), ".w", ms=2)

# %% [markdown]
"""
## Flow matching, with a condition

Flow matching regresses the dynamics on straight paths from the base to the
data. A step takes one evaluation, no solve and no divergence. Use it where
these are dear: many dimensions, large networks. The flow is the same, and `fit`
can go on by likelihood after another `compile(optimizer)`. A comparison is in
[densities](../densities.md).

Data with a condition are dicts of `x` and `condition`: here the class. Dynamics
of time, state and condition get it: here a Functional model with these three
inputs. In place of the class you may put any features: a parameter, the output
of an encoder.
"""

# %%
inputs = [keras.Input((size,)) for size in (1, 2, 1)]
outputs = keras.layers.Concatenate()(inputs)
for units in (32, 32):
    outputs = keras.layers.Dense(units, "swish")(outputs)
outputs = keras.layers.Dense(2)(outputs)
conditional = keras_node.NormalizingFlow(
    keras_node.CNFBijector(keras.Model(inputs, outputs)),
    tfp.distributions.MultivariateNormalDiag(tf.zeros(2)),
)
conditional.compile(keras.optimizers.Adam(1e-2), objective="flow_matching")
data = {"x": x, "condition": label[:, None].astype("float32")}
history = conditional.fit(data, epochs=60, batch_size=128, verbose=0).history
print(f"regression: {history['loss'][0]:.2f} -> {history['loss'][-1]:.2f}")
assert history["loss"][-1] < history["loss"][0]

# %% [markdown]
"""
The loss of the regression does not tend to 0, and is no density:
`conditional.evaluate(data)` gives the nats. Samples of a class lie on its side,
the first above and the second below: their means are about those of the data.
"""

# %%
for value in (0.0, 1.0):
    samples = conditional.sample(500, condition=[value], seed=0)
    print(f"condition {value:g}: mean {np.mean(samples, axis=0).round(2)}")
    error = np.mean(samples, axis=0) - x[label == value].mean(axis=0)
    assert np.linalg.norm(error) < 0.4

# %% [markdown]
"""
Save a flow as any Keras model, `conditional.save("flow.keras")`, or
[serve](serving.md) its `log_prob` and `sample`.
"""
