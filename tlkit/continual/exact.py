"""Exact class-incremental learning: a head from sums over all images ever learned."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import keras
import numpy as np

from tlkit.continual.head_features import below_head
from tlkit.continual.head_statistics import (
    DescribedImages,
    ExactHead,
    HeadStatistics,
    empty_statistics,
)
from tlkit.continual.statistics_file import default_width
from tlkit.data.class_weighting import ClassWeightLike
from tlkit.data.images import ImageSplit
from tlkit.errors import ArgumentError, check_count
from tlkit.evaluation.checks import check_targets
from tlkit.evaluation.data_checks import check_images
from tlkit.models.compiling import compile_classifier
from tlkit.models.groups import choose_trainable
from tlkit.models.heads import OUTPUT_NAMES
from tlkit.models.layer_spec import parse_graph
from tlkit.models.rebuild import build
from tlkit.training.features import extract_features
from tlkit.training.frozen import FrozenPart
from tlkit.training.reports import StageReport
from tlkit.training.weight_change import relative_weight_change, weights_by_group

STAGE_NAME = "head"


@dataclass(frozen=True, eq=False)
class ExactTraining:
    """A model whose head was solved from statistics.

    Attributes:
        model: The model, which returns logits in the order of `statistics.class_names`.
        stage: The report of the training.
        statistics: The statistics, with the fitted temperature.
    """

    model: keras.Model
    stage: StageReport
    statistics: HeadStatistics


def gather_statistics(
    model: keras.Model,
    images: ImageSplit,
    class_names: Sequence[str],
    *,
    num_landmarks: int | None = None,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
) -> HeadStatistics:
    """Returns the sums from which a head for some images is solved, see `HeadStatistics`.

    The network below the head runs once for each image, in float32.

    Args:
        model: A functional classifier; only what is below its head counts. Not changed.
        images: The first images, such as `data.train`.
        class_names: Their classes, which the labels index.
        num_landmarks: Number of landmarks; by default four for each image, 500 to 2,000. More of
            them are more accurate if there are many images; the statistics take 20 bytes times
            their square.
        seed: Seed of the landmarks.
        cache: Folder of the feature store.

    Raises:
        ArgumentError: The images do not fit the model, or an argument is invalid.
        DataError: A label is not a class.

    Example:
        >>> import numpy as np, tlkit
        >>> from tlkit.continual.exact import add_to_statistics, gather_statistics, with_exact_head
        >>> pixels = np.random.default_rng(0).integers(0, 60, (80, 32, 32, 3), "uint8")
        >>> labels = np.arange(80) % 4
        >>> pixels[labels % 2 == 1, ..., 0] += 150
        >>> pixels[labels > 1, ..., 2] += 150
        >>> def split(*classes):
        ...     rows = np.isin(labels, classes)
        ...     numbers = np.searchsorted(classes, labels[rows])
        ...     return tlkit.load_arrays(pixels[rows], numbers, splits=(1, 0, 0)).train
        >>> model = tlkit.build_classifier("resnet20", ["a", "b"])
        >>> first = gather_statistics(model, split(0, 1), ["a", "b"], num_landmarks=50)
        >>> more = add_to_statistics(first, model, split(2, 3), ["c", "d"])
        >>> grown, head = with_exact_head(model, more, split(2, 3), ["c", "d"])
        >>> float(np.mean(grown.predict(pixels, verbose=0).argmax(axis=1) == labels))
        1.0
    """
    if num_landmarks is not None:
        check_count("num_landmarks", num_landmarks)
    source = _FeatureSource(model, cache)
    described, _ = source.describe(images, class_names, class_names)
    statistics = empty_statistics(
        described.features,
        class_names,
        source.part.signature,
        num_landmarks=num_landmarks or default_width(images.num_images),
        seed=seed,
    )
    return statistics.added(described)


def add_to_statistics(
    statistics: HeadStatistics,
    model: keras.Model,
    images: ImageSplit,
    class_names: Sequence[str],
    *,
    cache: str | os.PathLike[str] | None = None,
) -> HeadStatistics:
    """Returns statistics with further images, of known or of new classes.

    An image that is counted already is ignored.

    Args:
        statistics: The statistics so far; not changed.
        model: A model with the same network below its head.
        images: Further images.
        class_names: Their classes, which the labels index; those that are new follow the old ones.
        cache: Folder of the feature store.

    Raises:
        ArgumentError: The statistics are of other features; or as `gather_statistics`.
        DataError: An image is counted for another class.

    Example:
        See `gather_statistics`.
    """
    source = _FeatureSource(model, cache)
    source.check(statistics)
    new = [name for name in class_names if name not in statistics.class_names]
    grown = statistics.with_classes(new) if new else statistics
    described, _ = source.describe(images, class_names, grown.class_names)
    return grown.added(described)


def remove_from_statistics(
    statistics: HeadStatistics,
    model: keras.Model,
    images: ImageSplit,
    class_names: Sequence[str],
    *,
    cache: str | os.PathLike[str] | None = None,
) -> HeadStatistics:
    """Returns statistics without some images, as if these had never been added.

    Their features are computed again. Classes stay, even without images; see
    `HeadStatistics.without_classes`. Only the head forgets them: a network below it that was
    trained on them has still seen them.

    Args:
        statistics: The statistics so far; not changed.
        model: A model with the same network below its head.
        images: Images that are counted.
        class_names: Their classes, which the labels index.
        cache: Folder of the feature store.

    Raises:
        ArgumentError: The statistics are of other features; or as `gather_statistics`.
        DataError: An image is not counted, or is counted for another class.

    Example:
        >>> import numpy as np, tlkit
        >>> from tlkit.continual.exact import gather_statistics, remove_from_statistics
        >>> pixels = np.random.default_rng(0).integers(0, 255, (40, 32, 32, 3), "uint8")
        >>> split = tlkit.load_arrays(pixels, np.arange(40) % 2, splits=(1, 0, 0)).train
        >>> model = tlkit.build_classifier("resnet20", ["a", "b"])
        >>> both = gather_statistics(model, split, ["a", "b"], num_landmarks=20)
        >>> gone = split.subset(np.arange(30))
        >>> remove_from_statistics(both, model, gone, ["a", "b"]).counts.tolist()
        [5, 5]
    """
    source = _FeatureSource(model, cache)
    source.check(statistics)
    names = statistics.class_names
    if unknown := [name for name in class_names if name not in names]:
        raise ArgumentError(
            "`class_names` must be classes of the statistics. "
            f"Received: {', '.join(map(repr, unknown))}. Use {', '.join(map(repr, names))}."
        )
    described, _ = source.describe(images, class_names, names)
    return statistics.removed(described)


def with_exact_head(
    model: keras.Model,
    statistics: HeadStatistics,
    images: ImageSplit | None = None,
    class_names: Sequence[str] = (),
    *,
    class_weight: ClassWeightLike = None,
    cache: str | os.PathLike[str] | None = None,
) -> tuple[keras.Model, ExactHead]:
    """Returns a copy of a model with a head for all classes, solved from statistics.

    It is the head that all images together give, whatever the order in which they came, up to
    rounding; see `HeadStatistics.solve`.

    Args:
        model: A model with the same network below its head; not changed. Layers of its head are
            left out.
        statistics: The statistics.
        images: Images at hand, to which the temperature is fitted, such as those that came last.
            Without, it is the one that was fitted last.
        class_names: The classes of `images`, which their labels index.
        class_weight: How classes count, see `HeadStatistics.solve`.
        cache: Folder of the feature store.

    Returns:
        The model, which returns logits in the order of `statistics.class_names`, and its head, with
        the statistics and their fitted temperature.

    Raises:
        ArgumentError: The statistics are of other features; or as `gather_statistics`.
        DataError: A class has no image.

    Example:
        See `gather_statistics`.
    """
    source = _FeatureSource(model, cache)
    source.check(statistics)
    given = _nothing(statistics)
    if images is not None:
        given, _ = source.describe(images, class_names, statistics.class_names)
    head = statistics.solve(given, class_weight)
    return _with_head(model, head), head


def with_fitted_factor(
    statistics: HeadStatistics,
    model: keras.Model,
    images: ImageSplit,
    class_names: Sequence[str],
) -> HeadStatistics:
    """Returns statistics whose factor is fitted to some images, for heads without images at hand.

    Args:
        statistics: The statistics; each class has images.
        model: A model with the same network below its head.
        images: The images.
        class_names: Their classes, which the labels index.

    Raises:
        ArgumentError: The statistics are of other features; or as `gather_statistics`.
        DataError: A class has no image.
    """
    source = _FeatureSource(model, None)
    source.check(statistics)
    described, _ = source.describe(images, class_names, statistics.class_names)
    return statistics.solve(described).statistics


def train_exact_head(
    model: keras.Model,
    statistics: HeadStatistics,
    images: ImageSplit,
    class_names: Sequence[str],
    *,
    class_weight: ClassWeightLike = None,
    fits_temperature: bool = True,
    cache: str | os.PathLike[str] | None = None,
) -> ExactTraining:
    """Adds images to statistics and solves the head for all images, see `with_exact_head`.

    Args:
        model: A model with the same network below its head; not changed.
        statistics: The statistics so far; not changed.
        images: Further images, of known or of new classes.
        class_names: Their classes, which the labels index; those that are new follow the old ones.
        class_weight: How classes count, see `HeadStatistics.solve`.
        fits_temperature: Whether the temperature is fitted to `images`; else it stays as it is.
        cache: Folder of the feature store.

    Raises:
        ArgumentError: See `add_to_statistics`.
        DataError: An image is counted for another class, or a class has no image.
    """
    started = time.perf_counter()
    source = _FeatureSource(model, cache)
    source.check(statistics)
    new = [name for name in class_names if name not in statistics.class_names]
    grown = statistics.with_classes(new) if new else statistics
    described, num_passes = source.describe(images, class_names, grown.class_names)
    fitted_to = described if fits_temperature else None
    training = solve_exact_head(model, grown.added(described), fitted_to, class_weight)
    seconds = time.perf_counter() - started
    stage = replace(training.stage, seconds=seconds, num_forward_passes=num_passes)
    return replace(training, stage=stage)


def solve_exact_head(
    model: keras.Model,
    statistics: HeadStatistics,
    images: DescribedImages | None = None,
    class_weight: ClassWeightLike = None,
) -> ExactTraining:
    """Solves the head from statistics alone, and reports it as a stage of training.

    Args:
        model: A model with the network below its head; not changed.
        statistics: The statistics.
        images: Images to which the temperature is fitted; without, it is the one that was fitted
            last.
        class_weight: How classes count, see `HeadStatistics.solve`.

    Raises:
        DataError: A class has no image.
    """
    started = time.perf_counter()
    before = weights_by_group(model)
    head = statistics.solve(images or _nothing(statistics), class_weight)
    solved = _with_head(model, head)
    trainable = choose_trainable(solved, "head")
    stage = StageReport(
        name=STAGE_NAME,
        trainable=trainable,
        history=(),
        weight_change=relative_weight_change(before, weights_by_group(solved)),
        seconds=time.perf_counter() - started,
        notes=(head.note,),
    )
    return ExactTraining(solved, stage, head.statistics)


def _nothing(statistics: HeadStatistics) -> DescribedImages:
    width = len(statistics.kernel_map.mean)
    return DescribedImages(np.zeros((0, width), np.float32), np.zeros(0, np.int64), ())


def _with_head(model: keras.Model, head: ExactHead) -> keras.Model:
    """Returns a copy of the network below a model's head, with a solved head."""
    below = below_head(build(parse_graph(model)))
    x = below.outputs[0]
    for layer in head.kernel_map.layers():
        x = layer(x)
    num_classes = len(head.statistics.class_names)
    last = keras.layers.Dense(num_classes, dtype="float32", name=OUTPUT_NAMES["softmax"])
    solved = keras.Model(below.inputs[0], last(x), name=model.name)
    last.set_weights([head.kernel, head.bias])
    compile_classifier(solved)
    return solved


