"""The contract of an adjoint, and the custom gradient that two of them use."""

import functools
import typing

import tensorflow as tf
from tensorflow.python.eager import record

from keras_node.identifiers import Configurable
from keras_node.solvers import lanes


class Problem(typing.NamedTuple):
    """An initial value problem with all that its gradient flows to.

    Attributes:
        solver: `tfp.math.ode.Solver`.
        ode_fn: Callable `(t, leaves) -> leaves`.
        times: Float64 `(T,)`, or `(T, batch)` with a clock for each sample.
        y: List of leaves, the state at the first time.
        captures: Float tensors that `ode_fn` closes over.
        times_vary: Whether `times` is a tensor, which may need a gradient.
        on_backward: Callable that gets the number of function evaluations of
            the backward pass, an integer tensor; or `None`.
        num_controlled: How many leaves, from the first, control the error;
            `None` for all. The others are integrals that feed back into
            nothing, such as those of a regularizer.
    """

    solver: typing.Any
    ode_fn: typing.Callable
    times: tf.Tensor
    y: list
    captures: list
    times_vary: bool
    on_backward: typing.Callable | None = None
    num_controlled: int | None = None

    def norm(self):
        """Returns the norm of the leaves that control the error."""
        return functools.partial(
            _norm_of_first, self.num_controlled, self.times.shape.rank - 1
        )


def _norm_of_first(count, lane_rank, leaves):
    return lanes.rms(leaves[:count], lane_rank)


class Gradients(typing.NamedTuple):
    """The result of a backward pass, one entry for each input of a solve.

    Attributes:
        y: List of cotangents of the initial state.
        times: Cotangent of `times`, or `None`.
        sources: List of cotangents, of the captures and then the variables.
        num_evaluations: Integer lanes or scalar, the backward NFE.
    """

    y: list
    times: tf.Tensor | None
    sources: list
    num_evaluations: tf.Tensor


class Adjoint(Configurable):
    """Base class of the ways to differentiate a solve."""

    def solve(self, problem):
        """Solves a `Problem`; returns a `Solution` that is differentiable."""
        raise NotImplementedError


def solve_unrecorded(forward, problem):
    """Runs `forward(ode_fn, times, y)`, hidden from every eager tape.

    An eager tape records what happens inside a custom gradient all the same,
    and keeps the activations of every step alive: an operation whose gradient
    needs its own result (tanh) stays recorded though nothing depends on it. So
    all tapes are stopped; and as dynamics may use tapes of their own, they are
    traced before, to be one call with nothing left to record. TensorFlow has
    no public name for stopping a tape that is not one's own.
    """
    times = tf.stop_gradient(problem.times)
    y = [tf.stop_gradient(leaf) for leaf in problem.y]
    if not tf.executing_eagerly() or not record.could_possibly_record():
        return forward(problem.ode_fn, times, y)
    ode_fn = tf.function(problem.ode_fn, autograph=False)
    ode_fn = ode_fn.get_concrete_function(
        tf.TensorSpec(times.shape[1:], y[0].dtype),
        [tf.TensorSpec(leaf.shape, leaf.dtype) for leaf in y],
    )
    # A custom gradient is told of the variables that are read in it.
    for variable in ode_fn.graph.trainable_variables:
        tf.identity(variable)
    with record.stop_recording():
        return forward(ode_fn, times, y)


def custom_gradient_solve(problem, forward, backward, name):
    """Solves a problem whose gradient is computed by hand.

    Args:
        problem: `Problem`.
        forward: Callable of `(ode_fn, times, y)` that returns a `Solution`.
        backward: Callable of `(solution, cotangents, variables)`, the
            cotangents being those of `solution.states`, that returns
            `Gradients`.
        name: String, the name of the adjoint, for messages.

    Returns:
        The `Solution`, its states differentiable once.
    """
    solutions = []

    @tf.custom_gradient
    def solve(times, *tensors):
        graph = tf.compat.v1.get_default_graph()
        result = solve_unrecorded(forward, problem)
        solutions.append(result)

        def gradient(*cotangents, variables=()):
            # The gradient of a SavedModel, or of a function within another,
            # is built in a graph of its own. What a forward pass records
            # cannot be saved, nor metrics be updated there: solve again.
            is_elsewhere = tf.compat.v1.get_default_graph() is not graph
            return _differentiable_once(
                problem._replace(on_backward=None) if is_elsewhere else problem,
                backward,
                solve_unrecorded(forward, problem) if is_elsewhere else result,
                cotangents,
                variables,
                name,
            )

        return tuple(result.states), gradient

    states = solve(problem.times, *problem.y, *problem.captures)
    return solutions[0]._replace(states=list(states))


def _differentiable_once(
    problem, backward, result, cotangents, variables, name
):
    """Runs the backward pass; a derivative of its result raises."""
    num_captures = len(problem.captures)

    @tf.custom_gradient
    def run(*tensors):
        gradients = backward(
            result, list(tensors[: len(cotangents)]), list(variables)
        )
        if problem.on_backward is not None:
            problem.on_backward(gradients.num_evaluations)

        def second(*unused, variables=()):
            raise NotImplementedError(
                f'adjoint="{name}" gives first derivatives only. Use '
                'adjoint="direct" for derivatives of gradients. Received: '
                f'adjoint="{name}" and a request for a second derivative'
            )

        times = [] if gradients.times is None else [gradients.times]
        return tuple([*gradients.y, *gradients.sources, *times]), second

    flat = list(run(*cotangents, problem.times, *problem.y, *problem.captures))
    times = flat.pop() if problem.times_vary else None
    first_variable = len(problem.y) + num_captures
    inputs = [times, *flat[:first_variable]]
    return (inputs, flat[first_variable:]) if variables else inputs


def local(tensors):
    """Returns the tensors as the graph being built sees them.

    Inside the body of a loop an outer tensor has another name; a tape that is
    to watch it must watch that one.
    """
    graph = tf.compat.v1.get_default_graph()
    if tf.executing_eagerly() or not hasattr(graph, "capture"):
        return list(tensors)
    return [graph.capture(tensor) for tensor in tensors]


def zeros_like_sources(problem, variables):
    """Returns cotangents of zero for the captures and the variables."""
    return [tf.zeros_like(source) for source in [*problem.captures, *variables]]


def dense(gradients):
    """Converts the sparse gradients of gathers, which loops cannot carry."""
    return [tf.convert_to_tensor(gradient) for gradient in gradients]
