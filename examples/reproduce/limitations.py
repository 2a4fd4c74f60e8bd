"""Section 6's limitations, measured: batches, uniqueness, tolerances, drift.

- A batch whose samples share their steps takes those of its stiffest sample:
  evaluations and time at 1 to 1,024 samples, one of them stiff.
- Trajectories cannot cross: concentric annuli, with and without more
  dimensions.
- There are two tolerances, forwards and backwards: the error of the gradient
  over both.
- The state drifts when it is integrated backwards: the error of state and
  gradient over the rate of contraction, beside the exact gradient of the
  discrete solution.
"""

import time

import keras
import numpy as np
import pictures
import tensorflow as tf

import keras_node
from examples.reproduce.logs import Log
from examples.reproduce.timing import milliseconds

Tsit5 = keras_node.solvers.Tsit5
BackSolve = keras_node.adjoints.BacksolveAdjoint


# Batches.

SAMPLES = (1, 4, 16, 64, 256, 1024)
BATCH_COLUMNS = "samples own_clocks nfe_most nfe_mean milliseconds".split()


def van_der_pol(mu):
    """`y'' = mu (1 - y**2) y' - y`, a `mu` for each sample."""

    def f(t, y):
        position, velocity = tf.unstack(y, axis=-1)
        damping = mu * (1 - position**2) * velocity
        return tf.stack([velocity, damping - position], axis=-1)

    return f


def measure_batch(count, own_clocks):
    """Returns evaluations, the most and the mean, and the time of a solve."""
    rng = np.random.default_rng(0)
    mu = rng.uniform(0.1, 1.0, count).astype("float32")
    mu[0] = 100.0
    y0 = tf.constant(np.tile(np.float32([2.0, 0.0]), (count, 1)))
    solver = Tsit5(
        rtol=1e-6, atol=1e-6, per_sample_steps=own_clocks, max_num_steps=10_000
    )
    f = van_der_pol(tf.constant(mu))

    @tf.function(jit_compile=True)
    def solve(y0):
        results = keras_node.odeint(f, y0, (0.0, 10.0), solver)
        return results.states[-1], results.diagnostics.num_ode_fn_evaluations

    counts = solve(y0)[1].numpy()
    return {
        "nfe_most": counts.max(),
        "nfe_mean": counts.mean(),
        "milliseconds": milliseconds(lambda: solve(y0)[0].numpy()),
    }


def measure_batches(options):
    """Fills the log of batches; returns its rows."""
    log = Log(options.logs / "batches.csv", BATCH_COLUMNS)
    for count in SAMPLES[: 2 if options.smoke else None]:
        for own_clocks in (0, 1):
            case = {"samples": count, "own_clocks": own_clocks}
            if not log.rows(**case):
                found = measure_batch(count, bool(own_clocks))
                log.append(**case, **found)
    return log.rows()


def draw_batches(axes, rows):
    """Draws evaluations and time over the number of samples."""
    names = {0: "one clock", 1: "a clock for each sample"}
    for own_clocks, name in names.items():
        found = [row for row in rows if row["own_clocks"] == own_clocks]
        samples = [row["samples"] for row in found]
        color = pictures.COLORS[own_clocks]
        nfe = [row["nfe_mean"] for row in found]
        axes[0].loglog(samples, nfe, "o-", c=color, label=name)
        times = [row["milliseconds"] for row in found]
        axes[1].loglog(samples, times, "o-", c=color, label=name)
    axes[0].set(xlabel="samples, one of them stiff")
    axes[0].set(ylabel="evaluations, mean of the samples", ylim=(100, 1e4))
    axes[0].set_title("batches: evaluations")
    axes[1].set_title("batches: time")
    axes[1].set(xlabel="samples, one of them stiff", ylabel="time, ms")
    axes[0].legend(loc="lower left")


# Drift.

RATES = (0.0, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0)
DRIFT_COLUMNS = "rate adjoint state_error gradient_error".split()
ADJOINTS = {
    "checkpoint": keras_node.adjoints.CheckpointAdjoint,
    "backsolve": lambda: BackSolve(max_drift=None),
}


class Contracting:
    """Neighbours draw near in `a`, and `b` adds up what `a` was on the way.

    `da/dt = -rate * (a - cos(3 t)) + sin(W a)`, `db/dt = sin(3 a)`.
    """

    def __init__(self, rate):
        self._rate = rate
        self.w = tf.constant(np.random.default_rng(0).normal(size=(2, 2)))

    def __call__(self, t, y):
        a = y[:, :2]
        slope = -self._rate * (a - tf.cos(3 * t)) + tf.sin(a @ self.w)
        return tf.concat([slope, tf.sin(3 * a)], axis=1)


