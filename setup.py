"""Packaging of `keras_node`."""

import pathlib
import runpy

import setuptools

ROOT = pathlib.Path(__file__).parent
README = ROOT / "README.md"
VERSION_FILE = ROOT / "keras_node" / "version.py"

EXAMPLES = ["matplotlib"]
TEST = [
    *EXAMPLES,
    "hypothesis",
    "pytest",
    "pytest-xdist",
    "ruff~=0.17.0",
    "scipy",
    "tensorboard",
]
# For `model.export`; Keras's export to OpenVINO imports scipy.
EXPORT = ["ai-edge-litert", "onnxruntime", "openvino", "scipy", "tf2onnx"]
# The peers live in other environments: see benchmarks/README.md.
BENCH = ["matplotlib", "psutil", "scipy"]

setuptools.setup(
    name="keras_node",
    version=runpy.run_path(str(VERSION_FILE))["__version__"],
    description="Neural ordinary differential equations for Keras 3",
    long_description=README.read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=setuptools.find_packages(include=["keras_node", "keras_node.*"]),
    python_requires=">=3.11",
    install_requires=[
        "keras>=3.8",
        "numpy",
        "tensorflow>=2.18",
        "tensorflow-probability[tf]>=0.25",
    ],
    extras_require={
        "examples": EXAMPLES,
        "test": TEST,
        "bench": BENCH,
        "export": EXPORT,
    },
)
