"""The check of images against a model, for all functions that take both."""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias
from weakref import WeakKeyDictionary

import keras
import numpy as np
import tensorflow as tf

from tlkit.data.images import ImageSplit
from tlkit.data.refusals import Refusal, register_refusal
from tlkit.data.settings import GREY, RGB
from tlkit.errors import ArgumentError, DataError, TlkitError
from tlkit.evaluation.batch_checks import (
    BatchStats,
    batch_stat_tensors,
    batch_stats,
    check_inputs,
    check_shape,
    check_weights,
    format_shape,
    is_out_of_range,
)
from tlkit.evaluation.checks import check_targets
from tlkit.evaluation.dataset_length import check_end
from tlkit.evaluation.example_checks import check_example_split, check_kind
from tlkit.models.model_spec import UNIT, ModelSpec, describe_model

Images: TypeAlias = ImageSplit | tf.data.Dataset

Labels: TypeAlias = Literal["any", "given", "soft", "exact"]
"""How strictly labels are checked: not at all; must be present; must be classes of the model, with
rows of probabilities counting as the most probable; must be classes, with rows one-hot."""

_STRICTNESS = ("any", "given", "soft", "exact")


def check_images(
    argument: str, images: object, model: keras.Model, *, labels: Labels = "exact"
) -> Images:
    """Returns images that fit a model: a split unchanged, a data set with a check of each batch.

    A data set's element specification is checked first, then its first batch, and each later batch
    when it is read: the error of an invalid one is raised by `missing_files_named`. The data set
    that is returned has elements `(images, labels)` or `(images, labels, weights)`, or only images
    if it has no labels, with the rank of the model's input and known shapes.

    Args:
        argument: The argument's name in errors.
        images: A split, or a `tf.data.Dataset`.
        model: The model that they are for.
        labels: How strictly their labels are checked.

    Raises:
        ArgumentError: `images` has another type; the model takes other inputs (text, whole numbers,
            one channel, another size, a flat vector, pixels 0...255 instead of 0...1, or vice
            versa); a data set is not batched, has no labels or is infinite.
        DataError: There are no images; a label is not a class of the model; values or weights are
            not finite.

    Example:
        >>> import numpy as np, tlkit
        >>> from tlkit.evaluation.data_checks import check_images
        >>> data = tlkit.load_arrays(np.arange(20 * 64).reshape(20, 8, 8) % 251, [0, 1] * 10)
        >>> model = tlkit.build_classifier("resnet20", data.class_names, weights=None)
        >>> check_images("data", data.train, model)
        Traceback (most recent call last):
        tlkit.errors.ArgumentError: `data` must have the image size of the model, (32, 32). ...
    """
    spec = describe_model(model)
    if isinstance(images, ImageSplit):
        _check_split(argument, images, spec, labels)
        return images
    if not isinstance(images, tf.data.Dataset):
        raise ArgumentError(
            f"`{argument}` must be an ImageSplit or a tf.data.Dataset. Received: an object of type "
            f"{type(images).__name__}. Pass `data.test`, for example, or wrap arrays with "
            "`tlkit.load_arrays(...)`."
        )
    known = _CHECKED.get(images)
    if known is not None and known.covers(spec, labels):
        return images
    refusal = Refusal() if known is None else known.refusal
    return _add_check(images, _BatchCheck(argument, spec, labels, refusal))


@dataclass(eq=False)
class _BatchCheck:
    """The check of each batch of one data set."""

    argument: str
    spec: ModelSpec
    labels: Labels
    refusal: Refusal
    first_stats: BatchStats | None = None  # of the first batch with a known range of values
    label_shape: tuple[int, ...] | None = None

    def covers(self, spec: ModelSpec, labels: Labels) -> bool:
        """Whether batches that pass this check are also valid for another model and strictness."""
        return spec.describes(self.spec) and _STRICTNESS.index(labels) <= _STRICTNESS.index(
            self.labels
        )

    def check(
        self, stats: BatchStats, labels: np.ndarray | None, weights: np.ndarray | None
    ) -> None:
        """Checks one batch.

        Raises:
            ArgumentError: See `check_images`.
            DataError: See `check_images`.
        """
        has_range = check_inputs(
            self.argument, stats, self.spec, check_range=self.first_stats is None
        )
        if has_range:
            self.first_stats = stats
        number = stats.shape[0]
        if labels is not None and self.labels in ("soft", "exact"):
            shape = labels.shape[1:]
            if self.label_shape not in (None, shape):
                raise DataError(
                    f"`{self.argument}` must have labels of one shape in all batches. Received: "
                    f"(batch, {self.label_shape}) first, and (batch, {shape}) later. Use class "
                    "numbers in all batches."
                )
            self.label_shape = shape
            check_targets(
                labels,
                self.spec.kind,
                number,
                self.spec.num_classes,
                argument=self.argument,
                is_batch=True,
                allows_soft=self.labels == "soft",
            )
        if weights is not None:
            check_weights(self.argument, weights, number)

    def check_within(self, is_float: bool, values: list[np.ndarray]) -> np.bool_:
        """Checks within a data set, and keeps the error, as TensorFlow would replace it."""
        stats, others = batch_stats(values[:4], is_float=is_float), [*values[4:], None, None]
        try:
            self.check(stats, others[0], others[1])
        except TlkitError as error:
            self.refusal.error = error
            raise
        return np.True_


