"""Tests of the sentence that a wrong environment gets at import."""

import os
import subprocess
import sys

HIDE_TF_KERAS = """
import importlib.machinery

find_spec = importlib.machinery.PathFinder.find_spec

def find_all_but_tf_keras(name, path=None, target=None):
    if name.split(".")[0] == "tf_keras":
        return None
    return find_spec(name, path, target)

importlib.machinery.PathFinder.find_spec = find_all_but_tf_keras
"""


def import_error(program, **variables):
    """Returns the last line of what the failing `program` says."""
    process = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1
    return process.stderr.splitlines()[-1]


def test_another_backend_gets_one_sentence():
    message = import_error("import keras_node", KERAS_BACKEND="jax")
    assert message == (
        "ImportError: keras_node needs the TensorFlow backend of Keras: set "
        "KERAS_BACKEND=tensorflow before the first import of keras. "
        "Received: backend='jax'"
    )


def test_missing_tf_keras_gets_one_sentence():
    message = import_error(HIDE_TF_KERAS + "import keras_node")
    assert message == (
        "ImportError: keras_node needs the package tf_keras, without which "
        "tensorflow_probability cannot be imported: "
        "pip install 'tensorflow-probability[tf]'"
    )
