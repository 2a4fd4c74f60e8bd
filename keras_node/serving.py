"""SavedModels of models with more than one use."""

import keras
import tensorflow as tf


def write_latent_ode(model, path):
    """Writes a `LatentODE` with `encode`, `reconstruct` and `generate`.

    Args:
        model: `LatentODE`.
        path: String, the directory to write.
    """
    floats = tf.float32 if model.compute_dtype != "float64" else tf.float64
    dim = model.observation_dim
    values = tf.TensorSpec([None, None, dim], floats, "values")
    times = tf.TensorSpec([None, None], floats, "times")
    # What has no features is observed as a whole.
    mask_shape = [None, None, dim] if dim else [None, None]
    mask = tf.TensorSpec(mask_shape, tf.bool, "mask")

    def encode(values, times, mask):
        posterior = model.encode(values, times, mask)
        return {"loc": posterior.mean(), "scale": posterior.stddev()}

    def reconstruct(values, times, mask, target_times):
        mean = model.reconstruct(values, times, mask, target_times)
        return {"mean": mean}

    def generate(num_samples, times):
        return {"samples": model.generate(num_samples, times)}

    archive = keras.export.ExportArchive()
    archive.track(model)
    target_times = tf.TensorSpec([None, None], floats, "target_times")
    archive.add_endpoint("encode", encode, [values, times, mask])
    archive.add_endpoint(
        "reconstruct", reconstruct, [values, times, mask, target_times]
    )
    archive.add_endpoint(
        "generate",
        generate,
        [
            tf.TensorSpec([], tf.int32, "num_samples"),
            tf.TensorSpec([None], floats, "times"),
        ],
    )
    archive.write_out(path, verbose=False)
