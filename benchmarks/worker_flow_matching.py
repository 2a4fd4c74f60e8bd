"""Worker: flow matching with keras_node.

Run by `couplings.py`: `python worker_flow_matching.py case.npz results.npz`.
"""

import sys
import time

import coupling_problems as problems
import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import keras_node


class Pool:
    """A base of samples alone: any of some points."""

    def __init__(self, points):
        self.points = tf.constant(points)

    def sample(self, n, seed):
        """Returns `n` of the points, with replacement."""
        rows = tf.random.stateless_uniform(
            [n], seed, maxval=len(self.points), dtype=tf.int32
        )
        return tf.gather(self.points, rows)


def make_field(weights):
    """Returns the network, with these weights."""
    dense, width = keras.layers.Dense, problems.WIDTH
    field = keras_node.ConcatTime(
        keras.Sequential([*(dense(width, "selu") for _ in range(3)), dense(2)])
    )
    field(tf.constant(0.0), tf.zeros((1, 2)))
    field.set_weights(weights)
    return field


def main(path, results_path):
    """Trains, and carries the points of the case from source to target."""
    case = problems.read_case(path)
    keras.utils.set_random_seed(case["seed"])
    field = make_field(case["weights"])
    if "base" in case:
        base = Pool(case["base"])
    else:
        base = tfp.distributions.MultivariateNormalDiag(tf.zeros(2))
    flow = keras_node.NormalizingFlow(keras_node.CNFBijector(field), base)
    flow.compile(
        keras.optimizers.Adam(problems.LEARNING_RATE, epsilon=problems.EPSILON),
        objective=keras_node.objectives.FlowMatching(case["coupling"]),
    )
    start, cpu_start = time.perf_counter(), time.process_time()
    flow.fit(
        case["points"],
        batch_size=problems.BATCH_SIZE,
        shuffle=False,  # They are independent.
        verbose=0,
    )
    seconds = time.perf_counter() - start
    cpu_seconds = time.process_time() - cpu_start
    path = keras_node.odeint(
        field,
        tf.constant(case["start"]),
        np.linspace(0.0, 1.0, problems.EULER_STEPS + 1),
        solver=keras_node.solvers.Euler(),
    ).states
    np.savez(results_path, path=path, seconds=seconds, cpu_seconds=cpu_seconds)


if __name__ == "__main__":
    main(*sys.argv[1:])
