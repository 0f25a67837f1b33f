"""Two models on the same images: is one better, beyond noise?"""

from dataclasses import dataclass, replace

import keras
import numpy as np
import tensorflow as tf
from scipy.stats import binomtest

from tlkit.data.images import ImageSplit
from tlkit.errors import ArgumentError, DataError, check_choice
from tlkit.evaluation.checks import check_outputs, check_targets
from tlkit.evaluation.intervals import (
    Interval,
    mean_paired_difference_interval,
    paired_difference_interval,
)
from tlkit.evaluation.names import num_classes_of
from tlkit.evaluation.outputs import THRESHOLD, collect_outputs, probabilities_from
from tlkit.models.heads import head_kind, outputs_logits
from tlkit.utils.formatting import percent
from tlkit.utils.text_repr import ShownAsParagraphs

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class ComparisonReport(ShownAsParagraphs):
    """How two models fare on the same images.

    Attributes:
        num_images: Number of images.
        accuracies: Share of the images that each model gets right, 0...1.
        num_both: Images that both get right.
        num_first: Images that only the first gets right.
        num_second: Images that only the second gets right.
        num_neither: Images that neither gets right.
        difference: Accuracy of the second minus that of the first.
        interval: Its 95 % interval, by Newcombe's method 10 for paired shares (1998); it is built
            on Wilson's, and serves few images as that does.
        p_value: Of McNemar's exact test, two-sided: how often chance alone would split the images
            that only one gets right as unevenly, if both models were equally good.
        balanced_accuracies: Balanced accuracy of each model, 0...1: the mean recall of the classes
            that have images. `None`, like the two below, where the plain accuracy counts.
        balanced_difference: That of the second minus that of the first.
        balanced_interval: Its 95 % interval, paired and stratified by class: Newcombe's of each
            class, put together as variances are (see `mean_paired_difference_interval`).
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
        """What the verdict goes by: "accuracy" or, where it was compared, "balanced accuracy"."""
        return "accuracy" if self.balanced_accuracies is None else "balanced accuracy"

    @property
    def is_beyond_noise(self) -> bool:
        """Whether chance alone would show such a difference in fewer than 5 % of cases.

        Of accuracies by `p_value`; of balanced ones it is whether 0 lies outside their interval.
        """
        if self.balanced_interval is None:
            return self.p_value < SIGNIFICANCE
        low, high = self.balanced_interval
        return not low <= 0 <= high

    @property
    def verdict(self) -> str:
        """Which model is better, in words."""
        if not self.is_beyond_noise:
            return "too close to call"
        balanced = self.balanced_difference
        decisive = self.difference if balanced is None else balanced
        return "the second is better" if decisive > 0 else "the first is better"

    def __str__(self) -> str:
        first, second = map(percent, self.accuracies)
        return (
            f"{self.verdict}{self._balanced}: {first} and {second} of "
            f"{self.num_images:,} images, {_in_points(self.difference, self.interval)}, "
            f"p = {self.p_value:.2g}; only the first is right on "
            f"{self.num_first:,}, only the second on {self.num_second:,}"
        )

    @property
    def _balanced(self) -> str:
        """The balanced accuracies in words, where it is they that count."""
        if (
            self.balanced_accuracies is None
            or self.balanced_difference is None
            or self.balanced_interval is None
        ):
            return ""
        first, second = map(percent, self.balanced_accuracies)
        difference = _in_points(self.balanced_difference, self.balanced_interval)
        return f" by balanced accuracy, {first} and {second}, {difference}; accuracy"


def compare_models(
    first: keras.Model,
    second: keras.Model,
    images: ImageSplit | tf.data.Dataset,
    *,
    batch_size: int | None = None,
    class_weight: str | None = None,
) -> ComparisonReport:
    """Says whether one of two models is better on the same images, beyond noise.

    Each image is decoded once. With multi-label heads an image counts as right where every label
    is. Where one model was trained on these images, the comparison says nothing.

    Args:
        first: From pixels 0...255 to logits or probabilities; such as a linear probe.
        second: For the same classes in the same order; such as the probe after fine-tuning.
        images: A split that neither was trained or chosen on; or a dataset of batches
            `(images, labels)`.
        batch_size: Images in one forward pass; for a split only.
        class_weight: "balanced" for models that were trained so: the verdict then goes by the
            balanced accuracy, in which every class counts the same.

    Raises:
        ArgumentError: If the models are for different numbers of classes, or one gives several
            labels and the other does not; if models and images do not fit; if `class_weight` is
            something else, or given where an image may have several labels.
        DataError: If there is no image; if labels are not among the classes.

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
            "`second` must be for the same classes as `first`. Received: heads of the kinds "
            f"{kinds[0]!r} with {sizes[0]} classes and {kinds[1]!r} with {sizes[1]}. "
            "Compare models of the same data."
        )
    if class_weight is not None:
        check_choice("class_weight", class_weight, ["balanced"])
        if kinds[0] == "multi_label":
            raise ArgumentError(
                "`class_weight` must be None where an image may have several labels. "
                f"Received: class_weight={class_weight!r}. Leave it out."
            )
    outputs, labels = collect_outputs(
        [first, second], images, batch_size=batch_size, description="comparison"
    )
    is_right = [
        _is_right(one, labels, model) for one, model in zip(outputs, (first, second), strict=True)
    ]
    targets = None
    if class_weight is not None:
        targets = check_targets(labels, kinds[0], len(labels), sizes[0])
    return compare_outcomes(is_right[0], is_right[1], targets)


