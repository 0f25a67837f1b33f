"""The choices of a run: based on training images, logged, and kept when the run is resumed."""

import dataclasses
import json

import pytest

import tlkit
from tests.conftest import write_photos
from tests.data.test_manifests import rows_of, write_manifest
from tlkit.runs.choices import SizePlan, backbone_choice, image_size_choice, mode_choice
from tlkit.runs.config import RunConfig

ARGUMENTS = {"batch_size": 16}
CANDIDATES = "resnet20,resnet20=none,resnet20=nowhere.h5"


def refuse(*_, **__):
    raise AssertionError("chosen again")


def interrupt(*_, **__):
    raise KeyboardInterrupt


def record_in(folder):
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_backbone_is_chosen_among_the_available_ones(tmp_path, photos):
    messages = []
    arguments = {"backbone": "auto", "backbones": CANDIDATES, "mode": "head", **ARGUMENTS}
    run = tlkit.train_run(photos, out=tmp_path / "run", **arguments, log=messages.append)
    given, choice = run.record["arguments"], run.record["choices"]["backbone"]
    assert given["backbone"] == "auto"
    assert given["backbones"][:2] == ["resnet20", "resnet20=none"]
    assert given["image_size"] is None
    assert choice["arguments"]["backbone"] == "resnet20"
    assert run.image_size == (32, 32)
    comparison = choice["comparison"]
    assert comparison["num_images"] == run.record["data"]["num_images"]["train"]
    assert [name.rpartition("/")[2] for name in comparison["left_out"]] == ["nowhere.h5"]
    text = "\n".join(messages)
    assert choice["reasons"][0] in text
    assert "too close to call" in text
    assert "nowhere.h5" in text
    card = (run.path / "model_card.md").read_text(encoding="utf-8")
    assert "The backbone is resnet20, trained from" in card
    again = []
    tlkit.train_run(photos, out=run.path, **arguments, log=again.append)
    assert "is already finished" in again[0]


def test_with_class_weights_the_backbone_is_chosen_by_balanced_accuracy(photos):
    config = RunConfig(
        photos=str(photos), backbone="auto", backbones="resnet20=none", class_weight="balanced"
    )
    data = tlkit.load_folder(photos, image_size=32)
    choice = backbone_choice(config, data, {}, print)
    assert choice.comparison["notes"][-1] == "balanced accuracy: each class has the same weight"


@pytest.mark.slow
def test_a_resumed_run_keeps_its_choices(tmp_path, photos, monkeypatch):
    arguments = {
        "out": tmp_path / "run",
        "backbone": "auto",
        "backbones": CANDIDATES,
        "epochs": 1,
        **ARGUMENTS,
    }
    with monkeypatch.context() as patched:
        patched.setattr("tlkit.runs.measuring.evaluate_splits", interrupt)
        with pytest.raises(KeyboardInterrupt):
            tlkit.train_run(photos, **arguments)
    unfinished = record_in(tmp_path / "run")
    assert set(unfinished["choices"]) == {"backbone", "mode"}
    monkeypatch.setattr("tlkit.advice.backbones.compare_backbones", refuse)
    monkeypatch.setattr("tlkit.advice.similarity.measure_similarity", refuse)
    messages = []
    run = tlkit.train_run(photos, **arguments, log=messages.append)
    assert run.record["choices"] == unfinished["choices"]
    assert sum("chosen when this run was started" in line for line in messages) == 2
    assert run.load_model().input_shape[1:3] == tuple(unfinished["image_size"])


