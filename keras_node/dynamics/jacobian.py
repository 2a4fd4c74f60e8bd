"""Jacobians of dynamics, for methods whose steps solve linear systems."""

import itertools
import typing

import tensorflow as tf


class Linear(typing.NamedTuple):
    """Dynamics linearized at a time and a state, as vectors.

    Attributes:
        slope: `(batch, d)`, the derivative; `(d,)` for one system.
        jacobian: `(batch, d, d)` or `(d, d)`, its derivative by the state.
        by_time: As the slope, its derivative by time; 0 where the dynamics
            do not depend on it.
    """

    slope: tf.Tensor
    jacobian: tf.Tensor
    by_time: tf.Tensor


class Vectors:
    """The state as vectors: of each sample, or of one system.

    A state with a clock for each sample, or with a leaf that has a batch axis
    and others, is a batch of systems that do not interact: each leaf then has
    the batch as its first axis. Any other, such as one of shape `(3,)` with one
    clock, is one system.

    Args:
        t: Time per clock, or its spec.
        leaves: List of leaves, or their specs.
    """

    def __init__(self, t, leaves):
        ranks = [leaf.shape.rank for leaf in leaves]
        has_axes = max(ranks) >= 2 and min(ranks) >= 1
        self.is_batched = t.shape.rank == 1 or has_axes
        self._shapes = [leaf.shape[int(self.is_batched) :] for leaf in leaves]
        self._dtypes = [leaf.dtype for leaf in leaves]
        self.dtype = max(self._dtypes, key=lambda dtype: dtype.size)
        self._sizes = [shape.num_elements() for shape in self._shapes]
        if None in self._sizes:
            raise ValueError(
                "A solver for stiff dynamics must know the size of the state: "
                "only the batch may be unknown. Received: state of shapes "
                f"{[leaf.shape for leaf in leaves]}"
            )

    @property
    def _batch(self):
        return [-1] if self.is_batched else []

    def pack(self, leaves):
        """Returns leaves as vectors, `(batch, d)` or `(d,)`."""
        pairs = zip(leaves, self._sizes, strict=True)
        return tf.concat(
            [
                tf.reshape(tf.cast(leaf, self.dtype), [*self._batch, size])
                for leaf, size in pairs
            ],
            axis=-1,
        )

    def unpack(self, vectors):
        """Undoes `pack`.

        By slices: the second derivative of `tf.split` within `vectorized_map`
        does not compile under XLA where the batch is unknown.
        """
        ends = itertools.accumulate(self._sizes)
        parts = [
            vectors[..., end - size : end]
            for end, size in zip(ends, self._sizes, strict=True)
        ]
        return [
            tf.cast(tf.reshape(part, [*self._batch, *shape]), dtype)
            for part, shape, dtype in zip(
                parts, self._shapes, self._dtypes, strict=True
            )
        ]


def linearize(ode_fn, t, leaves, uses_time=True):
    """Returns dynamics as a `Linear`, with reverse-mode products in one batch.

    Args:
        ode_fn: Callable `(t, leaves) -> leaves`.
        t: Float tensor per clock.
        leaves: List of leaves.
        uses_time: Whether the dynamics depend on time.
    """
    vectors = Vectors(t, leaves)
    y = vectors.pack(leaves)
    with tf.GradientTape(
        persistent=True, watch_accessed_variables=False
    ) as tape:
        tape.watch(y)
        slope = vectors.pack(ode_fn(t, vectors.unpack(y)))
    by_time = tf.zeros_like(slope)
    if uses_time:
        by_time = _by_time(ode_fn, vectors, t, y)
    return Linear(slope, _jacobian(tape, slope, y), by_time)


def _jacobian(tape, slope, y):
    """Returns the products with all unit vectors, `(..., d, d)`.

    XLA must know their number, which `batch_jacobian` divides by the size of
    the batch to find.
    """

    def vjp(v):
        return tape.gradient(
            slope,
            y,
            output_gradients=v,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )

    size = slope.shape[-1]
    if 0 in slope.shape:
        return tf.zeros([*tf.unstack(tf.shape(slope)), size], slope.dtype)
    units = tf.eye(size, dtype=slope.dtype)
    if slope.shape.rank == 1:
        return tf.vectorized_map(vjp, units)
    rows = tf.vectorized_map(vjp, units[:, None] + tf.zeros_like(slope))
    return tf.transpose(rows, [1, 0, 2])


def _by_time(ode_fn, vectors, t, y):
    """Returns the derivative by time, from the product with any cotangent.

    `v . df/dt` is linear in `v`, and its derivative by `v` is `df/dt`: also
    where one time stands for all samples.
    """
    with tf.GradientTape(watch_accessed_variables=False) as outer:
        v = tf.zeros_like(y)
        outer.watch(v)
        with tf.GradientTape(watch_accessed_variables=False) as inner:
            inner.watch(t)
            slope = vectors.pack(ode_fn(t, vectors.unpack(y)))
        product = inner.gradient(
            slope,
            t,
            output_gradients=v,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
    return outer.gradient(
        product, v, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
