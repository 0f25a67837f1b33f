"""The images of a training: a common form of the two that training functions accept."""

from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from tlkit.data.class_weighting import ClassWeighting
from tlkit.data.images import ImageData, ImageSplit
from tlkit.distribution.shards import ONLY_SHARD, Shard
from tlkit.distribution.strategies import workers_of
from tlkit.distribution.workers import check_can_be_sharded
from tlkit.errors import ArgumentError
from tlkit.evaluation.data_checks import Images, check_images, check_takes_images
from tlkit.evaluation.dataset_length import num_batches
from tlkit.models.model_spec import ModelSpec, describe_model
from tlkit.training.objective import targets_of


@dataclass(frozen=True)
class Source:
    """Training and validation images.

    Attributes:
        train: The training images.
        validation: The validation images, or `None`.
        data: The data that both belong to; `None` if they are the user's own `tf.data.Dataset`s.
    """

    train: Images
    validation: Images | None
    data: ImageData | None


def source_of(
    model: keras.Model, data: ImageData | tf.data.Dataset, validation: Images | None
) -> Source:
    """Checks that data fit the model, see `tlkit.evaluation.data_checks.check_images`.

    Raises:
        ArgumentError: `data` has the wrong type, does not fit the model's inputs, is infinite, or
            is a `tf.data.Dataset` with several workers; `validation` is given twice; the model has
            several inputs or outputs, or another number of classes.
        DataError: There is no image, or the model does not have a label.
    """
    spec = describe_model(model)
    for argument, images in (("data", data), ("validation", validation)):
        if isinstance(images, tf.data.Dataset):
            check_can_be_sharded(argument, workers_of(model))
    if isinstance(data, tf.data.Dataset):
        train = check_images("data", data, model, labels="soft")
        if validation is not None:
            validation = check_images("validation", validation, model)
        return Source(train, validation, None)
    if not isinstance(data, ImageData):
        raise ArgumentError(
            "`data` must be the result of load_folder, load_arrays, load_examples or load_tfds, "
            f"or a tf.data.Dataset. Received: data of type {type(data).__name__}."
        )
    if validation is not None:
        raise ArgumentError(
            "`validation` must be left out if `data` has a validation split of its own. Received: "
            "both. Give a tf.data.Dataset as `data` to choose both."
        )
    _check_classes(spec, data)
    for argument, split in (("data.train", data.train), ("data.validation", data.validation)):
        if split is not None:
            check_images(argument, split, model)
    return Source(data.train, data.validation, data)


def note_on_classes(weighting: ClassWeighting, source: Source) -> list[str]:
    """Returns a note on how classes count, if not all images count the same."""
    if weighting == ClassWeighting():
        return []
    if source.data is not None:
        weighting = weighting.with_names(source.data.class_names)
    return [f"how classes count: {weighting}"]


def batches_of(
    images: Images, model: keras.Model, *, one_hot: bool = False, shard: Shard = ONLY_SHARD
) -> tf.data.Dataset:
    """Returns one pass over the images in their order, with labels in the loss's form."""
    # a tf.data.Dataset is not sharded: there is one worker
    dataset = (
        images.dataset(shuffle=False, shard=shard) if isinstance(images, ImageSplit) else images
    )
    return with_targets(dataset, model, one_hot=one_hot)


def with_targets(
    dataset: tf.data.Dataset, model: keras.Model, *, one_hot: bool = False
) -> tf.data.Dataset:
    """Maps the labels of a dataset to the form that the model's loss takes."""

    @tf.autograph.experimental.do_not_convert
    def translate(images: tf.Tensor, labels: tf.Tensor, *weights: tf.Tensor) -> tuple[Any, ...]:
        return images, targets_of(labels, model, one_hot=one_hot), *weights

    return dataset.map(translate, num_parallel_calls=tf.data.AUTOTUNE)


def steps_in_epoch(images: Images) -> int:
    """Returns the number of batches in one epoch."""
    if isinstance(images, ImageSplit):
        return -(-images.num_images // images.batch_size)
    return num_batches("data", images)


def _check_classes(spec: ModelSpec, data: ImageData) -> None:
    if data.has_images:
        check_takes_images("data", spec, data.channels)
    if spec.num_classes != data.num_classes:
        raise ArgumentError(
            f"`model` must have one output per class. Received: {spec.num_outputs} outputs for "
            f"{data.num_classes} classes ({', '.join(data.class_names[:5])}, ...). Build it with "
            "build_classifier(backbone, data.class_names)."
        )
