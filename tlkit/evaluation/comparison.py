"""Comparison of two models on the same images, with tests of significance."""

from dataclasses import dataclass, replace

import keras
import numpy as np
import tensorflow as tf
from scipy.stats import binomtest

from tlkit.data.class_weighting import ClassWeightLike, weighting_of
from tlkit.data.images import ImageSplit
from tlkit.errors import ArgumentError, DataError
from tlkit.evaluation.checks import check_outputs, check_targets
from tlkit.evaluation.intervals import (
    Interval,
    mean_paired_difference_interval,
    paired_difference_interval,
)
from tlkit.evaluation.names import num_classes_of
from tlkit.evaluation.outputs import collect_outputs, probabilities_from
from tlkit.evaluation.thresholds import THRESHOLD
from tlkit.models.heads import head_kind, outputs_logits
from tlkit.utils.formatting import percent
from tlkit.utils.text_repr import ShownAsParagraphs

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class ComparisonReport(ShownAsParagraphs):
    """The comparison of two models on the same images.

    Attributes:
        num_images: Number of images.
        accuracies: The accuracy of each model, 0...1.
        num_both: Number of images that both classify correctly.
        num_first: Number of images that only the first classifies correctly.
        num_second: Number of images that only the second classifies correctly.
        num_neither: Number of images that neither classifies correctly.
        difference: Accuracy of the second minus that of the first.
        interval: The 95 % confidence interval of `difference`, by Newcombe's method 10 for paired
            proportions (1998), which is based on Wilson's interval and also valid for few images.
        p_value: The two-sided p-value of McNemar's exact test: the probability that the images that
            only one model classifies correctly are divided at least as unevenly if both models are
            equally accurate.
        balanced_accuracies: Balanced accuracy of each model, 0...1: the mean recall of the classes
            that have images. `None`, like the two below, unless they were compared.
        balanced_difference: Balanced accuracy of the second minus that of the first.
        balanced_interval: The 95 % confidence interval of `balanced_difference`, paired and
            stratified by class: Newcombe's interval of each class, combined like variances (see
            `mean_paired_difference_interval`).
    """

    _derived = ("verdict", "metric")

    num_images: int
    accuracies: tuple[float, float]
    num_both: int
    num_first: int
    num_second: int
    num_neither: int
    difference: float
    interval: Interval
    p_value: float
    balanced_accuracies: tuple[float, float] | None = None
    balanced_difference: float | None = None
    balanced_interval: Interval | None = None

    @property
    def metric(self) -> str:
        """The metric of the verdict: "balanced accuracy" if it was compared, else "accuracy"."""
        return "accuracy" if self.balanced_accuracies is None else "balanced accuracy"

    @property
    def is_beyond_noise(self) -> bool:
        """Whether the difference is significant at the 5 % level.

        For accuracies by `p_value`; for balanced ones, whether 0 lies outside their interval.
        """
        if self.balanced_interval is None:
            return self.p_value < SIGNIFICANCE
        low, high = self.balanced_interval
        return not low <= 0 <= high

    @property
    def verdict(self) -> str:
        """Which model is better, as text."""
        if not self.is_beyond_noise:
            return "too close to call"
        balanced = self.balanced_difference
        difference = self.difference if balanced is None else balanced
        return "the second is better" if difference > 0 else "the first is better"

    def __str__(self) -> str:
        first, second = map(percent, self.accuracies)
        return (
            f"{self.verdict}: {self._balanced_text}accuracy {first} and {second} "
            f"(n = {self.num_images:,}), {_format_difference(self.difference, self.interval)}, "
            f"p = {self.p_value:.2g}; {self.num_first:,} correct only by the first, "
            f"{self.num_second:,} only by the second"
        )

    @property
    def _balanced_text(self) -> str:
        """The balanced accuracies as text, if they were compared."""
        if (
            self.balanced_accuracies is None
            or self.balanced_difference is None
            or self.balanced_interval is None
        ):
            return ""
        first, second = map(percent, self.balanced_accuracies)
        difference = _format_difference(self.balanced_difference, self.balanced_interval)
        return f"balanced accuracy {first} and {second}, {difference}; "


