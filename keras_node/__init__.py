"""Neural ordinary differential equations for Keras."""

import importlib

from keras_node.environment import check_environment  # noqa: E402

check_environment()

from keras_node import (  # noqa: E402
    adjoints,
    callbacks,
    diagnostics,
    interpolation,
    likelihoods,
    objectives,
    regularizers,
    solvers,
    trace,
)
from keras_node.citations import citation  # noqa: E402
from keras_node.events import Event  # noqa: E402
from keras_node.flows.cnf_bijector import CNFBijector  # noqa: E402
from keras_node.flows.normalizing_flow import NormalizingFlow  # noqa: E402
from keras_node.integration.solve import odeint  # noqa: E402
from keras_node.latent.encoders import ODERNNCell  # noqa: E402
from keras_node.latent.latent_ode import LatentODE  # noqa: E402
from keras_node.layers.augment import Augment  # noqa: E402
from keras_node.layers.group_normalization import GroupNormalization  # noqa: E402
from keras_node.layers.multiple_shooting import multiple_shooting  # noqa: E402
from keras_node.layers.neural_cde import NeuralCDE  # noqa: E402
from keras_node.layers.ode_layer import ODELayer  # noqa: E402
from keras_node.layers.planar import PlanarDynamics  # noqa: E402
from keras_node.layers.time_wrappers import ConcatTime, IgnoreTime  # noqa: E402
from keras_node.version import __version__  # noqa: E402

__all__ = [
    "Augment",
    "CNFBijector",
    "ConcatTime",
    "Event",
    "GroupNormalization",
    "IgnoreTime",
    "LatentODE",
    "NeuralCDE",
    "NormalizingFlow",
    "ODELayer",
    "ODERNNCell",
    "PlanarDynamics",
    "__version__",
    "adjoints",
    "callbacks",
    "citation",
    "diagnostics",
    "interpolation",
    "likelihoods",
    "multiple_shooting",
    "objectives",
    "odeint",
    "regularizers",
    "solvers",
    "trace",
]


def __getattr__(name):
    """Imports `visualize` when it is asked for: it needs matplotlib."""
    if name == "visualize":
        return importlib.import_module("keras_node.visualize")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return [*__all__, "visualize"]
