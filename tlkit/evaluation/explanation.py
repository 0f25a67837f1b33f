"""Where a model looks: Grad-CAM on the last map before the head."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from tlkit.data.decoding import decoder
from tlkit.data.limits import MAX_PIXELS
from tlkit.data.reading import read_image
from tlkit.errors import ArgumentError, did_you_mean
from tlkit.evaluation.image_files import (
    Paths,
    are_paths,
    check_image_files,
    list_files,
    pixels_of,
    resized,
)
from tlkit.evaluation.names import check_class_names, num_classes_of
from tlkit.evaluation.prediction import image_size_of
from tlkit.evaluation.reports import EvaluationReport
from tlkit.models.flattening import below, flat
from tlkit.models.groups import cut_before
from tlkit.models.heads import head_kind, outputs_logits
from tlkit.models.heads import probabilities as probabilities_of
from tlkit.utils.formatting import percent
from tlkit.utils.keras_private import operation_of
from tlkit.utils.text_repr import Record

_STRENGTH = 0.75  # of the colours where the heat is highest
_GREY = np.array([0.299, 0.587, 0.114])
_SMALLEST = 1e-7
_MAPS_AT_ONCE = 4  # the tape holds the activations of so many images


@dataclass(frozen=True, eq=False)
class Explanation(Record):
    """What in an image speaks for a class.

    Attributes:
        image: The image as the model sees it, uint8 `(height, width, 3)`.
        heatmap: float32 `(height, width)`, 0...1: how much each place speaks for the class,
            relative to the place that does most; all zeros where none does.
        label: The class that is explained.
        probability: The model's for this class, 0...1.
        predicted: The most probable class.
        layer: The layer whose output was looked at.
        path: The image's file, or `None` for an array.
    """

    image: np.ndarray
    heatmap: np.ndarray
    label: str
    probability: float
    predicted: str
    layer: str
    path: str | None

    _left_out = ("image", "heatmap")

    def overlay(self) -> np.ndarray:
        """Returns the image in grey, with colours where it speaks for the class.

        From dark violet (little) to bright yellow (most), which also rise in brightness; what says
        nothing stays grey. uint8 `(height, width, 3)`.
        """
        from matplotlib import colormaps

        grey = np.repeat((self.image @ _GREY)[..., np.newaxis], 3, axis=-1)
        colours = 255 * colormaps["plasma"](self.heatmap)[..., :3]
        share = _STRENGTH * self.heatmap[..., np.newaxis]
        return np.round((1 - share) * grey + share * colours).astype(np.uint8)

    def over(self, image: np.ndarray) -> np.ndarray:
        """Returns the overlay on the same image in another size, uint8 `(height, width, 3)`."""
        heat = tf.image.resize(self.heatmap[..., tf.newaxis], image.shape[:2], method="bilinear")
        heatmap = np.clip(heat[..., 0].numpy(), 0, 1)
        return replace(self, image=image, heatmap=heatmap).overlay()

    def beside(self) -> np.ndarray:
        """Returns the image and its overlay side by side, uint8 `(height, 2 width + 4, 3)`."""
        gap = np.full((len(self.image), 4, 3), 255, np.uint8)
        return np.concatenate([self.image, gap, self.overlay()], axis=1)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the image and its overlay as a PNG file."""
        Path(path).write_bytes(self._repr_png_())

    def __str__(self) -> str:
        source = f"{self.path}: " if self.path is not None else ""
        said = f"{source}{self.label} ({percent(self.probability)})"
        if self.predicted != self.label:
            said += f", while {self.predicted} is the most probable"
        if not self.heatmap.any():
            return f"{said}; no place speaks for it at {self.layer}"
        row, column = np.unravel_index(self.heatmap.argmax(), self.heatmap.shape)
        return f"{said}; most at row {row}, column {column}, seen at {self.layer}"

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(self.beside()).save(buffer, "png")
        return buffer.getvalue()


