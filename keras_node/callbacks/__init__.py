"""Keras callbacks that watch and steer the solvers of a model."""

from keras_node.callbacks.grow_horizon import GrowHorizon
from keras_node.callbacks.nfe_budget import NFEBudget
from keras_node.callbacks.nfe_logger import NFELogger
from keras_node.callbacks.sampling_nfe import SamplingNFE
from keras_node.callbacks.tolerance_schedule import ToleranceSchedule

__all__ = [
    "GrowHorizon",
    "NFEBudget",
    "NFELogger",
    "SamplingNFE",
    "ToleranceSchedule",
]
