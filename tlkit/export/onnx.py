"""Export to ONNX, for ONNX Runtime and others that read the format."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from tlkit.errors import ExportError
from tlkit.evaluation.names import check_class_names, num_classes_of
from tlkit.evaluation.prediction import image_shape_of
from tlkit.export.classifying import input_spec_of
from tlkit.export.constant_graph import constant_graph
from tlkit.export.formats import EXPORT_FORMATS, check_packages
from tlkit.export.image_input import ImageInput
from tlkit.utils.tensorflow_logging import unlogged

OPSET = 17
"""Version of ONNX's operations; supported by ONNX Runtime since 1.12 (2022)."""


def write_onnx(
    model: keras.Model,
    folder: Path,
    class_names: Sequence[str],
    *,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Writes an ONNX model with its preprocessing and labels, and returns the file.

    It takes `images`, uint8 `(batch, height, width, channels)`, RGB, 0...255, and returns
    `probabilities`, float32 `(batch, num_classes)`, and `class_id`, int64 `(batch,)`. The caller
    must decode and resize images; the model's description says how. A model of other inputs takes
    `inputs`, in its own shape and type. Its metadata hold `class_names`, a JSON list, and
    `serving`, the settings in JSON.

    Args:
        model: Takes pixels 0...255 of a fixed image size; computes in float32.
        folder: The folder; made if it is missing.
        class_names: Class names in the order of the model's outputs.
        about: The settings; JSON-serializable.

    Raises:
        ArgumentError: If an argument is invalid or tf2onnx is not installed.
        ExportError: If ONNX has no operation for a part of the model.

    Example:
        >>> from tlkit.export.onnx import write_onnx
        >>> file = write_onnx(model, folder, ["ant", "bee"])                # doctest: +SKIP
        >>> session = onnxruntime.InferenceSession(file)                    # doctest: +SKIP
        >>> json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
        ... # doctest: +SKIP
        ['ant', 'bee']
    """
    check_packages(["onnx"])
    import onnx

    names = check_class_names(class_names, num_classes_of(model))
    converted = _convert(model)
    converted.doc_string = (
        f"{_input_text(model, (about or {}).get('resize'))}; preprocessing is part of the model. "
        "probabilities and class_id: in the order of class_names."
    )
    for value in (*converted.graph.input, *converted.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.helper.set_model_props(
        converted,
        {
            "class_names": json.dumps(names, ensure_ascii=False),
            "serving": json.dumps(dict(about or {})),
        },
    )
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / EXPORT_FORMATS["onnx"].path
    onnx.save(converted, file)
    return file


def _input_text(model: keras.Model, resize: str | None) -> str:
    """Returns what the exported model takes, in words."""
    spec = input_spec_of(model)
    if spec.name != "images":
        shape = ", ".join("any" if side is None else str(side) for side in spec.shape[1:])
        return f"{spec.name}: {spec.dtype.name} ({', '.join(filter(None, ('batch', shape)))})"
    return f"images: uint8 {ImageInput(*image_shape_of(model), resize)}"


def _convert(model: keras.Model) -> Any:
    """Returns the ONNX model; the error names the parts that tf2onnx does not support."""
    import onnx
    import tf2onnx

    graph = constant_graph(model)
    try:
        # without tf2onnx's messages: its use of deprecated names does not concern the user
        with unlogged("tf2onnx", "tensorflow"):
            converted, _ = tf2onnx.convert.from_graph_def(
                graph.graph_def,
                name=model.name,
                input_names=list(graph.input_names),
                output_names=list(graph.output_names),
                tensors_to_rename=graph.input_names | graph.output_names,
                opset=OPSET,
            )
        onnx.checker.check_model(converted)
    except (RuntimeError, ValueError, KeyError, onnx.checker.ValidationError) as error:
        raise ExportError(
            f"ONNX cannot compute this model: {str(error).splitlines()[0]}. "
            "Replace the layer that needs it, or export to another format."
        ) from error
    return converted
