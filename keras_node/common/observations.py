"""`Observations`: irregular time series, checked and free of gaps and NaN."""

import typing

import tensorflow as tf

from keras_node.common import observation_checks
from keras_node.common.conversion import as_floats, as_tensor

_KEYS = ("values", "times", "mask", "targets")
# Times of the whole batch, with a batch axis for Keras to cut batches.
SHARED = "shared_times"


class Observations(typing.NamedTuple):
    """A batch of time series, harmless also where nothing is observed.

    Attributes:
        values: Float `(batch, T, D)`, 0 where not observed.
        times: Float64 `(T,)` of the whole batch, or `(batch, T)`; sorted;
            where nothing is observed, the time of a neighbour.
        mask: Boolean `(batch, T, D)`, what is observed.
        observed: Boolean `(batch, T)`, when something is observed.
    """

    values: tf.Tensor
    times: tf.Tensor
    mask: tf.Tensor
    observed: tf.Tensor

    def own_times(self, initial_time):
        """Returns the times of each sample, float64 `(batch, T)`, sorted.

        Where it observed nothing, that of its observation before; of one that
        never did, `initial_time`.
        """
        times = tf.broadcast_to(self.times, tf.shape(self.observed))
        return _fill(times, self.observed, initial_time)

    def encoder_inputs(self, initial_time):
        """Returns features `(batch, T, 2 D + 1)`: values, mask, time gap.

        The gap is that since the observation before, or, for the first one,
        since `initial_time`. A network that runs backwards thus sees how far
        away its next input is, and in total at what time it began.
        """
        dtype = self.values.dtype
        # Each sample observes only some of the times that all share.
        times = self.own_times(initial_time)
        seen = tf.cumsum(tf.cast(self.observed, tf.int32), 1, exclusive=True)
        before = tf.concat([times[:, :1], times[:, :-1]], axis=1)
        before = tf.where(seen > 0, before, initial_time)
        gaps = tf.where(self.observed, times - before, 0.0)
        return tf.concat(
            [
                self.values,
                tf.cast(self.mask, dtype),
                tf.cast(gaps, dtype)[..., None],
            ],
            axis=-1,
        )


def observations_of(inputs, observation_dim, initial_time, dtype, window=None):
    """Returns the `Observations` in a model's input.

    Args:
        inputs: Dict of `values`, `times` and, optionally, `mask`, as
            `LatentODE` describes them.
        observation_dim: Integer, the features of an observation. With 0, the
            values may be missing.
        initial_time: Float, the time of a sample without observations.
        dtype: Float dtype to cast values to.
        window: Tuple of two floats that the times must not leave, or `None`.

    Raises:
        ValueError: If a shape does not fit the others, or, eagerly, the
            times are not sorted or an observed value is not finite.
        tf.errors.InvalidArgumentError: In a graph, for the last two.
    """
    check_keys(inputs)
    times, is_shared = times_in(inputs)
    values = _values_of(inputs, times, observation_dim, dtype)
    mask = inputs.get("mask")
    if mask is not None:
        mask = as_tensor(mask, "mask", "a boolean tensor, or what makes one")
    observation_checks.check_shapes(values, times, mask)
    mask, observed = _masks_of(mask, values)
    # A time that all share is needed if any sample is observed then.
    needed = tf.reduce_any(observed, axis=0) if is_shared else observed
    filled = _fill(tf.cast(times, tf.float64), needed, initial_time)
    checks = [
        observation_checks.check_sorted(times, filled),
        observation_checks.check_finite(values, mask),
    ]
    if window is not None:
        checks.append(observation_checks.check_inside(window, times, needed))
        filled = tf.clip_by_value(filled, *window)
    with tf.control_dependencies(checks):
        values = tf.where(mask, values, tf.zeros_like(values))
    return Observations(values, filled, mask, observed)


def check_keys(inputs):
    """Raises `ValueError` unless it is a dict with times and known keys."""
    is_dict = isinstance(inputs, dict)
    if not is_dict or not {"times", SHARED} & set(inputs):
        raise ValueError(
            'The input must be a dict {"values": ..., "times": ..., "mask": '
            "...}, the mask being optional. "
            f"Received: {_keys_of(inputs)}"
        )
    unknown = set(inputs) - {*_KEYS, SHARED}
    if unknown:
        raise ValueError(
            f"The input must be a dict with keys among {list(_KEYS)}. "
            f"Received: {_keys_of(inputs)}"
        )


def _keys_of(inputs):
    if isinstance(inputs, dict):
        return f"keys={sorted(inputs)}"
    return f"an input of type {type(inputs).__name__}"


def times_in(inputs):
    """Returns float times and whether the batch shares them."""
    if SHARED in inputs:
        return _as_times(inputs[SHARED])[0], True
    times = _as_times(inputs["times"])
    return times, times.shape.rank == 1


def _as_times(times):
    times = as_tensor(times, "times")
    if not times.dtype.is_floating:
        times = tf.cast(times, tf.float64)
    if times.shape.rank not in (1, 2):
        raise ValueError(
            "`times` must be of shape (T,), or (batch, T) with times for each "
            f"sample. Received: times of shape {times.shape}"
        )
    return times


def _values_of(inputs, times, observation_dim, dtype):
    values = inputs.get("values")
    if values is None:
        if observation_dim:
            raise ValueError(
                "The input must have `values` of shape (batch, T, "
                f"{observation_dim}). Received: {_keys_of(inputs)}"
            )
        if times.shape.rank == 2:
            shape = tf.shape(times)
        elif inputs.get("mask") is not None:
            shape = tf.shape(inputs["mask"])[:2]
        else:
            raise ValueError(
                "`times` of shape (T,) need `values` or a `mask`, to tell the "
                f"number of samples. Received: times of shape {times.shape}"
            )
        return tf.zeros(tf.concat([shape, [0]], axis=0), dtype)
    values = as_floats(values, "values", dtype)
    if values.shape.rank != 3 or values.shape[-1] not in (
        None,
        observation_dim,
    ):
        raise ValueError(
            "`values` must be of shape (batch, T, observation_dim). Received: "
            f"values of shape {values.shape}, "
            f"observation_dim={observation_dim}"
        )
    return tf.ensure_shape(values, [None, None, observation_dim])


def _masks_of(mask, values):
    """Returns the mask of the values, and when any is observed."""
    if mask is None and values.shape[-1] == 0:
        mask = tf.ones(tf.shape(values)[:2], tf.bool)
    elif mask is None:
        mask = ~tf.math.is_nan(values)
    mask = tf.cast(mask, tf.bool)
    if mask.shape.rank == 3:
        return mask, tf.reduce_any(mask, axis=-1)
    return tf.broadcast_to(mask[..., None], tf.shape(values)), mask


def _fill(times, needed, default):
    """Replaces each time that is not needed by the needed one before it.

    Those before the first needed one become that; with none, the default.
    """
    # The numbers of needed times come first, in their order.
    numbers = tf.argsort(tf.cast(~needed, tf.int32), stable=True)
    before = tf.maximum(tf.cumsum(tf.cast(needed, tf.int32), -1) - 1, 0)
    rank = times.shape.rank
    number = tf.gather(numbers, before, batch_dims=rank - 1)
    filled = tf.gather(times, number, batch_dims=rank - 1)
    is_any = tf.reduce_any(needed, axis=-1, keepdims=True)
    return tf.where(is_any, filled, default)
