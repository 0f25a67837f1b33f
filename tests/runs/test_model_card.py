"""The model card: metrics with interval and number of images, no private paths, all escaped."""

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
        "weight_change": {"conv5": 0.0, "head": 1.5},
        "notes": ["features in /home/somebody/cache"],
    }
]


def scores(num_images=90, kind="softmax", accuracy=0.8):
    """The entry of metrics.json for `num_images` images."""
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(3), num_images)
    is_correct = generator.uniform(size=num_images) < accuracy
    labels = np.where(is_correct, probabilities.argmax(axis=1), 0)
    if kind == "multi_label":
        labels = (probabilities > 0.4).astype(int)
    return evaluate_probabilities(probabilities, labels, NAMES, kind=kind).as_dict()


def card(record=RECORD, counts=None, **metrics):
    metrics = {"validation": scores(30), "test": scores(), "stages": STAGES} | metrics
    record = RunRecord.from_json(record)
    return model_card(class_names=NAMES, metrics=metrics, record=record, counts=counts)


def rows_of(text, heading):
    """The cells of the table under a heading."""
    section = text.split(f"## {heading}")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines[2:] if "---" not in line]


def test_every_fraction_has_its_interval_and_number_of_images():
    text, test = card(), scores()
    low, high = test["interval"]
    assert (
        f"| test | accuracy | {100 * test['accuracy']:.1f} % "
        f"| {100 * low:.1f}-{100 * high:.1f} % | 90 |"
    ) in text
    fractions = re.findall(r"(?<![\d.-])\d+\.\d %", text)
    intervals = re.findall(r"\d+\.\d-\d+\.\d %|95 % CI \d+\.\d-\d+\.\d\)", text)
    assert len(intervals) == len(fractions) > 8
    for line in text.splitlines():
        assert not re.search(r"\d %", line) or re.search(r"\d\.\d-\d+\.\d|95 % CI", line)
    assert "loss" not in text


def test_classes_are_measured_on_test_images_with_their_support():
    test = scores()
    rows = rows_of(card(), "Classes, on test images")
    predicted = np.sum(test["confusion"], axis=0)
    for row, score, number in zip(rows, test["per_class"], predicted, strict=True):
        low, high = wilson_interval(score["recall"], score["num_images"])
        assert [cell.strip() for cell in row[1:4]] == [
            f"{100 * score['recall']:.1f} %",
            f"{100 * low:.1f}-{100 * high:.1f} %",
            str(score["num_images"]),
        ]
        assert row[6].strip() == str(number)


def test_the_most_confused_classes_are_listed_with_their_number_of_images():
    test = scores()
    confusion = np.array(test["confusion"])
    np.fill_diagonal(confusion, 0)
    truth, predicted = np.unravel_index(confusion.argmax(), confusion.shape)
    line = f"- {NAMES[truth]} predicted as "
    text = card()
    assert f"{confusion.max()} of {test['per_class'][truth]['num_images']} images (" in text
    assert line in text or NAMES[truth] == EVIL
    assert predicted != truth


def test_a_class_without_images_has_no_recall():
    test = copy.deepcopy(scores())
    test["per_class"][1] |= {"num_images": 0, "recall": 0.0}
    test["confusion"][1] = [0, 0, 0]
    rows = rows_of(card(test=test), "Classes, on test images")
    assert [cell.strip() for cell in rows[1][1:4]] == ["none", "none", "0"]


def test_without_test_images_the_card_says_that_metrics_are_biased():
    text = card(test=None)
    assert "**There were no test images.**" in text
    assert "optimistically biased" in text
    assert "## Classes, on validation images" in text
    text = card(test=None, validation=None)
    assert "None: there were neither validation nor test images." in text
    assert "## Classes" not in text


def test_several_labels_have_an_accuracy_of_label_decisions_and_no_confusion_matrix():
    text = card(test=scores(kind="multi_label"), validation=None)
    assert "| test | accuracy of label decisions |" in text
    assert "| label | threshold | precision |" in text
    assert "Most confused classes" not in text
    assert "Every image gets one of" not in text


