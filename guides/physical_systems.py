# %% [markdown]
"""
# Physical systems

An equation of motion is known but for some numbers. `keras_node.odeint` solves
it, and its gradient finds them.

You learn to

- fit parameters to noisy observations,
- declare jumps, such as a force that is switched off, and learn their times,
- end a solve at an event,
- solve stiff systems,
- go on to a posterior.
"""

# %%
import keras
import numpy as np
import tensorflow as tf

import keras_node

# %% [markdown]
"""
## Parameters

A mass on a spring with friction: `dx/dt = v`, `dv/dt = -k x - c v`. Twenty
noisy observations of `x` are all there is.

The parameters are variables that the dynamics close over. They are learned by
their logarithms, so that they stay positive. In place of the two formulas you
may put your own right-hand side, or a network for the part that is unknown.
"""

# %%
rng = np.random.default_rng(0)
times = np.linspace(0.0, 6.0, 21)
y0 = tf.constant([1.0, 0.0], tf.float64)
true_k, true_c = 2.0, 0.4


def spring(k, c):
    def f(t, y):
        x, v = tf.unstack(y, axis=-1)
        return tf.stack([v, -k * x - c * v], axis=-1)

    return f


def solve(k, c, times=times):
    return keras_node.odeint(spring(k, c), y0, times)


exact = solve(true_k, true_c).states[:, 0]
observed = exact + 0.03 * rng.normal(size=len(times))
log_parameters = tf.Variable(np.log([1.0, 1.0]))

# %% [markdown]
"""
The solve is differentiable, so any optimizer will do: one of Keras, as here, or
`tfp.optimizer.bfgs_minimize`.
"""


# %%
@tf.function
def gradient_of_loss():
    with tf.GradientTape() as tape:
        k, c = tf.unstack(tf.exp(log_parameters))
        loss = tf.reduce_mean((solve(k, c).states[:, 0] - observed) ** 2)
    return loss, tape.gradient(loss, log_parameters)


optimizer = keras.optimizers.Adam(0.1)
losses = []
for _ in range(60):
    loss, gradient = gradient_of_loss()
    optimizer.apply([gradient], [log_parameters])
    losses.append(float(loss))
k, c = np.exp(log_parameters.numpy())
print(f"k = {k:.2f} (true {true_k}), c = {c:.2f} (true {true_c})")
assert losses[-1] < 0.1 * losses[0]
assert abs(k - true_k) < 0.1 and abs(c - true_c) < 0.1

# %% [markdown]
"""
Both are found to the accuracy of the data. Along many periods this fails, for
plain training then finds the mean: see [long horizons](../long-horizons.md).
"""

# %%
fine = np.linspace(0.0, 6.0, 121)
ax = keras_node.visualize.trajectories(
    fine, solve(k, c, fine).states, labels=["x", "v"]
)
ax.plot(times, observed, "k.", label="observed")
ax.legend()

# %% [markdown]
"""
## Jumps

A force of 1 pushes the mass until it is switched off. The solver has to be told
when: `jump_times` end a step there, and let the gradient flow to that time.
What follows asks how the last position depends on it.

In place of the switch you may put doses, or data: `keras_node.interpolation`
makes paths through observations ([jumps and inputs](../jumps.md)).
"""

# %%
off = tf.Variable(1.3, dtype=tf.float64)


def pushed(t, y):
    force = tf.where(t < off, tf.ones_like(t), tf.zeros_like(t))
    return spring(k, c)(t, y) + force * tf.constant([0.0, 1.0], y.dtype)


def last_position():
    results = keras_node.odeint(
        pushed, y0, (0.0, 3.0), jump_times=tf.stack([off])
    )
    return results.states[-1, 0]


with tf.GradientTape() as tape:
    position = last_position()
slope = float(tape.gradient(position, off))
off.assign_add(0.01)
difference = float(last_position() - position) / 0.01
print(f"slope {slope:.3f}, by a difference {difference:.3f}")
assert abs(slope - difference) < 0.02

# %% [markdown]
"""
## Events

When does the mass first pass 0? An `Event` is a zero of a condition, and ends
the solve; its time is differentiable, too. Events belong to samples, so that
the state has a batch axis: here two masses, of which one is released from half
the height. The time of a linear spring does not depend on it.
"""

# %%
passing = keras_node.Event(lambda t, y: y[:, 0], direction=-1)
starts = y0 * tf.constant([[1.0], [0.5]], tf.float64)
results = keras_node.odeint(spring(k, c), starts, (0.0, 6.0), events=passing)
print("passes 0 at", np.round(results.event_times, 3))
np.testing.assert_allclose(results.event_times[0], results.event_times[1], 1e-3)

# %% [markdown]
"""
With `terminal=False` and a `reset` the solve goes on from another state: a ball
that bounces ([events](../events.md)).

## Stiff systems

With strong friction the velocity settles a thousand times faster than the
position moves. An explicit solver must take small steps, though nothing
happens: such a system is stiff. `"rodas5p"` solves linear systems instead. Use
it for states of few dimensions, in float64.
"""

# %%
nfe = {}
for solver in ("tsit5", "rodas5p"):
    results = keras_node.odeint(spring(1e3, 1e3), y0, (0.0, 1.0), solver)
    nfe[solver] = int(results.diagnostics.num_ode_fn_evaluations)
    print(
        f"{solver}: x = {results.states[-1, 0]:.4f}, {nfe[solver]} evaluations"
    )
assert nfe["rodas5p"] < 0.5 * nfe["tsit5"]

# %% [markdown]
"""
## A posterior

A fit is one point. For all parameters that the data allow, give the solve to a
sampler of TensorFlow Probability, with a prior and a distribution of the noise:
`windowed_adaptive_nuts` takes the exact gradient, and with
`Tsit5(per_sample_steps=True, on_failure="nan")` each chain has steps of its
own. [Parameters with posteriors](../posteriors.md) does this for hares and
lynx.
"""
