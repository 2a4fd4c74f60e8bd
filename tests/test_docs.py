"""Tests that the Python in the documentation runs, from top to bottom."""

import pathlib
import re

import keras
import matplotlib
import pytest

ROOT = pathlib.Path(__file__).parents[1]
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
SLOW = {"docs/densities.md", "docs/deployment.md", "docs/time-series.md"}


def pages():
    """Returns the names of the pages with blocks of Python."""
    paths = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
    names = [
        path.relative_to(ROOT).as_posix()
        for path in paths
        if BLOCK.search(path.read_text(encoding="utf-8"))
    ]
    assert {"README.md", *SLOW} <= set(names)
    return [
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name in names
    ]


# The page on deployment shows what warns.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("page", pages())
def test_blocks_of_a_page_run_one_after_the_other(page, tmp_path, monkeypatch):
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    text = (ROOT / page).read_text(encoding="utf-8")
    namespace = {"__name__": "page"}
    for block in BLOCK.finditer(text):
        # A traceback shows the line of the page.
        above = "\n" * text.count("\n", 0, block.start(1))
        exec(compile(above + block[1], ROOT / page, "exec"), namespace)
    if page == "docs/deployment.md":
        rtol = namespace["history"].history["rtol"]
        assert rtol == [0.01, 0.005, 0.0025, 0.00125]