def initial_state():
    return tf.constant(np.random.default_rng(1).normal(size=(16, 4)))


def gradient(dynamics, solver, adjoint):
    """Returns the end, and the gradient to the weights of the squares of b."""

    @tf.function
    def compute(w, y0):
        dynamics.w = w
        with tf.GradientTape() as tape:
            tape.watch(w)
            end = keras_node.odeint(
                dynamics, y0, (0.0, 1.0), solver, adjoint
            ).states[-1]
            loss = tf.reduce_sum(end[:, 2:] ** 2)
        return end, tape.gradient(loss, w)

    w = dynamics.w
    results = compute(w, initial_state())
    dynamics.w = w
    return results


def relative(actual, expected):
    """Norm of the difference over that of what is expected."""
    return float(tf.norm(actual - expected) / tf.norm(expected))


def exact_gradient(dynamics):
    """Returns that of a solve to 1e-12."""
    solver = keras_node.solvers.Dopri8(rtol=1e-12, atol=1e-12)
    return gradient(dynamics, solver, "checkpoint")


def measure_drift(rate, name):
    """Returns the errors of state and gradient of an adjoint."""
    dynamics = Contracting(rate)
    _, exact = exact_gradient(dynamics)
    solver = Tsit5(rtol=1e-6, atol=1e-6, on_failure="nan")
    end, found = gradient(dynamics, solver, ADJOINTS[name]())
    state_error = ""
    if name == "backsolve":
        back = keras_node.odeint(dynamics, end, (1.0, 0.0), solver)
        state_error = relative(back.states[-1], initial_state())
    return {
        "state_error": state_error,
        "gradient_error": relative(found, exact),
    }


def measure_drifts(options):
    """Fills the log of drift; returns its rows."""
    log = Log(options.logs / "drift.csv", DRIFT_COLUMNS)
    for rate in RATES[: 2 if options.smoke else None]:
        for name in ADJOINTS:
            case = {"rate": rate, "adjoint": name}
            if not log.rows(**case):
                log.append(**case, **measure_drift(rate, name))
    return log.rows()


def draw_drift(axis, rows):
    """Draws the errors over the rate of contraction."""
    for i, name in enumerate(ADJOINTS):
        found = [row for row in rows if row["adjoint"] == name]
        rates = [row["rate"] for row in found]
        errors = [row["gradient_error"] for row in found]
        axis.semilogy(
            rates, errors, "o-", c=pictures.COLORS[i], label=f"{name}, gradient"
        )
    states = [row["state_error"] for row in found]
    axis.semilogy(
        rates, states, "o--", c=pictures.COLORS[i], label=f"{name}, state"
    )
    axis.set(xlabel="rate of contraction", ylabel="relative error")
    axis.set_title("drift")
    axis.legend()


# Tolerances.

TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
TOLERANCE_COLUMNS = "forward backward gradient_error".split()


def measure_tolerances(options):
    """Fills the log of the two tolerances of backsolve; returns its rows."""
    log = Log(options.logs / "tolerances.csv", TOLERANCE_COLUMNS)
    dynamics = Contracting(1.0)
    tolerances = TOLERANCES[: 2 if options.smoke else None]
    _, exact = exact_gradient(dynamics)
    for forward in tolerances:
        for backward in tolerances:
            case = {"forward": forward, "backward": backward}
            if not log.rows(**case):
                adjoint = BackSolve(
                    Tsit5(rtol=backward, atol=backward), max_drift=None
                )
                solver = Tsit5(rtol=forward, atol=forward)
                _, found = gradient(dynamics, solver, adjoint)
                log.append(**case, gradient_error=relative(found, exact))
    return log.rows()


def draw_tolerances(axis, rows):
    """Draws the error over the backward tolerance, a line a forward one."""
    for i, forward in enumerate(dict.fromkeys(row["forward"] for row in rows)):
        found = [row for row in rows if row["forward"] == forward]
        axis.loglog(
            [row["backward"] for row in found],
            [row["gradient_error"] for row in found],
            "o-",
            c=pictures.COLORS[i],
            label=f"forward {forward:g}",
        )
    axis.set(xlabel="tolerance backwards", ylabel="relative error of gradient")
    axis.set_title("two tolerances, backsolve")
    axis.legend()


# Uniqueness.

