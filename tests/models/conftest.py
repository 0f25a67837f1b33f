"""Models shared by several tests, which leave them unchanged."""

from importlib.util import find_spec

import keras
import numpy as np
import pytest

from tlkit.models.assembly import build_classifier

from .expectations import IMAGE_SIZES
from .hub import FAMILIES, save_preset

CLASS_NAMES = ["ant", "bee", "cat"]
OWN_FILE = "own.keras"
VARIANTS = ("vit_mean", "dinov2_giant", "dinov3_gated")
"""Of families that the contract covers already; `test_keras_hub.py` checks them."""


@pytest.fixture(scope="session", params=IMAGE_SIZES)
def family_model(request):
    """A classifier on the smallest backbone of each family, random weights."""
    return _on_family(request.param)


@pytest.fixture(
    scope="session",
    params=[*IMAGE_SIZES, *(one for one in FAMILIES if one not in VARIANTS), OWN_FILE],
)
def any_model(request, tmp_path_factory):
    """A classifier on a backbone of the catalogue, of KerasHub, or in a file of one's own."""
    if request.param in IMAGE_SIZES:
        return _on_family(request.param)
    folder = tmp_path_factory.mktemp("any") / "preset"
    if request.param == OWN_FILE:
        model = keras.applications.MobileNetV3Small((64, 64, 3), 0.75, weights=None, classes=5)
        model.save(folder.with_name(OWN_FILE))
        return build_classifier(folder.with_name(OWN_FILE), CLASS_NAMES)
    if find_spec("keras_hub") is None:
        pytest.skip("KerasHub is not installed: pip install 'tlkit[hub]'")
    return build_classifier(save_preset(request.param, folder), CLASS_NAMES)


def _on_family(name: str) -> keras.Model:
    return build_classifier(name, CLASS_NAMES, image_size=IMAGE_SIZES[name], weights=None)


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
