"""The paper's tables and figures, by one command each; see `__main__.py`."""

import pathlib
import sys

FOLDER = pathlib.Path(__file__).parents[1]
# As if run from its folder: an example imports its neighbours.
sys.path.append(str(FOLDER))
