"""What is recommended follows from the number of images and from the figures."""

import dataclasses

import numpy as np
import pytest

import tlkit
from tests.advice.test_similarity import report_of
from tlkit.advice.recommendation import recommend
from tlkit.errors import ArgumentError

NEAR, FAR, USELESS = report_of(), report_of(distance=0.6), report_of(accuracy=0.55)


@pytest.fixture(scope="module")
def data():
    images = np.random.default_rng(0).integers(0, 255, (100, 8, 8, 3)).astype("uint8")
    return tlkit.load_arrays(images, np.arange(100) % 2, ["a", "b"], splits=(1, 0, 0))


def of_size(data, num_images, *, copies=False):
    digests = ["same"] * num_images if copies else [f"image {i}" for i in range(num_images)]
    split = dataclasses.replace(data.train, digests=tuple(digests))
    return dataclasses.replace(data, train=split)


@pytest.mark.parametrize(
    ("num_images", "similarity", "expected"),
    [
        (39, NEAR, ("head", "head", "none")),
        (39, FAR, ("head", "head", "none")),
        (40, NEAR, ("fine-tune", 3, "strong")),
        (999, NEAR, ("fine-tune", 3, "strong")),
        (40, FAR, ("fine-tune", 3, "weak")),
        (40, USELESS, ("fine-tune", 3, "weak")),
        (1000, NEAR, ("fine-tune", "all", "weak")),
        (1000, FAR, ("fine-tune", "all", "none")),
        (1000, USELESS, ("fine-tune", "all", "none")),
    ],
)
def test_size_and_similarity_decide(data, num_images, similarity, expected):
    found = recommend(of_size(data, num_images), similarity)
    assert (found.mode, found.unfreeze, found.anchor) == expected
    assert f"{num_images / 2:,.1f} training images of a class" in str(found)
    assert found.reasons[0] in found._repr_html_()
    assert (found.anchor_strength > 0) == (found.anchor != "none")
    assert found.arguments.keys() == ({"mode"} if num_images < 40 else {"mode", "unfreeze"})


def test_the_reason_names_the_figures(data):
    many = of_size(data, 1000)
    assert "90.0 % with its weights, 50.0 % with random ones" in str(recommend(many, NEAR))
    assert "distance 0.60" in str(recommend(many, FAR))
    assert "does not show to help" in str(recommend(many, USELESS))


def test_copies_count_once(data):
    assert recommend(of_size(data, 1000, copies=True), NEAR).mode == "head"


def test_bad_arguments_are_refused(data):
    with pytest.raises(ArgumentError, match="`data` must be what load_folder returned"):
        recommend(data.train, NEAR)
    with pytest.raises(ArgumentError, match="`similarity` must be what measure_similarity"):
        recommend(data, 0.5)
