"""Images as arguments: files, one array or several."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import tensorflow as tf

from tlkit.data.file_checks import FileCheck, check_files
from tlkit.data.resizing import resize_image
from tlkit.data.settings import RGB, STRETCH
from tlkit.errors import ArgumentError, DataError, check_path, is_unicode, some_of
from tlkit.utils.formatting import counted

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

MAX_FILES_NAMED = 20


def are_paths(images: object) -> TypeGuard[Paths]:
    """Whether `images` is a path or a sequence of paths; otherwise it contains pixels."""
    if isinstance(images, list | tuple):
        return all(isinstance(image, str | os.PathLike) for image in images)
    return isinstance(images, str | os.PathLike)


def list_files(files: Paths, argument: str) -> tuple[str, ...]:
    """Returns one path or several as a tuple of strings.

    Raises:
        ArgumentError: If a path is a folder.
        DataError: If a path is not valid Unicode.
    """
    listed = [files] if isinstance(files, str | os.PathLike) else files
    paths = tuple(os.fspath(path) for path in listed)
    for path in paths:
        check_path(argument, path)
        if os.path.isdir(path):
            raise ArgumentError(
                f"`{argument}` must be image files, not a folder. Received: {path!r}. "
                f"Give the files in it, {os.path.join(path, '*.jpg')} in a shell, or "
                "sorted(Path(folder).glob('*.jpg'))."
            )
    return paths


@dataclass(frozen=True)
class CheckedFiles:
    """Image files with the results of checking them.

    Attributes:
        paths: All paths given.
        reasons: Why each file cannot be used; empty if it can.
        warnings: The decoder's message about each damaged file that is used, else empty.
    """

    paths: tuple[str, ...]
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def usable(self) -> tuple[str, ...]:
        """The usable files, in their order."""
        return tuple(
            path for path, reason in zip(self.paths, self.reasons, strict=True) if not reason
        )


def check_given_files(files: Paths, max_pixels: int, argument: str) -> CheckedFiles:
    """Checks image files, decoding those without a cached result.

    Args:
        files: One path or several.
        max_pixels: Maximum number of pixels of a file.
        argument: The argument's name in errors.

    Raises:
        ArgumentError: If no path can be used, and one is a folder.
        DataError: If no file can be used; the message names them with the reason.
    """
    listed = [files] if isinstance(files, str | os.PathLike) else list(files)
    paths = tuple(os.fspath(path) for path in listed)
    problems = [_path_problem(path) for path in paths]
    to_check = [path for path, problem in zip(paths, problems, strict=True) if not problem]
    if not to_check:
        list_files(files, argument)
    checks = iter(check_files(to_check, max_pixels=max_pixels))
    results = [FileCheck(reason=problem) if problem else next(checks) for problem in problems]
    checked_files = CheckedFiles(
        paths, tuple(one.reason for one in results), tuple(one.warning for one in results)
    )
    if paths and not checked_files.usable:
        check_image_files(to_check, max_pixels, argument)
    return checked_files


def _path_problem(path: str) -> str:
    if not is_unicode(os.path.abspath(path)):
        return "its name is not valid Unicode"
    return "is a folder" if os.path.isdir(path) else ""


def check_image_files(paths: Sequence[str], max_pixels: int, argument: str) -> None:
    """Checks image files, and raises an error if any cannot be used.

    Raises:
        DataError: If a file is missing or not an image; the message names them with the reason.
    """
    checks = check_files(paths, max_pixels=max_pixels)
    bad = [
        (path, checked.reason)
        for path, checked in zip(paths, checks, strict=True)
        if checked.reason
    ]
    if bad:
        raise unusable_files_error(bad, argument)


def unusable_files_error(files: Sequence[tuple[str, str]], argument: str) -> DataError:
    """Returns the error about files that cannot be used, each given with the reason."""
    named = some_of([f"{path!r} ({reason})" for path, reason in files], MAX_FILES_NAMED)
    return DataError(
        f"`{argument}` must be image files. Received: {named}. "
        f"Leave {'it' if len(files) == 1 else 'them'} out."
    )


def pixels_of(images: Any, argument: str = "images", channels: int = RGB) -> np.ndarray:
    """Returns one image or a batch as uint8, `(n, height, width, channels)`, rounded.

    Args:
        images: Pixels 0...255, `(height, width, channels)` or `(n, height, width, channels)`.
        argument: The argument's name in errors.
        channels: Number of channels.

    Raises:
        ArgumentError: If the shape differs, or values are not pixels from 0 to 255.
    """
    try:
        pixels = np.asarray(images)
    except ValueError:  # images of different sizes
        pixels = np.empty((), object)
    if pixels.ndim == 3:
        pixels = pixels[np.newaxis]
    if pixels.ndim != 4 or pixels.shape[3] != channels or 0 in pixels.shape[1:]:
        remedy = (
            "repeat the channel of grey ones with `np.repeat(image, 3, axis=-1)`"
            if channels == RGB
            else f"the model takes {counted(channels, 'channel')}"
        )
        raise ArgumentError(
            f"`{argument}` must be files, or pixels of the shape (height, width, {channels}) or "
            f"(n, height, width, {channels}). Received: {_describe(images)}. Stack images of one "
            f"size; {remedy}."
        )
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind not in "iuf" or not _are_pixels(pixels):
        raise ArgumentError(
            f"`{argument}` must contain pixels from 0 to 255. "
            f"Received: {_describe(images)}. Multiply values from 0 to 1 by 255."
        )
    return np.round(pixels).astype(np.uint8)


def resize_pixels(
    image: np.ndarray, image_size: tuple[int, int], resize: str = STRETCH
) -> tf.Tensor:
    """Returns the image, uint8 `(height, width, channels)`, resized as image files are."""
    if image.shape[:2] == image_size:
        return tf.constant(image)
    return resize_image(image, image_size, resize)


def _are_pixels(pixels: np.ndarray) -> bool:
    """Whether all values are in 0...255, but not fractions in 0...1."""
    if pixels.size == 0:
        return True
    low, high = pixels.min(), pixels.max()
    if not (low >= 0 and high <= 255):  # NaN fails both
        return False
    return high > 1 or bool((pixels == np.round(pixels)).all())


def _describe(images: object) -> str:
    try:
        array = np.asarray(images)
    except ValueError:
        return "arrays of different shapes"
    if array.dtype.kind not in "iufb":
        return f"a {type(images).__name__}"
    values = f", values {array.min():g} to {array.max():g}" if array.size else ""
    return f"an array of the shape {array.shape}, {array.dtype}{values}"
