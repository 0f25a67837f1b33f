"""What `export_model` wrote as a SavedModel, found and read again."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tlkit.errors import ExportError

if TYPE_CHECKING:
    import tensorflow as tf

SAVED_MODEL_FILE = "saved_model.pb"
CLASS_NAMES_FILE = "class_names.txt"
SERVING_FILE = "serving.json"
KINDS = ("softmax", "binary", "multi_label")
"""Of a head, see `tlkit.models.heads.head_kind`."""


def saved_model_in(folder: Path) -> Path | None:
    """Returns where the SavedModel of an export or a run lies, `None` where there is none."""
    for root in (folder, folder / "saved_model"):
        assets = [root / "assets" / name for name in (CLASS_NAMES_FILE, SERVING_FILE)]
        if all(file.is_file() for file in (root / SAVED_MODEL_FILE, *assets)):
            return root
    return None


class ExportedModel:
    """A SavedModel that says what it is; the network itself is loaded when it is first asked.

    Args:
        root: See `saved_model_in`.

    Attributes:
        class_names: In the order of the probabilities.
        kind: The head's: "softmax", "binary" or "multi_label".
        threshold: From which a multi-label head gives a label, 0...1.
        max_pixels: The most pixels that an image may have.

    Raises:
        ExportError: What it says of itself is damaged.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        with self._whole():
            names = (root / "assets" / CLASS_NAMES_FILE).read_text("utf-8")
            about = json.loads((root / "assets" / SERVING_FILE).read_text("utf-8"))
            *lines, rest = names.split("\n")
            if rest or not lines or about["kind"] not in KINDS:
                raise ValueError("names that do not end, or no kind of head")
            self.class_names: tuple[str, ...] = tuple(lines)
            self.kind: str = about["kind"]
            self.threshold: float = float(about["threshold"])
            self.max_pixels: int = int(about["max_pixels"])

    @cached_property
    def ask(self) -> "Callable[..., dict[str, tf.Tensor]]":
        """Takes `image_bytes`, a string tensor `(n,)`, and returns the answers by name.

        Raises:
            ExportError: The network is damaged.
        """
        import tensorflow as tf

        with self._whole(tf.errors.OpError):
            self._loaded = tf.saved_model.load(str(self._root))  # the signature needs it alive
            signature = self._loaded.signatures["serving_default"]
            width = signature.structured_outputs["probabilities"].shape[1]
            if width not in (None, len(self.class_names)):
                raise ValueError(f"{len(self.class_names)} names of {width} classes")
        asked: Callable[..., dict[str, tf.Tensor]] = signature
        return asked

    @contextmanager
    def _whole(self, *more: type[Exception]) -> Iterator[None]:
        damage: tuple[type[Exception], ...] = (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            RecursionError,
            *more,
        )
        try:
            yield
        except damage as error:
            raise ExportError(
                f"A SavedModel must be whole. Received: {str(self._root)!r}, which is damaged. "
                "Export it again."
            ) from error
