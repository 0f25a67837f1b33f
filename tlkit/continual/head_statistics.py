"""Sums over features of every image ever learned, from which a head for all classes is solved."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import numpy as np
from threadpoolctl import threadpool_limits

from tlkit.data.class_weighting import ClassWeightLike, weighting_of
from tlkit.errors import ArgumentError, DataError
from tlkit.evaluation.calibration import best_factor
from tlkit.models.kernel_head import KernelMap
from tlkit.training.closed_form import (
    DEFAULT_FACTOR,
    DEFAULT_PENALTY,
    LOG_FACTORS,
    PENALTIES,
    penalty_matrix,
)
from tlkit.training.linear import first_minimum, standardisation
from tlkit.training.sums import RegressionRows, Sums, sums_of, with_one
from tlkit.utils.text_repr import ShownAsText, in_line

NUM_FOLDS = 5
_PARTS = (1, 2, 4)
"""All landmarks, half and a quarter of them are compared."""

SHARPNESS = 1.0
"""Smoother kernels have larger weights that cancel: with 0.25, float32 logits differ from those in
float64 by 8.6e-4, with 1 by 4.9e-5; it is 0.7 points less accurate (CIFAR-100, `resnet20`)."""


@dataclass(frozen=True, eq=False)
class DescribedImages:
    """Features of some images, with their classes and digests.

    Attributes:
        features: `(n, num_features)`.
        labels: Positions in the classes of the statistics, int64 `(n,)`.
        digests: The digest of each image's content.
        paths: The path of each image, for messages; empty if they are named by their digests.
    """

    features: np.ndarray
    labels: np.ndarray
    digests: Sequence[str]
    paths: Sequence[str] = ()

    def name_of(self, row: int) -> str:
        """Returns what an image is called in messages."""
        return repr(self.paths[row]) if self.paths else f"the digest {self.digests[row]}"


@dataclass(frozen=True, eq=False)
class ExactHead(ShownAsText):
    """A head that is solved from statistics.

    Attributes:
        statistics: What it is solved from, with its factor.
        kernel_map: The map from features to kernel values: that of the statistics, or its first
            landmarks.
        kernel: `(num_landmarks, num_classes)`, from kernel values to logits, float32.
        bias: `(num_classes,)`, float32.
        note: How it was solved.
    """

    _left_out = ("statistics", "kernel_map", "kernel", "bias")

    statistics: "HeadStatistics"
    kernel_map: KernelMap
    kernel: np.ndarray
    bias: np.ndarray
    note: str

    def __str__(self) -> str:
        return f"head of {len(self.bias)} classes, {self.note}"


@dataclass(frozen=True, eq=False)
class HeadStatistics(ShownAsText):
    """Sums over the features of all images learned so far; they hold no image and no feature.

    They determine a head in closed form, see `solve`, and images can be added to and removed from
    them in any order: the head is the one that all remaining images together give, up to rounding
    in float64. The map of features is fixed when the first images come; its landmarks are random
    directions and do not depend on images. Its mean and scale are those of the first images'
    features. One number is not exact: the factor of the logits, the inverse of a temperature, which
    changes no predicted class. It is fitted to the images at hand whenever a head is solved.

    What they reveal: the number of images of each class, the mean kernel values of each class, the
    covariance of kernel values over all images, and, by the digests, whether a given file was
    among them.

    Attributes:
        class_names: The classes, in the order of the outputs.
        kernel_map: The map from features to kernel values.
        signature: Signature of the network that computes the features from pixels.
        folds: The sums of the images of each fold; an image's fold follows from its digest.
        images: The class of each image, by its digest.
        factor: The factor of the logits that was fitted last.
    """

    _left_out = ("kernel_map", "folds", "images")
    _derived = ("counts",)

    class_names: tuple[str, ...]
    kernel_map: KernelMap
    signature: str
    folds: tuple[Sums, ...]
    images: Mapping[str, int]
    factor: float = DEFAULT_FACTOR

    def __str__(self) -> str:
        lines = [
            f"statistics of {len(self.images):,} images of {len(self.class_names)} classes, "
            f"{self._width:,} landmarks"
        ]
        pairs = zip(self.class_names, self.counts, strict=False)
        return "\n".join([*lines, *(f"  {in_line(name)}: {count:,}" for name, count in pairs)])

    @property
    def counts(self) -> np.ndarray:
        """The number of images of each class, int64 `(num_classes,)`."""
        return np.bincount([*self.images.values()], minlength=len(self.class_names))

    def with_classes(self, new_names: Sequence[str]) -> "HeadStatistics":
        """Returns the statistics with further classes, which have no image yet.

        Raises:
            ArgumentError: A class is there already.
        """
        names = (*self.class_names, *new_names)
        if len(set(names)) < len(names):
            raise ArgumentError(
                "`new_names` must be new, each once. "
                f"Received: {', '.join(map(repr, new_names))}, besides "
                f"{', '.join(map(repr, self.class_names))}. Leave out those that are there."
            )
        folds = tuple(
            replace(fold, cross=np.pad(fold.cross, ((0, 0), (0, len(new_names)))))
            for fold in self.folds
        )
        return replace(self, class_names=names, folds=folds)

    def added(self, images: DescribedImages) -> "HeadStatistics":
        """Returns the statistics with further images; one that is counted already is ignored.

        Raises:
            DataError: An image is counted for another class.
        """
        new: dict[str, int] = {}
        rows = []
        for row, (digest, label) in enumerate(_pairs(images)):
            known = self.images.get(digest, new.get(digest))
            if known is None:
                new[digest] = label
                rows.append(row)
            elif known != label:
                raise DataError(
                    "`images` must have one class each. Received: "
                    f"{images.name_of(row)}, an image of {self.class_names[label]!r} that is "
                    f"counted as {self.class_names[known]!r}. Remove it there first."
                )
        sums = self._sums(images, np.array(rows, np.int64))
        folds = tuple(map(add, self.folds, sums))
        return replace(self, folds=folds, images={**self.images, **new})

    def removed(self, images: DescribedImages) -> "HeadStatistics":
        """Returns the statistics without some images, of which the same features were added.

        Raises:
            DataError: An image is not counted, or not for this class.
        """
        rows: dict[str, int] = {}
        for row, (digest, label) in enumerate(_pairs(images)):
            if self.images.get(digest) != label:
                raise DataError(
                    "`images` must be counted, with the same class, to be removed. Received: "
                    f"{images.name_of(row)}, an image of {self.class_names[label]!r}, which is "
                    "not. Leave it out."
                )
            rows.setdefault(digest, row)
        sums = self._sums(images, np.array([*rows.values()], np.int64))
        kept = {digest: label for digest, label in self.images.items() if digest not in rows}
        folds = tuple(before - own for before, own in zip(self.folds, sums, strict=True))
        return replace(self, folds=folds, images=kept)

    def without_classes(self, names: Sequence[str]) -> "HeadStatistics":
        """Returns the statistics without some classes, whose images have been removed.

        Raises:
            ArgumentError: A class is not there, still has images, or fewer than two would remain.
        """
        gone = {self._number(name) for name in names}
        kept = [number for number in range(len(self.class_names)) if number not in gone]
        if counted := [self.class_names[number] for number in gone if self.counts[number]]:
            raise ArgumentError(
                "`names` must be classes whose images have been removed. Received: "
                f"{', '.join(map(repr, counted))}, which have images. Remove these first."
            )
        if len(kept) < 2:
            raise ArgumentError(
                "`names` must leave two classes or more. Received: "
                f"{', '.join(map(repr, names))} of {', '.join(map(repr, self.class_names))}. "
                "Keep more of them."
            )
        new_number = {number: place for place, number in enumerate(kept)}
        return replace(
            self,
            class_names=tuple(self.class_names[number] for number in kept),
            folds=tuple(replace(fold, cross=fold.cross[:, kept]) for fold in self.folds),
            images={digest: new_number[number] for digest, number in self.images.items()},
        )

    def solve(self, images: DescribedImages, class_weight: ClassWeightLike = None) -> ExactHead:
        """Solves ridge regression of the classes on kernel values, for all images.

        With h an image's kernel values and y its class as 0 and 1, the scores W^T h + b minimise
        the sum of |W^T h + b - y|² plus penalty * trace(W^T K W), K the kernel of the landmarks.
        The penalty, and whether all landmarks or the first half or quarter of them are used, are
        those with the lowest squared error in cross-validation over the folds, in which the scores
        of each class count by its weight.
        The logits are the scores times the factor with the lowest cross-entropy on the scores that
        the solutions of the other folds give some images.

        Args:
            images: Images for the factor, such as those that came last; with none, the factor is
                the one that was fitted last.
            class_weight: How classes count, see `tlkit.ClassWeighting`: the scores, which estimate
                probabilities, are multiplied by the weights.

        Raises:
            ArgumentError: `class_weight` is invalid.
            DataError: A class has no image.

        Reference:
            Ridge regression on fixed random features from sums: McDonnell et al. (2023), RanPAC,
            https://arxiv.org/abs/2307.02251; Zhuang et al. (2022), ACIL,
            https://arxiv.org/abs/2205.14922. Here the random features are kernel values of random
            directions, and the penalty is that of the kernel.
        """
        weighting = weighting_of(class_weight).for_classes(self.class_names)
        counts = self.counts
        if not counts.all():
            empty = [self.class_names[number] for number in np.flatnonzero(counts == 0)]
            raise DataError(
                "Every class must have images. "
                f"Received: none of {', '.join(map(repr, empty))}. Add some, or remove the class."
            )
        balance = np.ones(len(counts))
        if weighting.is_balanced:
            balance = 1 / (len(counts) * (counts / counts.sum()))
        elif not weighting.is_plain:
            balance = weighting.factors(counts)
        total, factor = reduce(add, self.folds), self.factor
        width, penalty, chosen_by = self._width, DEFAULT_PENALTY, "default: too few images"
        if counts.min() >= 2 and all(np.rint(_counts(fold)).any() for fold in self.folds):
            with threadpool_limits(1, user_api="blas"):
                tried = [_CrossValidation(self, total, width // part, balance) for part in _PARTS]
            best = min(tried, key=lambda one: one.error)
            width, penalty = best.width, best.penalty
            if len(images.labels):
                scores = balance * best.scores(images)
                weights = balance[images.labels]
                factor = best_factor(scores, images.labels, "softmax", weights, LOG_FACTORS)
            chosen_by = f"{NUM_FOLDS}-fold cross-validation"
        kernel_map, columns = self._first(width)
        solution = total.on(columns).solve(penalty * penalty_matrix(kernel_map)) * balance
        return ExactHead(
            statistics=replace(self, factor=factor),
            kernel_map=kernel_map,
            kernel=(factor * solution[:-1]).astype(np.float32),
            bias=(factor * solution[-1]).astype(np.float32),
            note=(
                f"solved from sums over {counts.sum():,} images: {width:,} landmarks, "
                f"penalty {penalty:g}, chosen by {chosen_by}"
            ),
        )

    @property
    def _width(self) -> int:
        return len(self.kernel_map.landmarks)

    def _first(self, width: int) -> tuple[KernelMap, np.ndarray]:
        """Returns the map of the first landmarks, and the entries of the sums that it needs."""
        kernel_map = replace(self.kernel_map, landmarks=self.kernel_map.landmarks[:width])
        return kernel_map, np.append(np.arange(width), self._width)

    def _sums(self, images: DescribedImages, rows: np.ndarray) -> list[Sums]:
        """Returns the sums of some rows for each fold."""
        folds = _folds_of(images.digests)[rows]
        targets = np.eye(len(self.class_names))[images.labels]
        given = RegressionRows(images.features, targets, np.ones(len(targets)))
        values, num_values = self.kernel_map.values, len(self.kernel_map.landmarks)
        return [
            sums_of(given, rows[folds == fold], values, num_values) for fold in range(NUM_FOLDS)
        ]

    def _number(self, name: str) -> int:
        if name not in self.class_names:
            raise ArgumentError(
                "`names` must be classes of the statistics. "
                f"Received: {name!r}. Use {', '.join(map(repr, self.class_names))}."
            )
        return self.class_names.index(name)


class _CrossValidation:
    """The cross-validation of the first landmarks: each fold is predicted from the others.

    Attributes:
        width: The number of landmarks.
        penalty: The penalty with the lowest error.
        error: The sum of (score - y)² with it, over all folds, and over the classes with the
            weight of each.
    """

    def __init__(
        self, statistics: HeadStatistics, total: Sums, width: int, class_weights: np.ndarray
    ) -> None:
        self.width = width
        self._kernel_map, columns = statistics._first(width)
        folds = [fold.on(columns) for fold in statistics.folds]
        matrix, total = penalty_matrix(self._kernel_map), total.on(columns)
        solutions: dict[float, list[np.ndarray]] = {}
        errors: dict[float, float] = {}

        def error_with(penalty: float) -> float:
            solutions[penalty] = [(total - fold).solve(penalty * matrix) for fold in folds]
            pairs = zip(folds, solutions[penalty], strict=True)
            by_class = sum(fold.error_by_class(solution) for fold, solution in pairs)
            errors[penalty] = float(class_weights @ by_class)
            return errors[penalty]

        self.penalty = first_minimum(PENALTIES, error_with)
        self.error, self._solutions = errors[self.penalty], solutions[self.penalty]

    def scores(self, images: DescribedImages) -> np.ndarray:
        """Returns the scores of counted images by the solution of the other folds."""
        folds = _folds_of(images.digests)
        scores = np.zeros((len(images.labels), self._solutions[0].shape[1]))
        for fold, solution in enumerate(self._solutions):
            rows = folds == fold
            scores[rows] = with_one(self._kernel_map.values(images.features[rows])) @ solution
        return scores


def empty_statistics(
    features: np.ndarray,
    class_names: Sequence[str],
    signature: str,
    *,
    num_landmarks: int,
    seed: int,
) -> HeadStatistics:
    """Returns statistics without images, whose map is made for some features.

    Args:
        features: The first features that will be added, `(n, num_features)`.
        class_names: The classes.
        signature: See `HeadStatistics`.
        num_landmarks: Number of landmarks, at least 1.
        seed: Seed of the landmarks.
    """
    mean, scale = standardisation(features)
    landmarks = np.random.default_rng(seed).normal(size=(num_landmarks, features.shape[1]))
    landmarks /= np.linalg.norm(landmarks, axis=1, keepdims=True)
    size, num_classes = num_landmarks + 1, len(class_names)
    nothing = Sums(np.zeros((size, size)), np.zeros((size, num_classes)), 0.0)
    return HeadStatistics(
        tuple(class_names),
        KernelMap(mean, scale, landmarks, SHARPNESS),
        signature,
        (nothing,) * NUM_FOLDS,
        {},
    )


def _counts(sums: Sums) -> np.ndarray:
    """Returns the number of images of each class, which the bias's row has."""
    counts: np.ndarray = sums.cross[-1]
    return counts


def _pairs(images: DescribedImages) -> Iterator[tuple[str, int]]:
    return zip(images.digests, images.labels.tolist(), strict=True)


def _folds_of(digests: Sequence[str]) -> np.ndarray:
    """Returns the fold of each image, which depends on its digest alone."""
    return np.array([zlib.crc32(digest.encode()) % NUM_FOLDS for digest in digests], np.int64)
