"""Images of what a model learned before, as people give them."""

import keras

from tlkit.data.images import ImageData, ImageSplit
from tlkit.errors import ArgumentError
from tlkit.evaluation.data_checks import check_images


def measured_split(old_data: ImageData | ImageSplit, model: keras.Model) -> ImageSplit:
    """Returns the images to measure an old task on: of an `ImageData` those of validation.

    Args:
        old_data: What somebody gave under this name.
        model: What they are to be measured with.

    Raises:
        ArgumentError: There are none, they are something else, or do not fit what the model takes.
        DataError: A label is none of the model's.
    """
    split = old_data.validation if isinstance(old_data, ImageData) else old_data
    if not isinstance(split, ImageSplit) or not split.num_images:
        raise ArgumentError(
            "`old_data` must hold images to measure the old task on. Received: "
            f"old_data={type(old_data).__name__} without any. Give a split, such as data.test, or "
            "load it with a share of validation."
        )
    check_images("old_data", split, model)
    return split
