"""A small network for tests of training: resnet20's groups with one block and fewer filters."""

import keras

import tlkit
from tlkit.models import resnet20

FILTERS = (16, 24, 32)


def resnet8(input_tensor, weights=None):
    """Builds one residual block per stage; there are no pretrained weights."""
    assert weights is None
    x = resnet20._convolution(input_tensor, FILTERS[0], 3, 1, "stage1_stem")
    x = keras.layers.ReLU(name="stage1_stem_relu")(x)
    for stage, filters in enumerate(FILTERS, start=1):
        x = resnet20._residual_block(x, filters, 2 if stage > 1 else 1, f"stage{stage}")
    return keras.Model(keras.utils.get_source_inputs(input_tensor)[0], x)


def register():
    """Registers the network as a backbone in this process."""
    tlkit.register_backbone("resnet8", resnet8, "tf", default_image_size=32, minimum_image_size=8)
