"""The record of a backbone before it is built; importing this module loads no Keras."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from tlkit.errors import ArgumentError, did_you_mean
from tlkit.utils.formatting import percent
from tlkit.utils.keras_folder import keras_folder
from tlkit.utils.text_repr import ShownAsText

PREPROCESSINGS = ("caffe", "tf", "torch", "none")
SHIPPED_BACKBONE = "resnet20"


@dataclass(frozen=True)
class Standardization(ShownAsText):
    """Preprocessing of pixels 0...255: (pixels - mean) / deviation.

    Attributes:
        mean: One number, or one for each channel.
        deviation: The same, above zero.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def __str__(self) -> str:
        mean, deviation = (
            f"{some[0]:g}" if len(some) == 1 else f"({', '.join(f'{one:g}' for one in some)})"
            for some in (self.mean, self.deviation)
        )
        return f"(pixels - {mean}) / {deviation}"


Preprocessing: TypeAlias = str | Standardization | Callable[[], Any]
"""One of `PREPROCESSINGS`, a `Standardization`, or a function that returns a Keras layer."""


def preprocessing_of(value: object) -> Preprocessing:
    """Returns the preprocessing that an argument `preprocessing` stands for.

    Args:
        value: One of `PREPROCESSINGS`; "MEAN,DEVIATION" or (mean, deviation), where each is a
            number or three of them ("M,M,M,D,D,D"); or a function without arguments that returns a
            Keras layer.

    Raises:
        ArgumentError: It is none of these, or a deviation is not above zero.

    Example:
        >>> from tlkit.models.backbone_spec import preprocessing_of
        >>> print(preprocessing_of("127,128"))
        (pixels - 127) / 128
    """
    if callable(value) or isinstance(value, Standardization):
        return value
    if isinstance(value, str) and value in PREPROCESSINGS:
        return value
    numbers = _numbers_of(value)
    if len(numbers) in (2, 6) and all(one > 0 for one in numbers[len(numbers) // 2 :]):
        middle = len(numbers) // 2
        return Standardization(numbers[:middle], numbers[middle:])
    names = ", ".join(map(repr, PREPROCESSINGS))
    raise ArgumentError(
        f"`preprocessing` must be one of {names}, or MEAN,DEVIATION for (pixels - MEAN) / "
        "DEVIATION, each one number or three, with deviations above zero. "
        f"Received: preprocessing={value!r}.{did_you_mean(value, PREPROCESSINGS)} Give what the "
        "network was trained with, '127.5,127.5' for example."
    )


def in_words(preprocessing: Preprocessing) -> str:
    """Returns the name of a preprocessing, or what it computes.

    Example:
        >>> from tlkit.models.backbone_spec import in_words
        >>> in_words("tf")
        'tf'
    """
    if callable(preprocessing):
        return getattr(preprocessing, "__name__", type(preprocessing).__name__)
    return str(preprocessing)


def _numbers_of(value: Any) -> tuple[float, ...]:
    """Returns the finite numbers in a text with commas or in nested sequences; () for others."""
    try:
        parts = value.split(",") if isinstance(value, str) else list(value)
        numbers = np.concatenate([np.ravel(np.asarray(part, np.float64)) for part in parts])
    except (TypeError, ValueError):
        return ()
    return tuple(numbers.tolist()) if np.isfinite(numbers).all() else ()


@dataclass(frozen=True)
class BackboneSpec(ShownAsText):
    """One backbone of the catalogue.

    Attributes:
        name: The name for `build_classifier`.
        build: `build(input_tensor, weights)` returns a `keras.Model` without a classifier on top
            of `input_tensor`, to a feature map `(batch, rows, columns, channels)` or tokens
            `(batch, tokens, channels)`; `weights` is "pretrained" or `None`.
        preprocessing: The preprocessing of pixels 0...255: "tf" scales to -1...1, "torch"
            standardises RGB by ImageNet's statistics, "caffe" converts RGB to BGR and subtracts
            ImageNet's means, "none" does nothing (the backbone takes raw pixels); a
            `Standardization`; or a function without arguments that returns a Keras layer.
        default_image_size: Height and width in pixels that it was pretrained at.
        minimum_image_size: Smallest height and width that it can be built at.
        num_parameters: Number of parameters without a classifier, `None` if not stated.
        imagenet_top1: Top-1 accuracy of the published weights on ImageNet's validation set, 0...1,
            `None` if none is published.
        weights: The dataset that its "pretrained" weights were trained on, `None` without weights.
        multiply_adds: Multiply-adds of one image's forward pass at the default size, `None` if not
            stated.
        license: The licence that the published weights are released under, `None` if not stated.
        weights_file: Name of the file of the weights in the folder where Keras keeps downloads;
            `None` if they come in another way.
        num_prefix_tokens: For a transformer, the number of tokens before those of the patches, of
            which the first is the class token.
        build_pooled: As `build`, for features `(batch, channels)` of the backbone's own attention
            pooling; `None` if it has none.
        channels: Number of channels of the images that it takes.

    Example:
        >>> import tlkit
        >>> entry = tlkit.list_backbones()[0].as_dict()
        >>> entry["name"], entry["weights"], entry["is_local"]
        ('resnet20', 'CIFAR-10', True)
    """

    _left_out = ("build", "build_pooled")
    _derived = ("is_local",)

    name: str
    build: Callable[[Any, str | None], Any]
    preprocessing: Preprocessing
    default_image_size: int
    minimum_image_size: int
    num_parameters: int | None = None
    imagenet_top1: float | None = None
    weights: str | None = None
    multiply_adds: int | None = None
    license: str | None = None
    weights_file: str | None = None
    num_prefix_tokens: int = 0
    build_pooled: Callable[[Any, str | None], Any] | None = None
    channels: int = 3

    @property
    def is_local(self) -> bool:
        """Whether the pretrained weights can be used without a download."""
        if self.weights_file is None:
            return self.weights is not None
        return (keras_folder() / self.weights_file).is_file()

    def check_minimum_size(self, argument: str, size: int | tuple[int, int]) -> None:
        """Checks an image size against the smallest one that it can be built at.

        Args:
            argument: Name of the argument.
            size: Height and width in pixels, or one number for both.

        Raises:
            ArgumentError: A side is too small.
        """
        if np.min(size) < self.minimum_image_size:
            raise ArgumentError(
                f"`{argument}` must be at least {self.minimum_image_size} for the backbone "
                f"{self.name!r}. Received: {argument}={size!r}. "
                f"Its default size is {self.default_image_size}."
            )

    def __str__(self) -> str:
        parts = [f"{self.default_image_size} px (at least {self.minimum_image_size})"]
        if self.num_parameters is not None:
            parts.append(f"{self.num_parameters:,} parameters")
        parts.append(f"weights: {self.weights or 'random'}")
        if self.imagenet_top1 is not None:
            parts.append(f"ImageNet top-1 {percent(self.imagenet_top1)}")
        return f"{self.name}: {', '.join(parts)}"


def spec_of_own(
    name: str,
    build: Callable[[Any, str | None], Any],
    image_shape: tuple[int | None, int | None, int],
) -> BackboneSpec:
    """Returns the spec of a backbone of the user's own, which brings its weights.

    Args:
        name: Its name.
        build: See `BackboneSpec`; it gets raw pixels.
        image_shape: (height, width, channels) that the model takes; `None` for sides that are not
            fixed.
    """
    *all_sides, channels = image_shape
    sides = [side for side in all_sides if side is not None]
    return BackboneSpec(
        name=name,
        build=build,
        preprocessing="none",
        default_image_size=max(sides, default=224),
        minimum_image_size=1,
        weights="its own",
        channels=channels,
    )
