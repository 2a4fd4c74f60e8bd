"""Tests of SavedModels in service: signatures, threads, tools."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from support import zoo

NUM_REQUESTS, NUM_THREADS = 2_000, 8
# Run by a process that has tensorflow and cannot import keras_node.
PROGRAM = """
import concurrent.futures, sys
import numpy as np
import tensorflow as tf
sys.modules["keras_node"] = None
inputs = dict(np.load("inputs.npz"))
num_threads, num_requests = map(int, sys.argv[1:])
results = {}

def keep(name, outputs):
    for key, value in outputs.items():
        results[f"{name}/{key}"] = value.numpy()

for kind in ("with", "without"):
    flow = tf.saved_model.load(f"flow_{kind}")
    x = tf.constant(inputs["x"])
    keep(f"flow_{kind}/log_prob", flow.log_prob(x))
    keep(f"flow_{kind}/forward", flow.forward(x))
    keep(f"flow_{kind}/inverse", flow.inverse(x[:3]))
    keep(f"flow_{kind}/sample", flow.sample(tf.constant(7)))
    latent = tf.saved_model.load(f"latent_{kind}")
    series = [tf.constant(inputs[k]) for k in ("values", "times", "mask")]
    keep(f"latent_{kind}/encode", latent.encode(*series))
    target = tf.constant(inputs["target_times"])
    keep(f"latent_{kind}/reconstruct", latent.reconstruct(*series, target))
    times = tf.constant(inputs["target_times"][0])
    keep(f"latent_{kind}/generate", latent.generate(tf.constant(5), times))

flow = tf.saved_model.load("flow_with")
weights = [v for v in flow.variables if v.trainable]
losses = []
for _ in range(10):
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(flow.log_prob(x)["log_prob"])
    gradients = tape.gradient(loss, weights)
    if not losses:
        keep("gradient", {v.name + str(i): g for i, (v, g) in
                          enumerate(zip(weights, gradients))})
    for weight, gradient in zip(weights, gradients):
        weight.assign_sub(1e-2 * gradient)
    losses.append(float(loss))
results["losses"] = np.array(losses)

model = tf.saved_model.load("model")
batches = [tf.constant(inputs["x"][: 1 + i % 13]) for i in range(num_requests)]
alone = [model.serve(batch).numpy() for batch in batches[:13]]
with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
    answers = list(pool.map(lambda b: model.serve(b).numpy(), batches))
