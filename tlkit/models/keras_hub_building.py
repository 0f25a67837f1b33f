"""Building of KerasHub's vision backbones as flat graphs of plain Keras layers."""

from typing import Any

import keras
import numpy as np

from tlkit.errors import ArgumentError
from tlkit.models.backbone_spec import Preprocessing
from tlkit.models.flattening import on_input
from tlkit.models.keras_hub_layers import replacements_for
from tlkit.models.opening import opened
from tlkit.models.own_backbones import copied_onto
from tlkit.models.preprocessing import preprocess
from tlkit.utils.progress import note

_TOLERANCE = 1e-4  # of the largest feature


def build_vision_backbone(
    backbone: Any,
    name: str,
    pixels: keras.KerasTensor,
    preprocessing: Preprocessing,
    *,
    is_pooled: bool,
) -> keras.Model:
    """Returns a backbone from pixels 0...255 to feature maps or tokens.

    That it computes what KerasHub's own does is checked on random images, if KerasHub's takes
    images of this size.

    Args:
        backbone: A backbone of KerasHub, whose layers are renamed.
        name: Name of the backbone.
        pixels: A `keras.Input` `(batch, height, width, 3)`, float32.
        preprocessing: What is done to pixels before the backbone.
        is_pooled: Whether to return features `(batch, channels)` of its own pooling.

    Raises:
        ArgumentError: The backbone takes no images of this size, or a layer of it can neither be
            opened nor be saved.
    """
    size = pixels.shape[1:3]
    # without its pooling, the norm is the last layer
    norm = None if is_pooled else getattr(backbone, "post_layer_norm", None)
    whole = keras.Model(backbone.inputs[0], backbone.outputs[0] if norm is None else norm.output)
    for operation in whole.operations:
        operation.name = operation.name.removeprefix(f"{backbone.name}_")
    images = keras.Input((*size, 3))
    found = opened(whole, images, replacements_for(whole.operations, size))
    plain = keras.Model(images, found.output)
    _check_same(name, whole, plain)
    if found.closed:
        note(f"{name}: layers that stay whole: {', '.join(found.closed)}")
    resized = keras.Input((*size, 3))
    prepared = preprocess(resized, preprocessing)
    return copied_onto(keras.Model(resized, on_input(plain, prepared)), pixels, name)


def _check_same(name: str, backbone: keras.Model, plain: keras.Model) -> None:
    shape = plain.input_shape[1:]
    own = backbone.inputs[0].shape[1:]
    if any(side not in (None, given) for side, given in zip(own, shape, strict=True)):
        return
    images = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    expected, found = (
        keras.ops.convert_to_numpy(model(images, training=False)) for model in (backbone, plain)
    )
    difference = np.abs(expected - found).max() / np.abs(expected).max()
    if not difference <= _TOLERANCE:
        raise ArgumentError(
            f"`backbone` must be a preset whose layers tlkit knows. Received: {name!r}, whose "
            f"features differ by {difference:.1g} of the largest one when its layers are called "
            "one by one. Report this with the version of keras-hub."
        )
