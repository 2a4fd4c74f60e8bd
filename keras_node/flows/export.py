"""SavedModels of a `NormalizingFlow`."""

import tensorflow as tf

from keras_node.flows import bijector_kwargs
from keras_node.flows.sampled_base import has_density
from keras_node.saving import saved_model


def write_flow(flow, path, options=None):
    """Writes a flow with `log_prob`, `sample`, `forward` and `inverse`.

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
        """Returns tensor and condition, checked, and the bijector's options."""
        if shape is None:
            size = tf.debugging.assert_non_negative(
                tensor, "`num_samples` must be at least 0."
            )
            tensor = saved_model.after(size, tensor)
        else:
            tensor = tf.ensure_shape(tensor, shape)
        if condition is not None:
            condition = tf.ensure_shape(condition, conditions[0].shape)
            rows = tensor if shape is None else tf.shape(tensor)[0]
            condition = saved_model.checked_rows("condition", condition, rows)
        options = bijector_kwargs.call_options(flow.bijector, condition, False)
        return tensor, condition, options

    # With `*condition`, TensorFlow would number the names of the inputs.
    def log_prob(x, condition=None):
        x, condition, _ = checked(x, x_spec.shape, condition)
        return {"log_prob": flow.log_prob(x, condition, training=False)}

    def sample(num_samples, condition=None):
        num_samples, condition, _ = checked(num_samples, None, condition)
        return {"x": flow.sample(num_samples, condition)}

    def forward(z, condition=None):
        z, _, options = checked(z, z_spec.shape, condition)
        return {"x": flow.bijector.forward(z, **options)}

    def inverse(x, condition=None):
        x, _, options = checked(x, x_spec.shape, condition)
        return {"z": flow.bijector.inverse(x, **options)}

    signatures = {
        log_prob: [x_spec, *conditions],
        sample: [num_samples, *conditions],
        forward: [z_spec, *conditions],
        inverse: [x_spec, *conditions],
    }
    if not has_density(flow.base_distribution):
        del signatures[log_prob]
    saved_model.write(flow, path, options, signatures)
