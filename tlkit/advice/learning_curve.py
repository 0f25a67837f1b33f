"""The learning curve: what twice as many training images would bring."""

import os
from dataclasses import dataclass

import keras
import numpy as np

from tlkit.advice.power_law import PowerLaw, fit_power_law
from tlkit.advice.subset_heads import CurveTask, SubsetAccuracies, measure_subsets
from tlkit.advice.subsets import nested_folds, nested_rows
from tlkit.data.class_weighting import ClassWeighting, ClassWeightLike, weighting_of
from tlkit.data.images import ImageData, ImageSplit
from tlkit.errors import ArgumentError, check_seed
from tlkit.evaluation.intervals import Interval
from tlkit.models.flattening import below
from tlkit.models.heads import feature_cut
from tlkit.training.checks import check_class_weight
from tlkit.training.criterion import plain_labels
from tlkit.training.features import extract_features
from tlkit.training.frozen import FrozenPart
from tlkit.training.labelled import LabelledFeatures
from tlkit.training.linear import MIN_VALIDATION
from tlkit.training.sources import source_of
from tlkit.utils.formatting import percent
from tlkit.utils.text_repr import ShownAsText, html_paragraphs, html_table

LEVEL = 0.8
"""Probability with which the true gain should be in the interval."""

MIN_PER_CLASS = 10
"""Minimum number of training images of each class, of different groups."""

MIN_IMAGES = 40
"""Minimum number of training images, of different groups."""

MAX_IMAGES = 50_000
"""Number of training images that are drawn from more than that."""

MAX_CROSS_VALIDATED, MAX_TESTED = 5000, 5000
"""The same in cross-validation, and of validation images."""

FRACTIONS = (0.25, 0.5, 0.75, 1.0)
NUM_DRAWS = 3

LUCK = 0.1
"""Variance of the gain of one set of n images and n others around its mean over all such sets, as a
multiple of e (1 - e) / n, e the error. Chosen so that the intervals of predicted gains are wide
enough on classes of CIFAR-100, see benchmarks/README.md."""

_NUM_FOLDS, _NUM_FORECAST = 5, 12


@dataclass(frozen=True)
class CurvePoint:
    """The accuracy with a number of training images.

    Attributes:
        num_images: The number of training images.
        accuracy: 0...1.
        error: Standard error of a measured accuracy.
        interval: 80 % interval of an extrapolated accuracy.
    """

    num_images: int
    accuracy: float
    error: float | None = None
    interval: Interval | None = None


@dataclass(frozen=True)
class LearningCurveReport(ShownAsText):
    """The accuracy against the number of training images, and its extrapolation.

    Attributes:
        num_images: Number of training images, n.
        measured: The measured accuracies, by ascending number of images; empty if there are too
            few images.
        forecast: The accuracies of the fitted power laws, from the smallest number measured to 2n.
        gain: Expected gain in accuracy with 2n instead of n images, 0...1; `None` if it was not
            measured.
        gain_interval: 80 % interval of the gain, `None` likewise.
        metric: "accuracy", "balanced accuracy" or "weighted accuracy"; of label decisions with
            several labels.
        num_tested: Number of held-out images that the accuracies were measured on.
        tested_on: These images in words.
        why_not: Why nothing was measured; "" if it was.
        notes: Further notes.
    """

    num_images: int
    measured: tuple[CurvePoint, ...] = ()
    forecast: tuple[CurvePoint, ...] = ()
    gain: float | None = None
    gain_interval: Interval | None = None
    metric: str = "accuracy"
    num_tested: int = 0
    tested_on: str = ""
    why_not: str = ""
    notes: tuple[str, ...] = ()

    @property
    def headline(self) -> str:
        """The gain of twice as many images, or why it is unknown, in one sentence."""
        if self.gain is None or self.gain_interval is None:
            return f"what more images would bring is unknown: {self.why_not}"
        low, high = (100 * end for end in self.gain_interval)
        return (
            f"twice as many training images would bring about {100 * self.gain:+.1f} points of "
            f"{self.metric} (80 % interval {low:.1f} to {high:.1f}), estimated with a head on the "
            "features of the backbone"
        )

    @property
    def table(self) -> tuple[tuple[str, ...], ...]:
        """The measured and the extrapolated accuracies as text, with a row of headings."""
        rows = [
            (f"{one.num_images:,}", percent(one.accuracy), f"± {percent(one.error or 0.0)}")
            for one in self.measured
        ]
        for one in self.forecast:
            if one.num_images in (self.num_images, 2 * self.num_images) and one.interval:
                low, high = (100 * end for end in one.interval)
                rows.append(
                    (
                        f"{one.num_images:,} (extrapolated)",
                        percent(one.accuracy),
                        f"{low:.1f} to {high:.1f} %",
                    )
                )
        return (("training images", self.metric, "standard error or 80 % interval"), *rows)

    def __str__(self) -> str:
        lines = [self.headline]
        if self.measured:
            lines += ["  ".join(row) for row in self.table[1:]]
            lines.append(f"tested on {self.num_tested:,} {self.tested_on}")
        return "\n".join([*lines, *self.notes])

    def _repr_html_(self) -> str:
        if not self.measured:
            return html_paragraphs([self.headline, *self.notes])
        tested = f"Tested on {self.num_tested:,} {self.tested_on}."
        headings, *rows = self.table
        return (
            html_paragraphs([self.headline])
            + html_table(headings, rows)
            + html_paragraphs([tested, *self.notes])
        )


