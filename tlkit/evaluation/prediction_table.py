"""Predictions as a table with one row for each file."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from tlkit.data.manifest_rows import SEPARATOR
from tlkit.evaluation.prediction import Prediction
from tlkit.evaluation.prediction_stream import ClassifiedFile, FileClassifier
from tlkit.utils.files import as_cell, written_aside
from tlkit.utils.text_repr import in_line

_KNOWN = {True: "yes", False: "no", None: ""}


class PredictionTable:
    """A CSV file of predictions, see `predict_run`; rows are written as they come.

    Args:
        file: The file, opened for writing.
        model: The classifier.
        top: Number of classes of each image, at least 1.
    """

    def __init__(self, file: TextIO, model: FileClassifier, top: int) -> None:
        self._top = min(top, len(model.class_names))
        self._joins_labels = model.kind == "multi_label"
        self._writer = csv.writer(file, lineterminator="\n")
        columns = ["file", "label", "probability"]
        for rank in range(2, self._top + 1):
            columns += [f"label_{rank}", f"probability_{rank}"]
        self._writer.writerow([*columns, "known", "warning", "error"])

    @classmethod
    @contextmanager
    def written_to(cls, path: Path, model: FileClassifier, top: int) -> "Iterator[PredictionTable]":
        """Yields a table that is at `path` at the end of the block; see `written_aside`."""
        with written_aside(path) as aside, aside.open("w", encoding="utf-8", newline="") as file:
            yield cls(file, model, top)

    def add(self, classified: ClassifiedFile) -> None:
        """Writes the row of a file."""
        prediction = classified.prediction
        cells = [as_cell(in_line(prediction.path or ""))]
        cells += self._classes(prediction)
        cells += [_KNOWN[prediction.known], prediction.warning, as_cell(in_line(prediction.reason))]
        self._writer.writerow(cells)

    def _classes(self, prediction: Prediction) -> list[str]:
        if prediction.reason:
            return [""] * (2 * self._top)
        probabilities = prediction.probabilities
        ranked = sorted(probabilities, key=probabilities.__getitem__, reverse=True)[: self._top]
        labels = [*ranked]
        if self._joins_labels:
            labels[0] = SEPARATOR.join(prediction.labels)
        return [
            cell
            for label, name in zip(labels, ranked, strict=True)
            for cell in (as_cell(label), f"{probabilities[name]:.6f}")
        ]