_CHECKED: WeakKeyDictionary[tf.data.Dataset, _BatchCheck] = WeakKeyDictionary()
"""The check of each data set that contains one."""


def _add_check(dataset: tf.data.Dataset, batch_check: _BatchCheck) -> tf.data.Dataset:
    """Checks a data set's specification and first batch; returns it with a check of each batch."""
    argument, spec = batch_check.argument, batch_check.spec
    _check_elements(dataset.element_spec, batch_check)
    first = next(iter(dataset.take(1)), None)
    if first is None:
        raise DataError(
            f"`{argument}` must contain images. Received: none. Add images, or pass None."
        )
    inputs, *others = _split_element(first)
    original_rank = inputs.shape.rank
    inputs = _match_rank(inputs, len(spec.input_shape))
    is_float = inputs.dtype.is_floating
    values = [value.numpy() for value in batch_stat_tensors(inputs)]
    arrays: list[Any] = [np.asarray(one) for one in others]
    batch_check.check(batch_stats(values, is_float=is_float), *[*arrays, None, None][:2])
    check_end(argument, dataset)
    shapes = [spec.input_shape, *((None, *array.shape[1:]) for array in arrays[:1]), (None,)]

    @tf.autograph.experimental.do_not_convert
    def check_and_pass(*elements: Any) -> Any:
        inputs, *others = _split_element(elements if len(elements) > 1 else elements[0])
        inputs.set_shape([None] * original_rank)
        inputs = _match_rank(inputs, len(spec.input_shape))
        to_check = [*batch_stat_tensors(inputs), *others]
        is_checked = tf.numpy_function(
            lambda *values: batch_check.check_within(is_float, list(values)), to_check, tf.bool
        )
        with tf.control_dependencies([is_checked]):
            outputs = [tf.identity(tensor) for tensor in (inputs, *others[:1])]
            outputs += [tf.reshape(weights, [-1]) for weights in others[1:]]
        for tensor, shape in zip(outputs, shapes, strict=False):
            tensor.set_shape(shape)
        return tuple(outputs) if others else outputs[0]

    checked = dataset.map(check_and_pass)
    register_refusal(checked, batch_check.refusal)
    _CHECKED[checked] = batch_check
    return checked


def note_on_values(images: Images) -> str:
    """Returns a note if a data set has other values than pixels read from image files, else "".

    For a model with preprocessing such values are an error. A model without preprocessing can be
    trained on any values, but would get other ones when it is applied to files.

    Args:
        images: The result of `check_images`.
    """
    batch_check = _CHECKED.get(images) if isinstance(images, tf.data.Dataset) else None
    if (
        batch_check is None
        or batch_check.first_stats is None
        or not any(_takes_images(batch_check.spec, channels) for channels in (GREY, RGB))
    ):
        return ""
    if not is_out_of_range(batch_check.first_stats):
        return ""
    return (
        f"`{batch_check.argument}` has values from {batch_check.first_stats.low:.3g} to "
        f"{batch_check.first_stats.high:.3g}, which the model takes without preprocessing, but "
        "image files are read as pixels 0...255: before predicting files, put the preprocessing "
        "in front of the model, such as keras.layers.Rescaling(1 / 255)"
    )


def _split_element(element: Any) -> tuple[Any, ...]:
    """Returns inputs, labels and weights, if present; a dictionary of one input is unpacked."""
    inputs, *others = element if isinstance(element, tuple) else (element,)
    if isinstance(inputs, dict) and len(inputs) == 1:
        (inputs,) = inputs.values()
    return inputs, *others


def _match_rank(inputs: tf.Tensor, rank: int) -> tf.Tensor:
    """Adds or removes a last axis of size one, as Keras does with a model's inputs."""
    if inputs.shape.rank == rank - 1:
        return inputs[..., tf.newaxis]
    if inputs.shape.rank == rank + 1 and inputs.shape[-1] == 1:
        return inputs[..., 0]
    return inputs


