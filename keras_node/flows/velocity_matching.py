"""Flow matching of the `CNFBijector` in a chain of bijectors."""

import typing

import tensorflow as tf
import tensorflow_probability as tfp

from keras_node.flows.cnf_bijector import CNFBijector


class Part(typing.NamedTuple):
    """A bijector on the way from base to data.

    Attributes:
        bijector: A tfp bijector that is neither a chain nor an inverse.
        is_inverted: Whether its inverse is applied.
    """

    bijector: tfp.bijectors.Bijector
    is_inverted: bool

    def towards_data(self, z):
        """Takes points one bijector on."""
        apply = self.bijector
        return apply.inverse(z) if self.is_inverted else apply.forward(z)

    def towards_base(self, x):
        """Takes points one bijector back."""
        apply = self.bijector
        return apply.forward(x) if self.is_inverted else apply.inverse(x)


class VelocityMatching:
    """Regression losses of the dynamics in a bijector.

    Args:
        bijector: A `CNFBijector`, or a `tfb.Chain` or `tfb.Invert` with one.
        base_distribution: A distribution that can be sampled.
        objective: `keras_node.objectives.FlowMatching`.

    Raises:
        ValueError: If there is none, or more than one.
    """

    def __init__(self, bijector, base_distribution, objective):
        parts = _parts_of(bijector)
        places = [
            place
            for place, part in enumerate(parts)
            if isinstance(part.bijector, CNFBijector)
        ]
        if len(places) != 1:
            raise ValueError(
                'objective="flow_matching" needs exactly one `CNFBijector`, '
                "by itself or in a `tfb.Chain`: its paths go from the base to "
                "the data. "
                f"Received: {len(places)} of them in bijector={bijector}"
            )
        (place,) = places
        self._before, self._after = parts[:place], parts[place + 1 :]
        self._cnf, is_inverted = parts[place]
        first, last = self._cnf.times[0], self._cnf.times[-1]
        self._times = (last, first) if is_inverted else (first, last)
        self._base_distribution = base_distribution
        self._objective = objective

    def losses(self, x, condition, training, seed):
        """Returns the squared error of each sample, `(batch,)`.

        Args:
            x: Float tensor `(batch, event)`, data.
            condition: Float tensor `(batch, features)`, or `None`.
            training: Boolean, passed to the dynamics.
            seed: Integer tensor `(2,)`.

        Raises:
            ValueError: If the coupling would bias a conditional density, or
                the events of base and data differ.
        """
        if condition is not None and self._objective.coupling != "independent":
            raise ValueError(
                "Optimal transport within a batch biases conditional "
                "densities: which base sample belongs to a condition would "
                "depend on the others. Use `FlowMatching()`, with the coupling "
                f'"independent". Received: coupling='
                f"{self._objective.coupling!r}, condition={condition}"
            )
        seeds = tf.unstack(tf.random.split(seed, 2))
        x0 = self._base_distribution.sample(tf.shape(x)[0], seed=seeds[0])
        for part in self._before:
            x0 = part.towards_data(x0)
        for part in self._after[::-1]:
            x = part.towards_base(x)
        # Only the dynamics are regressed; others could make the task trivial.
        x0, x1 = tf.stop_gradient(x0), tf.stop_gradient(x)
        if not x0.shape[1:].is_compatible_with(x1.shape[1:]):
            raise ValueError(
                "Base and data must have events of one shape, where the "
                "`CNFBijector` is in the chain. "
                f"Received: {x0.shape[1:]} and {x1.shape[1:]}"
            )
        share, points, way = self._objective.path(x0, x1, seeds[1])
        first, last = self._times
        velocity = self._cnf.velocity(
            first + share * (last - first), points, condition, training
        )
        errors = tf.square(velocity - way / (last - first))
        return tf.reduce_sum(errors, axis=list(range(1, errors.shape.rank)))


def _parts_of(bijector, is_inverted=False):
    """Returns the `Part`s, from base to data."""
    if isinstance(bijector, CNFBijector):
        return [Part(bijector, is_inverted)]
    if hasattr(bijector, "bijector"):  # `tfb.Invert`.
        return _parts_of(bijector.bijector, not is_inverted)
    # `tfb.Chain(...)` may make a `_Chain`, the base class of the public one.
    if type(bijector).__name__.lstrip("_") != "Chain":
        return [Part(bijector, is_inverted)]
    # A chain applies its last bijector first; its inverse the first.
    order = bijector.bijectors if is_inverted else bijector.bijectors[::-1]
    return [part for b in order for part in _parts_of(b, is_inverted)]
