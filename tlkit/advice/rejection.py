"""Fits and evaluates the rejection of out-of-distribution (OOD) images."""

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
    ood_scores,
    unit_vectors,
)
from tlkit.models.flattening import below
from tlkit.models.heads import feature_cut, head_kind
from tlkit.training.features import Features, extract_features
from tlkit.training.frozen import FrozenPart
from tlkit.training.objective import targets_of
from tlkit.training.sources import source_of
from tlkit.utils.formatting import fraction_text
from tlkit.utils.text_repr import ShownAsParagraphs

DEFAULT_KEEP = 0.95
_CHUNK_SIZE = 1024


@dataclass(frozen=True)
class RejectionReport(ShownAsParagraphs):
    """How many images a model rejects as out-of-distribution.

    Attributes:
        num_images: Number of images.
        num_rejected: Number of rejected images.
        rate: Fraction of the images that is rejected, 0...1.
        interval: 95 % confidence interval of the rate, by Wilson's formula.
    """

    num_images: int
    num_rejected: int
    rate: float
    interval: Interval

    def __str__(self) -> str:
        rate = fraction_text(self.rate, self.num_images, self.interval)
        return f"rejected as out-of-distribution: {rate}"


def fit_rejection(
    model: keras.Model,
    data: ImageData | tf.data.Dataset,
    *,
    validation: Images | None = None,
    keep: float = DEFAULT_KEEP,
    known: Rejection | None = None,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
) -> Rejection:
    """Fits a threshold on the OOD score, above which images are rejected.

    The OOD score is one minus the cosine similarity between an image's features (the head's input)
    and those of its 5th nearest training image. The features are those that `train_head` stores, so
    that none are computed again after it. `export_model(..., rejection=...)` includes the result in
    the SavedModel.

    The threshold is chosen on validation images only, which are all in-distribution. It accepts the
    fraction `keep` of such images; how many OOD images are rejected depends on how different they
    are, and is measured by `measure_rejection`. Drawings, digits and thumbnails are far from
    pretraining images; an image of an insect on a flower is not far from flowers.

    Args:
        model: A trained classifier; it is not changed. Training its head further leaves the
            threshold valid, training layers below does not.
        data: The result of `load_folder`, `load_arrays` or `load_tfds`; or batches of images and
            labels.
        validation: Images that were not trained on, if `data` is a `tf.data.Dataset`.
        keep: Fraction of in-distribution images to accept, from 0 to less than 1.
        known: An earlier rejection of the same features, such as that of a model before classes
            were added: its training images remain neighbours.
        seed: Seed of the choice among more than 10,000 training images.
        cache: Folder of the feature stores; tlkit's cache by default.

    Raises:
        ArgumentError: If an argument is invalid, data and model do not fit, or `known` is of other
            features.
        DataError: If there are no validation images, or too few (19 are needed to accept 95 %); if
            there are fewer than 5 training images.

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
        Sun et al. (2022), https://arxiv.org/abs/2204.06507, for the score; the threshold is that of
        split conformal prediction, see `tlkit.evaluation.rejection.fit_threshold`.
    """
    check_fraction("keep", keep, example=0.95)
    source = source_of(model, data, validation)
    if source.validation is None:
        raise DataError(
            "`data` must have a validation split to choose the threshold. Received: none. "
            "Load it with `splits=(0.8, 0.1, 0.1)`, or pass `validation`."
        )
    if known is not None:
        check_rejection(known, model)
    part = _feature_part(model)
    train = extract_features(part, source.train, exact=False, cache=cache)
    held_out = extract_features(part, source.validation, exact=True, cache=cache)
    if len(train.keys) < NUM_NEIGHBOURS:
        raise DataError(
            f"`data` must have at least {NUM_NEIGHBOURS} training images. Received: "
            f"{len(train.keys)}. Add images."
        )
    num_known = 0 if known is None else known.num_stored
    chosen = np.arange(num_known + len(train.keys))
    notes = []
    if len(chosen) > MAX_STORED:
        notes.append(f"uses {MAX_STORED:,} of {len(chosen):,} training images as neighbours")
        chosen = np.sort(np.random.default_rng(seed).permutation(chosen)[:MAX_STORED])
    new = chosen[chosen >= num_known] - num_known
    parts = [unit_vectors(train.read(rows)).numpy() for rows in _split_rows(new)]
    if known is not None:
        parts.insert(0, known.neighbours[chosen[chosen < num_known]])
    neighbours = np.concatenate(parts)
    scores = _compute_scores(held_out, neighbours, NUM_NEIGHBOURS)
    threshold, interval = fit_threshold(scores, keep)
    is_rejected = scores > np.float32(threshold)
    by_class = _by_class(held_out, is_rejected, model, source.data)
    absent = [name for name, (_, total) in by_class.items() if not total]
    if absent:
        notes.append(
            f"no validation images of {', '.join(map(repr, absent))}: how many of these are "
            "rejected is unknown"
        )
    return Rejection(
        signature=part.signature,
        neighbours=neighbours,
        num_neighbours=NUM_NEIGHBOURS,
        threshold=threshold,
        keep=keep,
        num_images=len(scores),
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
    """Measures the fraction of images that is rejected as out-of-distribution.

    For images of the model's classes, such as `data.test`, it is the false rejection rate; for OOD
    images, such as digits, the detection rate.

    Args:
        model: The model that `rejection` was fitted to.
        images: A split, or a dataset of batches `(images, labels)`; labels are not used.
        rejection: The result of `fit_rejection`.
        cache: Folder of the feature stores; tlkit's cache by default.

    Raises:
        ArgumentError: If the model's features have changed since the fit, or `images` are not
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
    features = extract_features(_feature_part(model), images, exact=True, cache=cache)
    scores = _compute_scores(features, rejection.neighbours, rejection.num_neighbours)
    num_rejected = int((scores > np.float32(rejection.threshold)).sum())
    rate = num_rejected / len(scores)
    return RejectionReport(
        num_images=len(scores),
        num_rejected=num_rejected,
        rate=rate,
        interval=wilson_interval(rate, len(scores)),
    )


def _feature_part(model: keras.Model) -> FrozenPart:
    return FrozenPart(below(model, feature_cut(model)))


def _compute_scores(features: Features, neighbours: np.ndarray, num_neighbours: int) -> np.ndarray:
    return np.concatenate(
        [
            ood_scores(features.read(rows), neighbours, num_neighbours).numpy()
            for rows in _split_rows(np.arange(len(features.keys)))
        ]
    )


def _split_rows(positions: np.ndarray) -> list[np.ndarray]:
    return [
        positions[start : start + _CHUNK_SIZE] for start in range(0, len(positions), _CHUNK_SIZE)
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
