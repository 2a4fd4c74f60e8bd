"""Outputs, gradients and evaluations of a layer with other solvers."""

import contextlib
import typing

import tensorflow as tf

from keras_node.common import solving_layers
from keras_node.diagnostics import evaluation, metered_adjoints
from keras_node.solvers import BDF, DormandPrince


class Measurement(typing.NamedTuple):
    """The outputs, the gradient and the cost of a layer with its solvers.

    Attributes:
        solver: String, the name.
        rtol: Float, or `None` for fixed steps or more than one tolerance.
        dtype: String, the coarsest that was solved in.
        nfe: Float, the forward NFE of all layers that solve.
        outputs: List of tensors.
        gradient: List of tensors.
    """

    solver: str
    rtol: float | None
    dtype: str
    nfe: float
    outputs: list
    gradient: list


@contextlib.contextmanager
def measuring(layer, x, loss):
    """Yields a callable that returns a `Measurement`.

    It is traced once, with the solvers that the layer has now, for all
    tolerances that `set_tolerance` gives them.

    Args:
        layer: Keras layer or model.
        x: Its input as tensors.
        loss: Callable `loss(layer, x)` that returns a scalar tensor.
    """
    with metered_adjoints.adjoint_of_each(
        layer, lambda part: metered_adjoints.NFEMeter(part.adjoint)
    ) as counters:
        counts = [counter.num_evaluations for counter in counters]

        def run():
            for count in counts:
                count.assign(0.0)
            outputs = evaluation.floats(evaluation.outputs(layer, x))
            nfe = tf.add_n([tf.identity(count) for count in counts])
            gradient = evaluation.gradients(layer, x, loss)
            return nfe, outputs, list(gradient.values())

        # A concrete function: TensorFlow warns of functions made in a loop.
        if not tf.config.functions_run_eagerly():
            run = tf.function(run, autograph=False).get_concrete_function()

        def measure():
            nfe, outputs, gradient = run()
            name, rtol = _solver_of(layer)
            dtype = metered_adjoints.dtype_of(counters)
            return Measurement(name, rtol, dtype, float(nfe), outputs, gradient)

        yield measure


def _solver_of(layer):
    """Returns name and tolerance of the solvers of a layer."""
    parts = solving_layers.differentiable_layers(layer)
    names = {name_of(part.solver): None for part in parts}
    rtols = {rtol_of(part.solver) for part in parts}
    return ", ".join(names), rtols.pop() if len(rtols) == 1 else None


def solver_variants(solver, rtols):
    """Returns pairs of a solver and the tolerances to use it at.

    The solvers are copies that give NaN if they fail. One with fixed steps,
    or without a config, is used as it is, with the tolerance `None`.
    """
    if not _is_adaptive(solver):
        return [(solver, [None])]
    if solver.can_replay:
        return [(_as_variables(_copy(solver, solver.tolerances[0])), rtols)]
    # tfp's solvers keep the tolerances that they are made with.
    return [(_copy(solver, rtol), [rtol]) for rtol in rtols]


def set_tolerance(solver, rtol):
    """Sets `rtol` of one of `solver_variants`, and `atol` in proportion."""
    if isinstance(getattr(solver, "rtol", None), tf.Variable):
        solver.atol.assign(solver.atol / solver.rtol * rtol)
        solver.rtol.assign(rtol)


def _copy(solver, rtol):
    config = solver.get_config() | {"on_failure": "nan"}
    atol = config["atol"] / config["rtol"] * rtol
    return type(solver).from_config(config | {"rtol": rtol, "atol": atol})


def _as_variables(solver):
    # Functions traced with a solver read its variables at each run.
    rtol, atol = solver.tolerances
    solver.rtol = tf.Variable(rtol, trainable=False, dtype=tf.float64)
    solver.atol = tf.Variable(atol, trainable=False, dtype=tf.float64)
    return solver


def rtol_of(solver):
    """Returns the relative tolerance, `None` for fixed steps or if unknown."""
    return float(solver.rtol) if _is_adaptive(solver) else None


def name_of(solver):
    """Returns the name of a solver's class, with its step size if fixed."""
    name = type(solver).__name__
    step_size = getattr(solver, "step_size", None)
    return name if step_size is None else f"{name}(step_size={step_size:g})"


def describe(solver):
    """Returns the name of a solver with its tolerance or step size."""
    rtol = rtol_of(solver)
    name = name_of(solver)
    return name if rtol is None else f"{name}(rtol={rtol:g})"


def _is_adaptive(solver):
    # Whether there are tolerances, and a config to copy it with others.
    is_tfp = isinstance(solver, (BDF, DormandPrince))
    return getattr(solver, "is_adaptive", is_tfp)
