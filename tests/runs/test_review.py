"""The review of labels: what is doubted, in which order, and how decisions come back."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import tlkit
from tests.conftest import write_photos
from tests.data.test_decisions import digest_of, write_decisions
from tlkit.advice import out_of_fold
from tlkit.errors import ArgumentError, DataError, RunError
from tlkit.runs import add_classes, review
from tlkit.runs.add_classes_config import AddClassesConfig
from tlkit.runs.config import RunConfig
from tlkit.runs.forget_config import ForgetConfig
from tlkit.runs.old_images import load_old_task
from tlkit.runs.review_page import MARK
from tlkit.runs.train import make_run

QUICK = {"backbone": "resnet20", "seed": 0}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes with a wrong label each, copies under two labels, and an image of neither."""
    folder = write_photos(tmp_path_factory.mktemp("review") / "photos", {"green": 14, "red": 14})
    (folder / "green/007.jpg").rename(folder / "red/wrong.jpg")
    (folder / "red/008.jpg").rename(folder / "green/wrong.jpg")
    shutil.copy(folder / "green/001.jpg", folder / "red/copy.jpg")
    changed = Image.open(folder / "green/003.jpg").resize((36, 36))
    changed.save(folder / "red/changed.jpg", quality=95)
    rings = np.indices((40, 40)).sum(axis=0) % 8 * 30
    Image.fromarray(np.stack([rings, 255 - rings, rings * 0 + 250], -1).astype(np.uint8)).save(
        folder / "red/blue.png"
    )
    return folder


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    folder = write_photos(tmp_path_factory.mktemp("new") / "new", {"any": 3, "other": 2}, seed=5)
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(out_of_fold, "NUM_DRAWS", 1)


def test_doubts_are_in_order_and_say_why(quick, photos, new, tmp_path):
    shutil.copytree(new, tmp_path / "new")
    shutil.copy(photos / "red/000.jpg", tmp_path / "new/labelled.jpg")
    shutil.copy(new / "any/000.jpg", tmp_path / "new/twice.jpg")
    page = tmp_path / "page.html"
    report = tlkit.review_labels(photos, unlabelled=tmp_path / "new", out=page, **QUICK)
    found = {doubt.file: doubt for doubt in report.doubts}
    first = [doubt.file for doubt in report.doubts[:4]]
    assert first[:2] == ["green/001.jpg", "red/copy.jpg"]
    assert {*first[2:]} == {"green/wrong.jpg", "red/wrong.jpg"}
    assert [doubt.kinds[0] for doubt in report.doubts[:4]] == ["copy", "copy", "label", "label"]
    wrong = found["red/wrong.jpg"]
    assert (wrong.label, wrong.suggested) == ("red", "green")
    assert wrong.quality == wrong.probabilities["red"] < 0.3 < wrong.probabilities["green"]
    assert found["red/copy.jpg"].others == {str(photos / "green/001.jpg"): "green"}
    assert "also labelled green" in found["red/copy.jpg"].reasons[0]
    assert "outlier" in found["red/blue.png"].kinds
    assert found["red/blue.png"].digest == digest_of(photos / "red/blue.png")
    assert "near-duplicate" in found["green/003.jpg"].kinds
    assert "near-duplicate" in found["red/changed.jpg"].kinds
    assert found["green/003.jpg"].others == {str(photos / "red/changed.jpg"): "red"}
    assert report.num_images == 31
    assert 1 <= report.num_errors <= 9
    assert sum(report.estimated["red"].values()) == pytest.approx(17)
    margins = [one.margin for one in report.to_label]
    assert margins == sorted(margins)
    assert len(margins) == 5
    assert any(
        "5 of 8 unlabelled files are ranked; 1 cannot be used, 1 are labelled or decided, 1 are "
        "copies" in note
        for note in report.notes
    )
    assert report.page == str(page)
    assert report.num_shown == len(report.doubts) + 5
    assert json.loads(json.dumps(report.as_dict()))["doubts"][0]["file"] == "green/001.jpg"
    assert "copies of one image under two labels" in str(report)
    assert f"page: {page} (" in str(report)
    assert "no doubts" in str(replace(report, doubts=()))
    assert page.read_text("utf-8").startswith(MARK)


@pytest.mark.slow
def test_what_was_decided_is_applied_and_not_doubted_again(quick, photos, new, tmp_path):
    def row(folder, file, label, decision, new_label=""):
        name = file if folder == photos else str(folder / file)
        return (name, digest_of(folder / file), label, decision, new_label)

    rows = [
        row(photos, "red/wrong.jpg", "red", "move", "green"),
        row(photos, "green/wrong.jpg", "green", "keep"),
        row(photos, "red/copy.jpg", "red", "set-aside"),
        row(new, "any/000.jpg", "", "move", "red"),
        row(new, "any/001.jpg", "", "set-aside"),
    ]
    file = write_decisions(tmp_path / "decisions.csv", *rows)
    page = tmp_path / "page.html"
    report = tlkit.review_labels(photos, unlabelled=new, decisions=file, out=page, **QUICK)
    doubted = {doubt.file for doubt in report.doubts}
    assert not doubted & {"red/wrong.jpg", "green/wrong.jpg", "red/copy.jpg", "green/001.jpg"}
    assert "red/blue.png" in doubted
    assert (report.num_images, report.num_decided) == (31, 3)
    assert len(report.to_label) == 3
    assert [(one.file, one.decision) for one in report.decisions] == [
        (name, decision) for name, _, _, decision, _ in rows
    ]
    content = page.read_text("utf-8").split('id="content">')[1].split("</script>")[0]
    assert [tuple(one) for one in json.loads(content)["earlier"]] == rows


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    """A run with decisions about its images."""
    folder = tmp_path_factory.mktemp("runs")
    rows = [
        ("red/wrong.jpg", digest_of(photos / "red/wrong.jpg"), "red", "move", "green"),
        ("red/copy.jpg", digest_of(photos / "red/copy.jpg"), "red", "set-aside", ""),
    ]
    return tlkit.train_run(
        photos,
        out=folder / "run",
        decisions=write_decisions(folder / "decisions.csv", *rows),
        backbone="resnet20",
        mode="head",
        head="linear",
        image_size=48,
        resize="crop",
    )


