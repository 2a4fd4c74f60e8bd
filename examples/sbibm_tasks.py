"""Four tasks of simulation-based inference: priors and simulators.

Two moons, Gaussian mixture, SLCP and SIR of the benchmark sbibm, in NumPy and,
where an epidemic spreads, with `keras_node.odeint`. Observations and reference
draws are read from the folder of its wheel.

Reference:
- [Lueckmann et al., 2021, appendix T](https://arxiv.org/abs/2101.04653)
"""

import pathlib
import typing

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import keras_node

tfb = tfp.bijectors

NUM_OBSERVATIONS = 10
POPULATION, TRIALS = 1e6, 1000
# Every 17th of 160 days.
DAYS = np.arange(0.0, 161.0, 17.0)


class Uniform(typing.NamedTuple):
    """A prior of independent uniform numbers in (-bound, bound)."""

    bound: float
    size: int

    def draw(self, count, rng):
        return rng.uniform(-self.bound, self.bound, (count, self.size))

    @property
    def bijector(self):
        """Takes any numbers into the bounds; a line but near them."""
        return tfb.Chain(
            [
                tfb.Scale(self.bound),
                tfb.SoftClip(-1.0, 1.0, hinge_softness=0.01),
                tfb.Scale(3**-0.5),
            ]
        )


class LogNormal(typing.NamedTuple):
    """A prior of independent lognormal numbers."""

    median: tuple
    scale: tuple

    @property
    def size(self):
        return len(self.median)

    def draw(self, count, rng):
        normal = rng.normal(size=(count, self.size))
        return self.median * np.exp(normal * self.scale)

    @property
    def bijector(self):
        """Takes standard normal numbers to the prior."""
        median, scale = np.float32(self.median), np.float32(self.scale)
        return tfb.Chain([tfb.Scale(median), tfb.Exp(), tfb.Scale(scale)])


def two_moons(parameters, rng):
    """A crescent, moved by parameters up to a reflection."""
    angle = rng.uniform(-np.pi / 2, np.pi / 2, len(parameters))
    radius = rng.normal(0.1, 0.01, len(parameters))
    first, second = parameters.T
    x = radius * np.cos(angle) + 0.25 - np.abs(first + second) / np.sqrt(2)
    y = radius * np.sin(angle) + (second - first) / np.sqrt(2)
    return np.stack([x, y], axis=1)


def gaussian_mixture(parameters, rng):
    """A mean, seen with a noise that is wide or narrow."""
    scale = rng.choice([1.0, 0.1], (len(parameters), 1))
    return parameters + scale * rng.normal(size=parameters.shape)


def slcp(parameters, rng):
    """Four points of a normal distribution in the plane: five parameters."""
    mean = parameters[:, None, :2]
    scale = np.square(parameters[:, None, 2:4])
    correlation = np.tanh(parameters[:, 4:])
    first, second = np.moveaxis(rng.normal(size=(len(parameters), 4, 2)), 2, 0)
    second = correlation * first + np.sqrt(1 - correlation**2) * second
    points = mean + scale * np.stack([first, second], axis=2)
    # Their covariance has 1e-6 on its diagonal besides.
    points += rng.normal(scale=1e-3, size=points.shape)
    return points.reshape(len(parameters), 8)


def infected(parameters):
    """Returns the infected share of the population at `DAYS`, `(n, 10)`.

    Args:
        parameters: `(n, 2)`, the rates of contact and recovery, per day.
    """
    contact, recovery = tf.unstack(tf.constant(parameters, tf.float64), axis=1)

    def f(t, y):
        susceptible, ill = tf.unstack(y, axis=1)
        new = contact * susceptible * ill
        return tf.stack([-new, new - recovery * ill], axis=1)

    start = tf.constant([1 - 1 / POPULATION, 1 / POPULATION], tf.float64)
    solver = keras_node.solvers.Tsit5(
        rtol=1e-6, atol=1e-10, per_sample_steps=True
    )
    start = tf.tile(start[None], [len(parameters), 1])
    return keras_node.odeint(f, start, DAYS, solver).states[..., 1].numpy().T


def sir(parameters, rng):
    """Infected people among a thousand, on ten days."""
    share = np.clip(infected(parameters), 0.0, 1.0)
    return rng.binomial(TRIALS, share).astype("float64")


def _unchanged(x):
    return x


def _stabilized(counts):
    """Takes counts to where their noise is about one, small or large."""
    return 2 * np.sqrt(TRIALS) * np.arcsin(np.sqrt(counts / TRIALS))


class Task(typing.NamedTuple):
    """A task of simulation-based inference.

    Attributes:
        prior: `Uniform` or `LogNormal`.
        simulate: Function of parameters `(n, prior.size)` and a NumPy
            generator that returns data.
        features: Function of data, what a network is to see of them.
    """

    prior: typing.Any
    simulate: typing.Callable
    features: typing.Callable = _unchanged

    def draw(self, count, seed):
        """Returns parameters of the prior and their data, float32."""
        rng = np.random.default_rng(seed)
        parameters = self.prior.draw(count, rng)
        data = self.simulate(parameters, rng)
        return parameters.astype("float32"), data.astype("float32")


TASKS = {
    "two_moons": Task(Uniform(1.0, 2), two_moons),
    "gaussian_mixture": Task(Uniform(10.0, 2), gaussian_mixture),
    "slcp": Task(Uniform(3.0, 5), slcp),
    "sir": Task(LogNormal((0.4, 0.125), (0.5, 0.2)), sir, _stabilized),
}


def load(folder, name, number):
    """Reads an observation `(1, n)` and its draws, `(10000, num_parameters)`.

    Args:
        folder: The folder `sbibm` of the wheel, unpacked.
        name: A key of `TASKS`.
        number: Integer from 1 to 10.
    """
    path = pathlib.Path(folder, "tasks", name, "files")
    path = path / f"num_observation_{number}"
    if not path.is_dir():
        raise FileNotFoundError(
            "`--sbibm` must be the folder `sbibm` of the unpacked wheel: pip "
            "download sbibm --no-deps, and unzip it. "
            f"Received: no folder {path}"
        )
    return [
        np.loadtxt(path / file, "float32", delimiter=",", skiprows=1, ndmin=2)
        for file in ("observation.csv", "reference_posterior_samples.csv.bz2")
    ]
