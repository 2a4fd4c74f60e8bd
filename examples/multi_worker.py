"""Trains an ODE-Net on several machines, and goes on when one is lost.

Each machine runs this file, under a `TF_CONFIG` that names all of them and
itself: here the first of two, the other having `"index": 1`.

    export TF_CONFIG='{"cluster": {"worker": ["10.0.0.1:2222",
      "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}'
    until python examples/multi_worker.py --checkpoints /shared/odenet
    do sleep 5; done

Every step they share a batch, and sum their gradients: the weights are those
that one machine would learn, to the solver's tolerance. `/shared` is a
directory that all of them see. When a worker is lost, the others stop with an
error within half a minute; `until` starts them again, and they resume from the
last checkpoint. What a step learns from depends on its number alone, so that
none is lost or repeated.

To try it on one machine, with as many processes, which are started again by
themselves when one dies (`kill -9` one of them):

    python examples/multi_worker.py --local 2

Reference:
- [Multi-worker training, TensorFlow](https://www.tensorflow.org/tutorials/distribute/multi_worker_with_ctl)
"""

import argparse
import pathlib
import shutil
import signal
import sys

import keras
import numpy as np
import tensorflow as tf
from local_workers import run_locally

import keras_node

SUBSET = pathlib.Path(__file__).with_name("mnist_subset.npz")
SMOKE_STEPS, SMOKE_DIGITS, SMOKE_BATCH_SIZE, SMOKE_FILTERS = 100, 64, 16, 4


# Data.


def load_data(arguments):
    """Returns the training digits and the test digits, in [0, 1]."""
    size = SMOKE_DIGITS if arguments.smoke else None
    with np.load(arguments.data) as mnist:
        return [
            (
                mnist[f"x_{part}"][:size, ..., np.newaxis] / np.float32(255),
                mnist[f"y_{part}"][:size].astype("int32"),
            )
            for part in ("train", "test")
        ]


def digits_of_step(step, num_digits, arguments):
    """Returns the indices of a step's batch, from its number and the seed."""
    steps_per_epoch = num_digits // arguments.batch_size
    epoch, position = divmod(step, steps_per_epoch)
    order = np.random.default_rng((arguments.seed, epoch))
    first = position * arguments.batch_size
    return order.permutation(num_digits)[first : first + arguments.batch_size]


def distribute(strategy, arrays, indices):
    """Gives each replica its share of the indexed rows of some arrays."""

    def share(context):
        shares = np.array_split(indices, context.num_replicas_in_sync)
        rows = shares[context.replica_id_in_sync_group]
        return tuple(tf.constant(array[rows]) for array in arrays)

    return strategy.experimental_distribute_values_from_function(share)


# Network.


def build_model(arguments):
    filters = arguments.filters
    field = keras.Sequential(
        [
            keras.layers.Conv2D(filters, 3, padding="same", activation="tanh"),
            keras.layers.Conv2D(filters, 3, padding="same"),
        ]
    )
    solver = keras_node.solvers.Bosh3(rtol=1e-2, atol=1e-2)
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(filters, 4, strides=2, activation="relu"),
            keras.layers.Conv2D(filters, 4, strides=2),
            keras_node.ODELayer(
                keras_node.ConcatTime(field), solver=solver, name="ode"
            ),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    )


# Training.


class Trainer:
    """What the workers do together, each call on all of them at once.

    Args:
        strategy: `tf.distribute.Strategy`.
        arguments: Those of the command line.
    """

    def __init__(self, strategy, arguments):
        self.strategy = strategy
        self.batch_size = arguments.batch_size
        # A variable made in the scope is one on every worker. The optimizer
        # makes its own now: what is restored later would be lost to it.
        with strategy.scope():
            self.model = build_model(arguments)
            self.optimizer = keras.optimizers.Adam(arguments.learning_rate)
            self.optimizer.build(self.model.trainable_variables)
            self.loss = keras.metrics.Mean("loss")
            self.accuracy = keras.metrics.SparseCategoricalAccuracy("accuracy")
        self.metrics = [self.loss, self.accuracy]
        self.metrics += self.model.get_layer("ode").metrics
        self.train = self._on_replicas(self._train)
        self.evaluate = self._on_replicas(self._evaluate)
        self._results = tf.function(self._results_and_reset)

    @property
    def step(self):
        """The number of steps taken, which a checkpoint keeps."""
        return int(self.optimizer.iterations.numpy())

    def report(self):
        """Returns the metrics of all replicas as text, and resets them."""
        names = [metric.name for metric in self.metrics]
        results = zip(names, self._results(), strict=True)
        return " ".join(f"{name} {result:.6f}" for name, result in results)

    def _results_and_reset(self):
        results = [metric.result() for metric in self.metrics]
        with tf.control_dependencies(results):
            for metric in self.metrics:
                metric.reset_state()
        return results

    def _on_replicas(self, function):
        return tf.function(
            lambda *data: self.strategy.run(function, data),
            reduce_retracing=True,
        )

    def _train(self, images, labels):
        weights = self.model.trainable_variables
        with tf.GradientTape() as tape:
            losses = self._losses(images, labels, training=True)
            # The optimizer sums the gradients of all replicas.
            loss = tf.reduce_sum(losses) / self.batch_size
        self.optimizer.apply(tape.gradient(loss, weights), weights)

    def _evaluate(self, images, labels):
        self._losses(images, labels, training=False)

    def _losses(self, images, labels, training):
        logits = self.model(images, training=training)
        losses = keras.losses.sparse_categorical_crossentropy(
            labels, logits, from_logits=True
        )
        self.loss.update_state(losses)
        self.accuracy.update_state(labels, logits)
        return losses


