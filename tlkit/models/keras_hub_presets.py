"""Vision backbones of KerasHub, from presets.

A preset is a folder with the settings and weights of a backbone, a local one or one that KerasHub
downloads by its name. Importing this module loads neither Keras nor KerasHub; a local preset is
described without them, too.
"""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from tlkit.errors import ArgumentError, WeightsError, did_you_mean
from tlkit.models.backbone_files import PREFIX, image_shape_in
from tlkit.models.backbone_spec import BackboneSpec, Preprocessing, Standardization, in_words
from tlkit.utils.formatting import reason_of
from tlkit.utils.progress import note

_TOKENS = {"ViTBackbone", "DINOV2Backbone", "DINOV3Backbone"}
_SIZED = {"DINOV2Backbone", "DINOV3Backbone", "SwinTransformerBackbone"}


def spec_of_preset(backbone: str, preprocessing: Preprocessing | None = None) -> BackboneSpec:
    """Returns the backbone of "keras_hub:PRESET" or "keras_hub:FOLDER".

    Args:
        backbone: The name: a name of `keras_hub.models.Backbone.presets`, an address such as
            "hf://USER/NAME", or a folder that `save_to_preset` wrote.
        preprocessing: What is done to pixels 0...255 before the backbone; by default that of the
            preset's image converter.

    Raises:
        ArgumentError: KerasHub is not installed, there is no such preset, it is no backbone for
            images, or it has no image converter and `preprocessing` is not given.
        WeightsError: The preset cannot be downloaded.
    """
    name = backbone.removeprefix(PREFIX)
    preset = _read(name)
    prepared = preset.converted if preprocessing is None else preprocessing
    if prepared is None:
        raise ArgumentError(
            "`preprocessing` must be given for a preset without an image converter. "
            f"Received: backbone={backbone!r}. Give what it was trained with: 'tf', 'torch', or "
            "'none' for raw pixels."
        )
    build = partial(_build, name, prepared)
    sides = [side for side in preset.image_size if side is not None]
    return BackboneSpec(
        name=Path(name).name,
        build=build,
        preprocessing="none",
        default_image_size=max(sides, default=224),
        minimum_image_size=preset.minimum,
        weights="its own",
        num_prefix_tokens=preset.num_prefix_tokens,
        build_pooled=partial(build, is_pooled=True) if preset.has_pooling else None,
    )


@dataclass(frozen=True)
class _Preset:
    """What a preset says about its backbone.

    Attributes:
        image_size: (height, width) in pixels; `None` for sides that are not fixed.
        multiple: Pixels that the sides of images are multiples of; 1 without patches.
        minimum: Pixels of the smallest side.
        is_sized: Whether it is created for one size of images; the layers of others take any.
        num_prefix_tokens: Number of tokens before those of the patches.
        has_pooling: Whether it has attention pooling.
        converted: What its image converter does to pixels 0...255; `None` without one.
        resizing: How its image converter resizes images, in words.
    """

    image_size: tuple[int | None, int | None]
    multiple: int
    minimum: int
    is_sized: bool
    num_prefix_tokens: int
    has_pooling: bool
    converted: Standardization | None
    resizing: str


def _read(name: str) -> _Preset:
    if Path(name).is_dir():
        return _read_folder(name)
    if "/" in name and "://" not in name:
        raise ArgumentError(
            "`backbone` must be the name of a preset of KerasHub, or an existing folder. "
            f"Received: backbone={PREFIX + name!r}, and there is no such folder. Check the path."
        )
    return _read_by_name(name)


def _read_folder(name: str) -> _Preset:
    try:
        backbone, converter = (_json_in(Path(name), file) for file in _FILES)
        if backbone is None:
            raise FileNotFoundError(f"there is no {_FILES[0]}")
        return _preset_of(name, backbone, converter)
    except ArgumentError:
        raise
    except Exception as error:  # of damaged files there are many kinds
        raise ArgumentError(
            "`backbone` must be a folder that `save_to_preset` of KerasHub wrote. Received: "
            f"backbone={PREFIX + name!r} ({type(error).__name__}: {reason_of(error)}). Check the "
            "path, or save it again."
        ) from error


_FILES = ("config.json", "image_converter.json")


def _json_in(folder: Path, file: str) -> Any:
    path = folder / file
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


@cache
def _read_by_name(name: str) -> _Preset:
    keras_hub = import_keras_hub()
    import keras

    if "/" not in name and name not in keras_hub.models.Backbone.presets:
        raise ArgumentError(
            "`backbone` must be the name of a preset of KerasHub, or an existing folder. "
            f"Received: backbone={PREFIX + name!r}."
            f"{did_you_mean(name, keras_hub.models.Backbone.presets)} "
            "keras_hub.models.Backbone.presets lists them."
        )
    backbone = _loaded(name, load_weights=False)
    try:
        converter = keras_hub.layers.ImageConverter.from_preset(name)
    except ValueError:  # none is in the preset
        converter = None
    serialized = keras.saving.serialize_keras_object
    return _preset_of(name, serialized(backbone), converter and serialized(converter))


