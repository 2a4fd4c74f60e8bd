"""What a solve costs, and is worth, when its dynamics are of low precision.

A network of two hidden layers learns the field of a spiral in float32. It is
then solved over the same interval with its layers quantized, or in half
precision: adaptively at several tolerances, and in fixed steps. The error is
the largest distance from the float32 solution at `rtol=1e-6`, with states of
size 2.

    python benchmarks/low_precision.py    # Adds to docs/low_precision.csv.
"""

import argparse
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

import keras_node

FOLDER = pathlib.Path(__file__).parents[1]
sys.path.append(str(FOLDER / "examples"))
from csv_log import append, read  # noqa: E402

DTYPES = ("float32", "mixed_bfloat16", "bfloat16", "mixed_float16", "float16")
QUANTIZED = ("int8", "float8")
RTOLS = (1e-1, 1e-2, 1e-3, 1e-4)
TIMES = (0.0, 0.5)
STEPS, EPOCHS = 10, 50
KEYS = ("precision", "solver", "rtol")


def spiral(y):
    """Returns the field `A y**3`, that of the paper's spirals."""
    return (y**3) @ np.array([[-0.1, -2.0], [2.0, -0.1]], "float32")


def make_field(dtype):
    """Returns the network that learns the field, built."""
    field = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(64, "tanh", dtype=dtype),
            keras.layers.Dense(64, "tanh", dtype=dtype),
            keras.layers.Dense(2, dtype=dtype),
        ]
    )
    return field


def train():
    """Returns the weights of the network in float32."""
    keras.utils.set_random_seed(0)
    y = np.random.uniform(-2.0, 2.0, (2048, 2)).astype("float32")
    field = make_field("float32")
    field.compile(keras.optimizers.Adam(3e-3), "mse")
    field.fit(y, spiral(y), 256, EPOCHS, verbose=0)
    return field.get_weights()


def lowered(weights, precision):
    """Returns the network in a precision, with the given weights."""
    is_quantized = precision in QUANTIZED
    field = make_field("float32" if is_quantized else precision)
    field.set_weights(weights)
    if is_quantized:
        field.quantize(precision)
    return field


def solve(field, solver):
    """Returns the last states in float32, and the diagnostics."""
    angles = np.linspace(0.0, 2 * np.pi, 64, endpoint=False)
    y = 2.0 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    # Half precision is solved in float32.
    y = tf.cast(y, field.layers[0].compute_dtype)
    results = keras_node.odeint(field, y, TIMES, solver)
    return tf.cast(results.states[-1], tf.float32), results.diagnostics


def cases():
    """Returns the solvers, with name and tolerance."""
    options = {"max_num_steps": 1000, "on_failure": "nan"}
    found = [
        (
            "tsit5",
            rtol,
            keras_node.solvers.Tsit5(rtol=rtol, atol=rtol, **options),
        )
        for rtol in RTOLS
    ]
    step_size = (TIMES[1] - TIMES[0]) / STEPS
    rk4 = keras_node.solvers.RK4(step_size=step_size, on_failure="nan")
    return [*found, (f"rk4, {STEPS} steps", "", rk4)]


def measure(weights, known):
    """Yields a row for each precision and solver whose keys are not known."""
    accurate = keras_node.solvers.Tsit5(rtol=1e-6, atol=1e-6)
    exact, _ = solve(lowered(weights, "float32"), accurate)
    for precision in (*DTYPES, *QUANTIZED):
        field = lowered(weights, precision)
        for name, rtol, solver in cases():
            if (precision, name, str(rtol)) in known:
                continue
            end, found = solve(field, solver)
            error = np.max(np.linalg.norm(end - exact, axis=-1))
            yield {
                "precision": precision,
                "solver": name,
                "rtol": rtol,
                "nfe": int(found.num_ode_fn_evaluations),
                "rejected": int(found.num_rejected_steps),
                "status": int(found.status),
                "error": f"{error:.1e}",
            }


def table(rows):
    """Returns a Markdown table: NFE and error of each solver."""
    names = list(dict.fromkeys((row["solver"], row["rtol"]) for row in rows))
    heads = [f"{name} {rtol}".strip() for name, rtol in names]
    lines = ["| precision | " + " | ".join(heads) + " |"]
    lines.append("|---" * (1 + len(names)) + "|")
    for precision in dict.fromkeys(row["precision"] for row in rows):
        cells = [_cell(row) for row in rows if row["precision"] == precision]
        lines.append(f"| `{precision}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(row):
    error = row["error"] if row["status"] == "0" else "fails"
    return f"{row['nfe']}, {error}"


def main():
    """Measures what the log lacks, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    log = FOLDER / "docs" / "low_precision.csv"
    parser.add_argument("--log", type=pathlib.Path, default=log)
    log = parser.parse_args().log
    known = {tuple(row[key] for key in KEYS) for row in read(log)}
    for row in measure(train(), known):
        append(log, row)
    print(f"All solves that are in {log}:")
    print(table(read(log)))


if __name__ == "__main__":
    main()
