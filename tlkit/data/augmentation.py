"""Named presets of augmentation; loads Keras only when layers are asked for."""

from typing import TYPE_CHECKING, Any

from tlkit.errors import check_choice

if TYPE_CHECKING:
    import keras

AUGMENTATIONS = ("none", "light", "default", "strong")


def augmentation_layers(name: str) -> "list[keras.layers.Layer]":
    """Returns the Keras layers of an augmentation preset, for images with values 0...255.

    - `"none"`: no layer.
    - `"light"`: horizontal flips.
    - `"default"`: horizontal flips, and a random crop with 60 to 100 % of the area, stretched by
      up to a fifth and resized to the image's size.
    - `"strong"`: flips, crops with 35 to 100 % of the area, turns by up to 18 degrees, and
      changes of brightness and contrast by up to a fifth.

    The layers keep the shape and the range of values, whatever the global precision policy is.

    Args:
        name: One of `AUGMENTATIONS`.

    Raises:
        ArgumentError: `name` is no preset.

    Example:
        >>> from tlkit.data.augmentation import augmentation_layers
        >>> [layer.name for layer in augmentation_layers("light")]
        ['random_crop_and_flip...']
    """
    check_choice("augment", name, AUGMENTATIONS)
    import keras

    from tlkit.data.random_views import RandomCropAndFlip

    exact: dict[str, Any] = {"dtype": "float32"}
    presets = {
        "none": lambda: [],
        "light": lambda: [RandomCropAndFlip(area=(1.0, 1.0), stretch=1.0, **exact)],
        "default": lambda: [RandomCropAndFlip(area=(0.6, 1.0), stretch=1.2, **exact)],
        "strong": lambda: [
            RandomCropAndFlip(area=(0.35, 1.0), stretch=1.33, **exact),
            keras.layers.RandomRotation(0.05, **exact),
            keras.layers.RandomBrightness(0.2, value_range=(0, 255), **exact),
            keras.layers.RandomContrast(0.2, value_range=(0, 255), **exact),
        ],
    }
    return presets[name]()
