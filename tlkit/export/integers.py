"""A LiteRT model in integers only, for accelerators such as Edge TPU."""

from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from tlkit.errors import ExportError
from tlkit.evaluation.prediction import image_shape_of
from tlkit.export.classifying import probabilities_function
from tlkit.export.constant_graph import ConstantGraph, graph_of
from tlkit.utils.tensorflow_private import litert_operations

MAX_CALIBRATION_IMAGES = 128
"""More images hardly change the ranges of activations, and each takes a forward pass."""

_INTEGERS = {"INT8", "UINT8", "INT32"}
"""Types of activations and weights, of input and output, and of biases and axes."""


def integer_converter(model: keras.Model, images: np.ndarray) -> "tf.lite.TFLiteConverter":
    """Returns a converter of a model to a LiteRT model of integers only.

    Weights of convolutions are rounded to 8 bits for each channel by itself, activations to 8 bits
    for each tensor, in the range that they have on `images`. The model takes one image at a time,
    and its input and output are unsigned bytes: the input is the pixel, 0...255, the output the
    probability in steps of 1/256. These are the rules of Edge TPU's compiler, and MediaPipe Tasks
    and ML Kit take unsigned bytes, but not signed ones.

    Args:
        model: Takes pixels 0...255 of a fixed image size; computes in float32.
        images: Images to calibrate, uint8 `(n, height, width, channels)`, n at least 1, best some
            of those that the model was trained on.

    Reference:
        https://ai.google.dev/edge/litert/models/post_training_integer_quant,
        https://coral.ai/docs/edgetpu/models-intro/#model-requirements
    """
    graph = graph_of(probabilities_function(model, is_integer=True))
    _prepare(graph.graph_def)
    module = tf.Module()
    module.classify = _function_of(graph, (1, *image_shape_of(model)))
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.classify.get_concrete_function()], module
    )
    pixels = _with_extremes(images)

    def calibration_images() -> Iterator[list[np.ndarray]]:
        for image in pixels:
            yield [image[np.newaxis].astype(np.float32)]

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = calibration_images
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.uint8
    converter.inference_output_type = tf.uint8
    return converter


def check_integers(content: bytes) -> None:
    """Raises `ExportError` unless all operations of a LiteRT model compute with integers.

    The converter leaves operations in float32 that it cannot compute in integers.

    Args:
        content: The model.
    """
    in_float = sorted(
        kind
        for kind, types in litert_operations(content).items()
        if types - _INTEGERS and kind not in ("QUANTIZE", "DEQUANTIZE")
    )
    if in_float:
        raise ExportError(
            "LiteRT cannot compute this model in integers only: it has no integer form of "
            f"{', '.join(in_float)}. Replace the layer that needs it, or export to 'litert_int8', "
            "whose activations are float32."
        )


def _function_of(graph: ConstantGraph, shape: tuple[int, ...]) -> tf.types.experimental.Callable:
    ((input_name, _),) = graph.input_names.items()

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, "images")], autograph=False)
    def classify(images: tf.Tensor) -> dict[str, tf.Tensor]:
        tensors = tf.graph_util.import_graph_def(
            graph.graph_def,
            input_map={input_name: images},
            return_elements=list(graph.output_names),
            name="",
        )
        return dict(zip(graph.output_names.values(), tensors, strict=True))

    return classify


def _prepare(graph_def: tf.compat.v1.GraphDef) -> None:
    """Replaces what the converter would leave in float32, or would lose the signature for.

    It computes products in integers, but not squares. And it saves the function together with its
    custom gradients, which cannot be traced again in a graph of constants.
    """
    for node in graph_def.node:
        node.attr.pop("_gradient_op_type", None)
        if node.op == "Square":
            node.op = "Mul"
            node.input.insert(1, node.input[0])


def _with_extremes(images: np.ndarray) -> np.ndarray:
    """Returns the images with the values 0 and 255 in two corners of the first one.

    The range of the input is then exactly that of pixels, so that each value is one of the 256
    steps, whatever the images are; two values of one image change no other range noticeably.
    """
    pixels = images.copy()
    pixels[0, 0, 0, 0], pixels[0, -1, -1, -1] = 0, 255
    return pixels
