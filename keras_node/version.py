"""The version of the package, and nothing else: `setup.py` runs this file."""

__version__ = "0.1.0"
