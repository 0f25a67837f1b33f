"""Mixing of training images and their labels within a batch: mixup and CutMix."""

import tensorflow as tf

MIXUP, CUTMIX = "mixup", "cutmix"
MIXUP_ALPHA, CUTMIX_ALPHA = 0.2, 1.0
"""Parameter of the symmetric beta distribution of the shares, as in the papers for ImageNet."""

Mixed = tuple[tf.Tensor, tf.Tensor]


def mix(kind: str, images: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor) -> Mixed:
    """Mixes each image of a batch with another one of it, and their targets in the same shares.

    - "mixup": the weighted mean of both images, share * image + (1 - share) * other, with a share
      from the distribution Beta(0.2, 0.2).
    - "cutmix": a rectangle of the image is replaced by that of the other one; the share is the
      fraction of the area that is left, from Beta(1, 1), the uniform distribution, except that the
      rectangle is cut off at the edges.

    The other image is that of a random permutation of the batch, possibly the image itself.

    Args:
        kind: "mixup" or "cutmix".
        images: `(batch, height, width, channels)`, 0...255.
        targets: `(batch, num_outputs)`: one-hot, or 0/1 for each label.
        seed: Two whole numbers, `(2,)`, on which alone the result depends.

    Returns:
        The mixed images and targets, float32, of the same shapes.

    Example:
        >>> import numpy as np, tensorflow as tf
        >>> from tlkit.data.mixing import mix
        >>> images = np.stack([np.zeros((4, 4, 3)), np.full((4, 4, 3), 200)])
        >>> mixed, targets = mix("mixup", images, np.eye(2), tf.constant([0, 1]))
        >>> bool(np.allclose(mixed[:, 0, 0, 0], 200 * targets[:, 1]))
        True

    Reference:
        Zhang et al. (2018), mixup, https://arxiv.org/abs/1710.09412; Yun et al. (2019), CutMix,
        https://arxiv.org/abs/1905.04899.
    """
    images, targets = tf.cast(images, tf.float32), tf.cast(targets, tf.float32)
    seeds = tf.random.split(seed, 4)
    other = tf.random.experimental.stateless_shuffle(tf.range(tf.shape(images)[0]), seeds[0])
    alpha = MIXUP_ALPHA if kind == MIXUP else CUTMIX_ALPHA
    share = _beta(alpha, tf.shape(images)[:1], seeds[1:3])
    if kind == MIXUP:
        of_pixels = tf.reshape(share, [-1, 1, 1, 1])
    else:
        of_pixels = 1 - _rectangles(tf.shape(images), 1 - share, seeds[3])
        share = tf.reduce_mean(of_pixels, axis=[1, 2, 3])
    mixed = of_pixels * images + (1 - of_pixels) * tf.gather(images, other)
    of_targets = share[:, tf.newaxis]
    return mixed, of_targets * targets + (1 - of_targets) * tf.gather(targets, other)


def mixed_batches(dataset: tf.data.Dataset, kind: str, *, seed: int, first: int) -> tf.data.Dataset:
    """Mixes the batches of a dataset, which depend on `seed` and on their number only.

    The sample weight of a mixed image is that of the image itself.

    Args:
        dataset: Batches of images, targets and, optionally, sample weights.
        kind: "mixup" or "cutmix".
        seed: The seed.
        first: The number of the first batch, so that a training can be resumed at any batch.
    """

    @tf.autograph.experimental.do_not_convert
    def mixed(number: tf.Tensor, batch: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
        images, targets, *weights = batch
        pair = mix(kind, images, targets, tf.stack([tf.constant(seed, tf.int64), number]))
        return (*pair, *weights)

    return dataset.enumerate(first).map(mixed, num_parallel_calls=tf.data.AUTOTUNE)


def _beta(alpha: float, shape: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
    """Returns numbers from the symmetric beta distribution, as shares of two gamma variables."""
    one, two = (
        tf.random.stateless_gamma(shape, seeds[number], alpha, dtype=tf.float64)
        for number in range(2)
    )
    total = one + two  # 0 where both are too small for a float
    share = tf.where(total > 0, one / tf.where(total > 0, total, 1.0), 0.5)
    return tf.cast(share, tf.float32)


def _rectangles(shape: tf.Tensor, area: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Returns masks with 1 in rectangles of a share of the area, `(batch, height, width, 1)`.

    Their centres are anywhere, and what is beyond the edges is cut off.
    """
    sides = tf.sqrt(area)[:, tf.newaxis] / 2
    centres = tf.random.stateless_uniform([2, shape[0], 1], seed)

    def inside(centre: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
        places = (tf.range(size, dtype=tf.float32) + 0.5) / tf.cast(size, tf.float32)
        return tf.cast(tf.abs(places[tf.newaxis] - centre) < sides, tf.float32)

    rows, columns = inside(centres[0], shape[1]), inside(centres[1], shape[2])
    return (rows[:, :, tf.newaxis] * columns[:, tf.newaxis, :])[..., tf.newaxis]
