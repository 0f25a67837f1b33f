"""Networks compiled by OpenVINO, an extra; this module does not import it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


class UnsupportedError(Exception):
    """OpenVINO has no form of an operation of a network."""


def compiled(concrete: Any, precision: str) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a function of one tensor, compiled for the CPU by OpenVINO.

    Args:
        concrete: A concrete `tf.function` with one input and one output.
        precision: "float32" or "bfloat16", in which it computes if the processor supports it.

    Raises:
        UnsupportedError: OpenVINO cannot compute the function.
    """
    import openvino
    from openvino import frontend

    try:
        network = openvino.convert_model(concrete)
    except (frontend.OpConversionFailure, frontend.NotImplementedFailure) as error:
        raise UnsupportedError(str(error).strip().splitlines()[-1].strip()) from error
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": PRECISIONS[precision]}
    compiled_network = openvino.compile_model(network, "CPU", hints)
    request, output = compiled_network.create_infer_request(), compiled_network.output(0)

    def forward(images: tf.Tensor) -> tf.Tensor:
        results = request.infer([np.asarray(images)], share_inputs=True)
        return tf.convert_to_tensor(np.array(results[output]))

    return forward