def compare_models(
    first: keras.Model,
    second: keras.Model,
    images: ImageSplit | tf.data.Dataset,
    *,
    batch_size: int | None = None,
    class_weight: ClassWeightLike = None,
) -> ComparisonReport:
    """Compares the accuracies of two models on the same images.

    Each image is decoded once. With multi-label heads an image counts as correct if all its labels
    are. The comparison is meaningless if one of the models was trained on these images.

    Args:
        first: A model from pixels 0...255 to logits or probabilities, such as a linear probe.
        second: A model for the same classes in the same order, such as the fine-tuned one.
        images: A split that neither model was trained or selected on; or a dataset of batches
            `(images, labels)`.
        batch_size: Images per forward pass; for a split only.
        class_weight: "balanced" for models that were trained with it: the verdict is then by the
            balanced accuracy, in which every class has the same weight.

    Raises:
        ArgumentError: If the models have different numbers of classes, or only one is multi-label;
            if models and images do not fit; if `class_weight` does not give all classes the same
            weight, or is given for multi-label models.
        DataError: If there are no images; if labels are not among the classes.

    Example:
        >>> import keras, tensorflow as tf, tlkit
        >>> from tlkit.evaluation.comparison import compare_models
        >>> def constant(logits):
        ...     return keras.Sequential([
        ...         keras.Input((2, 2, 3)), keras.layers.Flatten(),
        ...         keras.layers.Dense(2, bias_initializer=lambda *_, **__: logits)])
        >>> dataset = tf.data.Dataset.from_tensor_slices((tf.zeros((9, 2, 2, 3)), [1] * 9))
        >>> report = compare_models(constant([1, 0]), constant([0, 1]), dataset.batch(4))
        >>> report.verdict, report.num_second, round(report.p_value, 4)
        ('the second is better', 9, 0.0039)
    """
    sizes = num_classes_of(first), num_classes_of(second)
    kinds = head_kind(first), head_kind(second)
    if sizes[0] != sizes[1] or (kinds[0] == "multi_label") != (kinds[1] == "multi_label"):
        raise ArgumentError(
            "`second` must have the same classes as `first`. Received: heads of the kinds "
            f"{kinds[0]!r} with {sizes[0]} classes and {kinds[1]!r} with {sizes[1]}. "
            "Compare models for the same data."
        )
    weighting = weighting_of(class_weight)
    if not weighting.is_plain:
        if not weighting.is_balanced:
            raise ArgumentError(
                "`class_weight` must be 'balanced' or None: the interval is that of a mean over "
                f"images or over classes. Received: {weighting}. Use 'balanced'."
            )
        if kinds[0] == "multi_label":
            raise ArgumentError(
                "`class_weight` must be None for multi-label models. "
                f"Received: class_weight={class_weight!r}. Leave it out."
            )
    outputs, labels = collect_outputs(
        [first, second], images, batch_size=batch_size, description="comparison"
    )
    is_correct = [
        _is_correct(one, labels, model) for one, model in zip(outputs, (first, second), strict=True)
    ]
    targets = None
    if not weighting.is_plain:
        targets = check_targets(labels, kinds[0], len(labels), sizes[0])
    return compare_outcomes(is_correct[0], is_correct[1], targets)


