"""Fine-tuning on stored activations: the frozen part below the cut runs once for each view."""

import errno
import os
import shutil
import sqlite3
from dataclasses import dataclass
from math import prod

import keras
import numpy as np

from tlkit.data.augmentation import Augmentation
from tlkit.data.balanced_draws import BalancedDraws
from tlkit.data.images import ImageSplit
from tlkit.distribution.shards import ShardedBatches
from tlkit.models.flattening import above, below
from tlkit.models.graph import with_nested
from tlkit.models.groups import cut_before, group_layers, layer_groups, resolve_group
from tlkit.training.criterion import plain_labels
from tlkit.training.features import Features, extract_features
from tlkit.training.fitting import Batches
from tlkit.training.frozen import FrozenPart
from tlkit.training.inference_mode import is_augmenting
from tlkit.training.objective import targets_of
from tlkit.training.sources import Source
from tlkit.training.store import FEATURES_FOLDER, stored_files
from tlkit.training.stored_batches import batches_in_order, one_pass
from tlkit.training.views import PLAIN, ViewPolicy
from tlkit.utils.cache import cache_folder, cache_limit

MIN_EPOCHS_PER_VIEW = 2
"""Minimum number of times each stored view must be read for storing to save time."""

_FLOAT_BYTES = 4
_DISK_FRACTION = 0.5


@dataclass(frozen=True)
class CachedCut:
    """A model split at a cut, and the stored activations at that cut.

    Attributes:
        top: The part from the cut to the model's output; shares the model's layers.
        train: Activations of the training images, ordered by view.
        validation: Activations of the validation images, in float32, or `None`.
        views: Number of stored views of each training image.
        num_forward_passes: Number of images that went through the frozen part.
    """

    top: keras.Model
    train: Features
    validation: Features | None
    views: int
    num_forward_passes: int


@dataclass(frozen=True)
class CutDecision:
    """Whether training reads stored activations.

    Attributes:
        cut: The split model; `None` if the whole graph runs.
        note: What is stored and where, or why the whole graph runs.
    """

    cut: CachedCut | None
    note: str


def cached_cut(
    model: keras.Model,
    source: Source,
    unfreeze: str | int,
    *,
    views: ViewPolicy,
    epochs: int,
    cache: str | os.PathLike[str] | None,
) -> CutDecision:
    """Stores the activations that the first trainable group reads, if that saves time.

    Returns:
        The cut, or the reason why there is none.
    """
    if not isinstance(source.train, ImageSplit):
        return uncached("a tf.data.Dataset may augment its images differently in every epoch")
    first = resolve_group(model, unfreeze)
    if why := reason_not_to_store(model, first, views=views.number, epochs=epochs):
        return uncached(why)
    cut = cut_before(model, layer_groups(model)[first].name)
    part = FrozenPart(below(model, cut))
    if None in part.output_shape:
        return uncached("activations without a fixed shape cannot be stored")
    num_rows = source.train.num_images * views.number
    num_rows += 0 if source.validation is None else source.validation.num_images
    wanted, room = required_and_available_bytes(part, num_rows, cache)
    if part.workers.any(wanted > room):
        return uncached(
            f"the activations need {wanted / 2**30:.1f} GiB, and the cache may use "
            f"{room / 2**30:.1f} GiB"
        )
    try:
        train = extract_features(
            part,
            source.train,
            exact=False,
            views=views,
            compact=True,
            cache=cache,
        )
        validation = None
        if source.validation is not None:
            validation = extract_features(part, source.validation, exact=True, cache=cache)
    except (OSError, sqlite3.OperationalError) as error:
        # with several workers the others would wait for this one's rows
        if not _is_disk_full(error) or part.workers.num_workers > 1:
            raise
        return uncached(f"the disk was full while storing activations ({error})")
    stored = CachedCut(
        top=above(model, cut),
        train=train,
        validation=validation,
        views=views.number,
        num_forward_passes=train.num_forward_passes
        + (validation.num_forward_passes if validation else 0),
    )
    return CutDecision(
        stored,
        f"trained on stored activations, {views} of each image, computed {train.note}",
    )


