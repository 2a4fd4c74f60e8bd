"""The guides as pages and notebooks: a hook of MkDocs, and a command.

    python guides/pages.py FOLDER

No cell is run. In notebooks, links to other pages are plain text.
"""

import pathlib
import re
import sys

import jupytext
import nbformat
from mkdocs.structure.files import File

FOLDER = pathlib.Path(__file__).parent
PATHS = sorted(set(FOLDER.glob("*.py")) - {FOLDER / "pages.py"})
LINK = re.compile(r"\[([^]]*)\]\([^):]*\.md[^)]*\)")
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def as_page(path, *links):
    """Returns a guide in Markdown, with links below its title."""
    guide = jupytext.read(path, fmt="py:percent")
    guide.metadata = {"jupytext": {"notebook_metadata_filter": "-all"}}
    title, body = jupytext.writes(guide, "md").split("\n", 1)
    links = (f"[Download the notebook]({path.stem}.ipynb)", *links)
    return f"{title}\n\n{' · '.join(links)}\n{body}"


def as_notebook(path, repo_url=""):
    """Returns a guide as a notebook, which installs a repository first."""
    guide = jupytext.read(path, fmt="py:percent")
    if repo_url:
        install = nbformat.v4.new_code_cell(f"%pip install -q git+{repo_url}")
        guide.cells.insert(1, install)
    for i, cell in enumerate(guide.cells):
        cell.id, cell.metadata = str(i), {}  # The same in each build.
        if cell.cell_type == "markdown":
            cell.source = LINK.sub(r"\1", cell.source)
    guide.metadata = {"kernelspec": KERNEL}
    return nbformat.writes(guide)


def on_files(files, config):
    """Adds a page and a notebook of each guide to the files of the site."""
    url = (config.repo_url or "").rstrip("/")
    # Colab reads notebooks of GitHub: here the branch of `mkdocs gh-deploy`.
    colab = url.replace("//github.com", "//colab.research.google.com/github")
    for path in PATHS:
        name = f"guides/{path.stem}"
        blob = f"{colab}/blob/{config.remote_branch}/{name}.ipynb"
        page = as_page(path, *[f"[Open in Colab]({blob})"] * (colab != url))
        for to, text in ((".md", page), (".ipynb", as_notebook(path, url))):
            files.append(File.generated(config, name + to, content=text))
    return files


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for path in PATHS:
        (folder / f"{path.stem}.md").write_text(as_page(path))
        (folder / f"{path.stem}.ipynb").write_text(as_notebook(path))
