"""Augmentation of training images, by preset or by Keras layers; loads Keras only for layers."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from tlkit.errors import ArgumentError, check_choice

if TYPE_CHECKING:
    import keras

AUGMENTATIONS = ("none", "light", "default", "strong")
AUGMENTATION_VERSION = "3"
"""Changed whenever a preset's images change: stored activations of augmented images have it."""

AugmentLike: TypeAlias = Union[
    str, "Augmentation", "keras.layers.Layer", "Sequence[str | keras.layers.Layer]"
]
"""What arguments called `augment` take: a preset, a Keras layer, or a list of both."""


@dataclass(frozen=True)
class Augmentation:
    """How training images are augmented: by a preset, or by Keras layers of the user's.

    Attributes:
        preset: One of `AUGMENTATIONS`; "" for the user's layers.
        layers: The user's layers, which are applied one after the other.
        settings: Class and settings of each of them as text, without its name and seed.

    Example:
        >>> from tlkit.data.augmentation import Augmentation
        >>> str(Augmentation("light")), Augmentation("none").is_none
        ('light', True)
    """

    preset: str = "none"
    layers: "tuple[keras.layers.Layer, ...]" = field(default=(), repr=False, compare=False)
    settings: tuple[str, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return self.preset or ", ".join(type(layer).__name__ for layer in self.layers)

    @property
    def is_none(self) -> bool:
        """Whether images are left unchanged."""
        return self.preset == "none"

    @cached_property
    def key(self) -> str:
        """A short text that identifies the views of an image in a store."""
        if self.preset:
            return self.preset
        import keras

        # the views of Keras's layers may differ between its versions
        content = repr((keras.__version__, self.settings)).encode()
        return f"layers.{hashlib.blake2b(content, digest_size=16).hexdigest()}"

    def identity(self) -> str | list[str]:
        """Returns plain values that identify the augmentation in a checkpoint."""
        return self.preset or list(self.settings)


def augmentation_of(augment: AugmentLike) -> Augmentation:
    """Returns the augmentation that an argument `augment` stands for.

    Args:
        augment: A preset; a Keras layer, such as `keras.layers.RandomRotation(0.1)`, a
            `keras.Sequential` or `keras.layers.Pipeline` of layers; or a list of these.

    Raises:
        ArgumentError: It is none of these; a layer has no settings that identify it, or changes
            labels.

    Example:
        >>> import keras
        >>> from tlkit.data.augmentation import augmentation_of
        >>> print(augmentation_of(["light", keras.layers.RandomRotation(0.1)]))
        RandomCropAndFlip, RandomRotation
    """
    if isinstance(augment, Augmentation):
        return augment
    if isinstance(augment, str):
        check_choice("augment", augment, AUGMENTATIONS)
        return Augmentation(augment)
    from tlkit.data.layer_views import checked_layer, settings_of

    layers = tuple(checked_layer(layer) for layer in _single_layers(augment))
    if not layers:
        raise ArgumentError(
            "`augment` must have at least one layer. Received: none. Give augment='none' to leave "
            "images unchanged."
        )
    return Augmentation("", layers, tuple(settings_of(layer) for layer in layers))


def augmentation_layers(name: str) -> "list[keras.layers.Layer]":
    """Returns the Keras layers of an augmentation preset, for images with values 0...255.

    - `"none"`: no layer.
    - `"light"`: random horizontal flips.
    - `"default"`: random horizontal flips and crops of 50 to 150 % of the area, whose aspect ratio
      is changed by a factor of up to 1.33, resized to the image's size. So objects are as often
      smaller as they are larger; around the image there is its reflection.
    - `"strong"`: the same, and rotations by up to 18 degrees, brightness and contrast changes of up
      to 20 %.

    The layers keep the images' shape and range of values and compute in float32, whatever the
    global precision policy is.

    Args:
        name: One of `AUGMENTATIONS`.

    Raises:
        ArgumentError: `name` is not a preset.

    Example:
        >>> from tlkit.data.augmentation import augmentation_layers
        >>> [layer.name for layer in augmentation_layers("light")]
        ['random_crop_and_flip...']
    """
    check_choice("augment", name, AUGMENTATIONS)
    import keras

    from tlkit.data.random_views import RandomCropAndFlip

    float32: dict[str, Any] = {"dtype": "float32"}

    def crop_and_flip() -> keras.layers.Layer:
        return RandomCropAndFlip(area=(0.5, 1.5), stretch=1.33, **float32)

    presets = {
        "none": lambda: [],
        "light": lambda: [RandomCropAndFlip(area=(1.0, 1.0), stretch=1.0, **float32)],
        "default": lambda: [crop_and_flip()],
        "strong": lambda: [
            crop_and_flip(),
            keras.layers.RandomRotation(0.05, **float32),
            keras.layers.RandomBrightness(0.2, value_range=(0, 255), **float32),
            keras.layers.RandomContrast(0.2, value_range=(0, 255), **float32),
        ],
    }
    return presets[name]()


def _single_layers(augment: Any) -> list[Any]:
    """Returns the layers in lists, presets, `keras.Sequential` and `keras.layers.Pipeline`."""
    import keras

    if isinstance(augment, list | tuple):
        return [layer for one in augment for layer in _single_layers(one)]
    if isinstance(augment, keras.Sequential | keras.layers.Pipeline):
        return [layer for one in augment.layers for layer in _single_layers(one)]
    return augmentation_layers(augment) if isinstance(augment, str) else [augment]
