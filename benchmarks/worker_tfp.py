"""Worker: one step with TensorFlow Probability: its solver, its FFJORD.

Run by `run.py`: `python worker_tfp.py`.
"""

import protocol
import tensorflow as tf
import tensorflow_probability as tfp
import training
from tensorflow_probability.python.bijectors import ffjord


def solver_of(workload):
    """Returns tfp's counterpart of the workload's solver."""
    return tfp.math.ode.DormandPrince(rtol=workload.rtol, atol=workload.atol)


def layer(field, workload):
    """Returns the solve: tfp's gradient needs the weights as constants."""
    solver = solver_of(workload)
    weights = training.weights_of(field)

    def dynamics(t, y, **constants):
        values = [constants[f"w{i}"] for i in range(len(weights))]
        slopes, _ = field.stateless_call(values, [], t, y)
        return slopes

    def solve(initial_state):
        constants = {f"w{i}": w.value for i, w in enumerate(weights)}
        results = solver.solve(
            dynamics,
            workload.times[0],
            initial_state,
            solution_times=list(workload.times[1:]),
            constants=constants,
        )
        states = tf.concat([initial_state[tf.newaxis], results.states], 0)
        return states, (
            results.diagnostics.num_ode_fn_evaluations,
            tf.constant(-1),
        )

    return solve


def flow(field, workload):
    """Returns the solve of a flow."""
    is_exact = workload.probes is None
    bijector = ffjord.FFJORD(
        field,
        ode_solve_fn=solver_of(workload).solve,
        trace_augmentation_fn=ffjord.trace_jacobian_exact
        if is_exact
        else ffjord.trace_jacobian_hutchinson,
    )
    return training.transformed(bijector)


def prepare(workload):
    """The step of `workload`, for `protocol.serve`."""
    field = training.make_field(workload)
    make_solve = flow if workload.kind == "flow" else layer
    function = training.make_step(
        field, make_solve(field, workload), trains=workload.trains
    )
    state = tf.constant(workload.initial_state)
    last = {}

    def step():
        last["results"] = function(state)
        last["results"][0].numpy()

    def report():
        states, gradients, (evaluations, _) = last["results"]
        names = [*workload.weights, "initial_state"] if gradients else []
        arrays = [gradient.numpy() for gradient in gradients]
        results = dict(zip(names, arrays, strict=True))
        return {"solution": states.numpy(), **results}, {
            "nfe": int(evaluations)
        }

    return step, report


if __name__ == "__main__":
    training.use_benchmark_threads()
    protocol.serve(prepare)