def _preset_of(name: str, backbone: Mapping[str, Any], converter: Any) -> _Preset:
    # a network of images and texts has the backbone for images in it
    backbone = backbone["config"].get("vision_encoder") or backbone
    kind, config = backbone["class_name"], backbone["config"]
    shape = image_shape_in(config)
    if shape is None:
        raise ArgumentError(
            "`backbone` must be a preset of a backbone for images (height, width, channels). "
            f"Received: backbone={PREFIX + name!r}, a {kind}. Choose another one."
        )
    patch = config.get("patch_size") or 1
    multiple = minimum = patch[0] if isinstance(patch, list | tuple) else patch
    if kind == "SwinTransformerBackbone":  # each stage merges 2 x 2 patches, the last has a window
        multiple *= 2 ** (len(config["depths"]) - 1)
        minimum = multiple * config["window_size"]
    has_class_token = kind in _TOKENS and config.get("use_class_token", True)
    return _Preset(
        image_size=(shape[0], shape[1]),
        multiple=multiple,
        minimum=minimum,
        is_sized=kind in _SIZED,
        num_prefix_tokens=int(has_class_token) + config.get("num_register_tokens", 0),
        has_pooling=kind == "SigLIPVisionEncoder",
        converted=None if converter is None else standardization_of(converter["config"]),
        resizing="" if converter is None else _resizing_in_words(converter["config"]),
    )


def _resizing_in_words(config: Mapping[str, Any]) -> str:
    crops, pads = (config.get(f"{how}_to_aspect_ratio") for how in ("crop", "pad"))
    how = "crops" if crops else "pads" if pads else "stretches"
    return f"its own converter {how} images ({config.get('interpolation', 'bilinear')})"


def standardization_of(config: Mapping[str, Any]) -> Standardization:
    """Returns (pixels - mean) / deviation for an image converter's pixels * scale + offset."""
    scale, offset = (
        tuple(value) if isinstance(value, list | tuple) else (value,)
        for value in (
            1.0 if config.get("scale") is None else config["scale"],
            0.0 if config.get("offset") is None else config["offset"],
        )
    )
    count = max(len(scale), len(offset))
    scale, offset = (one * count if len(one) < count else one for one in (scale, offset))
    mean = tuple(-b / a for a, b in zip(scale, offset, strict=True))
    return Standardization(mean, tuple(1 / a for a in scale))


def _build(
    name: str,
    preprocessing: Preprocessing,
    pixels: Any,
    weights: str | None,
    *,
    is_pooled: bool = False,
) -> Any:
    import keras

    from tlkit.models.plain_copies import plain_copy

    height, width = pixels.shape[1:3]
    preset = _read(name)
    multiple = preset.multiple
    if height % multiple or width % multiple:
        raise ArgumentError(
            f"`image_size` must be a multiple of {multiple} pixels for the patches of "
            f"{name!r}. Received: {height} × {width}. Use {multiple * (height // multiple)}."
        )
    settings = {"image_shape": (height, width, 3)} if preset.is_sized else {}
    with warnings.catch_warnings():
        # of Swin, whose masks of windows have a name that Keras uses
        warnings.filterwarnings("ignore", message=".*does not support masking")
        backbone = _loaded(name, load_weights=weights is not None, **settings)
        # without its pooling, the norm is the last layer
        norm = None if is_pooled else getattr(backbone, "post_layer_norm", None)
        output = backbone.outputs[0] if norm is None else norm.output
        whole = keras.Model(backbone.inputs[0], output)
        for operation in whole.operations:
            operation.name = operation.name.removeprefix(f"{backbone.name}_")
        built = plain_copy(whole, pixels, preprocessing, Path(name).name)
    shape = " × ".join("?" if side is None else str(side) for side in built.output_shape[1:])
    parts = [f"{Path(name).name}: features {shape}", f"preprocessing: {in_words(preprocessing)}"]
    if preset.resizing:
        parts.append(f"images are resized as `resize` says; {preset.resizing}")
    note("; ".join(parts))
    return built


def _loaded(name: str, *, load_weights: bool, **settings: Any) -> Any:
    """Returns a preset's backbone of KerasHub, that for images of a network with texts.

    Args:
        name: Name or folder of the preset.
        load_weights: Whether to load its weights; random ones otherwise.
        **settings: Replace settings of the preset.

    Raises:
        WeightsError: It cannot be downloaded or read.
    """
    keras_hub = import_keras_hub()
    try:
        backbone = keras_hub.models.Backbone.from_preset(
            name, load_weights=load_weights, dtype="float32", **settings
        )
    except Exception as error:  # of the network, of several registries, of damaged files
        raise WeightsError(
            f"the preset {name!r} of KerasHub cannot be loaded: {reason_of(error)}. Check the name "
            f"and the network, or give a folder that `save_to_preset` wrote: {PREFIX}FOLDER."
        ) from error
    return getattr(backbone, "vision_encoder", backbone)


def import_keras_hub(received: str = "a preset of KerasHub") -> Any:
    """Returns the module of KerasHub.

    Args:
        received: What needs it.

    Raises:
        ArgumentError: It is not installed.
    """
    try:
        import keras_hub
    except ImportError as error:
        raise ArgumentError(
            f"`backbone` must be one that is installed. Received: {received}, which is not "
            f"installed ({error}). Install it with: pip install 'tlkit[hub]'"
        ) from error
    return keras_hub
