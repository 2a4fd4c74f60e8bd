"""Text of reports: tables, paragraphs and numbers."""

import math
import textwrap


def table(header, rows, names=(0,)):
    """Returns rows as aligned text.

    Args:
        header: List of strings.
        rows: List of lists of strings, each as long as `header`.
        names: Indices of the columns to align at the left; the others are
            numbers. Default `(0,)`, the first.
    """
    columns = [
        _aligned(column, i in names)
        for i, column in enumerate(zip(header, *rows, strict=True))
    ]
    lines = zip(*columns, strict=True)
    return "\n".join("  ".join(line).rstrip() for line in lines)


def paragraph(text):
    """Returns a text in lines of 80 columns."""
    return textwrap.fill(text, 80)


def number(value):
    """Returns a float as text, `-` for `None`, `failed` for NaN."""
    if value is None:
        return "-"
    return "failed" if math.isnan(value) else f"{value:.1e}"


def percent(share):
    """Returns a share as text in percent, with two digits."""
    if 0.0 < share < 1.0:
        return f"{100 * share:.2g} %"
    return f"{100 * share:.0f} %" if share < 100.0 else f"{100 * share:.1e} %"


def _aligned(cells, is_left):
    width = max(map(len, cells))
    return [
        cell.ljust(width) if is_left else cell.rjust(width) for cell in cells
    ]
