"""Files of earlier versions load, and compute what they computed then."""

import pathlib

import keras
import numpy as np
import pytest
from fixtures.write_models import MODELS, outputs

FOLDER = pathlib.Path(__file__).parent / "fixtures"


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_an_earlier_version_is_loaded(name):
    model = keras.models.load_model(FOLDER / f"{name}.keras")
    _, x = MODELS[name]()
    actual = outputs(model, x)
    expected = np.load(FOLDER / f"{name}.npy")
    assert actual.shape == expected.shape
    # Noise may be drawn in another way by now.
    if name != "hutchinson_flow":
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
