"""Names of backbones, and `.keras` files, as far as they can be checked without loading Keras."""

import json
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlkit.errors import ArgumentError
from tlkit.models.backbone_spec import Preprocessing, preprocessing_of
from tlkit.utils.formatting import reason_of

SUFFIX = ".keras"
KERAS_HUB = "keras_hub"
PREFIX = f"{KERAS_HUB}:"
_CONFIG = "config.json"
_IMAGES = "(batch, height, width, channels)"
_NAMED = re.compile(
    rf"(?P<name>{PREFIX}(?:\w+://)?[^:]*|.*?\.keras|[^:]*)(?::(?P<preprocessing>.*))?", re.DOTALL
)


def split_name(name: str) -> tuple[str, Preprocessing | None]:
    """Returns the backbone and the preprocessing in "NAME:PREPROCESSING".

    Colons also separate the numbers of a preprocessing, as commas separate backbones in lists.

    Example:
        >>> from tlkit.models.backbone_files import split_name
        >>> split_name("resnet50")
        ('resnet50', None)
        >>> print(*split_name("own.keras:127:128"))
        own.keras (pixels - 127) / 128
        >>> print(*split_name("keras_hub:vit_base_patch16_224_imagenet:tf"))
        keras_hub:vit_base_patch16_224_imagenet tf
    """
    found = _NAMED.fullmatch(name)
    if found is None or found["preprocessing"] is None:
        return name, None
    return found["name"], preprocessing_of(found["preprocessing"].replace(":", ","))


def joined_name(name: str, preprocessing: str | None) -> str:
    """Returns the "NAME:PREPROCESSING" that `split_name` takes apart."""
    return name if preprocessing is None else f"{name}:{preprocessing.replace(',', ':')}"


def with_absolute_path(name: str) -> str:
    """Returns a backbone's name, the path of a file or folder made absolute.

    Example:
        >>> from tlkit.models.backbone_files import with_absolute_path
        >>> with_absolute_path("resnet50"), with_absolute_path("/a/../own.keras:tf")
        ('resnet50', '/own.keras:tf')
    """
    found = _NAMED.fullmatch(name)
    if found is None:
        return name
    own, preprocessing = found["name"], found["preprocessing"]
    if is_backbone_file(own):
        return joined_name(str(Path(own).resolve()), preprocessing)
    folder = own.removeprefix(PREFIX)
    if is_preset(own) and Path(folder).is_dir():
        return joined_name(f"{PREFIX}{Path(folder).resolve()}", preprocessing)
    return name


def is_backbone_file(backbone: object) -> bool:
    """Whether an argument `backbone` is the path of a Keras file, which need not exist."""
    return isinstance(backbone, os.PathLike) or (
        isinstance(backbone, str) and backbone.endswith(SUFFIX)
    )


def is_preset(backbone: object) -> bool:
    """Whether an argument `backbone` names a preset of KerasHub."""
    return isinstance(backbone, str) and backbone.startswith(PREFIX)


@dataclass(frozen=True)
class BackboneFile:
    """What a `.keras` file says about its model.

    Attributes:
        name: The file's name without suffix.
        image_shape: (height, width, channels) that the model takes; `None` for sides that are not
            fixed.
    """

    name: str
    image_shape: tuple[int | None, int | None, int]


def read_backbone_file(path: str | os.PathLike[str]) -> BackboneFile:
    """Returns what a `.keras` file says about its model, without creating layers.

    Raises:
        ArgumentError: There is no such file, it is not a `.keras` file, or its model does not take
            one batch of images.

    Example:
        >>> import keras, pathlib, tempfile
        >>> from tlkit.models.backbone_files import read_backbone_file
        >>> layers = [keras.Input((64, 64, 3)), keras.layers.Conv2D(8, 3)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "small.keras")
        ...     keras.Sequential(layers).save(path)
        ...     read_backbone_file(path)
        BackboneFile(name='small', image_shape=(64, 64, 3))
    """
    path = Path(path)
    shape = _input_shape(path)
    channels = shape[-1] if len(shape) == 4 else None
    if channels is None:
        raise _refusal(path, f"a model with inputs {tuple(shape)}", _IMAGES)
    return BackboneFile(path.name.removesuffix(SUFFIX), (shape[1], shape[2], channels))


def config_in(path: str | os.PathLike[str]) -> Any:
    """Returns the configuration of the model in a `.keras` file."""
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(_CONFIG))


def _input_shape(path: Path) -> list[int | None]:
    """Returns the shape of the batches that the model in a file takes."""
    if not path.is_file():
        raise ArgumentError(
            "`backbone` must be a name of tlkit.list_backbones(), or the path of an existing "
            f"{SUFFIX} file. Received: backbone={str(path)!r}. Check the path."
        )
    try:
        config = config_in(path)["config"]
        if "layers" not in config and (shape := image_shape_in(config)) is not None:
            return [None, *shape]
        shapes = [layer["config"]["batch_shape"] for layer in _input_layers(config)]
        if len(shapes) == 1:
            return list(shapes[0])
    except Exception as error:  # of damaged archives there are many kinds
        reason = (
            "a file that Keras has not written, that is damaged, or of a model without inputs "
            f"({type(error).__name__}: {reason_of(error)})"
        )
        raise _refusal(path, reason, _IMAGES) from error
    raise _refusal(path, f"a model with {len(shapes)} inputs", "one batch of images")


def image_shape_in(config: Mapping[str, Any]) -> tuple[int | None, int | None, int] | None:
    """Returns the (height, width, channels) in the settings of a network of KerasHub.

    Args:
        config: Settings of a classifier, of a backbone, or of a network of images and texts.

    Returns:
        The shape; `None` for sides that are not fixed, and for other networks.

    Example:
        >>> from tlkit.models.backbone_files import image_shape_in
        >>> image_shape_in({"backbone": {"config": {"image_shape": [None, None, 3]}}})
        (None, None, 3)
    """
    for inner in ("backbone", "vision_encoder"):
        if config.get(inner):
            return image_shape_in(config[inner]["config"])
    shape = config.get("image_shape") or config.get("input_shape")
    if shape is None or len(shape) != 3 or config.get("data_format") == "channels_first":
        return None
    height, width, channels = shape
    return height, width, channels


def _input_layers(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns the configs of the input layers of a functional or a Sequential model."""
    layers = config["layers"]
    if (ends := config.get("input_layers")) is None:
        return [layer for layer in layers[:1] if layer["class_name"] == "InputLayer"]
    names = _names(ends)
    return [layer for layer in layers if layer["config"].get("name") in names]


def _names(ends: Any) -> set[str]:
    """Returns the names in `["name", 0, 0]`, or in a list or mapping of these."""
    if isinstance(ends, Mapping):
        return {name for end in ends.values() for name in _names(end)}
    if ends and isinstance(ends[0], str):
        return {ends[0]}
    return {name for end in ends for name in _names(end)}


def _refusal(path: Path, received: str, needed: str) -> ArgumentError:
    return ArgumentError(
        f"`backbone` must be the {SUFFIX} file of a functional or Sequential model of {needed}. "
        f"Received: backbone={str(path)!r}, {received}. Save such a model with "
        "model.save('NAME.keras')."
    )
