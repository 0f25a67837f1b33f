"""The two forms in which both training functions take images, made one."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from tlkit.data.images import ImageData, ImageSplit
from tlkit.distribution.shares import WHOLE, Share
from tlkit.distribution.strategies import strategy_of
from tlkit.distribution.workers import Workers, check_can_be_shared
from tlkit.errors import ArgumentError, DataError
from tlkit.evaluation.checks import check_batches, check_size
from tlkit.models.graph import model_ends
from tlkit.training.objective import targets_of

Images: TypeAlias = ImageSplit | tf.data.Dataset


@dataclass(frozen=True)
class Source:
    """Images to train on and images to decide on.

    Attributes:
        train: What is trained on.
        validation: What decisions are made on, or `None`.
        data: What both are of, unless they are data sets of the user's own.
    """

    train: Images
    validation: Images | None
    data: ImageData | None


def source_of(
    model: keras.Model, data: ImageData | tf.data.Dataset, validation: Images | None
) -> Source:
    """Checks data against the model.

    Raises:
        ArgumentError: `data` is neither, has no end, does not come in batches with labels, or is a
            `tf.data.Dataset` where there are several workers; `validation` is given twice; the
            model has several inputs or outputs, another number of classes, or takes another image
            size.
        DataError: There is no image.
    """
    model_ends(model)
    for argument, images in (("data", data), ("validation", validation)):
        if isinstance(images, tf.data.Dataset):
            check_batches(argument, images, model.inputs[0].shape)
            check_can_be_shared(argument, Workers(strategy_of(model)))
        _check_not_empty(argument, images)
    if isinstance(data, tf.data.Dataset):
        return Source(data, validation, None)
    if not isinstance(data, ImageData):
        raise ArgumentError(
            "`data` must be what load_folder, load_arrays or load_tfds returned, or a "
            f"tf.data.Dataset. Received: data of type {type(data).__name__}."
        )
    if validation is not None:
        raise ArgumentError(
            "`validation` must be left out where `data` has a validation split of its own. "
            "Give a tf.data.Dataset as `data` to choose both."
        )
    _check_fit(model, data)
    _check_not_empty("data.train", data.train)
    _check_not_empty("data.validation", data.validation)
    return Source(data.train, data.validation, data)


def batches_of(
    images: Images, model: keras.Model, *, one_hot: bool = False, share: Share = WHOLE
) -> tf.data.Dataset:
    """Returns one pass over the images in their order, with labels as the loss takes them."""
    # a tf.data.Dataset is read whole: there is one worker
    dataset = (
        images.dataset(shuffle=False, share=share) if isinstance(images, ImageSplit) else images
    )
    return with_targets(dataset, model, one_hot=one_hot)


def with_targets(
    dataset: tf.data.Dataset, model: keras.Model, *, one_hot: bool = False
) -> tf.data.Dataset:
    """Maps the labels of a data set into the form that the model's loss takes."""

    @tf.autograph.experimental.do_not_convert
    def translate(images: tf.Tensor, labels: tf.Tensor, *weights: tf.Tensor) -> tuple[Any, ...]:
        return images, targets_of(labels, model, one_hot=one_hot), *weights

    return dataset.map(translate, num_parallel_calls=tf.data.AUTOTUNE)


def steps_in_epoch(images: Images) -> int:
    """Batches in one epoch."""
    if isinstance(images, ImageSplit):
        return -(-images.num_images // images.batch_size)
    steps = int(images.cardinality())
    return sum(1 for _ in images) if steps == tf.data.UNKNOWN_CARDINALITY else steps


def _check_not_empty(argument: str, images: object) -> None:
    if isinstance(images, ImageSplit):
        is_empty = not images.num_images
    elif isinstance(images, tf.data.Dataset):
        known = int(images.cardinality())
        is_empty = not known or (
            known == tf.data.UNKNOWN_CARDINALITY and not any(True for _ in images.take(1))
        )
    else:
        return
    if is_empty:
        raise DataError(f"`{argument}` must hold images. Received: none. Give some, or None.")


def _check_fit(model: keras.Model, data: ImageData) -> None:
    expected = model.output_shape[-1]
    binary = expected == 1 and data.num_classes == 2
    if not binary and expected != data.num_classes:
        raise ArgumentError(
            f"`model` must have one output per class. Received: {expected} outputs for "
            f"{data.num_classes} classes ({', '.join(data.class_names[:5])}, ...). Build it with "
            "build_classifier(backbone, data.class_names)."
        )
    check_size("data", data.image_size, model.input_shape)
