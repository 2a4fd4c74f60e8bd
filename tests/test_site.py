"""Tests that the site has a page for everything public."""

import importlib
import pathlib
import re
import types

import pytest

import keras_node

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "reference").glob("*.md"))
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#[^)]*)?\)")


def public_names():
    """Returns what users may name, as it is imported."""
    names = set()
    for name in dir(keras_node):
        if name.startswith("__"):
            continue
        value = getattr(keras_node, name)
        if isinstance(value, types.ModuleType):
            names |= {f"{name}.{inner}" for inner in exported(value)}
        else:
            names.add(name)
    return {f"keras_node.{name}" for name in names}


def exported(module):
    """Returns the public names that a module defines or lists."""
    if hasattr(module, "__all__"):
        return module.__all__
    return [
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__
        and not name.startswith("_")
    ]


def test_each_public_name_is_in_the_reference_and_none_else_is():
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert set(re.findall(r"^::: (\S+)$", text, re.MULTILINE)) == public_names()


def test_what_the_reference_names_can_be_imported():
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name in re.findall(r"^::: (\S+)$", text, re.MULTILINE):
        module, _, attribute = name.rpartition(".")
        assert getattr(importlib.import_module(module), attribute).__doc__


@pytest.mark.parametrize("path", ["README.md", *(ROOT / "docs").rglob("*.md")])
def test_links_and_pictures_of_a_page_exist(path):
    path = ROOT / path
    for target in LINK.findall(path.read_text(encoding="utf-8")):
        # The guides are pages that the build makes of `guides/*.py`.
        made = re.fullmatch(r"(?:\.\./)?guides/(\w+)\.md", target)
        file = ROOT / f"guides/{made[1]}.py" if made else path.parent / target
        assert file.exists() or not target, target
