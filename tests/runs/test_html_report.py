import base64
import dataclasses
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from tests.advice.test_choosing import score
from tlkit.advice.backbones import BackboneComparison
from tlkit.advice.learning_curve import CurvePoint, LearningCurveReport
from tlkit.data.reports import DataReport, Leak, SkippedFile
from tlkit.evaluation.comparison import compare_outcomes
from tlkit.evaluation.explanation import Explanation
from tlkit.evaluation.metrics import evaluate_probabilities
from tlkit.models.groups import TrainableReport
from tlkit.runs.config import Choice
from tlkit.runs.html_report import Page, write_report
from tlkit.training.reports import StageReport, TrainingReport

EVIL = "<script>alert(1)</script>"
NAMES = ("中文", EVIL, '"><img src=x onerror=alert(1)>')


@pytest.fixture
def images(tmp_path):
    """Four images; in the last one a phone lay on its side."""
    folder = tmp_path / "photos"
    folder.mkdir()
    paths = []
    for number in range(4):
        path = folder / f"{number}<i>.jpg"
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 3 else 1
        Image.new("RGB", (400, 300), (0, 60 * number, 0)).save(path, exif=exif)
        paths.append(str(path))
    return paths


def evaluation(paths, names=NAMES):
    probabilities = np.full((4, len(names)), 0.1)
    probabilities[:, 0] = (0.9, 0.8, 0.7, 0.6)
    return evaluate_probabilities(probabilities, np.array([0, 1, 2, 1]), names, paths=paths)


def page(**changes):
    head = TrainableReport(("head",), ("conv5",), ("logits",), 1285, 218_544, "frozen")
    both = TrainableReport(("conv5", "head"), (), ("conv5_dw", "logits"), 101_285, 118_544, "none")
    history = ({"loss": 0.9, "val_loss": 1.0}, {"loss": 0.5, "val_loss": 0.8})
    stages = (
        StageReport("head", head, (), {"conv5": 0.0, "head": 1.5}, 2.3, 60, (f"note {EVIL}",)),
        StageReport("fine-tune", both, history, {"conv5": 0.02, "head": 0.1}, 213.2),
    )
    data = DataReport(
        counts={name: {"train": 1200 + index, "test": 7} for index, name in enumerate(NAMES)},
        num_files=3700,
        formats={"jpeg": 3000, "png": 700},
        skipped=tuple(SkippedFile(f"{n}{EVIL}", None, "is empty") for n in range(60)),
        duplicates=(("a.jpg", EVIL),),
        conflicts=((EVIL, "c.jpg"),),
        leaks=(Leak("kept.jpg", EVIL),),
        empty_classes=(EVIL,),
        imbalance=2.5,
        notes=(EVIL,),
    )
    filled = Page(
        title=EVIL,
        folder=f"my runs/{EVIL}",
        data=data,
        training=TrainingReport(stages, 0.84, 0.89, 100),
        evaluations={"validation": None, "test": None},
        seconds={"data": 1.25, "training": 215.5},
        facts={"backbone": EVIL},
    )
    return dataclasses.replace(filled, **changes)


def html_of(tmp_path, **changes):
    write_report(tmp_path / "report.html", page(**changes))
    return (tmp_path / "report.html").read_text("utf-8")


