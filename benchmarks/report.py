"""Tables and pictures of what `run.py` measured."""

import json
import pathlib
import sys

import growth
import latent_step
import rows
import timing

FOLDER = pathlib.Path(__file__).parents[1]
DOCS = FOLDER / "docs"
OURS = ("keras_node graph", "keras_node XLA", "keras_node eager")
DETAILS = (
    "contender",
    "median ms",
    "best ms",
    "/ best peer",
    "NFE",
    "error",
    "first call s",
    "MB",
    "gradient difference",
)
HEADER = (
    "row",
    "ours ms",
    "best ms",
    "best peer",
    "its ms",
    "ours / peer",
    "best / peer",
    "target",
    "first call",
    "over bare loop",
)
SLOPES = ("axis", "contender", "time", "memory")


def best_peer(results):
    """Returns the name of the fastest peer whose gradients agree."""
    peers = [
        name
        for name, result in results.items()
        if rows.is_peer(name) and result["agrees"]
    ]
    return min(peers, key=lambda name: results[name]["median"], default=None)


def ours(results):
    """Returns the names of ours: by default, and the fastest."""
    names = [name for name in OURS if name in results]
    return names[0], min(names, key=lambda name: results[name]["median"])


def print_row(row, results):
    """Prints all that is known of a row."""
    peer = best_peer(results)
    baseline = results[peer]["median"] if peer else None
    timing.print_table(
        row.title,
        DETAILS,
        [
            (
                name,
                f"{1e3 * result['median']:.2f}",
                f"{1e3 * result['best']:.2f}",
                f"{result['median'] / baseline:.2f}" if peer else "",
                _nfe(result),
                f"{result['error']:.1e}" if "error" in result else "",
                f"{result['setup_seconds']:.1f}",
                f"{result['megabytes']:.0f}",
                "" if name == "bare loop" else _difference(result),
            )
            for name, result in results.items()
        ],
    )


def _difference(result):
    if not result["difference"]:  # Nothing to compare, or the reference.
        return "-"
    return f"{result['difference']:.1e}" + " WRONG" * (not result["agrees"])


def _nfe(result):
    if result["nfe"] < 0:
        return "-"
    backward = result.get("nfe_backward")
    return f"{result['nfe']} + {backward}" if backward else str(result["nfe"])


def table_row(row, results):
    """Returns the cells of a row of the documentation's table."""
    default, best = ours(results)
    peer = best_peer(results)
    median = {name: result["median"] for name, result in results.items()}
    bare = median.get("bare loop")
    first = {name: result["setup_seconds"] for name, result in results.items()}
    return (
        row.title,
        f"{1e3 * median[default]:.2f}",
        f"{1e3 * median[best]:.2f}",
        peer,
        f"{1e3 * median[peer]:.2f}",
        f"{median[default] / median[peer]:.2f}",
        f"{median[best] / median[peer]:.2f}",
        ", ".join(_targets(row, results)),
        f"{first[best]:.1f} s, {first[peer]:.1f} s",
        f"{median[default] / bare:.2f}" if bare else "",
    )


def latent_rows(results):
    """Yields the lines of the latent ODE, whose target is half the time."""
    for name, result in results.items():
        ms = {key: 1e3 * value["median"] for key, value in result.items()}
        default, best, peer = (
            ms["keras_node graph"],
            min(ms["keras_node graph"], ms["keras_node XLA"]),
            ms["torchdiffeq"],
        )
        yield (
            f"latent ODE, {name}",
            f"{default:.0f}",
            f"{best:.0f}",
            "torchdiffeq",
            f"{peer:.0f}",
            f"{default / peer:.2f}",
            f"{best / peer:.2f}",
            "0.5",
            "",
            "",
        )


def _targets(row, results):
    """Yields each target with what came of it, where the table has it not."""
    for key, target in row.targets.items():
        name, _, peer = key.partition(" / ")
        text = f"{target:g}"
        if peer in results:
            _, best = ours(results)
            ratio = results[best]["median"] / results[peer]["median"]
            text += f" of {peer} ({ratio:.2f})"
        elif name == "keras_node graph":
            text += " as a graph"
        yield text


