import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import balanced_accuracy_score

import tlkit
from tests.conftest import set_seeds
from tlkit.errors import ArgumentError, DataError
from tlkit.evaluation.comparison import compare_models, compare_outcomes
from tlkit.evaluation.intervals import mean_paired_difference_interval


def outcomes(num_both, num_first, num_second, num_neither):
    counts = (num_both, num_first, num_second, num_neither)
    first = np.repeat([True, True, False, False], counts)
    second = np.repeat([True, False, True, False], counts)
    return first, second


def random_model(seed, num_outputs=3, activation=None, name=None):
    set_seeds(seed)
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    return keras.Model(inputs, keras.layers.Dense(num_outputs, activation, name=name)(x))


def batches(labels):
    pixels = np.random.default_rng(0).uniform(0, 255, (len(labels), 4, 4, 3)).astype(np.float32)
    return tf.data.Dataset.from_tensor_slices((pixels, labels)).batch(7)


@pytest.mark.parametrize(
    ("counts", "p_value"),
    [
        # statsmodels.stats.contingency_tables.mcnemar(table, exact=True)
        ((80, 10, 2, 8), 0.03857422),
        ((50, 0, 5, 5), 0.0625),
        ((50, 5, 5, 0), 1.0),
        ((7, 0, 0, 3), 1.0),
    ],
)
def test_the_test_is_mcnemars(counts, p_value):
    report = compare_outcomes(*outcomes(*counts))
    assert report.p_value == pytest.approx(p_value, rel=1e-5)
    found = (report.num_both, report.num_first, report.num_second, report.num_neither)
    assert found == counts
    assert report.difference == pytest.approx(report.accuracies[1] - report.accuracies[0])
    assert report.interval[0] <= report.difference <= report.interval[1]


def test_the_verdict_names_the_better_model():
    first, second = outcomes(80, 10, 2, 8)
    assert compare_outcomes(first, second).verdict == "the first is better"
    report = compare_outcomes(second, first)
    assert report.verdict == "the second is better"
    assert report.interval[0] > 0
    close = compare_outcomes(*outcomes(80, 5, 4, 11))
    assert close.verdict == "too close to call"
    assert str(close).startswith("too close to call: accuracy 85.0 % and 84.0 % (n = 100)")
    assert json.loads(json.dumps(close.as_dict()))["verdict"] == "too close to call"
    assert "5 correct only by the first" in close._repr_html_()


def balanced_outcomes():
    """400 images, 40 of class 1; the second model gains on these what it loses on class 0.

    Each image: its class, and whether the first and the second model are correct.
    """
    groups = [(0, True, True, 330), (0, True, False, 22), (0, False, False, 8)]
    groups += [(1, True, True, 10), (1, False, True, 22), (1, False, False, 8)]
    counts = [group[3] for group in groups]
    return [np.repeat([group[column] for group in groups], counts) for column in range(3)]


def test_the_verdict_is_by_balanced_accuracy_if_labels_are_given():
    labels, first, second = balanced_outcomes()
    plain = compare_outcomes(first, second)
    assert (plain.metric, plain.verdict, plain.p_value) == ("accuracy", "too close to call", 1.0)
    assert plain.balanced_accuracies is plain.balanced_interval is None
    report = compare_outcomes(first, second, labels)
    assert report.balanced_accuracies == pytest.approx(
        [
            balanced_accuracy_score(labels, np.where(one, labels, 1 - labels))
            for one in (first, second)
        ]
    )
    assert report.balanced_difference == pytest.approx(22 / 40 / 2 - 22 / 360 / 2)
    assert report.balanced_interval == mean_paired_difference_interval(
        [(330, 0, 22, 8), (10, 22, 0, 8)]
    )
    assert (report.metric, report.verdict) == ("balanced accuracy", "the second is better")
    assert (report.accuracies, report.p_value) == (plain.accuracies, 1.0)
    assert compare_outcomes(second, first, labels).verdict == "the first is better"
    assert compare_outcomes(first, first, labels).verdict == "too close to call"
    kept = json.loads(json.dumps(report.as_dict()))
    assert kept["metric"] == "balanced accuracy"
    assert kept["balanced_interval"] == list(report.balanced_interval)
    assert str(report).startswith(
        "the second is better: balanced accuracy 61.4 % and 85.8 %, difference +24.4 points "
    )
    assert "; accuracy 90.5 % and 90.5 % (n = 400), difference +0.0 points" in str(report)
    assert "p = 1;" in str(report)


