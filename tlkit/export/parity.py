"""Comparison of an exported model, run in a fresh process, with the model in memory."""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

import tlkit.export.client as client_program
from tlkit.errors import ExportError
from tlkit.evaluation.comparison import ComparisonReport, compare_outcomes
from tlkit.evaluation.thresholds import THRESHOLD, Threshold, is_label
from tlkit.export.formats import EXPORT_FORMATS, MAX_ACCURACY_DROP
from tlkit.models.heads import head_kind, probabilities
from tlkit.utils.text_repr import ShownAsText

TIME_LIMIT = 600
"""Seconds after which a fresh process is killed."""


@dataclass(frozen=True, eq=False)
class FreshOutputs:
    """The outputs of an exported model in a process of its own, on the CPU.

    Attributes:
        outputs: Probabilities, float32 `(n, num_classes)`; for a .keras file the model's outputs,
            which may be logits.
        load_seconds: Time from loading to the first output, without importing the runtime.
        milliseconds_per_image: Median over single decoded images.
    """

    outputs: np.ndarray
    load_seconds: float
    milliseconds_per_image: float


@dataclass(frozen=True)
class ParityReport(ShownAsText):
    """How closely an exported model agrees with the model in memory.

    Attributes:
        name: Name of the format.
        num_images: Number of compared images.
        difference: Largest difference of a probability.
        accuracy_drop: Accuracy of the model in memory minus that of the export, see
            `accuracy_drop`.
        is_counted: Whether the drop was measured with labels; otherwise it is an expected value.
        load_seconds: See `FreshOutputs`.
        milliseconds_per_image: See `FreshOutputs`.
        comparison: The model in memory (first) compared with the export (second), with labels;
            `None` without. With a multi-label head an image is correct if all its labels are.
    """

    name: str
    num_images: int
    difference: float
    accuracy_drop: float
    is_counted: bool
    load_seconds: float
    milliseconds_per_image: float
    comparison: ComparisonReport | None = None

    def __str__(self) -> str:
        lower = "lower" if self.is_counted else "expected to be lower"
        return (
            f"{self.name}: probabilities within {self.difference:.1g} on {self.num_images} "
            f"images, accuracy {lower} by {100 * self.accuracy_drop:.1f} points, loads in "
            f"{self.load_seconds:.2f} s, {self.milliseconds_per_image:.1f} ms per image"
        )


def check_parity(
    name: str,
    path: Path,
    images: np.ndarray,
    expected: np.ndarray,
    *,
    model: keras.Model,
    threshold: Threshold = THRESHOLD,
    labels: np.ndarray | None = None,
) -> ParityReport:
    """Runs an exported model in a fresh process and checks its outputs against the format's bounds.

    Args:
        name: Name of the format in `EXPORT_FORMATS`.
        path: The file or folder.
        images: uint8 `(n, height, width, 3)`, 0...255, n at least 1; real images.
        expected: Probabilities of the model in memory, `(n, num_classes)`, computed on the CPU:
            a GPU rounds products of float32 to TensorFloat-32.
        model: The model in memory, which determines the meaning of outputs.
        threshold: Lowest probability for which a multi-label head gives a label.
        labels: See `accuracy_drop`.

    Raises:
        ExportError: If the model cannot be run or a bound is exceeded.
    """
    fresh = run_in_fresh_process(name, path, images)
    exported = fresh.outputs
    if name == "keras":
        exported = np.asarray(probabilities(exported, model))
    difference, drop = compare_probabilities(
        name, exported, expected, kind=head_kind(model), threshold=threshold, labels=labels
    )
    return ParityReport(
        name=name,
        num_images=len(images),
        difference=difference,
        accuracy_drop=drop,
        is_counted=labels is not None,
        load_seconds=fresh.load_seconds,
        milliseconds_per_image=fresh.milliseconds_per_image,
        comparison=None if labels is None else _compare(exported, expected, labels, threshold),
    )


def _compare(
    exported: np.ndarray, expected: np.ndarray, labels: np.ndarray, threshold: Threshold
) -> ComparisonReport:
    def is_correct(probabilities: np.ndarray) -> np.ndarray:
        if labels.ndim == 2:  # multi-label
            found: np.ndarray = (is_label(probabilities, threshold) == (labels == 1)).all(axis=1)
            return found
        return np.asarray(probabilities.argmax(axis=1) == labels)

    return compare_outcomes(is_correct(expected), is_correct(exported))


