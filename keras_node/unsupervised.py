"""What models have in common whose data have no targets and own loss."""

import keras


def refuse_weights(arguments):
    """Raises `ValueError` for weights, which Keras would drop."""
    for name in ("sample_weight", "class_weight"):
        if arguments.get(name) is not None:
            raise ValueError(
                f"Keras drops `{name}` where there are no targets. Draw the "
                "samples of a dataset as often as they weigh. "
                f"Received: {name}"
            )


def check_compile(arguments):
    """Raises `ValueError` for a loss or metrics: the model has its own."""
    for name in ("loss", "metrics", "weighted_metrics", "loss_weights"):
        if arguments.get(name) is not None:
            raise ValueError(
                "This model has its own loss and metrics: compile it without. "
                f"Received: {name}={arguments[name]!r}"
            )


def inputs_of(data):
    """Returns the inputs of a step's data.

    Raises:
        ValueError: If there are targets besides them.
    """
    inputs, targets, _ = keras.utils.unpack_x_y_sample_weight(data)
    if targets is not None:
        raise ValueError(
            "This model learns from its inputs alone: `fit(x)`. What else it "
            "needs to know goes into the dict of inputs. "
            f"Received: targets {targets}"
        )
    return inputs
