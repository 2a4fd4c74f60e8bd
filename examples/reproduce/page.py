"""Writes the tables of the reproduction's page from the logs.

A table stands between `<!-- name -->` and `<!-- end -->`; the text around it is
written by hand.
"""

import csv
import re
import statistics

from examples.reproduce import PAGES

PAGE = "README.md"
BLOCK = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def read(logs, name):
    """Returns the lines of a log, dicts of strings; none if it is not there."""
    path = logs / f"{name}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def table(header, rows):
    """Returns a Markdown table; nothing if there are no rows."""
    if not rows:
        return ""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def spread(values, form="{:.3f}"):
    """Returns the mean of numbers, and each of them if there are several."""
    values = [float(value) for value in values]
    if not values:
        return ""
    each = ", ".join(rounded(value, form) for value in values)
    mean = rounded(statistics.mean(values), form)
    return f"**{mean}** ({each})" if len(values) > 1 else f"**{mean}**"


def rounded(value, form):
    """Returns a number as text, without a sign if it is zero."""
    text = form.format(value)
    return text if float(text) else text.removeprefix("-")


def grouped(rows, *names):
    """Returns `{values of the columns: rows}`, in the order of the log."""
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def column(rows, name):
    """Returns the values of a column."""
    return [row[name] for row in rows]


NETWORKS = {
    "odenet": "ODE-Net",
    "none": "no block",
    "resnet": "ResNet",
    "rknet": "RK-Net",
}
PAPER_TABLE1 = {"odenet": "0.42", "rknet": "0.47", "resnet": "0.41"}


def table1(logs):
    """Test error of the last epoch of each network and seed."""
    rows = []
    for (network,), lines in grouped(read(logs, "table1"), "network").items():
        last = [
            max(run, key=lambda row: int(row["epoch"]))
            for run in grouped(lines, "run").values()
        ]
        epochs = {f"{row['epoch']} of {row['epochs']}" for row in last}
        seconds = statistics.median(map(float, column(lines, "seconds")))
        rows.append(
            (
                NETWORKS[network],
                f"{int(last[0]['parameters']):,}",
                PAPER_TABLE1.get(network, ""),
                spread(column(last, "test_error"), "{:.2f}"),
                ", ".join(sorted(epochs)),
                last[-1]["nfe"],
                f"{seconds:.0f}",
            )
        )
    header = (
        "network",
        "parameters",
        "paper's error, %",
        "ours, %",
        "epochs",
        "NFE",
        "median seconds an epoch",
    )
    return table(header, rows)


def memory(logs):
    """Megabytes over the depth."""
    groups = grouped(read(logs, "memory"), "kind")
    depths = sorted({int(x["depth"]) for v in groups.values() for x in v})
    rows = [
        (kind, *(f"{float(line['megabytes']):.0f}" for line in lines))
        for (kind,), lines in groups.items()
    ]
    return table(("MB at a depth of", *depths), rows)


def dial(logs):
    """Error, evaluations and times over the tolerance."""
    header = (
        "tolerance",
        "adjoint",
        "NFE forwards",
        "NFE backwards",
        "relative error",
        "test error, %",
        "forwards, ms",
        "training step, ms",
    )
    rows = [
        (
            row["tolerance"],
            row["adjoint"],
            row["nfe"],
            row["nfe_backward"],
            f"{float(row['error']):.2g}",
            f"{float(row['test_error']):.2f}",
            f"{float(row['forward_ms']):.0f}",
            f"{float(row['step_ms']):.0f}",
        )
        for row in read(logs, "figure3_dial")
    ]
    return table(header, rows)


def growth(logs):
    """Evaluations of the first and last epoch, error, and shortest epoch."""
    header = (
        "",
        "NFE, first epoch",
        "NFE, last",
        "test error, %",
        "seconds, the shortest epoch",
    )
    rows = []
    for (variant,), lines in grouped(
        read(logs, "figure3_growth"), "variant"
    ).items():
        rows.append(
            (
                variant,
                lines[0]["nfe"],
                lines[-1]["nfe"],
                f"{float(lines[-1]['test_error']):.2f}",
                # The machine had other work in some of them.
                f"{min(map(float, column(lines, 'seconds'))):.0f}",
            )
        )
    return table(header, rows)


def figure4(logs):
    """Divergences over the size, both kinds of flow."""
    groups = grouped(read(logs, "figure4"), "target", "kind", "size")
    sizes = sorted({size for _, _, size in groups}, key=int)
    pairs = dict.fromkeys((target, kind) for target, kind, _ in groups)
    rows = [
        (
            target,
            kind,
            *(
                spread(column(groups.get((target, kind, size), []), "kl"))
                for size in sizes
            ),
        )
        for target, kind in pairs
    ]
    return table(("target", "flow", *(f"M, K = {s}" for s in sizes)), rows)


