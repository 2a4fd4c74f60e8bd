"""Rate constants of Robertson's problem, learnt through a stiff solve.

Three species react at rates nine orders of magnitude apart. First a table of
what a solve and its gradient cost by each solver; then the three constants are
learnt from 40 noisy observations, from a start that is wrong by factors of two
to three. Run it from anywhere:

    python examples/robertson.py
"""

import argparse
import pathlib
import time

import keras
import numpy as np
import pictures
import tensorflow as tf

import keras_node

RATES = np.array([0.04, 1e4, 3e7])
START = np.array([0.1, 3e3, 6e7])
# The second species is 1e-5 of the others.
SCALE = np.array([1.0, 3e-5, 1.0])
NOISE = 0.01
SOLVERS = {
    "rodas5p": keras_node.solvers.Rodas5P(rtol=1e-6, atol=1e-10),
    "rosenbrock23": keras_node.solvers.Rosenbrock23(rtol=1e-4, atol=1e-8),
    "bdf": keras_node.solvers.BDF(rtol=1e-4, atol=1e-8, on_failure="nan"),
    "tsit5": keras_node.solvers.Tsit5(
        rtol=1e-6, atol=1e-10, max_num_steps=1_000_000
    ),
}
EXACT = keras_node.solvers.Rodas5P(rtol=1e-9, atol=1e-14)


def solve(log_rates, times, solver):
    """Returns the results for rate constants, given by their logarithms."""
    rates = tf.exp(log_rates)

    def f(t, y):
        a, b, c = tf.unstack(y, axis=-1)
        slow, back, fast = rates[0] * a, rates[1] * b * c, rates[2] * b * b
        return tf.stack([back - slow, slow - back - fast, fast], axis=-1)

    y0 = tf.constant([1.0, 0.0, 0.0], tf.float64)
    return keras_node.odeint(f, y0, times, solver)


def make_gradient(times, solver):
    """Returns a graph of end, NFE and the gradient of the scaled end."""

    @tf.function(autograph=False)
    def gradient(log_rates):
        with tf.GradientTape() as tape:
            tape.watch(log_rates)
            results = solve(log_rates, times, solver)
            end = results.states[-1]
            loss = tf.reduce_sum(end / SCALE)
        counts = results.diagnostics.num_ode_fn_evaluations
        return end, counts, tape.gradient(loss, log_rates)

    return gradient


def compare(end_time):
    """Prints what a solve and its gradient cost."""
    log_rates = tf.constant(np.log(RATES))
    times = (0.0, end_time)
    exact, _, exact_gradient = make_gradient(times, EXACT)(log_rates)
    print(f"To t = {end_time:g}")
    print(
        f"{'solver':14}{'evaluations':>12}{'ms':>10}"
        f"{'error':>10}{'of gradient':>13}"
    )
    rows = {}
    for name, solver in SOLVERS.items():
        gradient = make_gradient(times, solver)
        gradient(log_rates)  # Traces.
        start = time.perf_counter()
        end, counts, found = gradient(log_rates)
        end = end.numpy()
        milliseconds = 1e3 * (time.perf_counter() - start)
        error = np.max(np.abs(end - exact) / SCALE)
        gap = np.linalg.norm(found - exact_gradient)
        gap /= np.linalg.norm(exact_gradient)
        rows[name] = int(counts), milliseconds, float(error), float(gap)
        shown = f"{error:10.1e}{gap:13.1e}"
        if not np.isfinite(error):
            shown = f"{'failed':>10}{'none':>13}"
        print(
            f"{name:14}{int(counts):12,}{milliseconds:10.0f}{shown}", flush=True
        )
    return rows


def learn(num_steps, seed):
    """Learns the rate constants by Adam; returns data, rates and states."""
    times = np.concatenate([[0.0], np.geomspace(1e-3, 1e3, 40)])
    exact = solve(tf.constant(np.log(RATES)), times, EXACT).states
    noise = np.random.default_rng(seed).normal(size=exact.shape)
    observed = exact + NOISE * SCALE * noise
    log_rates = tf.Variable(np.log(START))
    decay = keras.optimizers.schedules.CosineDecay(0.1, num_steps)
    optimizer = keras.optimizers.Adam(decay)

    @tf.function(autograph=False)
    def gradient():
        with tf.GradientTape() as tape:
            states = solve(
                tf.convert_to_tensor(log_rates), times, SOLVERS["rodas5p"]
            ).states
            loss = tf.reduce_mean(((states - observed) / SCALE) ** 2)
        return tape.gradient(loss, log_rates)

    for _ in range(num_steps):
        optimizer.apply([gradient()], [log_rates])
    states = solve(log_rates.read_value(), times, SOLVERS["rodas5p"]).states
    rates = np.exp(log_rates.numpy())
    return times, observed.numpy(), rates, states.numpy()


def draw(times, observed, states, path):
    """Draws the three species over the logarithm of time."""
    figure = pictures.new(7, 3.5)
    axis = figure.subplots()
    names = ("A", "B / 3e-5", "C")
    for i, name in enumerate(names):
        color = f"C{i}"
        axis.plot(times[1:], observed[1:, i] / SCALE[i], ".", c=color, ms=4)
        axis.plot(times[1:], states[1:, i] / SCALE[i], c=color, label=name)
    axis.set(xscale="log", xlabel="time, s", ylabel="concentration")
    axis.legend()
    pictures.save(figure, path)


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n", maxsplit=1)[0]
    )
    parser.add_argument("--end", type=float, default=10.0, help="of the table")
    parser.add_argument("--steps", type=int, default=200, help="of Adam")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="little of all")
    parser.add_argument("--output", type=pathlib.Path, default="robertson.png")
    arguments = parser.parse_args(argv)
    if arguments.smoke:
        arguments.end, arguments.steps = 0.01, 1
    return arguments


def main(argv=None):
    arguments = parse_arguments(argv)
    rows = compare(arguments.end)
    start = time.perf_counter()
    times, observed, rates, states = learn(arguments.steps, arguments.seed)
    seconds = time.perf_counter() - start
    print(f"Learnt in {seconds:.0f} s")
    for name, values in (("true", RATES), ("start", START), ("learnt", rates)):
        print(f"{name:8}" + "".join(f"{value:12.4g}" for value in values))
    draw(times, observed, states, arguments.output)
    return rows, rates


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")
    main()
