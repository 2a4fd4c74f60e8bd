"""Worker of `spirals.py`: the neural CDE of diffrax.

Reads `{"start": seed}`, `{"step": 1}` and `{"accuracy": 1}`, a line each.
"""

import json
import sys

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import spirals_data as data


class CDE(eqx.Module):
    """A field of one hidden layer, driven by a Hermite path."""

    initial: eqx.nn.Linear
    field: eqx.nn.MLP
    head: eqx.nn.Linear

    def __init__(self, key):
        a, b, c = jax.random.split(key, 3)
        self.initial = eqx.nn.Linear(3, data.UNITS, key=a)
        self.field = eqx.nn.MLP(
            data.UNITS,
            data.UNITS * 3,
            data.WIDTH,
            1,
            jax.nn.softplus,
            jnp.tanh,
            key=b,
        )
        self.head = eqx.nn.Linear(data.UNITS, 1, key=c)

    def __call__(self, times, values):
        points = jnp.concatenate([times[:, None], values], axis=-1)
        path = diffrax.CubicInterpolation(
            times, diffrax.backward_hermite_coefficients(times, points)
        )
        term = diffrax.ControlTerm(
            lambda t, y, args: self.field(y).reshape(data.UNITS, 3), path
        ).to_ode()
        solution = diffrax.diffeqsolve(
            term,
            diffrax.Tsit5(),
            times[0],
            times[-1],
            None,
            self.initial(points[0]),
            stepsize_controller=diffrax.PIDController(rtol=1e-3, atol=1e-6),
        )
        return self.head(solution.ys[-1])[0]


def loss(model, times, values, labels):
    logits = jax.vmap(model)(times, values)
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, labels))


class Training:
    """A model in training."""

    def __init__(self, seed):
        self.model = CDE(jax.random.key(seed))
        self._optimizer = optax.adam(data.RATE)
        arrays = eqx.filter(self.model, eqx.is_inexact_array)
        self._state = self._optimizer.init(arrays)
        self._data = data.spirals(data.COUNT, seed)
        self._tested = data.spirals(data.COUNT, seed + 1000)
        self._batches = data.batches(seed)
        self._update = eqx.filter_jit(self._updated)

    def _updated(self, model, state, values, times, labels):
        gradients = eqx.filter_grad(loss)(model, times, values, labels)
        updates, state = self._optimizer.update(gradients, state)
        return eqx.apply_updates(model, updates), state

    def step(self):
        """Takes one step of training."""
        rows = next(self._batches)
        batch = [array[rows] for array in self._data]
        self.model, self._state = jax.block_until_ready(
            self._update(self.model, self._state, *batch)
        )

    def accuracy(self):
        """Returns the accuracy on spirals held out."""
        values, times, labels = self._tested
        logits = jax.vmap(self.model)(times, values)
        return float(jnp.mean((logits > 0) == labels))


def main():
    training = None
    for line in sys.stdin:
        request = json.loads(line)
        answer = {}
        if "start" in request:
            training = Training(request["start"])
        elif "step" in request:
            training.step()
        else:
            answer = {"accuracy": training.accuracy()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
