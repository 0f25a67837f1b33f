"""Test-time views: a model whose outputs are the mean over an image and its mirror image."""

import keras

from tlkit.errors import ArgumentError
from tlkit.models.compiling import compile_classifier
from tlkit.models.graph import model_ends
from tlkit.models.grown_names import GrownName
from tlkit.models.heads import OUTPUT_NAMES, head_kind


def average_flips(model: keras.Model) -> keras.Model:
    """Returns a model with the mean of the outputs for each image and for its mirror image.

    The network runs twice, so that a prediction takes twice as long. Logits are averaged as logits,
    probabilities as probabilities. The result consists of plain Keras layers and operations, shares
    the layers of `model`, and is meant for evaluation and export; train and calibrate `model`
    itself.

    Args:
        model: A functional model from images `(batch, height, width, channels)` to logits or
            probabilities `(batch, num_outputs)`.

    Raises:
        ArgumentError: The model is not functional, has several inputs or outputs, or takes no
            images.

    Example:
        >>> import numpy as np, tlkit
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> both = tlkit.average_flips(model)
        >>> image = np.random.default_rng(0).uniform(0, 255, (1, 32, 32, 3)).astype("float32")
        >>> bool(np.allclose(both(image), both(image[:, :, ::-1]), atol=1e-5))
        True
    """
    pixels, _ = model_ends(model)
    if len(pixels.shape) != 4:
        raise ArgumentError(
            "`model` must take images, (batch, height, width, channels), which can be flipped. "
            f"Received: model={model.name!r}, which takes {tuple(pixels.shape)}. Use the "
            "model as it is."
        )
    views = [model(pixels), model(keras.ops.flip(pixels, axis=2))]
    # the name tells the kind of head, see `head_kind`
    name = str(GrownName(OUTPUT_NAMES[head_kind(model)], role="activation"))
    mean = keras.layers.Average(name=name, dtype="float32")
    averaged = keras.Model(pixels, mean(views), name=model.name)
    compile_classifier(averaged)
    return averaged
