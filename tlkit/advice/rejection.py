"""When a model should say «none of these»."""

import os
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from tlkit.data.images import ImageData
from tlkit.errors import DataError, check_fraction
from tlkit.evaluation.data_checks import Images, check_images
from tlkit.evaluation.intervals import Interval, wilson_interval
from tlkit.evaluation.names import num_classes_of
from tlkit.evaluation.rejection import (
    MAX_STORED,
    NUM_NEIGHBOURS,
    Rejection,
    check_rejection,
    fit_threshold,
    novelty,
    unit_vectors,
)
from tlkit.models.flattening import below
from tlkit.models.heads import feature_cut, head_kind
from tlkit.training.features import Features, extract_features
from tlkit.training.frozen import FrozenPart
from tlkit.training.objective import targets_of
from tlkit.training.sources import source_of
from tlkit.utils.formatting import interval, percent
from tlkit.utils.text_repr import ShownAsParagraphs

DEFAULT_KEEP = 0.95
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class RejectionReport(ShownAsParagraphs):
    """How many of some images a model calls unknown.

    Attributes:
        num_images: Number of images.
        num_rejected: How many of them are called unknown.
        rate: The share of them, 0...1.
        interval: Its 95 % interval, by Wilson's formula.
    """

    num_images: int
    num_rejected: int
    rate: float
    interval: Interval

    def __str__(self) -> str:
        return (
            f"{percent(self.rate)} of {self.num_images:,} images unknown "
            f"(95 % interval {interval(self.interval)})"
        )


def fit_rejection(
    model: keras.Model,
    data: ImageData | tf.data.Dataset,
    *,
    validation: Images | None = None,
    keep: float = DEFAULT_KEEP,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
) -> Rejection:
    """Chooses the distance from the training images beyond which an image is unknown.

    What counts is the angle between an image's features (what the head reads) and those of its
    5th nearest training image. The features are those that `train_head` stores: after it no
    image runs again. `export_model(..., rejection=...)` puts the answer into the SavedModel.

    The threshold is chosen on validation images alone, which all are of known classes. It keeps
    the share `keep` of such images, and is no promise for any other: how many strangers are
    refused depends on how strange they are, and `measure_rejection` says it of given ones.
    Drawings, digits and thumbnails lie far from images; another image of an insect on a
    flower does not lie far from flowers.

    Args:
        model: A classifier that is trained; it stays as it is. Training its head further leaves
            the threshold valid, training anything below does not.
        data: What `load_folder`, `load_arrays` or `load_tfds` returned; or batches of images and
            labels.
        validation: Where `data` is a `tf.data.Dataset`: images that were not trained on.
        keep: Share of known images to keep, from 0 to less than 1.
        seed: Of the choice where there are more than 10,000 training images to keep.
        cache: Folder of the feature stores; tlkit's cache by default.

    Raises:
        ArgumentError: If an argument breaks its rule, or data and model do not fit.
        DataError: If there are no validation images, or too few: 19 to keep 95 %; if there are
            fewer than 5 training images.

    Example:
        >>> import numpy as np, tlkit
        >>> from tlkit.advice.rejection import fit_rejection
        >>> labels = np.arange(200) % 2
        >>> images = np.random.default_rng(0).integers(0, 99, (200, 32, 32, 3), "uint8")
        >>> images[labels == 1, :, :, 0] += 100
        >>> data = tlkit.load_arrays(images, labels, ["grey", "red"], splits=(0.7, 0.3, 0))
        >>> model = tlkit.build_classifier("resnet20", data.class_names)
        >>> rejection = fit_rejection(model, data, keep=0.9)
        >>> rejection.num_images == data.validation.num_images, rejection.wrongly_rejected <= 0.1
        (True, True)

    Reference:
        Sun et al. (2022), https://arxiv.org/abs/2204.06507, for the distance; the threshold is
        that of split conformal prediction, see `tlkit.evaluation.rejection.fit_threshold`.
    """
    check_fraction("keep", keep, example=0.95)
    source = source_of(model, data, validation)
    if source.validation is None:
        raise DataError(
            "`data` must have a validation split to choose the threshold on. Received: none. "
            "Load it with `splits=(0.8, 0.1, 0.1)`, or give `validation`."
        )
    part = _part_of(model)
    train = extract_features(part, source.train, exact=False, cache=cache)
    held_out = extract_features(part, source.validation, exact=True, cache=cache)
    if len(train.keys) < NUM_NEIGHBOURS:
        raise DataError(
            f"`data` must hold at least {NUM_NEIGHBOURS} images to compare with. Received: "
            f"{len(train.keys)}. Add some."
        )
    chosen = np.arange(len(train.keys))
    notes = []
    if len(chosen) > MAX_STORED:
        chosen = np.sort(np.random.default_rng(seed).permutation(chosen)[:MAX_STORED])
        notes.append(f"compares with {MAX_STORED:,} of {len(train.keys):,} training images")
    neighbours = np.concatenate(
        [unit_vectors(train.read(some)).numpy() for some in _in_pieces(chosen)]
    )
    novelties = _novelties(held_out, neighbours, NUM_NEIGHBOURS)
    threshold, interval = fit_threshold(novelties, keep)
    is_rejected = novelties > np.float32(threshold)
    by_class = _by_class(held_out, is_rejected, model, source.data)
    absent = [name for name, (_, total) in by_class.items() if not total]
    if absent:
        notes.append(
            f"no validation images of {', '.join(map(repr, absent))}: nothing is known of how "
            "many of these are rejected"
        )
    return Rejection(
        signature=part.signature,
        neighbours=neighbours,
        num_neighbours=NUM_NEIGHBOURS,
        threshold=threshold,
        keep=keep,
        num_images=len(novelties),
        wrongly_rejected=float(is_rejected.mean()),
        interval=interval,
        by_class=by_class,
        notes=tuple(notes),
    )