def compare_outcomes(
    first: np.ndarray, second: np.ndarray, labels: np.ndarray | None = None
) -> ComparisonReport:
    """Compares two models by which of the same images each gets right.

    McNemar's test is the exact one (binomial, two-sided) at any number of images. It is of the
    plain accuracy, also where the balanced one counts.

    Args:
        first: Whether the first model gets each image right, bool `(n,)`.
        second: The same of the second.
        labels: The class of each image, whole numbers `(n,)`, where the balanced accuracy is what
            counts; else left out.

    Raises:
        ArgumentError: If they are of different lengths, or `labels` are no whole numbers.
        DataError: If there is no image.

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
        https://doi.org/10.1162/089976698300017197, on comparing classifiers by it.
    """
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    if first.shape != second.shape or first.ndim != 1:
        raise ArgumentError(
            "`second` must say of the same images as `first` whether they are right. "
            f"Received: arrays of the shapes {first.shape} and {second.shape}."
        )
    if not len(first):
        raise DataError("`images` must hold at least one image. Received: none.")
    num_both, num_first = int((first & second).sum()), int((first & ~second).sum())
    num_second, num_neither = int((~first & second).sum()), int((~first & ~second).sum())
    num_apart = num_first + num_second
    report = ComparisonReport(
        num_images=len(first),
        accuracies=(float(first.mean()), float(second.mean())),
        num_both=num_both,
        num_first=num_first,
        num_second=num_second,
        num_neither=num_neither,
        difference=(num_second - num_first) / len(first),
        interval=paired_difference_interval(num_both, num_second, num_first, num_neither),
        p_value=float(binomtest(num_first, num_apart).pvalue) if num_apart else 1.0,
    )
    return report if labels is None else _with_balanced_figures(report, first, second, labels)


def _with_balanced_figures(
    report: ComparisonReport, first: np.ndarray, second: np.ndarray, labels: np.ndarray
) -> ComparisonReport:
    """The report with the figures in which every class counts the same."""
    labels = np.asarray(labels)
    if labels.shape != first.shape or not np.issubdtype(labels.dtype, np.integer):
        raise ArgumentError(
            f"`labels` must be {len(first)} whole numbers, the class of each image. Received: "
            f"an array of {labels.dtype} of the shape {labels.shape}. Leave them out to compare "
            "plain accuracies."
        )
    members = [labels == label for label in np.unique(labels)]
    recalls = np.array([(first[own].mean(), second[own].mean()) for own in members])
    outcomes = (first & second, ~first & second, first & ~second, ~first & ~second)
    before, after = recalls.mean(axis=0).tolist()
    return replace(
        report,
        balanced_accuracies=(before, after),
        balanced_difference=after - before,
        balanced_interval=mean_paired_difference_interval(
            [[int(one[own].sum()) for one in outcomes] for own in members]
        ),
    )


def _in_points(difference: float, interval: Interval) -> str:
    low, high = (100 * end for end in interval)
    return f"difference {100 * difference:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"


def _is_right(outputs: np.ndarray, labels: np.ndarray, model: keras.Model) -> np.ndarray:
    kind, from_logits = head_kind(model), outputs_logits(model)
    num_classes = num_classes_of(model)
    check_outputs(outputs, outputs.shape[1], kind)
    targets = check_targets(labels, kind, len(outputs), num_classes)
    shares = probabilities_from(outputs, kind, from_logits)
    if kind == "multi_label":
        return ((shares >= THRESHOLD) == (targets == 1)).all(axis=1)
    return shares.argmax(axis=1) == targets
