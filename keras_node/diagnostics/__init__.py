"""What a solve did, whether gradients are right, and what accuracy costs."""

from keras_node.diagnostics.gradients import (
    Difference,
    GradientReport,
    check_gradients,
)
from keras_node.diagnostics.metered_adjoints import Drift
from keras_node.diagnostics.precision import (
    WorkPrecision,
    WorkPrecisionReport,
    work_precision,
)
from keras_node.diagnostics.solution import solution_report

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
