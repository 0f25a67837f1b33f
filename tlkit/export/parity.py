"""Whether an exported model says what the model in memory says, asked in a fresh process."""

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
from tlkit.evaluation.outputs import THRESHOLD
from tlkit.evaluation.prediction import is_label
from tlkit.export.formats import EXPORT_FORMATS, MAX_ACCURACY_DROP
from tlkit.models.heads import head_kind, probabilities
from tlkit.utils.formatting import percent
from tlkit.utils.text_repr import ShownAsText

TIME_LIMIT = 600
"""Seconds after which a fresh process counts as hung."""


@dataclass(frozen=True, eq=False)
class FreshAnswers:
    """What an exported model said in a process of its own, on the CPU.

    Attributes:
        outputs: Probabilities, float32 `(n, num_classes)`; of a .keras file what its model
            returns, which may be logits.
        load_seconds: From the file to the first answer, without importing the runtime.
        milliseconds_per_image: Median over single images, decoded before.
    """

    outputs: np.ndarray
    load_seconds: float
    milliseconds_per_image: float


@dataclass(frozen=True)
class ParityReport(ShownAsText):
    """How closely an exported model agrees with the model in memory.

    Attributes:
        name: The format.
        num_images: Number of images compared.
        difference: Largest difference of a probability.
        accuracy_drop: Accuracy in memory minus accuracy exported, see `accuracy_drop`.
        is_counted: Whether that was counted with labels; else it is what is to be expected.
        load_seconds: See `FreshAnswers`.
        milliseconds_per_image: See `FreshAnswers`.
    """

    name: str
    num_images: int
    difference: float
    accuracy_drop: float
    is_counted: bool
    load_seconds: float
    milliseconds_per_image: float

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
    threshold: float = THRESHOLD,
    labels: np.ndarray | None = None,
) -> ParityReport:
    """Asks an exported model in a fresh process and holds what it says to the bounds of its format.

    Args:
        name: The format, a name of `EXPORT_FORMATS`.
        path: The file or folder.
        images: uint8 `(n, height, width, 3)`, 0...255, n at least 1; real images.
        expected: Probabilities of the model in memory, `(n, num_classes)`, computed on the CPU:
            a GPU rounds products of float32 to TensorFloat-32.
        model: The model in memory, which says what outputs mean.
        threshold: From this probability on, a multi-label head gives a label.
        labels: See `accuracy_drop`.

    Raises:
        ExportError: If the model cannot be asked, or a bound is broken.
    """
    answers = ask_in_fresh_process(name, path, images)
    found = answers.outputs
    if name == "keras":
        found = np.asarray(probabilities(found, model))
    difference, drop = compare_answers(
        name, found, expected, kind=head_kind(model), threshold=threshold, labels=labels
    )
    return ParityReport(
        name=name,
        num_images=len(images),
        difference=difference,
        accuracy_drop=drop,
        is_counted=labels is not None,
        load_seconds=answers.load_seconds,
        milliseconds_per_image=answers.milliseconds_per_image,
    )


def ask_in_fresh_process(
    name: str, path: Path, images: np.ndarray, *, python: str | os.PathLike[str] = sys.executable
) -> FreshAnswers:
    """Returns what the exported model says in a process where only its runtime can be imported.

    Neither tlkit nor any other runtime can; a GPU is not seen.

    Args:
        name: The format, a name of `EXPORT_FORMATS`.
        path: The file or folder.
        images: uint8 `(n, height, width, 3)`, n at least 1.
        python: The interpreter, perhaps of another environment; this one's by default.

    Raises:
        ExportError: If the model cannot be loaded or asked there.
    """
    runtime = EXPORT_FORMATS[name].runtime
    with tempfile.TemporaryDirectory() as scratch:
        images_file, answers_file = Path(scratch) / "images.npy", Path(scratch) / "answers.npz"
        np.save(images_file, images)
        program = [str(python), "-P", str(client_program.__file__)]
        arguments = [runtime, str(path.absolute()), str(images_file), str(answers_file)]
        try:
            done = subprocess.run(
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
                f"The exported {name} gave no answer within {TIME_LIMIT} seconds. "
                "Nothing was written. Try it with a smaller model."
            ) from error
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise ExportError(
                f"The exported {name} cannot be asked in a process that has only {runtime}: "
                f"{said[-1] if said else f'status {done.returncode}'} "
                "Nothing was written. Export to another format."
            )
        with np.load(answers_file) as answers:
            return FreshAnswers(
                outputs=answers["outputs"],
                load_seconds=float(answers["load_seconds"]),
                milliseconds_per_image=float(answers["milliseconds_per_image"]),
            )


