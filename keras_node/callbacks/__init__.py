"""Keras callbacks that watch and steer the solvers of a model."""

from keras_node.callbacks.nfe_budget import NFEBudget
from keras_node.callbacks.nfe_logger import NFELogger
from keras_node.callbacks.tolerance_schedule import ToleranceSchedule

__all__ = ["NFEBudget", "NFELogger", "ToleranceSchedule"]
