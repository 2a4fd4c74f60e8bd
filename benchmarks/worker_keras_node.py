"""Worker: one training step with keras_node, as a graph or under XLA.

Run by `speed.py`: `python worker_keras_node.py graph` (or `xla`).
"""

import sys

import protocol
import tensorflow as tf
import training

import keras_node


def prepare(workload, jit_compile, is_tuned):
    """The training step of `workload`, for `protocol.serve`."""
    field = training.make_field(workload, is_tuned)
    solver = keras_node.solvers.Tsit5(rtol=workload.rtol, atol=workload.atol)
    initial_state = tf.constant(workload.initial_state)
    last = {}

    def solve(state):
        results = keras_node.odeint(field, state, training.TIMES, solver=solver)
        return results.states[-1], results.diagnostics.num_ode_fn_evaluations

    training_step = training.make_step(field, solve, jit_compile)

    def step():
        last["gradients"], last["nfe"] = training_step(initial_state)
        # Wait for the result, as the other workers do.
        last["gradients"][-1].numpy()

    def report():
        names = [*workload.weights, "initial_state"]
        arrays = [gradient.numpy() for gradient in last["gradients"]]
        counts = {"nfe": int(last["nfe"])}
        return dict(zip(names, arrays, strict=True)), counts

    return step, report


if __name__ == "__main__":
    training.use_benchmark_threads()
    jit_compile = {"graph": False, "xla": True}[sys.argv[1]]
    is_tuned = "tuned" in sys.argv[2:]
    protocol.serve(lambda workload: prepare(workload, jit_compile, is_tuned))
