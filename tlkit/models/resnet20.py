"""A small residual network for 32x32 pixels, with weights included in the package."""

from pathlib import Path

import keras

from tlkit.models.weights import load_weights_file

WEIGHTS_FILE = Path(__file__).with_name("resnet20.npz")  # CIFAR-10, float16
BLOCKS_PER_STAGE = 3
STAGE_FILTERS = (16, 48, 96)  # as wide as 1.2 MB of weights allow


def ResNet20(input_tensor: keras.KerasTensor, weights: str | None = None) -> keras.Model:
    """Builds the 20-layer residual network of He et al. (2016), section 4.2, without its head.

    Differences from the paper: the second and third stage are 1.5 times as wide, and shortcuts
    that change the resolution are 1x1 projections with batch normalisation (the paper's option B)
    instead of padded identities.

    Args:
        input_tensor: Preprocessed images, `(batch, height, width, 3)`, values in -1...1; designed
            for 32x32 pixels, and at least 8x8.
        weights: "pretrained" for the weights trained on CIFAR-10 that are included in tlkit
            (rounded to float16), or `None` for random weights.

    Returns:
        A functional model whose output has the shape `(batch, height / 4, width / 4, 96)`.

    Raises:
        WeightsError: The file of the pretrained weights is missing or damaged.

    Example:
        >>> import keras
        >>> from tlkit.models.resnet20 import ResNet20
        >>> ResNet20(keras.Input((32, 32, 3))).output.shape
        (None, 8, 8, 96)

    Reference:
        He et al., Deep Residual Learning for Image Recognition, https://arxiv.org/abs/1512.03385
    """
    x = _convolution(input_tensor, STAGE_FILTERS[0], 3, 1, "stage1_stem")
    x = keras.layers.ReLU(name="stage1_stem_relu")(x)
    for stage, filters in enumerate(STAGE_FILTERS, start=1):
        for block in range(1, BLOCKS_PER_STAGE + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            x = _residual_block(x, filters, strides, f"stage{stage}_block{block}")
    model = keras.Model(keras.utils.get_source_inputs(input_tensor)[0], x, name="resnet20")
    if weights is not None:
        load_weights_file(model, WEIGHTS_FILE)
    return model


def _residual_block(
    x: keras.KerasTensor, filters: int, strides: int, name: str
) -> keras.KerasTensor:
    shortcut = x
    if strides > 1:
        shortcut = _convolution(x, filters, 1, strides, f"{name}_0")
    x = _convolution(x, filters, 3, strides, f"{name}_1")
    x = keras.layers.ReLU(name=f"{name}_1_relu")(x)
    x = _convolution(x, filters, 3, 1, f"{name}_2")
    x = keras.layers.Add(name=f"{name}_add")([shortcut, x])
    return keras.layers.ReLU(name=f"{name}_out")(x)


def _convolution(
    x: keras.KerasTensor, filters: int, kernel_size: int, strides: int, name: str
) -> keras.KerasTensor:
    x = keras.layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_bn")(x)
