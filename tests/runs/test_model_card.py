"""The card: every figure with its interval and number of images, nothing private, all escaped."""

import copy
import re

import numpy as np
import pytest
import yaml

from tlkit.evaluation.intervals import wilson_interval
from tlkit.evaluation.metrics import evaluate_probabilities
from tlkit.runs.model_card import model_card, write_model_card
from tlkit.runs.record import RunRecord

UNSEEN = "\x1b[31m\u202e\u200b\x07"
EVIL = "a|b`<script>*x*\n# y"
NAMES = ("cat", "dog", EVIL)
RECORD = {
    "finished": True,
    "arguments": {
        "photos": "/home/somebody/secret/flowers",
        "from_run": None,
        "backbone": "resnet50",
        "weights": "/home/somebody/weights.h5",
        "mode": "fine-tune",
        "epochs": None,
        "learning_rate": 1e-4,
        "old_photos": "/home/somebody/old",
        "max_pixels": 9,
    },
    "versions": {"tlkit": "0.1.0", "keras": "3.15.1"},
    "seed": 7,
    "image_size": [224, 160],
    "data": {
        "fingerprint": "7588f85d",
        "num_images": {"train": 1430, "validation": 186, "test": 90},
    },
}
STAGES = [
    {
        "name": "head",
        "seconds": 2.8,
        "num_trainable": 6150,
        "moved": {"conv5": 0.0, "head": 1.5},
        "notes": ["features in /home/somebody/cache"],
    }
]


def figures(num_images=90, kind="softmax", right=0.8):
    """What an evaluation of `num_images` leaves in metrics.json."""
    generator = np.random.default_rng(0)
    shares = generator.dirichlet(np.ones(3), num_images)
    labels = np.where(generator.uniform(size=num_images) < right, shares.argmax(axis=1), 0)
    if kind == "multi_label":
        labels = (shares > 0.4).astype(int)
    return evaluate_probabilities(shares, labels, NAMES, kind=kind).as_dict()


def card(record=RECORD, counts=None, **metrics):
    metrics = {"validation": figures(30), "test": figures(), "stages": STAGES} | metrics
    record = RunRecord.from_json(record)
    return model_card(class_names=NAMES, metrics=metrics, record=record, counts=counts)


def rows_of(text, heading):
    """The cells of the table under a heading."""
    section = text.split(f"## {heading}")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines[2:] if "---" not in line]


def test_every_share_stands_beside_its_interval_and_images():
    text, test = card(), figures()
    low, high = test["interval"]
    assert (
        f"| test | accuracy | {100 * test['accuracy']:.1f} % "
        f"| {100 * low:.1f} % to {100 * high:.1f} % | 90 |"
    ) in text
    shares = re.findall(r"(?<![\d.(])(?<!to )(?<!interval )\d+\.\d %(?! to)", text)
    intervals = re.findall(r"\d+\.\d % to \d+\.\d %", text)
    assert len(intervals) >= len(shares) > 8
    for line in text.splitlines():
        assert not re.search(r"\d %", line) or re.search(r"\d % to \d", line) or "95 %" in line
    assert "loss" not in text


def test_classes_are_those_of_the_test_images_with_their_trials():
    test = figures()
    rows = rows_of(card(), "Classes, on test images")
    called = np.sum(test["confusion"], axis=0)
    for row, score, named in zip(rows, test["per_class"], called, strict=True):
        low, high = wilson_interval(score["recall"], score["num_images"])
        assert [cell.strip() for cell in row[1:4]] == [
            f"{100 * score['recall']:.1f} %",
            f"{100 * low:.1f} % to {100 * high:.1f} %",
            str(score["num_images"]),
        ]
        assert row[6].strip() == str(named)


def test_confusions_count_images():
    test = figures()
    confusion = np.array(test["confusion"])
    np.fill_diagonal(confusion, 0)
    truth, said = np.unravel_index(confusion.argmax(), confusion.shape)
    line = f"- {NAMES[truth]} for "
    text = card()
    assert f"{confusion.max()} of {test['per_class'][truth]['num_images']} images" in text
    assert line in text or NAMES[truth] == EVIL
    assert said != truth


def test_a_class_without_images_has_no_figure():
    test = copy.deepcopy(figures())
    test["per_class"][1] |= {"num_images": 0, "recall": 0.0}
    test["confusion"][1] = [0, 0, 0]
    rows = rows_of(card(test=test), "Classes, on test images")
    assert [cell.strip() for cell in rows[1][1:4]] == ["none", "none", "0"]


