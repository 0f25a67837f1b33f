"""Inputs of any kind from arrays in memory: texts, numbers, spectra, tokens."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tlkit.data.array_splits import Arrays, check_pair, checked_labels, split_arrays
from tlkit.data.images import ImageData
from tlkit.data.settings import NO_CHANNELS, NO_IMAGE_SIZE, Settings, check_splits
from tlkit.errors import ArgumentError, check_count, check_seed

Inputs = tuple[np.ndarray | Sequence[Any], np.ndarray | Sequence[Any]]
"""Inputs and their labels, as users give them."""


def load_examples(
    inputs: np.ndarray | Sequence[Any],
    labels: np.ndarray | Sequence[Any],
    class_names: Sequence[str] | None = None,
    *,
    validation: Inputs | None = None,
    test: Inputs | None = None,
    groups: Sequence[str | int | None] | None = None,
    batch_size: int = 32,
    splits: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
) -> ImageData:
    """Loads inputs of any kind from arrays, and splits them by the same rule as `load_folder`.

    For models that take no images: texts, rows of a table, spectra and other series, tokens. They
    are not resized, not augmented and not scaled: the model gets them as they are. All functions
    that take the result of `load_folder` take this one too, except for those that work on pixels.

    Args:
        inputs: `(n, ...)`, as the model takes them: texts as strings, `(n,)`, for a model with
            `keras.Input((), dtype="string")`, or `(n, k)`; or finite numbers. Strings are stored as
            UTF-8, floating-point numbers as float32, and integers as they are.
        labels: Integers from 0 to `num_classes - 1`, `(n,)` or `(n, 1)`; for several labels each 0
            and 1, `(n, num_classes)`.
        class_names: The class names in the order of the labels; "0", "1" and so on by default.
        validation: Inputs and labels of the user's own validation split.
        test: Inputs and labels of the user's own test split.
        groups: The key of each input's group, such as an author or a device; all inputs of a group
            go into one split, see `load_folder`. `None` or "" for an input without a group. Not
            allowed together with `validation` or `test`.
        batch_size: Inputs per batch.
        splits: Fractions of training, validation and test; ignored if `validation` or `test` is
            given.
        seed: Seed of the split and the order.

    Returns:
        The splits, whose `image_size` is (0, 0), with 0 `channels`. Equal inputs go into one split,
        and those that have several labels into none.

    Raises:
        ArgumentError: An argument is invalid, such as inputs of different shapes.
        DataError: See `load_arrays`.

    Example:
        >>> import tlkit
        >>> texts = [f"{word} film, part {part}" for part in range(10) for word in ("bad", "good")]
        >>> data = tlkit.load_examples(texts, [0, 1] * 10, ["negative", "positive"])
        >>> print(data.train)
        train: 14 texts of 2 classes, in batches of 32
        >>> next(iter(data.train.dataset()))[0].dtype
        tf.string
    """
    sources = {"inputs": (inputs, labels), "validation": validation, "test": test}
    checked = {
        name: _checked_source(name, source)
        for name, source in sources.items()
        if source is not None
    }
    _check_alike({name: array for name, (array, _) in checked.items()})
    check_count("batch_size", batch_size)
    check_seed(seed)
    settings = Settings(NO_IMAGE_SIZE, batch_size, check_splits(splits), seed, channels=NO_CHANNELS)
    return split_arrays(checked, class_names, groups, settings=settings)


def examples_of(name: str, inputs: Any) -> np.ndarray:
    """Returns inputs as an array: texts as UTF-8 bytes (object), or numbers.

    Args:
        name: The argument's name in errors.
        inputs: `(n, ...)`.

    Raises:
        ArgumentError: They have different shapes, are neither texts nor numbers, or are not finite.

    Example:
        >>> from tlkit.data.examples import examples_of
        >>> examples_of("inputs", ["good", "bad"])
        array([b'good', b'bad'], dtype=object)
    """
    rule = f"`{name}` must be an array of texts or of numbers, (n, ...)"
    try:
        array = np.asarray(inputs)
    except ValueError as error:
        raise ArgumentError(
            f"{rule}. Received: inputs of different shapes. Pad them to one shape."
        ) from error
    if array.ndim == 0 or 0 in array.shape:
        raise ArgumentError(
            f"{rule}, n at least 1. Received: an array of the shape {array.shape}. Give one "
            "row for each input."
        )
    if array.dtype.kind in "OSU":
        return _texts(rule, array)
    if array.dtype.kind not in "iufb":
        raise ArgumentError(f"{rule}. Received: an array of {array.dtype}. Convert it.")
    if array.dtype.kind != "f":
        return array
    with np.errstate(over="ignore"):
        numbers = array.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise ArgumentError(
            f"{rule} that are finite in float32. Received: NaN, infinite or too large values. "
            "Leave these inputs out, or scale them."
        )
    return numbers


def _texts(rule: str, array: np.ndarray) -> np.ndarray:
    texts = np.empty(array.size, object)
    for position, text in enumerate(array.ravel().tolist()):
        if not isinstance(text, str | bytes):
            raise ArgumentError(
                f"{rule}. Received: {text!r:.80} of type {type(text).__name__} at position "
                f"{position}. Replace missing values, or convert them."
            )
        try:
            texts[position] = text.encode() if isinstance(text, str) else text
        except UnicodeEncodeError as error:
            raise ArgumentError(
                f"{rule}. Received: {text!r:.80} at position {position}, which is not valid "
                "Unicode. Decode it with errors='replace'."
            ) from error
    return texts.reshape(array.shape)


def _checked_source(name: str, source: Inputs) -> Arrays:
    check_pair(name, source, "inputs")
    return examples_of(name, source[0]), checked_labels(name, source[1])


def _check_alike(arrays: dict[str, np.ndarray]) -> None:
    """Raises `ArgumentError` unless the inputs of all splits have one shape and type."""
    first, *others = arrays
    for name in others:
        found, expected = arrays[name], arrays[first]
        if (found.shape[1:], found.dtype) != (expected.shape[1:], expected.dtype):
            raise ArgumentError(
                f"`{name}` must have inputs like those of `{first}`, {_shown(expected)}. "
                f"Received: {_shown(found)}. Convert them in the same way."
            )


def _shown(array: np.ndarray) -> str:
    kind = "texts" if array.dtype == object else array.dtype.name
    return f"{kind} of the shape (n, {', '.join(map(str, array.shape[1:]))})"
