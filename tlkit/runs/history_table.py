"""`history.csv`: the figures of each epoch of a run's training."""

import csv
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tlkit.utils.files import as_cell, from_cell

if TYPE_CHECKING:
    from tlkit.training.reports import TrainingReport

_KEYS = ("stage", "epoch")
_FIGURES = ("loss", "accuracy", "val_loss", "val_accuracy")


@dataclass(frozen=True)
class History:
    """The epochs of a training in order, over all stages.

    Attributes:
        stages: The stage of each epoch.
        epochs: The number of each epoch in its stage, from 1 on.
        figures: Keras's names ("loss", "val_accuracy", ...) and one value per epoch; NaN where it
            was not measured. Names without any value are left out.
    """

    stages: list[str]
    epochs: list[int]
    figures: dict[str, list[float]]


def history_table(training: "TrainingReport") -> str:
    r"""Returns the table; empty cells are figures that were not measured.

    Example:
        >>> from tlkit.runs.history_table import history_table
        >>> from tlkit.training.reports import TrainingReport
        >>> history_table(TrainingReport((), None, None, 0))
        'stage,epoch,loss,accuracy,val_loss,val_accuracy\n'
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, (*_KEYS, *_FIGURES), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for stage in training.stages:
        for epoch, values in enumerate(stage.history, start=1):
            writer.writerow({"stage": as_cell(stage.name), "epoch": epoch, **values})
    return text.getvalue()


def read_history_table(text: str) -> History:
    r"""Reads the output of `history_table`.

    Raises:
        KeyError: A column is missing.
        TypeError: A row is too short.
        ValueError: A cell is no number.

    Example:
        >>> from tlkit.runs.history_table import read_history_table
        >>> table = "stage,epoch,loss,accuracy,val_loss,val_accuracy\nfine-tune,1,0.5,,,\n"
        >>> read_history_table(table).figures
        {'loss': [0.5]}
    """
    reader = csv.DictReader(io.StringIO(text))
    for name in (*_KEYS, *_FIGURES):
        if name not in (reader.fieldnames or ()):
            raise KeyError(name)
    rows = list(reader)
    figures = {
        name: [float(row[name]) if row[name] != "" else math.nan for row in rows]
        for name in _FIGURES
        if any(row[name] != "" for row in rows)
    }
    stages = [from_cell(row["stage"]) for row in rows]
    return History(stages, [int(row["epoch"]) for row in rows], figures)
