"""The record of a backbone before it is built; importing this module loads no Keras."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tlkit.utils.formatting import percent
from tlkit.utils.text_repr import ShownAsText

PREPROCESSINGS = ("caffe", "tf", "torch", "none")
SHIPPED_BACKBONE = "resnet20"


@dataclass(frozen=True)
class BackboneSpec(ShownAsText):
    """One backbone of the catalogue.

    Attributes:
        name: The name for `build_classifier`.
        build: `build(input_tensor, weights)` returns a `keras.Model` without a classifier on top
            of `input_tensor`; `weights` is "pretrained" or `None`.
        preprocessing: The preprocessing of pixels 0...255: "tf" scales to -1...1, "torch"
            standardises RGB by ImageNet's statistics, "caffe" converts RGB to BGR and subtracts
            ImageNet's means, "none" does nothing (the backbone takes raw pixels); or a function
            without arguments that returns a Keras layer.
        default_image_size: Height and width in pixels that it was pretrained at.
        minimum_image_size: Smallest height and width that it can be built at.
        num_parameters: Number of parameters without a classifier, `None` if not stated.
        imagenet_top1: Top-1 accuracy of the published weights on ImageNet's validation set, 0...1,
            `None` if none is published.
        weights: The dataset that its "pretrained" weights were trained on, `None` without weights.
    """

    _left_out = ("build",)

    name: str
    build: Callable[[Any, str | None], Any]
    preprocessing: str | Callable[[], Any]
    default_image_size: int
    minimum_image_size: int
    num_parameters: int | None = None
    imagenet_top1: float | None = None
    weights: str | None = None

    def __str__(self) -> str:
        parts = [f"{self.default_image_size} px (at least {self.minimum_image_size})"]
        if self.num_parameters is not None:
            parts.append(f"{self.num_parameters:,} parameters")
        parts.append(f"weights: {self.weights or 'random'}")
        if self.imagenet_top1 is not None:
            parts.append(f"ImageNet top-1 {percent(self.imagenet_top1)}")
        return f"{self.name}: {', '.join(parts)}"