def uncached(reason: str) -> CutDecision:
    """Returns the decision to store nothing, with the reason.

    Example:
        >>> from tlkit.training.cached_cut import uncached
        >>> uncached("no group is frozen").note
        'the whole graph runs: no group is frozen'
    """
    return CutDecision(None, f"the whole graph runs: {reason}")


def view_policy_for(number: int | None, augmentation: Augmentation) -> ViewPolicy:
    """Returns which views of each image to store; by default none that are augmented.

    Without augmentation all views are equal, and one is stored unless `number` is 0.
    """
    if augmentation.is_none and number != 0:
        return PLAIN
    return ViewPolicy(augmentation, number or 0)


def reason_not_to_store(model: keras.Model, first: int, *, views: int, epochs: int | None) -> str:
    """Returns why activations are not to be stored, apart from disk space, else "".

    `epochs=None` stands for a number of epochs that is large enough.
    """
    if first == 0:
        return "no group is frozen"
    if views == 0:
        return "each epoch augments the images anew"
    if epochs is not None and epochs < MIN_EPOCHS_PER_VIEW * views:
        return f"{epochs} epochs are too few to store {views} views"
    if random := _random_layers(model, first):
        return f"{random[0]} computes different activations in every epoch"
    group = layer_groups(model)[first].name
    if not below(model, cut_before(model, group)).weights:
        return f"layers added to the model run in parallel with the frozen ones before {group}"
    return ""


def required_and_available_bytes(
    part: FrozenPart, num_rows: int, cache: str | os.PathLike[str] | None
) -> tuple[int, int]:
    """Returns the bytes that `num_rows` rows of outputs need, and the bytes they may take."""
    wanted = num_rows * int(prod(part.output_shape)) * _FLOAT_BYTES
    stored = sum(size for path, size in stored_files(cache) if path.name.startswith(part.signature))
    return wanted, min(cache_limit(), stored + int(_DISK_FRACTION * _free_bytes(cache)))


def cut_batches(
    cut: CachedCut,
    model: keras.Model,
    *,
    batch_size: int,
    seed: int,
    one_hot: bool,
    is_balanced: bool = False,
) -> Batches:
    """Returns training batches of stored activations; each epoch reads one view of every image.

    If balanced, it reads equally many images of each class. Order and view depend on the seed and
    the epoch's number only.
    """
    targets = targets_of(cut.train.labels, model, one_hot=one_hot).numpy()
    num_images = len(targets) // cut.views

    draws = None
    if is_balanced:
        draws = BalancedDraws.of(plain_labels(cut.train.labels, model)[:num_images])

    def order_of(epoch: int) -> np.ndarray:
        if draws is None:
            order = np.random.default_rng((seed, epoch)).permutation(num_images)
            return epoch % cut.views * num_images + order
        drawn, copies = draws.epoch(seed, epoch)
        # copies of an image in one epoch are its views one after the other
        views: np.ndarray = (epoch + copies.numpy()) % cut.views
        return np.asarray(views * num_images + drawn.numpy())

    return batches_in_order(cut.train, targets, order_of, batch_size=batch_size)


def cut_validation(
    cut: CachedCut, model: keras.Model, *, batch_size: int, one_hot: bool
) -> ShardedBatches | None:
    """Returns one pass over the stored activations of the validation images."""
    if cut.validation is None:
        return None
    targets = targets_of(cut.validation.labels, model, one_hot=one_hot).numpy()
    return one_pass(cut.validation, targets, batch_size=batch_size)


def _random_layers(model: keras.Model, first: int) -> list[str]:
    """Returns the names of the augmenting layers before the group `first`."""
    below = [layer for layers in group_layers(model)[:first] for layer in layers]
    return [
        nested.name for layer in below for nested in with_nested(layer) if is_augmenting(nested)
    ]


def _free_bytes(cache: str | os.PathLike[str] | None) -> int:
    folder = cache_folder(FEATURES_FOLDER) if cache is None else cache
    os.makedirs(folder, exist_ok=True)
    return shutil.disk_usage(folder).free


def _is_disk_full(error: Exception) -> bool:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or "disk is full" in str(error)
