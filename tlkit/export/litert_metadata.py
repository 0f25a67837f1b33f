"""TFLite Model Metadata: what a LiteRT file takes and returns, for the libraries that use it.

MediaPipe Tasks and ML Kit read from it how an image becomes the input tensor, and the names of the
classes. It is a FlatBuffer in a buffer of the model; the files that it names are in the ZIP archive
at the end of the file, see `tlkit.export.labels`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import flatbuffers

from tlkit.data.settings import GREY, RGB
from tlkit.evaluation.exported import CLASS_NAMES_FILE, SERVING_FILE
from tlkit.export.image_input import ImageInput
from tlkit.utils.tensorflow_private import with_litert_metadata

NAME, IDENTIFIER = "TFLITE_METADATA", b"M001"
"""The name of the metadata's buffer in a model, and the identifier of its format."""

_PARSER_VERSION = "1.0.0"
"""The lowest version of the format that has everything used here."""

# Numbers of enumerations and members of unions, and below those of the fields of tables, of
# https://github.com/tensorflow/tflite-support/blob/master/tensorflow_lite_support/metadata/metadata_schema.fbs
_DESCRIPTIONS, _AXIS_LABELS = 1, 2
_COLOR_SPACES = {RGB: 1, GREY: 2}
_FEATURE_PROPERTIES, _IMAGE_PROPERTIES = 1, 2
_NORMALIZATION = 1

_MIN_PIXEL, _MAX_PIXEL = 0.0, 255.0


@dataclass(frozen=True)
class _Byte:
    """A field that is a number of one byte; other fields are positions of objects."""

    value: int


def add_metadata(content: bytes, name: str, images: ImageInput) -> bytes:
    """Returns a LiteRT model with the metadata of an image classifier.

    Args:
        content: The model; it has one input, pixels 0...255, and one output, probabilities.
        name: Name of the model.
        images: The images that it takes.
    """
    return with_litert_metadata(content, NAME, classifier_metadata(name, images))


def classifier_metadata(name: str, images: ImageInput) -> bytes:
    """Returns the FlatBuffer `ModelMetadata` of an image classifier.

    The input is an image whose pixels are not normalised outside of the model (mean 0 and standard
    deviation 1), as its preprocessing is part of the model. In a model of integers the same holds:
    an unsigned byte is the pixel. The output's axis has the labels of `class_names.txt`.

    Args:
        name: Name of the model.
        images: The images that it takes.

    Example:
        >>> from tlkit.export.image_input import ImageInput
        >>> from tlkit.export.litert_metadata import classifier_metadata
        >>> classifier_metadata("flowers", ImageInput(224, 224, 3, "crop"))[4:8]
        b'M001'

    Reference:
        https://ai.google.dev/edge/litert/models/metadata
    """
    builder = flatbuffers.Builder(1024)
    # A FlatBuffer is written from its end: what is referred to comes first.
    subgraph = _table(
        builder,
        None,
        None,
        _vector(builder, [_input_metadata(builder, images)]),
        _vector(builder, [_output_metadata(builder)]),
    )
    settings = _file(builder, SERVING_FILE, "Settings of the model, in JSON.", _DESCRIPTIONS)
    text = f"Image classifier. Takes {images}. Its preprocessing is part of the model."
    model = _table(
        builder,
        builder.CreateString(name),
        builder.CreateString(text),
        None,  # version
        _vector(builder, [subgraph]),
        None,  # author
        None,  # license
        _vector(builder, [settings]),
        builder.CreateString(_PARSER_VERSION),
    )
    builder.Finish(model, file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def _input_metadata(builder: flatbuffers.Builder, images: ImageInput) -> int:
    properties = _table(builder, _Byte(_COLOR_SPACES.get(images.channels, 0)))
    normalization = _table(builder, _floats(builder, [0.0]), _floats(builder, [1.0]))
    unit = _table(builder, _Byte(_NORMALIZATION), normalization)
    return _tensor_metadata(
        builder,
        "image",
        f"{images}.",
        content=_table(builder, _Byte(_IMAGE_PROPERTIES), properties),
        units=_vector(builder, [unit]),
        value_range=(_MIN_PIXEL, _MAX_PIXEL),
    )


def _output_metadata(builder: flatbuffers.Builder) -> int:
    labels = _file(builder, CLASS_NAMES_FILE, "Class names, one per line.", _AXIS_LABELS)
    return _tensor_metadata(
        builder,
        "probability",
        "Probability of each class.",
        content=_table(builder, _Byte(_FEATURE_PROPERTIES), _table(builder)),
        files=_vector(builder, [labels]),
        value_range=(0.0, 1.0),
    )


def _tensor_metadata(
    builder: flatbuffers.Builder,
    name: str,
    description: str,
    *,
    content: int,
    value_range: tuple[float, float],
    units: int | None = None,
    files: int | None = None,
) -> int:
    lowest, highest = value_range
    stats = _table(builder, _floats(builder, [highest]), _floats(builder, [lowest]))
    return _table(
        builder,
        builder.CreateString(name),
        builder.CreateString(description),
        None,  # names of the dimensions
        content,
        units,
        stats,
        files,
    )


def _file(builder: flatbuffers.Builder, name: str, description: str, kind: int) -> int:
    name_at, description_at = builder.CreateString(name), builder.CreateString(description)
    return _table(builder, name_at, description_at, _Byte(kind))


def _table(builder: flatbuffers.Builder, *fields: int | _Byte | None) -> int:
    """Writes a table and returns its position; a field that is `None` is left out."""
    builder.StartObject(len(fields))
    for slot, field in enumerate(fields):
        if isinstance(field, _Byte):
            builder.PrependInt8Slot(slot, field.value, 0)
        elif field is not None:
            builder.PrependUOffsetTRelativeSlot(slot, field, 0)
    position: int = builder.EndObject()
    return position


def _vector(builder: flatbuffers.Builder, positions: Sequence[int]) -> int:
    """Writes a vector of objects and returns its position."""
    builder.StartVector(4, len(positions), 4)
    for position in reversed(positions):
        builder.PrependUOffsetTRelative(position)
    vector: int = builder.EndVector()
    return vector


def _floats(builder: flatbuffers.Builder, values: Sequence[float]) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependFloat32(value)
    vector: int = builder.EndVector()
    return vector
