"""SavedModels of models with more than one use."""

import keras
import tensorflow as tf

from keras_node import routing


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
    # What has no features is observed as a whole.
    mask_shape = [None, None, dim] if dim else [None, None]
    mask = tf.TensorSpec(mask_shape, tf.bool, "mask")
    target_times = tf.TensorSpec([None, None], floats, "target_times")
    num_samples = tf.TensorSpec([], tf.int32, "num_samples")
    shared_times = tf.TensorSpec([None], floats, "times")

    def encode(values, times, mask):
        posterior = model.encode(values, times, mask)
        return {"loc": posterior.mean(), "scale": posterior.stddev()}

    def reconstruct(values, times, mask, target_times):
        mean = model.reconstruct(values, times, mask, target_times)
        return {"mean": mean}

    def generate(num_samples, times):
        return {"samples": model.generate(num_samples, times)}

    _write(
        model,
        path,
        options,
        {
            encode: [values, times, mask],
            reconstruct: [values, times, mask, target_times],
            generate: [num_samples, shared_times],
        },
    )


def write_flow(flow, path, options=None):
    """Writes a `NormalizingFlow` with `log_prob`, `sample` and both ways.

    Args:
        flow: `NormalizingFlow`, built.
        path: String, the directory to write.
        options: `tf.saved_model.SaveOptions`, or `None` (default).
    """
    dtype = flow.distribution.dtype
    base_event, event = (
        distribution.event_shape
        for distribution in (flow.base_distribution, flow.distribution)
    )
    x = tf.TensorSpec([None, *event], dtype, "x")
    z = tf.TensorSpec([None, *base_event], dtype, "z")
    num_samples = tf.TensorSpec([], tf.int32, "num_samples")
    conditions = []
    if flow.condition_shape is not None:
        shape = [None, *flow.condition_shape[1:]]
        conditions = [tf.TensorSpec(shape, dtype, "condition")]

    def options_of(condition):
        return routing.call_options(flow.bijector, *condition, training=False)

    def log_prob(x, *condition):
        return {"log_prob": flow.log_prob(x, *condition)}

    def sample(num_samples, *condition):
        return {"x": flow.sample(num_samples, *condition)}

    def forward(z, *condition):
        return {"x": flow.bijector.forward(z, **options_of(condition))}

    def inverse(x, *condition):
        return {"z": flow.bijector.inverse(x, **options_of(condition))}

    _write(
        flow,
        path,
        options,
        {
            log_prob: [x, *conditions],
            sample: [num_samples, *conditions],
            forward: [z, *conditions],
            inverse: [x, *conditions],
        },
    )


def _write(model, path, options, endpoints):
    """Writes functions under their names, with the specs of their inputs."""
    archive = keras.export.ExportArchive()
    archive.track(model)
    for function, specs in endpoints.items():
        archive.add_endpoint(function.__name__, function, specs)
    archive.write_out(path, options, verbose=False)
