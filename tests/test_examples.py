"""The examples run, and show what they promise."""

import importlib.util
import pathlib

import pytest

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


def load_example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def mnist():
    return load_example("mnist_odenet")


def test_mnist_example_ends_with_its_table_and_plot(mnist, tmp_path, capsys):
    path = tmp_path / "plot.png"
    mnist.main(["--smoke", "--verbose", "0", "--output", str(path)])
    table = capsys.readouterr().out
    for row in ("Test error", "Parameters", "NFE forward", "NFE backward"):
        assert row in table
    # The paper's ODE-Net has 0.22 M parameters.
    assert "208,266" in table
    assert path.read_bytes().startswith(b"\x89PNG")


def test_mnist_subset_is_balanced_and_of_the_promised_size(mnist):
    arguments = mnist.parse_arguments([])
    (x, y), (x_test, y_test) = mnist.load_arrays(arguments)
    assert x.shape == (10_000, 28, 28)
    assert x_test.shape == (2_000, 28, 28)
    assert x.dtype == x_test.dtype == "uint8"
    assert set(y) == set(y_test) == set(range(10))
    assert (EXAMPLES / "mnist_subset.npz").stat().st_size <= 3 * 2**20


def test_network_that_does_not_exist_is_refused(mnist, capsys):
    with pytest.raises(SystemExit):
        mnist.parse_arguments(["--network", "transformer"])
    assert "odenet" in capsys.readouterr().err