def test_untrusted_names_are_escaped_and_paths_are_left_out():
    text = card(counts={name: {"train": 5, "test": 2} for name in NAMES})
    assert r"a\|b\`\<script\>\*x\* \# y" in text
    assert "<script>" not in text
    assert "/home" not in text
    assert "somebody" not in text
    assert "Images from flowers: 1,430 for train" in text
    assert "trained from the weights weights.h5" in text
    assert rows_of(text, "Data")[0] == [" cat ", " 5 ", " 0 ", " 2 "]


def test_training_is_described():
    text = card()
    assert "| head | 6,150 | head | 2.8 s |" in text
    assert "`learning_rate=0.0001`" in text
    assert "epochs" not in text
    later = copy.deepcopy(RECORD)
    later["arguments"] |= {"from_run": "/home/somebody/run1", "backbone": None}
    assert "Warm-started from the model of the run run1." in card(record=later)
    plain = copy.deepcopy(RECORD)
    plain["arguments"]["weights"] = None
    assert "trained from random weights" in card(record=plain)


def test_what_the_keras_file_needs_is_said():
    arguments = {
        "class_names": NAMES,
        "metrics": {"validation": None, "test": scores(), "stages": STAGES},
        "record": RunRecord.from_json(RECORD),
    }
    assert "It needs Keras alone; SavedModel" in model_card(**arguments)
    text = model_card(**arguments, packages=["own", "other"])
    assert "Import own, other before it is loaded. It needs Keras and that; SavedModel" in text


def test_few_images_are_a_limit():
    assert re.search(r"fewer than 30 test images.*: .*dog \(\d+\)", card())
    assert "fewer than 30" not in card(test=scores(9000, accuracy=0.5), validation=None)


def test_of_many_classes_those_with_the_lowest_recall_are_listed():
    names = tuple(f"c{number:03d}" for number in range(200))
    probabilities = np.random.default_rng(0).dirichlet(np.ones(200), 400)
    test = evaluate_probabilities(probabilities, np.arange(400) % 200, names).as_dict()
    text = model_card(
        class_names=names,
        metrics={"test": test, "validation": None, "stages": STAGES},
        record=RunRecord.from_json(RECORD),
    )
    assert "Listed are the 50 of 200 classes with the lowest recall." in text
    rows = rows_of(text, "Classes, on test images")
    assert len(rows) == 50
    (model,) = header(text)["model-index"]
    assert model["name"] == "c000, c001, c002, c003, c004, …"
    _, _, body = text.split("---\n", 2)
    assert body.splitlines()[1] == "# c000, c001, c002, c003, c004, …"


def test_the_file_is_written_atomically(tmp_path):
    metrics = {"validation": None, "test": scores(), "stages": STAGES}
    arguments = {"class_names": NAMES, "metrics": metrics}
    arguments["record"] = RunRecord.from_json(RECORD)
    path = tmp_path / "model_card.md"
    write_model_card(path, **arguments)
    assert path.read_text("utf-8") == model_card(**arguments)
    assert list(tmp_path.iterdir()) == [path]


def test_choices_and_calibration_are_described():
    choices = {
        "backbone": {"arguments": {"backbone": "vgg16", "weights": None}, "reasons": [EVIL]},
        "mode": {"arguments": {"mode": "head"}, "reasons": ["solves the head", "few images"]},
    }
    text = card({**RECORD, "choices": choices}, calibration={"temperature": 1.5})
    assert "The backbone is vgg16, trained from random weights." in text
    assert "Mode, chosen by measurement: solves the head; few images." in text
    assert EVIL not in text
    assert "divided by a temperature of 1.500" in text
    assert "temperature" not in card(calibration={"temperature": 1.0})


def test_the_card_says_whether_unknown_images_are_rejected():
    assert "by `known`" not in card()
    assert 'answers["known"]' not in card()
    rejection = {"threshold": 0.3543, "num_images": 39, "keep": 0.95}
    tested = {"num_images": 40, "rate": 0.025, "interval": [0.004, 0.129]}
    text = card(rejection={**rejection, "test": tested})
    assert "the SavedModel reports such images by `known`, other formats do not" in text
    assert 'print(answers["known"].numpy()[0])' in text
    assert "if its OOD score is above 0.3543" in text
    assert "on 39 validation images to keep 95 % of images of known classes" in text
    assert "It rejects 2.5 % (n = 40, 95 % CI 0.4-12.9) of the test images" in text
    assert "It rejects" not in card(rejection={**rejection, "test": None})


