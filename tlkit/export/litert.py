"""Export to LiteRT (.tflite), for phones and small devices."""

import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# The converter's error has no public name.
from tensorflow.lite.python.convert_phase import ConverterError

from tlkit.errors import ArgumentError, ExportError, check_choice
from tlkit.evaluation.names import check_class_names, num_classes_of
from tlkit.evaluation.prediction import image_shape_of
from tlkit.export.classifying import probabilities_function
from tlkit.export.formats import EXPORT_FORMATS, FULL_INT8
from tlkit.export.image_input import ImageInput
from tlkit.export.integers import check_integers, integer_converter
from tlkit.export.labels import add_labels
from tlkit.export.litert_metadata import add_metadata
from tlkit.models.model_spec import describe_model
from tlkit.utils.tensorflow_logging import standard_error_hidden, unlogged

FILES = {
    spec.quantization: spec.path
    for spec in EXPORT_FORMATS.values()
    if spec.runtime == "ai_edge_litert"
}


def write_litert(
    model: keras.Model,
    folder: Path,
    class_names: Sequence[str],
    *,
    quantization: str | None = None,
    calibrate: np.ndarray | None = None,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a LiteRT model with its preprocessing and labels, and returns the file.

    Its one signature takes `images`, uint8 `(n, height, width, channels)`, RGB, 0...255, and
    returns `probabilities`, float32 `(n, num_classes)`. The caller must decode and resize images,
    as LiteRT supports neither image files nor strings; how they must be resized is described in
    `tlkit.data.settings.RESIZES` and named in the settings. Labels and settings are at the end of
    the file, see `tlkit.export.labels`, and its metadata refer to them, see
    `tlkit.export.litert_metadata`: MediaPipe's and ML Kit's image classifiers load the file as it
    is. The model uses LiteRT's own operations only.

    Args:
        model: Takes pixels 0...255 of a fixed image size; computes in float32.
        folder: The folder; made if it is missing.
        class_names: Class names in the order of the model's outputs.
        quantization: `None` keeps weights in float32. "float16" stores them in half the size and
            computes in float32. "int8" stores larger weights in a quarter of the size, and
            quantizes their inputs during inference (dynamic range). "full_int8" computes in
            integers only, one image at a time, see `tlkit.export.integers`; `probabilities` are
            then uint8 `(1, num_classes)`, in steps of 1/256.
        calibrate: With "full_int8", images to calibrate, uint8 `(n, height, width, channels)`.
        about: Settings for `serving.json`.

    Raises:
        ArgumentError: If an argument is invalid, or `calibrate` is missing or not needed.
        ExportError: If LiteRT has no operation for a part of the model.

    Example:
        >>> from tlkit.export.litert import write_litert
        >>> write_litert(model, folder, ["ant", "bee"], quantization="int8")  # doctest: +SKIP
        PosixPath('folder/model_int8.tflite')

    Reference:
        https://ai.google.dev/edge/litert/models/post_training_quantization
    """
    if quantization is not None:
        check_choice("quantization", quantization, [name for name in FILES if name is not None])
    if (quantization == FULL_INT8) != (calibrate is not None):
        needs = "be images" if calibrate is None else "be left out"
        raise ArgumentError(
            f"`calibrate` must {needs} with quantization={quantization!r}. Received: "
            f"calibrate={'None' if calibrate is None else f'{len(calibrate)} images'}. Only "
            f"{FULL_INT8!r} is calibrated, on some training images."
        )
    names = check_class_names(class_names, num_classes_of(model))
    content = _convert(model, quantization, calibrate)
    if describe_model(model).takes_images:
        images = ImageInput(*image_shape_of(model), (about or {}).get("resize"))
        content = add_metadata(content, model.name, images)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / FILES[quantization]
    file.write_bytes(content)
    add_labels(file, names, about or {})
    return file


def _convert(model: keras.Model, quantization: str | None, calibrate: np.ndarray | None) -> bytes:
    if calibrate is None:
        converter = _converter(model, quantization)
    else:
        converter = integer_converter(model, calibrate)
    # the quantizer prints its settings
    hidden = nullcontext() if calibrate is None else standard_error_hidden()
    try:
        with hidden, unlogged("tensorflow", below=logging.WARNING):  # about a temporary folder
            content: bytes = converter.convert()
    except ConverterError as error:
        raise ExportError(
            f"LiteRT cannot compute this model: {_reason(str(error))}. "
            "Replace the layer that needs it, or export to another format."
        ) from error
    if quantization == FULL_INT8:
        check_integers(content)
    return content


def _converter(model: keras.Model, quantization: str | None) -> "tf.lite.TFLiteConverter":
    module = tf.Module()
    # The variables themselves, as in a SavedModel: the converter looks for them in the module.
    module.weights = [variable.value for variable in model.variables]
    module.classify = probabilities_function(model)
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.classify.get_concrete_function()], module
    )
    if quantization is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    return converter


def _reason(message: str) -> str:
    """Returns the missing operations in the converter's message, else its first line."""
    missing = re.findall(r"(?:Custom|Flex) ops: (.+)", message)
    return f"it has no operation {', '.join(missing)}" if missing else message.splitlines()[0]
