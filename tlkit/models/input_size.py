"""A model for images of another size: the same layers and weights on a new input."""

import keras
import numpy as np

from tlkit.errors import ArgumentError, check_image_size
from tlkit.models.compiling import compile_classifier
from tlkit.models.flattening import on_input
from tlkit.models.graph import model_ends


def at_image_size(model: keras.Model, image_size: int | tuple[int, int]) -> keras.Model:
    """Returns a model with the layers and weights of `model`, for images of another size.

    A convolutional network with global pooling takes images of any size. One that was fine-tuned on
    random crops has seen objects enlarged, and is often more accurate on images somewhat larger
    than those it was trained on (Touvron et al. 2019, https://arxiv.org/abs/1906.06423). Compare
    both on validation images: a prediction costs more, in proportion to the number of pixels. Most
    networks reduce images by a factor of 32, and want sizes that are multiples of it.

    The result shares the layers of `model`; nested models are inlined.

    Args:
        model: A functional model from images `(batch, height, width, channels)` to values
            `(batch, num_outputs)`.
        image_size: In pixels, one number for a square or (height, width).

    Raises:
        ArgumentError: The model is not functional or has several inputs or outputs, a side is not a
            positive whole number, or the model takes no images of this size, as with a Flatten
            layer before a Dense layer, or with learned positions.

    Example:
        >>> import tlkit
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> model.input_shape, tlkit.at_image_size(model, 40).input_shape
        ((None, 32, 32, 3), (None, 40, 40, 3))
    """
    return resized_input(model, check_image_size(image_size))


def resized_input(
    model: keras.Model, sides: tuple[int, int], argument: str = "image_size"
) -> keras.Model:
    """Returns the model of `at_image_size`.

    Args:
        model: See `at_image_size`.
        sides: Height and width in pixels.
        argument: Name of the size in errors.
    """
    pixels, output = model_ends(model)
    if len(pixels.shape) != 4 or len(output.shape) != 2:
        raise ArgumentError(
            "`model` must compute one row of values from images. Received: "
            f"model={model.name!r} from {pixels.shape} to {output.shape}. Use another model."
        )
    inputs = keras.Input((*sides, pixels.shape[-1]), dtype=pixels.dtype, name=model.inputs[0].name)
    try:
        resized = keras.Model(inputs, on_input(model, inputs), name=model.name)
        rows = resized(np.zeros((1, *sides, pixels.shape[-1]), pixels.dtype)).shape
    except Exception as error:  # whatever the layers raise
        raise _size_error(argument, model, sides, type(error).__name__) from error
    if tuple(rows) != (1, output.shape[-1]):
        raise _size_error(argument, model, sides, f"one image has outputs of shape {tuple(rows)}")
    compile_classifier(resized)
    return resized


def _size_error(
    argument: str, model: keras.Model, sides: tuple[int, int], reason: str
) -> ArgumentError:
    height, width = sides
    own = " × ".join(map(str, model.input_shape[1:3]))
    return ArgumentError(
        f"`{argument}` must be a size that the layers of the model take. Received: {height} × "
        f"{width} pixels for model={model.name!r}, which takes {own} ({reason}). Use that size, or "
        "a model with global pooling."
    )