@dataclass(frozen=True, eq=False)
class _FeatureSource:
    """What computes the features of images.

    Attributes:
        model: The classifier that the images are for.
        cache: Folder of the feature store.
    """

    model: keras.Model
    cache: str | os.PathLike[str] | None

    @cached_property
    def part(self) -> FrozenPart:
        """The network below the head."""
        return FrozenPart(below_head(self.model))

    def check(self, statistics: HeadStatistics) -> None:
        """Raises `ArgumentError` unless the statistics are of these features."""
        if self.part.signature != statistics.signature:
            raise ArgumentError(
                "`statistics` must be of the features of `model`: the same network below its head, "
                "with the same weights and image size. Received: "
                f"model={self.model.name!r}, whose features differ. Gather them again, or use the "
                "model that they were gathered with."
            )

    def describe(
        self, images: ImageSplit, class_names: Sequence[str], all_names: Sequence[str]
    ) -> tuple[DescribedImages, int]:
        """Returns features of images, with labels for `all_names`, and how many were computed."""
        check_images("images", images, self.model, labels="given")
        number, num_classes = images.num_images, len(class_names)
        check_targets(images.labels, "softmax", number, num_classes, argument="images")
        extracted = extract_features(self.part, images, exact=True, cache=self.cache)
        number_of = np.array([all_names.index(name) for name in class_names], np.int64)
        labels = number_of[images.labels]
        described = DescribedImages(extracted.load(), labels, images.digests, images.paths)
        return described, extracted.num_forward_passes
