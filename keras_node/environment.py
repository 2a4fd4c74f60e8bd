"""Checks of the environment, before TensorFlow Probability is imported."""

import importlib
import importlib.util
import os
import sys


def check_environment():
    """Checks that Keras runs on TensorFlow and that `tf_keras` is there.

    Raises:
        ImportError: If Keras has another backend, or if `tf_keras`, without
            which TensorFlow Probability cannot be imported, is missing.
    """
    backend = _keras_backend()
    if backend != "tensorflow":
        raise ImportError(
            "keras_node needs the TensorFlow backend of Keras: set "
            "KERAS_BACKEND=tensorflow before the first import of keras. "
            f"Received: backend={backend!r}"
        )
    if importlib.util.find_spec("tf_keras") is None:
        raise ImportError(
            "keras_node needs the package tf_keras, without which "
            "tensorflow_probability cannot be imported: "
            "pip install 'tensorflow-probability[tf]'"
        )


def _keras_backend():
    # Until keras is imported, the variable decides. It is read here because
    # importing keras with a backend that is not installed fails with a
    # message about that backend.
    variable = os.environ.get("KERAS_BACKEND")
    if variable and "keras" not in sys.modules:
        return variable
    return importlib.import_module("keras").config.backend()
