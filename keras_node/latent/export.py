"""SavedModels of a `LatentODE`."""

import tensorflow as tf

from keras_node.saving import saved_model


def write_latent_ode(model, path, options=None):
    """Writes a `LatentODE` with `encode`, `reconstruct` and `generate`.

    Args:
        model: `LatentODE`.
        path: String, the directory to write.
        options: `tf.saved_model.SaveOptions`, or `None` (default).
    """
    floats = tf.float32 if model.compute_dtype != "float64" else tf.float64
    dim = model.observation_dim
    values = tf.TensorSpec([None, None, dim], floats, "values")
    times = tf.TensorSpec([None, None], floats, "times")
    # Events without features are observed as a whole.
    mask_shape = [None, None, dim] if dim else [None, None]
    mask = tf.TensorSpec(mask_shape, tf.bool, "mask")
    target_times = tf.TensorSpec([None, None], floats, "target_times")
    num_samples = tf.TensorSpec([], tf.int32, "num_samples")
    shared_times = tf.TensorSpec([None], floats, "times")

    def encode(values, times, mask):
        values, times, mask = _checked_series(values, times, mask)
        posterior = model.encode(values, times, mask)
        return {"loc": posterior.mean(), "scale": posterior.stddev()}

    def reconstruct(values, times, mask, target_times):
        values, times, mask = _checked_series(values, times, mask)
        target_times = saved_model.checked_rows(
            "target_times", target_times, tf.shape(values)[0]
        )
        mean = model.reconstruct(values, times, mask, target_times)
        return {"mean": mean}

    def generate(num_samples, times):
        return {"samples": model.generate(num_samples, times)}

    saved_model.write(
        model,
        path,
        options,
        {
            encode: [values, times, mask],
            reconstruct: [values, times, mask, target_times],
            generate: [num_samples, shared_times],
        },
    )


def _checked_series(values, times, mask):
    """Returns series, checked: one time and one mask for each value."""
    expected = tf.shape(values)[:2]
    times_match = tf.debugging.assert_equal(
        tf.shape(times),
        expected,
        "`times` must be (batch, times), to match `values`, (batch, times, "
        "features).",
    )
    mask_matches = tf.debugging.assert_equal(
        tf.shape(mask)[:2],
        expected,
        "`mask` must have the batch and the times of `values`.",
    )
    checks = [times_match, mask_matches]
    return [
        saved_model.after(checks, tensor) for tensor in (values, times, mask)
    ]
