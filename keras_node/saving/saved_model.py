"""SavedModels with several endpoints."""

import keras
import tensorflow as tf


def checked_rows(name, tensor, rows):
    """Returns a tensor, checked to have `rows` rows, or one for all."""
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
    return after(check, tensor)


def after(checks, tensor):
    """Returns a tensor that waits for `checks`."""
    with tf.control_dependencies(tf.nest.flatten(checks)):
        return tf.identity(tensor)


def write(model, path, options, endpoints):
    """Writes functions as endpoints, named after them, with input specs."""
    archive = keras.export.ExportArchive()
    archive.track(model)
    # An exported gradient updates these counts; Keras does not track them.
    counts = [v for metric in model.metrics for v in metric.variables]
    archive.add_variable_collection("counts", counts)
    for function, specs in endpoints.items():
        archive.add_endpoint(function.__name__, function, specs)
    archive.write_out(path, options, verbose=False)