def learning_curve(
    model: keras.Model,
    data: ImageData,
    *,
    class_weight: ClassWeightLike = None,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
) -> LearningCurveReport:
    """Estimates how much more accurate twice as many training images would make a head.

    The backbone computes the features of each image once; they are stored where `train_head` stores
    them. A head in closed form is solved on a quarter, a half, three quarters and all of the
    training images, drawn at random by class, several times, and tested on images held out from it:
    on the validation images if there are at least 300, else in five-fold cross-validation, in which
    "all" are four fifths of the training images. Power laws are fitted to the accuracies, see
    `tlkit.advice.power_law.fit_power_law`, and extrapolated to twice as many images. The interval
    of the gain takes account of the images tested on, of the draws, of the power laws that agree
    with them, and of the luck of one set of new images (`LUCK`). Neither test images nor groups
    that the head was solved on are tested on.

    It assumes that the new images are like the old ones. A fine-tuned model may gain more or less
    than a head. The backbone must not have been trained on these images, as it then separates the
    training images too well: give a model before `fine_tune`.

    Args:
        model: A classifier; only the layers below its head are used, and it is not changed.
        data: The result of `load_folder`, `load_arrays` or `load_tfds`.
        class_weight: How classes count, also in the accuracy, see `tlkit.ClassWeighting`; with
            several labels per image, all images count the same here, and a note says so.
        seed: Seed of folds and subsets.
        cache: Folder of the feature stores; tlkit's cache by default.

    Returns:
        The curve. With fewer than 40 training images, or fewer than ten of a class (of different
        groups, if there are any), it holds only the reason why nothing was measured.

    Raises:
        ArgumentError: An argument is invalid, or data and model do not fit.

    Example:
        >>> import numpy as np, tlkit
        >>> labels = np.arange(60) % 2
        >>> images = np.random.default_rng(0).integers(0, 99, (60, 32, 32, 3), "uint8")
        >>> images[labels == 1, :, :, 0] += 100
        >>> data = tlkit.load_arrays(images, labels, ["grey", "red"])
        >>> model = tlkit.build_classifier("resnet20", data.class_names, weights=None)
        >>> round(tlkit.learning_curve(model, data).gain, 2)
        0.0

    Reference:
        Hestness et al. (2017), https://arxiv.org/abs/1712.00409, for the power law.
    """
    if not isinstance(data, ImageData):
        raise ArgumentError(
            "`data` must be the result of load_folder, load_arrays or load_tfds. "
            f"Received: data of type {type(data).__name__}. Load the images first."
        )
    check_seed(seed)
    weighting = check_class_weight(weighting_of(class_weight), model, data)
    source_of(model, data, None)  # checks that they fit
    part = FrozenPart(below(model, feature_cut(model)))

    def rows_of(split: ImageSplit, exact: bool) -> LabelledFeatures:
        features = extract_features(part, split, exact=exact, cache=cache)
        labelled = features.labelled()
        matrix = labelled.features.reshape(len(labelled), -1)
        return LabelledFeatures(matrix, plain_labels(labelled.labels, model), labelled.groups)

    if why_not := _why_not(data):
        return LearningCurveReport(data.train.num_images, why_not=why_not)
    held_out = None
    if data.validation is not None and data.validation.num_images >= MIN_VALIDATION:
        held_out = rows_of(data.validation, True)
    return curve_of_features(rows_of(data.train, False), held_out, weighting=weighting, seed=seed)