class Tags(HTMLParser):
    """The tags with their attributes, and the text outside styles."""

    def __init__(self, html):
        super().__init__()
        self.found, self.text, self._open = [], "", None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self._open = tag

    def handle_data(self, data):
        if self._open != "style":
            self.text += data

    def of(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def text_of(html):
    return " ".join(Tags(html).text.split())


def test_all_names_are_escaped(tmp_path, images):
    html = html_of(tmp_path, evaluations={"test": evaluation(images)})
    assert EVIL not in html
    assert "<i>" not in html
    tags = Tags(html)
    assert tags.of("script") == []
    assert EVIL in tags.text
    assert all(attributes["src"].startswith("data:image/") for attributes in tags.of("img"))
    assert not any(key.startswith("on") for _, attributes in tags.found for key in attributes)


def test_groups_and_leaks_between_them_are_shown(tmp_path):
    leaks = (Leak("mate.jpg", EVIL),)
    data = dataclasses.replace(page().data, group_leaks=leaks, num_groups=1234)
    text = text_of(html_of(tmp_path, data=data))
    assert "1,234 groups, each within one split" in text
    assert "of the same group as mate.jpg" in text


def test_the_page_makes_no_network_requests(tmp_path, images):
    html = html_of(tmp_path, evaluations={"test": evaluation(images)})
    assert not re.search(r"https?:|//[a-z]|@import|url\(", html)
    tags = Tags(html)
    assert tags.of("link") == tags.of("iframe") == []
    (policy,) = (one["content"] for one in tags.of("meta") if "http-equiv" in one)
    assert policy.startswith("default-src 'none'")


@pytest.mark.slow
def test_accuracy_is_shown_with_split_number_of_images_and_interval(tmp_path, images):
    measured = evaluation(images)
    text = text_of(html_of(tmp_path, evaluations={"validation": None, "test": measured}))
    low, high = (f"{100 * end:.1f}" for end in measured.interval)
    assert f"25.0 % accuracy on the test split (n = 4, 95 % CI {low}-{high}), loss" in text
    text = text_of(html_of(tmp_path, evaluations={"validation": measured, "test": None}))
    assert "25.0 % accuracy on the validation split (n = 4" in text
    assert "There are no test images. These figures are from the validation images" in text
    assert "optimistically biased" in text
    text = text_of(html_of(tmp_path, evaluations={"validation": measured, "test": measured}))
    assert f"Validation accuracy 25.0 % (n = 4, 95 % CI {low}-{high}), loss" in text
    assert "was not measured" in text_of(html_of(tmp_path))


def test_all_metrics_are_shown_with_interval_and_what_could_not_be_measured(tmp_path):
    names = tuple(f"class {number}" for number in range(7))
    labels = np.arange(60) % 6  # none of the last class
    probabilities = np.full((60, 7), 0.05)
    probabilities[np.arange(60), np.where(np.arange(60) % 5, labels, (labels + 1) % 6)] = 0.7
    measured = evaluate_probabilities(probabilities, labels, names)
    counts = {name: {"train": 9} for name in names}
    data = dataclasses.replace(page().data, counts=counts)
    html = html_of(tmp_path, evaluations={"test": measured}, data=data)
    text = text_of(html)
    assert measured.top_k == 5
    assert len(measured.figures) == 4
    for line in measured.figures:  # the last one is shown under "Calibration"
        assert text.count(line[0].upper() + line[1:]) == 1
    assert measured.notes[0].startswith("no images of 'class 6'")
    for note in measured.notes:
        assert note[1:] in text
    first, last = measured.per_class[0], measured.per_class[6]
    low, high = first.recall_interval
    row = Tags(html.partition('<td class="name"><bdi>class 0')[2].partition("</tr>")[0]).text
    assert f"{100 * low:.1f}-{100 * high:.1f} %" in row
    assert f"{first.roc_auc:.3f}" in row
    assert last.recall_interval is None
    row = Tags(html.partition('<td class="name"><bdi>class 6')[2].partition("</tr>")[0]).text
    assert row.count("–") == 5  # validation and test; recall, its interval and ROC-AUC
    assert " to " not in row


def test_rows_of_the_confusion_matrix_are_true_classes(tmp_path, images):
    html = html_of(tmp_path, evaluations={"test": evaluation(images)})
    table = html.partition('<table class="matrix')[2].partition("</table>")[0]
    rows = [Tags(row).text.split("\n")[0] for row in table.split("<tr>")[2:]]
    assert rows == ["中文1", f"{EVIL}2", f"{NAMES[2]}1"]


def test_mistakes_are_upright_images_in_order_of_confidence(tmp_path, images):
    html = html_of(tmp_path, evaluations={"test": evaluation(images)})
    figures = html.split("<figure>")[1:]
    assert len(figures) == 3
    assert "80.0 %" in Tags(figures[0]).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "1<i>.jpg" in Tags(figures[0]).text
    sizes = []
    for figure in figures:
        (image,) = Tags(figure.partition("</figure>")[0]).of("img")
        content = base64.b64decode(image["src"].partition(",")[2])
        sizes.append(Image.open(io.BytesIO(content)).size)
    assert sizes == [(192, 144), (192, 144), (144, 192)]


def test_at_most_24_mistakes_are_shown_and_a_missing_file_is_no_error(tmp_path):
    labels = np.ones(30, np.int64)
    report = evaluate_probabilities(
        np.tile([0.7, 0.3], (30, 1)), labels, ("a", "b"), paths=["gone.jpg"] * 30
    )
    html = html_of(tmp_path, evaluations={"test": report})
    assert html.count("<figure>") == html.count("no image") == 24
    assert "24 of 30 mistakes" in text_of(html)


def test_training_is_described(tmp_path):
    text = text_of(html_of(tmp_path))
    assert "Validation accuracy: 84.0 % before training, 89.0 % after (n = 100)." in text
    assert "head 2.3 s" in text
    assert "fine-tune 3 min 33 s" in text
    assert "101,285 of 219,829 parameters, in 2 layers, were trainable, for 2 epochs." in text
    assert "conv5frozenunchanged" in text
    assert "headtrained150 %" in text
    assert html_of(tmp_path).count('alt="Relative weight change of each group') == 1


def test_a_solved_head_has_no_curves(tmp_path):
    assert 'class="curves" src="data:image/svg+xml;base64,' in html_of(tmp_path)
    solved = TrainingReport(page().training.stages[:1], None, None, 0)
    html = html_of(tmp_path, training=solved)
    assert 'class="curves"' not in html
    assert "the head was solved to its optimum" in text_of(html)


def test_data_are_described(tmp_path):
    text = text_of(html_of(tmp_path))
    assert "3,700 files (3,000 jpeg, 700 png), 3 classes." in text
    assert "The largest class has 2.5 times the images of the smallest." in text
    assert "1 image of validation or test was also in another split" in text
    assert "Skipped files 60" in text
    assert "and 10 more" in text
    assert "1,201" in text


def test_code_has_the_actual_folders(tmp_path):
    text = Tags(html_of(tmp_path, folder="my runs/1")).text
    assert "tlkit predict 'my runs/1' photo.jpg" in text
    code = re.search(r"tf\.saved_model\.load\(.*\)", text).group()
    assert code == "tf.saved_model.load('my runs/1/saved_model')"
    assert "keras.saving.load_model('my runs/1/model.keras')" in text


def test_all_ways_to_serve_are_shown_and_known_only_if_unknown_images_are_rejected(tmp_path):
    plain = html_of(tmp_path, folder="my runs/1")
    text = Tags(plain).text
    assert "tlkit serve 'my runs/1' --port 8000" in text
    assert "tlkit export 'my runs/1' --to serving --format saved_model --version 1" in text
    assert "tensorflow/serving" in text
    assert 'answers["known"]' not in text
    assert "none of these" not in text
    code = text.partition("import tensorflow as tf")[2].partition("In Python, to train")[0]
    compile(f"import tensorflow as tf{code}", "page", "exec")
    text = Tags(html_of(tmp_path, folder="my runs/1", rejection=("unknown above 0.2",))).text
    assert 'answers["known"].numpy()[0])' in text
    assert "known, which is false if the image appears to be none of these classes" in text
    code = text.partition("import tensorflow as tf")[2].partition("In Python, to train")[0]
    compile(f"import tensorflow as tf{code}", "page", "exec")


def test_several_labels_have_no_matrix_and_many_classes_a_part_of_one(tmp_path):
    several = evaluate_probabilities(
        np.array([[0.9, 0.2, 0.1]]), np.array([[0, 0, 0]]), NAMES, kind="multi_label"
    )
    html = html_of(tmp_path, evaluations={"test": several})
    assert '<table class="matrix' not in html
    assert "66.7 % accuracy of label decisions on the test split (n = 1, " in text_of(html)
    names = [f"class {index}" for index in range(45)]
    many = evaluate_probabilities(np.eye(45), np.roll(np.arange(45), 1), names)
    html = html_of(tmp_path, evaluations={"test": many})
    assert "the 40 classes with the most mistakes; 5 others are left out" in text_of(html)


def test_a_grad_cam_map_is_shown_beside_its_mistake(tmp_path, images):
    measured = evaluation(images)
    heatmap = np.zeros((8, 8), np.float32)
    heatmap[:4, :4] = 1
    first = measured.mistakes[0]
    image = np.zeros((8, 8, 3), np.uint8)
    maps = {first.index: Explanation(image, heatmap, EVIL, 0.8, EVIL, "conv5", first.path)}
    html = html_of(tmp_path, evaluations={"test": measured}, maps=maps)
    figures = [Tags(figure.partition("</figure>")[0]) for figure in html.split("<figure>")[1:]]
    assert [len(figure.of("img")) for figure in figures] == [2, 1, 1]
    assert "Grad-CAM map" in text_of(html)
    content = base64.b64decode(figures[0].of("img")[1]["src"].partition(",")[2])
    overlay = np.asarray(Image.open(io.BytesIO(content))).astype(int)
    assert overlay.shape == (144, 192, 3)
    is_grey = np.ptp(overlay, axis=-1) < 20
    assert not is_grey[:60, :80].any()
    assert is_grey[80:, 110:].all()
    assert "Grad-CAM map" not in text_of(html_of(tmp_path, evaluations={"test": measured}))


def test_calibration_is_described(tmp_path, images):
    measured = evaluation(images)
    lines = "temperature 0.7 (95 % interval 0.5 to 0.9)\nunchanged"
    html = html_of(tmp_path, evaluations={"test": measured}, calibration=lines, is_calibrated=True)
    text = text_of(html)
    assert f"Expected calibration error {100 * measured.reliability.error:.1f} %" in text
    assert "on 4 images of the test split" in text
    assert "Temperature 0.7 (95 % interval 0.5 to 0.9). Unchanged." in text
    assert "does not change the predicted classes" in text
    assert 'class="plot" src="data:image/svg+xml;base64,' in html
    text = text_of(html_of(tmp_path, evaluations={"test": measured}, calibration="not calibrated"))
    assert "Not calibrated." in text
    assert "does not change the predicted classes" not in text
    assert "Calibration" not in text_of(html_of(tmp_path))


def test_choices_are_shown_with_their_reasons(tmp_path):
    scores = (score("resnet50", 0.91, 4e9, weights=f"/{EVIL}"), score("vgg16", 0.9, 3e8))
    comparison = BackboneComparison(scores, {EVIL: f"no {EVIL}"}, 1234, 5, (f"a sample {EVIL}",))
    choices = {
        "backbone": Choice({}, [f"takes {EVIL}"], comparison=comparison.as_dict()),
        "mode": Choice({}, ["solves the head alone", "few images"], measured=["near"]),
    }
    kept = {name: json.loads(json.dumps(one.to_json())) for name, one in choices.items()}
    read = {name: Choice.from_json(content) for name, content in kept.items()}
    assert read == choices
    html = html_of(tmp_path, choices=read)
    assert EVIL not in html
    text = text_of(html)
    assert f"Backbone Takes {EVIL}." in text
    assert "on the features of 1,234 images of the training split" in text
    assert "91.0 %89.0-93.0 %" in text
    assert html.count('alt="Accuracy of each backbone') == 1
    none = dataclasses.replace(comparison, scores=())
    unmeasured = {"backbone": Choice({}, [], comparison=none.as_dict())}
    assert "Accuracy of each backbone" not in html_of(tmp_path, choices=unmeasured)
    assert f"no {EVIL}" in text
    assert "Mode of training Solves the head alone. Few images. Near." in text
    assert "Choices of the run" not in text_of(html_of(tmp_path))


@pytest.mark.parametrize(
    ("only_first", "only_second", "verdict"),
    [
        (2, 20, "The fine-tuned model has a significantly higher accuracy than the head alone"),
        (20, 2, "The head alone has a significantly higher accuracy than the fine-tuned model"),
        (5, 6, "The difference is too small to call"),
    ],
)
def test_fine_tuning_is_compared_with_the_head_alone(
    tmp_path, images, only_first, only_second, verdict
):
    first = np.arange(100) < 50 + only_first
    second = (np.arange(100) < 50) | (np.arange(100) >= 100 - only_second)
    html = html_of(
        tmp_path,
        evaluations={"test": evaluation(images)},
        against_probe=compare_outcomes(first, second),
        shipped="the head alone: why",
    )
    text = text_of(html)
    assert "Exported is the head alone: why" in text
    assert verdict in text
    assert f"head alone (solved){50 + only_first}.0 %{only_first}" in text
    assert f"fine-tuned model{50 + only_second}.0 %{only_second}" in text
    assert "McNemar" in text
    assert "McNemar" not in text_of(html_of(tmp_path))


def test_with_class_weights_the_comparison_is_by_balanced_accuracy(tmp_path, images):
    labels = np.repeat([0, 1], [80, 20])
    first, second = labels == 0, np.arange(100) >= 15
    higher = "has a significantly higher balanced accuracy than"
    for pair, verdict in (
        ((first, second), f"The fine-tuned model {higher} the head alone"),
        ((second, first), f"The head alone {higher} the fine-tuned model"),
    ):
        html = html_of(
            tmp_path,
            evaluations={"test": evaluation(images)},
            against_probe=compare_outcomes(*pair, labels),
        )
        assert verdict in text_of(html)
    text = text_of(html)
    assert "head alone (solved)90.6 %85.0 %20" in text
    assert "fine-tuned model50.0 %80.0 %15" in text
    assert "Difference of the balanced accuracies: -40.6 points" in text
    assert "McNemar" in text


def test_the_gain_of_more_images_is_shown_with_its_figure(tmp_path):
    report = LearningCurveReport(
        100,
        measured=(CurvePoint(20, 0.7, 0.02), CurvePoint(80, 0.8, 0.01)),
        forecast=(
            CurvePoint(20, 0.7, interval=(0.68, 0.72)),
            CurvePoint(100, 0.81, interval=(0.79, 0.83)),
            CurvePoint(200, 0.831, interval=(0.81, 0.86)),
        ),
        gain=0.021,
        gain_interval=(0.01, 0.033),
        num_tested=100,
        tested_on="training images, in 5-fold cross-validation",
        notes=(f"a sample {EVIL}",),
    )
    html = html_of(tmp_path, learning_curve=report)
    assert EVIL not in html
    text = text_of(html)
    assert (
        "Twice as many training images would bring about +2.1 points of accuracy (80 % interval "
        "1.0 to 3.3), estimated with a head on the features of the backbone."
    ) in text
    assert "tested on 100 training images, in 5-fold cross-validation" in text
    assert html.count('alt="Accuracy against the number of training images"') == 1
    unknown = LearningCurveReport(30, why_not="too few images")
    html = html_of(tmp_path, learning_curve=unknown)
    assert "What more images would bring is unknown: too few images." in text_of(html)
    assert "against the number of training images" not in html
    assert "More training images" not in text_of(html_of(tmp_path))


def test_cost_is_shown(tmp_path):
    cost = {
        "groups": [
            {"num_parameters": 1000, "multiply_adds": 5000},
            {"num_parameters": 234, "multiply_adds": 300},
        ],
        "num_trainable": 234,
        "seconds": {"training": 75.0},
        "total_seconds": 75.0,
        "disk_bytes": {"features": 2_000_000, "model files": 3e9},
        "total_disk_bytes": 3_002_000_000,
    }
    text = text_of(html_of(tmp_path, cost=cost))
    assert "Trainable parameters: 234 of 1,234." in text
    assert "5,300 multiply-adds per image" in text
    assert "Disk space: 3.0 GB (features 2.0 MB, model files 3.0 GB)." in text
    assert "Projected training time: about 1 min 15 s." in text
    assert "total3 min 37 s" in text
    untimed = {**cost, "seconds": {}, "total_seconds": 0}
    assert "Projected" not in text_of(html_of(tmp_path, cost=untimed))
    solved = text_of(html_of(tmp_path, cost={**cost, "solves_head": True}))
    assert "about 1 min 15 s, without solving the head." in solved


def test_augmented_training_images_are_shown(tmp_path):
    shown = [(np.zeros((8, 8, 3), np.uint8), EVIL), (np.ones((8, 8, 3), np.uint8), "")]
    html = html_of(tmp_path, training_images=shown, augmentation="light")
    assert EVIL not in html
    assert html.count("<figure>") == html.count("data:image/jpeg") == 2
    text = text_of(html)
    assert "augmentation: light" in text
    assert "no label" in text


def test_a_page_that_fails_leaves_no_file(tmp_path):
    with pytest.raises(AttributeError):
        write_report(tmp_path / "report.html", page(data=None))
    assert list(tmp_path.iterdir()) == []


def test_the_card_at_the_top_shows_the_result_and_the_summary(tmp_path, images):
    summary = {"task": EVIL, "data": "flowers", "command": "tlkit train 'x y'", "date": "today"}
    html = html_of(tmp_path, evaluations={"test": evaluation(images)}, summary=summary)
    card = html.partition('<div class="card">')[2].partition("</div>\n{}")[0].partition("<nav")[0]
    text = text_of(card)
    assert text.index("25.0 % accuracy on the test split") < text.index("task")
    for name, value in summary.items():
        assert name in text
        assert value in text
    assert "<code>tlkit train &#39;x y&#39;</code>" in card
    assert "was not measured" in text_of(html_of(tmp_path, summary=summary))


def test_the_contents_list_all_sections_and_no_others(tmp_path, images):
    for changes in ({}, {"evaluations": {"test": evaluation(images)}}):
        html = html_of(tmp_path, **changes)
        tags = Tags(html)
        ids = [section["id"] for section in tags.of("section")]
        assert [link["href"] for link in tags.of("a")] == [f"#{name}" for name in ids]
        headings = re.findall(r"<h2>(.*?)</h2>", html)
        links = re.findall(r'<li><a href="#\w+">(.*?)</a></li>', html)
        assert headings == links
        assert len(ids) == len(set(ids)) >= 5
        assert ("confusion" in ids) == bool(changes)


def test_the_confusion_matrix_names_its_axes(tmp_path, images):
    html = html_of(tmp_path, evaluations={"test": evaluation(images)})
    section = html.partition('<section id="confusion">')[2].partition("</section>")[0]
    assert '<span class="across">predicted class</span>' in section
    assert '<span class="down">true class</span>' in section


def test_the_kept_epoch_is_shown(tmp_path):
    first, second = page().training.stages
    assert "were kept" not in text_of(html_of(tmp_path))
    stages = (first, dataclasses.replace(second, kept_epoch=2))
    html = html_of(tmp_path, training=TrainingReport(stages, 0.84, 0.89, 100))
    assert "for 2 epochs. The weights of epoch 2 were kept." in text_of(html)


def test_weights_that_were_put_back_are_distinguished_from_frozen_ones(tmp_path):
    first, second = page().training.stages
    change, put_back = {"conv5": 0.0, "head": 0.0}, {"conv5": 0.0, "head": 0.25}
    stages = (first, dataclasses.replace(second, weight_change=change, put_back=put_back))
    text = text_of(html_of(tmp_path, training=TrainingReport(stages, 0.84, 0.84, 100)))
    assert "headtrained25 %, restored" in text
    assert "conv5trainedunchanged" in text


def test_colours_follow_the_browsers_scheme_and_images_are_not_lazy(tmp_path, images):
    html = html_of(tmp_path, evaluations={"test": evaluation(images)})
    assert "color-scheme: light dark" in html
    light, _, dark = html.partition("(prefers-color-scheme: dark)")
    named = set(re.findall(r"(--[\w-]+): ", dark.partition("}")[0]))
    assert {"--ink", "--paper", "--wash", "--line", "--heat", "--on-heat"} <= named
    assert named <= set(re.findall(r"(--[\w-]+): ", light))
    body = html.partition("<body>")[2]
    assert not re.search(r"#[0-9a-f]{3,6}\b", re.sub(r'href="#\w+"|base64,[^"]*', "", body))
    assert not any("loading" in image for image in Tags(html).of("img"))


def test_invisible_characters_are_shown_as_codes(tmp_path):
    invisible = "\x1b[2J\u202e\x9b"
    data = dataclasses.replace(page().data, empty_classes=(f"none{invisible}",), notes=(invisible,))
    html = html_of(tmp_path, title=f"run{invisible}", data=data)
    assert not {"\x1b", "\u202e", "\x9b"} & set(html)
    assert r"run\u001b[2J\u202e\u009b" in html


def test_copies_are_counted_and_the_first_listed(tmp_path):
    copies = tuple(f"copy{number:03}.jpg" for number in range(300))
    data = dataclasses.replace(page().data, duplicates=(copies,), conflicts=(copies[:5],))
    text = text_of(html_of(tmp_path, data=data))
    assert "copy003.jpg = copy004.jpg and 295 more" in text
    assert "copy005.jpg" not in text
    assert text.count(" = copy004.jpg") == 2


def test_damaged_files_that_are_used_are_listed_with_the_decoders_message(tmp_path):
    assert "Damaged files" not in text_of(html_of(tmp_path))
    damaged = SkippedFile("a/rotten.jpg", "a", "Corrupt JPEG data: bad Huffman code")
    html = html_of(tmp_path, data=dataclasses.replace(page().data, damaged=(damaged,)))
    assert "a/rotten.jpg: Corrupt JPEG data: bad Huffman code" in text_of(html)
