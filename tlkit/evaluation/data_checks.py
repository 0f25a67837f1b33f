"""Data against the model that takes them: the one check of everything that takes data."""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias
from weakref import WeakKeyDictionary

import keras
import numpy as np
import tensorflow as tf

from tlkit.data.images import ImageSplit
from tlkit.data.refusals import Refusal, register_refusal
from tlkit.errors import ArgumentError, DataError, TlkitError
from tlkit.evaluation.batch_checks import (
    Facts,
    check_inputs,
    check_shape,
    check_weights,
    facts_of,
    is_out_of_range,
    values_of,
    written_shape,
)
from tlkit.evaluation.checks import check_targets
from tlkit.evaluation.dataset_length import check_end
from tlkit.models.model_spec import UNIT, ModelSpec, describe_model

Images: TypeAlias = ImageSplit | tf.data.Dataset

Labels: TypeAlias = Literal["any", "given", "soft", "exact"]
"""What is asked of labels: nothing; that they are there; that they are the model's, where rows of
probabilities count as the most probable; that they are the model's and rows hold a single 1."""

_MORE_AND_MORE = ("any", "given", "soft", "exact")


def check_images(
    argument: str, images: object, model: keras.Model, *, labels: Labels = "exact"
) -> Images:
    """Returns images that fit a model: a split as it is, a data set ready to be read.

    What a data set says of its elements is asked first, then its first batch, and each later batch
    as it passes by: one that does not fit is named where the reader stands in
    `missing_files_named`. The data set that is returned gives `(images, labels)` or `(images,
    labels, weights)`, images alone where it has no labels, in the rank of the model's input and
    with shapes that are known.

    Args:
        argument: What errors call the images.
        images: A split, or a `tf.data.Dataset`.
        model: What is to take them.
        labels: What is asked of their labels.

    Raises:
        ArgumentError: They are neither; the model takes something else (text, one channel, another
            size, a flat vector, pixels 0...255 and not 0...1, or the other way round); a data set
            is not batched, has no labels or no end.
        DataError: There is none; a label is none of the model's; values or weights are not finite.

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
            f"{type(images).__name__}. Give `data.test`, say, or wrap arrays with "
            "`tlkit.load_arrays(...)`."
        )
    known = _CHECKED.get(images)
    if known is not None and known.is_for(spec, labels):
        return images
    refusal = Refusal() if known is None else known.refusal
    return _checked(images, _Passing(argument, spec, labels, refusal))


@dataclass(eq=False)
class _Passing:
    """The check that each batch of one data set passes."""

    argument: str
    spec: ModelSpec
    labels: Labels
    refusal: Refusal
    told: Facts | None = None  # of the first batch that is not black
    label_shape: tuple[int, ...] | None = None

    def is_for(self, spec: ModelSpec, labels: Labels) -> bool:
        """Whether what has passed here fits another reader too."""
        return spec.describes(self.spec) and _MORE_AND_MORE.index(labels) <= _MORE_AND_MORE.index(
            self.labels
        )

    def check(self, facts: Facts, labels: np.ndarray | None, weights: np.ndarray | None) -> None:
        """Checks one batch.

        Raises:
            ArgumentError: See `check_images`.
            DataError: See `check_images`.
        """
        tells = check_inputs(self.argument, facts, self.spec, asks_range=self.told is None)
        if tells:
            self.told = facts
        number = facts.shape[0]
        if labels is not None and self.labels in ("soft", "exact"):
            shape = labels.shape[1:]
            if self.label_shape not in (None, shape):
                raise DataError(
                    f"`{self.argument}` must have labels of one shape in all batches. Received: "
                    f"(batch, {self.label_shape}) first, and (batch, {shape}) later. Number the "
                    "classes in each."
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
        """The same within a data set, out of which only TensorFlow's own errors come."""
        facts, others = facts_of(values[:4], is_float=is_float), [*values[4:], None, None]
        try:
            self.check(facts, others[0], others[1])
        except TlkitError as error:
            self.refusal.error = error
            raise
        return np.True_


_CHECKED: WeakKeyDictionary[tf.data.Dataset, _Passing] = WeakKeyDictionary()
"""Which data sets have their check in them."""


