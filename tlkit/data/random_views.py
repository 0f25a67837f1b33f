"""Random augmentation that depends only on a seed per image."""

from typing import Any

import keras
import tensorflow as tf


class RandomCropAndFlip(keras.layers.Layer):
    """Crops images randomly, resizes them to their own size and flips half of them horizontally.

    A single resampling does all three, which is several times cheaper than a flip followed by a
    zoom; a crop of the complete image is exact. A crop of more than the image contains all of it,
    in one direction at least, surrounded by its reflection. During inference images are unchanged.

    Args:
        area: Smallest and largest area of a crop as a fraction of the image's, above 0 and at most
            4 / `stretch`, as far as a single reflection reaches. Without fractions above 1, no crop
            reaches beyond the image.
        stretch: Maximum factor by which the aspect ratio is changed, at least 1.
        seed: Seed of the layer's own random numbers, which are used unless a seed is passed to
            `get_random_transformation`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Example:
        >>> import numpy as np
        >>> from tlkit.data.random_views import RandomCropAndFlip
        >>> layer = RandomCropAndFlip(area=(0.5, 1.0), stretch=1.2)
        >>> layer(np.zeros((2, 8, 8, 3), "float32"), training=True).shape
        TensorShape([2, 8, 8, 3])
    """

    def __init__(
        self,
        area: tuple[float, float] = (0.6, 1.0),
        stretch: float = 1.2,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.area, self.stretch, self.seed = tuple(area), stretch, seed
        self.generator = keras.random.SeedGenerator(seed)

    @property
    def reaches_beyond(self) -> bool:
        """Whether some crops are larger than the image."""
        return self.area[1] > 1

    def call(self, images: tf.Tensor, training: bool = True) -> tf.Tensor:
        """Returns augmented images `(batch, height, width, channels)`."""
        transformation = self.get_random_transformation(images, training=training)
        return self.transform_images(images, transformation, training=training)

    def get_random_transformation(
        self,
        data: tf.Tensor,
        training: bool = True,
        seed: int | keras.random.SeedGenerator | None = None,
    ) -> tf.Tensor | None:
        """Draws boxes `(batch, 4)` for `tf.image.crop_and_resize`.

        The box of a flipped image has its right edge before its left edge.
        """
        if not training:
            return None
        num_images = tf.shape(data)[0] if len(data.shape) == 4 else 1
        seed = self.generator if seed is None else seed
        draws = keras.random.uniform((num_images, 5), seed=seed, dtype="float32")
        area, stretch, top, left, flip = tf.unstack(draws, axis=1)
        area = self.area[0] + (self.area[1] - self.area[0]) * area
        stretch = self.stretch ** (2 * stretch - 1)
        height, width = tf.sqrt(area / stretch), tf.sqrt(area * stretch)
        if not self.reaches_beyond:
            height, width = tf.minimum(height, 1.0), tf.minimum(width, 1.0)
        top, left = top * (1 - height), left * (1 - width)
        edges = left, left + width
        is_flipped = flip < 0.5
        left, right = tf.where(is_flipped, *edges[::-1]), tf.where(is_flipped, *edges)
        return tf.stack([top, left, top + height, right], axis=1)

    def transform_images(
        self, images: tf.Tensor, transformation: tf.Tensor | None, training: bool = True
    ) -> tf.Tensor:
        """Resamples the images `(batch, height, width, channels)` in their boxes."""
        images = tf.cast(images, self.compute_dtype)
        if not training or transformation is None:
            return images
        static_shape, shape = images.shape, tf.shape(images)
        if self.reaches_beyond:
            images, transformation = _surrounded(images, transformation)
        views = tf.image.crop_and_resize(images, transformation, tf.range(shape[0]), shape[1:3])
        return tf.ensure_shape(tf.cast(views, self.compute_dtype), static_shape)

    def get_config(self) -> dict[str, object]:
        """Returns the arguments of `from_config`."""
        config = {"area": self.area, "stretch": self.stretch, "seed": self.seed}
        return {**super().get_config(), **config}


def _surrounded(images: tf.Tensor, boxes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns images extended by their reflections as far as any box reaches, and the boxes there.

    Boxes are those of `tf.image.crop_and_resize`: 0 is the centre of the first pixel of the image,
    1 that of the last.
    """
    steps = tf.cast(tf.shape(images)[1:3], boxes.dtype) - 1  # between the first and the last pixel
    corners = tf.reshape(boxes, (-1, 2))
    before = tf.math.ceil(tf.maximum(-tf.reduce_min(corners, axis=0), 0.0) * steps)
    after = tf.math.ceil(tf.maximum(tf.reduce_max(corners, axis=0) - 1, 0.0) * steps)
    margins = tf.cast(tf.stack([before, after], axis=1), tf.int32)
    extended = tf.pad(images, tf.pad(margins, [[1, 1], [0, 0]]), "REFLECT")
    placed = (corners * steps + before) / tf.maximum(steps + before + after, 1.0)
    return extended, tf.reshape(placed, (-1, 4))


class ImageSeeds(keras.random.SeedGenerator):
    """The random seeds of one image: each draw depends only on its seed and the draw's number.

    Keras draws from a `SeedGenerator` by calling `next`. This one has no state that outlives the
    image, so that a view depends neither on the batch nor on the order of a parallel map.

    Args:
        seed: Two whole numbers, `(2,)`, int32 or int64.
    """

    def __init__(self, seed: tf.Tensor) -> None:
        # The parent's constructor is not called: it would create a variable.
        self.image_seed, self.num_draws = seed, 0

    def next(self, ordered: bool = True) -> tf.Tensor:
        """Returns a seed that no earlier call has returned."""
        self.num_draws += 1
        return tf.random.fold_in(self.image_seed, self.num_draws)


def random_view(image: tf.Tensor, layers: list[keras.layers.Layer], seed: tf.Tensor) -> tf.Tensor:
    """Augments one image by layers that draw all random numbers from `seed`.

    Args:
        image: `(height, width, 3)`, 0...255.
        layers: Keras layers with `get_random_transformation` and `transform_images`.
        seed: Two whole numbers, `(2,)`.

    Returns:
        The view, float32, of the image's shape.
    """
    seeds = ImageSeeds(seed)
    images = tf.cast(image, tf.float32)[tf.newaxis]
    for layer in layers:
        transformation = layer.get_random_transformation(images, training=True, seed=seeds)
        images = layer.transform_images(images, transformation, training=True)
    return images[0]
