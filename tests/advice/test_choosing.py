"""The most accurate backbone is chosen, or the cheapest of those too close to it to call."""

import dataclasses

import pytest

from tlkit.advice.backbones import BackboneComparison, BackboneScore
from tlkit.advice.choosing import choose_backbone
from tlkit.errors import ArgumentError


def score(name, accuracy, multiply_adds, *, half=0.02, is_close=True, weights="pretrained"):
    return BackboneScore(
        name=name,
        weights=weights,
        image_size=(224, 224),
        accuracy=accuracy,
        interval=None if half is None else (accuracy - half, accuracy + half),
        log_evidence=0.5,
        num_parameters=10,
        multiply_adds=multiply_adds,
        megabytes=1.0,
        milliseconds=1.0,
        milliseconds_in_batches=1.0,
        memory_megabytes=1.0,
        num_forward_passes=100,
        seconds=1.0,
        is_close=is_close,
    )


def choice_among(*scores):
    return choose_backbone(BackboneComparison(scores, {}, 100, 2))


def test_the_cheapest_of_those_too_close_to_call_is_chosen():
    large, small = score("resnet50", 0.91, 4e9), score("mobilenet_v2", 0.90, 3e8)
    worse = score("mobilenet_025", 0.80, 4e7, is_close=False)
    chosen = choice_among(large, small, worse)
    assert chosen.score is small
    assert chosen.arguments == {
        "backbone": "mobilenet_v2",
        "weights": "pretrained",
        "image_size": 224,
    }
    assert "300 million multiply-adds per image) of 2 too close to call" in str(chosen)
    assert "accuracy 90.0 % with a linear head, compared with 91.0 % of resnet50" in str(chosen)


def test_the_best_is_chosen_if_its_interval_overlaps_no_other():
    chosen = choice_among(score("resnet50", 0.91, 4e9), score("vgg16", 0.80, 1e7, is_close=False))
    assert str(chosen).startswith("chosen: resnet50, the best, accuracy 91.0 %")


def test_without_intervals_the_first_of_the_ranking_is_chosen():
    chosen = choice_among(score("a", 0.9, 4e9, half=None), score("b", 0.9, 1e7, half=None))
    assert chosen.score.name == "a"
    assert "too few images" in chosen.reason


def test_random_weights_and_files_are_passed_on():
    assert choice_among(score("vgg16", 0.9, 1, weights="none")).arguments["weights"] is None
    alone = choice_among(score("vgg16", 0.9, 1, weights="/w<.h5"))
    assert alone.arguments["weights"] == "/w<.h5"
    assert "the only one" in alone.reason
    assert "w&lt;.h5" in alone._repr_html_()


def test_an_empty_comparison_raises():
    with pytest.raises(ArgumentError, match=r"Received: none\. vgg16: no network"):
        choose_backbone(BackboneComparison((), {"vgg16": "no network"}, 100, 2))


def test_a_comparison_survives_a_json_round_trip():
    import json

    scores = (score("a", 0.9, 4e9), dataclasses.replace(score("b", 0.8, 1, half=None)))
    comparison = BackboneComparison(scores, {"vgg16": "no network"}, 100, 2, ("a note",))
    assert BackboneComparison.from_dict(json.loads(json.dumps(comparison.as_dict()))) == comparison
