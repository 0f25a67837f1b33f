"""Finds and loads SavedModels that `export_model` wrote."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlkit.errors import ArgumentError, ExportError
from tlkit.evaluation.thresholds import Threshold, check_threshold

if TYPE_CHECKING:
    import tensorflow as tf

SAVED_MODEL_FILE = "saved_model.pb"
CLASS_NAMES_FILE = "class_names.txt"
SERVING_FILE = "serving.json"
KINDS = ("softmax", "binary", "multi_label")
"""Kinds of heads, see `tlkit.models.heads.head_kind`."""


def saved_model_in(folder: Path) -> Path | None:
    """Returns the folder of the SavedModel of an export or a run, `None` if there is none."""
    for root in (folder, folder / "saved_model"):
        assets = [root / "assets" / name for name in (CLASS_NAMES_FILE, SERVING_FILE)]
        if all(file.is_file() for file in (root / SAVED_MODEL_FILE, *assets)):
            return root
    return None


class ExportedModel:
    """A SavedModel with its metadata; the network is loaded on its first use.

    Args:
        root: The folder of the SavedModel, see `saved_model_in`.

    Attributes:
        class_names: The class names in the order of the probabilities.
        kind: The kind of head: "softmax", "binary" or "multi_label".
        threshold: The probability, 0...1, from which a multi-label head assigns a label: one for
            all labels, or one for each.
        max_pixels: Maximum number of pixels of an image.

    Raises:
        ExportError: The metadata is damaged.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        with self._checked():
            names = (root / "assets" / CLASS_NAMES_FILE).read_text("utf-8")
            about = json.loads((root / "assets" / SERVING_FILE).read_text("utf-8"))
            *lines, rest = names.split("\n")
            if "input" in about:
                raise _not_of_images(root, about["input"])
            if rest or not lines or about["kind"] not in KINDS:
                raise ValueError("unterminated names or unknown kind of head")
            self.class_names: tuple[str, ...] = tuple(lines)
            self.kind: str = about["kind"]
            given = about["threshold"]
            self.threshold: Threshold = check_threshold(given, len(self.class_names))
            self.max_pixels: int = int(about["max_pixels"])

    @cached_property
    def predict(self) -> "Callable[..., dict[str, tf.Tensor]]":
        """A function from `image_bytes`, a string tensor `(n,)`, to the outputs by name.

        Raises:
            ExportError: The network is damaged.
        """
        import tensorflow as tf

        with self._checked(tf.errors.OpError):
            self._loaded = tf.saved_model.load(str(self._root))  # kept alive for the signature
            signature = self._loaded.signatures["serving_default"]
            width = signature.structured_outputs["probabilities"].shape[1]
            if width not in (None, len(self.class_names)):
                raise ValueError(f"{len(self.class_names)} names for {width} classes")
        function: Callable[..., dict[str, tf.Tensor]] = signature
        return function

    @contextmanager
    def _checked(self, *more: type[Exception]) -> Iterator[None]:
        damage: tuple[type[Exception], ...] = (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            RecursionError,
            ArgumentError,
            *more,
        )
        try:
            yield
        except damage as error:
            raise ExportError(
                f"A SavedModel must be intact. Received: {str(self._root)!r}, which is damaged. "
                "Export it again."
            ) from error


def _not_of_images(root: Path, given: Mapping[str, Any]) -> ExportError:
    """Returns the error for a SavedModel whose settings say that it takes other inputs."""
    return ExportError(
        f"A SavedModel must take images to be used here. Received: {str(root)!r}, which takes "
        f"{given['name']} ({given['dtype']}). Call it with TensorFlow: "
        f"tf.saved_model.load(path).signatures['serving_default']({given['name']}=...)."
    )