def curve_of_features(
    train: LabelledFeatures,
    held_out: LabelledFeatures | None = None,
    *,
    weighting: ClassWeighting | None = None,
    seed: int = 0,
) -> LearningCurveReport:
    """Returns the learning curve of a head on features, see `learning_curve`.

    Args:
        train: The training images, `MIN_PER_CLASS` or more of each class.
        held_out: Images to test on; `None` for cross-validation.
        weighting: How classes count; `None` if all images count the same.
        seed: Seed of folds and subsets.

    Example:
        >>> import numpy as np
        >>> from tlkit.advice.learning_curve import curve_of_features
        >>> from tlkit.training.labelled import LabelledFeatures
        >>> labels = np.arange(80) % 2
        >>> features = np.random.default_rng(0).normal(size=(80, 5)) + 9 * labels[:, np.newaxis]
        >>> curve_of_features(LabelledFeatures(features, labels)).measured[0].accuracy
        1.0
    """
    weighting = ClassWeighting() if weighting is None else weighting
    num_images = len(train)
    generator = np.random.default_rng(seed)
    notes = []
    if train.labels.ndim == 2 and not weighting.is_plain:
        weighting = ClassWeighting()
        notes.append("measured without the class weights, which are those of each label")
    limit = MAX_CROSS_VALIDATED if held_out is None else MAX_IMAGES
    if num_images > limit:
        drawn = nested_rows(train, np.arange(num_images), np.arange(0), generator)
        train = train[drawn.train[: drawn.sizes([limit])[0]]]
        notes.append(f"measured on {len(train):,} of the {num_images:,} training images")
    draws = []
    for _ in range(NUM_DRAWS if len(train) <= MAX_CROSS_VALIDATED else 1):
        if held_out is None:
            draws.append(nested_folds(train, _NUM_FOLDS, generator))
            continue
        tested = np.arange(min(len(held_out), MAX_TESTED)) + len(train)
        draws.append([nested_rows(train, np.arange(len(train)), tested, generator)])
    rows = train
    tested_on = f"training images, in {_NUM_FOLDS}-fold cross-validation"
    if held_out is not None:
        order = generator.permutation(len(held_out))
        rows, tested_on = _joined(train, held_out[order]), "validation images"
    largest = min(len(fold.train) for folds in draws for fold in folds)
    numbers = np.array([fraction * largest for fraction in FRACTIONS])
    found = measure_subsets(CurveTask(rows, draws, numbers, weighting))
    errors, covariance = errors_of(found, rows, weighting)
    law = fit_power_law(found.sizes, errors, covariance)
    now = law.errors_at(num_images)
    gains, error = now - law.errors_at(2 * num_images), law.mean(now)
    luck = float(np.sqrt(LUCK * error * (1 - error) / num_images))
    low, high = law.interval(gains, LEVEL, luck)
    return LearningCurveReport(
        num_images,
        measured=tuple(
            CurvePoint(round(size), 1 - error, float(np.sqrt(variance)))
            for size, error, variance in zip(
                found.sizes, errors.tolist(), np.diag(covariance), strict=True
            )
        ),
        forecast=_forecast(law, found.sizes[0], num_images),
        gain=law.mean(gains),
        gain_interval=(max(low, 0.0), high),
        metric=weighting.criterion,
        num_tested=len(found.test),
        tested_on=tested_on,
        notes=tuple(notes),
    )


def errors_of(
    found: SubsetAccuracies, rows: LabelledFeatures, weighting: ClassWeighting
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the error with each number of images, `(k,)`, and their covariance, `(k, k)`.

    The covariance is the sum of that over the test images (whose groups count as one) and of that
    over the draws, each of a mean. With no error at all, one image counts as half an error.

    Args:
        found: The accuracies of all test images.
        rows: The labels and groups of all rows.
        weighting: How classes count.
    """
    weights = np.ones(len(found.test))
    if not weighting.is_plain:
        weights = weighting.decision_weights(rows.labels[found.test])
    weights = weights / weights.sum()
    of_draws = (1 - found.accuracies) @ weights
    errors = of_draws.mean(axis=0)
    deviations = weights * (1 - found.accuracies.mean(axis=0) - errors[:, np.newaxis])
    _, groups = np.unique(rows.own_groups[found.test], return_inverse=True)
    of_groups = np.stack([np.bincount(groups, row) for row in deviations])
    covariance = of_groups @ of_groups.T + np.eye(len(errors)) * (weights.max() / 2) ** 2
    if len(of_draws) > 1:
        covariance += np.cov(of_draws.T) / len(of_draws)
    return errors, covariance


def _forecast(law: PowerLaw, first: float, num_images: int) -> tuple[CurvePoint, ...]:
    """Returns accuracies from `first` to twice `num_images` images, and those with both."""
    numbers = np.geomspace(first, 2 * num_images, _NUM_FORECAST).round().astype(np.int64)
    accuracies = {
        number: 1 - law.errors_at(number)
        for number in np.unique([*numbers, num_images, 2 * num_images]).tolist()
    }
    return tuple(
        CurvePoint(number, law.mean(values), interval=law.interval(values, LEVEL))
        for number, values in accuracies.items()
    )


def _joined(train: LabelledFeatures, held_out: LabelledFeatures) -> LabelledFeatures:
    """Returns all rows, without two groups of the same number in both."""
    groups = np.concatenate([train.own_groups, held_out.own_groups + train.own_groups.max() + 1])
    return LabelledFeatures(
        np.concatenate([train.features, held_out.features]),
        np.concatenate([train.labels, held_out.labels]),
        groups,
    )


def _why_not(data: ImageData) -> str:
    """Returns why a learning curve cannot be measured, else ""."""
    train = data.train
    num_units, what = len(set(train.group_keys)), train.independent
    if num_units < MIN_IMAGES:
        return f"too few images: {num_units} {what} for training, and it needs {MIN_IMAGES}"
    if data.is_multi_label:
        return ""
    counts = train.independent_counts(data.num_classes)
    for name, count in zip(data.class_names, counts, strict=True):
        if count < MIN_PER_CLASS:
            return (
                f"too few images: class {name!r} has {count} {what} for training, and it needs "
                f"{MIN_PER_CLASS}"
            )
    return ""
