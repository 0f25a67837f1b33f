"""The most accurate backbone is chosen, or the cheapest of those too close to it to call."""

import dataclasses

import pytest

from tlkit.advice.backbones import BackboneComparison, BackboneScore
from tlkit.advice.choosing import candidate_sizes, choose_backbone, choose_image_size
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


def size_among(accuracies, errors):
    """The choice among sizes, 224, 256 and so on, by the errors of each pair of them."""
    sized = [
        dataclasses.replace(score("a", accuracy, 1), image_size=(224 + 32 * n,) * 2, is_sized=True)
        for n, accuracy in enumerate(accuracies)
    ]
    order = sorted(range(len(sized)), key=lambda n: -accuracies[n])
    matrix = tuple(tuple(errors.get(frozenset((a, b)), 0.0) for b in order) for a in order)
    scores = tuple(sized[n] for n in order)
    return choose_image_size(BackboneComparison(scores, {}, 100, 2, errors=matrix))


@pytest.mark.parametrize(
    ("accuracies", "error", "chosen"),
    [
        ((0.80, 0.82, 0.85), 0.01, 288),  # each better than the one before
        ((0.80, 0.82, 0.82), 0.01, 256),  # the last is not better than 256
        ((0.80, 0.805, 0.815), 0.01, 288),  # 256 is not better than 224, but 288 is
        ((0.80, 0.805, 0.81), 0.02, 224),
        ((0.80, 0.80, 0.80), 0.0, 224),
        ((0.85, 0.82, 0.80), 0.01, 224),
        ((0.80,), 0.01, 224),
    ],
)
def test_a_larger_size_must_be_better_by_more_than_a_standard_error(accuracies, error, chosen):
    pairs = {frozenset((a, b)): error for a in range(3) for b in range(a)}
    choice = size_among(accuracies, pairs)
    assert choice.score.image_size == (chosen, chosen)
    assert choice.arguments["image_size"] == chosen
    assert f"chosen: a@{chosen}, accuracy" in str(choice)
    assert "1.0 ms per image" in str(choice)


def test_the_reason_names_the_sizes_that_were_compared():
    text = str(size_among((0.80, 0.805, 0.83), {frozenset((0, 2)): 0.01, frozenset((0, 1)): 0.01}))
    assert "worse by more than a standard error: 224 pixels (-3.0 points" in text
    text = str(size_among((0.80, 0.79), {frozenset((0, 1)): 0.02}))
    assert "not better by more than a standard error: 256 pixels (-1.0 points, standard" in text
    assert "the only size that could be measured" in str(size_among((0.8,), {}))


@pytest.mark.parametrize(
    ("size", "larger"),
    [
        (32, (36, 40)),
        (63, (72, 80)),
        (64, (96,)),
        (96, (128,)),
        (128, (160,)),
        (192, (224, 256)),
        (224, (256, 288)),
        (240, (288, 320)),
        (299, (352, 384)),
        (600, (672, 768)),
    ],
)
def test_larger_sizes_are_the_multiples_of_32_nearest_to_8_and_9_sevenths(size, larger):
    assert candidate_sizes(size) == (size, *larger)


def test_an_empty_comparison_raises():
    with pytest.raises(ArgumentError, match=r"Received: none\. vgg16: no network"):
        choose_backbone(BackboneComparison((), {"vgg16": "no network"}, 100, 2))
    with pytest.raises(ArgumentError, match=r"Received: none\. vgg16: no network"):
        choose_image_size(BackboneComparison((), {"vgg16": "no network"}, 100, 2))


def test_a_comparison_survives_a_json_round_trip():
    import json

    scores = (score("a", 0.9, 4e9), dataclasses.replace(score("b", 0.8, 1, half=None)))
    comparison = BackboneComparison(scores, {"vgg16": "no network"}, 100, 2, ("a note",))
    for errors in ((), ((0.0, 0.1), (0.1, 0.0))):
        comparison = dataclasses.replace(comparison, errors=errors)
        content = json.loads(json.dumps(comparison.as_dict()))
        assert BackboneComparison.from_dict(content) == comparison
    del content["errors"]  # as in comparisons of earlier versions
    assert BackboneComparison.from_dict(content) == dataclasses.replace(comparison, errors=())
