"""The catalogue of backbones: their names, preprocessing, image sizes and numbers of parameters.

Importing this module loads neither Keras nor TensorFlow, so that names can be checked first; a
backbone's code is imported when it is built.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from tlkit.errors import ArgumentError, check_count, did_you_mean
from tlkit.models.backbone_files import is_backbone_file, read_backbone_file, split_name
from tlkit.models.backbone_spec import (
    SHIPPED_BACKBONE,
    BackboneSpec,
    Preprocessing,
    preprocessing_of,
)


def list_backbones() -> tuple[BackboneSpec, ...]:
    """Returns all backbones that `build_classifier` can build, the registered ones last.

    Example:
        >>> import tlkit
        >>> len(tlkit.list_backbones()) > 40
        True
        >>> print(tlkit.list_backbones()[0])
        resnet20: 32 px (at least 8), 590,896 parameters, weights: CIFAR-10

    Reference:
        ImageNet accuracies: the table of https://keras.io/api/applications/; for the width
        variants and MobileNetV3 the tables in the documentation of those families' modules.
    """
    return (*_BUILT_IN.values(), *_registered.values())


def find_backbone(
    name: str | os.PathLike[str], preprocessing: Preprocessing | None = None
) -> BackboneSpec:
    """Returns the backbone called `name`, or that of a `.keras` file.

    Args:
        name: A name of the catalogue, or the path of a file; "NAME:PREPROCESSING" has the
            preprocessing in it.
        preprocessing: Replaces that of the catalogue, for weights of one's own; for a file see
            `tlkit.models.own_backbones.own_backbone`.

    Raises:
        ArgumentError: There is no such backbone (near matches are suggested), or the file cannot be
            read or is that of another kind of model.

    Example:
        >>> from tlkit.models.catalogue import find_backbone
        >>> find_backbone("resnet50").preprocessing
        'caffe'
    """
    whole = name
    if isinstance(name, str):
        name, own = split_name(name)
        if own is not None and preprocessing is not None:
            raise ArgumentError(
                "`preprocessing` must be left out if the name of the backbone has one. "
                f"Received: backbone={whole!r} and preprocessing={preprocessing!r}. Give one."
            )
        preprocessing = preprocessing if own is None else own
    if is_backbone_file(name):
        return _spec_of_file(name, preprocessing)
    known = {spec.name: spec for spec in list_backbones()}
    if not isinstance(name, str) or name not in known:
        raise ArgumentError(
            "`backbone` must be the name of a backbone in the catalogue, or the path of a .keras "
            f"file. Received: backbone={whole!r}.{did_you_mean(name, known)} "
            "`tlkit.list_backbones()` lists them; `tlkit.register_backbone` adds your own."
        )
    if preprocessing is None:
        return known[name]
    return dataclasses.replace(known[name], preprocessing=preprocessing)


def register_backbone(
    name: str,
    build: Callable[[Any, str | None], Any],
    preprocessing: Preprocessing | Sequence[Any] = "none",
    *,
    default_image_size: int,
    minimum_image_size: int = 1,
    num_parameters: int | None = None,
    imagenet_top1: float | None = None,
    weights: str | None = None,
) -> BackboneSpec:
    """Adds your own backbone to the catalogue of this process.

    Registering the same name again replaces it, so that a notebook cell can be run again.

    Args:
        name: A new name, not that of a built-in backbone.
        build: `build(input_tensor, weights)`. It calls its layers on `input_tensor`, a Keras
            tensor of preprocessed images `(batch, height, width, 3)`, and returns
            `keras.Model(pixels, features)` with features `(batch, rows, columns, channels)`, where
            `pixels` is `keras.utils.get_source_inputs(input_tensor)[0]`. `weights` is "pretrained"
            (load your weights) or `None` (random; files given as `weights=PATH` are read by
            tlkit afterwards).
        preprocessing: "caffe", "tf", "torch" or "none", see `BackboneSpec`; (mean, deviation) for
            (pixels - mean) / deviation, each one number or three; or a function without arguments
            that returns a Keras layer.
        default_image_size: Default height and width in pixels.
        minimum_image_size: Smallest allowed height and width.
        num_parameters: Number of parameters without a classifier, for lists.
        imagenet_top1: ImageNet top-1 accuracy, 0...1, for lists.
        weights: The dataset that the weights loaded for "pretrained" were trained on, such as
            "ImageNet"; `None` without such weights.

    Raises:
        ArgumentError: The name is that of a built-in backbone, `build` is not callable, the
            preprocessing is unknown, or a size is not positive.

    Example:
        >>> import keras, tlkit
        >>> def build(input_tensor, weights):
        ...     x = keras.layers.Conv2D(8, 3, strides=2, name="block1_conv")(input_tensor)
        ...     return keras.Model(keras.utils.get_source_inputs(input_tensor)[0], x)
        >>> spec = tlkit.register_backbone("tiny", build, "tf", default_image_size=64)
        >>> tlkit.build_classifier("tiny", ["cat", "dog"], weights=None).output_shape
        (None, 2)
    """
    if not isinstance(name, str) or not name or name in _BUILT_IN:
        raise ArgumentError(
            "`name` must be a name that no built-in backbone has. "
            f"Received: name={name!r}. Choose another name."
        )
    if not callable(build):
        raise ArgumentError(
            "`build` must be a function of (input_tensor, weights) that returns a keras.Model. "
            f"Received: build={build!r}. Give such a function."
        )
    check_count("minimum_image_size", minimum_image_size)
    check_count("default_image_size", default_image_size, minimum=minimum_image_size)
    spec = BackboneSpec(
        name,
        build,
        preprocessing_of(preprocessing),
        default_image_size,
        minimum_image_size,
        num_parameters,
        imagenet_top1,
        weights,
    )
    _registered[name] = spec
    return spec


def _spec_of_file(
    path: str | os.PathLike[str], preprocessing: Preprocessing | None
) -> BackboneSpec:
    file = read_backbone_file(path)
    return spec_of_own(file.name, partial(_build_file, path, preprocessing), file.image_size)


def spec_of_own(
    name: str, build: Callable[[Any, str | None], Any], image_size: tuple[int | None, int | None]
) -> BackboneSpec:
    """Returns the spec of a backbone of the user's own, which brings its weights.

    Args:
        name: Its name.
        build: See `BackboneSpec`; it gets raw pixels.
        image_size: (height, width) that the model takes; `None` for sides that are not fixed.
    """
    sides = [side for side in image_size if side is not None]
    return BackboneSpec(
        name=name,
        build=build,
        preprocessing="none",
        default_image_size=max(sides, default=224),
        minimum_image_size=1,
        weights="its own",
    )


def _build_file(
    path: str | os.PathLike[str],
    preprocessing: Preprocessing | None,
    input_tensor: Any,
    weights: str | None,
) -> Any:
    from tlkit.models.own_backbones import load_backbone

    return load_backbone(path, preprocessing).build(input_tensor, weights)


def _build_keras_application(
    function: str, options: Mapping[str, object], input_tensor: Any, weights: str | None
) -> Any:
    from tlkit.models.keras_applications import build_keras_application

    return build_keras_application(function, input_tensor, weights, **options)


def _build_resnet20(input_tensor: Any, weights: str | None) -> Any:
    from tlkit.models.resnet20 import ResNet20

    return ResNet20(input_tensor, weights)


_registered: dict[str, BackboneSpec] = {}
_BUILT_IN: dict[str, BackboneSpec] = {
    SHIPPED_BACKBONE: BackboneSpec(
        SHIPPED_BACKBONE, _build_resnet20, "tf", 32, 8, 590_896, None, "CIFAR-10"
    )
}

# Name, Keras function, preprocessing, default and minimum image size, parameters, ImageNet top-1
_FAMILIES: tuple[tuple[str, str, str, int, int, int, float | None], ...] = (
    ("vgg16", "VGG16", "caffe", 224, 32, 14_714_688, 0.713),
    ("vgg19", "VGG19", "caffe", 224, 32, 20_024_384, 0.713),
    ("resnet50", "ResNet50", "caffe", 224, 32, 23_587_712, 0.749),
    ("resnet101", "ResNet101", "caffe", 224, 32, 42_658_176, 0.764),
    ("resnet152", "ResNet152", "caffe", 224, 32, 58_370_944, 0.766),
    ("resnet50_v2", "ResNet50V2", "tf", 224, 32, 23_564_800, 0.760),
    ("resnet101_v2", "ResNet101V2", "tf", 224, 32, 42_626_560, 0.772),
    ("resnet152_v2", "ResNet152V2", "tf", 224, 32, 58_331_648, 0.780),
    ("inception_v3", "InceptionV3", "tf", 299, 75, 21_802_784, 0.779),
    ("inception_resnet_v2", "InceptionResNetV2", "tf", 299, 75, 54_336_736, 0.803),
    ("xception", "Xception", "tf", 299, 71, 20_861_480, 0.790),
    ("mobilenet", "MobileNet", "tf", 224, 32, 3_228_864, 0.704),
    ("mobilenet_v2", "MobileNetV2", "tf", 224, 32, 2_257_984, 0.713),
    ("mobilenet_v3_small", "MobileNetV3Small", "none", 224, 32, 939_120, 0.681),
    ("mobilenet_v3_large", "MobileNetV3Large", "none", 224, 32, 2_996_352, 0.756),
    ("densenet121", "DenseNet121", "torch", 224, 32, 7_037_504, 0.750),
    ("densenet169", "DenseNet169", "torch", 224, 32, 12_642_880, 0.762),
    ("densenet201", "DenseNet201", "torch", 224, 32, 18_321_984, 0.773),
    ("efficientnet_b0", "EfficientNetB0", "none", 224, 32, 4_049_571, 0.771),
    ("efficientnet_b1", "EfficientNetB1", "none", 240, 32, 6_575_239, 0.791),
    ("efficientnet_b2", "EfficientNetB2", "none", 260, 32, 7_768_569, 0.801),
    ("efficientnet_b3", "EfficientNetB3", "none", 300, 32, 10_783_535, 0.816),
    ("efficientnet_b4", "EfficientNetB4", "none", 380, 32, 17_673_823, 0.829),
    ("efficientnet_b5", "EfficientNetB5", "none", 456, 32, 28_513_527, 0.836),
    ("efficientnet_b6", "EfficientNetB6", "none", 528, 32, 40_960_143, 0.840),
    ("efficientnet_b7", "EfficientNetB7", "none", 600, 32, 64_097_687, 0.843),
    ("efficientnet_v2_b0", "EfficientNetV2B0", "none", 224, 32, 5_919_312, 0.787),
    ("efficientnet_v2_b1", "EfficientNetV2B1", "none", 240, 32, 6_931_124, 0.798),
    ("efficientnet_v2_b2", "EfficientNetV2B2", "none", 260, 32, 8_769_374, 0.805),
    ("efficientnet_v2_b3", "EfficientNetV2B3", "none", 300, 32, 12_930_622, 0.820),
    ("efficientnet_v2_s", "EfficientNetV2S", "none", 384, 32, 20_331_360, 0.839),
    ("efficientnet_v2_m", "EfficientNetV2M", "none", 480, 32, 53_150_388, 0.853),
    ("efficientnet_v2_l", "EfficientNetV2L", "none", 480, 32, 117_746_848, 0.857),
    ("convnext_tiny", "ConvNeXtTiny", "none", 224, 32, 27_820_128, 0.813),
    ("convnext_small", "ConvNeXtSmall", "none", 224, 32, 49_454_688, 0.823),
    ("convnext_base", "ConvNeXtBase", "none", 224, 32, 87_566_464, 0.853),
    ("convnext_large", "ConvNeXtLarge", "none", 224, 32, 196_230_336, 0.863),
    ("convnext_xlarge", "ConvNeXtXLarge", "none", 224, 32, 348_147_968, 0.867),
    ("nasnet_mobile", "NASNetMobile", "tf", 224, 32, 4_269_716, 0.744),
    ("nasnet_large", "NASNetLarge", "tf", 331, 32, 84_916_818, 0.825),
)
# Family, width multiplier in hundredths, parameters, ImageNet top-1
_WIDTHS: tuple[tuple[str, int, int, float | None], ...] = (
    ("mobilenet", 25, 218_544, 0.506),
    ("mobilenet", 50, 829_536, 0.637),
    ("mobilenet", 75, 1_832_976, 0.684),
    ("mobilenet_v2", 35, 410_208, 0.603),
    ("mobilenet_v2", 50, 706_224, 0.654),
    ("mobilenet_v2", 75, 1_382_064, 0.698),
    ("mobilenet_v2", 130, 3_766_048, 0.744),
    ("mobilenet_v2", 140, 4_363_712, 0.750),
    ("mobilenet_v3_small", 75, 583_160, 0.654),
    ("mobilenet_v3_large", 75, 1_808_736, 0.733),
)


def _fill_catalogue() -> None:
    for name, function, preprocessing, default, minimum, parameters, top1 in _FAMILIES:
        widths = [(width, n, t) for family, width, n, t in _WIDTHS if family == name]
        for width, num_parameters, accuracy in [(None, parameters, top1), *widths]:
            options = {} if width is None else {"alpha": width / 100}
            variant = name if width is None else f"{name}_{width:03d}"
            _BUILT_IN[variant] = BackboneSpec(
                name=variant,
                build=partial(_build_keras_application, function, options),
                preprocessing=preprocessing,
                default_image_size=default,
                minimum_image_size=minimum,
                num_parameters=num_parameters,
                imagenet_top1=accuracy,
                weights="ImageNet",
            )


_fill_catalogue()