class Checkpoints:
    """Checkpoints that all workers read, and the first of them writes.

    Args:
        trainer: `Trainer`.
        directory: String, one that all workers share.

    Raises:
        RuntimeError: If the workers do not find the same checkpoint.
    """

    def __init__(self, trainer, directory):
        checkpoint = tf.train.Checkpoint(
            model=trainer.model, optimizer=trainer.optimizer
        )
        path = tf.train.latest_checkpoint(directory)
        if path is not None:
            checkpoint.restore(path).assert_consumed()
        _check_same_step(trainer, directory)
        # All have to save, since it may read what is spread over the workers;
        # but not to the same place.
        index = trainer.strategy.cluster_resolver.task_id
        self._spare = pathlib.Path(directory) / f"worker_{index}"
        self._manager = tf.train.CheckpointManager(
            checkpoint, self._spare if index else directory, max_to_keep=2
        )

    def save(self, step):
        self._manager.save(checkpoint_number=step)

    def clean(self):
        """Removes what does not count."""
        shutil.rmtree(self._spare, ignore_errors=True)


def _check_same_step(trainer, directory):
    steps = trainer.strategy.gather(tf.constant([trainer.step]), axis=0)
    if len(set(steps.numpy())) > 1:
        raise RuntimeError(
            "All workers must find the same checkpoint: `--checkpoints` must "
            "name a directory that they share. "
            f"Received: checkpoints={directory}, with steps={steps.numpy()}"
        )


def train(strategy, arguments):
    """Trains to the last step, as whichever worker this is."""

    def say(text):
        if not strategy.cluster_resolver.task_id:
            print(text, flush=True)

    keras.utils.set_random_seed(arguments.seed)
    data, test_data = load_data(arguments)
    trainer = Trainer(strategy, arguments)
    checkpoints = Checkpoints(trainer, arguments.checkpoints)
    say(f"begin after step {trainer.step}")
    for step in range(trainer.step + 1, arguments.steps + 1):
        indices = digits_of_step(step - 1, len(data[0]), arguments)
        trainer.train(*distribute(strategy, data, indices))
        if step % arguments.log_every == 0:
            say(f"step {step} {trainer.report()}")
        if step % arguments.checkpoint_every == 0 or step == arguments.steps:
            checkpoints.save(step)
    trainer.report()
    indices = np.arange(len(test_data[0]))
    trainer.evaluate(*distribute(strategy, test_data, indices))
    say(f"test {trainer.report()}")
    checkpoints.clean()


# Command line.


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description="Train a Neural ODE on several machines.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--steps", type=int, default=600, help="to train in all")
    add("--batch-size", type=int, default=128, help="digits of all workers")
    add("--learning-rate", type=float, default=3e-3, help="of Adam")
    add("--filters", type=int, default=16, help="channels of the network")
    add("--seed", type=int, default=0, help="of weights and batches")
    add("--data", default=SUBSET, help="an .npz of digits")
    add(
        "--checkpoints",
        default="multi_worker_checkpoints",
        help="directory, the same for all workers, to resume from as well",
    )
    add("--checkpoint-every", type=int, default=50, help="steps")
    add("--log-every", type=int, default=50, help="steps")
    add("--local", type=int, default=0, help="workers to start here")
    add("--max-restarts", type=int, default=3, help="of the local workers")
    add("--smoke", action="store_true", help="a small network on a few digits")
    arguments = parser.parse_args(argv)
    if arguments.smoke:
        arguments.steps, arguments.filters = SMOKE_STEPS, SMOKE_FILTERS
        arguments.batch_size = SMOKE_BATCH_SIZE
    return arguments


def main(argv=None):
    arguments = parse_arguments(argv)
    if arguments.local:
        # To end as by an exception, and the workers with it.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        command = [sys.executable, __file__, *(argv or sys.argv[1:])]
        command += ["--local", "0"]
        run_locally(command, arguments.local, arguments.max_restarts)
        return
    # Before anything else of TensorFlow, which it configures.
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    train(strategy, arguments)


if __name__ == "__main__":
    main()
