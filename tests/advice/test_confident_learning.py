"""Confident learning: thresholds, joint counts and pruning, by the formulas of the paper."""

import numpy as np

from tlkit.advice.confident_learning import find_label_errors


def some_probabilities(num_images=300, num_classes=4, seed=0):
    """Probabilities that mostly agree with true labels, and labels of which some are wrong."""
    generator = np.random.default_rng(seed)
    true = generator.integers(num_classes, size=num_images)
    logits = generator.normal(size=(num_images, num_classes))
    logits[np.arange(num_images), true] += 3
    probabilities = np.exp(logits)
    labels = true.copy()
    wrong = generator.permutation(num_images)[: num_images // 10]
    labels[wrong] = (labels[wrong] + 1) % num_classes
    return probabilities / probabilities.sum(axis=1, keepdims=True), labels, labels != true


def test_thresholds_joint_and_estimates_follow_the_definitions():
    probabilities, labels, _ = some_probabilities()
    noise = find_label_errors(probabilities, labels)
    thresholds = [probabilities[labels == j, j].mean() for j in range(4)]
    joint = np.zeros((4, 4), int)
    for row, label in zip(probabilities, labels, strict=True):
        above = [j for j in range(4) if row[j] >= thresholds[j]]
        if above:
            joint[label, max(above, key=lambda j: row[j])] += 1
    np.testing.assert_allclose(noise.thresholds, thresholds)
    np.testing.assert_array_equal(noise.confident_joint, joint)
    np.testing.assert_allclose(noise.estimated.sum(axis=1), np.bincount(labels))
    np.testing.assert_allclose(
        noise.estimated / noise.estimated.sum(axis=1, keepdims=True),
        joint / joint.sum(axis=1, keepdims=True),
    )
    assert noise.num_errors == noise.estimated.sum() - np.trace(noise.estimated)


def test_of_each_class_the_estimated_number_with_the_lowest_probability_is_pruned():
    probabilities, labels, is_wrong = some_probabilities()
    noise = find_label_errors(probabilities, labels)
    for label in range(4):
        members = labels == label
        number = round(noise.estimated[label].sum() - noise.estimated[label, label])
        pruned = noise.is_likely_wrong & members
        assert pruned.sum() == number > 0
        assert noise.quality[pruned].max() <= noise.quality[members & ~pruned].min()
    assert noise.is_likely_wrong[is_wrong].mean() > 0.8
    assert is_wrong[noise.is_likely_wrong].mean() > 0.6
    others = np.where(np.arange(4) == labels[:, np.newaxis], -1, probabilities)
    np.testing.assert_array_equal(noise.suggested, others.argmax(axis=1))


def test_correct_labels_with_certain_probabilities_are_not_doubted():
    noise = find_label_errors(np.eye(3)[[0, 1, 2, 0]], np.array([0, 1, 2, 0]))
    assert not noise.is_likely_wrong.any()
    assert noise.num_errors == 0


def test_a_class_without_images_gets_none():
    probabilities = np.array([[0.7, 0.1, 0.2], [0.1, 0.2, 0.7], [0.6, 0.2, 0.2]])
    noise = find_label_errors(probabilities, np.array([0, 2, 0]))
    assert np.isinf(noise.thresholds[1])
    assert not noise.confident_joint[1].any()
    assert not noise.confident_joint[:, 1].any()
    assert noise.num_errors == 0