def explain(
    model: keras.Model,
    image: str | os.PathLike[str] | np.ndarray,
    class_names: Sequence[str] | None = None,
    *,
    label: str | int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Explanation:
    """Shows what in an image speaks for a class, by Grad-CAM.

    The map is as coarse as the last one the network computes before its head, 7×7 for most at 224
    pixels, and drawn over the image. It shows places that raise the class's logit; it neither
    says that they are enough nor what about them counts.

    Args:
        model: From pixels 0...255 to logits or probabilities.
        image: An image file; or pixels 0...255 `(height, width, 3)`, which are rounded and
            stretched to the model's size.
        class_names: In the order of the model's outputs; their numbers by default.
        label: The class to explain, a name or a number; the most probable by default.
        max_pixels: The most pixels a file may have.

    Raises:
        ArgumentError: An argument breaks its rule, several images are given, or the model has no
            map of rows and columns before its head.
        DataError: The file is missing or cannot be decoded.

    Example:
        >>> import numpy as np, tlkit
        >>> from tlkit.evaluation.explanation import explain
        >>> model = tlkit.build_classifier("resnet20", ["ant", "bee"], weights=None)
        >>> explanation = explain(model, np.zeros((40, 30, 3), np.uint8), ["ant", "bee"])
        >>> explanation.heatmap.shape, explanation.layer
        ((32, 32), 'stage3_block3_out')

    Reference:
        Selvaraju et al. (2017), section 3, https://arxiv.org/abs/1610.02391
    """
    num_classes = num_classes_of(model)
    names = check_class_names(class_names or [str(i) for i in range(num_classes)], num_classes)
    number = None if label is None else _number_of(label, names)
    path, pixels = _one_image(image, image_size_of(model), max_pixels)
    heatmaps, shares = class_maps(model, pixels, None if number is None else np.array([number]))
    predicted = int(shares[0].argmax())
    number = predicted if number is None else number
    return Explanation(
        image=pixels[0],
        heatmap=heatmaps[0],
        label=names[number],
        probability=float(shares[0, number]),
        predicted=names[predicted],
        layer=operation_of(_last_map(model)).name,
        path=path,
    )


def explain_mistakes(
    model: keras.Model,
    evaluation: EvaluationReport,
    *,
    limit: int = 24,
    max_pixels: int = MAX_PIXELS,
) -> dict[int, Explanation]:
    """Shows what in each of the worst mistakes speaks for the class that was said.

    Args:
        model: The model that `evaluation` is of.
        evaluation: Of image files, with one label for each.
        limit: So many of the mistakes are explained, the worst ones.
        max_pixels: The most pixels a file may have.

    Returns:
        An explanation by the mistake's `index`. Mistakes whose file has gone have none, nor has a
        model without a map of rows and columns before its head, or one that gives several labels.

    Example:
        >>> import tlkit
        >>> from tlkit.evaluation.explanation import explain_mistakes
        >>> report = tlkit.evaluate(model, data.test, data.class_names)  # doctest: +SKIP
        >>> explain_mistakes(model, report)[17].save("map.png")          # doctest: +SKIP
    """
    if evaluation.kind == "multi_label" or not _has_map(model):
        return {}
    names = evaluation.class_names
    shown = [
        mistake
        for mistake in evaluation.mistakes[:limit]
        if mistake.path is not None and os.path.isfile(mistake.path)
    ]
    decode = decoder(image_size_of(model), max_pixels)
    found: dict[int, Explanation] = {}
    for start in range(0, len(shown), _MAPS_AT_ONCE):
        some = shown[start : start + _MAPS_AT_ONCE]
        contents = [read_image(one.path) for one in some if one.path is not None]
        pixels = np.stack([decode(tf.constant(content)).numpy() for content in contents])
        classes = np.array([names.index(one.predicted) for one in some])
        heatmaps, shares = class_maps(model, pixels, classes)
        for row, mistake in enumerate(some):
            found[mistake.index] = Explanation(
                image=pixels[row],
                heatmap=heatmaps[row],
                label=mistake.predicted,
                probability=float(shares[row, classes[row]]),
                predicted=names[int(shares[row].argmax())],
                layer=operation_of(_last_map(model)).name,
                path=mistake.path,
            )
    return found


def class_maps(
    model: keras.Model, pixels: np.ndarray, classes: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns Grad-CAM maps and probabilities of a batch of images in the model's size.

    With A the last map before the head and y the class's logit, the map is
    relu(sum over channels k of a_k A_k), a_k the mean of dy/dA_k over positions; it is divided by
    its own largest value and enlarged bilinearly. Where the model gives probabilities, y is their
    log odds (their logarithm for softmax); for the first class of a binary head it is -y.

    Args:
        model: A classifier.
        pixels: `(n, height, width, 3)`, 0...255.
        classes: The class of each, `(n,)`; the most probable by default.

    Returns:
        float32 `(n, height, width)`, 0...1, and float32 `(n, num_classes)`.

    Raises:
        ArgumentError: The model has no map of rows and columns before its head.
    """
    both = below(model, [_last_map(model), flat(model).output])
    images = tf.cast(pixels, model.inputs[0].dtype)
    with tf.GradientTape() as tape:
        tape.watch(images)  # whatever is frozen: the tape must see how the outputs come about
        maps, outputs = both(images, training=False)
        shares = probabilities_of(outputs, model)
        if classes is None:
            classes = tf.argmax(shares, axis=1).numpy()
        scores = _scores(outputs, model)
        score = tf.reduce_sum(tf.gather(scores, classes, axis=1, batch_dims=1))
    gradients = tape.gradient(score, maps)
    weights = tf.reduce_mean(tf.cast(gradients, tf.float32), axis=(1, 2), keepdims=True)
    heat = tf.nn.relu(tf.reduce_sum(weights * tf.cast(maps, tf.float32), axis=-1))
    heat = tf.math.divide_no_nan(heat, tf.reduce_max(heat, axis=(1, 2), keepdims=True))
    heat = tf.image.resize(heat[..., tf.newaxis], pixels.shape[1:3], method="bilinear")
    return np.clip(heat[..., 0].numpy(), 0, 1), np.asarray(shares)


def _scores(outputs: tf.Tensor, model: keras.Model) -> tf.Tensor:
    """What speaks for each class, `(n, num_classes)`, before it is squeezed into 0...1."""
    kind = head_kind(model)
    outputs = tf.cast(outputs, tf.float32)
    if not outputs_logits(model):
        outputs = tf.clip_by_value(outputs, _SMALLEST, 1 - _SMALLEST)
        logarithm = tf.math.log(outputs)
        outputs = logarithm if kind == "softmax" else logarithm - tf.math.log(1 - outputs)
    return tf.concat([-outputs, outputs], axis=1) if kind == "binary" else outputs


def _has_map(model: keras.Model) -> bool:
    return len(cut_before(model, "head").shape) == 4 and len(model.input_shape) == 4


def _last_map(model: keras.Model) -> keras.KerasTensor:
    tensor = cut_before(model, "head")
    if not _has_map(model):
        raise ArgumentError(
            "`model` must have a map of rows and columns before its head. Received: "
            f"model={model.name!r}, whose head reads {tuple(tensor.shape)}. Only networks that "
            "look at images position by position can be explained so."
        )
    return tensor


def _one_image(
    image: Paths | np.ndarray, image_size: tuple[int, int], max_pixels: int
) -> tuple[str | None, np.ndarray]:
    """The file's name, and the image in the model's size, uint8 `(1, height, width, 3)`."""
    path = None
    if are_paths(image):
        files = list_files(image, "image")
        if len(files) == 1:
            check_image_files(files, max_pixels, "image")
            path = files[0]
            decoded = decoder(image_size, max_pixels)(tf.constant(read_image(path)))
            return path, decoded.numpy()[np.newaxis]
        count = len(files)
    else:
        pixels = pixels_of(image, "image")
        if len(pixels) == 1:
            return path, resized(pixels[0], image_size).numpy()[np.newaxis]
        count = len(pixels)
    raise ArgumentError(
        f"`image` must be one image. Received: {count}. Call explain for each of them."
    )


def _number_of(label: str | int, names: tuple[str, ...]) -> int:
    if isinstance(label, str) and label in names:
        return names.index(label)
    is_number = isinstance(label, int | np.integer) and not isinstance(label, bool)
    if is_number and 0 <= int(label) < len(names):
        return int(label)
    raise ArgumentError(
        f"`label` must be the name of a class, or a number from 0 to {len(names) - 1}. "
        f"Received: label={label!r}.{did_you_mean(label, names)} Classes: {', '.join(names)}."
    )