def test_without_test_images_the_card_says_what_validation_is_worth():
    text = card(test=None)
    assert "**There were no test images.**" in text
    assert "## Classes, on validation images" in text
    text = card(test=None, validation=None)
    assert "None: there were neither validation nor test images." in text
    assert "## Classes" not in text


def test_several_labels_are_label_decisions_without_confusion():
    text = card(test=figures(kind="multi_label"), validation=None)
    assert "| test | label decisions right |" in text
    assert "right when named" not in text
    assert "Every image gets one of" not in text


def test_names_from_strangers_are_escaped_and_paths_are_not_told():
    text = card(counts={name: {"train": 5, "test": 2} for name in NAMES})
    assert r"a\|b\`\<script\>\*x\* \# y" in text
    assert "<script>" not in text
    assert "/home" not in text
    assert "somebody" not in text
    assert "Images from flowers: 1,430 for train" in text
    assert "from the weights weights.h5" in text
    assert rows_of(text, "Data")[0] == [" cat ", " 5 ", " 0 ", " 2 "]


def test_what_trained_is_said():
    text = card()
    assert "| head | 6,150 | head | 2.8 s |" in text
    assert "`learning_rate=0.0001`" in text
    assert "epochs" not in text
    later = copy.deepcopy(RECORD)
    later["arguments"] |= {"from_run": "/home/somebody/run1", "backbone": None}
    assert "Goes on from the model of the run run1." in card(record=later)
    plain = copy.deepcopy(RECORD)
    plain["arguments"]["weights"] = None
    assert "from random weights" in card(record=plain)


def test_few_images_are_a_limit():
    assert re.search(r"fewer than 30 test images: .*dog \(\d+\)", card())
    assert "fewer than 30" not in card(test=figures(9000, right=0.5), validation=None)


def test_of_many_classes_the_weakest_are_listed():
    names = tuple(f"c{number:03d}" for number in range(200))
    shares = np.random.default_rng(0).dirichlet(np.ones(200), 400)
    test = evaluate_probabilities(shares, np.arange(400) % 200, names).as_dict()
    text = model_card(
        class_names=names,
        metrics={"test": test, "validation": None, "stages": STAGES},
        record=RunRecord.from_json(RECORD),
    )
    assert "The 50 of 200 classes that are found least." in text
    rows = rows_of(text, "Classes, on test images")
    assert len(rows) == 50
    (model,) = header(text)["model-index"]
    assert model["name"] == "c000, c001, c002, c003, c004, …"
    _, _, body = text.split("---\n", 2)
    assert body.splitlines()[1] == "# c000, c001, c002, c003, c004, …"


@pytest.mark.parametrize("name", ["model_card.md"])
def test_the_file_appears_whole(tmp_path, name):
    metrics = {"validation": None, "test": figures(), "stages": STAGES}
    arguments = {"class_names": NAMES, "metrics": metrics}
    arguments["record"] = RunRecord.from_json(RECORD)
    write_model_card(tmp_path / name, **arguments)
    assert (tmp_path / name).read_text("utf-8") == model_card(**arguments)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_was_chosen_and_calibrated_is_said():
    choices = {
        "backbone": {"arguments": {"backbone": "vgg16", "weights": None}, "reasons": [EVIL]},
        "mode": {"arguments": {"mode": "head"}, "reasons": ["solves the head", "few images"]},
    }
    said = card({**RECORD, "choices": choices}, calibration={"temperature": 1.5})
    assert "The network is vgg16, from random weights." in said
    assert "Chosen by measurement, mode: solves the head; few images." in said
    assert EVIL not in said
    assert "divided by a temperature of 1.500" in said
    assert "temperature" not in card(calibration={"temperature": 1.0})


def test_a_card_says_whether_unknown_images_are_told():
    assert "`known` of the SavedModel" not in card()
    assert 'answers["known"]' not in card()
    rejection = {"threshold": 0.3543, "num_images": 39, "keep": 0.95}
    tested = {"num_images": 40, "rate": 0.025, "interval": [0.004, 0.129]}
    text = card(rejection={**rejection, "test": tested})
    assert "`known` of the SavedModel says which images it does not know" in text
    assert 'print(answers["known"].numpy()[0])' in text
    assert "novelty of 0.3543, chosen on 39 validation images to keep 95 % of known ones" in text
    assert "40 test images, whose classes are known, 2.5 % are called unknown" in text
    assert "called unknown" not in card(rejection={**rejection, "test": None})


