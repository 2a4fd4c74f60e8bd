"""Worker: one step with keras_node, eagerly, as a graph or under XLA.

Run by `run.py`: `python worker_keras_node.py graph` (or `xla`, `eager`), and
the name of an adjoint if it is not the default. `bare` is the physical limit:
a loop that does nothing but evaluate the field and its vector-Jacobian product
as often as the training step has stages.
"""

import sys

import protocol
import tensorflow as tf
import training

JIT_COMPILE = {"eager": None, "graph": False, "xla": True, "bare": False}
STAGES = 6  # Of Tsit5, first same as last.


def bare_loop(field, workload):
    """Returns the step of the physical limit."""
    solve = training.layer(field, workload)
    state = tf.constant(workload.initial_state)
    count = STAGES * int(tf.function(solve)(state)[1][1])

    def loop(y):
        variables = [weight.value for weight in training.weights_of(field)]

        def body(i, y, gradients):
            with tf.GradientTape() as tape:
                tape.watch(y)
                slope = field(tf.constant(0.5), y)
            # The slope as its own cotangent: nothing is left out.
            new = tape.gradient(slope, [*variables, y], output_gradients=slope)
            total = [a + b for a, b in zip(gradients, new, strict=True)]
            return i + 1, y + 1e-3 * slope, total

        zeros = [tf.zeros(x.shape) for x in [*variables, y]]
        _, y, gradients = tf.while_loop(
            lambda i, *_: i < count,
            body,
            (0, y, zeros),
            # A solve goes backwards when it has gone forwards: no evaluation
            # overlaps the vector-Jacobian product of another.
            parallel_iterations=1,
        )
        return tf.stack([y, y]), gradients, (tf.constant(count), count)

    return tf.function(loop)


def prepare(workload, mode, adjoint="auto"):
    """The step of `workload`, for `protocol.serve`."""
    field = training.make_field(workload)
    make_solve = training.flow if workload.kind == "flow" else training.layer
    if mode == "bare":
        function = bare_loop(field, workload)
    else:
        function = training.make_step(
            field,
            make_solve(field, workload, adjoint),
            JIT_COMPILE[mode],
            workload.trains,
        )
    initial_state = tf.constant(workload.initial_state)
    last = {}

    def step():
        last["results"] = function(initial_state)
        # Wait for the result, as the other workers do.
        last["results"][0].numpy()
        for gradient in last["results"][1][-1:]:
            gradient.numpy()

    def report():
        states, gradients, (evaluations, accepted) = last["results"]
        names = [*workload.weights, "initial_state"] if gradients else []
        arrays = [gradient.numpy() for gradient in gradients]
        counts = {"nfe": int(evaluations), "accepted": int(accepted)}
        results = dict(zip(names, arrays, strict=True))
        return {"solution": states.numpy(), **results}, counts

    return step, report


if __name__ == "__main__":
    training.use_benchmark_threads()
    protocol.serve(lambda workload: prepare(workload, *sys.argv[1:]))