ANNULI_COLUMNS = (
    "extra_dimensions seed epochs loss accuracy nfe seconds"
).split()
EXTRA, ANNULI_EPOCHS, ANNULI_SEEDS = (0, 1, 3), 60, (0, 1, 2)


def annuli(count, seed):
    """Returns points of a disc, of class 0, in a ring, of class 1."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    radius = np.where(
        labels, rng.uniform(1.0, 1.5, count), rng.uniform(0.0, 0.5, count)
    )
    angle = rng.uniform(0, 2 * np.pi, count)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return points.astype("float32"), labels.astype("float32")


def make_classifier(extra):
    """Returns a classifier by a linear function of the end of an ODE."""
    dense = keras.layers.Dense
    net = keras.Sequential(
        [dense(32, "tanh"), dense(32, "tanh"), dense(2 + extra)]
    )
    augment = [keras_node.Augment(extra)] if extra else []
    ode = keras_node.ODELayer(
        net, solver=Tsit5(rtol=1e-3, atol=1e-3), name="ode"
    )
    return keras.Sequential([keras.Input((2,)), *augment, ode, dense(1)])


def train_classifier(extra, seed, epochs):
    """Returns a trained classifier, and what the log says of it."""
    keras.utils.set_random_seed(seed)
    model = make_classifier(extra)
    model.compile(
        keras.optimizers.Adam(1e-2),
        keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy(threshold=0.0)],
    )
    start = time.perf_counter()
    history = model.fit(
        *annuli(2_048, seed), batch_size=256, epochs=epochs, verbose=0
    ).history
    seconds = time.perf_counter() - start
    tested = model.evaluate(
        *annuli(2_048, seed + 100), verbose=0, return_dict=True
    )
    return model, {
        "loss": tested["loss"],
        "accuracy": tested["binary_accuracy"],
        "nfe": history["ode_nfe"][-1],
        "seconds": seconds,
    }


def ends_path(extra, options):
    """Returns where the ends of the first seed's flow are kept."""
    return options.runs / f"annuli-{extra}.npy"


def measure_annuli(options):
    """Fills the log of annuli."""
    log = Log(options.logs / "annuli.csv", ANNULI_COLUMNS)
    for extra in EXTRA:
        for seed in ANNULI_SEEDS[: 1 if options.smoke else None]:
            epochs = 1 if options.smoke else ANNULI_EPOCHS
            case = {"extra_dimensions": extra, "seed": seed, "epochs": epochs}
            if log.rows(**case):
                continue
            model, found = train_classifier(extra, seed, epochs)
            if seed == ANNULI_SEEDS[0]:
                options.runs.mkdir(parents=True, exist_ok=True)
                np.save(ends_path(extra, options), ends_of(model))
            log.append(**case, **found)


def ends_of(model):
    """Returns the ends of the flow of the points to draw."""
    before_head = keras.Model(model.inputs, model.layers[-2].output)
    return before_head.predict(annuli(600, 7)[0], verbose=0)


def draw_annuli(axes, options):
    """Draws the end of the flow, in the plane of most variance."""
    points, labels = annuli(600, 7)
    colors = [pictures.COLORS[int(label)] for label in labels]
    axes[0].scatter(*points.T, s=4, c=colors)
    axes[0].set_title("data")
    for axis, extra in zip(axes[1:], EXTRA, strict=True):
        ends = np.load(ends_path(extra, options))
        ends = ends - ends.mean(0)
        _, _, directions = np.linalg.svd(ends, full_matrices=False)
        axis.scatter(*(ends @ directions[:2].T).T, s=4, c=colors)
        axis.set_title(f"end, dimensions added: {extra}")
    for axis in axes:
        axis.set(xticks=[], yticks=[])


def main(options):
    """Measures what the logs lack, and draws all of it."""
    figure = pictures.new(14, 3.4)
    axes = figure.subplots(1, 4)
    draw_batches(axes[:2], measure_batches(options))
    draw_drift(axes[2], measure_drifts(options))
    draw_tolerances(axes[3], measure_tolerances(options))
    pictures.save(figure, options.logs / "limitations.png")
    measure_annuli(options)
    if all(ends_path(extra, options).exists() for extra in EXTRA):
        figure = pictures.new(2.8 * (1 + len(EXTRA)), 2.9)
        draw_annuli(figure.subplots(1, 1 + len(EXTRA)), options)
        pictures.save(figure, options.logs / "annuli.png")
    else:
        print(f"annuli.png stays: its ends are not in {options.runs}.")
