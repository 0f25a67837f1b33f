"""What training on several replicas asks of its arguments, and says of itself."""

import tensorflow as tf

from tlkit.data.images import ImageSplit
from tlkit.distribution.workers import Workers
from tlkit.errors import ArgumentError
from tlkit.training.recipe import Recipe
from tlkit.training.sources import Images


def check_spread(strategy: tf.distribute.Strategy, recipe: Recipe, images: Images) -> None:
    """Raises `ArgumentError` where a recipe means something else on several replicas."""
    number = int(strategy.num_replicas_in_sync)
    if number == 1:
        return
    if recipe.batch_norm == "train":
        raise ArgumentError(
            "`batch_norm` must be 'frozen' on several replicas: each would keep the statistics of "
            f"its own share. Received: batch_norm='train' and {number} replicas. Leave it out, or "
            "train on one device."
        )
    if isinstance(images, ImageSplit) and images.batch_size < number:
        raise ArgumentError(
            "`batch_size` must be at least the number of replicas, for they share out each batch. "
            f"Received: batch_size={images.batch_size} and {number} replicas. Load the data with "
            f"batch_size={8 * number}, say."
        )


def batch_notes(strategy: tf.distribute.Strategy, images: Images) -> list[str]:
    """Says how batches were shared out and what rates mean; nothing on one device."""
    number = int(strategy.num_replicas_in_sync)
    if number == 1:
        return []
    workers = Workers(strategy).num_workers
    where = f"{workers} workers" if workers > 1 else "one machine"
    size = ""
    if isinstance(images, ImageSplit):
        size = f" of {images.batch_size} images, {images.batch_size / number:.3g} on each"
    return [
        f"batches{size}, shared out among {number} replicas on {where}; steps and rates are those "
        "of one device with the same batches: rates are not scaled. Where larger batches are to "
        "make use of the replicas, the square root of their growth is usual for AdamW's rate"
    ]
