"""Reports on solves, on gradients, and on the cost of accuracy."""

from keras_node.diagnostics.gradients import (
    Difference,
    GradientReport,
    check_gradients,
)
from keras_node.diagnostics.metered_adjoints import Drift
from keras_node.diagnostics.solution_report import solution_report
from keras_node.diagnostics.work_precision import (
    WorkPrecision,
    WorkPrecisionReport,
    work_precision,
)

__all__ = [
    "Difference",
    "Drift",
    "GradientReport",
    "WorkPrecision",
    "WorkPrecisionReport",
    "check_gradients",
    "solution_report",
    "work_precision",
]
