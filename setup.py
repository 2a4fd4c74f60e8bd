"""Packaging of `keras_node`: everything is in pyproject.toml."""

import setuptools

setuptools.setup()
