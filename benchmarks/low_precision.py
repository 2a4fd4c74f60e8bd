"""What a solve costs, and is worth, when its dynamics are of low precision.

A network of two hidden layers learns the field of a spiral in float32. It is
then solved over the same interval with its layers quantized, or in half
precision: adaptively at several tolerances, and in fixed steps. The error is
the largest distance from the float32 solution at `rtol=1e-6`, with states of
size 2; that of the precision alone, without the solver's, is its lower bound.

    python benchmarks/low_precision.py    # Adds to docs/low_precision.csv.
"""

import argparse
import csv
import os

import keras
import numpy as np
import tensorflow as tf

import keras_node

DTYPES = ("float32", "mixed_bfloat16", "bfloat16", "mixed_float16", "float16")
QUANTIZED = ("int8", "float8")
RTOLS = (1e-1, 1e-2, 1e-3, 1e-4)
TIMES = (0.0, 0.5)
STEPS = 10
COLUMNS = ("precision", "solver", "rtol", "nfe", "rejected", "status", "error")


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


def train(num_epochs):
    """Returns the weights of the network in float32."""
    keras.utils.set_random_seed(0)
    y = np.random.uniform(-2.0, 2.0, (2048, 2)).astype("float32")
    field = make_field("float32")
    field.compile(keras.optimizers.Adam(3e-3), "mse")
    field.fit(y, spiral(y), 256, num_epochs, verbose=0)
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
    """Yields a row for each precision and solver that is not known."""
    accurate = keras_node.solvers.Tsit5(rtol=1e-6, atol=1e-6)
    exact, _ = solve(lowered(weights, "float32"), accurate)
    for precision in (*DTYPES, *QUANTIZED):
        field = lowered(weights, precision)
        for name, rtol, solver in cases():
            if (precision, name, str(rtol)) in known:
                continue
            end, found = solve(field, solver)
            error = np.max(np.linalg.norm(end - exact, axis=-1))
            yield (
                precision,
                name,
                rtol,
                int(found.num_ode_fn_evaluations),
                int(found.num_rejected_steps),
                int(found.status),
                f"{error:.1e}",
            )


def read(path):
    """Returns the rows of a file, as strings; none if there is no file."""
    if not os.path.exists(path):
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


def table(rows):
    """Returns a Markdown table: NFE and error of each solver."""
    names = list(dict.fromkeys((row[1], row[2]) for row in rows))
    heads = [f"{name} {rtol}".strip() for name, rtol in names]
    lines = ["| precision | " + " | ".join(heads) + " |"]
    lines.append("|---" * (1 + len(names)) + "|")
    for precision in dict.fromkeys(row[0] for row in rows):
        cells = [_cell(row) for row in rows if row[0] == precision]
        lines.append(f"| `{precision}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(row):
    *_, nfe, _, status, error = row
    return f"{nfe}, {error}" if status == "0" else f"{nfe}, fails"


def main():
    """Measures, writes the CSV file, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--path", default="docs/low_precision.csv")
    arguments = parser.parse_args()
    rows = read(arguments.path)
    with open(arguments.path, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not rows:
            writer.writerow(COLUMNS)
        known = {tuple(row[:3]) for row in rows}
        for row in measure(train(arguments.epochs), known):
            writer.writerow(row)
            file.flush()
    print(table(read(arguments.path)))


if __name__ == "__main__":
    main()
