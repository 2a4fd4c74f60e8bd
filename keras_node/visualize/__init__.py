"""Pictures of vector fields, trajectories, densities and costs.

Needs matplotlib: `pip install matplotlib`. Each function draws into the `Axes`
passed to it, or into a new pyplot figure, and returns the `Axes`.
"""

from keras_node.visualize.curves import nfe_history, work_precision
from keras_node.visualize.densities import densities, density
from keras_node.visualize.fields import phase_portrait, trajectories

__all__ = [
    "densities",
    "density",
    "nfe_history",
    "phase_portrait",
    "trajectories",
    "work_precision",
]