def run_in_fresh_process(
    name: str, path: Path, images: np.ndarray, *, python: str | os.PathLike[str] = sys.executable
) -> FreshOutputs:
    """Returns the outputs of an exported model in a process with nothing but its runtime.

    Neither tlkit nor another runtime can be imported there, and GPUs are hidden.

    Args:
        name: Name of the format in `EXPORT_FORMATS`.
        path: The file or folder.
        images: uint8 `(n, height, width, 3)`, n at least 1.
        python: The Python interpreter, which may be that of another environment.

    Raises:
        ExportError: If the model cannot be loaded or run there.
    """
    runtime = EXPORT_FORMATS[name].runtime
    with tempfile.TemporaryDirectory() as scratch:
        images_file, outputs_file = Path(scratch) / "images.npy", Path(scratch) / "outputs.npz"
        np.save(images_file, images)
        program = [str(python), "-P", str(client_program.__file__)]
        arguments = [runtime, str(path.absolute()), str(images_file), str(outputs_file)]
        try:
            completed = subprocess.run(
                [*program, *arguments],
                env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": "tensorflow"},
                cwd=scratch,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TIME_LIMIT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ExportError(
                f"The exported {name} gave no output within {TIME_LIMIT} seconds. "
                "Nothing was written. Use a smaller model."
            ) from error
        if completed.returncode != 0:
            errors = completed.stderr.decode(errors="replace").strip().splitlines()
            raise ExportError(
                f"The exported {name} cannot be run in a process that has only {runtime}: "
                f"{errors[-1] if errors else f'status {completed.returncode}'} "
                "Nothing was written. Export to another format."
            )
        with np.load(outputs_file) as arrays:
            return FreshOutputs(
                outputs=arrays["outputs"],
                load_seconds=float(arrays["load_seconds"]),
                milliseconds_per_image=float(arrays["milliseconds_per_image"]),
            )


def compare_probabilities(
    name: str,
    exported: np.ndarray,
    expected: np.ndarray,
    *,
    kind: str,
    threshold: Threshold = THRESHOLD,
    labels: np.ndarray | None = None,
) -> tuple[float, float]:
    """Returns the largest difference of a probability and the accuracy drop, both within bounds.

    All formats must respect the largest difference in `EXPORT_FORMATS`; those with rounded weights
    must also respect `MAX_ACCURACY_DROP`, except that with labels one image may always be lost: of
    few images, it is more than these points.

    Args:
        name: Name of the format.
        exported: Probabilities from the exported model, `(n, num_classes)`.
        expected: Probabilities from the model in memory.
        kind: Kind of the head: "softmax", "binary" or "multi_label".
        threshold: Lowest probability for which a multi-label head gives a label.
        labels: See `accuracy_drop`.

    Raises:
        ExportError: If a bound is exceeded.
    """
    if exported.shape != expected.shape:
        raise ExportError(
            f"The exported {name} must give probabilities of the shape {expected.shape}, as the "
            f"model in memory does. Received: shape {exported.shape}. Nothing was written. Report "
            "this with the model's summary."
        )
    difference = float(np.abs(exported - expected).max())
    bound = EXPORT_FORMATS[name].largest_difference
    if not difference <= bound:  # also for NaN
        raise difference_error(name, "probabilities", difference, bound)
    drop = accuracy_drop(exported, expected, kind=kind, threshold=threshold, labels=labels)
    is_rounded = EXPORT_FORMATS[name].quantization is not None
    one_image = 1 / len(expected) if labels is not None else 0.0
    if is_rounded and drop > max(MAX_ACCURACY_DROP, one_image) + 1e-9:
        is_lower = "is lower" if labels is not None else "is expected to be lower"
        raise ExportError(
            f"The exported {name} must lose at most {100 * MAX_ACCURACY_DROP:g} points of accuracy "
            f"by rounding. Received: accuracy {is_lower} by {100 * drop:.1f} points on "
            f"{len(exported)} images. Nothing was written. Use a format that rounds weights less."
        )
    return difference, drop


def difference_error(name: str, what: str, difference: float, bound: float) -> ExportError:
    """Returns the error for outputs that differ too much from those of the model in memory."""
    return ExportError(
        f"The exported {name} must give the same {what} as the model in memory, within {bound:g}. "
        f"Received: {what} that differ by up to {difference:.3g}. Nothing was written. Report this "
        "with the model's summary."
    )


def accuracy_drop(
    exported: np.ndarray,
    expected: np.ndarray,
    *,
    kind: str,
    threshold: Threshold = THRESHOLD,
    labels: np.ndarray | None = None,
) -> float:
    """Returns the accuracy of the model in memory minus the accuracy of the exported model.

    With `labels` the drop is measured. Without, it is the expectation under the probabilities of
    the model in memory: an image that the export assigns to another class costs the difference of
    the two classes' probabilities. Two classes that are equally probable may change at no cost.

    Args:
        exported: Probabilities from the exported model, `(n, num_classes)`.
        expected: Probabilities from the model in memory.
        kind: "softmax" or "binary": the accuracy is a fraction of images. "multi_label": it is a
            fraction of label decisions.
        threshold: Lowest probability for which a multi-label head gives a label.
        labels: True labels: class numbers `(n,)`; for a multi-label head 0/1 `(n, num_classes)`.

    Example:
        >>> import numpy as np
        >>> from tlkit.export.parity import accuracy_drop
        >>> expected = np.array([[0.9, 0.1], [0.6, 0.4]])
        >>> exported = np.array([[0.8, 0.2], [0.4, 0.6]])
        >>> round(accuracy_drop(exported, expected, kind="softmax"), 3)
        0.1
        >>> accuracy_drop(exported, expected, kind="softmax", labels=np.array([0, 0]))
        0.5
    """
    if kind == "multi_label":
        is_exported, is_expected = is_label(exported, threshold), is_label(expected, threshold)
        truth = expected if labels is None else labels
        gains = np.where(is_expected, 1, -1) * (2 * truth.astype(float) - 1)
        return float(np.where(is_exported == is_expected, 0.0, gains).mean())
    exported_class, expected_class = exported.argmax(axis=1), expected.argmax(axis=1)
    if labels is not None:
        return float((expected_class == labels).mean() - (exported_class == labels).mean())
    rows = np.arange(len(expected))
    return float((expected[rows, expected_class] - expected[rows, exported_class]).mean())
