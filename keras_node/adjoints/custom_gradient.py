"""Custom gradients of solves, for adjoints that compute them by hand."""

import contextlib

import tensorflow as tf

from keras_node.common import assertions, tf_internals
from keras_node.dynamics.traced_field import PythonField
from keras_node.solvers import solution


def solve_unrecorded(problem, recorder=None):
    """Returns the `Solution` of a problem, hidden from every tape.

    An eager tape records even inside a custom gradient, and keeps the
    activations of every step alive: an operation whose gradient needs its own
    result (tanh) stays recorded though nothing depends on it. In a graph,
    recording would only slow down tracing. So all tapes are stopped; the
    dynamics, which may use tapes themselves, have been traced before.
    """
    times, *jumps = [tf.stop_gradient(moment) for moment in problem.moments]
    y = [tf.stop_gradient(leaf) for leaf in problem.y]
    if isinstance(problem.field, PythonField):
        hidden = contextlib.nullcontext()
    else:
        hidden = tf_internals.stop_recording()
        # Their own tapes would be stopped.
        if problem.solver.needs_jacobian:
            _ = problem.field.linearization
        if problem.events is not None:
            problem.events.trace_slopes()
    with hidden:
        result = problem.solver.integrate(
            problem.field,
            times,
            y,
            recorder=recorder,
            norm=problem.norm(),
            jumps=jumps[0] if jumps else None,
            keeps_dense=problem.keeps_dense,
            **_events_of(problem),
        )
    # `tf.function` builds the gradient of all that it returns.
    internal = [tf.stop_gradient(x) for x in result.internal]
    result = result._replace(internal=solution.InternalState(*internal))
    if result.dense is not None:
        result = result._replace(dense=result.dense.frozen())
    if result.events is not None:
        result = result._replace(events=result.events.frozen())
    return result


def _events_of(problem):
    # Solvers of TensorFlow Probability find none.
    return {} if problem.events is None else {"events": problem.events}


def custom_gradient_solve(problem, make_recorder, backward, name):
    """Solves a problem whose gradient is computed by hand.

    Args:
        problem: `Problem`.
        make_recorder: Callable that returns what records the solve for its
            backward pass, see `StepRecorder`; or `None`. Not called where no
            gradient can be asked for.
        backward: Callable of `(problem, solution, cotangents)`, the last
            being those of `solution.states`, of the coefficients of
            `solution.dense`, and of the times of `solution.events`, that
            returns `Gradients`.
        name: String, the name of the adjoint, for messages.

    Returns:
        The `Solution`, its states differentiable once.
    """
    solutions = []

    @tf_internals.custom_gradient
    def solve(*tensors):
        graph = tf.compat.v1.get_default_graph()
        # A graph that only infers records nothing, and can be exported.
        records = tf_internals.are_recording() or problem.is_whole_graph
        result = solve_unrecorded(problem, make_recorder() if records else None)
        solutions.append(result)

        def gradient(*cotangents, variables=()):
            with tf.control_dependencies(_require_unassigned(problem)):
                # Some, such as those of a transpose, have no static shape.
                cotangents = [
                    tf.ensure_shape(cotangent, output.shape)
                    for cotangent, output in zip(
                        cotangents, _outputs(result), strict=True
                    )
                ]
            # The gradient of a SavedModel, of a loop, or of a function within
            # another, is built in another graph. The records of the forward
            # pass are not available there, nor are metrics: solve again.
            is_here = tf.compat.v1.get_default_graph() is graph
            is_elsewhere = not is_here and not problem.is_whole_graph
            is_at_hand = records and not is_elsewhere
            gradients = _gradients(
                problem.unreported() if is_elsewhere else problem,
                backward,
                result
                if is_at_hand
                else solve_unrecorded(problem, make_recorder()),
                cotangents,
                name,
            )
            # Variables get theirs through the values that were read.
            nothing = [None] * len(variables)
            return (gradients, nothing) if variables else gradients

        return tuple(_outputs(result)), gradient

    outputs = list(solve(*problem.inputs))
    result, size = solutions[0], len(problem.y)
    states, outputs = outputs[:size], outputs[size:]
    if problem.events is not None:
        events = result.events._replace(times=outputs.pop())
        result = result._replace(events=events)
    if problem.keeps_dense:
        dense = result.dense._replace(coefficients=outputs)
        result = result._replace(dense=dense)
    return result._replace(states=states)


