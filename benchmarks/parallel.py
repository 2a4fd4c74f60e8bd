"""Data parallelism: a step of one global batch on one core, and on two.

One worker with one core; two replicas in one process (`MirroredStrategy`, a
core each); two workers of one core each (`MultiWorkerMirroredStrategy`, local
processes). A step is the solve of an MLP, a quarter of whose samples are eight
times as fast, its gradients and their sum over the replicas. "One
clock" solves each replica's share with one step size, so that the slowest share
is waited for; "own clocks" gives each sample its own. Prints milliseconds, the
speed-up over one core, and the efficiency; before that, each measurement. For
Linux: cores are given by affinity.

    python benchmarks/parallel.py    # Eight minutes idle.
"""

import argparse
import json
import os
import subprocess
import sys
import time

import numpy as np
import timing

BATCH, STATE, WIDTH = 2048, 16, 128
STEPS = 20
# Of the batch; the hard samples come last, so one replica has them all.
HARD = 0.25
KINDS = ("one core", "two replicas", "two workers")


def make_model(own_clocks):
    """Returns a field and a function of the batch: the loss of its sum."""
    import keras
    import tensorflow as tf

    import keras_node

    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.layers.Dense(WIDTH, "tanh"),
            keras.layers.Dense(WIDTH, "tanh"),
            keras.layers.Dense(STATE),
        ]
    )
    network.build((None, STATE))
    solver = keras_node.solvers.Tsit5(
        rtol=1e-5, atol=1e-6, per_sample_steps=own_clocks
    )

    def loss(y0, rate):
        def field(t, y):
            return rate * network(y)

        end = keras_node.odeint(field, y0, (0.0, 1.0), solver).states[-1]
        return tf.reduce_sum(end**2) / BATCH

    return network, loss


def make_batch():
    """Returns states, and the rate of each: some are fast."""
    rng = np.random.default_rng(0)
    y0 = rng.normal(size=(BATCH, STATE)).astype(np.float32)
    rate = np.ones((BATCH, 1), np.float32)
    rate[int((1 - HARD) * BATCH) :] = 8.0
    return y0, rate


def strategy_of(kind):
    """Returns the strategy of this process."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    threads = 2 if kind == "two replicas" else 1
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    if kind == "two workers":
        return tf.distribute.MultiWorkerMirroredStrategy()
    if kind == "one core":
        return tf.distribute.get_strategy()
    (cpu,) = tf.config.list_physical_devices("CPU")
    half = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [half, half])
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def run(kind, own_clocks):
    """Times the steps in this process; the first worker prints them."""
    import tensorflow as tf

    strategy = strategy_of(kind)
    with strategy.scope():
        network, loss = make_model(own_clocks)
    y0, rate = make_batch()
    count = strategy.num_replicas_in_sync

    def share(context):
        shares = np.array_split(np.arange(BATCH), count)
        index = shares[context.replica_id_in_sync_group]
        return tf.constant(y0[index]), tf.constant(rate[index])

    data = strategy.experimental_distribute_values_from_function(share)

    def replica_step(y0, rate):
        weights = network.trainable_variables
        with tf.GradientTape() as tape:
            value = loss(y0, rate)
        gradients = tape.gradient(value, [w.value for w in weights])
        return tf.distribute.get_replica_context().all_reduce("sum", gradients)

    step = tf.function(lambda data: strategy.run(replica_step, data))
    seconds = []
    for _ in range(STEPS + 3):
        start = time.perf_counter()
        result = step(data)
        strategy.experimental_local_results(result[-1])[0].numpy()
        seconds.append(time.perf_counter() - start)
    print(json.dumps(float(np.median(seconds[3:]))))


def start(kind, own_clocks, cores, environment=()):
    """Starts this file as one process on some cores."""
    command = [sys.executable, __file__, "--run", kind]
    return subprocess.Popen(
        command + ["--own-clocks"] * own_clocks,
        env={
            **os.environ,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "CUDA_VISIBLE_DEVICES": "-1",
            **dict(environment),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )


def measure(kind, own_clocks):
    """Returns the seconds of a step."""
    if kind == "two workers":
        sys.path.append(
            os.path.join(os.path.dirname(__file__), "..", "examples")
        )
        from local_workers import free_addresses

        cluster = {"worker": free_addresses(2)}
        processes = [
            start(
                kind,
                own_clocks,
                {core},
                {
                    "TF_CONFIG": json.dumps(
                        {
                            "cluster": cluster,
                            "task": {"type": "worker", "index": core},
                        }
                    )
                },
            )
            for core in (0, 1)
        ]
    else:
        cores = {0} if kind == "one core" else {0, 1}
        processes = [start(kind, own_clocks, cores)]
    outputs = [process.communicate()[0] for process in processes]
    return float(json.loads(outputs[0].splitlines()[-1]))


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", choices=KINDS)
    parser.add_argument("--own-clocks", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.run:
        run(options.run, options.own_clocks)
        return
    for own_clocks in (False, True):
        title = "own clocks" if own_clocks else "one clock"
        seconds = {kind: [] for kind in KINDS}
        for _ in range(options.rounds):
            for kind in KINDS:
                value = measure(kind, own_clocks)
                seconds[kind].append(value)
                print(f"{title}, {kind}: {1e3 * value:.1f} ms", flush=True)
        print_speed_ups(title, seconds)


def print_speed_ups(title, seconds):
    """Prints the medians, and what more cores gain."""
    medians = {kind: np.median(values) for kind, values in seconds.items()}
    timing.print_table(
        title,
        ("", "ms", "speed-up", "efficiency"),
        [
            (
                kind,
                f"{1e3 * median:.1f}",
                f"{medians['one core'] / median:.2f}",
                f"{medians['one core'] / median / (1 + (i > 0)):.2f}",
            )
            for i, (kind, median) in enumerate(medians.items())
        ],
    )
    print()


if __name__ == "__main__":
    main()