def compare_answers(
    name: str,
    found: np.ndarray,
    expected: np.ndarray,
    *,
    kind: str,
    threshold: float = THRESHOLD,
    labels: np.ndarray | None = None,
) -> tuple[float, float]:
    """Returns the largest difference of a probability and the accuracy drop, both within bounds.

    Every format is held to the largest difference that `EXPORT_FORMATS` states, and one that
    rounds weights to a drop of at most `MAX_ACCURACY_DROP` as well.

    Args:
        name: The format.
        found: Probabilities from the exported model, `(n, num_classes)`.
        expected: Those of the model in memory.
        kind: The head: "softmax", "binary" or "multi_label".
        threshold: From this probability on, a multi-label head gives a label.
        labels: See `accuracy_drop`.

    Raises:
        ExportError: If a bound is broken.
    """
    if found.shape != expected.shape:
        raise ExportError(
            f"The exported {name} gives probabilities of the shape {found.shape} where the model "
            f"in memory gives {expected.shape}. Nothing was written. Report this with the model's "
            "summary."
        )
    difference = float(np.abs(found - expected).max())
    bound = EXPORT_FORMATS[name].largest_difference
    if not difference <= bound:  # NaN too
        raise ExportError(
            f"The exported {name} does not compute what the model in memory computes: "
            f"probabilities differ by up to {difference:.3g}, at most {bound:g} is allowed. "
            "Nothing was written. Report this with the model's summary."
        )
    drop = accuracy_drop(found, expected, kind=kind, threshold=threshold, labels=labels)
    is_rounded = EXPORT_FORMATS[name].quantization is not None
    if is_rounded and drop > MAX_ACCURACY_DROP + 1e-9:
        is_right = "is right" if labels is not None else "is expected to be right"
        raise ExportError(
            f"The exported {name} {is_right} on {percent(drop)} fewer of the {len(found)} "
            f"images than the model in memory, at most {100 * MAX_ACCURACY_DROP:g} % is "
            "allowed. Nothing was written. Export with weights that are rounded less."
        )
    return difference, drop


def accuracy_drop(
    found: np.ndarray,
    expected: np.ndarray,
    *,
    kind: str,
    threshold: float = THRESHOLD,
    labels: np.ndarray | None = None,
) -> float:
    """Returns by how much the accuracy falls when `found` takes the place of `expected`.

    With `labels` that is counted. Without, it is what the model in memory expects: where another
    class is named, the accuracy falls by the difference of the two classes' probabilities in
    memory. Classes between which the model is undecided may change places at no cost.

    Args:
        found: Probabilities from the exported model, `(n, num_classes)`.
        expected: Those of the model in memory.
        kind: "softmax" or "binary": share of images. "multi_label": share of label decisions.
        threshold: From this probability on, a multi-label head gives a label.
        labels: The truth: class numbers `(n,)`; for a multi-label head 0/1 `(n, num_classes)`.

    Example:
        >>> import numpy as np
        >>> from tlkit.export.parity import accuracy_drop
        >>> expected = np.array([[0.9, 0.1], [0.6, 0.4]])
        >>> found = np.array([[0.8, 0.2], [0.4, 0.6]])
        >>> round(accuracy_drop(found, expected, kind="softmax"), 3)
        0.1
        >>> accuracy_drop(found, expected, kind="softmax", labels=np.array([0, 0]))
        0.5
    """
    if kind == "multi_label":
        said, meant = is_label(found, threshold), is_label(expected, threshold)
        right = expected if labels is None else labels
        gains = np.where(meant, 1, -1) * (2 * right.astype(float) - 1)
        return float(np.where(said == meant, 0.0, gains).mean())
    said, meant = found.argmax(axis=1), expected.argmax(axis=1)
    if labels is not None:
        return float((meant == labels).mean() - (said == labels).mean())
    rows = np.arange(len(expected))
    return float((expected[rows, meant] - expected[rows, said]).mean())