def _checked(dataset: tf.data.Dataset, passing: _Passing) -> tf.data.Dataset:
    """Checks what a data set says of itself and its first batch; returns it with its check."""
    argument, spec = passing.argument, passing.spec
    _check_elements(dataset.element_spec, passing)
    first = next(iter(dataset.take(1)), None)
    if first is None:
        raise DataError(f"`{argument}` must hold images. Received: none. Give some, or None.")
    inputs, *others = _parts(first)
    own_rank = inputs.shape.rank
    inputs = _in_rank(inputs, len(spec.input_shape))
    is_float = inputs.dtype.is_floating
    values = [value.numpy() for value in values_of(inputs)]
    given: list[Any] = [np.asarray(one) for one in others]
    passing.check(facts_of(values, is_float=is_float), *[*given, None, None][:2])
    check_end(argument, dataset)
    shapes = [spec.input_shape, *((None, *array.shape[1:]) for array in given[:1]), (None,)]

    @tf.autograph.experimental.do_not_convert
    def pass_by(*elements: Any) -> Any:
        inputs, *others = _parts(elements if len(elements) > 1 else elements[0])
        inputs.set_shape([None] * own_rank)
        inputs = _in_rank(inputs, len(spec.input_shape))
        asked = [*values_of(inputs), *others]
        done = tf.numpy_function(
            lambda *values: passing.check_within(is_float, list(values)), asked, tf.bool
        )
        with tf.control_dependencies([done]):
            passed = [tf.identity(tensor) for tensor in (inputs, *others[:1])]
            passed += [tf.reshape(weights, [-1]) for weights in others[1:]]
        for tensor, shape in zip(passed, shapes, strict=False):
            tensor.set_shape(shape)
        return tuple(passed) if others else passed[0]

    checked = dataset.map(pass_by)
    register_refusal(checked, passing.refusal)
    _CHECKED[checked] = passing
    return checked


def note_on_values(images: Images) -> str:
    """Says that a data set gives other values than image files are read as, "" where it does not.

    A model that brings pixels to what its layers take is checked for that; one that takes values as
    they come learns from any, and would be asked about others where it is given files.

    Args:
        images: What `check_images` returned.
    """
    passing = _CHECKED.get(images) if isinstance(images, tf.data.Dataset) else None
    if passing is None or passing.told is None or not _takes_images(passing.spec):
        return ""
    if not is_out_of_range(passing.told):
        return ""
    return (
        f"`{passing.argument}` has values from {passing.told.low:.3g} to {passing.told.high:.3g}, "
        "and the model takes them as they are, but image files are read as pixels 0...255: put "
        "what brings pixels to these values in front of the model, such as "
        "keras.layers.Rescaling(1 / 255), before it is asked about files"
    )


def _parts(element: Any) -> tuple[Any, ...]:
    """Inputs, and labels and weights where there are some; a dictionary of one input is opened."""
    inputs, *others = element if isinstance(element, tuple) else (element,)
    if isinstance(inputs, dict) and len(inputs) == 1:
        (inputs,) = inputs.values()
    return inputs, *others


def _in_rank(inputs: tf.Tensor, rank: int) -> tf.Tensor:
    """Adds or takes away a last axis of size one, as Keras does with what a model is given."""
    if inputs.shape.rank == rank - 1:
        return inputs[..., tf.newaxis]
    if inputs.shape.rank == rank + 1 and inputs.shape[-1] == 1:
        return inputs[..., 0]
    return inputs


