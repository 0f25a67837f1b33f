"""New rows beside fixed old logits, and what is said of them."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import tlkit
from tlkit.continual.adding_classes import GrowthReport, learn_classes, shares_right
from tlkit.continual.new_rows import PENALTIES, SHARE_OF_NEW, solve_new_rows
from tlkit.evaluation.metrics import evaluate_probabilities
from tlkit.models.surgery import add_classes


def clusters(num_classes, num=30, width=6, seed=0):
    """Features around one centre for each class, and labels."""
    random = np.random.default_rng(seed)
    centres = 3 * random.standard_normal((num_classes, width))
    labels = np.repeat(np.arange(num_classes), num)
    return (centres[labels] + random.standard_normal((len(labels), width))).astype("f4"), labels


def loss_of(features, labels, logits, rows):
    """The balanced loss that the rows are the minimum of, without penalty."""
    both = np.concatenate([logits, features @ rows.kernel + rows.bias], axis=1).astype("f8")
    logs = both - np.log(np.exp(both).sum(axis=1, keepdims=True))
    own = -logs[np.arange(len(labels)), labels]
    return np.mean([own[labels == label].mean() for label in np.unique(labels)])


def test_with_no_old_class_it_is_plain_logistic_regression():
    features, labels = clusters(3)
    rows = solve_new_rows(features, labels, np.empty((90, 0)), 3)
    penalty = float(rows.note.split("penalty ")[1].split(",")[0])
    assert any(np.isclose(penalty, one, rtol=0.02) for one in PENALTIES)
    mean, scale = features.mean(axis=0), features.std(axis=0)
    nearest = min(PENALTIES, key=lambda one: abs(np.log(one / penalty)))
    plain = LogisticRegression(C=1 / (90 * nearest), tol=1e-10, max_iter=5000)
    plain.fit((features - mean) / scale, labels)
    found = np.exp(features @ rows.kernel + rows.bias)
    expected = plain.predict_proba((features - mean) / scale)
    np.testing.assert_allclose(found / found.sum(axis=1, keepdims=True), expected, atol=2e-3)


def test_old_logits_are_competed_with_as_they_are():
    features, labels = clusters(4)
    random = np.random.default_rng(1)
    old = (features @ random.standard_normal((6, 2))).astype("f4")
    rows = solve_new_rows(features, labels, old, 2)
    best = loss_of(features, labels, old, rows)
    for _ in range(5):  # no other rows nearby are much better: the penalty is all there is between
        moved = rows.kernel + 0.05 * random.standard_normal(rows.kernel.shape)
        assert best < 1e-3 + loss_of(
            features, labels, old, type(rows)(moved.astype("f4"), rows.bias, "")
        )


def test_few_old_rows_count_as_much_as_many_new_ones():
    features, labels = clusters(2, num=200)
    old = np.zeros((400, 1), "f4")
    few = np.r_[0:8, 200:400]
    rows = solve_new_rows(features[few], labels[few], old[few], 1)
    said = features @ rows.kernel[:, 0] + rows.bias[0] > 0
    assert said[labels == 0].mean() < 0.1
    assert said[labels == 1].mean() > 0.9


@pytest.mark.parametrize("num_new", [1, 3])
def test_without_old_rows_new_classes_win_on_their_share_of_new_pictures(num_new):
    features, labels = clusters(2 + num_new)
    new = labels >= 2
    old = features[new] @ np.random.default_rng(1).standard_normal((6, 2))
    rows = solve_new_rows(features[new], labels[new], old, num_new)
    lead = (features[new] @ rows.kernel + rows.bias).max(axis=1) - old.max(axis=1)
    assert np.mean(lead > 0) == pytest.approx(SHARE_OF_NEW, abs=0.02)
    assert f"{100 * SHARE_OF_NEW:.0f} % of the new pictures" in rows.note


@pytest.mark.parametrize("hidden", [(), (8,)])
def test_learning_classes_moves_nothing_else_and_finds_them(hidden):
    model = tlkit.build_classifier("resnet20", ["a", "b"], weights=None, hidden=hidden, dropout=0.5)
    labels = np.arange(60) % 2
    images = np.random.default_rng(0).integers(0, 99, (60, 32, 32, 3), "uint8")
    images[labels == 0, :, :, 0] += 100
    images[labels == 1, :, :, 2] += 100
    data = tlkit.load_arrays(images, labels, ["red", "blue"], splits=(0.6, 0.4, 0))
    train = data.train
    shifted = type(train)(**{**vars(train), "labels": train.labels + 2})
    before = model.get_weights()
    learned = learn_classes(model, shifted, ["red", "blue"], ["a", "b"], exemplars=0)
    pixels = images[:4].astype("f4")
    assert np.array_equal(learned.model(pixels)[:, :2], model(pixels))
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    logits = learned.model(images.astype("f4")).numpy()
    assert (logits[:, 2:].argmax(axis=1) == labels).all()
    assert learned.num_replayed == 0
    assert learned.exemplars.features == {}


def test_heads_that_are_no_softmax_over_logits_are_refused():
    data = tlkit.load_arrays(
        np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), "uint8"), np.arange(8) % 2
    )
    for given in ({"binary": True}, {"multi_label": True}):
        model = tlkit.build_classifier("resnet20", ["a", "b"], weights=None, **given)
        with pytest.raises(tlkit.ArgumentError, match="logits of classes of which each picture"):
            learn_classes(model, data.train, ["c"], ["a", "b"])
    model = add_classes(
        tlkit.build_classifier("resnet20", ["a", "b"], weights=None), ["c"], class_names=["a", "b"]
    )
    with pytest.raises(tlkit.DataError, match=r"exemplars=20, and none of 'c'"):
        learn_classes(model, data.train, ["d"], ["a", "b", "c"])


def test_shares_are_those_of_old_and_of_new_pictures():
    logits = np.eye(3)[[0, 1, 1, 2, 0]]
    report = evaluate_probabilities(logits, np.array([0, 0, 1, 2, 2]), ["a", "b", "c"])
    assert shares_right(report, 2) == (pytest.approx(2 / 3), 0.5)
    only_old = evaluate_probabilities(logits[:3], np.array([0, 0, 1]), ["a", "b", "c"])
    assert shares_right(only_old, 2) == (pytest.approx(2 / 3), None)
    labels = evaluate_probabilities(
        np.full((2, 2), 0.4), np.array([[0, 1], [1, 0]]), ["a", "b"], kind="multi_label"
    )
    with pytest.raises(tlkit.ArgumentError, match="gives each picture one class"):
        shares_right(labels, 1)


def test_the_report_says_what_it_knows():
    report = GrowthReport(("a", "b"), ("<c>",), 20, 40)
    assert "old classes: no picture to measure on" in str(report)
    assert "40 stored features" in str(report)
    assert "&lt;c&gt;" in report._repr_html_()
    assert "at a cost that is not known" in str(GrowthReport(("a",), ("c",), 0, 0))
