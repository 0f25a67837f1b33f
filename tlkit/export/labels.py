"""Class names and settings of a model, stored inside the model's file."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tlkit.evaluation.exported import CLASS_NAMES_FILE, SERVING_FILE


def add_labels(file: Path, class_names: Sequence[str], about: Mapping[str, Any]) -> None:
    """Adds `class_names.txt` and `serving.json` to a .keras file or to the end of a .tflite file.

    They have the same content as the SavedModel's assets: one name per line in UTF-8, and the
    settings. A .keras file is a ZIP archive of which Keras reads the members it knows; LiteRT
    expects such an archive of associated files at the end of a .tflite file. Any ZIP program opens
    both: `unzip -p model.tflite class_names.txt`.

    Args:
        file: The file; changed in place.
        class_names: Class names in the order of the model's outputs.
        about: The settings; JSON-serializable.

    Example:
        >>> import pathlib, tempfile
        >>> from tlkit.export.labels import add_labels, read_labels
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder) / "model.tflite"
        ...     _ = file.write_bytes(b"a model")
        ...     add_labels(file, ["ant", "bee"], {"kind": "softmax"})
        ...     file.read_bytes().startswith(b"a model"), read_labels(file)
        (True, (('ant', 'bee'), {'kind': 'softmax'}))

    Reference:
        https://ai.google.dev/edge/litert/models/metadata, "Pack the associated files"
    """
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(CLASS_NAMES_FILE, "".join(f"{name}\n" for name in class_names))
        archive.writestr(SERVING_FILE, json.dumps(dict(about), indent=2) + "\n")


def read_labels(file: Path) -> tuple[tuple[str, ...], dict[str, object]]:
    """Returns what `add_labels` has added: the class names and the settings."""
    with zipfile.ZipFile(file) as archive:
        names = archive.read(CLASS_NAMES_FILE).decode().split("\n")[:-1]
        return tuple(names), json.loads(archive.read(SERVING_FILE))