def figure5(logs):
    """Nats of points held out."""
    rows = [
        (
            data.replace("_", " "),
            kind,
            lines[0]["parameters"],
            spread(column(lines, "nats")),
            f"{statistics.mean(map(float, column(lines, 'seconds'))):.0f}",
        )
        for (data, kind), lines in grouped(
            read(logs, "figure5"), "data", "kind"
        ).items()
    ]
    header = ("data", "flow", "parameters", "nats held out", "mean seconds")
    return table(header, rows)


PAPER_TABLE2 = {
    "latent ODE": {"30": "0.1642", "50": "0.1502", "100": "0.1346"},
    "RNN": {"30": "0.3937", "50": "0.3202", "100": "0.1813"},
}


def table2(logs):
    """Errors beyond the times of training, every seed."""
    groups = grouped(read(logs, "table2"), "observed")
    rows = []
    for (observed,), lines in sorted(
        groups.items(), key=lambda x: int(x[0][0])
    ):
        cells = [observed]
        for name, key in (("latent ODE", "latent_ode"), ("RNN", "rnn")):
            cells.append(PAPER_TABLE2[name].get(observed, ""))
            cells.append(spread(column(lines, key), "{:.4f}"))
        rows.append(cells)
    header = (
        "observed",
        "latent ODE, paper",
        "ours",
        "recurrent network, paper",
        "ours",
    )
    return table(header, rows)


def poisson(logs):
    """Nats of series held out, beside the truth and a constant."""
    lines = read(logs, "poisson")
    names = {
        "constant rate": ("bound_constant", "rmse_constant"),
        "latent ODE (bound)": ("bound", "rmse"),
        "true intensity": ("bound_true", None),
    }
    rows = [
        (
            name,
            spread(column(lines, nats), "{:.2f}"),
            spread(column(lines, rmse), "{:.2f}") if rmse else "0",
        )
        for name, (nats, rmse) in names.items()
        if lines
    ]
    return table(("", "log-likelihood, nats", "RMSE of the intensity"), rows)


def batches(logs):
    """Evaluations and time of a batch with one stiff sample."""
    groups = grouped(read(logs, "batches"), "samples")
    rows = []
    for (samples,), lines in groups.items():
        cells = [samples]
        for line in lines:
            nfe, time = float(line["nfe_mean"]), float(line["milliseconds"])
            cells += [f"{nfe:.0f}", f"{time:.1f}"]
        rows.append(cells)
    header = (
        "samples",
        "NFE, one clock",
        "ms",
        "NFE, own clocks, mean",
        "ms",
    )
    return table(header, rows)


def drift(logs):
    """Errors of backsolve and of checkpoints over the rate of contraction."""
    rows = []
    for (rate,), lines in grouped(read(logs, "drift"), "rate").items():
        found = {line["adjoint"]: line for line in lines}
        errors = [
            found[adjoint][f"{of}_error"] if adjoint in found else ""
            for adjoint, of in (
                ("checkpoint", "gradient"),
                ("backsolve", "gradient"),
                ("backsolve", "state"),
            )
        ]
        rows.append((rate, *(f"{float(x):.1e}" if x else "" for x in errors)))
    header = (
        "rate",
        "gradient by checkpoints",
        "gradient by backsolve",
        "state of backsolve",
    )
    return table(header, rows)


def annuli(logs):
    """Loss and accuracy over the number of added dimensions."""
    rows = [
        (
            extra,
            spread(column(lines, "loss"), "{:.2g}"),
            spread(column(lines, "accuracy"), "{:.4f}"),
            spread(column(lines, "nfe"), "{:.0f}"),
        )
        for (extra,), lines in grouped(
            read(logs, "annuli"), "extra_dimensions"
        ).items()
    ]
    return table(("dimensions added", "loss", "accuracy", "NFE"), rows)


TABLES = {
    function.__name__: function
    for function in (
        table1,
        memory,
        dial,
        growth,
        figure4,
        figure5,
        table2,
        poisson,
        batches,
        drift,
        annuli,
    )
}


def written(text, logs):
    """Returns the page with the tables that the logs give."""
    return BLOCK.sub(
        lambda block: block[1] + TABLES[block[2]](logs) + block[3], text
    )


def main(options):
    """Writes the page beside the logs, with its text and their tables."""
    text = (PAGES / PAGE).read_text()
    path = options.logs / PAGE
    path.write_text(written(text, options.logs))
    print(f"Wrote {path}.")
