"""The guides run as scripts, and become pages and notebooks."""

import importlib.util
import pathlib
import runpy

import keras
import matplotlib
import matplotlib.pyplot as plt
import pytest

ROOT = pathlib.Path(__file__).parents[1]
GUIDES = sorted(set(ROOT.glob("guides/*.py")) - {ROOT / "guides" / "pages.py"})
# The others take some 10 seconds.
SLOW = {"densities", "irregular_series", "serving"}


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            path,
            id=path.stem,
            marks=[pytest.mark.slow] if path.stem in SLOW else [],
        )
        for path in GUIDES
    ],
)
def test_guide_runs_and_finds_what_it_says(path, tmp_path, monkeypatch, capsys):
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(1)  # The guide has a seed of its own.
    runpy.run_path(str(path), run_name="__main__")
    num_pictures = len(plt.get_fignums())
    plt.close("all")
    assert num_pictures <= 2
    assert len(capsys.readouterr().out.splitlines()) >= 2
    # What a guide writes is gone, or in a temporary folder.
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def pages():
    """The converter, where its libraries are installed."""
    for name in ("jupytext", "mkdocs"):
        pytest.importorskip(name)
    path = ROOT / "guides" / "pages.py"
    spec = importlib.util.spec_from_file_location("pages", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_guide_has_a_page(pages):
    assert pages.PATHS == GUIDES
    for path in GUIDES:
        title, _, links, _ = pages.as_page(path).split("\n", 3)
        assert title.startswith("# ")
        assert links == f"[Download the notebook]({path.stem}.ipynb)"
        assert "```python\n" in pages.as_page(path)
        assert "# %%" not in pages.as_page(path)


def test_every_guide_has_a_valid_notebook(pages):
    nbformat = pytest.importorskip("nbformat")
    for path in GUIDES:
        text = pages.as_notebook(path)
        notebook = nbformat.reads(text, as_version=4)
        nbformat.validate(notebook)
        assert notebook.cells[0].source.startswith("# ")
        # A notebook is alone: pages of the site are not beside it.
        assert ".md)" not in text
        assert text == pages.as_notebook(path)


@pytest.mark.parametrize(
    ("url", "num_links"),
    [
        (None, 1),
        ("https://github.com/owner/name/", 2),
        ("https://gitlab.example/owner/name", 1),
    ],
)
def test_colab_opens_the_notebooks_of_a_site_on_github(
    pages, url, num_links, tmp_path
):
    (tmp_path / "docs").mkdir()
    path = tmp_path / "mkdocs.yml"
    hook = pathlib.Path(pages.__file__)
    path.write_text(f"site_name: site\nplugins: []\nhooks: ['{hook}']\n")
    mkdocs = importlib.import_module("mkdocs.config")
    config = mkdocs.load_config(str(path), repo_url=url)
    files = config.plugins.on_files([], config=config)
    texts = {file.src_uri: file.content_string for file in files}
    assert len(texts) == 2 * len(GUIDES)
    links = texts["guides/serving.md"].splitlines()[2]
    assert links.count("](") == num_links
    if num_links == 2:
        assert links.endswith(
            "(https://colab.research.google.com/github/owner/name/blob/gh-pages/"
            "guides/serving.ipynb)"
        )
    # Elsewhere the package is not installed yet.
    assert ("%pip install" in texts["guides/serving.ipynb"]) == (
        url is not None
    )
