"""Images as people give them: files, one array or many."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import tensorflow as tf

from tlkit.data.decoding import resize_image
from tlkit.data.file_checks import FileCheck, check_files
from tlkit.errors import ArgumentError, DataError, check_path, is_unicode

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

MAX_FILES_NAMED = 20


def are_paths(images: object) -> TypeGuard[Paths]:
    """Whether `images` is one path or a sequence of paths; otherwise it holds pixels."""
    if isinstance(images, list | tuple):
        return all(isinstance(image, str | os.PathLike) for image in images)
    return isinstance(images, str | os.PathLike)


def list_files(files: Paths, argument: str) -> tuple[str, ...]:
    """Returns one path or several as a tuple of strings.

    Raises:
        ArgumentError: If one is a folder.
        DataError: If the name of one is not valid Unicode.
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
class GivenFiles:
    """Image files, and what is known of each of them.

    Attributes:
        paths: All that were given.
        reasons: Why each cannot be used; empty where it can.
        warnings: What the decoder says of each that is damaged and is used.
    """

    paths: tuple[str, ...]
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def usable(self) -> tuple[str, ...]:
        """Those that can be used, in their order."""
        return tuple(
            path for path, reason in zip(self.paths, self.reasons, strict=True) if not reason
        )


def look_at_files(files: Paths, max_pixels: int, argument: str) -> GivenFiles:
    """Looks at every file that was not checked before, decoding it, and keeps nothing.

    Args:
        files: One path or several.
        max_pixels: The most pixels that a file may have.
        argument: What errors call them.

    Raises:
        ArgumentError: If no path can be used, and one is a folder.
        DataError: If no file can be used; it names them with the reason.
    """
    listed = [files] if isinstance(files, str | os.PathLike) else list(files)
    paths = tuple(os.fspath(path) for path in listed)
    problems = [_problem_of(path) for path in paths]
    named = [path for path, problem in zip(paths, problems, strict=True) if not problem]
    if not named:
        list_files(files, argument)
    checks = iter(check_files(named, max_pixels=max_pixels))
    found = [FileCheck(reason=problem) if problem else next(checks) for problem in problems]
    given = GivenFiles(
        paths, tuple(one.reason for one in found), tuple(one.warning for one in found)
    )
    if paths and not given.usable:
        check_image_files(named, max_pixels, argument)
    return given


def _problem_of(path: str) -> str:
    if not is_unicode(os.path.abspath(path)):
        return "its name is not valid Unicode"
    return "is a folder" if os.path.isdir(path) else ""


def check_image_files(paths: Sequence[str], max_pixels: int, argument: str) -> None:
    """Decodes every file that was not checked before, and keeps nothing.

    Raises:
        DataError: If any file is missing or is no image; it names them with the reason.
    """
    checks = check_files(paths, max_pixels=max_pixels)
    bad = [
        f"{path!r} ({checked.reason})"
        for path, checked in zip(paths, checks, strict=True)
        if checked.reason
    ]
    if bad:
        named = ", ".join(bad[:MAX_FILES_NAMED])
        rest = f" and {len(bad) - MAX_FILES_NAMED} more" if len(bad) > MAX_FILES_NAMED else ""
        raise DataError(
            f"`{argument}` must be image files. Received: {named}{rest}. "
            f"Leave {'it' if len(bad) == 1 else 'them'} out."
        )


def pixels_of(images: Any, argument: str = "images") -> np.ndarray:
    """Returns one image or a batch as uint8, `(n, height, width, 3)`, rounded.

    Args:
        images: Pixels 0...255, `(height, width, 3)` or `(n, height, width, 3)`.
        argument: What errors call them.

    Raises:
        ArgumentError: If the shape is another, or values are no pixels from 0 to 255.
    """
    try:
        pixels = np.asarray(images)
    except ValueError:  # images of different sizes
        pixels = np.empty((), object)
    if pixels.ndim == 3:
        pixels = pixels[np.newaxis]
    if pixels.ndim != 4 or pixels.shape[3] != 3 or 0 in pixels.shape[1:]:
        raise ArgumentError(
            f"`{argument}` must be files, or pixels of the shape (height, width, 3) or "
            f"(n, height, width, 3). Received: {_described(images)}. Stack images of one size; "
            "repeat the channel of grey ones with `np.repeat(image, 3, axis=-1)`."
        )
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind not in "iuf" or not _are_pixels(pixels):
        raise ArgumentError(
            f"`{argument}` must hold pixels from 0 to 255. "
            f"Received: {_described(images)}. Values from 0 to 1 need multiplying by 255."
        )
    return np.round(pixels).astype(np.uint8)


def resized(image: np.ndarray, image_size: tuple[int, int]) -> tf.Tensor:
    """Returns the image, uint8 `(height, width, 3)`, stretched as files are."""
    return tf.constant(image) if image.shape[:2] == image_size else resize_image(image, image_size)


def _are_pixels(pixels: np.ndarray) -> bool:
    """Whether all values lie in 0...255, and not all of them in 0...1 with fractions."""
    if pixels.size == 0:
        return True
    low, high = pixels.min(), pixels.max()
    if not (low >= 0 and high <= 255):  # NaN fails both
        return False
    return high > 1 or bool((pixels == np.round(pixels)).all())


def _described(images: object) -> str:
    try:
        array = np.asarray(images)
    except ValueError:
        return "arrays of different shapes"
    if array.dtype.kind not in "iufb":
        return f"a {type(images).__name__}"
    values = f", values {array.min():g} to {array.max():g}" if array.size else ""
    return f"an array of the shape {array.shape}, {array.dtype}{values}"
