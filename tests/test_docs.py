"""Tests that the Python in the documentation runs, from top to bottom."""

import pathlib
import re

import matplotlib
import pytest

DOCS = pathlib.Path(__file__).parents[1] / "docs"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("page", ["deployment.md"])
def test_page_runs(page, tmp_path, monkeypatch, capsys):
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) > 3
    namespace = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, page, "exec"), namespace)
    assert namespace["history"].history["rtol"] == [
        0.01,
        0.005,
        0.0025,
        0.00125,
    ]
