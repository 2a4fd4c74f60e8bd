"""Table 1's column of memory: depth and steps against megabytes.

The peak of a process that takes three training steps of a batch of 128 digits,
less that of the network without a block. The depth of a ResNet is the number of
its blocks; that of the others the number of fixed RK4 steps, of four
evaluations each.
"""

import argparse
import pathlib
import subprocess
import sys

import keras
import mnist_odenet
import numpy as np

import keras_node
from examples.reproduce.logs import Log

BATCH_SIZE = 128
DEPTHS = (3, 6, 12, 24)
COLUMNS = "kind depth megabytes".split()
ADJOINTS = {
    "RK-Net, backpropagation": keras_node.adjoints.DirectAdjoint,
    "ODE-Net, default": keras_node.adjoints.CheckpointAdjoint,
    "ODE-Net, checkpoints": lambda: keras_node.adjoints.CheckpointAdjoint(
        max_checkpoints=4, memory_limit=0
    ),
    "ODE-Net, backsolve": lambda: keras_node.adjoints.BacksolveAdjoint(
        max_drift=None
    ),
}
KINDS = ("ResNet", *ADJOINTS)


def build(kind, depth):
    """Returns a compiled network of a depth; of depth 0 one without a block."""
    images = keras.Input((28, 28, 1))
    features = mnist_odenet.downsample(images)
    if depth and kind == "ResNet":
        mnist_odenet.RESIDUAL_BLOCKS = depth
        features = mnist_odenet.residual_blocks(features)
    elif depth:
        solver = keras_node.solvers.RK4(step_size=1 / depth)
        features = mnist_odenet.ode_block(features, solver, ADJOINTS[kind]())
    model = keras.Model(images, mnist_odenet.classify(features))
    model.compile(
        "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    return model


def peak_megabytes():
    """Returns the largest resident set of this process so far (Linux)."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    (peak,) = [line.split()[1] for line in lines if line.startswith("VmHWM")]
    return int(peak) / 1024


def measure_here(kind, depth):
    """Returns the peak of this process after three training steps."""
    model = build(kind, depth)
    rng = np.random.default_rng(0)
    images = rng.random((BATCH_SIZE, 28, 28, 1), "float32")
    labels = rng.integers(0, 10, BATCH_SIZE)
    for _ in range(3):
        model.train_on_batch(images, labels)
    return peak_megabytes()


def measure(kind, depth):
    """Returns the same, of a process of its own."""
    command = [sys.executable, "-m", "examples.reproduce.memory"]
    answer = subprocess.run(
        [*command, kind, str(depth)],
        capture_output=True,
        text=True,
        check=True,
        cwd=pathlib.Path(__file__).parents[2],
    )
    return float(answer.stdout.splitlines()[-1])


def main(options):
    """Measures what the log lacks."""
    log = Log(options.logs / "memory.csv", COLUMNS)
    kinds, depths = KINDS, DEPTHS
    if options.smoke:
        kinds, depths = KINDS[:1], DEPTHS[:1]
    without = None
    for kind in kinds:
        for depth in depths:
            case = {"kind": kind, "depth": depth}
            if log.rows(**case):
                continue
            without = without or measure("ResNet", 0)
            found = measure(kind, depth) - without
            log.append(**case, megabytes=found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kind")
    parser.add_argument("depth", type=int)
    arguments = parser.parse_args()
    print(measure_here(arguments.kind, arguments.depth))
