"""Forgetting: accuracies on all tasks after each one, and measures computed from them."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tlkit.errors import ArgumentError, as_tuple, check_choice
from tlkit.utils.files import write_json
from tlkit.utils.formatting import percent
from tlkit.utils.text_repr import ShownAsText

DOMAIN_INCREMENTAL, CLASS_INCREMENTAL = "domain-incremental", "class-incremental"
SCENARIOS = {
    "task-incremental": "the task of each image is known, and only its classes are considered",
    DOMAIN_INCREMENTAL: "all tasks have the same outputs, and the task is unknown",
    CLASS_INCREMENTAL: "the classes of all tasks are considered, and the task is unknown",
}
CLASS_INCREMENTAL_NOTE = (
    "weight anchors alone are known to fail in class-incremental learning (Hsu et al. 2018, "
    "https://arxiv.org/abs/1810.12488, table 2): replay exemplars, or distil"
)


class ForgettingMatrix(ShownAsText):
    """Accuracy R[i, j] on task j after training task i; row 0 is before any training.

    In the formulas below tasks are numbered from 1, and T is their number. `record` adds a row
    after each training; measures use the rows recorded so far.

    Args:
        task_names: The names of the tasks in training order.
        scenario: "task-incremental", "domain-incremental" or "class-incremental"; the meaning of
            the figures depends on it.

    Raises:
        ArgumentError: There is no task, a name is repeated, or the scenario is unknown.

    Example:
        >>> import tlkit
        >>> matrix = tlkit.ForgettingMatrix(["cats", "dogs"], scenario="task-incremental")
        >>> matrix.record([0.5, 0.5])  # before any training
        >>> matrix.record([0.9, 0.6])  # after "cats"
        >>> matrix.record([0.8, 0.9])  # after "dogs"
        >>> round(matrix.average_accuracy, 3), round(matrix.forgetting, 3)
        (0.85, 0.1)

    Reference:
        Rows and transfer: Lopez-Paz and Ranzato (2017), https://arxiv.org/abs/1706.08840, section
        2. Forgetting and intransigence: Chaudhry et al. (2018), https://arxiv.org/abs/1801.10112,
        section 4. Scenarios: van de Ven and Tolias (2019), https://arxiv.org/abs/1904.07734.
    """

    _derived = ("task_names", "scenario", "accuracy")

    def __init__(self, task_names: Sequence[str], *, scenario: str) -> None:
        names = as_tuple(task_names)
        are_names = all(isinstance(name, str) for name in names)
        if not names or not are_names or len(set(names)) < len(names):
            raise ArgumentError(
                "`task_names` must be one or more distinct names. Received: "
                f"task_names={task_names!r}. Write for example task_names=['cats', 'dogs']."
            )
        check_choice("scenario", scenario, SCENARIOS)
        self.task_names, self.scenario = names, scenario
        self._rows: list[list[float]] = []

    @property
    def accuracy(self) -> np.ndarray:
        """The recorded rows of R, `(rows, T)`, 0...1."""
        return np.array(self._rows, np.float64).reshape(-1, len(self.task_names))

    @property
    def num_trained(self) -> int:
        """The number of tasks trained so far."""
        return max(len(self._rows) - 1, 0)

    def record(self, accuracies: Sequence[float]) -> None:
        """Adds the next row: accuracies on all tasks, before any training or after the next task.

        Raises:
            ArgumentError: Their number is not that of the tasks, one is not in 0...1, or all rows
                have been recorded.
        """
        row = [float(accuracy) for accuracy in accuracies]
        if len(row) != len(self.task_names) or not all(0 <= accuracy <= 1 for accuracy in row):
            raise ArgumentError(
                f"`accuracies` must be {len(self.task_names)} numbers from 0 to 1, one per task. "
                f"Received: accuracies={row!r}. Give one for each of "
                f"{', '.join(self.task_names)}."
            )
        if self.num_trained == len(self.task_names):
            raise ArgumentError(
                f"`accuracies` must not be recorded after the last task, {self.task_names[-1]!r}. "
                f"Received: another row after all {len(self._rows)}. Start a new matrix."
            )
        self._rows.append(row)

    @property
    def average_accuracy(self) -> float:
        """Mean of R[k, j] over the k tasks trained so far; the figure of a complete run at k = T.

        Lopez-Paz and Ranzato (2017), equation 2.
        """
        last, trained = self._last()
        return float(last[:trained].mean())

    @property
    def backward_transfer(self) -> float:
        """Mean of R[k, j] - R[j, j] over the tasks j < k; negative if tasks were forgotten.

        Lopez-Paz and Ranzato (2017), equation 3. NaN after a single task.
        """
        last, trained = self._last()
        return _mean(last[j] - self.accuracy[j + 1, j] for j in range(trained - 1))

    @property
    def forward_transfer(self) -> float:
        """Mean of R[j - 1, j] - R[0, j] over the tasks 2...k: accuracy gained before training j.

        Lopez-Paz and Ranzato (2017), equation 4, with row 0 as the untrained reference.
        """
        _, trained = self._last()
        return _mean(self.accuracy[j, j] - self.accuracy[0, j] for j in range(1, trained))

    @property
    def forgetting(self) -> float:
        """Mean over the tasks j < k of max over l in 1...k-1 of R[l, j], minus R[k, j].

        Chaudhry et al. (2018), equation 3: the best accuracy after any earlier task, also before
        task j was trained (but not row 0, before any training), minus the last accuracy; the task
        trained last is excluded. NaN after a single task.
        """
        last, trained = self._last()
        return _mean(self.accuracy[1:trained, j].max() - last[j] for j in range(trained - 1))

    @property
    def smallest_accuracy(self) -> float:
        """The lowest R[i, j] with i >= j: the lowest accuracy of any task after its training."""
        _, trained = self._last()
        return float(min(self.accuracy[j + 1 : trained + 1, j].min() for j in range(trained)))

    def intransigence(self, joint: Sequence[float]) -> float:
        """Mean over tasks of joint[j] - R[j, j]: the accuracy missed compared with joint training.

        Args:
            joint: Accuracy on each task of a model trained on all tasks together, 0...1.

        Reference:
            Chaudhry et al. (2018), equation 4, averaged over tasks (there for the last one only).
        """
        _, trained = self._last()
        if len(joint) != len(self.task_names):
            raise ArgumentError(
                f"`joint` must be {len(self.task_names)} accuracies, one per task. "
                f"Received: joint={list(joint)!r}. Give one for each of "
                f"{', '.join(self.task_names)}."
            )
        return _mean(joint[j] - self.accuracy[j + 1, j] for j in range(trained))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes JSON."""
        write_json(Path(path), self.as_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "ForgettingMatrix":
        """Reads a file that `save` wrote.

        Raises:
            ArgumentError: The file holds something else.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError) as error:
            raise ArgumentError(
                "`path` must be a file that ForgettingMatrix.save wrote. Received: "
                f"path={str(path)!r} ({type(error).__name__}: {error}). Give the path of such a "
                "file."
            ) from error

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "ForgettingMatrix":
        """Returns the matrix from the content of the JSON file."""
        matrix = cls(content["task_names"], scenario=content["scenario"])
        for row in content["accuracy"]:
            matrix.record(row)
        return matrix

    def __str__(self) -> str:
        lines = [f"{self.scenario}: {SCENARIOS[self.scenario]}"]
        width = max(len(name) for name in (*self.task_names, "before any"))
        for name, row in zip(("before any", *self.task_names), self._rows, strict=False):
            shown = "  ".join(f"{100 * accuracy:5.1f}" for accuracy in row)
            lines.append(f"  {name:{width}}  {shown}")
        if self.num_trained:
            lines.append(
                f"average accuracy {percent(self.average_accuracy)}, backward transfer "
                f"{100 * self.backward_transfer:+.1f}, forward transfer "
                f"{100 * self.forward_transfer:+.1f}, forgetting {100 * self.forgetting:.1f}, "
                f"smallest accuracy {percent(self.smallest_accuracy)}"
            )
        if self.scenario == CLASS_INCREMENTAL:
            lines.append(CLASS_INCREMENTAL_NOTE)
        return "\n".join(lines)

    def _last(self) -> tuple[np.ndarray, int]:
        if not self.num_trained:
            raise ArgumentError(
                "`record` must be called before any training and after at least one task. "
                f"Received: {len(self._rows)} rows. Record the missing ones first."
            )
        return self.accuracy[-1], self.num_trained


def _mean(values: Any) -> float:
    values = list(values)
    return float(np.mean(values)) if values else float("nan")
