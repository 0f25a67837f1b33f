"""Epochs of training images, each in a new order and with new views."""

import keras
import tensorflow as tf

from tlkit.data.augmentation import Augmentation
from tlkit.data.images import ImageSplit
from tlkit.data.mixing import mixed_batches
from tlkit.distribution.shards import Shard
from tlkit.evaluation.data_checks import Images
from tlkit.training.fitting import Batches
from tlkit.training.sources import steps_in_epoch, with_targets

_EPOCHS_PER_STAGE = 1_000_000
"""Offset between the epoch numbers of two stages, so that each has its own orders and views."""


def image_epochs(
    images: Images,
    model: keras.Model,
    augment: Augmentation,
    *,
    stage: int = 0,
    one_hot: bool = False,
    is_balanced: bool = False,
) -> Batches:
    """Returns batches of training images that can start at any epoch and step.

    Args:
        images: The training images; a `tf.data.Dataset` is repeated as it is.
        model: The model, whose loss decides on the form of the labels.
        augment: The augmentation of a split's images.
        stage: Index of the stage of training, from 0.
        one_hot: Whether labels are one-hot, as they must be to mix images of a softmax head.
        is_balanced: Whether an epoch of a split has equally many images of each class.
    """

    def starting_at(epoch: int, step: int, shard: Shard) -> tf.data.Dataset:
        if not isinstance(images, ImageSplit):
            dataset = images.repeat().skip(step)  # not sharded: there is one worker
        else:
            first = stage * _EPOCHS_PER_STAGE
            dataset = images.dataset(
                shuffle=True,
                augment=augment.by_image,
                epochs=range(first + epoch, first + _EPOCHS_PER_STAGE),
                first_batch=step,
                shard=shard,
                is_balanced=is_balanced,
            )
        targets = with_targets(dataset, model, one_hot=one_hot)
        if not augment.mixing or not isinstance(images, ImageSplit):
            return targets
        number = (stage * _EPOCHS_PER_STAGE + epoch) * steps_in_epoch(images) + step
        return mixed_batches(targets, augment.mixing, seed=images.seed, first=number)

    return Batches(starting_at, steps_in_epoch(images))
