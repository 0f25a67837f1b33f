"""The export formats: their files, required packages, and largest allowed differences."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec

from tlkit.errors import ArgumentError, as_tuple, check_choice

FULL_INT8 = "full_int8"
"""The quantization of weights, activations, input and output, which needs images to calibrate."""

MAX_ACCURACY_DROP = 0.03
"""Largest loss of accuracy by rounded weights, as a fraction of the compared images."""


@dataclass(frozen=True)
class ExportFormat:
    """An export format.

    Attributes:
        name: Its name for `export_model`.
        path: Its file or folder within the folder of an export.
        runtime: The runtime that loads it: "tensorflow", "keras", "ai_edge_litert" or
            "onnxruntime".
        packages: Packages beyond tlkit's own requirements that are needed to write and to check
            it: for each, the name to import and the name to install.
        largest_difference: Largest allowed difference of a probability from that of the model in
            memory; 1, which excludes only NaN, for formats that are held to the accuracy alone.
        quantization: How weights are rounded; `None` if they stay float32. Rounded ones are held
            to `MAX_ACCURACY_DROP` as well.
    """

    name: str
    path: str
    runtime: str
    packages: tuple[tuple[str, str], ...] = ()
    largest_difference: float = 1e-5
    quantization: str | None = None

    @property
    def needs_images(self) -> bool:
        """Whether images are needed to calibrate the range of each activation."""
        return self.quantization == FULL_INT8

    @property
    def is_held_to_accuracy(self) -> bool:
        """Whether its probabilities may differ as long as the accuracy does not drop."""
        return self.largest_difference >= 1


_LITERT = (("ai_edge_litert", "ai-edge-litert"),)
_ONNX = (("tf2onnx", "tf2onnx"), ("onnx", "onnx"), ("onnxruntime", "onnxruntime"))

# Measured on thirteen backbones of all families in the catalogue: runtimes sum in different orders,
# which changes a probability by up to 5e-6 (MobileNet-0.25, trained) or 2e-4 (Inception V3, random
# weights); float16 weights change one by up to 0.03 (MobileNet-0.25), and int8 weights by up to
# 0.3, which cost 2 of 100 images.
EXPORT_FORMATS = {
    spec.name: spec
    for spec in (
        ExportFormat("saved_model", "saved_model", "tensorflow"),
        ExportFormat("keras", "model.keras", "keras"),
        ExportFormat("litert", "model.tflite", "ai_edge_litert", _LITERT, 1e-3),
        ExportFormat(
            "litert_float16", "model_float16.tflite", "ai_edge_litert", _LITERT, 0.1, "float16"
        ),
        ExportFormat("litert_int8", "model_int8.tflite", "ai_edge_litert", _LITERT, 1.0, "int8"),
        ExportFormat(
            "litert_full_int8",
            "model_full_int8.tflite",
            "ai_edge_litert",
            _LITERT,
            1.0,
            FULL_INT8,
        ),
        ExportFormat("onnx", "model.onnx", "onnxruntime", _ONNX, 1e-3),
    )
}

IN_EVERY_RUN = ("saved_model", "keras")
"""Formats that a run holds anyway."""


def further_formats(formats: str | Iterable[str]) -> tuple[str, ...]:
    """Returns the formats that a run is to hold beyond those of every run.

    Args:
        formats: Names of `EXPORT_FORMATS`, as an iterable or as one string with commas.

    Raises:
        ArgumentError: A name is not one of them.

    Example:
        >>> from tlkit.export.formats import further_formats
        >>> further_formats("onnx, keras, litert"), further_formats(["keras"])
        (('litert', 'onnx'), ())
    """
    names = formats.split(",") if isinstance(formats, str) else as_tuple(formats)
    names = [name.strip() if isinstance(name, str) else name for name in names]
    for name in names:
        check_choice("formats", name, EXPORT_FORMATS)
    return tuple(name for name in EXPORT_FORMATS if name in names and name not in IN_EVERY_RUN)


def check_packages(formats: Iterable[str]) -> None:
    """Raises `ArgumentError` unless the packages that write and check `formats` are installed.

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
                "`formats` must be formats whose packages are installed. "
                f"Received: {name!r}, which needs {' and '.join(missing)}. "
                'Install with: pip install "tlkit[export]".'
            )


def check_needs_images(formats: Iterable[str], calibrate: object) -> None:
    """Raises `ArgumentError` unless there are images for formats that need them, and only then.

    Args:
        formats: Names of `EXPORT_FORMATS`.
        calibrate: The images to calibrate, or `None`.

    Example:
        >>> from tlkit.export.formats import check_needs_images
        >>> check_needs_images(["litert"], calibrate=None)
    """
    needing = [name for name in formats if EXPORT_FORMATS[name].needs_images]
    if needing and calibrate is None:
        raise ArgumentError(
            f"`calibrate` must be images for {needing[0]!r}, which takes the range of each "
            "activation from them. Received: calibrate=None. Give some training images, such as "
            "data.train."
        )
    if calibrate is not None and not needing:
        raise ArgumentError(
            "`calibrate` must be left out unless a format is calibrated. Received: images "
            f"for {', '.join(map(repr, formats))}. Leave them out, or add "
            f"{', '.join(repr(name) for name, one in EXPORT_FORMATS.items() if one.needs_images)}."
        )
