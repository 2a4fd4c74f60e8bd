"""Which cases of the matrix the suite runs, and what a file leaves behind."""

import gc

import keras
import pytest
from tensorflow.python.framework import ops

MATRIX = {
    "test_frozen_dynamics.py",
    "test_gradients_of_captures.py",
    "test_gradients_of_variables.py",
    "test_solves_in_control_flow.py",
    "test_tracked_weights.py",
}
# The default adjoint, eagerly, and that of `odeint` in graphs; the others with
# `-m slow`.
SLOW = [
    {"backsolve"},
    {"direct"},
    {"xla"},
    {"ODELayer", "function"},
    {"CNFBijector", "function"},
    {"LatentODE", "function"},
    {"NormalizingFlow", "function"},
]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks the rest of the matrix as slow."""
    for item in items:
        parameters = getattr(item, "callspec", None)
        if item.path.name in MATRIX and parameters is not None:
            words = set(parameters.id.split("-"))
            if any(slow <= words for slow in SLOW):
                item.add_marker("slow")


@pytest.fixture(scope="module", autouse=True)
def nothing_left_behind():
    """Frees the graphs of a file: Keras's optimizers leave theirs for ever.

    They train through `tf.custom_gradient`, whose registry keeps all graphs.
    """
    yield
    keras.utils.clear_session()
    registry = ops.gradient_registry._registry
    for name in [name for name in registry if "CustomGradient" in name]:
        del registry[name]
    gc.collect()
