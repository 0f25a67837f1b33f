"""The file of a head's statistics, and how large one may become."""

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tlkit.continual.head_statistics import NUM_FOLDS, HeadStatistics
from tlkit.errors import RunError
from tlkit.models.kernel_head import KernelMap
from tlkit.training.sums import Sums
from tlkit.utils.array_files import read_arrays, write_arrays
from tlkit.utils.formatting import megabytes

FEWEST_LANDMARKS, MOST_LANDMARKS = 500, 2000
"""Bounds of the default width: a file of 5 to 80 MB."""

_LANDMARKS_OF_IMAGE = 4
_BYTES_OF_IMAGE = 40
"""A digest and a class in a file."""

_GRAMS_IN_MEMORY = 2 * NUM_FOLDS + 3
"""Those of the folds, of the images that are added, their sum, and two for a solution."""


@dataclass(frozen=True)
class StatisticsSize:
    """What determines the size of statistics, besides their width, the number of landmarks.

    Attributes:
        num_features: Number of features of an image.
        num_classes: Number of classes.
        num_images: Number of images.
    """

    num_features: int
    num_classes: int
    num_images: int

    def bytes_of(self, width: int) -> int:
        """Returns the approximate size of the file in bytes."""
        sums = math.comb(width + 2, 2) + (width + 1) * self.num_classes
        landmarks = width * self.num_features
        return 8 * (NUM_FOLDS * sums + landmarks) + _BYTES_OF_IMAGE * self.num_images

    def memory_of(self, width: int) -> int:
        """Returns the approximate memory in bytes that the sums and a solution take."""
        return 8 * _GRAMS_IN_MEMORY * (width + 1) ** 2

    def why_no_room(self, width: int, folder: Path) -> str:
        """Returns why there is no room for statistics in a folder, and what fits, else "".

        Args:
            width: The number of landmarks.
            folder: The folder that will hold the file, or would hold it if it was made.
        """
        free, memory = _free_bytes(folder), _bytes_of_memory()
        if self._fits(width, free, memory):
            return ""
        widths = (width // 2**power for power in range(1, width.bit_length()))
        fitting = next((one for one in widths if self._fits(one, free, memory)), 0)
        taken = (
            f"the sums for {width:,} landmarks take {megabytes(self.bytes_of(width))} on the disk, "
            f"where {megabytes(free)} are free, and {megabytes(self.memory_of(width))} of the "
            f"{megabytes(memory)} of memory"
        )
        return f"{taken}; {fitting:,} landmarks fit" if fitting else taken

    def _fits(self, width: int, free: int, memory: int) -> bool:
        return self.bytes_of(width) <= free // 2 and self.memory_of(width) <= memory // 2


def default_width(num_images: int) -> int:
    """Returns four landmarks for each image, within bounds: 500 to 2,000."""
    return min(max(_LANDMARKS_OF_IMAGE * num_images, FEWEST_LANDMARKS), MOST_LANDMARKS)


def size_of(statistics: HeadStatistics) -> StatisticsSize:
    """Returns what determines the size of some statistics."""
    num_features = len(statistics.kernel_map.mean)
    return StatisticsSize(num_features, len(statistics.class_names), len(statistics.images))


def save_statistics(statistics: HeadStatistics, path: Path) -> None:
    """Writes an `.npz` file atomically."""
    kernel_map = statistics.kernel_map
    triangle = np.tril_indices(len(kernel_map.landmarks) + 1)
    digests = [digest.encode() for digest in statistics.images]
    write_arrays(
        path,
        {
            "class_names": np.array(statistics.class_names),
            "signature": np.array(statistics.signature),
            "mean": kernel_map.mean,
            "scale": kernel_map.scale,
            "landmarks": kernel_map.landmarks,
            "sharpness": np.array(kernel_map.sharpness),
            "grams": np.stack([fold.gram[triangle] for fold in statistics.folds]),
            "crosses": np.stack([fold.cross for fold in statistics.folds]),
            "factor": np.array(statistics.factor),
            "squares": np.array([fold.squares for fold in statistics.folds]),
            "digests": np.array(digests, np.bytes_),
            "classes": np.array([*statistics.images.values()], np.int64),
        },
    )


def load_statistics(
    path: Path, signature: str, class_names: Sequence[str] | None = None
) -> HeadStatistics:
    """Reads a file that `save_statistics` wrote.

    Args:
        path: The file.
        signature: Signature of the network whose features are required.
        class_names: The classes that are required, in their order; any by default.

    Raises:
        RunError: The file is damaged, or is of another network's features or of other classes.
    """
    read = read_arrays(path, _from_arrays, lambda: _unusable(path, "damaged"))
    if read.signature != signature:
        raise _unusable(path, "of another network, or of another image size")
    if class_names is not None and read.class_names != tuple(class_names):
        raise _unusable(path, "of other classes")
    return read


def _from_arrays(file: Mapping[str, np.ndarray]) -> HeadStatistics:
    arrays = dict(file)  # each access to a file reads it again
    names = tuple(arrays["class_names"].tolist())
    kernel_map = KernelMap(
        arrays["mean"], arrays["scale"], arrays["landmarks"], float(arrays["sharpness"])
    )
    size = len(kernel_map.landmarks) + 1
    crosses, squares, classes = arrays["crosses"], arrays["squares"], arrays["classes"]
    _check_numbers(arrays, kernel_map)
    triangle = np.tril_indices(size)
    grams = np.zeros((NUM_FOLDS, size, size))
    grams[:, triangle[0], triangle[1]] = arrays["grams"]
    grams[:, triangle[1], triangle[0]] = arrays["grams"]
    if crosses.shape != (NUM_FOLDS, size, len(names)) or len(squares) != NUM_FOLDS:
        raise ValueError("sums do not fit the classes")
    digests = [digest.decode() for digest in arrays["digests"].tolist()]
    images = dict(zip(digests, classes.tolist(), strict=True))
    folds = tuple(map(Sums, grams, crosses, squares.tolist()))
    signature, factor = str(arrays["signature"]), float(arrays["factor"])
    read = HeadStatistics(names, kernel_map, signature, folds, images, factor)
    if not np.array_equal(np.rint(sum(fold.cross[-1] for fold in folds)), read.counts):
        raise ValueError("sums do not fit the images")
    return read


def _check_numbers(arrays: Mapping[str, np.ndarray], kernel_map: KernelMap) -> None:
    """Raises `ValueError` unless all numbers are finite and shapes agree."""
    names = ("mean", "scale", "landmarks", "grams", "crosses", "squares", "factor", "sharpness")
    if not all(np.isfinite(arrays[name]).all() for name in names):
        raise ValueError("numbers that are not finite")
    widths = {kernel_map.mean.shape, kernel_map.scale.shape, kernel_map.landmarks.shape[1:]}
    if len(widths) != 1 or min(kernel_map.sharpness, float(arrays["factor"])) <= 0:
        raise ValueError("a map of features that does not fit, or a factor that is not positive")


def _free_bytes(folder: Path) -> int:
    existing = next(one for one in (folder, *folder.absolute().parents) if one.is_dir())
    return shutil.disk_usage(existing).free


def _bytes_of_memory() -> int:
    """Returns the size of the memory; without bound where the system does not tell."""
    if not hasattr(os, "sysconf"):  # Windows
        return 2**63
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _unusable(path: Path, problem: str) -> RunError:
    return RunError(
        f"{path} must hold statistics of this model's features. It is {problem}. Make them again "
        "from the images, or name another run."
    )
