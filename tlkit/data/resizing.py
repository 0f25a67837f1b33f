"""How an image is brought to a given size in the graph: stretched, cropped or padded."""

from typing import TypeAlias

import tensorflow as tf

from tlkit.data.settings import CROP, PAD, PAD_VALUE, STRETCH

ANTIALIASED_REDUCTION = 2.0

Sides: TypeAlias = tuple[int, int] | tf.Tensor
"""Height and width."""


def resize_image(image: tf.Tensor, image_size: Sides, resize: str = STRETCH) -> tf.Tensor:
    """Returns the image `(height, width, channels)`, uint8, brought to `image_size`, rounded.

    Resampling is bilinear; it is antialiased if the reduction factor (the geometric mean of both
    sides' factors) exceeds two.

    Args:
        image: An upright image.
        image_size: Height and width of the result in pixels.
        resize: "stretch" changes the aspect ratio. "crop" resamples the largest centred rectangle
            of the result's aspect ratio; in the terms of evaluation crops, the crop fraction is 1.
            "pad" scales the whole image to fit and fills the borders with grey, 127. With an odd
            number of surplus or missing pixels, one more is at the bottom or on the right.

    Example:
        >>> import tensorflow as tf
        >>> from tlkit.data.resizing import resize_image
        >>> image = tf.reshape(tf.constant([10, 20, 30, 40], tf.uint8), (1, 4, 1))
        >>> resize_image(image, (2, 2), "crop")[..., 0].numpy().tolist()
        [[20, 20], [20, 20]]
        >>> resize_image(image, (3, 4), "pad")[..., 0].numpy().tolist()
        [[127, 127, 127, 127], [10, 20, 30, 40], [127, 127, 127, 127]]
    """
    if resize == CROP:
        image = cut_box(image, centre_box(tf.shape(image)[:2], image_size))
    scaled = scale_image(image, scaled_sides(tf.shape(image)[:2], image_size, resize))
    return pad_image(scaled, image_size) if resize == PAD else scaled


def scaled_sides(sides: tf.Tensor, image_size: Sides, resize: str) -> Sides:
    """Returns height and width to scale an image to; a cropped one is cropped before.

    Args:
        sides: The image's height and width.
        image_size: Height and width of the result.
        resize: See `resize_image`.
    """
    return _largest_within(image_size, sides) if resize == PAD else image_size


def centre_box(
    sides: tf.Tensor, image_size: Sides, is_reversed: tuple[bool, bool] | tf.Tensor = (False, False)
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the first row and column of the largest centred part, and those after its last.

    It has the aspect ratio of `image_size` to within half a pixel.

    Args:
        sides: Height and width of the image.
        image_size: Height and width of the result.
        is_reversed: For each side whether the image is stored in reversed order, so that an odd
            surplus has its one more pixel at the other end.
    """
    kept = _largest_within(sides, image_size)
    surplus = sides - kept
    start = tf.where(is_reversed, surplus - surplus // 2, surplus // 2)
    return start, start + kept


def cut_box(
    image: tf.Tensor, box: tuple[tf.Tensor, tf.Tensor], reduction: int | tf.Tensor = 1
) -> tf.Tensor:
    """Returns the part of an image in a box, to be scaled afterwards.

    Scaling first would make an extremely elongated image large.

    Args:
        image: `(height, width, channels)`.
        box: As `centre_box` returns it.
        reduction: The factor by which the image is smaller than the one that the box refers to.
    """
    start, end = ((2 * corner + reduction) // (2 * reduction) for corner in box)
    end = tf.minimum(end, tf.shape(image)[:2])
    start = tf.minimum(start, end - 1)
    return tf.slice(image, tf.concat([start, [0]], 0), tf.concat([end - start, [-1]], 0))


def scale_image(image: tf.Tensor, sides: Sides) -> tf.Tensor:
    """Returns the image stretched to `sides`, antialiased if that reduces it to less than half."""
    own_sides = tf.cast(tf.shape(image)[:2], tf.float32)
    reduction = tf.sqrt(tf.reduce_prod(own_sides / tf.cast(sides, tf.float32)))
    return tf.cond(
        reduction > ANTIALIASED_REDUCTION,
        lambda: resample(image, sides, antialias=True),
        lambda: resample(image, sides),
    )


def resample(image: tf.Tensor, sides: Sides, antialias: bool = False) -> tf.Tensor:
    """Returns the image, uint8, stretched to `sides` by bilinear interpolation, rounded."""
    resized = tf.image.resize(image, sides, antialias=antialias)
    return tf.cast(tf.round(resized), tf.uint8)


def pad_image(image: tf.Tensor, image_size: Sides) -> tf.Tensor:
    """Returns the image centred on grey of `image_size`, which is at least as large."""
    missing = tf.cast(image_size, tf.int32) - tf.shape(image)[:2]
    before = missing // 2
    borders = tf.stack([before, missing - before], axis=1)
    return tf.pad(image, tf.concat([borders, [[0, 0]]], 0), constant_values=PAD_VALUE)


def _largest_within(bounds: Sides, aspect: Sides) -> tf.Tensor:
    """Returns height and width of the largest rectangle within bounds with an aspect ratio.

    In whole numbers, as floating point may round a side up or down: one side is that of the bounds,
    the other is rounded to the nearest pixel, and at least one.
    """
    bounds, aspect = tf.cast(bounds, tf.int64), tf.cast(aspect, tf.int64)
    others = aspect[::-1]
    nearest = (2 * bounds[::-1] * aspect + others) // (2 * others)
    return tf.cast(tf.minimum(bounds, tf.maximum(nearest, 1)), tf.int32)
