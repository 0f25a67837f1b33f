"""A network for tests that train: resnet20's groups and names, a sixth of its layers' work."""

import keras

import tlkit

FILTERS = (16, 24, 32)


def resnet8(input_tensor, weights=None):
    """One residual block a stage; there are no pretrained weights."""
    assert weights is None
    x = convolution(input_tensor, FILTERS[0], 1, "stage1_stem")
    x = keras.layers.ReLU(name="stage1_stem_relu")(x)
    for stage, filters in enumerate(FILTERS, start=1):
        x = residual_block(x, filters, 2 if stage > 1 else 1, f"stage{stage}")
    return keras.Model(keras.utils.get_source_inputs(input_tensor)[0], x)


def residual_block(x, filters, strides, name):
    shortcut = convolution(x, filters, strides, f"{name}_0", 1) if strides > 1 else x
    x = convolution(x, filters, strides, f"{name}_1")
    x = keras.layers.ReLU(name=f"{name}_1_relu")(x)
    x = convolution(x, filters, 1, f"{name}_2")
    x = keras.layers.Add(name=f"{name}_add")([shortcut, x])
    return keras.layers.ReLU(name=f"{name}_out")(x)


def convolution(x, filters, strides, name, kernel_size=3):
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


def register():
    """Makes it a backbone of this process."""
    tlkit.register_backbone("resnet8", resnet8, "tf", default_image_size=32, minimum_image_size=8)
