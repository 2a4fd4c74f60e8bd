# %% [markdown]
"""
# Continuous-depth networks

A residual network adds `f(y)` to its state in each layer. A network of
continuous depth follows `dy/dt = f(t, y)` instead, and a solver chooses how
often to evaluate `f`.

You learn to

- put an `ODELayer` into a classifier, and read its number of function
  evaluations (NFE) in `fit`,
- trade accuracy for time with the tolerance,
- use extra dimensions and regularizers,
- save the model, and load it again.
"""

# %%
import pathlib
import tempfile

import keras
import numpy as np

import keras_node

keras.utils.set_random_seed(0)

# %% [markdown]
"""
## Data

A disk, and a ring around it.
"""

# %%
rng = np.random.default_rng(0)
angle = rng.uniform(0.0, 2 * np.pi, 512)
label = rng.integers(0, 2, 512)
radius = rng.uniform(0.0, 0.7, 512) + label
x = (radius * [np.cos(angle), np.sin(angle)]).T.astype("float32")

# %% [markdown]
"""
## A layer in a classifier

The dynamics are a Keras layer whose output has the shape of its input. In their
place you may put any Keras layer or model of `y`, one of `(t, y)`, or a
function `f(t, y)`. `keras_node.ConcatTime(net)` gives the time to a network.

Trajectories do not cross, so in the plane what is inside a ring stays inside,
and no linear layer separates it. `Augment` appends zeros to the state: two
dimensions more, in which the disk leaves the plane. Without it, which is
`num_extra=0` here, the classifier cannot be right everywhere.
"""


# %%
def make_classifier(num_extra=2, regularizers=None):
    field = keras.Sequential(
        [keras.layers.Dense(16, "tanh"), keras.layers.Dense(2 + num_extra)]
    )
    augment = [keras_node.Augment(num_extra)] if num_extra else []
    model = keras.Sequential(
        [
            keras.Input((2,)),
            *augment,
            keras_node.ODELayer(field, regularizers=regularizers, name="ode"),
            keras.layers.Dense(1),
        ]
    )
    model.compile(
        keras.optimizers.Adam(2e-2),
        keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0)],
    )
    return model


model = make_classifier()
history = model.fit(x, label, epochs=20, batch_size=128, verbose=0)
logs = history.history
for name in ("loss", "accuracy", "ode_nfe", "ode_nfe_backward"):
    print(f"{name:18}{logs[name][0]:8.2f} ->{logs[name][-1]:8.2f}")
assert logs["loss"][-1] < 0.5 * logs["loss"][0]

# %% [markdown]
"""
The loss falls and the accuracy rises to about 1. `ode_nfe` is the mean of the
evaluations of a forward pass, and grows as the dynamics learn more. The
backward pass evaluates nothing here: it uses the activations that the forward
pass has kept, and takes steps again only where they exceed a limit of memory.

The gradient is that of the steps taken, exact to rounding. For other ways, put
`adjoint="backsolve"` or `"direct"` into the layer ([adjoints](../adjoints.md)).
"""

# %%
keras_node.visualize.nfe_history(history)

# %% [markdown]
"""
## The tolerance is the dial

An adaptive solver takes the steps that keep its error estimate below `atol +
rtol |y|`. Loosen `rtol` for speed, tighten it for accuracy, also after
training. Below, the trained dynamics are solved at three tolerances and
compared with a tight one.
"""

# %%
ode = model.get_layer("ode")
y0 = keras_node.Augment(2)(x)


def solve(rtol):
    solver = keras_node.solvers.Tsit5(rtol=rtol, atol=0.1 * rtol)
    results = keras_node.odeint(ode.dynamics, y0, ode.times, solver)
    nfe = int(results.diagnostics.num_ode_fn_evaluations)
    return np.array(results.states[-1]), nfe


exact, _ = solve(1e-6)
errors = []
for rtol in (1e-1, 1e-2, 1e-4):
    y, nfe = solve(rtol)
    errors.append(np.abs(y - exact).max())
    print(f"rtol {rtol:g}: {nfe} evaluations, error {errors[-1]:.0e}")
assert errors[2] < errors[0]

# %% [markdown]
"""
Each digit costs some evaluations more. In a layer the tolerance is an argument
of its solver: `solver=keras_node.solvers.Tsit5(rtol=1e-4)`. In place of `Tsit5`
you may put any of the [solvers](../solvers.md); `RK4(step_size=0.1)` has a
fixed cost. `callbacks.ToleranceSchedule` turns the dial by epochs, and
`diagnostics.work_precision(model, x)` is a table of solvers and tolerances.

## Regularizers

Dynamics that are hard to solve cost evaluations. `KineticEnergy` penalizes long
paths, `JacobianFrobenius` dynamics that change quickly in space; both are
integrals, computed in the same solve, and metrics of `fit`.
"""

# %%
keras.utils.set_random_seed(0)  # The same initial weights.
calm = make_classifier(
    regularizers=[keras_node.regularizers.KineticEnergy(0.05)]
)
calm_logs = calm.fit(x, label, epochs=20, batch_size=128, verbose=0).history
for name in ("accuracy", "ode_nfe", "ode_kinetic_energy"):
    print(f"{name:18}{calm_logs[name][0]:8.2f} ->{calm_logs[name][-1]:8.2f}")
assert calm_logs["ode_nfe"][-1] < logs["ode_nfe"][-1]

# %% [markdown]
"""
As accurate, with fewer evaluations. The argument is the weight of the penalty.

## Saving

A `.keras` file holds the architecture, the weights, the optimizer's state, and
the settings of solver and adjoint. Training goes on where it stopped.
"""

# %%
with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "classifier.keras"
    model.save(path)
    again = keras.saving.load_model(path)
np.testing.assert_array_equal(model(x[:8]), again(x[:8]))

# %% [markdown]
"""
A function as dynamics must be registered with Keras to be saved:
`@keras.saving.register_keras_serializable(package="...")`. To serve a model see
[serving and scaling](serving.md).
"""