def compare_outcomes(
    first: np.ndarray, second: np.ndarray, labels: np.ndarray | None = None
) -> ComparisonReport:
    """Compares two models by which of the same images each classifies correctly.

    McNemar's test is the exact one (binomial, two-sided) for any number of images. It always tests
    the plain accuracy, even if the balanced one is compared.

    Args:
        first: Whether the first model classifies each image correctly, bool `(n,)`.
        second: The same for the second model.
        labels: The class of each image, whole numbers `(n,)`, to compare the balanced accuracy.

    Raises:
        ArgumentError: If the lengths differ, or `labels` are not whole numbers.
        DataError: If there are no images.

    Example:
        >>> import numpy as np
        >>> from tlkit.evaluation.comparison import compare_outcomes
        >>> first, second = np.arange(100) < 82, np.arange(100) >= 10
        >>> report = compare_outcomes(first, second)
        >>> report.num_first, report.num_second, report.verdict
        (10, 18, 'too close to call')
        >>> report = compare_outcomes(first, second, labels=(np.arange(100) >= 82).astype(int))
        >>> [round(value, 3) for value in report.balanced_accuracies], report.verdict
        ([0.5, 0.939], 'the second is better')

    Reference:
        McNemar (1947), https://doi.org/10.1007/BF02295996; Dietterich (1998), section 2,
        https://doi.org/10.1162/089976698300017197, on comparing classifiers with it.
    """
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    if first.shape != second.shape or first.ndim != 1:
        raise ArgumentError(
            "`second` must have one value for each image, as `first` has. "
            f"Received: arrays of the shapes {first.shape} and {second.shape}. Evaluate both "
            "models on the same images."
        )
    if not len(first):
        raise DataError("`images` must contain at least one image. Received: none. Add images.")
    num_both, num_first = int((first & second).sum()), int((first & ~second).sum())
    num_second, num_neither = int((~first & second).sum()), int((~first & ~second).sum())
    num_discordant = num_first + num_second
    report = ComparisonReport(
        num_images=len(first),
        accuracies=(float(first.mean()), float(second.mean())),
        num_both=num_both,
        num_first=num_first,
        num_second=num_second,
        num_neither=num_neither,
        difference=(num_second - num_first) / len(first),
        interval=paired_difference_interval(num_both, num_second, num_first, num_neither),
        p_value=float(binomtest(num_first, num_discordant).pvalue) if num_discordant else 1.0,
    )
    return report if labels is None else _add_balanced_figures(report, first, second, labels)


def _add_balanced_figures(
    report: ComparisonReport, first: np.ndarray, second: np.ndarray, labels: np.ndarray
) -> ComparisonReport:
    """Returns the report with the figures on balanced accuracy."""
    labels = np.asarray(labels)
    if labels.shape != first.shape or not np.issubdtype(labels.dtype, np.integer):
        raise ArgumentError(
            f"`labels` must be {len(first)} whole numbers, the class of each image. Received: "
            f"an array of {labels.dtype} of the shape {labels.shape}. Leave `labels` out to "
            "compare plain accuracies."
        )
    members = [labels == label for label in np.unique(labels)]
    recalls = np.array(
        [(first[is_member].mean(), second[is_member].mean()) for is_member in members]
    )
    outcomes = (first & second, ~first & second, first & ~second, ~first & ~second)
    first_mean, second_mean = recalls.mean(axis=0).tolist()
    return replace(
        report,
        balanced_accuracies=(first_mean, second_mean),
        balanced_difference=second_mean - first_mean,
        balanced_interval=mean_paired_difference_interval(
            [[int(one[is_member].sum()) for one in outcomes] for is_member in members]
        ),
    )


def _format_difference(difference: float, interval: Interval) -> str:
    low, high = (100 * end for end in interval)
    return f"difference {100 * difference:+.1f} points (95 % CI {low:+.1f} to {high:+.1f})"


def _is_correct(outputs: np.ndarray, labels: np.ndarray, model: keras.Model) -> np.ndarray:
    kind, from_logits = head_kind(model), outputs_logits(model)
    num_classes = num_classes_of(model)
    check_outputs(outputs, outputs.shape[1], kind)
    targets = check_targets(labels, kind, len(outputs), num_classes)
    probabilities = probabilities_from(outputs, kind, from_logits)
    if kind == "multi_label":
        return ((probabilities >= THRESHOLD) == (targets == 1)).all(axis=1)
    return probabilities.argmax(axis=1) == targets
