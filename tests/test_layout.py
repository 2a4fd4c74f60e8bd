"""Who may import whom: a file its own package, or one of lower rank."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent / "keras_node"
RANKS = [
    {"common", "environment", "version"},
    {"dynamics", "saving"},
    {
        "events",
        "interpolation",
        "likelihoods",
        "objectives",
        "regularizers",
        "solvers",
        "trace",
    },
    {"adjoints", "callbacks"},
    {"integration"},
    {"latent", "layers"},
    {"flows"},
    {"citations", "diagnostics"},
    {"visualize"},
    {"__init__"},
]
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}


def package_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path):
    """Yields the packages of ours that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "keras_node":
            modules = [f"keras_node.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        else:
            continue
        for module in modules:
            if module.startswith("keras_node."):
                yield module.split(".")[1]


@pytest.mark.parametrize(
    "path", sorted(ROOT.rglob("*.py")), ids=lambda path: path.stem
)
def test_a_file_imports_its_own_package_or_one_below(path):
    own = package_of(path)
    wrong = [
        name
        for name in imports(path)
        if name != own and RANK[name] >= RANK[own]
    ]
    assert not wrong


def test_nothing_is_imported_inside_a_function():
    for path in ROOT.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, (ast.FunctionDef, ast.Lambda)):
                inside = ast.walk(function)
                assert not any(
                    isinstance(node, (ast.Import, ast.ImportFrom))
                    for node in inside
                ), path
