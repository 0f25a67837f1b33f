"""Images of any number of channels, as RGB to show them."""

import numpy as np

_RGB = 3


def as_rgb(images: np.ndarray) -> np.ndarray:
    """Returns images with three channels, to be shown.

    One or two channels are shown as their mean in grey; of more than three the first three are.

    Args:
        images: Pixels `(..., height, width, channels)`.

    Example:
        >>> import numpy as np
        >>> from tlkit.utils.rgb import as_rgb
        >>> as_rgb(np.zeros((5, 8, 8, 1), np.uint8)).shape, as_rgb(np.zeros((8, 8, 4))).shape
        ((5, 8, 8, 3), (8, 8, 3))
    """
    if images.shape[-1] >= _RGB:
        return images[..., :_RGB]
    grey = images.mean(axis=-1, keepdims=True).astype(images.dtype)
    return np.repeat(grey, _RGB, axis=-1)
