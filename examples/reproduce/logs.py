"""Logs: CSV files with one line for each epoch or solve."""

import csv
import pathlib


class Log:
    """Lines with the same columns, in a file that only grows.

    Args:
        path: Where the file is, or will be.
        columns: Names, in order. A file with other ones is refused.
    """

    def __init__(self, path, columns):
        self._path = pathlib.Path(path)
        self._columns = list(columns)
        if not self._path.exists():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("w", newline="") as file:
                csv.writer(file).writerow(self._columns)
        with self._path.open(newline="") as file:
            found = next(csv.reader(file))
        if found != self._columns:
            raise ValueError(
                f"{path} must have the columns {self._columns}; move it away "
                f"to begin a new one. Received: columns {found}"
            )

    def rows(self, **wanted):
        """Returns the lines with these values, as dicts, numbers as floats."""
        with self._path.open(newline="") as file:
            rows = [
                {name: _parsed(text) for name, text in row.items()}
                for row in csv.DictReader(file)
            ]
        return [row for row in rows if _matches(row, wanted)]

    def append(self, **row):
        """Adds a line, and prints it; columns that are left out stay empty."""
        line = {name: _written(value) for name, value in row.items()}
        with self._path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(line)
        cells = [f"{name} {value}" for name, value in line.items() if value]
        print(", ".join(cells), flush=True)


def _matches(row, wanted):
    return all(row[name] == value for name, value in wanted.items())


def _parsed(text):
    try:
        return float(text)
    except ValueError:
        return text


def _written(value):
    is_text = isinstance(value, str)
    return value if is_text else f"{float(value):.6g}"
