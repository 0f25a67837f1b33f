"""Fine-tuning from stored activations: what lies below the cut is frozen, and runs once a view."""

import errno
import os
import shutil
import sqlite3
from dataclasses import dataclass
from math import prod

import keras
import numpy as np

from tlkit.data.images import ImageSplit
from tlkit.distribution.shards import ShardedBatches
from tlkit.models.flattening import above, below
from tlkit.models.graph import with_nested
from tlkit.models.groups import cut_before, group_layers, layer_groups, resolve_group
from tlkit.training.features import Features, extract_features
from tlkit.training.fitting import Batches
from tlkit.training.frozen import FrozenPart
from tlkit.training.objective import targets_of
from tlkit.training.sources import Source
from tlkit.training.still import is_augmenting
from tlkit.training.store import FEATURES_FOLDER, stored_files
from tlkit.training.stored_batches import batches_in_order, one_pass
from tlkit.training.views import PLAIN, ViewPolicy
from tlkit.utils.cache import cache_folder, cache_limit

DEFAULT_VIEWS = 8
MIN_EPOCHS_PER_VIEW = 2
"""Storing pays when each stored view is read at least this often."""

_FLOAT_BYTES = 4
_DISK_SHARE = 0.5


@dataclass(frozen=True)
class CachedCut:
    """A model in two parts, with the first one's outputs stored.

    Attributes:
        top: From the cut to the model's output; shares the model's layers.
        train: Activations of the training images, one view of all after the other.
        validation: Those of the validation images, in float32, or `None`.
        views: How many of each training image.
        num_forward_passes: Images that went through the frozen part.
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
        cut: The model in two parts; `None` where the whole graph runs.
        note: What was stored where, or why the whole graph runs.
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
    """Stores the activations that the first group to train reads, where that is worth its while.

    Returns:
        The cut, or why there is none.
    """
    if not isinstance(source.train, ImageSplit):
        return whole_graph("a tf.data.Dataset may augment its images as it goes")
    first = resolve_group(model, unfreeze)
    if why := why_not_stored(model, first, views=views.number, epochs=epochs):
        return whole_graph(why)
    cut = cut_before(model, layer_groups(model)[first].name)
    part = FrozenPart(below(model, cut))
    if None in part.output_shape:
        return whole_graph("activations that have no one size cannot be stored")
    num_rows = source.train.num_images * views.number
    num_rows += 0 if source.validation is None else source.validation.num_images
    wanted, room = bytes_and_room(part, num_rows, cache)
    if part.workers.any(wanted > room):
        return whole_graph(
            f"storing {wanted / 2**30:.1f} GiB of activations needs more "
            f"than the {room / 2**30:.1f} GiB that may be used"
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
        if not _is_disk_full(error) or part.workers.num_workers > 1:  # the others wait for rows
            raise
        return whole_graph(f"the disk was full while storing activations ({error})")
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
        f"trained on stored activations, {views} of each image, "
        f"in {train.precision}: {train.store.path}",
    )


def whole_graph(reason: str) -> CutDecision:
    """Returns the decision that nothing is stored, and why.

    Example:
        >>> from tlkit.training.cached_cut import whole_graph
        >>> whole_graph("no group is frozen").note
        'the whole graph runs: no group is frozen'
    """
    return CutDecision(None, f"the whole graph runs: {reason}")


def views_of(number: int | None, augment: str) -> ViewPolicy:
    """Returns the views of each image to store, `None` for the usual number of them.

    One is all where nothing changes.
    """
    if number == 0:
        return ViewPolicy(augment, 0)
    return PLAIN if augment == "none" else ViewPolicy(augment, number or DEFAULT_VIEWS)


def why_not_stored(model: keras.Model, first: int, *, views: int, epochs: int | None) -> str:
    """Says what speaks against storing, apart from room on the disk; `None` epochs are many."""
    if first == 0:
        return "no group is frozen"
    if views == 0:
        return "no view is to be stored"
    if epochs is not None and epochs < MIN_EPOCHS_PER_VIEW * views:
        return f"{epochs} epochs are too few to store {views} views"
    if random := _random_layers(model, first):
        return f"{random[0]} gives other activations in every epoch"
    group = layer_groups(model)[first].name
    if not below(model, cut_before(model, group)).weights:
        return f"what was added to the model runs beside what is frozen, from before {group} on"
    return ""


def bytes_and_room(
    part: FrozenPart, num_rows: int, cache: str | os.PathLike[str] | None
) -> tuple[int, int]:
    """Returns the bytes that so many rows of outputs take, and those that they may take."""
    wanted = num_rows * int(prod(part.output_shape)) * _FLOAT_BYTES
    stored = sum(size for path, size in stored_files(cache) if path.name.startswith(part.signature))
    return wanted, min(cache_limit(), stored + int(_DISK_SHARE * _free_bytes(cache)))


def cut_batches(
    cut: CachedCut, model: keras.Model, *, batch_size: int, seed: int, one_hot: bool
) -> Batches:
    """Training batches from stored activations; each epoch reads one view of every image.

    Order and view are functions of the seed and of the epoch's number alone.
    """
    targets = targets_of(cut.train.labels, model, one_hot=one_hot).numpy()
    num_images = len(targets) // cut.views

    def order_of(epoch: int) -> np.ndarray:
        order = np.random.default_rng((seed, epoch)).permutation(num_images)
        return epoch % cut.views * num_images + order

    return batches_in_order(cut.train, targets, order_of, batch_size=batch_size)


def cut_validation(
    cut: CachedCut, model: keras.Model, *, batch_size: int, one_hot: bool
) -> ShardedBatches | None:
    """One pass over the stored activations of the validation images."""
    if cut.validation is None:
        return None
    targets = targets_of(cut.validation.labels, model, one_hot=one_hot).numpy()
    return one_pass(cut.validation, targets, batch_size=batch_size)


def _random_layers(model: keras.Model, first: int) -> list[str]:
    """Names the layers of the user's own that augment images before the group `first`."""
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