def header(text):
    """The part that the hub reads: the YAML between the first two lines of dashes."""
    first, content, _ = text.split("---\n", 2)
    assert first == ""
    return yaml.safe_load(content)


def test_the_header_has_the_form_that_the_hub_reads():
    test, validation = scores(), scores(30)
    read = header(card())
    assert read["license"] == "unknown"  # one of the hub's values
    assert read["library_name"] == "keras"
    assert read["pipeline_tag"] == "image-classification"
    assert {"keras", "image-classification", "transfer-learning"} <= set(read["tags"])
    assert read["base_model"] == "resnet50"
    assert read["metrics"] == ["accuracy"]
    (model,) = read["model-index"]
    assert model["name"] == " ".join(", ".join(NAMES).split())
    assert [result["dataset"]["split"] for result in model["results"]] == ["test", "validation"]
    for result, measured in zip(model["results"], (test, validation), strict=True):
        assert result["task"]["type"] == "image-classification"
        assert result["dataset"] | {"split": 0} == {
            "type": "imagefolder",
            "name": "flowers",
            "split": 0,
        }
        values = {metric["type"]: metric["value"] for metric in result["metrics"]}
        assert values["accuracy"] == pytest.approx(measured["accuracy"], rel=1e-5)
        assert values["recall"] == pytest.approx(measured["balanced_accuracy"], rel=1e-5)
        assert values["roc_auc"] == pytest.approx(measured["roc_auc"], rel=1e-5)
        images = f"{measured['num_images']} images"
        assert all(images in metric["name"] for metric in result["metrics"])


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
def test_untrusted_names_stay_names_in_the_header(name):
    record = copy.deepcopy(RECORD)
    record["arguments"] |= {"photos": f"/home/somebody/{name}", "from_run": f"/runs/{name}"}
    metrics = {"validation": None, "test": scores(), "stages": STAGES}
    record = RunRecord.from_json(record)
    text = model_card(class_names=[name, "dog", "x"], metrics=metrics, record=record)
    read = header(text)
    (model,) = read["model-index"]
    assert model["name"] == f"{' '.join(name.split())}, dog, x".strip()
    assert model["results"][0]["dataset"]["name"] == " ".join(name.split())
    assert read.get("base_model", name) == name
    assert "somebody" not in text


def test_without_metrics_the_header_has_none():
    read = header(card(test=None, validation=None))
    assert "model-index" not in read
    assert "metrics" not in read
    assert read["license"] == "unknown"


def test_a_warm_started_run_has_the_earlier_run_as_base_model():
    later = copy.deepcopy(RECORD)
    later["arguments"] |= {"from_run": "/home/somebody/run1", "backbone": None}
    assert header(card(record=later))["base_model"] == "run1"
    later["arguments"]["from_run"] = "/home/somebody/my run"
    assert "base_model" not in header(card(record=later))


def test_several_labels_have_an_accuracy_of_label_decisions_in_the_header():
    (model,) = header(card(test=scores(kind="multi_label"), validation=None))["model-index"]
    first = model["results"][0]["metrics"][0]
    assert (first["type"], first["name"]) == ("accuracy", "Accuracy of label decisions, 90 images")


def test_the_card_says_that_no_licence_was_chosen():
    section = card().split("## Licence")[1].split("##")[0]
    assert "None was chosen" in section
    assert "flowers" in section


def test_invisible_characters_are_shown_as_codes():
    record = copy.deepcopy(RECORD)
    record["arguments"]["photos"] = f"/home/x/{UNSEEN}"
    names = ("cat", f"dog{UNSEEN}")
    metrics = {"validation": None, "test": None, "stages": STAGES}
    text = model_card(class_names=names, metrics=metrics, record=RunRecord.from_json(record))
    assert not set(UNSEEN) - set("[31m") & set(text)
    assert r"\u001b" in text
    assert r"\u202e\u200b\u0007" in text
