"""The formats a model can be exported to: where each lies, what it needs, how close it must be."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec

from tlkit.errors import ArgumentError

MAX_ACCURACY_DROP = 0.03
"""Of the images compared, the share that rounded weights may cost."""


@dataclass(frozen=True)
class ExportFormat:
    """One format.

    Attributes:
        name: As `export_model` takes it.
        place: The file or folder, in a folder that holds several formats.
        runtime: What loads it: "tensorflow", "keras", "ai_edge_litert" or "onnxruntime".
        packages: Beyond tlkit's own requirements, what must be installed to write and to prove
            it: the name to import and the name to install.
        largest_difference: The most that a probability may differ from that of the model in
            memory; 1, which excludes NaN alone, where only the accuracy can be held.
        quantization: How weights are rounded; `None` where they stay float32. Where they are,
            `MAX_ACCURACY_DROP` is held too.
    """

    name: str
    place: str
    runtime: str
    packages: tuple[tuple[str, str], ...] = ()
    largest_difference: float = 1e-5
    quantization: str | None = None


_LITERT = (("ai_edge_litert", "ai-edge-litert"),)
_ONNX = (("tf2onnx", "tf2onnx"), ("onnx", "onnx"), ("onnxruntime", "onnxruntime"))

# Measured over thirteen backbones of the catalogue's families: another runtime adds up in another
# order, which moves a probability by up to 5e-6 (MobileNet-0.25, trained) or 2e-4 (Inception V3,
# random weights); float16's eleven bits of each weight move one by up to 0.03 (MobileNet-0.25),
# and int8 by up to 0.3, which cost 2 of 100 images.
EXPORT_FORMATS = {
    one.name: one
    for one in (
        ExportFormat("saved_model", "saved_model", "tensorflow"),
        ExportFormat("keras", "model.keras", "keras"),
        ExportFormat("litert", "model.tflite", "ai_edge_litert", _LITERT, 1e-3),
        ExportFormat(
            "litert_float16", "model_float16.tflite", "ai_edge_litert", _LITERT, 0.1, "float16"
        ),
        ExportFormat("litert_int8", "model_int8.tflite", "ai_edge_litert", _LITERT, 1.0, "int8"),
        ExportFormat("onnx", "model.onnx", "onnxruntime", _ONNX, 1e-3),
    )
}


def check_packages(formats: Iterable[str]) -> None:
    """Raises `ArgumentError` unless all that writes and proves `formats` is installed.

    Args:
        formats: Names of `EXPORT_FORMATS`.

    Example:
        >>> from tlkit.export.formats import check_packages
        >>> check_packages(["saved_model", "keras"])
    """
    for name in formats:
        packages = EXPORT_FORMATS[name].packages
        missing = [package for module, package in packages if find_spec(module) is None]
        if missing:
            raise ArgumentError(
                "`formats` must be such that their packages are installed. "
                f"Received: {name!r}, which needs {' and '.join(missing)}. "
                'Install with: pip install "tlkit[export]".'
            )
