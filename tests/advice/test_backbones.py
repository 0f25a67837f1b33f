"""Ranking of backbones, limits on their costs, and missing weights."""

import dataclasses
import json

import numpy as np
import pytest

import tlkit
from tlkit.advice import backbones
from tlkit.advice.backbones import BackboneComparison, compare_backbones
from tlkit.advice.choosing import choose_backbone
from tlkit.errors import ArgumentError, DataError
from tlkit.models.catalogue import find_backbone
from tlkit.plots.backbones import plot_backbones

RESNET20_MEGABYTES = 4 * find_backbone("resnet20").num_parameters / 1e6  # of the weights only
WEIGHTS = "weights/mobilenet_2_5_224_tf_no_top.h5"


@pytest.fixture
def data(photos):
    return tlkit.load_folder(photos, image_size=32, batch_size=16)


@pytest.fixture
def hard():
    """Vertical and horizontal stripes, which colour and random features hardly distinguish."""
    random = np.random.default_rng(0)
    images = random.uniform(0, 60, (120, 32, 32, 3))
    for index, image in enumerate(images):
        bars = image if index % 2 else image.transpose(1, 0, 2)
        bars[random.integers(0, 4) :: 4] += 150
    return tlkit.load_arrays(images.astype("uint8"), np.arange(120) % 2, ["level", "upright"])


def test_scores_are_ranked_and_have_costs(hard):
    comparison = compare_backbones(hard, ["mobilenet_025=none", "resnet20"])
    names = [score.label for score in comparison.scores]
    assert names == ["resnet20", "mobilenet_025 (random)"]
    best, other = comparison.scores
    assert comparison.best is best
    assert best.accuracy > other.accuracy
    assert best.log_evidence > other.log_evidence
    assert best.interval[0] < best.accuracy <= best.interval[1]
    assert best.num_parameters == 590_896
    assert best.image_size == (32, 32)
    assert best.num_forward_passes == hard.train.num_images == comparison.num_images
    assert 4 * 590_896 / 1e6 < best.megabytes < 4
    assert best.memory_megabytes > 4 * 590_896 / 1e6
    assert best.milliseconds > 0
    assert best.milliseconds_in_batches > 0
    for text in (str(comparison), comparison._repr_html_()):
        assert "resnet20" in text
        assert f"{100 * best.accuracy:.1f} %" in text


def test_one_backbone_is_compared_at_several_sizes(hard, monkeypatch):
    real = backbones.build_classifier

    def only_small(name, class_names, *, image_size, **others):
        if image_size == (48, 48):
            raise ValueError("positions are fixed")
        return real(name, class_names, image_size=image_size, **others)

    monkeypatch.setattr(backbones, "build_classifier", only_small)
    comparison = compare_backbones(hard, "resnet20,resnet20@40,resnet20@48,resnet20@24=none")
    found = {score.label: score for score in comparison.scores}
    assert set(found) == {"resnet20", "resnet20@40", "resnet20@24 (random)"}
    assert found["resnet20@40"].image_size == (40, 40)
    assert found["resnet20"].multiply_adds < found["resnet20@40"].multiply_adds
    assert comparison.left_out == {"resnet20@48": "positions are fixed"}
    own = compare_backbones(hard, "resnet20@40", image_size="own")
    assert own.best.image_size == (40, 40)
    assert own.best.accuracy == found["resnet20@40"].accuracy
    errors = np.array(comparison.errors)
    assert errors.shape == (3, 3)
    assert np.array_equal(errors, errors.T)
    assert np.all(np.diag(errors) == 0)
    assert "resnet20@40" in str(comparison)


def test_overlapping_intervals_are_too_close_to_call(data):
    comparison = compare_backbones(data, "resnet20,resnet20=none")
    assert [score.accuracy for score in comparison.scores] == [1.0, 1.0]
    assert comparison.close == comparison.scores[1:]
    assert "too close to call: " in str(comparison)
    scores = [
        dataclasses.replace(score, is_close=not index)
        for index, score in enumerate(comparison.scores)
    ]
    assert "too close" not in str(dataclasses.replace(comparison, scores=tuple(scores)))


@pytest.mark.slow
def test_stored_features_are_shared_with_train_head(data):
    compare_backbones(data, ["resnet20"])
    model = tlkit.build_classifier("resnet20", data.class_names, image_size=32)
    report = tlkit.train_head(model, data)
    assert report.stages[0].num_forward_passes == data.validation.num_images
    assert compare_backbones(data, ["resnet20"]).best.num_forward_passes == 0


def test_unavailable_backbones_are_left_out_with_the_reason(data, monkeypatch):
    monkeypatch.setattr("tlkit.advice.backbones.seconds_per_image", lambda *_, **__: 0.005)
    comparison = compare_backbones(
        data,
        ["resnet20", "resnet20=no.h5", "xception", "resnet50=none"],
        max_milliseconds=5.1,
        max_megabytes=20,
    )
    assert [score.name for score in comparison.scores] == ["resnet20"]
    reasons = comparison.left_out
    assert list(reasons) == ["resnet20=no.h5", "xception", "resnet50=none"]
    assert "path of an existing file" in reasons["resnet20=no.h5"]
    assert reasons["xception"] == "83.4 MB, above `max_megabytes` 20"  # nothing was downloaded
    assert "94.4 MB" in reasons["resnet50=none"]
    assert "no.h5" in str(comparison)
    wordy = dataclasses.replace(comparison, left_out={"vgg16": 80 * "long " + "\n and whole."})
    assert "long and whole." in str(wordy)
    slow = compare_backbones(data, ["resnet20", "xception=none"], max_milliseconds=4.9)
    assert slow.left_out["resnet20"] == "5.0 ms for one image, above `max_milliseconds` 4.9"
    assert slow.left_out["xception=none"] == "needs images of at least 71 pixels, not 32"
    with pytest.raises(
        ArgumentError, match=r"At least one backbone .*above `max_milli.* Name others"
    ):
        _ = slow.best
    assert "no backbone was measured" in str(slow)
    # its weights are below the limit, the file with the graph is not
    large = compare_backbones(data, ["resnet20"], max_megabytes=1.01 * RESNET20_MEGABYTES)
    assert "MB, above `max_megabytes` " in large.left_out["resnet20"]


