"""Tests of exports for runtimes other than TensorFlow's.

Each is skipped where the packages of its format are not installed.
"""

import keras
import numpy as np
import pytest

import keras_node
from keras_node import solvers

# Rounding of float32: the runtimes add up in other orders.
ATOL = 1e-5


def run_onnx(model, x, folder):
    """Returns the answer of ONNX Runtime."""
    pytest.importorskip("tf2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    path = str(folder / "model.onnx")
    model.export(path, format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(path)
    (name,) = [entry.name for entry in session.get_inputs()]
    return session.run(None, {name: x})[0]


def run_openvino(model, x, folder):
    """Returns the answer of OpenVINO, in float32."""
    pytest.importorskip("scipy")  # Keras's export imports it.
    openvino = pytest.importorskip("openvino")
    path = str(folder / "model.xml")
    model.export(path, format="openvino", verbose=False)
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    return openvino.Core().compile_model(path, "CPU", hint)(x)[0]


def run_litert(model, x, folder):
    """Returns the answer of LiteRT, which has no operations of TensorFlow."""
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    path = str(folder / "model.tflite")
    model.export(path, format="litert", verbose=False)
    interpreter = litert.Interpreter(path)
    (inputs,) = interpreter.get_input_details()
    (outputs,) = interpreter.get_output_details()
    interpreter.resize_tensor_input(inputs["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(inputs["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(outputs["index"])


ALL = pytest.mark.parametrize("run", [run_onnx, run_openvino, run_litert])
WITHOUT_LITERT = pytest.mark.parametrize("run", [run_onnx, run_openvino])
# Converters warn of how they use NumPy and TensorFlow themselves.
pytestmark = pytest.mark.filterwarnings("ignore")


def make_model(solver, **kwargs):
    """Returns a model of time-dependent dynamics, and inputs for it."""
    keras.utils.set_random_seed(0)
    field = keras.Sequential(
        [keras.layers.Dense(4, "tanh"), keras.layers.Dense(2)]
    )
    layer = keras_node.ODELayer(
        keras_node.ConcatTime(field), solver=solver, **kwargs
    )
    model = keras.Sequential([keras.Input((2,)), layer, keras.layers.Dense(1)])
    x = np.random.default_rng(0).normal(size=(3, 2)).astype("float32")
    model(x)  # Keras exports models that were called.
    return model, x


@ALL
@pytest.mark.parametrize("method", [solvers.RK4, solvers.Tsit5])
def test_unrolled_steps_give_equal_answers(run, method, tmp_path):
    model, x = make_model(
        method(step_size=0.5, unroll=True),
        times=(0.0, 0.3, 1.0),
        return_sequences=True,
    )
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(run(model, x, tmp_path), expected, atol=ATOL)


@WITHOUT_LITERT
@pytest.mark.parametrize(
    "solver", [solvers.RK4(step_size=0.25), solvers.Tsit5()]
)
def test_loops_run_where_float64_does(run, solver, tmp_path):
    model, x = make_model(solver)
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(run(model, x, tmp_path), expected, atol=ATOL)


@ALL
def test_failed_solve_is_nan_in_other_runtimes(run, tmp_path):
    solver = solvers.RK4(step_size=0.25, unroll=True, on_failure="nan")
    model, x = make_model(solver)
    x = np.concatenate([x, np.full((1, 2), np.inf, "float32")])
    assert np.isnan(run(model, x, tmp_path)).all()


def test_adaptive_solve_is_refused_by_litert(tmp_path):
    model, x = make_model(solvers.Tsit5())
    with pytest.raises(RuntimeError, match="Flex"):
        run_litert(model, x, tmp_path)