@pytest.mark.slow
def test_without_the_default_candidates_the_backbone_is_resnet20(tmp_path, photos, monkeypatch):
    from tlkit.advice import backbones

    def offline(name, *arguments, **others):
        if name != "resnet20":
            raise tlkit.WeightsError(f"no network for {name}")
        return real(name, *arguments, **others)

    real = backbones.build_classifier
    monkeypatch.setattr(backbones, "build_classifier", offline)
    run = tlkit.train_run(photos, out=tmp_path / "run", backbone="auto", mode="head", **ARGUMENTS)
    choice = run.record["choices"]["backbone"]
    assert choice["arguments"]["backbone"] == "resnet20"
    assert "the only one" in choice["reasons"][0]
    assert set(choice["comparison"]["left_out"]) == set(backbones.DEFAULT_BACKBONES) - {"resnet20"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbones": "resnet20"}, "`backbones` must be given together with backbone='auto'"),
        ({"max_megabytes": 9}, "`max_megabytes` must be given together with backbone='auto'"),
        ({"backbone": "auto", "max_milliseconds": 0}, "`max_milliseconds` must be a positive"),
        (
            {"backbone": "auto", "backbones": "resnet20", "max_megabytes": 0.1},
            r"2\.4 MB, above `max_megabytes` 0\.1",
        ),
        ({"backbone": "auto", "weights": "w.h5"}, "`weights` must be left out with backbone"),
        ({"backbone": "auto", "backbones": "resnet8"}, "mean 'resnet50'"),
        ({"backbone": "auto", "backbones": ""}, "`backbones` must be one or more"),
        ({"backbone": "auto", "backbones": "resnet20=no.h5"}, "no.h5"),
    ],
)
def test_invalid_candidates_are_refused_before_anything_is_written(
    tmp_path, photos, arguments, message
):
    with pytest.raises(tlkit.TlkitError, match=message):
        tlkit.train_run(photos, out=tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_few_images_train_the_head_alone_without_measurements(tmp_path, monkeypatch):
    monkeypatch.setattr("tlkit.advice.similarity.measure_similarity", refuse)
    photos = write_photos(tmp_path / "photos", {"green": 5, "red": 5})
    messages = []
    run = tlkit.train_run(
        photos, out=tmp_path / "run", backbone="resnet20", log=messages.append, **ARGUMENTS
    )
    assert run.record["arguments"]["mode"] == "auto"
    assert run.record["choices"]["mode"]["arguments"] == {"mode": "head"}
    assert [stage["name"] for stage in run.metrics["stages"]] == ["head"]
    assert any("below 5: too few to train more than the head" in line for line in messages)


SIZES = {"backbone": "resnet20", "image_size": "auto", "mode": "head", **ARGUMENTS}


def test_the_image_size_is_chosen_by_accuracy(tmp_path, photos, monkeypatch):
    """At 36 pixels the head of this comparison is better, and at 40 it is not better than at 36."""
    monkeypatch.setattr("tlkit.advice.choosing.candidate_sizes", lambda size: (size, 36))
    monkeypatch.setattr("tlkit.advice.backbones.difference_error", lambda one, other: -0.01)
    messages = []
    with monkeypatch.context() as patched:
        patched.setattr("tlkit.runs.measuring.evaluate_splits", interrupt)
        with pytest.raises(KeyboardInterrupt):
            tlkit.train_run(photos, out=tmp_path / "run", **SIZES, log=messages.append)
    unfinished = record_in(tmp_path / "run")
    choice = unfinished["choices"]["image_size"]
    assert choice["arguments"] == {"image_size": 36}
    assert unfinished["image_size"] == [36, 36]
    assert choice["reasons"][0] in messages
    monkeypatch.setattr("tlkit.advice.backbones.compare_backbones", refuse)
    run = tlkit.train_run(photos, out=tmp_path / "run", **SIZES, log=messages.append)
    assert any("image size, chosen when this run was started" in line for line in messages)
    assert run.record["choices"] == unfinished["choices"]
    assert run.record["arguments"]["image_size"] == "auto"
    assert run.image_size == run.load_model().input_shape[1:3] == (36, 36)
    card = (run.path / "model_card.md").read_text(encoding="utf-8")
    assert "Image size, chosen by measurement: chosen: resnet20@36" in card
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "<h3>Image size</h3>" in page
    assert "--image-size auto" in page
    assert "resnet20@32" in page


def test_a_backbone_without_larger_sizes_keeps_its_own(photos, monkeypatch):
    from tlkit.advice import backbones

    def fixed(name, class_names, *, image_size, **others):
        if image_size != (32, 32):
            raise ValueError("positions are fixed")
        return real(name, class_names, image_size=image_size, **others)

    real = backbones.build_classifier
    monkeypatch.setattr(backbones, "build_classifier", fixed)
    data = tlkit.load_folder(photos, image_size=32)
    config = RunConfig(photos=str(photos), **SIZES)
    plan = SizePlan((32, 36, 40))
    choice = image_size_choice(config, data, {}, print, plan_sizes=lambda: plan)
    assert choice.arguments == {"image_size": 32}
    assert "the only size that could be measured" in choice.reasons[0]
    left_out = {"resnet20@36": "positions are fixed", "resnet20@40": "positions are fixed"}
    assert choice.comparison["left_out"] == left_out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "auto"}, "`image_size` must be a number or left out with backbone='auto'"),
        ({"weights": None}, "`image_size` must be a number or left out with random weights"),
        ({"from_run": "run"}, "`image_size` must be left out when training starts from an earlier"),
    ],
)
def test_an_image_size_that_cannot_be_chosen_is_refused(arguments, message):
    with pytest.raises(tlkit.ArgumentError, match=message):
        RunConfig(photos="photos", image_size="auto", **arguments)
    with pytest.raises(tlkit.ArgumentError, match="whole number of pixels, or 'auto'"):
        RunConfig(photos="photos", image_size="large")


