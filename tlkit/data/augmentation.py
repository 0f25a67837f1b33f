"""Named presets of augmentation; loads Keras only when layers are asked for."""

from typing import TYPE_CHECKING, Any

from tlkit.errors import check_choice

if TYPE_CHECKING:
    import keras

AUGMENTATIONS = ("none", "light", "default", "strong")
AUGMENTATION_VERSION = "2"
"""Changed whenever a preset's images change: stored activations of augmented images have it."""


def augmentation_layers(name: str) -> "list[keras.layers.Layer]":
    """Returns the Keras layers of an augmentation preset, for images with values 0...255.

    - `"none"`: no layer.
    - `"light"`: random horizontal flips.
    - `"default"`: random horizontal flips and crops of 35 to 100 % of the area, whose aspect ratio
      is changed by a factor of up to 1.33, resized to the image's size.
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
        return RandomCropAndFlip(area=(0.35, 1.0), stretch=1.33, **float32)

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
