"""Grad-CAM: the image regions that support a class, by a feature map or tokens before the head."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from tlkit.data.limits import MAX_PIXELS
from tlkit.data.reading import read_image
from tlkit.data.settings import BRIGHTNESS, RESIZES, STRETCH
from tlkit.errors import ArgumentError, check_choice, did_you_mean
from tlkit.evaluation.image_files import (
    Paths,
    are_paths,
    check_image_files,
    list_files,
    pixels_of,
    resize_pixels,
)
from tlkit.evaluation.names import check_class_names, num_classes_of
from tlkit.evaluation.prediction import decoder_for, image_shape_of
from tlkit.evaluation.reports import EvaluationReport
from tlkit.models.flattening import below, flat
from tlkit.models.groups import cut_before, layer_groups
from tlkit.models.heads import head_kind, outputs_logits
from tlkit.models.heads import probabilities as probabilities_of
from tlkit.models.tokens import TokenGrid, token_grid
from tlkit.utils.formatting import percent
from tlkit.utils.keras_private import operation_of
from tlkit.utils.rgb import as_rgb
from tlkit.utils.text_repr import Record

_MAX_OPACITY = 0.75  # of the colours at the maximum of the heatmap
_MIN_PROBABILITY = 1e-7
_MAP_BATCH_SIZE = 4  # bounds the activations held by the tape


@dataclass(frozen=True, eq=False)
class Explanation(Record):
    """The Grad-CAM heatmap of an image for one class.

    Attributes:
        image: The image in the model's input size, uint8 `(height, width, 3)`; as `as_rgb` shows it
            if the model takes other channels.
        heatmap: float32 `(height, width)`, 0...1: how strongly each position supports the class,
            relative to the maximum; all zeros if no position does.
        label: The class that is explained.
        probability: The model's probability of this class, 0...1.
        predicted: The most probable class.
        layer: The layer whose output is the feature map.
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
        """Returns the grey image with the heatmap in colour, uint8 `(height, width, 3)`.

        Colours range from dark violet (low) to bright yellow (high), with increasing brightness;
        positions with zero heat stay grey.
        """
        from matplotlib import colormaps

        grey = np.repeat((self.image @ BRIGHTNESS)[..., np.newaxis], 3, axis=-1)
        colours = 255 * colormaps["plasma"](self.heatmap)[..., :3]
        opacity = _MAX_OPACITY * self.heatmap[..., np.newaxis]
        return np.round((1 - opacity) * grey + opacity * colours).astype(np.uint8)

    def over(self, image: np.ndarray) -> np.ndarray:
        """Returns the overlay on this image in another size, uint8 `(height, width, 3)`."""
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
        text = f"{source}{self.label} ({percent(self.probability)})"
        if self.predicted != self.label:
            text += f", most probable: {self.predicted}"
        if not self.heatmap.any():
            return f"{text}; no position of {self.layer} supports it"
        row, column = np.unravel_index(self.heatmap.argmax(), self.heatmap.shape)
        return f"{text}; strongest at row {row}, column {column}, by the output of {self.layer}"

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
    resize: str = STRETCH,
) -> Explanation:
    """Computes the Grad-CAM heatmap of an image for one class.

    The heatmap has the resolution of the last feature map before the head, 7×7 for most networks at
    224 pixels, and is enlarged to the image. In a transformer it is that of the tokens that its
    last block reads, 14×14 with patches of 16 pixels: those after it influence the class only
    through the class token, if that is what the head reads. It shows positions that increase the
    class's logit; it does not show that they are sufficient, nor which of their properties matter.

    Args:
        model: A model from pixels 0...255 to logits or probabilities.
        image: An image file; or pixels 0...255 `(height, width, channels)`, which are rounded and
            resized to the model's size.
        class_names: The class names in the order of the model's outputs; their numbers by default.
        label: The class to explain, a name or a number; the most probable by default.
        max_pixels: Maximum number of pixels of a file.
        resize: "stretch", "crop" or "pad", as for `predict`; the heatmap is that of the resized
            image.

    Raises:
        ArgumentError: An argument is invalid, several images are given, or the model has neither a
            two-dimensional feature map nor tokens of patches before its head.
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
    check_choice("resize", resize, RESIZES)
    num_classes = num_classes_of(model)
    names = check_class_names(class_names or [str(i) for i in range(num_classes)], num_classes)
    index = None if label is None else _class_index(label, names)
    path, pixels = _one_image(image, image_shape_of(model), max_pixels, resize)
    heatmaps, probabilities = class_maps(
        model, pixels, None if index is None else np.array([index])
    )
    predicted = int(probabilities[0].argmax())
    index = predicted if index is None else index
    return Explanation(
        image=as_rgb(pixels[0]),
        heatmap=heatmaps[0],
        label=names[index],
        probability=float(probabilities[0, index]),
        predicted=names[predicted],
        layer=operation_of(_last_positions(model).tensor).name,
        path=path,
    )


def explain_mistakes(
    model: keras.Model,
    evaluation: EvaluationReport,
    *,
    limit: int = 24,
    max_pixels: int = MAX_PIXELS,
    resize: str = STRETCH,
) -> dict[int, Explanation]:
    """Computes Grad-CAM heatmaps of the worst mistakes for their predicted classes.

    Args:
        model: The evaluated model.
        evaluation: The evaluation on image files with one label each.
        limit: Maximum number of mistakes, the worst ones.
        max_pixels: Maximum number of pixels of a file.
        resize: "stretch", "crop" or "pad", as in the evaluation.

    Returns:
        The explanations by the mistake's `index`. Mistakes with missing files are left out. Empty
        for multi-label models and for those without positions before the head.

    Example:
        >>> import tlkit
        >>> from tlkit.evaluation.explanation import explain_mistakes
        >>> report = tlkit.evaluate(model, data.test, data.class_names)  # doctest: +SKIP
        >>> explain_mistakes(model, report)[17].save("map.png")          # doctest: +SKIP
    """
    positions = _find_positions(model)
    if evaluation.kind == "multi_label" or positions is None:
        return {}
    names = evaluation.class_names
    selected = [
        mistake
        for mistake in evaluation.mistakes[:limit]
        if mistake.path is not None and os.path.isfile(mistake.path)
    ]
    decode = decoder_for(image_shape_of(model), max_pixels, resize, "evaluation")
    found: dict[int, Explanation] = {}
    for start in range(0, len(selected), _MAP_BATCH_SIZE):
        batch = selected[start : start + _MAP_BATCH_SIZE]
        contents = [read_image(mistake.path) for mistake in batch if mistake.path is not None]
        pixels = np.stack([decode(tf.constant(content)).numpy() for content in contents])
        classes = np.array([names.index(mistake.predicted) for mistake in batch])
        heatmaps, probabilities = class_maps(model, pixels, classes)
        for row, mistake in enumerate(batch):
            found[mistake.index] = Explanation(
                image=as_rgb(pixels[row]),
                heatmap=heatmaps[row],
                label=mistake.predicted,
                probability=float(probabilities[row, classes[row]]),
                predicted=names[int(probabilities[row].argmax())],
                layer=operation_of(positions.tensor).name,
                path=mistake.path,
            )
    return found


def class_maps(
    model: keras.Model, pixels: np.ndarray, classes: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns Grad-CAM heatmaps and probabilities of a batch of images in the model's size.

    With A the last feature map before the head, or the tokens of patches as a map, and y the
    class's logit, the heatmap is relu(sum over channels k of a_k A_k), with a_k the mean of dy/dA_k
    over positions. It is divided by its maximum and enlarged bilinearly. If the model outputs
    probabilities, y is their log odds (their logarithm for softmax); for the first class of a
    binary head it is -y.

    Args:
        model: A classifier.
        pixels: `(n, height, width, channels)`, 0...255.
        classes: The class of each image, `(n,)`; the most probable by default.

    Returns:
        float32 `(n, height, width)`, 0...1, and float32 `(n, num_classes)`.

    Raises:
        ArgumentError: The model has no positions before its head.
    """
    positions = _last_positions(model)
    submodel = below(model, [positions.tensor, flat(model).output])
    images = tf.cast(pixels, model.inputs[0].dtype)
    with tf.GradientTape() as tape:
        tape.watch(images)  # so that gradients exist even if all layers are frozen
        feature_maps, outputs = submodel(images, training=False)
        probabilities = probabilities_of(outputs, model)
        if classes is None:
            classes = tf.argmax(probabilities, axis=1).numpy()
        scores = _class_scores(outputs, model)
        score = tf.reduce_sum(tf.gather(scores, classes, axis=1, batch_dims=1))
    gradients, feature_maps = (
        positions.as_map(tf.cast(one, tf.float32))
        for one in (tape.gradient(score, feature_maps), feature_maps)
    )
    weights = tf.reduce_mean(gradients, axis=(1, 2), keepdims=True)
    heat = tf.nn.relu(tf.reduce_sum(weights * feature_maps, axis=-1))
    heat = tf.math.divide_no_nan(heat, tf.reduce_max(heat, axis=(1, 2), keepdims=True))
    heat = tf.image.resize(heat[..., tf.newaxis], pixels.shape[1:3], method="bilinear")
    return np.clip(heat[..., 0].numpy(), 0, 1), np.asarray(probabilities)


