"""Confident learning: which labels are likely wrong, by out-of-fold probabilities."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class LabelNoise:
    """The estimated noise of labels.

    Attributes:
        thresholds: For each class the mean probability of the class on images labelled as it,
            `(num_classes,)`; infinite for a class without images.
        confident_joint: Number of images by label (rows) and by the class that they confidently
            belong to, `(num_classes, num_classes)`.
        estimated: Estimated number of all images by label (rows) and true class, likewise; rows sum
            to the number of images with the label.
        quality: Probability of each image's own label, 0...1, `(n,)`: its self-confidence.
        suggested: The most probable of the other classes of each image, `(n,)`.
        is_likely_wrong: Whether each image is among those of its class that are pruned, `(n,)`.
    """

    thresholds: np.ndarray
    confident_joint: np.ndarray
    estimated: np.ndarray
    quality: np.ndarray
    suggested: np.ndarray
    is_likely_wrong: np.ndarray

    @property
    def num_errors(self) -> float:
        """The estimated number of wrong labels."""
        return float(self.estimated.sum() - np.trace(self.estimated))


def find_label_errors(probabilities: np.ndarray, labels: np.ndarray) -> LabelNoise:
    """Finds labels that are likely wrong.

    An image confidently belongs to a class if the probability of the class is at least the mean
    over the images labelled as it; to the most probable one of several. The counts of labels and
    such classes, scaled to the number of images with each label, estimate how many labels are
    wrong. Of each class, so many images are likely wrong: those with the lowest probability of
    their label ("prune by class").

    Args:
        probabilities: Probabilities of each image by a model that was not trained on it,
            `(n, num_classes)`.
        labels: The labels, whole numbers from 0 to `num_classes - 1`, `(n,)`.

    Example:
        >>> import numpy as np
        >>> from tlkit.advice.confident_learning import find_label_errors
        >>> probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8]])
        >>> noise = find_label_errors(probabilities, np.array([0, 0, 0, 1]))
        >>> noise.is_likely_wrong.tolist(), noise.confident_joint.tolist()
        ([False, False, True, False], [[2, 1], [0, 1]])

    Reference:
        Northcutt, Jiang and Chuang (2021), Confident Learning: Estimating Uncertainty in Dataset
        Labels, https://arxiv.org/abs/1911.00068: equations 1 to 3, and method 3 of section 3.2.
    """
    num_images, num_classes = probabilities.shape
    rows = np.arange(num_images)
    counts = np.bincount(labels, minlength=num_classes)
    sums = np.bincount(labels, probabilities[rows, labels], minlength=num_classes)
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    belongs = np.flatnonzero(confident.max(axis=1) >= 0)
    joint = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(joint, (labels[belongs], confident[belongs].argmax(axis=1)), 1)
    of_label = joint.sum(axis=1, keepdims=True)
    # of a class without confident images nothing is known: its labels count as correct
    fractions = np.where(of_label > 0, joint / np.maximum(of_label, 1), np.eye(num_classes))
    estimated = fractions * counts[:, np.newaxis]
    quality = probabilities[rows, labels]
    others = probabilities.copy()
    others[rows, labels] = -1.0
    is_likely_wrong = np.zeros(num_images, bool)
    for label in range(num_classes):
        members = np.flatnonzero(labels == label)
        number = round(float(estimated[label].sum() - estimated[label, label]))
        is_likely_wrong[members[np.argsort(quality[members], kind="stable")[:number]]] = True
    return LabelNoise(thresholds, joint, estimated, quality, others.argmax(axis=1), is_likely_wrong)
