"""Batch axes for arrays of time series, for Keras to cut batches."""

import keras
import numpy as np

from keras_node.common.observations import SHARED


def with_batch_axes(inputs, batch_size=None):
    """Gives every array a batch axis, for Keras to cut batches.

    Times of shape `(T,)` become `shared_times` of shape `(batch, T)`, which
    `observations_of` again takes as shared. A mask gets the axes of the
    values, as a model that was traced with one kind would not see the other.

    Args:
        inputs: Dict of arrays; anything else is returned as it is.
        batch_size: Integer, needed if there are neither values nor a mask.
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
    check_digits(inputs["times"], inputs.get("mask"))
    if inputs["times"].ndim == 1:
        times = inputs.pop("times")
        if batch_size is None:
            raise ValueError(
                "`times` of shape (T,) need `values` or a `mask`, to tell the "
                f"number of samples. Received: times of shape {times.shape}"
            )
        inputs[SHARED] = np.broadcast_to(times, (batch_size, len(times)))
    return inputs


def check_digits(times, mask):
    """Raises `ValueError` if times lose their digits in Keras's dtype.

    Keras casts all arrays to it.
    """
    if times.ndim == 2 and mask is not None:
        point = mask if mask.ndim == 2 else mask.any(axis=-1)
        times = np.where(point, times, np.nan) if point.size else times
    times = np.asarray(times, np.float64)
    lost = np.abs(times - times.astype(keras.config.floatx()))
    gap = np.nanmax(times, initial=-np.inf) - np.nanmin(times, initial=np.inf)
    if np.nanmax(lost, initial=0.0) > 1e-3 * gap / times.shape[-1] > 0:
        raise ValueError(
            "`times` must keep their digits in Keras's dtype; subtract their "
            "start, also from `initial_time`. Received: times around "
            f"{np.nanmax(times)}, in {keras.config.floatx()}"
        )
