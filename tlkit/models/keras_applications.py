"""The backbones of `keras.applications`, on a given tensor, with errors that have a remedy."""

import math
import re
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras

from tlkit.errors import WeightsError
from tlkit.models.backbone_spec import SHIPPED_BACKBONE
from tlkit.utils.keras_folder import keras_folder

CONNECTION_TIMEOUT = 10.0  # seconds without a byte before a download counts as failed
IMAGENET_STANDARD_DEVIATION = (0.229, 0.224, 0.225)


def build_keras_application(
    function: str, input_tensor: keras.KerasTensor, weights: str | None = None, **options: Any
) -> keras.Model:
    """Builds `keras.applications.FUNCTION` without its classifier on top of `input_tensor`.

    Args:
        function: Name of the function in `keras.applications`, such as "ResNet50".
        input_tensor: Preprocessed images `(batch, height, width, 3)`, float32.
        weights: "pretrained" for Keras's ImageNet weights, downloaded on first use, or `None` for
            random weights.
        **options: Further arguments of the function, such as `alpha`.

    Raises:
        WeightsError: The pretrained weights cannot be downloaded.

    Example:
        >>> import keras
        >>> from tlkit.models.keras_applications import build_keras_application
        >>> build_keras_application("MobileNet", keras.Input((64, 64, 3)), alpha=0.25).output.shape
        (None, 2, 2, 256)
    """
    build = getattr(keras.applications, function)
    arguments = {
        "include_top": False,
        "input_tensor": input_tensor,
        "input_shape": tuple(input_tensor.shape[1:]),  # chooses among the weights of MobileNet
        **options,
    }
    if weights is not None:
        with _fetching(function), warnings.catch_warnings():
            # MobileNets without weights for this size use those for 224 pixels, as documented
            warnings.filterwarnings("ignore", ".*Weights for input shape", UserWarning)
            return build(weights="imagenet", **arguments)
    backbone = build(weights=None, **arguments)
    if function.startswith("EfficientNetB"):
        return _rescale_as_for_imagenet(backbone, input_tensor)
    return backbone


def _rescale_as_for_imagenet(backbone: keras.Model, input_tensor: keras.KerasTensor) -> keras.Model:
    """Adds the layer to an EfficientNet that Keras adds for `weights="imagenet"` only.

    The published files contain standard deviations instead of variances, and Keras compensates with
    a `Rescaling` after the `Normalization`. Without it, the same file given as `weights=PATH` would
    get wrongly scaled images: https://github.com/tensorflow/tensorflow/issues/62193
    """

    def call(layer: keras.layers.Layer, *inputs: Any, **keywords: Any) -> keras.KerasTensor:
        outputs = layer(*inputs, **keywords)
        if isinstance(layer, keras.layers.Normalization):
            scale = [1 / math.sqrt(deviation) for deviation in IMAGENET_STANDARD_DEVIATION]
            outputs = keras.layers.Rescaling(scale)(outputs)
        return outputs

    return keras.models.clone_model(backbone, input_tensors=[input_tensor], call_function=call)


@contextmanager
def _fetching(function: str) -> Iterator[None]:
    """Turns a failed download into a `WeightsError`, with a short timeout."""
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECTION_TIMEOUT)
    try:
        yield
    except Exception as error:  # Keras raises a bare `Exception` when a download fails
        failure = re.match(r"URL fetch failure on (\S+): (?:None -- )?(.*)", str(error))
        is_damaged = "Incomplete or corrupted file" in str(error)
        if failure is None and not is_damaged and not isinstance(error, OSError):
            raise
        address, reason = failure.groups() if failure else (None, str(error))
        file = f"{Path(address).name!r} (from {address})" if address else "its weights file"
        raise WeightsError(
            "`weights` must be pretrained weights that can be downloaded, a file, or None. "
            f"Received: weights='pretrained', and {function} needs {file}, which cannot be "
            f"downloaded: {reason}. Put that file into {keras_folder()}, where Keras looks for "
            "it, give weights=PATH with the path of the file, or use the backbone "
            f"{SHIPPED_BACKBONE!r}, whose pretrained weights are included in tlkit."
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)
