"""The catalogue of backbones: their names, preprocessing, image sizes and numbers of parameters.

Importing this module loads neither Keras nor TensorFlow, so that names can be checked first; a
backbone's code is imported when it is built.
"""

import csv
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tlkit.errors import ArgumentError, check_count, did_you_mean
from tlkit.models.backbone_files import (
    is_backbone_file,
    is_preset,
    read_backbone_file,
    split_name,
)
from tlkit.models.backbone_spec import (
    SHIPPED_BACKBONE,
    BackboneSpec,
    Preprocessing,
    preprocessing_of,
    spec_of_own,
)
from tlkit.models.keras_hub_presets import spec_of_preset
from tlkit.utils.formatting import percent
from tlkit.utils.text_repr import aligned


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
        Licences of weights: the sections "License" of Keras 2's documentation of applications; for
        EfficientNet, MobileNetV3 and ConvNeXt those of the repositories that they were published in
        (tensorflow/tpu, google/automl, tensorflow/models, facebookresearch/ConvNeXt).
    """
    return (*_BUILT_IN.values(), *_registered.values())


def find_backbone(
    name: str | os.PathLike[str],
    preprocessing: Preprocessing | None = None,
    *,
    is_loaded: bool = False,
) -> BackboneSpec:
    """Returns the backbone called `name`, that of a `.keras` file, or that of a KerasHub preset.

    Args:
        name: A name of the catalogue, the path of a file, "keras_hub:PRESET" or
            "keras_hub:FOLDER"; "NAME:PREPROCESSING" has the preprocessing in it.
        preprocessing: Replaces that of the catalogue, for weights of one's own; for a file see
            `tlkit.models.own_backbones.own_backbone`.
        is_loaded: Whether to load a file, which tells whether its model has tokens.

    Raises:
        ArgumentError: There is no such backbone (near matches are suggested), or the file or preset
            cannot be read or is that of another kind of model.
        WeightsError: The preset cannot be downloaded.

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
        if is_loaded:
            from tlkit.models.own_backbones import load_backbone

            return load_backbone(name, preprocessing).spec
        return _spec_of_file(name, preprocessing)
    if is_preset(name):
        return spec_of_preset(str(name), preprocessing)
    known = {spec.name: spec for spec in list_backbones()}
    if not isinstance(name, str) or name not in known:
        raise ArgumentError(
            "`backbone` must be the name of a backbone in the catalogue, the path of a .keras "
            f"file, or keras_hub:PRESET. Received: backbone={whole!r}.{did_you_mean(name, known)} "
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
    return spec_of_own(file.name, partial(_build_file, path, preprocessing), file.image_shape)


def backbone_table(specs: Sequence[BackboneSpec]) -> str:
    """Returns the backbones as a table, as `tlkit backbones` prints it.

    Example:
        >>> import tlkit
        >>> from tlkit.models.catalogue import backbone_table
        >>> print(backbone_table(tlkit.list_backbones()[:1]))
        name      weights   license  local  pixels  parameters  multiply-adds  ImageNet top-1
        resnet20  CIFAR-10  MIT      yes        32     590,896     72,597,504               -
    """
    headings = ("name", "weights", "license", "local", "pixels", "parameters", "multiply-adds")
    rows: list[tuple[str, ...]] = [(*headings, "ImageNet top-1")]
    for spec in specs:
        counts = [
            "-" if count is None else f"{count:,}"
            for count in (spec.default_image_size, spec.num_parameters, spec.multiply_adds)
        ]
        top1 = "-" if spec.imagenet_top1 is None else percent(spec.imagenet_top1)
        texts = (spec.name, spec.weights or "-", spec.license or "-")
        rows.append((*texts, "yes" if spec.is_local else "no", *counts, top1))
    return "\n".join(aligned(rows, left=4))


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
        SHIPPED_BACKBONE,
        _build_resnet20,
        "tf",
        default_image_size=32,
        minimum_image_size=8,
        num_parameters=590_896,
        weights="CIFAR-10",
        multiply_adds=72_597_504,
        license="MIT",
    )
}

_TABLE = Path(__file__).with_name("keras_applications.csv")


def _fill_catalogue() -> None:
    with _TABLE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            options = {"alpha": float(row["width"])} if row["width"] else {}
            _BUILT_IN[row["name"]] = BackboneSpec(
                name=row["name"],
                build=partial(_build_keras_application, row["function"], options),
                preprocessing=row["preprocessing"],
                default_image_size=int(row["image_size"]),
                minimum_image_size=int(row["minimum_image_size"]),
                num_parameters=int(row["parameters"]),
                imagenet_top1=float(row["imagenet_top1"]) if row["imagenet_top1"] else None,
                weights="ImageNet",
                multiply_adds=int(row["multiply_adds"]),
                license=row["license"],
                weights_file=row["file"],
            )


_fill_catalogue()
