"""A training step of a latent ODE, beside torchdiffeq's `latent_ode.py`.

A thousand spirals at 100 shared times: the example's networks with the same
weights, its loss, and the same tolerances, of which ours takes those below
rounding for that of rounding; Adam included. Ours is a step of
`fit`, which also reads the mask and the time gaps, though its weights ignore
them here, and updates the metrics. Prints medians of alternating rounds, and
the root mean square error of the predictions, whose exact values a float64
solve gives.

    python benchmarks/latent_step.py --torch-python ~/torch/bin/python
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf
import timing

import keras_node

FOLDER = pathlib.Path(__file__).parent
sys.path.append(str(FOLDER.parent / "examples"))

import latent_spirals  # noqa: E402

SCALE = 0.3
COUNT = 1_000
# The defaults of torchdiffeq, which its example uses, and looser ones.
TOLERANCES = ((1e-7, 1e-9), (1e-4, 1e-5))


def make_model(tolerances, solver):
    """Returns our model with the example's networks."""
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense
    return keras_node.LatentODE(
        observation_dim=2,
        latent_dim=4,
        encoder=keras.layers.SimpleRNN(25, go_backwards=True),
        dynamics=keras.Sequential(
            [dense(20, "elu"), dense(20, "elu"), dense(4)]
        ),
        decoder=keras.Sequential([dense(20, "relu"), dense(2)]),
        likelihood=keras_node.likelihoods.NormalLikelihood(SCALE),
        solver=solver(rtol=tolerances[0], atol=tolerances[1]),
    )


def reference(weights, data):
    """Returns predictions in float64 at a tolerance of 1e-10."""
    keras.config.set_floatx("float64")
    model = make_model((1e-10, 1e-10), keras_node.solvers.Dopri5)
    keras.config.set_floatx("float32")
    model.set_weights(weights)
    data = {key: value.astype("float64") for key, value in data.items()}
    return model.predict(data, batch_size=len(data["values"]), verbose=0)


def parts(model):
    """Returns the weights of each part; the RNN reads the values alone."""
    kernel, *rest = model.encoder.get_weights()
    kernel[2:] = 0.0
    model.encoder.set_weights([kernel, *rest])
    return {
        "rnn": [kernel[:2], *rest],
        "head": model._posterior_head.get_weights(),
        "field": model.dynamics.get_weights(),
        "decoder": model.decoder.get_weights(),
    }


class Theirs:
    """torchdiffeq's step, in a process of its own."""

    def __init__(self, python, path):
        self._process = subprocess.Popen(
            [python, str(FOLDER / "worker_torch_latent.py"), path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=FOLDER,
        )
        if self._process.stdout.readline().strip() != "ready":
            self.close()
            raise RuntimeError(
                f"{python} did not run {FOLDER.name}/worker_torch_latent.py, "
                "which needs torch and torchdiffeq: see --torch-python"
            )
        with np.load(f"{path}.answer.npz") as answer:
            self.prediction, self.nfe = answer["prediction"], answer["nfe"]

    def __call__(self, repetitions=3):
        print(repetitions, file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def close(self):
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()


def our_models(tolerances, weights):
    """Returns compiled models of equal weights, by name."""
    models = {}
    for name, solver, jit_compile in (
        ("keras_node graph", keras_node.solvers.Dopri5, False),
        ("keras_node XLA", keras_node.solvers.Dopri5, True),
        ("keras_node graph, tsit5", keras_node.solvers.Tsit5, False),
    ):
        model = make_model(tolerances, solver)
        model.set_weights(weights)
        # Weights that stay, so that every round does the same work.
        model.compile(keras.optimizers.Adam(0.0), jit_compile=jit_compile)
        models[name] = model
    return models


class Stopwatch(keras.callbacks.Callback):
    """Lists the seconds of the training steps of `fit`."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_train_batch_begin(self, batch, logs=None):
        self._start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.seconds.append(time.perf_counter() - self._start)


def stepper(model, data):
    """Returns a function that lists the seconds of training steps."""
    batches = tf.data.Dataset.from_tensors(model.prepare(data)).repeat()

    def run(repetitions=3):
        stopwatch = Stopwatch()
        model.fit(
            batches,
            steps_per_epoch=repetitions,
            callbacks=[stopwatch],
            shuffle=False,
            verbose=0,
        )
        return stopwatch.seconds

    run(2)
    return run


def measure(tolerances, python, rounds, count=COUNT):
    """Returns what is known of each contender: median, best, NFE, error."""
    curves = latent_spirals.make_spirals(count, 0)
    data = latent_spirals.observe(curves, latent_spirals.NUM_TIMES, SCALE, 0)
    data = {"values": data["values"], "times": data["times"]}
    model = make_model(tolerances, keras_node.solvers.Dopri5)
    weights = parts(model)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "problem.npz")
        arrays = {
            f"{name}_{i}": array
            for name, group in weights.items()
            for i, array in enumerate(group)
        }
        np.savez(path, **arrays, **data, tolerances=tolerances)
        theirs = Theirs(python, path)
    models = our_models(tolerances, model.get_weights())
    exact = reference(model.get_weights(), data)
    runs = {"torchdiffeq": theirs}
    runs |= {name: stepper(model, data) for name, model in models.items()}
    theirs(2)
    seconds = timing.alternate(runs, rounds)
    theirs.close()
    results = {}
    for name, values in seconds.items():
        nfe, prediction = theirs.nfe, theirs.prediction
        if name in models:
            whole = {"batch_size": count, "verbose": 0}
            prediction = models[name].predict(data, **whole)
            nfe = models[name].evaluate(data, return_dict=True, **whole)["nfe"]
        results[name] = {
            "median": float(np.median(values)),
            "best": float(values.min()),
            "nfe": float(nfe),
            "error": float(np.sqrt(np.mean((prediction - exact) ** 2))),
        }
    return results


def name_of(tolerances):
    """Returns the name of a row."""
    return f"rtol {tolerances[0]:g}"


def print_results(tolerances, results):
    """Prints one table."""
    baseline = results["torchdiffeq"]["median"]
    timing.print_table(
        f"latent ODE, {name_of(tolerances)}, atol {tolerances[1]:g}",
        ("", "ms", "best", "NFE", "error", "ratio"),
        [
            (
                name,
                f"{1e3 * result['median']:.0f}",
                f"{1e3 * result['best']:.0f}",
                f"{result['nfe']:.0f}",
                f"{result['error']:.1e}",
                f"{result['median'] / baseline:.2f}",
            )
            for name, result in results.items()
        ],
    )


def main():
    """Prints a table for each pair of tolerances."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--torch-python",
        default=os.environ.get("KERAS_NODE_TORCH_PYTHON", sys.executable),
        help="interpreter with torch and torchdiffeq",
    )
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    for tolerances in TOLERANCES:
        try:
            results = measure(tolerances, options.torch_python, options.rounds)
        except RuntimeError as error:
            sys.exit(str(error))
        print_results(tolerances, results)


if __name__ == "__main__":
    main()
