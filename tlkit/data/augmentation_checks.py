"""The check of an augmentation on some images, before they are used in training."""

import numpy as np

from tlkit.data.augmentation import Augmentation
from tlkit.data.images import ImageSplit, check_takes_augmentation
from tlkit.data.missing_files import missing_files_named

_NUM_CHECKED = 8


def augmentation_for(augmentation: Augmentation, images: object) -> Augmentation:
    """Returns how training images are augmented where "default" is the default: others are not.

    Args:
        augmentation: The argument.
        images: The training images, a split or a `tf.data.Dataset`.

    Raises:
        ArgumentError: These are no images, and another augmentation than the default was given.
    """
    if not isinstance(images, ImageSplit) or images.has_images:
        return augmentation
    if augmentation.preset != "default":
        check_takes_augmentation(augmentation, images)
    return Augmentation("none")


def check_augmentation(augmentation: Augmentation, split: ImageSplit) -> None:
    """Checks the user's layers on some images of a split; presets need no check.

    Raises:
        ArgumentError: The layers do not return images of the same shape with values 0...255, or not
            the same ones for the same seed; or these are no images.
        DataError: The images have changed or cannot be read.

    Example:
        >>> import keras, numpy as np, tlkit
        >>> from tlkit.data.augmentation import augmentation_of
        >>> from tlkit.data.augmentation_checks import check_augmentation
        >>> images = np.random.default_rng(0).integers(0, 255, (20, 8, 8, 3), "uint8")
        >>> data = tlkit.load_arrays(images, np.arange(20) % 2)
        >>> check_augmentation(augmentation_of(keras.layers.RandomFlip()), data.train)
    """
    check_takes_augmentation(augmentation, split)
    if not augmentation.layers:
        return
    from tlkit.data.layer_views import check_layers

    number = min(_NUM_CHECKED, split.num_images)
    rows = np.linspace(0, split.num_images - 1, number).astype(np.int64)
    batches = split.dataset(shuffle=False, indices=rows, batch_size=number, keep=False)
    with missing_files_named([split]):
        images = next(iter(batches))[0].numpy()
    check_layers(augmentation.layers, images)
