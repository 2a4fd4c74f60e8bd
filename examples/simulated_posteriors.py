"""Posteriors of simulators: conditional flows, trained by flow matching.

For each task of the benchmark sbibm, one flow learns the density of parameters
given data from simulations, and is then asked for the posteriors of ten
observations. Each is scored by a classifier that tells its draws from the
benchmark's reference draws: its accuracy on draws held out, 0.5 at best (C2ST).

    pip install scikit-learn
    pip download sbibm --no-deps && unzip sbibm-*.whl
    python examples/simulated_posteriors.py --sbibm sbibm
    python examples/simulated_posteriors.py --sbibm sbibm --tasks sir

What the log has is not done again.

Reference:
- [Lueckmann et al., 2021](https://arxiv.org/abs/2101.04653)
- [Wildberger et al., 2023](https://arxiv.org/abs/2305.17161)
"""

import argparse
import importlib
import pathlib
import time

import keras
import numpy as np
import sbibm_tasks
import tensorflow as tf
import tensorflow_probability as tfp
from csv_log import append, keep_smoke_apart, read

import keras_node

NUM_DRAWS, DRAWING_RTOL = 10_000, 1e-4
LEARNING_RATE = 2e-3
# Published C2ST of neural posterior estimation, mean of the ten observations:
# `main_paper.csv` of the benchmark's results.
NPE = {
    ("two_moons", 1_000): 0.725,
    ("two_moons", 10_000): 0.606,
    ("gaussian_mixture", 1_000): 0.731,
    ("gaussian_mixture", 10_000): 0.661,
    ("slcp", 1_000): 0.975,
    ("slcp", 10_000): 0.901,
    ("sir", 1_000): 0.815,
    ("sir", 10_000): 0.680,
}


@keras.saving.register_keras_serializable(package="simulated_posteriors")
class ResidualField(keras.layers.Layer):
    """A residual network of state, time and condition.

    Args:
        width: Integer, units of a layer.
        depth: Integer, residual blocks of two layers.
        **kwargs: Other arguments of `keras.layers.Layer`.

    Call arguments:
        t: Float tensor of shape `()` or `(batch,)`, from 0 to 1.
        y: Float tensor `(batch, features)`.
        condition: Float tensor `(batch, condition features)`.
    """

    def __init__(self, width, depth, **kwargs):
        super().__init__(**kwargs)
        self.width, self.depth = width, depth
        self.first = keras.layers.Dense(width)
        self.blocks = [
            keras.Sequential(
                [
                    keras.layers.Activation("silu"),
                    keras.layers.Dense(width, "silu"),
                    keras.layers.Dense(width, kernel_initializer="zeros"),
                ]
            )
            for _ in range(depth)
        ]

    def build(self, t_shape, y_shape, condition_shape):
        self.first.build((None, y_shape[-1] + 3 + condition_shape[-1]))
        for block in self.blocks:
            block.build((None, self.width))
        self.last = keras.layers.Dense(y_shape[-1])
        self.last.build((None, self.width))

    def call(self, t, y, condition):
        t = keras.ops.reshape(t, (-1, 1))
        t = keras.ops.concatenate(
            [t, keras.ops.sin(np.pi * t), keras.ops.cos(np.pi * t)], axis=-1
        )
        t = keras.ops.broadcast_to(t, (keras.ops.shape(y)[0], 3))
        h = self.first(keras.ops.concatenate([y, t, condition], axis=-1))
        for block in self.blocks:
            h = h + block(h)
        return self.last(keras.ops.silu(h))

    def get_config(self):
        config = super().get_config()
        return {**config, "width": self.width, "depth": self.depth}


@keras.saving.register_keras_serializable(package="simulated_posteriors")
class LateTimes(keras_node.objectives.FlowMatching):
    """Flow matching with more of the times near the data.

    The density of a share `s` of the way is `2 s`: a narrow posterior takes
    shape late (Wildberger et al., 2023).
    """

    def shares(self, size, dtype, seed):
        return tf.sqrt(super().shares(size, dtype, seed))


