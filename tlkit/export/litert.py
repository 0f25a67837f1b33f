"""Export to LiteRT (.tflite), for phones and small devices."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

# The converter's error has no public name.
from tensorflow.lite.python.convert_phase import ConverterError

from tlkit.errors import ExportError, check_choice
from tlkit.evaluation.names import check_class_names, num_classes_of
from tlkit.export.classifying import classifying_function
from tlkit.export.formats import EXPORT_FORMATS
from tlkit.export.labels import add_labels
from tlkit.utils.tensorflow_logging import unlogged

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
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a LiteRT model with its preprocessing and labels, and returns the file.

    Its one signature takes `images`, uint8 `(n, height, width, channels)`, RGB, 0...255, and
    returns `probabilities`, float32 `(n, num_classes)`, and `class_id`, int64 `(n,)`. The caller
    must decode and resize images, as LiteRT supports neither image files nor strings; how they must
    be resized is described in `tlkit.data.settings.RESIZES` and named in the settings. Labels and
    settings are at the end of the file; see `tlkit.export.labels`. The model uses LiteRT's own
    operations only.

    Args:
        model: Takes pixels 0...255 of a fixed image size; computes in float32.
        folder: The folder; made if it is missing.
        class_names: Class names in the order of the model's outputs.
        quantization: `None` keeps weights in float32. "float16" stores them in half the size and
            computes in float32. "int8" stores larger weights in a quarter of the size, and
            quantizes their inputs during inference (dynamic range).
        about: Settings for `serving.json`.

    Raises:
        ArgumentError: If an argument is invalid.
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
    names = check_class_names(class_names, num_classes_of(model))
    content = _convert(model, quantization)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / FILES[quantization]
    file.write_bytes(content)
    add_labels(file, names, about or {})
    return file


def _convert(model: keras.Model, quantization: str | None) -> bytes:
    module = tf.Module()
    # The variables themselves, as in a SavedModel: the converter looks for them in the module.
    module.weights = [variable.value for variable in model.variables]
    module.classify = classifying_function(model)
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.classify.get_concrete_function()], module
    )
    if quantization is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    try:
        with unlogged("tensorflow", below=logging.WARNING):  # messages about a temporary folder
            return converter.convert()
    except ConverterError as error:
        raise ExportError(
            f"LiteRT cannot compute this model: {_reason(str(error))}. "
            "Replace the layer that needs it, or export to another format."
        ) from error


def _reason(message: str) -> str:
    """Returns the missing operations in the converter's message, else its first line."""
    missing = re.findall(r"(?:Custom|Flex) ops: (.+)", message)
    return f"it has no operation {', '.join(missing)}" if missing else message.splitlines()[0]
