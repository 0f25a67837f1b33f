"""Extraction and storage of features: each image goes through the frozen part once."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

import numpy as np
import tensorflow as tf

from tlkit.data.array_splits import content_of
from tlkit.data.images import ImageSplit
from tlkit.data.limits import DECODER_VERSION
from tlkit.data.missing_files import missing_files_named
from tlkit.distribution.workers import check_can_be_sharded
from tlkit.errors import ArgumentError, DataError, TrainingError
from tlkit.training.engines import (
    ENGINES,
    OPENVINO,
    TENSORFLOW,
    EngineChoice,
    choose_engine,
    forward_by,
)
from tlkit.training.frozen import (
    MAX_BFLOAT16_DIFFERENCE,
    Forward,
    FrozenPart,
    has_bfloat16,
    relative_difference,
)
from tlkit.training.labelled import LabelledFeatures
from tlkit.training.store import FeatureStore
from tlkit.training.views import PLAIN, ViewPolicy
from tlkit.utils.progress import Advance, bar

MAX_BYTES_IN_MEMORY = 2 * 2**30
MIN_BFLOAT16_WORK = 100e9
"""Multiply-adds below which preparing and checking bfloat16 costs more time than it saves."""

_BATCH_SIZE = 32


@dataclass(frozen=True)
class Features:
    """Features of some images, in the order of their labels.

    Attributes:
        store: The store that holds the rows.
        keys: The key of each row: one for each image and view, ordered by view.
        labels: As the images' source gives them, one per key.
        weights: Sample weights, or `None`.
        images: For each key the number of its image; views and copies have the same number.
        groups: For each key the number of its image's group, or of the image if it has none.
            Cross-validation must not split a group.
        filler: Computes rows that are missing.
        fill: Calls `filler` for all images again.
    """

    store: FeatureStore
    keys: tuple[str, ...]
    labels: np.ndarray
    weights: np.ndarray | None
    images: np.ndarray
    groups: np.ndarray
    filler: "_Filler" = field(repr=False)
    fill: Callable[[], object] = field(repr=False)

    @property
    def num_forward_passes(self) -> int:
        """Number of images that any worker computed, because rows were missing or damaged."""
        return self.filler.num_forward_passes

    @property
    def precision(self) -> str:
        """The number format the rows were computed in: "float32" or "bfloat16"."""
        return self.filler.precision

    @property
    def note(self) -> str:
        """How the rows were computed, and where they are, for reports: "in float32: PATH"."""
        by = ""
        if self.filler.choice.reason:
            by = f", by {ENGINES[self.filler.choice.engine]} ({self.filler.choice.reason})"
        return f"in {self.precision}{by}: {self.store.path}"

    @property
    def num_bytes(self) -> int:
        """The size of all rows in memory, in bytes."""
        return len(self.keys) * int(np.prod(self.store.row_shape)) * self.store.dtype.itemsize

    def labelled(self) -> LabelledFeatures:
        """Returns all rows with labels, groups and weights."""
        return LabelledFeatures(self.load(), self.labels, self.groups, self.weights)

    def load(self) -> np.ndarray:
        """Returns all rows, shape `(len(keys), *row_shape)`."""
        return self._read(self.keys)

    def read(self, positions: np.ndarray) -> np.ndarray:
        """Returns the rows at some positions, shape `(len(positions), *row_shape)`."""
        return self._read([self.keys[i] for i in positions])

    def _read(self, keys: Sequence[str]) -> np.ndarray:
        try:
            return self.store.read(keys)
        except KeyError:  # damaged, or removed by another process: compute them again
            self.fill()
            return self.store.read(keys)


def extract_features(
    part: FrozenPart,
    images: ImageSplit | tf.data.Dataset,
    *,
    exact: bool,
    views: ViewPolicy = PLAIN,
    compact: bool = False,
    cache: str | os.PathLike[str] | None = None,
) -> Features:
    """Returns the outputs of a frozen part, computing those that are not yet stored.

    With several workers, the rows that are missing on any of them are sharded over all, and each
    worker stores all rows.

    Args:
        part: The part from raw pixels to features.
        images: A split, of which only images without stored features are decoded; or batches of
            images and labels, which are read once and identified by their pixels.
        exact: Whether the rows must be float32, as the exported model computes them. Otherwise
            they are computed in bfloat16 if this processor supports it, the work exceeds
            `MIN_BFLOAT16_WORK`, and the features of one batch agree within
            `MAX_BFLOAT16_DIFFERENCE`; the result of that comparison is stored.
        views: The views of each image; for a split only.
        compact: Whether rows computed in bfloat16 are also stored in it, in half the space.
        cache: Folder of the stores.

    Raises:
        ArgumentError: The features have no fixed shape.
    """
    if None in part.output_shape:
        raise ArgumentError(
            "`model` must have features of a fixed shape, so that they can be stored. Received: "
            f"features of the shape {part.output_shape}. Build it for inputs of a fixed shape "
            "(TextVectorization takes output_sequence_length), or train it with fine_tune."
        )
    with missing_files_named([images]):
        if not isinstance(images, ImageSplit):
            check_can_be_sharded("images", part.workers)
        filler = _filler(part, images, exact=exact, views=views, compact=compact, cache=cache)
        store = filler.store
        fill: Callable[[], object]
        if isinstance(images, ImageSplit):
            keys = tuple(chain(*views.keys(images)))
            digests: tuple[str, ...] = images.digests * views.number
            units: tuple[str, ...] = images.group_keys * views.number
            labels, weights = np.concatenate([images.labels] * views.number), None
            if part.workers.num_workers > 1:
                filler.fill_distributed(images, views)
            fill = partial(filler.fill_from_split, images, views)
            fill()
        else:
            keys, labels, weights = filler.fill_from_dataset(images)
            fill = partial(filler.fill_from_dataset, images)
            digests = units = keys
    return Features(
        store, keys, labels, weights, _numbered(digests), _numbered(units), filler, fill
    )


def _filler(
    part: FrozenPart,
    images: ImageSplit | tf.data.Dataset,
    *,
    exact: bool,
    views: ViewPolicy,
    compact: bool,
    cache: str | os.PathLike[str] | None,
) -> "_Filler":
    """Returns what computes the rows, in the precision and by the engine that suit the part."""
    name = f"{part.signature}-{DECODER_VERSION}"
    store = FeatureStore(f"{name}-float32", part.output_shape, folder=cache)
    is_fast = not exact and _precision(store, part, images, views) == "bfloat16"
    is_fast = part.workers.all(is_fast)
    precision, dtype = ("bfloat16" if is_fast else "float32"), np.dtype("float32")
    if is_fast:
        store.close()
        if compact:
            name, dtype = f"{name}-compact", np.dtype(tf.bfloat16.as_numpy_dtype)
        store = FeatureStore(f"{name}-bfloat16", part.output_shape, dtype=dtype, folder=cache)
    choice = choose_engine(
        store,
        part,
        precision,
        num_missing=_num_missing(store, images, views),
        first_batch=lambda: _first_batch(part, images),
    )
    if not part.workers.all(choice.engine == OPENVINO):
        return _Filler(part, store, precision, dataclasses.replace(choice, engine=TENSORFLOW))
    store.close()
    store = FeatureStore(
        f"{name}-{OPENVINO}-{precision}", part.output_shape, dtype=dtype, folder=cache
    )
    return _Filler(part, store, precision, choice)


class _Filler:
    """Computes the rows that are missing in a store, and counts the images."""

    def __init__(
        self, part: FrozenPart, store: FeatureStore, precision: str, choice: EngineChoice
    ) -> None:
        self._part, self.store, self.precision, self.choice = part, store, precision, choice
        self.num_forward_passes = 0

    @property
    def _row_kind(self) -> str:
        return "features" if len(self.store.row_shape) == 1 else "activations"

    def _bar(
        self, missing: Sequence[np.ndarray], split: ImageSplit
    ) -> AbstractContextManager[Advance]:
        total = sum(len(indices) for indices in missing)
        unit = "images" if len(missing) == 1 else "views of images"
        if not total:
            return bar(f"{self._row_kind} of {split.name} images (already stored)", None)
        return bar(f"{self._row_kind} of {split.name} images", total, unit)

    def fill_from_split(self, split: ImageSplit, views: ViewPolicy) -> None:
        keys = np.array([*views.keys(split)])
        missing = [_first_of_each(row, ~self.store.contains(row)) for row in keys]
        with self._bar(missing, split) as advance:
            for view, indices in enumerate(missing):
                if not len(indices):
                    continue
                batches = split.dataset(
                    shuffle=False,
                    augment=views.augmentation,
                    epochs=range(view, view + 1),
                    indices=indices,
                    batch_size=_BATCH_SIZE,
                )
                done = 0
                for pixels, _ in batches:
                    self._compute(keys[view, indices[done : done + len(pixels)]], pixels)
                    done += len(pixels)
                    advance(len(pixels))

    def fill_distributed(self, split: ImageSplit, views: ViewPolicy) -> None:
        """Computes the rows that any worker lacks, sharded over all; every worker must call it."""
        workers = self._part.workers
        together = _BATCH_SIZE * workers.num_workers
        keys = np.array([*views.keys(split)])
        absent = workers.any(~self.store.contains(keys.reshape(-1))).reshape(keys.shape)
        missing = [_first_of_each(*pair) for pair in zip(keys, absent, strict=True)]
        with self._bar(missing, split) as advance:
            for view, indices in enumerate(missing):
                own = indices[workers.index :: workers.num_workers]
                batches = iter(
                    split.dataset(
                        shuffle=False,
                        augment=views.augmentation,
                        epochs=range(view, view + 1),
                        indices=own,
                        batch_size=_BATCH_SIZE,
                    )
                    if len(own)
                    else ()
                )
                for start in range(0, len(indices), together):
                    some = indices[start : start + together]
                    rows = np.zeros((len(some), *self.store.row_shape), self.store.dtype)
                    if len(some) > workers.index:
                        pixels = tf.cast(next(batches)[0], self._part.input_dtype)
                        computed = self._forward(pixels).numpy()
                        rows[workers.index :: workers.num_workers] = computed
                    self.store.append(keys[view, some].tolist(), workers.merge(rows))
                    self.num_forward_passes += len(some)
                    advance(len(some))

    def fill_from_dataset(
        self, dataset: tf.data.Dataset
    ) -> tuple[tuple[str, ...], np.ndarray, np.ndarray | None]:
        all_keys: list[str] = []
        all_labels: list[np.ndarray] = []
        all_weights: list[np.ndarray] = []
        with bar(f"{self._row_kind} of a dataset", None, "images") as advance:
            for pixels, labels, *weights in dataset:
                keys = np.array([_digest(image) for image in pixels.numpy()])
                missing = _first_of_each(keys, ~self.store.contains(keys))
                if len(missing):
                    self._compute(keys[missing], tf.gather(pixels, missing))
                all_keys.extend(keys.tolist())
                all_labels.append(labels.numpy())
                all_weights.extend(weight.numpy().reshape(-1) for weight in weights)
                advance(len(keys))
        if not all_keys:
            raise DataError(
                "`data` must contain images. Received: a dataset without a batch. Give one with "
                "images."
            )
        weights = np.concatenate(all_weights) if all_weights else None
        return tuple(all_keys), np.concatenate(all_labels), weights

    def _compute(self, keys: np.ndarray, pixels: tf.Tensor) -> None:
        outputs = self._forward(tf.cast(pixels, self._part.input_dtype))
        self.store.append(keys.tolist(), outputs.numpy())
        self.num_forward_passes += len(keys)

    @property
    def _forward(self) -> Forward:
        forward = forward_by(self._part, self.choice.engine, self.precision)
        if forward is None:
            raise TrainingError(
                f"The features in {self.store.path} were computed in {self.precision} by "
                f"{ENGINES[self.choice.engine]}, which this machine does not support. Use a "
                "separate cache folder (TLKIT_CACHE) for each kind of machine."
            )
        return forward


def _precision(
    store: FeatureStore,
    part: FrozenPart,
    images: ImageSplit | tf.data.Dataset,
    views: ViewPolicy,
) -> str:
    """Returns the stored number format of this part, or chooses it by comparing on a batch."""
    known = store.recall("precision")
    if known is not None and (known == "float32" or has_bfloat16()):
        return known
    num_missing = _num_missing(store, images, views)
    if num_missing is not None and num_missing * part.multiply_adds < MIN_BFLOAT16_WORK:
        return "float32"
    agrees = False
    if part.bfloat16 is not None and (pixels := _first_batch(part, images)) is not None:
        exact, fast = part.float32(pixels).numpy(), part.bfloat16(pixels).numpy()
        agrees = relative_difference(fast, exact) <= MAX_BFLOAT16_DIFFERENCE
    store.remember("precision", "bfloat16" if agrees else "float32")
    return "bfloat16" if agrees else "float32"


def _num_missing(
    store: FeatureStore, images: ImageSplit | tf.data.Dataset, views: ViewPolicy
) -> int | None:
    """Returns the number of rows that are missing; `None` for batches, which are not known."""
    if not isinstance(images, ImageSplit):
        return None
    return int((~store.contains([*chain(*views.keys(images))])).sum())


def _first_batch(part: FrozenPart, images: ImageSplit | tf.data.Dataset) -> tf.Tensor | None:
    """Returns some images as the part takes them; `None` if there are none."""
    if isinstance(images, ImageSplit):
        some = np.arange(min(_BATCH_SIZE, images.num_images))
        images = images.dataset(shuffle=False, indices=some, batch_size=_BATCH_SIZE)
    first = next(iter(images), None)
    return None if first is None else tf.cast(first[0], part.input_dtype)


def _numbered(names: Sequence[str]) -> np.ndarray:
    """Returns a number for each name, `(n,)`, the same for equal names."""
    return np.unique(np.array(names), return_inverse=True)[1]


def _first_of_each(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns the positions of the wanted keys, the first of each, in their order."""
    positions = np.flatnonzero(wanted)
    _, first = np.unique(keys[positions], return_index=True)
    return positions[np.sort(first)]


def _digest(image: np.ndarray | bytes) -> str:
    """Returns a digest of one example's content: an image's pixels or a text's bytes."""
    return hashlib.blake2b(content_of(image), digest_size=16).hexdigest()