def _class_scores(outputs: tf.Tensor, model: keras.Model) -> tf.Tensor:
    """Returns unbounded class scores, `(n, num_classes)`: logits, or logs of probabilities."""
    kind = head_kind(model)
    outputs = tf.cast(outputs, tf.float32)
    if not outputs_logits(model):
        outputs = tf.clip_by_value(outputs, _MIN_PROBABILITY, 1 - _MIN_PROBABILITY)
        logarithm = tf.math.log(outputs)
        outputs = logarithm if kind == "softmax" else logarithm - tf.math.log(1 - outputs)
    return tf.concat([-outputs, outputs], axis=1) if kind == "binary" else outputs


@dataclass(frozen=True, eq=False)
class _Positions:
    """A feature map, or tokens with the grid of their patches."""

    tensor: keras.KerasTensor
    grid: TokenGrid | None

    def as_map(self, values: tf.Tensor) -> tf.Tensor:
        """Returns values of the tensor's shape as `(batch, rows, columns, channels)`."""
        if self.grid is None:
            return values
        patches = values[:, self.grid.num_prefix_tokens :]
        return tf.reshape(patches, (-1, self.grid.rows, self.grid.columns, values.shape[-1]))


def _find_positions(model: keras.Model) -> _Positions | None:
    """Returns the last positions in an image that all of the head's features depend on."""
    if len(model.input_shape) != 4:
        return None
    tensor = cut_before(model, "head")
    if len(tensor.shape) == 4:
        return _Positions(tensor, None)
    names = [group.name for group in layer_groups(model)]
    tokens = cut_before(model, names[-2]) if len(names) > 1 else tensor
    grid = token_grid(model, tokens)
    return None if grid is None else _Positions(tokens, grid)


