"""Linearization of a vector field at a point: value and Jacobian products."""

import functools

import tensorflow as tf

from keras_node.dynamics.derivative_checks import check_derivative


class Linearization:
    """A vector field at a point, and products with its Jacobian there.

    Args:
        ode_fn: Callable `(t, y) -> dy/dt`, independent for each sample; or
            `(t, y) -> (dy/dt, find_divergence)`.
        t: Float tensor, the time.
        y: Float tensor `(batch, ...)`, the state, or a nested structure.
        probes: Tensors `(k, batch, ...)` in the structure of `y`, the noise
            of trace estimates; `None` (default) without estimates.
        has_divergence: Whether `ode_fn` also returns a function without
            arguments that finds the divergence. Default `False`.

    Attributes:
        derivative: `f(t, y)`, in the structure, shapes and dtypes of `y`.
        closed_divergence: The divergence that was found so, `(batch,)`, or
            `None`.
        probes: As above.

    Raises:
        ValueError: If the derivative does not match the state.
    """

    def __init__(self, ode_fn, t, y, probes=None, has_divergence=False):
        self.probes = probes
        self._y = tf.nest.map_structure(tf.identity, y)
        with tf.GradientTape(
            persistent=True, watch_accessed_variables=False
        ) as self._tape:
            self._tape.watch(self._y)
            found = ode_fn(t, self._y)
            derivative = found[0] if has_divergence else found
            derivative = check_derivative(derivative, y)
            self.derivative = tf.nest.map_structure(
                lambda slope, leaf: tf.cast(slope, leaf.dtype), derivative, y
            )
        # No product with the Jacobian needs what the tape would see of it.
        self.closed_divergence = found[1]() if has_divergence else None

    def vjp(self, cotangents):
        """Returns `v^T df/dy` of each `v` in `cotangents`, in one batch.

        Args:
            cotangents: Tensors `(k, batch, ...)` in the structure of the
                state, `k` known.
        """
        if tf.nest.flatten(cotangents)[0].shape[0] == 1:
            # `vectorized_map` of one costs as much to trace as of many.
            only = tf.nest.map_structure(lambda v: v[0], cotangents)
            return tf.nest.map_structure(lambda v: v[None], self._vjp(only))
        return tf.vectorized_map(self._vjp, cotangents)

    @functools.cached_property
    def probe_products(self):
        """The `vjp` of the probes, which several estimates may share."""
        return self.vjp(self.probes)

    def _vjp(self, cotangent):
        return self._tape.gradient(
            self.derivative,
            self._y,
            output_gradients=cotangent,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
