"""Tests of the memory that a training step takes.

Each measurement is a process of its own, this file run as a script. Its
baseline is the peak resident memory after everything but the training step:
libraries imported, the step traced, and one gradient of the field alone
taken. The memory of a training step is the peak above that. The same graph
takes few steps first, and many then: how TensorFlow orders a graph varies from
one process to the next, and its peak by 40 MB.
"""

import gc
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import keras_node

ADJOINTS = {
    "backsolve": keras_node.adjoints.BacksolveAdjoint,
    "checkpoint": lambda: keras_node.adjoints.CheckpointAdjoint(
        max_checkpoints=16
    ),
    "direct": keras_node.adjoints.DirectAdjoint,
}


def make_field(width):
    rng = np.random.default_rng(0)
    sizes = (16, width, width, 16)
    weights = [
        tf.Variable(rng.normal(0.0, a**-0.5, size=(a, b)).astype(np.float32))
        for a, b in zip(sizes, sizes[1:], strict=False)
    ]

    def field(t, y):
        y = tf.tanh(y @ weights[0])
        y = tf.tanh(y @ weights[1])
        return y @ weights[2]

    return field, weights


def training_step(field, weights, adjoint):
    """Returns a function of state and length that gives the gradients.

    It takes ten steps for each unit of length.
    """
    solver = keras_node.solvers.Tsit5(step_size=0.1)

    def step(state, length):
        times = tf.stack([tf.zeros_like(length), length])
        with tf.GradientTape() as tape:
            states = keras_node.odeint(
                field, state, times, solver, ADJOINTS[adjoint]()
            ).states
            loss = tf.reduce_sum(states[-1] ** 2)
        return tape.gradient(loss, weights)

    return step


def peak_megabytes():
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def main(adjoint, mode, *numbers):
    """Prints the megabytes that training steps of increasing length add."""
    field, weights = make_field(128)
    # So large a batch that what the allocator keeps does not count.
    state = tf.ones([8192, 16])
    step = training_step(field, weights, adjoint)
    if mode == "function":
        step = tf.function(step).get_concrete_function(state, tf.constant(1.0))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(field(0.0, state))
    tape.gradient(loss, weights)
    baseline = peak_megabytes()
    most = max(int(number) for number in numbers)
    for number in numbers:
        # As many solver steps for each, to meet as many peaks.
        for _ in range(most // int(number)):
            gradients = step(state, tf.constant(int(number) / 10.0))
        if not all(np.isfinite(g).all() for g in gradients):
            sys.exit("gradients are not finite")
        print(peak_megabytes() - baseline)


def measure(adjoint, mode, *numbers):
    """Returns the megabytes of training steps with so many solver steps."""
    process = subprocess.run(
        [sys.executable, __file__, adjoint, mode, *map(str, numbers)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return [float(x) for x in process.stdout.splitlines()[-len(numbers) :]]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ("function", "eager"))
def test_memory_is_bounded_whatever_the_number_of_steps(mode):
    backsolve = measure("backsolve", mode, 10, 160)
    checkpoint = measure("checkpoint", mode, 10, 160)
    # 160 steps would take 10 GB; a third of those of 40 is the harder bound.
    direct = measure("direct", mode, 10, 40)
    print(f"{mode}: {backsolve=} {checkpoint=} {direct=} MB")
    assert backsolve[1] <= 1.1 * backsolve[0]
    assert checkpoint[1] <= 1.5 * checkpoint[0]
    assert direct[1] >= 3.0 * direct[0]
    assert max(backsolve[1], checkpoint[1]) <= direct[1] / 3.0


@pytest.mark.parametrize(
    "adjoint",
    (
        "checkpoint",
        pytest.param("backsolve", marks=pytest.mark.slow),
        pytest.param("direct", marks=pytest.mark.slow),
    ),
)
def test_repeated_eager_calls_leave_nothing_behind(adjoint):
    field, weights = make_field(4)
    step = training_step(field, weights, adjoint)
    state = tf.ones([2, 16])

    def objects_after(num_calls):
        for _ in range(num_calls):
            step(state, tf.constant(0.2))
        gc.collect()
        return len(gc.get_objects())

    objects_after(3)
    before = objects_after(1)
    # One object a call would show.
    assert objects_after(20) < before + 20


@pytest.mark.slow
@pytest.mark.parametrize("adjoint", ("checkpoint", "backsolve", "direct"))
def test_resident_memory_is_flat_over_repeated_eager_calls(adjoint):
    field, weights = make_field(128)
    step = training_step(field, weights, adjoint)
    state = tf.ones([512, 16])
    for _ in range(20):
        step(state, tf.constant(0.2))
    before = peak_megabytes()
    for _ in range(50):
        step(state, tf.constant(0.2))
    # 50 leaked states would be 1.6 MB, 50 activations 12 MB, 50 graphs 50 MB.
    assert peak_megabytes() - before < 8.0


if __name__ == "__main__":
    main(*sys.argv[1:])
