"""How the memory of a training step grows with the number of steps.

Each cell is a process of its own: peak resident memory after one training
step with Tsit5 at a fixed step size, less the peak before it (libraries
imported, the field and its gradient run once, the step traced). `--flow`
trains a flow with the exact trace, whose state the workload's is.

    python benchmarks/memory.py
    python benchmarks/memory.py --flow --workload mlp_64 \
        --adjoints backsolve "checkpoint(16)"
"""

import argparse
import dataclasses
import subprocess
import sys

import numpy as np
import protocol
import tensorflow as tf
import timing
import training
import workloads

import keras_node

ADJOINTS = {
    "backsolve": lambda: keras_node.adjoints.BacksolveAdjoint(),
    "checkpoint": lambda: keras_node.adjoints.CheckpointAdjoint(),
    "checkpoint(16)": lambda: keras_node.adjoints.CheckpointAdjoint(
        max_checkpoints=16, memory_limit=0
    ),
    "direct": lambda: keras_node.adjoints.DirectAdjoint(),
}
STEPS = (10, 40, 160, 1000)
# The memory of autodiff grows with the steps, by 18 MB for each of them.
MOST_STEPS = {"direct": 160}


def warm_up(field, state):
    """Runs the field and its gradient once, in a graph."""

    def evaluate(y):
        return field(tf.constant(0.0), y)[tf.newaxis], 0

    training.make_step(field, evaluate)(state)


def measure(options, adjoint, steps):
    """Prints the megabytes that one training step adds, in this process."""
    training.use_benchmark_threads()
    workload = workloads.make(options.workload)
    workload = dataclasses.replace(
        workload,
        initial_state=np.repeat(
            workload.initial_state, options.batch_factor, axis=0
        ),
        step_size=1 / steps,
    )
    field = training.make_field(workload)
    state = tf.constant(workload.initial_state)
    warm_up(field, state)
    make_solve = training.flow if options.flow else training.layer
    solve = make_solve(field, workload, ADJOINTS[adjoint]())
    step = training.make_step(field, solve).get_concrete_function(state)
    before = protocol.peak_megabytes()
    _, gradients, _ = step(state)
    gradients[-1].numpy()
    print(protocol.peak_megabytes() - before)


def measure_elsewhere(options, adjoint, steps):
    """Runs `measure` in a new process and returns its megabytes."""
    command = [sys.executable, __file__, "--workload", options.workload]
    command += ["--batch-factor", str(options.batch_factor)]
    command += ["--flow"] * options.flow
    command += ["--measure", adjoint, str(steps)]
    answer = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=protocol.quiet_environment(),
    )
    if answer.returncode:
        sys.exit(answer.stderr)
    megabytes = float(answer.stdout.splitlines()[-1])
    print(f"{adjoint}, {steps} steps: {megabytes:.1f} MB", file=sys.stderr)
    return megabytes


def main():
    """Prints the table, or measures one of its cells."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--workload", default="mlp_large", choices=workloads.WORKLOADS
    )
    parser.add_argument(
        "--batch-factor",
        type=int,
        default=4,
        help="a larger batch lifts the numbers above the allocator's noise",
    )
    parser.add_argument("--flow", action="store_true")
    parser.add_argument(
        "--adjoints", nargs="+", choices=ADJOINTS, default=list(ADJOINTS)
    )
    parser.add_argument("--measure", nargs=2, metavar=("ADJOINT", "STEPS"))
    options = parser.parse_args()
    if options.measure:
        adjoint, steps = options.measure
        measure(options, adjoint, int(steps))
        return
    rows = []
    for adjoint in options.adjoints:
        steps = [n for n in STEPS if n <= MOST_STEPS.get(adjoint, n)]
        added = [measure_elsewhere(options, adjoint, n) for n in steps]
        row = [adjoint, *(f"{megabytes:.1f}" for megabytes in added)]
        row += ["-"] * (len(STEPS) - len(steps))
        rows.append((*row, f"{added[-1] / max(added[0], 1e-3):.2f}"))
    timing.print_table(
        f"{options.workload}, batch x {options.batch_factor}: MB added by one "
        f"training step{' of a flow' * options.flow}",
        ("adjoint", *(f"{n} steps" for n in STEPS), "last / first"),
        rows,
    )


if __name__ == "__main__":
    main()