def _outputs(result):
    """Returns the tensors of a `Solution` that are differentiable."""
    return [
        *result.states,
        *(result.dense.coefficients if result.dense else []),
        *([result.events.times] if result.events else []),
    ]


def _gradients(problem, backward, *args):
    """Returns the cotangents of moments, state and all sources."""
    first, *others = problem.field.parts
    gradients = _differentiable_once(
        problem._replace(field=first), backward, *args
    )
    before = len(problem.moments) + len(problem.y)
    end = len(gradients) - len(problem.event_sources)
    gradients, of_events = gradients[:end], gradients[end:]
    for field in others:
        part = problem.silent()._replace(field=field)
        found = _differentiable_once(part, backward, *args)
        gradients += found[before : len(found) - len(of_events)]
    return gradients + of_events


def _require_unassigned(problem):
    """Returns assertions that variables are as the forward pass read them.

    Those whose values are captures may be assigned; those that an inner
    function of the dynamics reads are read again in the backward pass.
    """
    fields = [problem.field]
    if problem.events is not None:
        fields += problem.events.fields
    variables = [variable for field in fields for variable in field.variables]
    if not variables or not assertions.can_raise():
        return []
    values = [value for field in fields for value in field.values]
    return [
        assertions.require(
            # NaN does not equal itself.
            tf.reduce_all(
                tf.equal(variable, value) | tf.not_equal(value, value)
            ),
            "A variable that a `tf.function` or a loop within the dynamics "
            "reads must not be assigned between the solve and its gradient. "
            "Take the gradient before you assign it, or read it in the "
            f"dynamics themselves. Received: an assigned {variable.name!r} of "
            "shape",
            tf.shape(value),
        )
        for variable, value in zip(variables, values, strict=True)
    ]


def _differentiable_once(problem, backward, result, cotangents, name):
    """Runs the backward pass; a derivative of its result raises."""

    @tf_internals.custom_gradient
    def run(*tensors):
        gradients = backward(problem, result, list(tensors[: len(cotangents)]))

        def second(*unused, variables=()):
            raise NotImplementedError(
                f'adjoint="{name}" gives first derivatives only. Use '
                'adjoint="direct" for derivatives of gradients. Received: '
                f'adjoint="{name}" and a request for a second derivative'
            )

        flat = [
            *(gradients.moments or []),
            *gradients.y,
            *gradients.sources,
            *gradients.event_sources,
        ]
        flat = reported(problem.on_backward, gradients.num_evaluations, flat)
        flat = reported(problem.on_drift, gradients.drift, flat)
        return tuple(flat), second

    flat = run(*cotangents, *problem.inputs)
    unasked = [] if problem.times_vary else [None] * len(problem.moments)
    return [*unasked, *flat]


def reported(report, value, tensors):
    """Reports a value; returns tensors that wait for the report.

    The graph of a gradient runs only what its outputs wait for.

    Args:
        report: Callable of the value, such as one that updates a metric; or
            `None`.
        value: Tensor, or `None` if there is nothing to report.
        tensors: List of tensors.
    """
    if report is None or value is None:
        return tensors
    if tf.executing_eagerly():
        report(value)
        return tensors
    graph = tf.compat.v1.get_default_graph()
    num_before = len(graph.get_operations())
    report(value)
    updates = [
        op
        for op in graph.get_operations()[num_before:]
        if op.type.startswith("Assign")
    ]
    with tf.control_dependencies(updates):
        return [tf.identity(tensor) for tensor in tensors]