def measure_rejection(
    model: keras.Model,
    images: Images,
    rejection: Rejection,
    *,
    cache: str | os.PathLike[str] | None = None,
) -> RejectionReport:
    """Says how many of some images the model calls unknown.

    Of images of its own classes, such as `data.test`, it is the share wrongly rejected; of
    others, such as digits, the share rightly refused.

    Args:
        model: The model that `rejection` was fitted to.
        images: A split, or a dataset of batches `(images, labels)`; labels are not looked at.
        rejection: What `fit_rejection` returned.
        cache: Folder of the feature stores; tlkit's cache by default.

    Raises:
        ArgumentError: If the model's features are no longer those of the fit, or `images` are no
            batches of images and labels.

    Example:
        >>> import numpy as np, tensorflow as tf, tlkit
        >>> from tlkit.advice.rejection import fit_rejection, measure_rejection
        >>> images = np.random.default_rng(0).integers(0, 255, (200, 32, 32, 3), "uint8")
        >>> data = tlkit.load_arrays(images, np.arange(200) % 2, ["a", "b"], splits=(0.7, 0.3, 0))
        >>> model = tlkit.build_classifier("resnet20", data.class_names)
        >>> rejection = fit_rejection(model, data)
        >>> grey = tf.data.Dataset.from_tensor_slices((tf.fill((9, 32, 32, 3), 99.0), [0] * 9))
        >>> measure_rejection(model, grey.batch(9), rejection).num_rejected
        9
    """
    check_rejection(rejection, model)
    images = check_images("images", images, model, labels="given")
    features = extract_features(_part_of(model), images, exact=True, cache=cache)
    novelties = _novelties(features, rejection.neighbours, rejection.num_neighbours)
    num_rejected = int((novelties > np.float32(rejection.threshold)).sum())
    rate = num_rejected / len(novelties)
    return RejectionReport(
        num_images=len(novelties),
        num_rejected=num_rejected,
        rate=rate,
        interval=wilson_interval(rate, len(novelties)),
    )


def _part_of(model: keras.Model) -> FrozenPart:
    return FrozenPart(below(model, feature_cut(model)))


def _novelties(features: Features, neighbours: np.ndarray, num_neighbours: int) -> np.ndarray:
    return np.concatenate(
        [
            novelty(features.read(some), neighbours, num_neighbours).numpy()
            for some in _in_pieces(np.arange(len(features.keys)))
        ]
    )


def _in_pieces(positions: np.ndarray) -> list[np.ndarray]:
    return [
        positions[start : start + _ROWS_AT_ONCE]
        for start in range(0, len(positions), _ROWS_AT_ONCE)
    ]


def _by_class(
    features: Features, is_rejected: np.ndarray, model: keras.Model, data: ImageData | None
) -> dict[str, tuple[int, int]]:
    if head_kind(model) == "multi_label":
        return {}
    labels = targets_of(features.labels, model).numpy().ravel().astype(np.int64)
    names = data.class_names if data else tuple(map(str, range(num_classes_of(model))))
    return {
        name: (int(is_rejected[labels == index].sum()), int((labels == index).sum()))
        for index, name in enumerate(names)
    }