def choice_of(data, model=None, **changes):
    config = dataclasses.replace(RunConfig(photos="photos"), kept=True, **changes)
    messages = []
    choice = mode_choice(config, model, data, {}, messages.append)
    assert "\n  ".join(choice.reasons) == messages[-1]
    return choice


def test_arguments_for_fine_tuning_rule_out_the_head_alone(tmp_path):
    photos = write_photos(tmp_path / "photos", {"green": 5, "red": 5})
    data = tlkit.load_folder(photos, image_size=32)
    assert choice_of(data).arguments == {"mode": "head"}
    choice = choice_of(data, epochs=1)
    assert choice.arguments == {"mode": "fine-tune"}
    assert choice.reasons[-1] == "epochs was given, which applies to fine-tuning only"


def test_random_weights_are_not_anchored(photos):
    data = tlkit.load_folder(photos, image_size=32)
    choice = choice_of(data, weights=None)
    assert choice.arguments == {"mode": "fine-tune", "unfreeze": "all"}
    assert "random" in choice.reasons[1]
    assert choice.measured == []


def test_a_class_of_one_training_image_is_no_error(tmp_path):
    data = tlkit.load_folder(
        write_photos(tmp_path / "photos", {"green": 90, "red": 2}), image_size=32
    )
    model = tlkit.build_classifier("resnet20", data.class_names)
    choice = choice_of(data, model)
    assert choice.arguments == {"mode": "fine-tune", "unfreeze": "all"}
    assert "to the pretraining data was not measured: 'red' has one" in choice.reasons[2]


def test_a_class_of_one_group_is_an_error_for_choosing_a_backbone_only(tmp_path):
    photos = write_photos(tmp_path / "photos", {"green": 60, "red": 8})
    rows = rows_of(photos, lambda file: "" if file.parent.name == "green" else "one patient")
    rows = [(f"photos/{path}", *more) for path, *more in rows]
    manifest = write_manifest(tmp_path / "m.csv", rows, ("path", "label", "group"))
    data = tlkit.load_manifest(manifest, image_size=32)
    model = tlkit.build_classifier("resnet20", data.class_names)
    choice = choice_of(data, model)
    assert choice.arguments == {"mode": "fine-tune", "unfreeze": "all"}
    assert "not measured: 'red' has one group of training images" in choice.reasons[2]
    with pytest.raises(tlkit.DataError, match=r"'red' has one group.* \(--backbone NAME\)"):
        tlkit.train_run(manifest, out=tmp_path / "run", backbone="auto", **ARGUMENTS)
    assert not (tmp_path / "run").exists()


def test_with_unfreeze_the_mode_is_fine_tune(photos):
    given = {"photos": str(photos), "backbone": "resnet20", "mode": "auto"}
    assert RunConfig(**given).mode == "auto"
    assert RunConfig(**given, unfreeze="stage3").mode == "fine-tune"


@pytest.mark.slow
def test_enough_images_are_fine_tuned(tmp_path, photos):
    messages = []
    arguments = {"backbone": "resnet20", "epochs": 1, **ARGUMENTS}
    run = tlkit.train_run(photos, out=tmp_path / "run", log=messages.append, **arguments)
    choice = run.record["choices"]["mode"]
    assert choice["arguments"] == {"mode": "fine-tune", "unfreeze": "all"}
    text = "\n".join(messages)
    assert "fine-tune all groups" in text
    for line in (*choice["reasons"], *choice["measured"]):
        assert line in text
    stage = run.metrics["stages"][-1]
    assert not any("anchored" in note for note in stage["notes"])