def test_a_budget_uses_a_stratified_sample(data, monkeypatch):
    monkeypatch.setattr("tlkit.advice.backbones.seconds_per_image", lambda *_, **__: 0.1)
    comparison = compare_backbones(data, ["resnet20", "resnet20=none"], budget=4)
    assert comparison.num_images == pytest.approx(20, abs=2)
    assert all(score.num_forward_passes == comparison.num_images for score in comparison.scores)
    assert (
        f"budget=4 seconds: {comparison.num_images} of {data.train.num_images}"
        in (comparison.notes[0])
    )
    tiny = compare_backbones(data, ["resnet20"], budget=0.1)
    assert tiny.num_images == 4
    assert tiny.best.interval is None
    assert "no intervals: they need 20 different images" in str(tiny)


def test_image_size_own_uses_each_backbones_size(data):
    comparison = compare_backbones(data, ["resnet20", "mobilenet_025=none"], image_size="own")
    assert {score.image_size for score in comparison.scores} == {(32, 32), (224, 224)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": []}, "`names` must be one or more backbones"),
        ({"names": ["resnet20", "resnet20"]}, "`names` must not have duplicates"),
        ({"names": ["resnet21"]}, "Did you mean 'resnet20'"),
        ({"max_milliseconds": 0}, "`max_milliseconds` must be a positive number"),
        ({"max_megabytes": -1}, "`max_megabytes` must be a positive number"),
        ({"budget": "1"}, "`budget` must be a positive number"),
        ({"image_size": "big"}, "`image_size` must be a number of pixels"),
        ({"image_size": (32, 0)}, "`image_size` must be a number of pixels"),
    ],
)
def test_invalid_arguments_raise(data, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        compare_backbones(data, **arguments)


@pytest.mark.slow
def test_backbones_can_be_ranked_by_balanced_accuracy(data, monkeypatch):
    seen = []

    def probe(*args, weighting, **given):
        seen.append(weighting.kind)
        return measured(*args, weighting=weighting, **given)

    measured = backbones.probe
    monkeypatch.setattr(backbones, "probe", probe)
    comparison = compare_backbones(data, "resnet20=none", class_weight="balanced")
    assert seen == ["balanced"]
    assert comparison.metric == "balanced accuracy"
    assert comparison.table[0][2] == "balanced accuracy"
    assert "cross-validated balanced accuracy" in str(comparison)
    assert "balanced accuracy: each class has the same weight" in str(comparison)
    assert "<th>balanced accuracy</th>" in comparison._repr_html_()
    (axes,) = plot_backbones(comparison).axes
    assert axes.get_ylabel() == "balanced accuracy of a linear head in %"
    assert axes.get_title(loc="left") + axes.get_title() == (
        "Backbones: balanced accuracy against cost"
    )
    assert "balanced accuracy " in str(choose_backbone(comparison))
    again = BackboneComparison.from_dict(json.loads(json.dumps(comparison.as_dict())))
    assert again.table == comparison.table
    earlier = {key: value for key, value in comparison.as_dict().items() if key != "class_weight"}
    assert BackboneComparison.from_dict(earlier).table[0][2] == "accuracy"
    with pytest.raises(ArgumentError, match="`class_weight` must be 'balanced'"):
        compare_backbones(data, "resnet20=none", class_weight="even")


def test_unsuitable_data_raise(data):
    with pytest.raises(ArgumentError, match="`data` must be the result of load_folder"):
        compare_backbones(data.train.dataset())
    rows = np.flatnonzero(np.cumsum(data.train.labels) <= 1)  # one image of the second class
    one = dataclasses.replace(data, train=data.train.subset(rows))
    with pytest.raises(
        DataError, match=r"two different training images of each class.*'red' has one"
    ):
        compare_backbones(one, ["resnet20"])


def test_the_figure_names_every_backbone(data):
    comparison = compare_backbones(data, ["resnet20", "mobilenet_025=none"])
    (axes,) = plot_backbones(comparison).axes
    assert {text.get_text() for text in axes.texts} == {"resnet20", "mobilenet_025 (random)"}
    assert axes.get_xlabel() == "milliseconds for one image"
    assert (
        plot_backbones(comparison, cost="megabytes").axes[0].get_xlabel() == "megabytes of the file"
    )
    with pytest.raises(ArgumentError, match="`cost` must be one of"):
        plot_backbones(comparison, cost="price")
    empty = BackboneComparison((), {"vgg16": "no"}, 10, 2)
    assert plot_backbones(empty).axes[0].texts[0].get_text() == "no backbone was measured"


@pytest.mark.slow
@pytest.mark.shared_data
def test_real_weights_beat_random_ones_on_images(shared):
    data = tlkit.load_folder(shared / "data" / "hymenoptera", image_size=96)
    comparison = compare_backbones(
        data, [f"mobilenet_025={shared / WEIGHTS}", "mobilenet_025=none"]
    )
    real, random = comparison.scores
    assert real.weights.endswith("no_top.h5")
    assert real.accuracy > random.accuracy + 0.1
    assert real.log_evidence > random.log_evidence
    assert not random.is_close
