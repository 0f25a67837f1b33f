"""Models shared by several tests, which leave them unchanged."""

import keras
import numpy as np
import pytest

from tlkit.models.assembly import build_classifier

from .expectations import IMAGE_SIZES

CLASS_NAMES = ["ant", "bee", "cat"]


@pytest.fixture(scope="session", params=IMAGE_SIZES)
def family_model(request):
    """A classifier on the smallest backbone of each family, random weights."""
    return build_classifier(
        request.param, CLASS_NAMES, image_size=IMAGE_SIZES[request.param], weights=None
    )


@pytest.fixture(scope="session")
def small_model():
    """A `resnet20` classifier with random weights."""
    return build_classifier("resnet20", CLASS_NAMES, weights=None)


@pytest.fixture
def pixels():
    """Returns a function that generates images for a model, 0...255."""

    def make(model: keras.Model, num_images: int = 2) -> np.ndarray:
        shape = (num_images, *model.input_shape[1:])
        return np.random.default_rng(0).uniform(0, 255, shape).astype("float32")

    return make