def markdown(header, lines):
    """Returns a Markdown table."""
    table = [header, ["---"] * len(header), *lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in table)


def slopes(results):
    """Returns the lines of the table of slopes."""
    for name, curve in results.items():
        for contender, points in curve["points"].items():
            cells = [
                growth.slope(
                    curve["values"], [point and point[key] for point in points]
                )
                for key in ("seconds", "megabytes")
            ]
            label = growth.CURVES[name].label
            yield (label, contender, *(f"{cell:.2f}" for cell in cells))


def print_curve(name, results):
    """Prints the slopes of a curve."""
    lines = [line[1:] for line in slopes({name: results})]
    label = growth.CURVES[name].label
    timing.print_table(f"slope over {label}", SLOPES[1:], lines)


def draw(results, path):
    """Draws time and memory over each axis."""
    sys.path.append(str(FOLDER / "examples"))
    import pictures

    figure = pictures.new(3 * len(results), 5)
    axes = figure.subplots(2, len(results), squeeze=False)
    for column, (name, curve) in zip(axes.T, results.items(), strict=True):
        for axis, key, factor in zip(
            column, ("seconds", "megabytes"), (1e3, 1), strict=True
        ):
            for contender, points in curve["points"].items():
                shown = [
                    (value, factor * point[key])
                    for value, point in zip(
                        curve["values"], points, strict=True
                    )
                    if point
                ]
                line = zip(*shown, strict=True)
                axis.loglog(*line, "o-", ms=4, label=contender)
            pictures.label_plainly(axis.yaxis)
            axis.grid()
        column[1].set_xlabel(growth.CURVES[name].label)
    axes[0, 0].set_ylabel("ms of a training step")
    axes[1, 0].set_ylabel("MB, first call included")
    pictures.share_legend(figure, axes[0, 0])
    pictures.save(figure, path)


def missing(results):
    """Yields what the documentation's table still lacks."""
    for row in rows.ROWS:
        if row.workload not in results["rows"]:
            yield row.workload
        elif best_peer(results["rows"][row.workload]) is None:
            yield f"a peer of {row.workload}"
    for tolerances in latent_step.TOLERANCES:
        name = latent_step.name_of(tolerances)
        if name not in results["latent"]:
            yield f"the latent ODE, {name}"
    for name in growth.CURVES:
        if name not in results["curves"]:
            yield f"the curve over {name}"


def write(results):
    """Writes `docs/benchmarks.md`, its picture and its log."""
    lacks = list(missing(results))
    if lacks:
        sys.exit(
            "--write needs every row and curve, with a peer for each row. "
            f"Missing: {'; '.join(lacks)}. Nothing was written."
        )
    lines = [table_row(row, results["rows"][row.workload]) for row in rows.ROWS]
    lines += latent_rows(results["latent"])
    text = TEXT.format(
        table=markdown(HEADER, lines),
        slopes=markdown(SLOPES, slopes(results["curves"])),
    )
    (DOCS / "benchmarks.md").write_text(text)
    log = json.dumps(results, indent=1)
    (DOCS / "benchmarks.json").write_text(log + "\n")
    draw(results["curves"], DOCS / "benchmarks.png")


TEXT = """# Benchmarks

Written by `benchmarks/run.py` (how to run it: `benchmarks/README.md`;
[log](benchmarks.json)).
Times are medians of alternating rounds in one run, on two cores. "Ours" is a
graph (eager in the row of that name), "best" the faster of graph and XLA, the
peer the fastest whose gradients agree. A target is what "best / peer" was to
reach; "as a graph" is for "ours / peer", and "of tfp" for the best over that
peer, whose ratio stands in brackets. "First call" is tracing, compilation and
one solve with its gradients, of our best and of that peer; "over bare loop" is
the time over that of a loop which does nothing but evaluate the field and its
vector-Jacobian product, once for each stage of each accepted step.

{table}
## Growth

![Time and memory over batch, state, steps and times](benchmarks.png)

The slope between the last two points of each curve, both axes logarithmic:

{slopes}"""
