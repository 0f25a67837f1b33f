"""Recommendations by the number of images and the similarity."""

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
        (9, NEAR, ("head", "head")),
        (9, FAR, ("head", "head")),
        (10, NEAR, ("fine-tune", "all")),
        (10, FAR, ("fine-tune", "all")),
        (10, USELESS, ("fine-tune", "all")),
        (1000, NEAR, ("fine-tune", "all")),
    ],
)
def test_the_recommendation_depends_on_the_number_of_images(data, num_images, similarity, expected):
    found = recommend(of_size(data, num_images), similarity)
    assert (found.mode, found.unfreeze) == expected
    assert f"{num_images / 2:,.1f} training images per class" in str(found)
    assert found.reasons[0] in found._repr_html_()
    assert found.arguments.keys() == ({"mode"} if num_images < 10 else {"mode", "unfreeze"})


def test_reasons_have_figures(data):
    many = of_size(data, 1000)
    assert "accuracy 90.0 % with them, 50.0 % with random weights" in str(recommend(many, NEAR))
    assert "distance of statistics 0.60" in str(recommend(many, FAR))
    assert "bring no significant gain" in str(recommend(many, USELESS))


def test_copies_count_once(data):
    assert recommend(of_size(data, 1000, copies=True), NEAR).mode == "head"


def test_invalid_arguments_raise(data):
    with pytest.raises(ArgumentError, match="`data` must be the result of load_folder"):
        recommend(data.train, NEAR)
    with pytest.raises(
        ArgumentError, match="`similarity` must be the result of measure_similarity"
    ):
        recommend(data, 0.5)
