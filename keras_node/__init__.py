"""Neural ordinary differential equations for Keras."""

import importlib

from keras_node.backend import check_environment

check_environment()

from keras_node import (  # noqa: E402
    adjoints,
    callbacks,
    diagnostics,
    likelihoods,
    regularizers,
    solvers,
    trace,
)
from keras_node.augment import Augment  # noqa: E402
from keras_node.cnf_bijector import CNFBijector  # noqa: E402
from keras_node.dynamics import ConcatTime, IgnoreTime  # noqa: E402
from keras_node.latent_ode import LatentODE  # noqa: E402
from keras_node.normalizing_flow import NormalizingFlow  # noqa: E402
from keras_node.ode_layer import ODELayer  # noqa: E402
from keras_node.odeint import odeint  # noqa: E402
from keras_node.planar import PlanarDynamics  # noqa: E402
from keras_node.recognition import ODERNNCell  # noqa: E402
from keras_node.version import __version__  # noqa: E402

__all__ = [
    "Augment",
    "CNFBijector",
    "ConcatTime",
    "IgnoreTime",
    "LatentODE",
    "NormalizingFlow",
    "ODELayer",
    "ODERNNCell",
    "PlanarDynamics",
    "__version__",
    "adjoints",
    "callbacks",
    "diagnostics",
    "likelihoods",
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
