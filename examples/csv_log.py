"""A log of dicts in a CSV file, from which a run goes on."""

import argparse
import csv
import pathlib


def read(path):
    """Returns the rows of a log as strings; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def keep_smoke_apart(arguments, parser):
    """Gives a smoke run a log of its own, unless one was named."""
    default = parser.get_default("log")
    if arguments.smoke and arguments.log == default:
        arguments.log = default.with_stem(f"{default.stem}_smoke")


def append(path, row):
    """Adds a row to a log, below the names of its columns.

    Raises:
        ValueError: If the log has other columns.
    """
    for known in read(path)[:1]:
        if list(known) != list(row):
            raise ValueError(
                f"The row must have the columns of {path.name}, "
                f"{list(known)}. Move the log away to begin another. "
                f"Received: {list(row)}"
            )
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def record(path, rows):
    """Writes a log anew once it has all rows; prints each as it comes."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    for number, row in enumerate(rows):
        append(partial, row)
        if number == 0:
            print(*row, sep="  ")
        print(*row.values(), sep="  ", flush=True)
    partial.replace(path)


def record_command(description, log, rows):
    """Records rows, from the command line: in a log, or that of `--log`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--log", type=pathlib.Path, default=log)
    record(parser.parse_args().log, rows)
