"""A small network for tests of training: resnet20's groups with few layers, quick to trace."""

from dataclasses import replace

import keras

import tlkit
from tlkit.models import catalogue, resnet20

FILTERS = (16, 24, 32)


def tiny_resnet(input_tensor, weights=None, strides=1):
    """Builds one residual block of one convolution per stage; there are no pretrained weights."""
    assert weights is None
    x = resnet20._convolution(input_tensor, FILTERS[0], 3, strides, "stage1_stem")
    x = keras.layers.ReLU(name="stage1_stem_relu")(x)
    for stage, filters in enumerate(FILTERS, start=1):
        shortcut, name = x, f"stage{stage}"
        if stage > 1:
            shortcut = resnet20._convolution(x, filters, 1, 2, f"{name}_0")
        x = resnet20._convolution(x, filters, 3, 2 if stage > 1 else 1, f"{name}_1")
        x = keras.layers.Add(name=f"{name}_add")([shortcut, x])
        x = keras.layers.ReLU(name=f"{name}_out")(x)
    return keras.Model(keras.utils.get_source_inputs(input_tensor)[0], x)


def register():
    """Registers the network as a backbone in this process."""
    tlkit.register_backbone(
        "tiny_resnet", tiny_resnet, "tf", default_image_size=32, minimum_image_size=8
    )


def replace_built_in(*names):
    """Lets the names of backbones that tlkit has stand for the small network, in this process.

    Whatever `weights` are asked for, they are random.
    """
    for name in names:
        catalogue._BUILT_IN[name] = small_version(name)


def small_version(name):
    """The entry of a built-in backbone, which builds the small network.

    Its maps are as small for the size that the backbone was trained on as for 32 pixels.
    """
    entry = catalogue._BUILT_IN[name]
    strides = entry.default_image_size // 32
    return replace(
        entry, build=lambda input_tensor, weights: tiny_resnet(input_tensor, strides=strides)
    )
