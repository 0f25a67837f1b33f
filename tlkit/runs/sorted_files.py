"""Images linked or copied into a folder for each predicted class."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tlkit.errors import ArgumentError, quoted

if TYPE_CHECKING:
    from tlkit.evaluation.prediction_stream import ClassifiedFile

NONE_OF_THESE, NO_LABEL = "none_of_these", "no_label"
_NOT_IN_NAMES = str.maketrans(dict.fromkeys('/\\:*?"<>|\0', "_"))


class SortedFiles:
    """A folder with a subfolder for each class, which holds the images predicted as that class.

    Args:
        folder: The folder to make.
        class_names: The classes.
        copy: Whether images are copied; otherwise they are linked. Members of archives are always
            copied.

    Raises:
        ArgumentError: Two classes would share a folder.
    """

    def __init__(self, folder: Path, class_names: Sequence[str], *, copy: bool) -> None:
        self._folder, self._copy = folder, copy
        self._names = {name: _folder_name(name) for name in class_names}
        taken = [*self._names.values(), NONE_OF_THESE, NO_LABEL]
        if same := [name for name in self._names if taken.count(self._names[name]) > 1]:
            raise ArgumentError(
                "`sort_into` must be left out for classes whose folders would have the same name. "
                f"Received: {quoted(same)}. Use `csv`."
            )
        self._used: set[Path] = set()
        folder.mkdir()

    def add(self, classified: "ClassifiedFile") -> None:
        """Links or copies an image; a file that cannot be used is left out."""
        prediction = classified.prediction
        if prediction.reason:
            return
        if prediction.known is False:
            names = [NONE_OF_THESE]
        else:
            names = [self._names[label] for label in prediction.labels] or [NO_LABEL]
        for name in names:
            self._put(classified, name)

    def _put(self, classified: "ClassifiedFile", name: str) -> None:
        image = classified.image
        (self._folder / name).mkdir(exist_ok=True)
        target = self._free(self._folder / name / image.name)
        if image.archive:
            target.write_bytes(classified.content)
        elif self._copy:
            shutil.copy2(image.copy or image.path, target)
        else:
            target.symlink_to(os.path.realpath(image.copy or image.path))

    def _free(self, path: Path) -> Path:
        """Returns the path, with a number before its suffix if another image has it."""
        number, free = 1, path
        while free in self._used:
            number += 1
            free = path.with_name(f"{path.stem}_{number}{path.suffix}")
        self._used.add(free)
        return free


def _folder_name(name: str) -> str:
    """Returns a class's name as that of a folder on any system."""
    plain = name.translate(_NOT_IN_NAMES).rstrip(". ")
    return plain if plain.strip(".") else f"_{plain}"