def _last_positions(model: keras.Model) -> _Positions:
    positions = _find_positions(model)
    if positions is None:
        raise ArgumentError(
            "`model` must have a two-dimensional feature map, or tokens of patches, before its "
            f"head. Received: model={model.name!r}, whose head reads "
            f"{tuple(cut_before(model, 'head').shape)}. Grad-CAM works for convolutional networks "
            "and vision transformers only."
        )
    return positions


def _one_image(
    image: Paths | np.ndarray, image_shape: tuple[int, int, int], max_pixels: int, resize: str
) -> tuple[str | None, np.ndarray]:
    """Returns the file's name, and the image in the model's shape, uint8, in a batch of one."""
    path = None
    if are_paths(image):
        files = list_files(image, "image")
        if len(files) == 1:
            check_image_files(files, max_pixels, "image")
            path = files[0]
            decode = decoder_for(image_shape, max_pixels, resize, "image")
            decoded = decode(tf.constant(read_image(path)))
            return path, decoded.numpy()[np.newaxis]
        count = len(files)
    else:
        pixels = pixels_of(image, "image", image_shape[-1])
        if len(pixels) == 1:
            return path, resize_pixels(pixels[0], image_shape[:2], resize).numpy()[np.newaxis]
        count = len(pixels)
    raise ArgumentError(
        f"`image` must be one image. Received: {count}. Call explain for each of them."
    )


def _class_index(label: str | int, names: tuple[str, ...]) -> int:
    if isinstance(label, str) and label in names:
        return names.index(label)
    is_number = isinstance(label, int | np.integer) and not isinstance(label, bool)
    if is_number and 0 <= int(label) < len(names):
        return int(label)
    raise ArgumentError(
        f"`label` must be the name of a class, or a number from 0 to {len(names) - 1}. "
        f"Received: label={label!r}.{did_you_mean(label, names)} Classes: {', '.join(names)}."
    )
