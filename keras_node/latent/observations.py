"""Irregular time series: what a model gets, checked and made regular."""

import typing

import numpy as np
import tensorflow as tf

from keras_node.common.tensors import (
    as_floats,
    as_tensor,
)
from keras_node.latent import observation_checks

_KEYS = ("values", "times", "mask", "targets")
# Times of the whole batch, with a batch axis for Keras to cut batches.
_SHARED = "shared_times"


class Observations(typing.NamedTuple):
    """A batch of time series, with nothing in it that could do harm.

    Attributes:
        values: Float `(batch, T, D)`, 0 where not observed.
        times: Float64 `(T,)` of the whole batch, or `(batch, T)`; sorted, a
            time where nothing is observed being that of a neighbour.
        mask: Boolean `(batch, T, D)`, what is observed.
        observed: Boolean `(batch, T)`, when something is observed.
    """

    values: tf.Tensor
    times: tf.Tensor
    mask: tf.Tensor
    observed: tf.Tensor

    def encoder_inputs(self, initial_time):
        """Returns features `(batch, T, 2 D + 1)`: values, mask, time gap.

        The gap is that to the observation before, the first one's that to
        `initial_time`: a network that runs backwards learns how far it is to
        where it goes next, and in all when it began.
        """
        dtype = self.values.dtype
        times = tf.broadcast_to(self.times, tf.shape(self.observed))
        # Of times that all share, each sample has observed its own.
        times = _fill(times, self.observed, initial_time)
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
        tf.errors.InvalidArgumentError: In a graph, for the latter.
    """
    check_keys(inputs)
    times, is_shared = _times_in(inputs)
    values = _values_of(inputs, times, observation_dim, dtype)
    mask = inputs.get("mask")
    if mask is not None:
        mask = as_tensor(mask, "mask", "booleans, or what makes a tensor of it")
    observation_checks.check_shapes(values, times, mask)
    mask, observed = _masks_of(mask, values)
    # A time that all share is needed if anyone's value is observed then.
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


def query_times(inputs, batch_size=None):
    """Returns times to predict at, float64 and sorted, `(T,)` or `(batch, T)`.

    Args:
        inputs: Dict with `times`.
        batch_size: Integer, the number of rows, or `None` (default).

    Raises:
        ValueError: If they are not 1-D or one row for each sample, or not
            sorted.
    """
    times, is_shared = _times_in(inputs)
    if times.shape[-1] == 0 or not (
        is_shared or times.shape[:1].is_compatible_with([batch_size])
    ):
        raise ValueError(
            "The times to predict at must be of shape (T,), or of shape "
            "(batch, T) with a row for each sample, T being at least 1. "
            f"Received: times of shape {times.shape}"
        )
    if not is_shared and batch_size is not None:
        times = tf.ensure_shape(times, [batch_size, None])
    times = tf.cast(times, tf.float64)
    with tf.control_dependencies(
        [observation_checks.check_sorted(times, times)]
    ):
        return tf.identity(times)


def own_times(inputs, observed):
    """Returns the times as given, also where nothing is observed.

    To predict what is hidden. A time that is out of order there, such as
    padding, is replaced by the one before it.

    Args:
        inputs: Dict, the model's input.
        observed: The `Observations` in it.
    """
    times = tf.cast(_times_in(inputs)[0], tf.float64)
    needed = observed.observed
    if times.shape.rank == 1:
        needed = tf.reduce_any(needed, axis=0)
    # Nothing may come after the next one that is observed.
    later = tf.where(needed, times, np.inf)
    limits = _running(tf.minimum, tf.reverse(later, [-1]))
    in_order = tf.math.is_finite(times) & (times <= tf.reverse(limits, [-1]))
    running = _running(tf.maximum, tf.where(in_order, times, -np.inf))
    return tf.where(tf.math.is_finite(running), running, observed.times)


def _running(function, times):
    """Returns the running maximum, or minimum, along the last axis."""
    time_major = times if times.shape.rank == 1 else tf.transpose(times)
    running = tf.scan(function, time_major)
    return running if times.shape.rank == 1 else tf.transpose(running)


def with_batch_axes(inputs, batch_size=None):
    """Gives every array a batch axis, for Keras to cut batches.

    Times of shape `(T,)` become `shared_times` of shape `(batch, T)`, which
    `observations_of` takes for what they were; a mask gets the axes of the
    values, as a model would not see the second of two kinds.

    Args:
        inputs: Dict of arrays; anything else is returned as it is.
        batch_size: Integer, if neither values nor mask tell it.
    """
    if not isinstance(inputs, dict) or "times" not in inputs:
        return inputs
    inputs = {k: v for k, v in inputs.items() if v is not None}
    for key in {"values", "mask", "times"} & set(inputs):
        inputs[key] = np.asarray(inputs[key])
    for key in {"values", "mask"} & set(inputs):
        batch_size = len(inputs[key])
    if "targets" in inputs:
        inputs["targets"] = with_batch_axes(inputs["targets"], batch_size)
    has_values = "values" in inputs and inputs["values"].shape[-1] > 0
    if has_values and "mask" in inputs and inputs["mask"].ndim == 2:
        inputs["mask"] = np.broadcast_to(
            inputs["mask"][..., None], inputs["values"].shape
        )
    observation_checks.check_digits(inputs["times"], inputs.get("mask"))
    if inputs["times"].ndim == 1:
        times = inputs.pop("times")
        if batch_size is None:
            raise ValueError(
                "`times` of shape (T,) need `values` or a `mask`, to tell the "
                f"number of samples. Received: times of shape {times.shape}"
            )
        inputs[_SHARED] = np.broadcast_to(times, (batch_size, len(times)))
    return inputs


def check_keys(inputs):
    """Raises `ValueError` unless it is a dict of times and what goes along."""
    is_dict = isinstance(inputs, dict)
    if not is_dict or not {"times", _SHARED} & set(inputs):
        raise ValueError(
            'The input must be a dict {"values": ..., "times": ..., "mask": '
            "...}, the mask being optional. "
            f"Received: {_keys_of(inputs)}"
        )
    unknown = set(inputs) - {*_KEYS, _SHARED}
    if unknown:
        raise ValueError(
            f"The input must be a dict with keys among {list(_KEYS)}. "
            f"Received: {_keys_of(inputs)}"
        )


def _keys_of(inputs):
    if isinstance(inputs, dict):
        return f"keys={sorted(inputs)}"
    return f"an input of type {type(inputs).__name__}"


def _times_in(inputs):
    """Returns float times and whether the batch shares them."""
    if _SHARED in inputs:
        return _as_times(inputs[_SHARED])[0], True
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
    """Returns what is observed of the values, and when."""
    if mask is None and values.shape[-1] == 0:
        mask = tf.ones(tf.shape(values)[:2], tf.bool)
    elif mask is None:
        mask = ~tf.math.is_nan(values)
    mask = tf.cast(mask, tf.bool)
    if mask.shape.rank == 3:
        return mask, tf.reduce_any(mask, axis=-1)
    return tf.broadcast_to(mask[..., None], tf.shape(values)), mask


def _fill(times, needed, default):
    """Gives each time that is not needed that of the needed one before it.

    Those before the first get the first; without any, the default.
    """
    # The numbers of the needed ones come first, in their order.
    numbers = tf.argsort(tf.cast(~needed, tf.int32), stable=True)
    before = tf.maximum(tf.cumsum(tf.cast(needed, tf.int32), -1) - 1, 0)
    rank = times.shape.rank
    number = tf.gather(numbers, before, batch_dims=rank - 1)
    filled = tf.gather(times, number, batch_dims=rank - 1)
    is_any = tf.reduce_any(needed, axis=-1, keepdims=True)
    return tf.where(is_any, filled, default)