def _check_elements(element: Any, passing: _Passing) -> None:
    """Checks what a data set says of its elements before any is read."""
    argument, spec = passing.argument, passing.spec
    inputs, *others = _parts(element)
    wanted = f"`{argument}` must give batches of (images, labels)"
    shape = written_shape(spec.input_shape)
    needed = 0 if passing.labels == "any" else 1
    if isinstance(inputs, dict) or not all(
        isinstance(one, tf.TensorSpec) for one in (inputs, *others)
    ):
        raise ArgumentError(
            f"{wanted}, each one dense tensor. Received: {argument}={element}. Choose one of a "
            "dictionary with `dataset.map(lambda inputs, labels: (inputs['name'], labels))`; make "
            "ragged ones dense with `.to_tensor()`, sparse ones with `tf.sparse.to_dense`."
        )
    if (inputs.dtype == tf.string) != spec.takes_text:
        kinds = ("text", "numbers") if spec.takes_text else ("numbers", "text")
        raise ArgumentError(
            f"`{argument}` must hold {kinds[0]}, which model={spec.name!r} takes. Received: "
            f"{kinds[1]}, {inputs.dtype.name}. Give the inputs it was built for, or build it with "
            f"keras.Input(..., dtype={inputs.dtype.name!r})."
        )
    is_unbatched = any(one.shape.rank == 0 for one in (inputs, *others))
    rank, own = inputs.shape.rank, None
    if rank is not None:
        own = _in_rank_of(inputs.shape, len(spec.input_shape))
        is_unbatched |= rank < len(spec.input_shape) and not _is_compatible(own, spec)
    fits = rank is None or own is not None
    if not needed <= len(others) <= 2 or is_unbatched or not fits:
        raise ArgumentError(
            f"{wanted}, images of the shape {shape}. Received: {argument}={element}. "
            "Use `dataset.batch(...)`, with labels beside the images."
        )
    if own is not None:
        check_shape(argument, own, spec)


def _in_rank_of(shape: tf.TensorShape, rank: int) -> tuple[int | None, ...] | None:
    """The shape that `_in_rank` gives, or `None` where it cannot be brought to that rank."""
    sizes = tuple(shape)
    if len(sizes) == rank - 1:
        sizes = (*sizes, 1)
    elif len(sizes) == rank + 1 and sizes[-1] == 1:
        sizes = sizes[:-1]
    return sizes if len(sizes) == rank else None


def _is_compatible(shape: tuple[int | None, ...] | None, spec: ModelSpec) -> bool:
    return shape is not None and tf.TensorShape(shape).is_compatible_with(spec.input_shape)


def _check_split(argument: str, split: ImageSplit, spec: ModelSpec, labels: Labels) -> None:
    """Checks what is known of a split without reading an image."""
    check_takes_images(argument, spec)
    sides = spec.input_shape[1:3]
    if any(side not in (None, own) for side, own in zip(sides, split.image_size, strict=True)):
        raise ArgumentError(
            f"`{argument}` must have the image size of the model, {sides}. Received: image_size="
            f"{split.image_size}. Load them with load_folder(..., image_size={sides})."
        )
    if not split.num_images:
        raise DataError(f"`{argument}` must hold images. Received: none. Give some, or None.")
    if labels in ("soft", "exact"):
        check_targets(
            split.labels, spec.kind, split.num_images, spec.num_classes, argument=argument
        )


def check_takes_images(argument: str, spec: ModelSpec) -> None:
    """Raises `ArgumentError` unless a model takes what `load_folder` reads.

    That is three channels, and pixels 0...255.

    Args:
        argument: What errors call the images.
        spec: Of the model.
    """
    if _takes_images(spec):
        check_takes_pixels(spec, argument)
        return
    what = "text" if spec.takes_text else written_shape(spec.input_shape)
    raise ArgumentError(
        f"`model` must take images with three channels, (batch, height, width, 3), as "
        f"`{argument}` has them. Received: model={spec.name!r}, which takes {what}. Build it for "
        "three channels, or give what it takes as batches: a tf.data.Dataset."
    )


def check_takes_pixels(spec: ModelSpec, argument: str = "images") -> None:
    """Raises `ArgumentError` where a model is certain to take 0...1, and not pixels.

    Args:
        spec: Of the model.
        argument: What errors call the images.
    """
    if spec.value_range != UNIT:
        return
    raise ArgumentError(
        f"`model` must take pixels 0...255, as `{argument}` has them. Received: "
        f"model={spec.name!r}, which brings values 0...1 to what its layers take. Put "
        "keras.layers.Rescaling(1 / 255) in front: keras.Sequential([keras.Input("
        f"{spec.input_shape[1:]}), keras.layers.Rescaling(1 / 255), model])."
    )


def _takes_images(spec: ModelSpec) -> bool:
    return spec.takes_images and spec.input_shape[-1] in (None, 3)
