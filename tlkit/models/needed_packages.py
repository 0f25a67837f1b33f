"""The packages that a `.keras` file needs besides Keras."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from tlkit.models.backbone_files import config_in


def needed_packages(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Returns the names of the packages whose layers are in a `.keras` file, without loading it.

    They must be imported before `keras.saving.load_model`; Keras itself is left out.

    Example:
        >>> import pathlib, tempfile, tlkit
        >>> from tlkit.models.needed_packages import needed_packages
        >>> model = tlkit.build_classifier("resnet20", ["ant", "bee"], weights=None)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "model.keras")
        ...     model.save(path)
        ...     needed_packages(path)
        ()
    """
    return tuple(sorted(set(_packages(config_in(path))) - {"keras", "builtins"}))


def _packages(value: Any) -> Iterator[str]:
    """Yields the package of each class in a configuration."""
    if isinstance(value, Mapping):
        if "class_name" in value and isinstance(value.get("module"), str):
            yield value["module"].partition(".")[0]
        for inner in value.values():
            yield from _packages(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _packages(inner)
