"""Which cases of the matrix of gradients the suite runs."""

import pytest

MATRIX = {
    "test_frozen_dynamics.py",
    "test_gradients_of_captures.py",
    "test_gradients_of_variables.py",
    "test_solves_in_control_flow.py",
    "test_tracked_weights.py",
}
# The default adjoint, eagerly and in graphs; the others with `-m slow`.
SLOW = {"backsolve", "direct", "xla"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks the rest of the matrix as slow."""
    for item in items:
        parameters = getattr(item, "callspec", None)
        if item.path.name in MATRIX and parameters is not None:
            if not SLOW.isdisjoint(parameters.id.split("-")):
                item.add_marker("slow")
