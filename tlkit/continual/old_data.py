"""Images of the old task, as users pass them."""

import keras

from tlkit.data.images import ImageData, ImageSplit
from tlkit.errors import ArgumentError
from tlkit.evaluation.data_checks import check_images


def evaluation_split(old_data: ImageData | ImageSplit, model: keras.Model) -> ImageSplit:
    """Returns the images to evaluate an old task on: the validation images of an `ImageData`.

    Args:
        old_data: The argument of this name.
        model: The model to evaluate.

    Raises:
        ArgumentError: There are no images, they have the wrong type, or do not fit the model.
        DataError: The model does not have a label.
    """
    split = old_data.validation if isinstance(old_data, ImageData) else old_data
    if not isinstance(split, ImageSplit) or not split.num_images:
        raise ArgumentError(
            "`old_data` must contain images to evaluate the old task on. Received: "
            f"old_data={type(old_data).__name__} without any. Give a split, such as data.test, or "
            "load it with a validation fraction."
        )
    check_images("old_data", split, model)
    return split
