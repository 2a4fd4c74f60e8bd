"""The paper's tables and figures, by one command each; see `__main__.py`."""

import pathlib
import sys

FOLDER = pathlib.Path(__file__).parents[1]
PAGES = FOLDER.parent / "docs" / "reproduction"
# As if run from its folder: an example imports its neighbours.
sys.path.append(str(FOLDER))


def chosen(only, names):
    """Returns the names that `--only` asks for, all of them without it."""
    unknown = set(only or ()) - set(names)
    if unknown:
        sys.exit(
            f"--only must be some of: {', '.join(names)}. "
            f"Received: {', '.join(sorted(unknown))}"
        )
    return only or list(names)
