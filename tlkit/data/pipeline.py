"""The `tf.data` pipelines from a split's rows to batches of images."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tlkit.data.augmentation import Augmentation, augmentation_layers
from tlkit.data.balanced_draws import BalancedDraws
from tlkit.data.checksums import file_reader
from tlkit.data.file_decoding import file_decoder
from tlkit.data.image_source import ImageSource
from tlkit.data.kept_pixels import cached_pixels
from tlkit.data.layer_views import build_layers, layer_view
from tlkit.data.random_views import random_view
from tlkit.data.resizing import resize_image

NO_ROW = -1
_EPOCHS_PER_COPY = 2**40
"""Offset of the epoch in the random numbers of an image that an epoch has several times."""


def image_batches(
    source: ImageSource,
    rows: np.ndarray,
    shuffle: bool,
    augmentation: Augmentation,
    *,
    epochs: range | None,
    batch_size: int,
    first_batch: int = 0,
    shard: tuple[int, int] = (0, 1),
    keep: bool = True,
    is_balanced: bool = False,
) -> tf.data.Dataset:
    """Builds the data set of `ImageSplit.dataset`, which documents and checks the arguments."""
    num_rows = len(rows)
    batch_size = max(min(batch_size, num_rows), 1)
    shard_size = -(-batch_size // shard[1])
    view = _view_function(augmentation, source.image_shape)
    memory_reader = _pixels_in_memory(source, rows, keep=keep and shard[1] == 1)
    read = memory_reader or _pixel_reader(source)
    with tf.device("CPU:0"):
        draws = BalancedDraws.of(source.labels[rows]) if is_balanced else None
        labels = tf.constant(source.labels)
        keys = tf.constant(source.keys if view else [], tf.int64)
        rows = tf.constant(rows, tf.int64)
    seed = tf.constant(source.seed, tf.int64)

    def load(row: tf.Tensor, epoch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = read(row)
        if view:
            image_seed = tf.random.fold_in(tf.stack([seed, epoch]), tf.gather(keys, row))
            image = view(image, image_seed)
        return image, tf.gather(labels, row)

    batch_rows = _batch_rows_function(
        _order_function(rows, seed, shuffle, draws, source.num_images),
        num_rows,
        batch_size=batch_size,
        first_batch=first_batch,
        shard=shard,
    )

    without_autograph = tf.autograph.experimental.do_not_convert

    def whole_batches(number: tf.Tensor, epoch: tf.Tensor) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices(batch_rows(number, epoch))

    def gather(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        rows = rows[: tf.math.count_nonzero(rows != NO_ROW)] % source.num_images
        return _in_batch_type(read(rows), source), tf.gather(labels, rows)

    def one_by_one(number: tf.Tensor, epoch: tf.Tensor) -> tf.data.Dataset:
        order = tf.reshape(batch_rows(number, epoch), [-1])
        return tf.data.Dataset.from_tensor_slices(order).map(
            without_autograph(lambda row: _row_and_epoch(row, epoch, source.num_images))
        )

    load_or_fill = _padded(load, source.image_shape, labels, tf.float32 if view else tf.uint8)

    # Images are cast to float after batching: a quarter of the bytes are copied into the batch.
    def drop_filler(
        images: tf.Tensor, labels: tf.Tensor, is_row: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        count = tf.math.count_nonzero(is_row)
        return tf.cast(images[:count], tf.float32), labels[:count]

    epoch_numbers = _epoch_numbers(epochs, source.seed)
    num_batches = -(-num_rows // batch_size) * (1 if epochs is None else len(epochs)) - first_batch
    if memory_reader and not view:
        batches = (
            epoch_numbers.enumerate()
            .flat_map(without_autograph(whole_batches))
            .map(without_autograph(gather))
        )
    else:
        batches = (
            epoch_numbers.enumerate()
            .flat_map(without_autograph(one_by_one))
            .map(
                without_autograph(load_or_fill),
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )
            .batch(shard_size, drop_remainder=True)
            .map(without_autograph(drop_filler))
        )
    counted = batches.apply(tf.data.experimental.assert_cardinality(num_batches))
    return counted.prefetch(tf.data.AUTOTUNE)


def _view_function(
    augmentation: Augmentation, image_shape: tuple[int, int, int]
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None:
    """Returns a function from an image and its seed to a view of it; `None` if it is unchanged."""
    if augmentation.is_none:
        return None
    if augmentation.layers:
        build_layers(augmentation.layers, image_shape)
        return lambda image, seed: layer_view(image, augmentation.layers, seed)
    layers = augmentation_layers(augmentation.preset)
    return lambda image, seed: random_view(image, layers, seed)


def _epoch_numbers(epochs: range | None, seed: int) -> tf.data.Dataset:
    """The number of each epoch; for `None` of one, another in each iteration."""
    if epochs is not None:
        return tf.data.Dataset.range(epochs.start, epochs.stop, epochs.step)
    return tf.data.Dataset.random(seed, rerandomize_each_iteration=True).take(1)


def batch_reader(source: ImageSource) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Returns a function from rows of a source to a batch `(images, labels)` of them."""
    memory_reader = _pixels_in_memory(source, np.arange(source.num_images), keep=True)
    read = memory_reader or _pixel_reader(source)

    def images_of(rows: tf.Tensor) -> tf.Tensor:
        with tf.device("CPU:0"):
            if not memory_reader:
                spec = tf.TensorSpec(source.image_shape, tf.uint8)
                return tf.cast(tf.map_fn(read, rows, fn_output_signature=spec), tf.float32)
            return _in_batch_type(memory_reader(rows), source)

    traced = tf.function(
        images_of, input_signature=[tf.TensorSpec([None], tf.int64)], autograph=False
    )
    is_text = source.pixels is not None and source.pixels.dtype == object
    if is_text:  # Keras takes no arrays of texts
        return lambda rows: (traced(rows), source.labels[rows])
    return lambda rows: (traced(rows).numpy(), source.labels[rows])


