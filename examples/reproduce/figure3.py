"""Figure 3: error, time and evaluations of the ODE-Net on MNIST.

(a) to (c) take the ODE-Net of table 1 at tolerances from 1e-1 to 1e-6: error of
the block's end, time over evaluations, evaluations backwards over forwards. (d)
trains small ODE-Nets whose evaluations grow, and what bends the growth.
"""

import keras
import mnist_odenet
import numpy as np
import pictures

import keras_node
from examples.reproduce import chosen, table1
from examples.reproduce.logs import Log
from examples.reproduce.timing import milliseconds
from examples.reproduce.training import Run

Tsit5 = keras_node.solvers.Tsit5

# (a) to (c).

TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
ADJOINTS = {
    "kept activations": keras_node.adjoints.CheckpointAdjoint,
    "checkpoints": lambda: keras_node.adjoints.CheckpointAdjoint(
        memory_limit=0
    ),
    "backsolve": lambda: keras_node.adjoints.BacksolveAdjoint(max_drift=None),
}
DIAL_COLUMNS = (
    "tolerance adjoint nfe nfe_backward error test_error forward_ms step_ms"
).split()
BATCH, TESTED = 128, 2_000


def with_options(model, solver, adjoint):
    """Returns a copy of an ODE-Net with the same weights."""

    def clone(layer):
        config = layer.get_config()
        if isinstance(layer, keras_node.ODELayer):
            config["solver"] = keras_node.solvers.serialize(solver)
            config["adjoint"] = keras_node.adjoints.serialize(adjoint)
        return type(layer).from_config(config)

    copy = keras.models.clone_model(model, clone_function=clone)
    copy.set_weights(model.get_weights())
    copy.compile(
        keras.optimizers.SGD(0.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return copy


def end_of_block(model, images):
    """Returns the state at the end of the ODE block."""
    block = model.get_layer("ode")
    return keras.Model(model.inputs, block.output).predict_on_batch(images)


def measure_dial(model, tolerance, adjoint, data, exact):
    """Returns evaluations, errors and times at a tolerance."""
    images, labels = data
    solver = Tsit5(rtol=tolerance, atol=tolerance, on_failure="nan")
    copy = with_options(model, solver, ADJOINTS[adjoint]())
    batch = images[:BATCH], labels[:BATCH]
    end = end_of_block(copy, batch[0])
    forward_ms = milliseconds(lambda: copy.predict_on_batch(batch[0]))
    tested = copy.evaluate(
        images, labels, batch_size=500, verbose=0, return_dict=True
    )
    # Last, for a gradient that failed ends in the weights.
    step_ms = milliseconds(lambda: copy.train_on_batch(*batch))
    copy.reset_metrics()
    logs = copy.train_on_batch(*batch, return_dict=True)
    return {
        "nfe": logs["ode_nfe"],
        "nfe_backward": logs["ode_nfe_backward"],
        "error": np.sqrt(np.mean((end - exact) ** 2) / np.mean(exact**2)),
        "test_error": 100 * (1 - tested["accuracy"]),
        "forward_ms": forward_ms,
        "step_ms": step_ms,
    }


def turn_the_dial(get_model, data, options):
    """Fills the log of tolerances; returns its rows.

    Args:
        get_model: Callable that returns the ODE-Net, called if there is
            anything to measure.
        data: Pair of digits and labels.
        options: Those of the command.
    """
    log = Log(options.logs / "figure3_dial.csv", DIAL_COLUMNS)
    model = exact = None
    for tolerance in TOLERANCES[: 2 if options.smoke else None]:
        for adjoint in ADJOINTS:
            case = {"tolerance": tolerance, "adjoint": adjoint}
            if log.rows(**case):
                continue
            if model is None:
                model = get_model()
                solver = keras_node.solvers.Dopri8(rtol=5e-7, atol=1e-7)
                copy = with_options(model, solver, ADJOINTS["checkpoints"]())
                exact = end_of_block(copy, data[0][:BATCH])
            found = measure_dial(model, tolerance, adjoint, data, exact)
            log.append(**case, **found)
    return log.rows()


def draw_dial(axes, rows):
    """Draws panels (a) to (c)."""
    default = [row for row in rows if row["adjoint"] == "kept activations"]

    def column(name, rows=default):
        return [row[name] for row in rows]

    blue = pictures.COLORS[0]
    axes[0].loglog(column("tolerance"), column("error"), "o-", c=blue)
    axes[0].set(xlabel="tolerance", ylabel="relative error", title="(a) error")
    axes[1].plot(column("nfe"), column("forward_ms"), "o-", c=blue)
    axes[1].set(xlabel="evaluations", ylabel="forwards, ms", title="(b) time")
    axes[1].set(xlim=0, ylim=0)
    for name, color in zip(ADJOINTS, pictures.COLORS, strict=False):
        found = [row for row in rows if row["adjoint"] == name]
        axes[2].plot(
            column("nfe", found),
            column("nfe_backward", found),
            "o-",
            c=color,
            label=name,
        )
    axes[2].set(xlabel="forwards", ylabel="backwards", title="(c) evaluations")
    axes[2].legend()


# (d).

DIGITS, EPOCHS, RTOL = 10_000, 12, 1e-4
GROWTH_COLUMNS = (
    "run variant seed epoch epochs train_loss train_accuracy test_error nfe "
    "seconds"
).split()
VARIANTS = {
    "plain": {},
    "kinetic energy": {"kinetic": 1e-3},
    "weight decay": {"weight_decay": 5e-3},
    "tolerance from 1e-2 to 1e-4": {"schedule": True},
}


def growing_model(steps, kinetic=0.0, weight_decay=0.0, schedule=False):
    """Returns a compiled ODE-Net whose evaluations can grow."""
    arguments = mnist_odenet.parse_arguments([])
    images = keras.Input((28, 28, 1))
    penalties = [keras_node.regularizers.KineticEnergy(kinetic)]
    layer = keras_node.ODELayer(
        mnist_odenet.ConvDynamics(mnist_odenet.FILTERS),
        solver=Tsit5(rtol=RTOL, atol=RTOL),
        regularizers=penalties if kinetic else None,
        name="ode",
    )
    features = layer(mnist_odenet.downsample(images))
    model = keras.Model(images, mnist_odenet.classify(features))
    rate = keras.optimizers.schedules.CosineDecay(
        arguments.learning_rate, steps
    )
    model.compile(
        keras.optimizers.SGD(
            rate,
            momentum=0.9,
            nesterov=True,
            weight_decay=weight_decay or None,
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def tolerance_of(epoch):
    """Returns a tolerance that falls from 1e-2 to 1e-4 over the epochs."""
    return 1e-2 * 10 ** (-2 * epoch / (EPOCHS - 1))


def grow(variant, data, options):
    """Trains one ODE-Net, and logs its evaluations at the same tolerance."""
    settings = VARIANTS[variant]
    (images, labels), test = data
    train = images[:DIGITS], labels[:DIGITS]
    epochs = 1 if options.smoke else EPOCHS
    steps = epochs * (len(train[1]) // table1.BATCH_SIZE)

    def make_model():
        keras.utils.set_random_seed(0)
        return growing_model(steps, **settings)

    def measure(model, last):
        # All at the tolerance of the others.
        results = model.evaluate(
            *test, batch_size=500, verbose=0, return_dict=True
        )
        return {
            "train_loss": last["loss"],
            "train_accuracy": last["accuracy"],
            "test_error": 100 * (1 - results["accuracy"]),
            "nfe": results["ode_nfe"],
        }

    callbacks = []
    if settings.get("schedule"):
        callbacks = [
            keras_node.callbacks.ToleranceSchedule(
                rtol=tolerance_of,
                atol=tolerance_of,
                evaluation_rtol=RTOL,
                evaluation_atol=RTOL,
            )
        ]
    run = Run(
        Log(options.logs / "figure3_growth.csv", GROWTH_COLUMNS),
        options.runs,
        f"figure3-{variant.replace(' ', '-')}",
        epochs,
        {"variant": variant, "seed": 0},
    )
    if run.is_done:
        return
    run.fit(
        make_model,
        lambda epoch: table1.epoch_of(train, 0, epoch),
        measure,
        callbacks=callbacks,
    )


def draw_growth(axis, rows):
    """Draws panel (d)."""
    for variant, color in zip(VARIANTS, pictures.COLORS, strict=False):
        found = [row for row in rows if row["variant"] == variant]
        epochs = [row["epoch"] for row in found]
        nfe = [row["nfe"] for row in found]
        axis.plot(epochs, nfe, "o-", c=color, label=variant)
    axis.set(
        xlabel="epoch",
        xticks=range(0, EPOCHS + 1, 3),
        ylabel=f"evaluations at a tolerance of {RTOL:g}",
        title="(d) growth",
    )
    axis.legend()


def odenet(data, options):
    """Returns the ODE-Net of table 1, trained if it is not at hand."""
    return table1.train("odenet", 0, data, options, is_needed=True)


def main(options):
    """Measures what the logs lack, and draws the four panels."""
    train, test = table1.load(options)
    tested = test[0][:TESTED], test[1][:TESTED]
    for variant in chosen(options.only, VARIANTS):
        grow(variant, (train, tested), options)
    rows = turn_the_dial(
        lambda: odenet((train, test), options), tested, options
    )
    figure = pictures.new(15, 3.6)
    axes = figure.subplots(1, 4)
    draw_dial(axes[:3], rows)
    log = Log(options.logs / "figure3_growth.csv", GROWTH_COLUMNS)
    draw_growth(axes[3], log.rows())
    pictures.save(figure, options.logs / "figure3.png")