def test_models_with_balanced_class_weights_are_compared_by_balanced_accuracy():
    labels = (np.arange(50) % 5 == 0).astype(int)
    models = [random_model(seed, 2) for seed in (0, 1)]
    report = compare_models(*models, batches(labels), class_weight="balanced")
    accuracies = [tlkit.evaluate(model, batches(labels)).balanced_accuracy for model in models]
    assert report.balanced_accuracies == pytest.approx(accuracies)
    plain = compare_models(*models, batches(labels))
    assert (report.accuracies, report.p_value) == (plain.accuracies, plain.p_value)
    one_hot = compare_models(*models, batches(np.eye(2)[labels]), class_weight="balanced")
    assert one_hot == report


def test_equal_models_are_rarely_called_different():
    generator = np.random.default_rng(0)
    drawn = generator.random((400, 2, 60)) < 0.8
    called = sum(compare_outcomes(*pair).is_beyond_noise for pair in drawn)
    assert called / 400 <= 0.05


@pytest.mark.parametrize(
    ("heads", "num_classes"),
    [
        (((3, None, None), (3, "softmax", None)), 3),
        (((1, None, None), (2, None, None)), 2),
        (((1, "sigmoid", None), (1, None, None)), 2),
    ],
)
def test_compare_models_agrees_with_evaluate(heads, num_classes):
    labels = np.arange(50) % num_classes
    models = [random_model(seed, *head) for seed, head in enumerate(heads)]
    report = compare_models(*models, batches(labels))
    accuracies = [tlkit.evaluate(model, batches(labels)).accuracy for model in models]
    assert report.accuracies == pytest.approx(accuracies)
    assert report.num_images == 50
    assert report.num_first + report.num_second > 0
    same = compare_models(models[0], models[0], batches(labels))
    assert (same.num_first, same.num_second, same.p_value) == (0, 0, 1.0)


def test_a_multi_label_image_is_correct_if_all_labels_are():
    labels = (np.random.default_rng(1).random((40, 3)) > 0.5).astype(np.float32)
    models = [random_model(seed, 3, "sigmoid") for seed in (0, 1)]
    report = compare_models(*models, batches(labels))
    for model, accuracy in zip(models, report.accuracies, strict=True):
        evaluated = tlkit.evaluate(model, batches(labels))
        assert accuracy == pytest.approx(1 - len(evaluated.mistakes) / 40)


def test_each_image_is_read_once(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (60, 4, 4, 3), np.uint8)
    data = tlkit.load_arrays(images, np.arange(60) % 3)
    made = []
    dataset = type(data.train).dataset

    def counted(split, *arguments, **more):
        made.append(split.name)
        return dataset(split, *arguments, **more)

    monkeypatch.setattr(type(data.train), "dataset", counted)
    compare_models(random_model(0), random_model(1), data.train, batch_size=16)
    assert made == ["train"]


def test_incomparable_models_raise():
    labels = np.arange(20) % 2
    with pytest.raises(ArgumentError, match="`second` must have the same classes as `first`"):
        compare_models(random_model(0, 2), random_model(1, 3), batches(labels))
    with pytest.raises(ArgumentError, match=r"'softmax' with 3 .* 'multi_label' with 3"):
        compare_models(random_model(0), random_model(1, 3, "sigmoid"), batches(labels))
    with pytest.raises(
        DataError, match="`images` must have labels that are whole numbers from 0 to 1"
    ):
        compare_models(random_model(0, 2), random_model(1, 2), batches(labels + 1))
    with pytest.raises(DataError, match="at least one image"):
        compare_outcomes(np.zeros(0), np.zeros(0))
    with pytest.raises(ArgumentError, match="one value for each image"):
        compare_outcomes(np.zeros(3), np.zeros(4))
    with pytest.raises(ArgumentError, match=r"`labels` must be 3 whole numbers.* float64 .*\(3,\)"):
        compare_outcomes(np.zeros(3), np.ones(3), np.zeros(3))
    with pytest.raises(ArgumentError, match=r"`class_weight` must be 'balanced', 'effective'"):
        compare_models(*[random_model(0, 2)] * 2, batches(labels), class_weight="balance")
    several = [random_model(0, 2, "sigmoid")] * 2
    with pytest.raises(ArgumentError, match=r"`class_weight` must be None for multi-label"):
        compare_models(*several, batches(np.eye(2)[labels]), class_weight="balanced")