def shuffled(rows: tf.Tensor, seed: tf.Tensor | int, epoch: tf.Tensor | int) -> tf.Tensor:
    """Returns the rows in the order of an epoch, which depends only on the seed and its number."""
    return tf.random.experimental.stateless_shuffle(rows, seed=tf.stack([seed, epoch]))


def _padded(
    load: Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]],
    image_shape: tuple[int, int, int],
    labels: tf.Tensor,
    pixel_type: tf.DType,
) -> Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
    """Returns `load` with whether there is an image, and zeros in the place of `NO_ROW`."""

    def load_or_fill(row: tf.Tensor, epoch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        filler = (tf.zeros(image_shape, pixel_type), tf.zeros(labels.shape[1:], labels.dtype))
        is_row = row != NO_ROW
        image, label = tf.cond(is_row, lambda: load(row, epoch), lambda: filler)
        return image, label, is_row

    return load_or_fill


def _order_function(
    rows: tf.Tensor,
    seed: tf.Tensor,
    shuffle: bool,
    draws: BalancedDraws | None,
    num_images: int,
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a function from an epoch to the rows in its order.

    To the rows of a copy of an image, which `draws` may have several of, the number of the copy
    times `num_images` is added.
    """

    def order_of(epoch: tf.Tensor) -> tf.Tensor:
        if draws is not None:
            positions, copies = draws.epoch(seed, epoch)
            return tf.gather(rows, positions) + copies * num_images
        return shuffled(rows, seed, epoch) if shuffle else rows

    return order_of


def _row_and_epoch(
    row: tf.Tensor, epoch: tf.Tensor, num_images: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the row of an image, and the epoch whose random numbers its copy gets."""
    copy, own = row // num_images, tf.where(row == NO_ROW, row, row % num_images)
    return own, epoch + tf.maximum(copy, 0) * _EPOCHS_PER_COPY


def _batch_rows_function(
    order_of: Callable[[tf.Tensor], tf.Tensor],
    num_rows: int,
    *,
    batch_size: int,
    first_batch: int,
    shard: tuple[int, int],
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Returns a function that gives the rows of each batch, or of its shard, in one epoch.

    All epochs run through one pipeline without restarting it. The last batch is padded with
    `NO_ROW`, which is not read, so that no batch spans two epochs.
    """
    index, num_shards = shard
    shard_size = -(-batch_size // num_shards)

    def batch_rows(number: tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
        order = tf.pad(order_of(epoch), [[0, -num_rows % batch_size]], constant_values=NO_ROW)
        if first_batch:
            order = order[tf.where(number == 0, first_batch * batch_size, 0) :]
        if num_shards > 1:
            padding = [[0, 0], [0, shard_size * num_shards - batch_size]]
            order = tf.reshape(order, [-1, batch_size])
            order = tf.pad(order, padding, constant_values=NO_ROW)[:, index::num_shards]
        return tf.reshape(order, [-1, shard_size])

    return batch_rows


def _in_batch_type(examples: tf.Tensor, source: ImageSource) -> tf.Tensor:
    """Returns images as float32, and inputs of another kind unchanged."""
    return tf.cast(examples, tf.float32) if source.has_images else examples


def _pixels_in_memory(
    source: ImageSource, rows: np.ndarray, *, keep: bool
) -> Callable[[tf.Tensor], tf.Tensor] | None:
    """Returns a function from one or several of `rows` to uint8 images of the split's size.

    For inputs of another kind, to what is in memory.

    `None` if the images are not in memory in that size.
    """
    if source.pixels is not None:
        if source.has_images and source.pixels.shape[1:3] != source.image_size:
            return None
        with tf.device("CPU:0"):
            pixels = tf.constant(source.pixels)
        return lambda rows: tf.gather(pixels, rows)
    cached = cached_pixels(source, rows, _decoder_of(source)) if keep else None
    if cached is None:
        return None
    places = np.zeros(source.num_images, np.int64)
    places[rows] = np.arange(len(rows))
    with tf.device("CPU:0"):
        pixels, positions = tf.constant(cached), tf.constant(places)
    return lambda rows: tf.gather(pixels, tf.gather(positions, rows))


def _pixel_reader(source: ImageSource) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a function from a row to its image, which is decoded or resized on request."""
    if source.pixels is None:
        decode = _decoder_of(source)
        read = file_reader(source.paths, source.checksums)
        return lambda row: decode(read(row))
    with tf.device("CPU:0"):
        pixels = tf.constant(source.pixels)
    return lambda row: resize_image(tf.gather(pixels, row), source.image_size, source.resize)


def _decoder_of(source: ImageSource) -> Callable[[tf.Tensor], tf.Tensor]:
    return file_decoder(source.image_size, source.max_pixels, source.resize, source.channels)
