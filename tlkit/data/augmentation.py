"""Augmentation of training images, by preset or by Keras layers; loads Keras only for layers."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from tlkit.errors import ArgumentError, check_choice

if TYPE_CHECKING:
    import keras

RANDAUGMENT = "randaugment"
MIXING = ("mixup", "cutmix")
"""Presets that mix the images of a batch, and their labels, after views of each image."""

AUGMENTATIONS = ("none", "light", "default", "strong", RANDAUGMENT, *MIXING)
AUGMENTATION_VERSION = "3"
"""Changed whenever a preset's images change: stored activations of augmented images have it."""

AugmentLike: TypeAlias = Union[
    str,
    "Augmentation",
    "keras.layers.Layer",
    Callable[..., Any],
    "Sequence[str | keras.layers.Layer | Callable[..., Any]]",
]
"""What arguments called `augment` take: a preset, a Keras layer, a function, or a list of these."""


@dataclass(frozen=True)
class Augmentation:
    """How training images are augmented: by a preset, or by Keras layers of the user's.

    Attributes:
        preset: One of `AUGMENTATIONS`; "" for the user's layers.
        layers: The user's layers, or those of "randaugment", applied one after the other.
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
        return self.preset or ", ".join(map(_name_of, self.layers))

    @property
    def is_none(self) -> bool:
        """Whether images are left unchanged."""
        return self.preset == "none"

    @property
    def mixing(self) -> str:
        """How the images of a batch are mixed, one of `MIXING`; "" if they are not."""
        return self.preset if self.preset in MIXING else ""

    @property
    def by_image(self) -> "Augmentation":
        """The augmentation of each image by itself, before images are mixed."""
        return Augmentation("default") if self.mixing else self

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
            `keras.Sequential` or `keras.layers.Pipeline` of layers; a function; or a list of these.

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
        if augment == RANDAUGMENT:  # its layers draw as those of the user's do
            return Augmentation(augment, tuple(augmentation_layers(augment)))
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
    - `"randaugment"`: as "default", and then `keras.layers.RandAugment`: two random changes of
      geometry or colour (Cubuk et al. 2020, https://arxiv.org/abs/1909.13719).
    - `"mixup"` and `"cutmix"`: as "default"; in `fine_tune`, the images of a batch and their labels
      are then mixed, see `tlkit.data.mixing.mix`.

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
        RANDAUGMENT: lambda: [
            crop_and_flip(),
            keras.layers.RandAugment(value_range=(0, 255), **float32),
        ],
        **dict.fromkeys(MIXING, lambda: [crop_and_flip()]),
    }
    return presets[name]()


def _name_of(layer: "keras.layers.Layer") -> str:
    kind = type(layer).__name__
    return f"{layer.name}()" if kind == "FunctionLayer" else kind


def check_by_image(augmentation: Augmentation, what: str) -> None:
    """Raises `ArgumentError` if images are mixed, where that is not possible.

    Args:
        augmentation: The augmentation.
        what: What needs images with a label of their own, such as "stored views".
    """
    if augmentation.mixing:
        raise ArgumentError(
            f"`augment` must change each image by itself for {what}. Received: "
            f"augment={augmentation.mixing!r}, which mixes images and their labels. Use it in "
            "fine_tune with new views in each epoch, or augment='default' here."
        )


def _single_layers(augment: Any) -> list[Any]:
    """Returns the layers in lists, presets, `keras.Sequential` and `keras.layers.Pipeline`."""
    import keras

    if isinstance(augment, list | tuple):
        return [layer for one in augment for layer in _single_layers(one)]
    if isinstance(augment, keras.Sequential | keras.layers.Pipeline):
        return [layer for one in augment.layers for layer in _single_layers(one)]
    if augment in MIXING:
        raise ArgumentError(
            f"`augment` must be {augment!r} alone to mix images and labels. Received: it in a "
            "list. Leave the other layers out, or this preset."
        )
    return augmentation_layers(augment) if isinstance(augment, str) else [augment]
