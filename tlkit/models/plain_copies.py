"""Copies of models, flat and of plain layers: nothing nested, composite layers opened."""

from typing import Any

import keras
import numpy as np

from tlkit.errors import ArgumentError
from tlkit.models.backbone_files import KERAS_HUB
from tlkit.models.backbone_spec import Preprocessing
from tlkit.models.flattening import on_input
from tlkit.models.keras_hub_layers import replacements_for
from tlkit.models.opening import Opened, opened
from tlkit.models.preprocessing import preprocess
from tlkit.models.trainable import set_flag
from tlkit.utils.formatting import reason_of
from tlkit.utils.progress import note

_TOLERANCE = 1e-4  # of the largest feature


def plain_copy(
    model: keras.Model, pixels: keras.KerasTensor, preprocessing: Preprocessing, name: str
) -> keras.Model:
    """Returns a model of copies of the layers, each called once, all of them trainable.

    Nested models are inlined, and composite layers opened; those that stay whole are noted. That
    layers of KerasHub compute the same as before is checked on random images, if the model takes
    images of this size.

    Args:
        model: A functional model with one input and one output, whose layers are renamed.
        pixels: The copy's `keras.Input`: `(batch, height, width, channels)`, 0...255.
        preprocessing: What is done to pixels before the model.
        name: Name of the copy.

    Raises:
        ArgumentError: A layer cannot be created from its settings, or computes something else when
            the layers inside it are called one by one.
    """
    shape = pixels.shape[1:]
    found = opened_model(model, shape)
    plain = found.model
    if any(type(one).__module__.startswith(f"{KERAS_HUB}.") for one in model.operations):
        _check_same(name, model, plain)
    if found.closed:
        note(f"{name}: layers that stay whole: {', '.join(found.closed)}")
    resized = keras.Input(shape, dtype=model.inputs[0].dtype)
    prepared = on_input(plain, preprocess(resized, preprocessing))
    whole = keras.Model(resized, prepared)
    return copied_onto(whole, pixels, name)


def copied_onto(model: keras.Model, pixels: keras.KerasTensor, name: str) -> keras.Model:
    """Returns a model of copies of the layers, each called once, all of them trainable.

    Args:
        model: A functional model of layers that may be called elsewhere, too.
        pixels: The copy's `keras.Input`.
        name: Name of the copy.

    Raises:
        ArgumentError: A layer cannot be created from its settings.
    """
    copy = cloned(model, name, input_tensors=pixels)
    copy.set_weights(model.get_weights())
    set_flag(copy, True)
    return keras.Model(pixels, copy.outputs[0], name=name)


def cloned(model: keras.Model, name: str, **arguments: Any) -> keras.Model:
    """Returns what `keras.models.clone_model` makes of a model.

    Raises:
        ArgumentError: A layer cannot be created from its settings.
    """
    try:
        return keras.models.clone_model(model, **arguments)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise not_copied(f"{name!r}, whose layers cannot be copied", error) from error


def opened_model(model: keras.Model, shape: tuple[int, ...]) -> Opened:
    """Calls the layers of a model on images of a shape, and renames them; nothing is nested then.

    Args:
        model: A functional model with one input and one output.
        shape: (height, width, channels) of the images.
    """
    images = keras.Input(shape, dtype=model.inputs[0].dtype)
    inlined = keras.Model(images, on_input(model, images))
    return opened(inlined, images, replacements_for(inlined.operations, (shape[0], shape[1])))


def not_copied(what: str, error: Exception) -> ArgumentError:
    """Returns the error for a backbone with layers that cannot be created."""
    reason = reason_of(error)
    return ArgumentError(
        "`backbone` must consist of layers that Keras creates from their settings, without running "
        f"code from a file. Received: backbone={what} ({reason}). Replace Lambda layers by plain "
        "ones, and register classes of your own with keras.saving.register_keras_serializable."
    )


def _check_same(name: str, model: keras.Model, plain: keras.Model) -> None:
    shape = plain.input_shape[1:]
    own = model.inputs[0].shape[1:]
    if any(side not in (None, given) for side, given in zip(own, shape, strict=True)):
        return
    images = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    expected, found = (
        keras.ops.convert_to_numpy(one(images, training=False)) for one in (model, plain)
    )
    difference = np.abs(expected - found).max() / np.abs(expected).max()
    if not difference <= _TOLERANCE:
        raise ArgumentError(
            f"`backbone` must be a network whose layers tlkit knows. Received: {name!r}, whose "
            f"features differ by {difference:.1g} of the largest one when its layers are called "
            "one by one. Report this with the version of keras-hub."
        )