def _check_elements(element: Any, batch_check: _BatchCheck) -> None:
    """Checks a data set's element specification before any element is read."""
    argument, spec = batch_check.argument, batch_check.spec
    inputs, *others = _split_element(element)
    rule = f"`{argument}` must give batches of (images, labels)"
    shape = format_shape(spec.input_shape)
    min_others = 0 if batch_check.labels == "any" else 1
    if isinstance(inputs, dict) or not all(
        isinstance(one, tf.TensorSpec) for one in (inputs, *others)
    ):
        raise ArgumentError(
            f"{rule}, each a single dense tensor. Received: {argument}={element}. Select one "
            "input of a dictionary with `dataset.map(lambda inputs, labels: (inputs['name'], "
            "labels))`; convert ragged tensors with `.to_tensor()`, sparse ones with "
            "`tf.sparse.to_dense`."
        )
    check_kind(argument, inputs.dtype.name, spec)
    is_unbatched = any(one.shape.rank == 0 for one in (inputs, *others))
    rank, matched = inputs.shape.rank, None
    if rank is not None:
        matched = _match_shape_rank(inputs.shape, len(spec.input_shape))
        is_unbatched |= rank < len(spec.input_shape) and not _is_compatible(matched, spec)
    has_rank = rank is None or matched is not None
    if not min_others <= len(others) <= 2 or is_unbatched or not has_rank:
        raise ArgumentError(
            f"{rule}, images of the shape {shape}. Received: {argument}={element}. "
            "Use `dataset.batch(...)`, with labels beside the images."
        )
    if matched is not None:
        check_shape(argument, matched, spec)


def _match_shape_rank(shape: tf.TensorShape, rank: int) -> tuple[int | None, ...] | None:
    """Returns the shape after `_match_rank`, or `None` if the rank cannot be matched."""
    sizes = tuple(shape)
    if len(sizes) == rank - 1:
        sizes = (*sizes, 1)
    elif len(sizes) == rank + 1 and sizes[-1] == 1:
        sizes = sizes[:-1]
    return sizes if len(sizes) == rank else None


def _is_compatible(shape: tuple[int | None, ...] | None, spec: ModelSpec) -> bool:
    return shape is not None and tf.TensorShape(shape).is_compatible_with(spec.input_shape)


def _check_split(argument: str, split: ImageSplit, spec: ModelSpec, labels: Labels) -> None:
    """Checks a split without reading image files."""
    if split.has_images:
        _check_image_size(argument, split, spec)
    else:
        check_example_split(argument, split, spec)
    if not split.num_images:
        raise DataError(
            f"`{argument}` must contain images. Received: none. Add images, or pass None."
        )
    if labels in ("soft", "exact"):
        check_targets(
            split.labels, spec.kind, split.num_images, spec.num_classes, argument=argument
        )


def _check_image_size(argument: str, split: ImageSplit, spec: ModelSpec) -> None:
    check_takes_images(argument, spec, split.channels)
    sides = spec.input_shape[1:3]
    if any(
        side not in (None, matched) for side, matched in zip(sides, split.image_size, strict=True)
    ):
        raise ArgumentError(
            f"`{argument}` must have the image size of the model, {sides}. Received: image_size="
            f"{split.image_size}. Load them with load_folder(..., image_size={sides})."
        )


def check_takes_images(argument: str, spec: ModelSpec, channels: int) -> None:
    """Raises `ArgumentError` unless a model takes pixels 0...255 of images with these channels.

    Args:
        argument: The name of the images' argument in errors.
        spec: The model's specification.
        channels: The number of channels of the images.
    """
    if _takes_images(spec, channels):
        check_takes_pixels(spec, argument)
        return
    accepted = "text" if spec.takes_text else format_shape(spec.input_shape)
    remedy = (
        "Load the images with channels=1"
        if spec.takes_images and spec.input_shape[-1] == GREY
        else f"Build it with build_classifier(..., channels={channels})"
    )
    if not spec.takes_images:
        remedy = "Load what it takes with load_examples"
    raise ArgumentError(
        f"`model` must take images (batch, height, width, {channels}), as in `{argument}`. "
        f"Received: model={spec.name!r}, which takes {accepted}. {remedy}, or pass a "
        "tf.data.Dataset with batches of what it takes."
    )


def check_takes_pixels(spec: ModelSpec, argument: str = "images") -> None:
    """Raises `ArgumentError` if a model's preprocessing expects values 0...1 instead of pixels.

    Args:
        spec: The model's specification.
        argument: The name of the images' argument in errors.
    """
    if spec.value_range != UNIT:
        return
    raise ArgumentError(
        f"`model` must take pixels 0...255, as in `{argument}`. Received: "
        f"model={spec.name!r}, whose preprocessing expects values 0...1. Put "
        "keras.layers.Rescaling(1 / 255) in front: keras.Sequential([keras.Input("
        f"{spec.input_shape[1:]}), keras.layers.Rescaling(1 / 255), model])."
    )


def _takes_images(spec: ModelSpec, channels: int) -> bool:
    return spec.takes_images and spec.input_shape[-1] in (None, channels)
