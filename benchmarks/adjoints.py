"""What each adjoint costs: seconds and evaluations of a training step.

They train the same `ODELayer`, in graph mode, in turns; one of them takes all
steps again.

    python benchmarks/adjoints.py
"""

import argparse

import numpy as np
import tensorflow as tf
import timing
import training
import workloads

import keras_node

ADJOINTS = {
    "checkpoint": "checkpoint",
    "checkpoint_again": keras_node.adjoints.CheckpointAdjoint(memory_limit=0),
    "backsolve": "backsolve",
    "direct": "direct",
}


def make_training_step(workload, name):
    """Returns a training step and the layer that it trains."""
    layer = keras_node.ODELayer(
        training.make_field(workload),
        times=training.TIMES,
        solver=keras_node.solvers.Tsit5(rtol=workload.rtol, atol=workload.atol),
        adjoint=ADJOINTS[name],
        name=name,
    )
    layer.build(workload.initial_state.shape)
    state = tf.constant(workload.initial_state)

    def solve(initial_state):
        end = layer(initial_state, training=True)
        return end[tf.newaxis], tf.constant(0)

    step = training.make_step(layer, solve)
    return lambda: step(state)[1][-1].numpy(), layer


def evaluations(step, layer):
    """Forward and backward evaluations of one step, from the metrics."""
    for metric in layer.metrics:
        metric.reset_state()
    step()
    counts = {m.name: round(float(m.result())) for m in layer.metrics}
    return counts[f"{layer.name}_nfe"], counts[f"{layer.name}_nfe_backward"]


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--workload", default="mlp_small", choices=workloads.WORKLOADS
    )
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    training.use_benchmark_threads()
    workload = workloads.make(options.workload)
    runs, counts = {}, {}
    for adjoint in ADJOINTS:
        step, layer = make_training_step(workload, adjoint)
        step()
        counts[adjoint] = evaluations(step, layer)
        runs[adjoint] = timing.stopwatch(step)
    seconds = timing.alternate(runs, options.rounds)
    medians = {key: np.median(values) for key, values in seconds.items()}
    rows = [
        (
            adjoint,
            f"{1e3 * median:.2f}",
            f"{1e3 * seconds[adjoint].min():.2f}",
            *map(str, counts[adjoint]),
            f"{median / medians['checkpoint']:.2f}",
        )
        for adjoint, median in medians.items()
    ]
    timing.print_table(
        f"{workload.name}: one training step with each adjoint",
        ("adjoint", "median ms", "best ms", "NFE", "backward", "/ checkpoint"),
        rows,
    )


if __name__ == "__main__":
    main()
