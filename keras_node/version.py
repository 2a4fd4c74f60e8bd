"""The version of the package, and nothing else: pyproject.toml reads it."""

__version__ = "0.1.0"