@pytest.mark.slow
def test_a_run_gives_its_network_and_how_images_are_read(quick, photos, run, monkeypatch):
    loaded = []
    real = review._load
    monkeypatch.setattr(review, "_load", lambda *given: (loaded.append(given[1]), real(*given))[1])
    monkeypatch.setattr(
        review, "seen_by_network", lambda run: frozenset({digest_of(photos / "red/000.jpg")})
    )
    report = tlkit.review_labels(photos, run=run.path)
    assert (loaded[0].image_size, loaded[0].resize) == ((48, 48), "crop")
    assert report.doubts[0].file == "green/001.jpg"
    assert any("was trained on 1 of these images" in note for note in report.notes)


@pytest.mark.slow
def test_a_run_is_trained_on_decided_labels_and_keeps_them(run, photos, tmp_path):
    file = run.record["arguments"]["decisions"]
    table = (run.path / "split.csv").read_text("utf-8")
    (line,) = [line for line in table.splitlines() if line.endswith("red/wrong.jpg")]
    assert ",green," in line
    assert "copy.jpg" not in table
    assert f'decisions = "{file}"' in (run.path / "run.toml").read_text("utf-8")
    config = run.run_record.config
    with pytest.raises(RunError, match="decisions="):
        make_run(replace(config, decisions=None, kept=True), out=run.path)
    # the images of the earlier run have the same labels when forgetting is measured on them
    context = SimpleNamespace(parent=run, log=print)
    data = tlkit.load_folder(write_photos(tmp_path / "more", {"green": 9, "red": 9}, seed=4))
    later = RunConfig(photos=str(tmp_path / "more"), from_run=str(run.path))
    old = load_old_task(later, context, data)
    splits = [old.train, old.validation, old.test]
    labels = {
        path: label
        for split in splits
        if split is not None
        for path, label in zip(split.paths, split.labels, strict=True)
    }
    assert str(photos / "red/copy.jpg") not in labels
    assert labels.get(str(photos / "red/wrong.jpg"), 0) == 0


@pytest.mark.slow
def test_new_classes_take_decisions(run, tmp_path, monkeypatch):
    more = write_photos(tmp_path / "more", {"yellow": 4}, seed=3)
    digest = digest_of(more / "yellow/000.jpg")
    row = ("yellow/000.jpg", digest, "yellow", "move", "red")
    file = write_decisions(tmp_path / "more.csv", row)
    given = []
    monkeypatch.setattr(add_classes, "_make", lambda *arguments: given.append(arguments))
    tlkit.add_classes_run(run.path, more, out=tmp_path / "grown", decisions=file)
    config, listing = given[0][:2]
    assert [one.class_name for one in listing.files] == ["red", *["yellow"] * 3]
    assert config.decisions == str(file)
    assert AddClassesConfig.from_json(config.to_json()) == config
    forgotten = ForgetConfig(
        from_run="/run",
        photos="/photos",
        num_images=0,
        fingerprint="",
        class_names=("red",),
        decisions=str(file),
    )
    assert ForgetConfig.from_json(forgotten.to_json()) == forgotten


BAD = [
    ({"backbone": "auto"}, "`backbone` must be given for a review"),
    ({"image_size": "auto"}, "`image_size` must be given for a review"),
    ({"backbone": "resnet2"}, "`backbone` must be"),
    ({"max_shown": 0}, "`max_shown` must be"),
    ({"run": "no-run"}, "must be the folder of a finished run"),
    ({"run": "no-run", "backbone": "resnet20"}, "`backbone` must be left out with `run`"),
    ({"run": "no-run", "weights": None}, "`weights` must be left out with `run`"),
    ({"unlabelled": "nothing"}, "`unlabelled` must be .* which does not exist"),
    ({"decisions": "nothing.csv"}, "`decisions` must be .* which does not exist"),
    ({"out": "page.txt"}, "`out` must be .* does not end in .html"),
    ({"out": "photos/page.html"}, "`out` must lie outside `photos`"),
    ({"damaged": "maybe"}, "`damaged` must be one of"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda one: str(one)[:40])
def test_bad_input_is_named_before_images_are_read(photos, monkeypatch, arguments, message):
    monkeypatch.setattr(review, "load_tensorflow_quietly", None)
    monkeypatch.chdir(photos.parent)
    with pytest.raises((ArgumentError, DataError, RunError), match=message):
        tlkit.review_labels("photos", **arguments)


def test_other_files_are_not_replaced_by_a_page(photos, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<p>mine</p>")
    with pytest.raises(ArgumentError, match=r"`out` must be .* is another file"):
        tlkit.review_labels(photos, out=page, **QUICK)
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(ArgumentError, match=r"`out` must be .* is a folder"):
        tlkit.review_labels(photos, out=tmp_path / "folder.html", **QUICK)


def test_an_empty_folder_without_labels_and_single_images_are_errors(tmp_path):
    photos = write_photos(tmp_path / "photos", {"green": 5, "red": 1})
    with pytest.raises(DataError, match="a single image of 'red'"):
        tlkit.review_labels(photos, **QUICK)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"`unlabelled` must be .* holds no file"):
        tlkit.review_labels(photos, unlabelled=tmp_path / "empty", **QUICK)
