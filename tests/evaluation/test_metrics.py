import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn import metrics

import tlkit
from tests.conftest import set_seeds
from tlkit.data.images import ImageSplit
from tlkit.errors import ArgumentError, DataError
from tlkit.evaluation.metrics import evaluate_probabilities

NAMES = ("ant", "bee", "cat")


def small_model(num_outputs=3, activation=None, name=None):
    set_seeds(0)
    return keras.Sequential(
        [
            keras.Input((4, 4, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(num_outputs, activation=activation, name=name),
        ]
    )


def random_images(num_images=20, seed=1):
    generator = np.random.default_rng(seed)
    return generator.uniform(0, 255, (num_images, 4, 4, 3)).astype(np.float32)


def batches(images, labels, *more, batch_size=7):
    return tf.data.Dataset.from_tensor_slices((images, labels, *more)).batch(batch_size)


def assert_near(found, expected):
    """Compares up to float32 rounding, within mappings and lists."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_near(found[key], expected[key])
    elif isinstance(expected, list):
        for one, other in zip(found, expected, strict=True):
            assert_near(one, other)
    else:
        assert found == (expected if expected is None else pytest.approx(expected, rel=1e-5))


def test_accuracy_and_loss_equal_those_of_keras():
    model, images, labels = small_model(), random_images(), np.arange(20) % 3
    report = tlkit.evaluate(model, batches(images, labels), NAMES)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels, model(images))
    assert report.accuracy == np.mean(np.argmax(model(images), axis=1) == labels)
    assert report.loss == pytest.approx(float(loss), rel=1e-5)
    assert report.num_images == 20
    assert report.interval[0] < report.accuracy < report.interval[1]


def test_every_form_of_labels_and_outputs_gives_the_same_report():
    images, labels = random_images(), np.arange(20) % 3
    logits, softmax = small_model(), small_model(activation="softmax")
    softmax.set_weights(logits.get_weights())
    expected = tlkit.evaluate(logits, batches(images, labels), NAMES).as_dict()
    for model, given in (
        (logits, labels[:, None].astype(np.float32)),
        (logits, np.eye(3)[labels]),
        (softmax, labels),
    ):
        found = tlkit.evaluate(model, batches(images, given), NAMES).as_dict()
        for key in ("loss", "reliability"):
            assert_near(found.pop(key), expected[key])
        assert found == {key: expected[key] for key in found}


def test_binary_logit_and_probability_agree():
    images, labels = random_images(), np.arange(20) % 2
    logit, sigmoid = small_model(1), small_model(1, "sigmoid")
    sigmoid.set_weights(logit.get_weights())
    reports = [tlkit.evaluate(model, batches(images, labels)) for model in (logit, sigmoid)]
    loss = keras.losses.BinaryCrossentropy(from_logits=True)(labels[:, None], logit(images))
    for report in reports:
        assert report.kind == "binary"
        assert report.class_names == ("0", "1")
        assert report.loss == pytest.approx(float(loss), rel=1e-5)
        assert report.confusion.sum() == 20
    assert (
        reports[0].accuracy == reports[1].accuracy == np.mean((logit(images)[:, 0] > 0) == labels)
    )


def test_confusion_has_true_classes_in_rows():
    shares = np.array([[0.9, 0.1, 0], [0.2, 0.8, 0], [0.7, 0.3, 0], [0.6, 0.4, 0]])
    report = evaluate_probabilities(shares, np.array([0, 1, 1, 2]), NAMES)
    assert report.confusion.tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 0]]
    bee = report.per_class[1]
    assert (bee.precision, bee.recall, bee.num_images) == (1.0, 0.5, 2)
    assert bee.f1 == pytest.approx(2 / 3)
    assert report.per_class[2].precision == 0.0


def test_mistakes_are_sorted_by_confidence_and_have_files():
    shares = np.array([[0.6, 0.4], [0.1, 0.9], [0.2, 0.8], [0.9, 0.1]])
    paths = ("a.jpg", "b.jpg", "c.jpg", "d.jpg")
    report = evaluate_probabilities(shares, np.array([1, 0, 1, 1]), NAMES[:2], paths=paths)
    found = [(one.path, one.truth, one.predicted, one.probability) for one in report.mistakes]
    assert found == [
        ("b.jpg", "ant", "bee", 0.9),
        ("d.jpg", "bee", "ant", 0.9),
        ("a.jpg", "bee", "ant", 0.6),
    ]
    assert evaluate_probabilities(shares, np.ones(4), NAMES[:2]).mistakes[0].source == "image 3"


def test_multi_label_counts_label_decisions():
    logits = np.array([[3.0, -3.0, 1.0], [-2.0, 4.0, -1.0]])
    labels = np.array([[1, 0, 0], [1, 1, 0]], np.float32)
    report = evaluate_probabilities(logits, labels, NAMES, kind="multi_label", from_logits=True)
    assert report.accuracy == pytest.approx(4 / 6)
    assert report.confusion is None
    assert [one.truth for one in report.mistakes] == ["ant, bee", "ant"]
    assert [one.predicted for one in report.mistakes] == ["bee", "ant, cat"]
    sigmoid = 1 / (1 + np.exp(-logits))
    assert report.mistakes[0].probability == pytest.approx(1 - sigmoid[1, 0])
    expected = -np.where(labels == 1, np.log(sigmoid), np.log(1 - sigmoid)).mean()
    assert report.loss == pytest.approx(expected)
    assert [score.num_images for score in report.per_class] == [2, 1, 0]
    assert "label decisions" in str(report)


def test_multi_label_model_is_evaluated_from_its_outputs():
    model = small_model(3, "sigmoid")
    labels = (np.random.default_rng(0).random((20, 3)) > 0.5).astype(np.float32)
    report = tlkit.evaluate(model, batches(random_images(), labels), NAMES)
    assert report.kind == "multi_label"
    assert report.accuracy == np.mean((np.asarray(model(random_images())) >= 0.5) == labels)


def test_the_loss_is_finite_for_extreme_logits():
    logits = np.array([[1000.0, -1000.0], [-1000.0, 1000.0]], np.float32)
    report = evaluate_probabilities(logits, np.array([1, 1]), NAMES[:2], from_logits=True)
    assert report.loss == 1000.0
    certain = evaluate_probabilities(np.array([[1.0, 0.0]]), np.array([1]), NAMES[:2])
    assert certain.loss == pytest.approx(-np.log(1e-7))


def test_a_split_provides_paths_and_batch_size():
    images = random_images(9).astype(np.uint8)
    split = ImageSplit(
        name="test",
        paths=tuple(f"images[{index}]" for index in range(9)),
        labels=np.arange(9) % 3,
        digests=tuple(map(str, range(9))),
        image_size=(4, 4),
        batch_size=4,
        seed=0,
        _pixels=images,
    )
    report = tlkit.evaluate(small_model(), split, NAMES)
    expected = tlkit.evaluate(small_model(), batches(images, np.arange(9) % 3), NAMES)
    assert report.confusion.tolist() == expected.confusion.tolist()
    assert report.loss == pytest.approx(expected.loss, rel=1e-5)
    assert report.mistakes[0].path == f"images[{report.mistakes[0].index}]"
    assert tlkit.evaluate(small_model(), split, NAMES, batch_size=9).accuracy == report.accuracy


def test_the_model_is_unchanged():
    model = small_model()
    model.compile("adam", "mse")
    optimizer, weights = model.optimizer, model.get_weights()
    tlkit.evaluate(model, batches(random_images(), np.arange(20) % 3), NAMES)
    assert model.optimizer is optimizer
    assert model.predict_function is None
    assert all(map(np.array_equal, model.get_weights(), weights))


def test_sample_weights_are_ignored():
    model, images, labels = small_model(), random_images(), np.arange(20) % 3
    weighted = tlkit.evaluate(model, batches(images, labels, np.linspace(0, 9, 20)), NAMES)
    assert weighted.as_dict() == tlkit.evaluate(model, batches(images, labels), NAMES).as_dict()


def test_the_report_gives_json_and_escaped_html():
    names = ("<script>alert(1)</script>", "中文")
    report = evaluate_probabilities(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 1]), names)
    assert json.loads(json.dumps(report.as_dict()))["per_class"][1]["name"] == "中文"
    assert "<script>" not in report._repr_html_()
    assert "&lt;script&gt;" in report._repr_html_()
    table = str(report).splitlines()[-4:-1]
    assert table[0].startswith("class ")
    assert len({len(line) + line.count("中") + line.count("文") for line in table}) == 1


def test_the_text_of_many_classes_shows_the_worst():
    shares = np.eye(50)
    labels = np.arange(50)
    labels[40] = 41
    text = str(evaluate_probabilities(shares, labels, [f"c{index}" for index in range(50)]))
    assert "c40" in text
    assert "30 of 50 classes" in text


def test_no_images_raise():
    empty = batches(random_images(0), np.zeros(0, np.int64))
    with pytest.raises(DataError, match="`images` must contain images"):
        tlkit.evaluate(small_model(), empty, NAMES)
    with pytest.raises(DataError, match="`images` must contain at least one image"):
        evaluate_probabilities(np.zeros((0, 3)), np.zeros(0), NAMES)


@pytest.mark.parametrize("label", [3, -1, 0.5])
def test_labels_out_of_range_raise(label):
    labels = np.array([0, label])
    with pytest.raises(DataError, match=r"`labels` must be whole numbers from 0 to 2.*image 1"):
        evaluate_probabilities(np.full((2, 3), 1 / 3), labels, NAMES)


def test_labels_of_another_shape_raise():
    with pytest.raises(DataError, match="`labels` must be one whole number for each of 2 images"):
        evaluate_probabilities(np.full((2, 3), 1 / 3), np.full((2, 3), 0.5), NAMES)
    with pytest.raises(DataError, match="`labels` must be rows of 0 and 1"):
        evaluate_probabilities(np.full((2, 3), 1 / 3), np.zeros(2), NAMES, kind="multi_label")


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (("ant", "bee"), "must name the model's 3 classes. Received: 2"),
        (("ant", "bee", "bee"), "must not have duplicates. Received: 'bee'"),
        ((1, 2, 3), "must be strings"),
    ],
)
def test_invalid_class_names_raise(names, match):
    with pytest.raises(ArgumentError, match=f"`class_names` {match}"):
        tlkit.evaluate(small_model(), batches(random_images(), np.zeros(20)), names)


def test_outputs_that_are_not_finite_raise():
    shares = np.array([[np.nan, 1.0], [0.5, 0.5]])
    with pytest.raises(ArgumentError, match=r"finite outputs\. Received: .* for 1 of 2 images"):
        evaluate_probabilities(shares, np.array([0, 1]), NAMES[:2])


def test_outputs_of_another_shape_or_kind_raise():
    with pytest.raises(ArgumentError, match=r"`probabilities` must have the shape \(n, 3\)"):
        evaluate_probabilities(np.zeros((2, 4)), np.zeros(2), NAMES)
    with pytest.raises(ArgumentError, match="`kind` must be one of"):
        evaluate_probabilities(np.zeros((2, 3)), np.zeros(2), NAMES, kind="soft")


def test_unsuitable_datasets_raise():
    data = batches(random_images(), np.zeros(20))
    model = small_model()
    with pytest.raises(ArgumentError, match="`images` must give batches"):
        tlkit.evaluate(model, data.unbatch(), NAMES)
    larger = data.map(lambda images, labels: (tf.image.resize(images, (5, 5)), labels))
    with pytest.raises(ArgumentError, match=r"`images` must have the shape .*, 4, 4, 3\)"):
        tlkit.evaluate(model, larger, NAMES)
    with pytest.raises(ArgumentError, match="`images` must end after one pass"):
        tlkit.evaluate(model, data.repeat(), NAMES)
    with pytest.raises(ArgumentError, match="`images` must be an ImageSplit or a tf"):
        tlkit.evaluate(model, random_images(), NAMES)
    with pytest.raises(ArgumentError, match="`batch_size` must be left out"):
        tlkit.evaluate(model, data, NAMES, batch_size=3)


def ranked(num_images=200, num_classes=8, seed=0):
    """Probabilities correlated with the labels, and labels with unequal class sizes."""
    generator = np.random.default_rng(seed)
    labels = np.sort(generator.choice(num_classes, num_images, p=_spread(num_classes)))
    logits = generator.normal(0, 1, (num_images, num_classes)) + 2 * np.eye(num_classes)[labels]
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), labels


def _spread(num_classes):
    weights = np.arange(1, num_classes + 1)
    return weights / weights.sum()


def test_figures_equal_those_of_scikit_learn():
    shares, labels = ranked()
    names = [f"c{index}" for index in range(8)]
    report = evaluate_probabilities(shares, labels, names, top_k=3)
    assert report.balanced_accuracy == pytest.approx(
        metrics.balanced_accuracy_score(labels, shares.argmax(axis=1))
    )
    assert report.roc_auc == pytest.approx(
        metrics.roc_auc_score(labels, shares, multi_class="ovr", average="macro")
    )
    for index, score in enumerate(report.per_class):
        assert score.roc_auc == pytest.approx(
            metrics.roc_auc_score(labels == index, shares[:, index])
        )
        assert score.recall_interval[0] < score.recall < score.recall_interval[1]
    assert report.top_k_accuracy == metrics.top_k_accuracy_score(labels, shares, k=3)
    assert report.top_k == 3
    for value, interval in (
        (report.balanced_accuracy, report.balanced_interval),
        (report.top_k_accuracy, report.top_k_interval),
    ):
        assert interval[0] < value < interval[1]
    assert "top-3 accuracy" in str(report)


def test_top_5_accuracy_is_reported_for_more_than_five_classes():
    shares, labels = ranked()
    names = [f"c{index}" for index in range(8)]
    assert evaluate_probabilities(shares, labels, names).top_k == 5
    few, their_labels = ranked(num_classes=5)
    assert evaluate_probabilities(few, their_labels, names[:5]).top_k_accuracy is None
    tied = evaluate_probabilities(np.full((8, 8), 1 / 8), np.arange(8), names, top_k=1)
    assert tied.top_k_accuracy == tied.accuracy == 1 / 8


@pytest.mark.parametrize(
    ("top_k", "arguments", "match"),
    [
        (0, {}, "`top_k` must be a whole number of at least 1"),
        (3, {}, "`top_k` must be below the number of classes, 3"),
        (1, {"kind": "multi_label"}, "`top_k` must be left out for a head of the kind 'multi_l"),
    ],
)
def test_an_invalid_top_k_raises(top_k, arguments, match):
    with pytest.raises(ArgumentError, match=match):
        evaluate_probabilities(np.full((2, 3), 0.5), np.zeros(2), NAMES, top_k=top_k, **arguments)
    with pytest.raises(ArgumentError, match=r"`top_k` must be left out for .* 'binary'"):
        tlkit.evaluate(small_model(1), batches(random_images(), np.arange(20) % 2), top_k=1)


def test_binary_figures_equal_those_of_scikit_learn():
    shares, labels = ranked(num_classes=2)
    logits = np.log(shares[:, 1:] / shares[:, :1])
    report = evaluate_probabilities(logits, labels, NAMES[:2], kind="binary", from_logits=True)
    assert report.roc_auc == pytest.approx(metrics.roc_auc_score(labels, logits[:, 0]))
    assert report.per_class[0].roc_auc == pytest.approx(report.roc_auc)
    assert report.roc_auc_interval[0] < report.roc_auc < report.roc_auc_interval[1]
    assert report.balanced_accuracy == pytest.approx(
        metrics.balanced_accuracy_score(labels, logits[:, 0] > 0)
    )
    assert report.top_k is None


def test_multi_label_figures_are_means_over_labels():
    generator = np.random.default_rng(0)
    labels = (generator.random((100, 3)) > 0.6).astype(int)
    shares = np.clip(0.3 * labels + generator.uniform(0, 0.7, (100, 3)), 0, 1)
    report = evaluate_probabilities(shares, labels, NAMES, kind="multi_label")
    assert report.roc_auc == pytest.approx(metrics.roc_auc_score(labels, shares, average="macro"))
    by_label = [
        metrics.balanced_accuracy_score(labels[:, index], shares[:, index] >= 0.5)
        for index in range(3)
    ]
    assert report.balanced_accuracy == pytest.approx(np.mean(by_label))
    assert report.balanced_interval is None
    assert report.reliability.counts.sum() == 300
    assert report.reliability.error_by_chance is None


def test_a_class_without_images_is_left_out_and_noted():
    shares, labels = ranked(num_classes=3)
    kept = labels != 1
    report = evaluate_probabilities(shares[kept], labels[kept], NAMES)
    recalls = [score.recall for score in report.per_class]
    assert report.balanced_accuracy == pytest.approx((recalls[0] + recalls[2]) / 2)
    assert report.per_class[1].roc_auc is None
    assert report.per_class[1].recall_interval is None
    assert "no images of 'bee'" in str(report)
    alone = evaluate_probabilities(shares[:3], np.zeros(3), NAMES)
    assert alone.roc_auc is None
    assert "no ROC-AUC" in str(alone)
    assert json.loads(json.dumps(alone.as_dict()))["roc_auc"] is None
    assert alone._repr_html_()


def test_a_split_of_another_image_size_raises():
    data = tlkit.load_arrays(
        np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), np.uint8), np.arange(60) % 3
    )
    with pytest.raises(ArgumentError, match=r"`images` must have the image size of the model"):
        tlkit.evaluate(small_model(), data.validation, NAMES)
