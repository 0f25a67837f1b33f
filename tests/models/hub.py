"""Small backbones of KerasHub, one of each family, saved as presets with random weights."""

import warnings
from pathlib import Path

import keras
import numpy as np

SIZE = 32
MEAN, DEVIATION = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)
_TRANSFORMER = {"patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16}
_MLP = {**_TRANSFORMER, "intermediate_dim": 32}
_IMAGES = {"image_shape": (SIZE, SIZE, 3)}

# The class of the backbone, that of its image converter, and the settings
FAMILIES = {
    "vit": ("ViTBackbone", "ViT", {**_TRANSFORMER, **_IMAGES, "mlp_dim": 32}),
    "vit_mean": (
        "ViTBackbone",
        "ViT",
        {**_TRANSFORMER, **_IMAGES, "mlp_dim": 32, "use_class_token": False, "dropout_rate": 0.1},
    ),
    "dinov2": (
        "DINOV2Backbone",
        "DINOV2",
        {**_MLP, **_IMAGES, "position_embedding_shape": (64, 64, 3), "num_register_tokens": 2},
    ),
    "dinov2_giant": (
        "DINOV2Backbone",
        "DINOV2",
        {
            **_MLP,
            **_IMAGES,
            "position_embedding_shape": (32, 32, 3),
            "use_swiglu_ffn": True,
            "layer_scale_init_value": 0.1,
        },
    ),
    "dinov3": ("DINOV3Backbone", "DINOV3", {**_MLP, **_IMAGES}),
    "dinov3_gated": ("DINOV3Backbone", "DINOV3", {**_MLP, **_IMAGES, "use_gated_mlp": True}),
    "siglip": ("SigLIPVisionEncoder", "SigLIP", {**_MLP, **_IMAGES}),
    "swin": (
        "SwinTransformerBackbone",
        "SwinTransformer",
        # windows of 4 x 4 patches do not fill 10 x 10, and are shifted in every second block
        {
            "image_shape": (40, 40, 3),
            "embed_dim": 8,
            "depths": (2, 2),
            "num_heads": (2, 4),
            "window_size": 4,
        },
    ),
    "resnet": (
        "ResNetBackbone",
        "ResNet",
        {
            "input_conv_filters": [64],
            "input_conv_kernel_sizes": [7],
            "stackwise_num_filters": [64, 64],
            "stackwise_num_blocks": [1, 1],
            "stackwise_num_strides": [1, 2],
            "block_type": "basic_block",
        },
    ),
    "efficientnet": (
        "EfficientNetBackbone",
        "EfficientNet",
        {
            "stackwise_width_coefficients": [1.0, 1.0],
            "stackwise_depth_coefficients": [1.0, 1.0],
            "stackwise_kernel_sizes": [3, 3],
            "stackwise_num_repeats": [2, 2],
            "stackwise_input_filters": [8, 8],
            "stackwise_output_filters": [8, 16],
            "stackwise_expansion_ratios": [1, 4],
            "stackwise_squeeze_and_excite_ratios": [0.0, 0.25],
            "stackwise_strides": [1, 2],
            "stackwise_block_types": ["fused", "unfused"],
            "stackwise_force_input_filters": [0, 0],
            "stackwise_nores_option": [False, False],
        },
    ),
    "mobilenet": (
        "MobileNetBackbone",
        "MobileNet",
        {
            "stackwise_expansion": [[16, 24], [24, 32]],
            "stackwise_num_blocks": [2, 2],
            "stackwise_num_filters": [[8, 8], [16, 16]],
            "stackwise_kernel_size": [[3, 3], [5, 5]],
            "stackwise_num_strides": [[2, 1], [2, 1]],
            "stackwise_se_ratio": [[None, None], [0.25, 0.25]],
            "stackwise_activation": [["relu", "relu"], ["hard_swish", "hard_swish"]],
            "stackwise_padding": [[1, 1], [2, 2]],
            "output_num_filters": 32,
            "depthwise_filters": 8,
            "depthwise_stride": 1,
            "depthwise_residual": False,
            "last_layer_filter": 24,
            "squeeze_and_excite": 0.5,
        },
    ),
    "vgg": (
        "VGGBackbone",
        "VGG",
        {"stackwise_num_repeats": [1, 1], "stackwise_num_filters": [8, 16], **_IMAGES},
    ),
}
TRANSFORMERS = ("vit", "dinov2", "dinov3", "siglip", "swin")


def backbone(family: str) -> keras.Model:
    """Returns a backbone whose weights are all different from their initial values."""
    import keras_hub

    name, _, settings = FAMILIES[family]
    keras.utils.set_random_seed(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not support masking")
        made = getattr(keras_hub.models, name)(**settings)
    generator = np.random.default_rng(0)
    for weight in made.weights:
        if weight.dtype == "float32" and weight.name != "interpolated_position_embeddings":
            change = generator.uniform(0.05, 0.2, weight.shape)
            weight.assign(weight + change.astype(np.float32))
    return made


def save_preset(family: str, folder: Path, *, converter: bool = True) -> str:
    """Saves a backbone with an image converter; returns its name for `build_classifier`."""
    import keras_hub

    made = backbone(family)
    size = made.inputs[0].shape[1:3]
    made.save_to_preset(str(folder))
    if converter:
        convert = getattr(keras_hub.layers, f"{FAMILIES[family][1]}ImageConverter")
        convert(
            image_size=size if None not in size else (SIZE, SIZE),
            scale=[1 / one for one in DEVIATION],
            offset=[-mean / one for mean, one in zip(MEAN, DEVIATION, strict=True)],
        ).save_to_preset(str(folder))
    return f"keras_hub:{folder}"