results["wrong"] = sum(
    not np.array_equal(a, alone[i % 13]) for i, a in enumerate(answers)
)
results["served"] = len(answers)
np.savez("results.npz", **results)
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Exports a model of each kind, and runs the program on them."""
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("served")
    models = {
        "model": zoo.compiled("ODELayer"),
        "flow": zoo.compiled("NormalizingFlow"),
        "latent": zoo.compiled("LatentODE"),
    }
    x = zoo.points()
    models["flow"].fit(x, verbose=0)
    models["model"].export(folder / "model", verbose=False)
    for kind, has_gradients in (("with", True), ("without", False)):
        options = tf.saved_model.SaveOptions(
            experimental_custom_gradients=has_gradients
        )
        for name in ("flow", "latent"):
            models[name].export(folder / f"{name}_{kind}", options)
    series = zoo.series()
    series["mask"] = np.repeat(series["mask"][..., None], 2, axis=-1)
    inputs = {
        "x": x,
        **series,
        "target_times": np.linspace(0, 2, 4, dtype="float32")[None].repeat(
            16, axis=0
        ),
    }
    np.savez(folder / "inputs.npz", **inputs)
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("PYTHONPATH", None)
    arguments = [str(NUM_THREADS), str(NUM_REQUESTS)]
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return models, inputs, dict(np.load(folder / "results.npz")), folder


BOTH = pytest.mark.parametrize("kind", ["with", "without"])


@pytest.mark.slow
@BOTH
def test_served_flow_gives_what_the_flow_gives(served, kind):
    models, inputs, results, _ = served
    flow, x = models["flow"], inputs["x"]
    expected = {
        "log_prob/log_prob": flow.log_prob(x),
        "forward/x": flow.bijector.forward(x),
        "inverse/z": flow.bijector.inverse(x[:3]),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(
            results[f"flow_{kind}/{name}"], value, rtol=1e-5, atol=1e-5
        )
    samples = results[f"flow_{kind}/sample/x"]
    assert samples.shape == (7, 2) and np.isfinite(samples).all()


@pytest.mark.slow
@BOTH
def test_served_latent_ode_gives_what_the_model_gives(served, kind):
    models, inputs, results, _ = served
    series = {name: inputs[name] for name in ("values", "times", "mask")}
    posterior = models["latent"].encode(**series)
    mean = models["latent"].reconstruct(
        **series, target_times=inputs["target_times"]
    )
    expected = {
        "encode/loc": posterior.mean(),
        "encode/scale": posterior.stddev(),
        "reconstruct/mean": mean,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(
            results[f"latent_{kind}/{name}"], value, rtol=1e-5, atol=1e-5
        )
    assert results[f"latent_{kind}/generate/samples"].shape == (5, 4, 2)


@pytest.mark.slow
def test_served_flow_is_tuned_with_the_gradients_of_the_adjoint(served):
    models, inputs, results, _ = served
    flow = models["flow"]
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(flow.log_prob(inputs["x"]))
    weights = [v.value for v in flow.trainable_variables]
    expected = [np.ravel(g) for g in tape.gradient(loss, weights)]
    actual = [np.ravel(g) for k, g in results.items() if "gradient/" in k]
    assert len(actual) == len(expected)

    # The order of variables is TensorFlow's: compared by size and norm.
    def key(gradient):
        return gradient.size, np.linalg.norm(gradient)

    for a, b in zip(
        sorted(actual, key=key), sorted(expected, key=key), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert (np.diff(results["losses"]) < 0).all()


@pytest.mark.slow
def test_eight_threads_get_the_answers_of_one(served):
    results = served[2]
    assert results["served"] == NUM_REQUESTS
    assert results["wrong"] == 0


@pytest.mark.slow
def test_saved_model_cli_runs_an_exported_model(served):
    models, inputs, _, folder = served
    tool = pathlib.Path(sys.executable).parent / "saved_model_cli"
    np.save(folder / "x.npy", inputs["x"])
    process = subprocess.run(
        [tool, "run", "--dir", "flow_with", "--tag_set", "serve"]
        + ["--signature_def", "log_prob", "--inputs", "x=x.npy"]
        + ["--outdir", "."],
        cwd=folder,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    np.testing.assert_allclose(
        np.load(folder / "log_prob.npy"),
        models["flow"].log_prob(inputs["x"]),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_exported_model_is_converted_for_tensorflow_lite(served):
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(served[3] / "model")
    )
    # The clock is float64, which its own operations do not know.
    converter.target_spec.supported_ops = [
        tf.lite.OpsSet.TFLITE_BUILTINS,
        tf.lite.OpsSet.SELECT_TF_OPS,
    ]
    assert b"Flex" in converter.convert()


def test_flow_that_was_never_called_is_served(tmp_path):
    flow = zoo.flow(solver=zoo.keras_node.solvers.Euler())
    flow.export(tmp_path / "flow")
    x = tf.constant(zoo.points(4))
    loaded = tf.saved_model.load(tmp_path / "flow")
    np.testing.assert_allclose(
        loaded.log_prob(x)["log_prob"], flow.log_prob(x), rtol=1e-5, atol=1e-5
    )


def test_conditional_flow_is_served_with_its_condition(tmp_path):
    keras.utils.set_random_seed(0)
    x = zoo.points()
    data = {"x": x, "condition": x[:, :1]}
    dynamics = keras.layers.Dense(2, "tanh")
    flow = zoo.flow(dynamics=zoo.keras_node.ConcatTime(dynamics))
    flow.predict(data, verbose=0)
    flow.export(tmp_path / "flow")
    loaded = tf.saved_model.load(tmp_path / "flow")
    actual = loaded.log_prob(tf.constant(x), tf.constant(x[:, :1]))
    np.testing.assert_allclose(
        actual["log_prob"], flow.log_prob(**data), rtol=1e-5, atol=1e-5
    )


def test_conditional_flow_must_know_its_condition(tmp_path):
    class Driven(keras.layers.Layer):
        def call(self, t, y, condition):
            return y * condition

    with pytest.raises(ValueError, match="size of its condition"):
        zoo.flow(dynamics=Driven()).export(tmp_path / "flow")


def _conditional_chain(folder):
    """Exports a chain of two conditional flows, and loads it."""
    keras.utils.set_random_seed(0)
    flows = [
        zoo.keras_node.CNFBijector(
            zoo.keras_node.ConcatTime(keras.layers.Dense(2, "tanh")),
            solver=zoo.keras_node.solvers.Euler(),
            name=name,
        )
        for name in ("first", "second")
    ]
    flow = zoo.keras_node.NormalizingFlow(
        zoo.tfp.bijectors.Chain(flows),
        zoo.tfp.distributions.MultivariateNormalDiag(tf.zeros(2)),
    )
    flow.build({"x": (None, 2), "condition": (None, 3)})
    flow.export(folder / "flow")
    return flow, tf.saved_model.load(folder / "flow")


@pytest.mark.slow
def test_served_chain_of_conditional_flows_names_and_checks_its_inputs(
    tmp_path,
):
    flow, loaded = _conditional_chain(tmp_path)
    x, condition = tf.constant(zoo.points(4)), tf.ones((4, 3))
    for name, first in {
        "log_prob": "x",
        "sample": "num_samples",
        "forward": "z",
        "inverse": "x",
    }.items():
        signature = loaded.signatures[name]
        inputs = signature.structured_input_signature[1]
        assert set(inputs) == {first, "condition"}
        good = tf.constant(4) if name == "sample" else x
        signature(**{first: good}, condition=condition[:1])
        with pytest.raises(tf.errors.InvalidArgumentError, match="one."):
            signature(**{first: good}, condition=condition[:3])
        with pytest.raises(
            tf.errors.InvalidArgumentError, match=r"condition \[4,2\] is not"
        ):
            signature(**{first: good}, condition=condition[:, :2])
        bad = tf.constant(-1) if name == "sample" else x[:, :1]
        with pytest.raises(
            tf.errors.InvalidArgumentError,
            match=rf"of tensor {first} \[4,1\] is not|must be at least 0",
        ):
            signature(**{first: bad}, condition=condition)
    # By position and by name.
    expected = flow.log_prob(x, condition)
    for answer in (
        loaded.log_prob(x, condition),
        loaded.log_prob(x=x, condition=condition),
        loaded.signatures["log_prob"](x=x, condition=condition),
    ):
        np.testing.assert_allclose(answer["log_prob"], expected, rtol=1e-5)


@pytest.mark.slow
def test_served_latent_ode_says_which_shape_does_not_fit(served):
    _, inputs, _, folder = served
    loaded = tf.saved_model.load(folder / "latent_without")
    series = {k: tf.constant(inputs[k]) for k in ("values", "times", "mask")}
    times = series["times"]
    for name, bad in (
        ("times", times[:, :3]),
        ("times", times[:2]),
        ("mask", series["mask"][:, :3]),
    ):
        with pytest.raises(
            tf.errors.InvalidArgumentError, match=f"`{name}` must"
        ):
            loaded.signatures["encode"](**{**series, name: bad})
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="`target_times` must have"
    ):
        loaded.signatures["reconstruct"](**series, target_times=times[:3])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flow", "latent"])
def test_model_with_the_direct_adjoint_is_served(kind, tmp_path):
    solver = zoo.keras_node.solvers.Euler()
    model = getattr(zoo, kind)(solver=solver, adjoint="direct")
    if kind == "latent":
        model.predict(zoo.series(), verbose=0)
    model.export(tmp_path / kind)  # With its gradients.
    loaded = tf.saved_model.load(tmp_path / kind)
    if kind == "flow":
        x = tf.constant(zoo.points(4))
        np.testing.assert_allclose(
            loaded.log_prob(x)["log_prob"], model.log_prob(x), rtol=1e-5
        )
    else:
        times = tf.linspace(0.0, 1.0, 3)
        samples = loaded.generate(tf.constant(2), times)["samples"]
        assert samples.shape == (2, 3, 2)
