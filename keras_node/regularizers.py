"""Regularizers: penalties on dynamics, integrated along the solution."""

import keras
import tensorflow as tf

from keras_node.common.arguments import is_nonnegative
from keras_node.common.state import solved_dtype
from keras_node.dynamics import probe_noise
from keras_node.saving import identifiers


class Regularizer(identifiers.Configurable):
    """Base class of penalties `weight * mean over the batch of int g dt`.

    The integral is part of the layer's solve, but not of its error control:
    outputs, log-dets and steps are the same without it. It counts as positive
    along reversed times, too.

    Args:
        weight: Float, at least 0, the factor in the loss.

    Raises:
        ValueError: If an argument is out of its range.
    """

    _arguments = ("weight",)
    name = None
    needs_probes = False

    def __init__(self, weight=0.01):
        if not is_nonnegative(weight):
            raise ValueError(
                f"`weight` must be a float, at least 0. Received: {weight=}"
            )
        self.weight = float(weight)

    def rate(self, linearization):
        """Returns `g` of each sample, `(batch,)`.

        Args:
            linearization: `Linearization` of the dynamics.
        """
        raise NotImplementedError


@keras.saving.register_keras_serializable(package="keras_node")
class KineticEnergy(Regularizer):
    """The kinetic energy `int |f(t, y)|^2 dt`, which favours short paths.

    The square is summed over the state. Paths of least energy are straight
    lines at constant speed, which solvers follow in few steps.

    Args:
        weight: Float, at least 0. Default 0.01.

    Example:
    >>> layer = keras_node.ODELayer(
    ...     keras.layers.Dense(4, "tanh"),
    ...     regularizers=[keras_node.regularizers.KineticEnergy(0.1)],
    ... )
    >>> layer(tf.ones((8, 4))).shape, len(layer.losses)
    (TensorShape([8, 4]), 1)

    Reference:
    - [Finlay et al., 2020, eq. 9](https://arxiv.org/abs/2002.02798)
    """

    citations = ("finlay2020",)
    name = "kinetic_energy"

    def rate(self, linearization):
        """Returns `|f|^2` of each sample, `(batch,)`."""
        return _sum_of_squares(linearization.derivative, 1)


@keras.saving.register_keras_serializable(package="keras_node")
class JacobianFrobenius(Regularizer):
    """The integral of the Jacobian's squared Frobenius norm, `|df/dy|_F^2`.

    Estimated without bias as `|v^T df/dy|^2`, for noise `v` that stays the
    same throughout a solve: that of the flow's trace estimator, if it has
    any, or else separate noise, drawn anew for each solve in training.

    Args:
        weight: Float, at least 0. Default 0.01.
        seed: Integer for the same noise in every run, or `None` (default) to
            draw one.

    Reference:
    - [Finlay et al., 2020, eq. 10](https://arxiv.org/abs/2002.02798)
    """

    citations = ("finlay2020",)
    _arguments = ("weight", "seed")
    name = "jacobian_frobenius"
    needs_probes = True

    def __init__(self, weight=0.01, seed=None):
        super().__init__(weight)
        self.seed = probe_noise.as_seed(seed)

    def sample_probes(self, y, key):
        """Returns the noise of one solve, `(1, batch, ...)`, like `y`."""
        leaves = [
            probe_noise.sample_like(leaf, 1, "rademacher", self.seed ^ i, key)
            for i, leaf in enumerate(tf.nest.flatten(y))
        ]
        return tf.nest.pack_sequence_as(y, leaves)

    def rate(self, linearization):
        """Returns the estimate for each sample, `(batch,)`."""
        squares = _sum_of_squares(linearization.probe_products, 2)
        return tf.reduce_mean(squares, axis=0)


def _sum_of_squares(structure, first_axis):
    """Sums squares over all leaves, and their axes from `first_axis` on."""
    leaves = tf.nest.flatten(structure)
    dtype = solved_dtype(leaves[0].dtype)
    return tf.add_n(
        [
            tf.reduce_sum(
                tf.square(tf.cast(leaf, dtype)),
                axis=list(range(first_axis, leaf.shape.rank)),
            )
            for leaf in leaves
        ]
    )


_REGISTRY = {
    "kinetic_energy": KineticEnergy,
    "jacobian_frobenius": JacobianFrobenius,
}


def get(regularizers):
    """Returns the list of regularizers that a layer's argument stands for.

    Args:
        regularizers: `None`; or a list of names (`"kinetic_energy"`,
            `"jacobian_frobenius"`), config dicts or `Regularizer`s.

    Raises:
        ValueError: If a name is unknown.
        TypeError: If it is not a list, or an item is not a regularizer.
    """
    if regularizers is None:
        return []
    if not isinstance(regularizers, (list, tuple)):
        raise TypeError(
            "`regularizers` must be a list, such as [KineticEnergy(0.01)]. "
            f"Received: regularizers={regularizers!r}"
        )
    return [
        identifiers.get(identifier, _REGISTRY, "regularizers", Regularizer)
        for identifier in regularizers
    ]


def serialize(regularizers):
    """Returns the config dicts of a list of regularizers."""
    return [identifiers.serialize(r, "regularizers") for r in regularizers]