def header(text):
    """What the hub reads: the YAML between the first two lines of dashes."""
    first, content, _ = text.split("---\n", 2)
    assert first == ""
    return yaml.safe_load(content)


def test_the_header_is_what_the_hub_reads():
    test, validation = figures(), figures(30)
    read = header(card())
    assert read["license"] == "unknown"  # one of the hub's own words
    assert read["library_name"] == "keras"
    assert read["pipeline_tag"] == "image-classification"
    assert {"keras", "image-classification", "transfer-learning"} <= set(read["tags"])
    assert read["base_model"] == "resnet50"
    assert read["metrics"] == ["accuracy"]
    (model,) = read["model-index"]
    assert model["name"] == " ".join(", ".join(NAMES).split())
    assert [one["dataset"]["split"] for one in model["results"]] == ["test", "validation"]
    for one, measured in zip(model["results"], (test, validation), strict=True):
        assert one["task"]["type"] == "image-classification"
        assert one["dataset"] | {"split": 0} == {
            "type": "imagefolder",
            "name": "flowers",
            "split": 0,
        }
        values = {metric["type"]: metric["value"] for metric in one["metrics"]}
        assert values["accuracy"] == pytest.approx(measured["accuracy"], rel=1e-5)
        assert values["recall"] == pytest.approx(measured["balanced_accuracy"], rel=1e-5)
        assert values["roc_auc"] == pytest.approx(measured["roc_auc"], rel=1e-5)
        assert all(f"{measured['num_images']} images" in one["name"] for one in one["metrics"])


@pytest.mark.parametrize(
    "name",
    [
        "a: b",
        "#1",
        "- x",
        "'\"",
        "on",
        "---",
        "a\u2028b",
        "\x7f\x85\ufeff",
        "{}",
        "\U0001f33b",
        "1e3",
        "~",
    ],
)
def test_names_from_strangers_stay_names_in_the_header(name):
    record = copy.deepcopy(RECORD)
    record["arguments"] |= {"photos": f"/home/somebody/{name}", "from_run": f"/runs/{name}"}
    metrics = {"validation": None, "test": figures(), "stages": STAGES}
    record = RunRecord.from_json(record)
    text = model_card(class_names=[name, "dog", "x"], metrics=metrics, record=record)
    read = header(text)
    (model,) = read["model-index"]
    assert model["name"] == f"{' '.join(name.split())}, dog, x".strip()
    assert model["results"][0]["dataset"]["name"] == " ".join(name.split())
    assert read.get("base_model", name) == name
    assert "somebody" not in text


def test_without_figures_the_header_has_none():
    read = header(card(test=None, validation=None))
    assert "model-index" not in read
    assert "metrics" not in read
    assert read["license"] == "unknown"


def test_a_run_that_goes_on_has_that_run_for_its_base():
    later = copy.deepcopy(RECORD)
    later["arguments"] |= {"from_run": "/home/somebody/run1", "backbone": None}
    assert header(card(record=later))["base_model"] == "run1"
    later["arguments"]["from_run"] = "/home/somebody/my run"
    assert "base_model" not in header(card(record=later))


def test_several_labels_say_what_their_accuracy_counts():
    (model,) = header(card(test=figures(kind="multi_label"), validation=None))["model-index"]
    first = model["results"][0]["metrics"][0]
    assert (first["type"], first["name"]) == ("accuracy", "Accuracy of label decisions, 90 images")


def test_the_card_says_that_no_licence_was_chosen():
    section = card().split("## Licence")[1].split("##")[0]
    assert "None was chosen" in section
    assert "flowers" in section


def test_what_cannot_be_seen_stands_as_its_code():
    record = copy.deepcopy(RECORD)
    record["arguments"]["photos"] = f"/home/x/{UNSEEN}"
    names = ("cat", f"dog{UNSEEN}")
    metrics = {"validation": None, "test": None, "stages": STAGES}
    text = model_card(class_names=names, metrics=metrics, record=RunRecord.from_json(record))
    assert not set(UNSEEN) - set("[31m") & set(text)
    assert r"\u001b" in text
    assert r"\u202e\u200b\u0007" in text
