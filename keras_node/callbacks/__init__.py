"""Keras callbacks that watch and steer the solvers of a model."""

from keras_node.callbacks.nfe import NFEBudget, NFELogger
from keras_node.callbacks.schedule import ToleranceSchedule

__all__ = ["NFEBudget", "NFELogger", "ToleranceSchedule"]
