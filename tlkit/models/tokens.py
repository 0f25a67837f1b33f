"""Tokens as a map: which token of a transformer belongs to which part of the image."""

from dataclasses import dataclass

import keras

from tlkit.models.cuts import find_cuts


@dataclass(frozen=True)
class TokenGrid:
    """The patches that tokens belong to.

    Attributes:
        num_prefix_tokens: Number of tokens before those of the patches.
        rows: Number of rows of patches; their tokens follow each other row by row.
        columns: Number of columns.
    """

    num_prefix_tokens: int
    rows: int
    columns: int


def token_grid(model: keras.Model, tokens: keras.KerasTensor) -> TokenGrid | None:
    """Returns the grid of tokens `(batch, tokens, channels)` of a model of images.

    The tokens are those of the last feature map before them, or of a half, a quarter, ... of its
    rows and columns, where tokens were merged. Those that are left over come first.

    Args:
        model: A functional model.
        tokens: A cut of it, see `tlkit.models.cuts`.

    Returns:
        The grid; `None` if there is no feature map before the tokens.

    Example:
        >>> import keras
        >>> from tlkit.models.tokens import token_grid
        >>> images = keras.Input((32, 32, 3))
        >>> maps = keras.layers.Conv2D(4, 8, strides=8)(images)
        >>> tokens = keras.layers.Reshape((16, 4))(maps)
        >>> token_grid(keras.Model(images, tokens), tokens)
        TokenGrid(num_prefix_tokens=0, rows=4, columns=4)
    """
    if len(tokens.shape) != 3 or tokens.shape[1] is None:
        return None
    maps: list[tuple[int, ...]] = []
    for cut in find_cuts(model):
        if cut.tensor is tokens:
            break
        if len(cut.shape) == 3:
            maps.append(cut.shape)
    if len(maps) < 2:  # only the image itself
        return None
    rows, columns, _ = maps[-1]
    while rows * columns > tokens.shape[1]:
        rows, columns = -(-rows // 2), -(-columns // 2)
    return TokenGrid(tokens.shape[1] - rows * columns, rows, columns)
