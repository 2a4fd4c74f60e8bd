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
        values, times, mask = _checked_series(values, times, mask)
        posterior = model.encode(values, times, mask)
        return {"loc": posterior.mean(), "scale": posterior.stddev()}

    def reconstruct(values, times, mask, target_times):
        values, times, mask = _checked_series(values, times, mask)
        target_times = _checked_rows(
            "target_times", target_times, tf.shape(values)[0]
        )
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
    x_spec = tf.TensorSpec([None, *event], dtype, "x")
    z_spec = tf.TensorSpec([None, *base_event], dtype, "z")
    num_samples = tf.TensorSpec([], tf.int32, "num_samples")
    conditions = []
    if flow.condition_shape is not None:
        shape = [None, *flow.condition_shape[1:]]
        conditions = [tf.TensorSpec(shape, dtype, "condition")]

    def checked(tensor, shape, condition):
        """Returns both, and the options of the bijector."""
        if shape is None:
            size = tf.debugging.assert_non_negative(
                tensor, "`num_samples` must be at least 0."
            )
            tensor = _after(size, tensor)
        else:
            tensor = tf.ensure_shape(tensor, shape)
        if condition is not None:
            condition = tf.ensure_shape(condition, conditions[0].shape)
            rows = tensor if shape is None else tf.shape(tensor)[0]
            condition = _checked_rows("condition", condition, rows)
        options = routing.call_options(flow.bijector, condition, False)
        return tensor, condition, options

    # TensorFlow would number the names of `*condition`.
    def log_prob(x, condition=None):
        x, condition, _ = checked(x, x_spec.shape, condition)
        return {"log_prob": flow.log_prob(x, condition)}

    def sample(num_samples, condition=None):
        num_samples, condition, _ = checked(num_samples, None, condition)
        return {"x": flow.sample(num_samples, condition)}

    def forward(z, condition=None):
        z, _, options = checked(z, z_spec.shape, condition)
        return {"x": flow.bijector.forward(z, **options)}

    def inverse(x, condition=None):
        x, _, options = checked(x, x_spec.shape, condition)
        return {"z": flow.bijector.inverse(x, **options)}

    _write(
        flow,
        path,
        options,
        {
            log_prob: [x_spec, *conditions],
            sample: [num_samples, *conditions],
            forward: [z_spec, *conditions],
            inverse: [x_spec, *conditions],
        },
    )


def _checked_series(values, times, mask):
    """Returns series, checked: as many times, and a mask for each value."""
    expected = tf.shape(values)[:2]
    times_match = tf.debugging.assert_equal(
        tf.shape(times),
        expected,
        "`times` must be (batch, times), as many as `values`, (batch, times, "
        "features).",
    )
    mask_matches = tf.debugging.assert_equal(
        tf.shape(mask)[:2],
        expected,
        "`mask` must have the batch and the times of `values`.",
    )
    checks = [times_match, mask_matches]
    return [_after(checks, tensor) for tensor in (values, times, mask)]


def _checked_rows(name, tensor, rows):
    """Returns a tensor, checked: as many rows as expected, or one for all."""
    count = tf.shape(tensor)[0]
    check = tf.debugging.Assert(
        (count == 1) | (count == rows),
        [
            f"`{name}` must have as many rows as there are samples, or one.",
            "Received: rows, samples",
            count,
            rows,
        ],
    )
    return _after(check, tensor)


def _after(checks, tensor):
    """Returns a tensor that is not there before it was checked."""
    with tf.control_dependencies(tf.nest.flatten(checks)):
        return tf.identity(tensor)


def _write(model, path, options, endpoints):
    """Writes functions under their names, with the specs of their inputs."""
    archive = keras.export.ExportArchive()
    archive.track(model)
    # A gradient that is written too counts in them; Keras leaves them out.
    counts = [v for metric in model.metrics for v in metric.variables]
    archive.add_variable_collection("counts", counts)
    for function, specs in endpoints.items():
        archive.add_endpoint(function.__name__, function, specs)
    archive.write_out(path, options, verbose=False)
