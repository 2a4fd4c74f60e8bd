"""Objectives: what a `NormalizingFlow` minimises in `fit`."""

import importlib
import numbers

import keras
import numpy as np
import tensorflow as tf

from keras_node.common import random_numbers, tf_internals
from keras_node.common.arguments import check_among
from keras_node.saving import identifiers

_COUPLINGS = ("independent", "optimal_transport")
_TIMES = ("uniform", "logit_normal")


class Objective(identifiers.Configurable):
    """Base class of the objectives."""


@keras.saving.register_keras_serializable(package="keras_node")
class Likelihood(Objective):
    """Maximum likelihood, the default: minimises the mean of `-log p(x)`.

    Each step solves the ODE, with the divergence of the dynamics.

    Reference:
    - [Chen et al., 2018, section 4](https://arxiv.org/abs/1806.07366)
    """

    citations = ("chen2018",)


@keras.saving.register_keras_serializable(package="keras_node")
class FlowMatching(Objective):
    """Regression of the vector field on straight paths from base to data.

    Minimises, over base samples `x0`, data `x1` and shares `s` of the way,

        E |f(t, x) - (x1 - x0) / (t1 - t0)|^2,
        x = (1 - s) x0 + s x1 + sigma e,    t = t0 + s (t1 - t0)

    with normal noise `e`, and `t0`, `t1` the times of the `CNFBijector`. The
    squares are summed over the event. The field that minimises it carries the
    base to the data, as one that was fitted by likelihood, both blurred by the
    noise; but no step solves the ODE, nor needs the divergence, an adjoint, or
    a density of the base.

    Dynamics get the time as `(batch,)`: a `t` for each sample. Regularizers of
    the bijector, which are integrals along a solve, count in likelihood
    training alone. Of a chain the dynamics are trained alone: other weights
    stay as they are, and Keras warns that they have no gradient.

    Args:
        coupling: `"independent"` (default) pairs each `x1` with any `x0`;
            `"optimal_transport"` pairs those of a batch so that the sum of
            `|x1 - x0|^2` is least, which straightens the paths: sampling takes
            fewer evaluations, and each step the time of one assignment, by
            SciPy, on the host. Not for conditional densities: the pairs of a
            batch then depend on the conditions, and the fitted densities are
            biased (Cheng & Schwing, 2025).
        sigma: Float, at least 0, the noise around the paths. Default 0.
        times: `"uniform"` (default), or `"logit_normal"`, whose shares `s` are
            the logistic function of a normal number: more of the middle.

    Raises:
        ValueError: If an argument is out of its range.
        ImportError: If the coupling needs SciPy, and it is not installed.

    Example:
    >>> field = keras_node.ConcatTime(keras.layers.Dense(2))
    >>> flow = keras_node.NormalizingFlow(
    ...     keras_node.CNFBijector(field),
    ...     tfp.distributions.MultivariateNormalDiag(tf.zeros(2)),
    ... )
    >>> flow.compile("adam", objective="flow_matching")
    >>> history = flow.fit(tf.random.normal((64, 2)), verbose=0)
    >>> flow.log_prob(tf.zeros((1, 2))).shape
    TensorShape([1])

    Reference:
    - [Lipman et al., 2023](https://arxiv.org/abs/2210.02747)
    - [Tong et al., 2024](https://arxiv.org/abs/2302.00482)
    - [Cheng & Schwing, 2025](https://arxiv.org/abs/2503.10636)
    """

    citations = ("lipman2023", "tong2024")
    _arguments = ("coupling", "sigma", "times")

    def __init__(self, coupling="independent", sigma=0.0, times="uniform"):
        check_among(coupling, "coupling", _COUPLINGS)
        check_among(times, "times", _TIMES)
        if isinstance(sigma, bool) or not (
            isinstance(sigma, numbers.Real) and 0.0 <= sigma < np.inf
        ):
            raise ValueError(
                "`sigma` must be a float, at least 0, the noise around the "
                f"paths. Received: sigma={sigma!r}"
            )
        self.coupling = coupling
        self.sigma = float(sigma)
        self.times = times
        if self.needs_scipy:
            _require_scipy()

    @property
    def needs_scipy(self):
        """Whether a step runs SciPy, on the host."""
        return self.coupling == "optimal_transport"

    def shares(self, size, dtype, seed):
        """Returns shares of the way between 0 and 1, `(size,)`.

        Args:
            size: Integer tensor.
            dtype: Float dtype.
            seed: Integer tensor `(2,)`.
        """
        if self.times == "logit_normal":
            return tf.sigmoid(random_numbers.normal([size], seed, dtype))
        return tf.random.stateless_uniform([size], seed, dtype=dtype)

    def coupled(self, x0, x1):
        """Returns `x0` in the order that pairs it with `x1`.

        Args:
            x0, x1: Float tensors `(batch, ...)`.
        """
        if self.coupling == "independent":
            return x0
        if tf_internals.in_xla():
            raise NotImplementedError(
                'coupling="optimal_transport" runs SciPy on the host, which '
                "XLA cannot compile: `compile(..., jit_compile=False)`. "
                "Received: a training step under XLA"
            )
        order = tf.numpy_function(
            _assignment, [_flat(x0), _flat(x1)], tf.int64, stateful=False
        )
        order = tf.ensure_shape(order, x0.shape[:1])
        return tf.ensure_shape(tf.gather(x0, order), x0.shape)

    def path(self, x0, x1, seed):
        """Returns points on the way of each pair.

        Args:
            x0, x1: Float tensors `(batch, ...)`, without an order.
            seed: Integer tensor `(2,)`.

        Returns:
            `(shares, points, velocities)`, the shares `(batch,)` of the way,
            the points there, and what to regress on: `x1 - x0`.
        """
        seeds = tf.unstack(tf.random.split(seed, 2))
        x0 = self.coupled(x0, x1)
        share = self.shares(tf.shape(x1)[0], x1.dtype, seeds[0])
        weight = tf.reshape(share, [-1] + [1] * (x1.shape.rank - 1))
        points = (1.0 - weight) * x0 + weight * x1
        if self.sigma:
            noise = random_numbers.normal(tf.shape(x1), seeds[1], x1.dtype)
            points += self.sigma * noise
        return share, points, x1 - x0


def _flat(x):
    return tf.reshape(x, [tf.shape(x)[0], -1])


def _require_scipy():
    try:
        return importlib.import_module("scipy.optimize")
    except ImportError as error:
        raise ImportError(
            'coupling="optimal_transport" needs SciPy: pip install scipy'
        ) from error


def _assignment(x0, x1):
    """Returns which row of `x0` belongs to each of `x1`, for the least cost."""
    x0, x1 = x0.astype("float64"), x1.astype("float64")
    # That of |x1 - x0|^2 but for what no order changes.
    cost = -x1 @ x0.T
    return _require_scipy().linear_sum_assignment(cost)[1].astype("int64")


_REGISTRY = {"likelihood": Likelihood, "flow_matching": FlowMatching}


def get(identifier):
    """Returns the objective that an identifier stands for.

    Args:
        identifier: `"likelihood"` or `"flow_matching"`; a config dict as
            `serialize` makes it; or an `Objective`.

    Raises:
        ValueError: If a name is unknown.
        TypeError: If it is none of these.
    """
    return identifiers.get(identifier, _REGISTRY, "objective", Objective)


def serialize(objective):
    """Returns the config dict of an objective."""
    return identifiers.serialize(objective, "objective")
