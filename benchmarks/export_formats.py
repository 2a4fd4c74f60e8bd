"""How far the answers of other runtimes are from TensorFlow's.

Exports an `ODELayer` of time-dependent dynamics with each solver, runs it in
ONNX Runtime, OpenVINO and LiteRT, and notes the largest difference from
`model.predict`, of outputs of size 1; or what stopped it. Needs
`.[export,test]`.

    python benchmarks/export_formats.py    # Writes docs/export_formats.csv.
"""

import pathlib
import sys
import tempfile

import numpy as np

from keras_node import solvers

FOLDER = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(FOLDER), str(FOLDER / "examples")]
from csv_log import record_command  # noqa: E402

from tests import test_export_formats as runtimes  # noqa: E402

RUNTIMES = {
    "ONNX Runtime": runtimes.run_onnx,
    "OpenVINO": runtimes.run_openvino,
    "LiteRT": runtimes.run_litert,
}


def cases():
    """Returns the solvers by the name that the table gives them."""
    methods = (solvers.Euler, solvers.Midpoint, solvers.Heun, solvers.RK4)
    found = {
        f"{method.__name__}(0.1), {kind}": method(
            step_size=0.1, unroll=kind == "unrolled"
        )
        for kind in ("unrolled", "in a loop")
        for method in methods
    }
    found["Tsit5(step_size=0.1), unrolled"] = solvers.Tsit5(
        step_size=0.1, unroll=True
    )
    found["Tsit5(step_size=0.1), in a loop"] = solvers.Tsit5(step_size=0.1)
    found["Tsit5(), adaptive"] = solvers.Tsit5()
    return found


def difference(run, solver):
    """Returns the largest difference, or why there is no answer."""
    model, x = runtimes.make_model(solver)
    expected = model.predict(x, verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        try:
            answer = run(model, x, pathlib.Path(folder))
        except RuntimeError as error:
            if "Flex" not in str(error):
                raise
            return "needs Flex"
    return f"{np.max(np.abs(answer - expected)):.0e}"


def rows():
    """Yields a row for each solver and runtime."""
    for name, solver in cases().items():
        for runtime, run in RUNTIMES.items():
            yield {
                "solver": name,
                "runtime": runtime,
                "difference": difference(run, solver),
            }


def main():
    """Measures, writes the CSV file, and prints it."""
    log = FOLDER / "docs" / "export_formats.csv"
    record_command(__doc__, log, rows())


if __name__ == "__main__":
    main()