def make_flow(task, arguments):
    """Returns a flow from normal numbers to the parameters of a task.

    The last of its bijectors keeps all draws within the bounds of the prior.
    """
    cnf = keras_node.CNFBijector(
        ResidualField(arguments.width, arguments.depth),
        solver=keras_node.solvers.Tsit5(
            rtol=arguments.rtol, atol=arguments.rtol
        ),
    )
    return keras_node.NormalizingFlow(
        tfp.bijectors.Chain([task.prior.bijector, cnf]),
        tfp.distributions.MultivariateNormalDiag(tf.zeros(task.prior.size)),
    )


def simulations(task, count, seed):
    """Returns simulations to train on, others held out, and a scaler.

    The scaler takes data to what the flow gets as its condition.
    """
    parameters, data = task.draw(count, seed)
    features = task.features(data)
    mean, scale = features.mean(axis=0), features.std(axis=0)
    # Some hardly vary: those on the first day of an epidemic are all 0 but few.
    scale = np.maximum(scale, 0.1 * scale.max())

    def condition_of(data):
        return ((task.features(data) - mean) / scale).astype("float32")

    pairs = {"x": parameters, "condition": condition_of(data)}
    held_out = max(count // 20, min(count // 10, 100))
    parts = [
        {key: values[rows] for key, values in pairs.items()}
        for rows in (slice(held_out, None), slice(held_out))
    ]
    return *parts, condition_of


def fit(flow, data, held_out, steps, arguments):
    """Trains for so many steps; keeps the weights best on simulations held out.

    They are judged by their likelihood.
    """
    count, checks = len(data["x"]), min(arguments.checks, steps)
    batches = tf.data.Dataset.from_tensor_slices(data)
    batches = batches.shuffle(count, seed=arguments.seed).repeat()
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    flow.compile(
        keras.optimizers.Adam(rate, clipnorm=1.0),
        objective=LateTimes(),
        steps_per_execution=min(50, steps // checks),
    )
    flow.fit(
        batches.batch(min(arguments.batch_size, count)),
        shuffle=False,
        steps_per_epoch=steps // checks,
        epochs=checks,
        validation_data=held_out,
        validation_batch_size=len(held_out["x"]),
        callbacks=[
            keras.callbacks.EarlyStopping(
                patience=arguments.patience, restore_best_weights=True
            )
        ],
        verbose=arguments.verbose,
    )


def steps_for(count, arguments):
    """Returns the steps of training, at most, with so many simulations.

    Fewer simulations are learnt sooner, and then by heart.
    """
    return max(1, round(arguments.steps * min(1.0, count / 10_000) ** 0.5))


def train(name, count, arguments):
    """Returns a flow, its scaler of data, and the seconds of training."""
    task = sbibm_tasks.TASKS[name]
    keras.utils.set_random_seed(arguments.seed)
    data, held_out, condition_of = simulations(task, count, arguments.seed)
    flow = make_flow(task, arguments)
    start = time.perf_counter()
    fit(flow, data, held_out, steps_for(count, arguments), arguments)
    return flow, condition_of, time.perf_counter() - start


def draw(flow, condition, seed):
    """Returns draws of the posterior, and the evaluations that they took."""
    # Faster than `flow.sample`, which knows the density of its draws.
    cnf = flow.bijector.bijectors[-1]
    z = flow.base_distribution.sample(NUM_DRAWS, seed=seed)
    condition = tf.tile(condition, [NUM_DRAWS, 1])
    solver = keras_node.solvers.Tsit5(rtol=DRAWING_RTOL, atol=DRAWING_RTOL)
    results = keras_node.odeint(
        lambda t, y: cnf.dynamics(t, y, condition), z, cnf.times, solver
    )
    into_bounds = flow.bijector.bijectors[0]
    nfe = np.mean(results.diagnostics.num_ode_fn_evaluations)
    return into_bounds.forward(results.states[-1]).numpy(), float(nfe)


def scikit_learn():
    """Returns the modules of scikit-learn that a score needs."""
    try:
        return (
            importlib.import_module("sklearn.neural_network"),
            importlib.import_module("sklearn.model_selection"),
        )
    except ImportError as error:
        raise ImportError(
            "The score needs scikit-learn: pip install scikit-learn"
        ) from error


def c2st(reference, draws):
    """Returns how often a classifier tells draws from reference draws.

    That of sbibm: two hidden layers, five folds, scaled by the reference.
    """
    neural_network, selection = scikit_learn()
    mean, scale = reference.mean(axis=0), reference.std(axis=0, ddof=1)
    points = (np.concatenate([reference, draws]) - mean) / scale
    labels = np.repeat([0, 1], [len(reference), len(draws)])
    units = 10 * points.shape[1]
    classifier = neural_network.MLPClassifier(
        (units, units), max_iter=10_000, random_state=1
    )
    folds = selection.KFold(5, shuffle=True, random_state=1)
    scores = selection.cross_val_score(classifier, points, labels, cv=folds)
    return float(scores.mean())


def observation(name, number, arguments):
    """Returns an observation and reference draws, `None` without the wheel."""
    if arguments.sbibm is None:
        return sbibm_tasks.TASKS[name].draw(1, number)[1], None
    return sbibm_tasks.load(arguments.sbibm, name, number)


def run(name, count, numbers, arguments):
    """Trains one flow; yields a row of the log for each observation."""
    flow, condition_of, seconds = train(name, count, arguments)
    for number in numbers:
        data, reference = observation(name, number, arguments)
        draws, nfe = draw(flow, condition_of(data), number)
        score = "" if reference is None else round(c2st(reference, draws), 4)
        yield {
            "task": name,
            "simulations": count,
            "steps": steps_for(count, arguments),
            "observation": number,
            "c2st": score,
            "nfe": nfe,
            "seconds": round(seconds, 1),
            "parameters": flow.count_params(),
        }


def print_table(rows):
    """Prints the mean score of each task, number of simulations and steps."""
    table = {}
    for row in rows:
        case = row["task"], int(row["simulations"]), int(row["steps"])
        table.setdefault(case, []).append(float(row["c2st"] or "nan"))
    print("Task              Simulations  Steps  Observations  C2ST   NPE")
    for case, scores in table.items():
        npe = NPE.get(case[:2], float("nan"))
        print(
            f"{case[0]:<18}{case[1]:>11}{case[2]:>7}{len(scores):>14}"
            f"{np.mean(scores):>6.3f}{npe:>6.3f}"
        )


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n", maxsplit=1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    tasks = list(sbibm_tasks.TASKS)
    numbers = list(range(1, sbibm_tasks.NUM_OBSERVATIONS + 1))
    add("--sbibm", help="the folder `sbibm` of the unpacked wheel")
    add("--tasks", nargs="+", choices=tasks, default=tasks)
    add("--simulations", type=int, nargs="+", default=[1_000, 10_000])
    add("--observations", type=int, nargs="+", default=numbers)
    add("--width", type=int, default=128)
    add("--depth", type=int, default=3, help="residual blocks")
    add("--batch-size", type=int, default=128)
    add("--steps", type=int, default=20_000, help="with 10,000 simulations")
    add("--checks", type=int, default=10, help="of simulations held out")
    add("--patience", type=int, default=3, help="checks without gain")
    add("--rtol", type=float, default=1e-3, help="of densities")
    add("--verbose", type=int, default=0, help="of Keras")
    add("--seed", type=int, default=0)
    add(
        "--log",
        type=pathlib.Path,
        default=pathlib.Path("simulated_posteriors.csv"),
    )
    add(
        "--smoke",
        action="store_true",
        help="two tasks, a few steps, neither wheel nor score",
    )
    arguments = parser.parse_args(argv)
    keep_smoke_apart(arguments, parser)
    if arguments.smoke:
        arguments.tasks, arguments.simulations = ["two_moons", "sir"], [100]
        arguments.observations, arguments.steps = [1], 40
        arguments.width, arguments.depth, arguments.checks = 8, 1, 2
    elif arguments.sbibm is None:
        parser.error("--sbibm is needed, or --smoke")
    return arguments


def main(argv=None):
    """Does what the log lacks, and prints all of it."""
    arguments = parse_arguments(argv)
    if arguments.sbibm is not None:
        scikit_learn()  # Rather now than when a flow is trained.
    for count in arguments.simulations:
        for name in arguments.tasks:
            case = name, str(count), str(steps_for(count, arguments))
            done = {
                int(row["observation"])
                for row in read(arguments.log)
                if (row["task"], row["simulations"], row["steps"]) == case
            }
            numbers = [n for n in arguments.observations if n not in done]
            if numbers:
                for row in run(name, count, numbers, arguments):
                    append(arguments.log, row)
                    print(row, flush=True)
    print_table(read(arguments.log))
    print(f"Wrote {arguments.log}.")


if __name__ == "__main__":
    main()
