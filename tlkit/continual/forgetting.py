"""What a network forgot: accuracies on all tasks after each, and the measures drawn from them."""

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
    "task-incremental": "the task of each image is told, and only its classes are in question",
    DOMAIN_INCREMENTAL: "all tasks have the same outputs, and the task is not told",
    CLASS_INCREMENTAL: "classes of all tasks are in question, and the task is not told",
}
CLASS_INCREMENTAL_NOTE = (
    "weight anchors alone are known to fail where classes of all tasks are told apart (Hsu et al. "
    "2018, https://arxiv.org/abs/1810.12488, table 2): replay examples, or distil"
)


class ForgettingMatrix(ShownAsText):
    """Accuracy R[i, j] on task j after training task i; row 0 is before any.

    Tasks count from 1 in the formulas below, and T is their number. Rows are added by `record` as
    training goes on; measures use the rows that are there.

    Args:
        task_names: In the order in which they are trained.
        scenario: "task-incremental", "domain-incremental" or "class-incremental": what the figures
            mean depends on it.

    Raises:
        ArgumentError: There is no task, a name comes twice, or the scenario is unknown.

    Example:
        >>> import tlkit
        >>> matrix = tlkit.ForgettingMatrix(["cats", "dogs"], scenario="task-incremental")
        >>> matrix.record([0.5, 0.5])  # before any
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
                "`task_names` must be one or more names, each once. "
                f"Received: task_names={task_names!r}. Write task_names=['cats', 'dogs'], say."
            )
        check_choice("scenario", scenario, SCENARIOS)
        self.task_names, self.scenario = names, scenario
        self._rows: list[list[float]] = []

    @property
    def accuracy(self) -> np.ndarray:
        """R as far as it is known, `(rows, T)`, 0...1."""
        return np.array(self._rows, np.float64).reshape(-1, len(self.task_names))

    @property
    def num_trained(self) -> int:
        """How many tasks have been trained."""
        return max(len(self._rows) - 1, 0)

    def record(self, accuracies: Sequence[float]) -> None:
        """Adds the next row: accuracies on all tasks, before any or after the next one.

        Raises:
            ArgumentError: There are not as many as tasks, one is not in 0...1, or all rows are
                there.
        """
        row = [float(accuracy) for accuracy in accuracies]
        if len(row) != len(self.task_names) or not all(0 <= accuracy <= 1 for accuracy in row):
            raise ArgumentError(
                f"`accuracies` must be {len(self.task_names)} numbers from 0 to 1, one per task. "
                f"Received: accuracies={row!r}."
            )
        if self.num_trained == len(self.task_names):
            raise ArgumentError(
                f"`accuracies` must not be recorded after the last task, "
                f"{self.task_names[-1]!r}: all {len(self._rows)} rows are there."
            )
        self._rows.append(row)

    @property
    def average_accuracy(self) -> float:
        """Mean of R[k, j] over the k tasks trained so far, the figure of a whole run at k = T.

        Lopez-Paz and Ranzato (2017), equation 2.
        """
        last, trained = self._last()
        return float(last[:trained].mean())

    @property
    def backward_transfer(self) -> float:
        """Mean of R[k, j] - R[j, j] over the tasks j < k; negative where tasks were forgotten.

        Lopez-Paz and Ranzato (2017), equation 3. NaN after a single task.
        """
        last, trained = self._last()
        return _mean(last[j] - self.accuracy[j + 1, j] for j in range(trained - 1))

    @property
    def forward_transfer(self) -> float:
        """Mean of R[j - 1, j] - R[0, j] over the tasks 2...k: what was known before its training.

        Lopez-Paz and Ranzato (2017), equation 4, with row 0 as the untrained reference.
        """
        _, trained = self._last()
        return _mean(self.accuracy[j, j] - self.accuracy[0, j] for j in range(1, trained))

    @property
    def forgetting(self) -> float:
        """Mean over the tasks j < k of max over l in 1...k-1 of R[l, j], minus R[k, j].

        Chaudhry et al. (2018), equation 3: the best after any earlier task, those before task j
        was trained too (but not row 0, before any), minus the last; never counted for the task
        trained last. NaN after a single task.
        """
        last, trained = self._last()
        return _mean(self.accuracy[1:trained, j].max() - last[j] for j in range(trained - 1))

    @property
    def smallest_accuracy(self) -> float:
        """The lowest R[i, j] with i >= j: how low any task fell once it had been trained."""
        _, trained = self._last()
        return float(min(self.accuracy[j + 1 : trained + 1, j].min() for j in range(trained)))

    def intransigence(self, joint: Sequence[float]) -> float:
        """Mean over tasks of joint[j] - R[j, j]: what was not learned that could have been.

        Args:
            joint: Accuracy on each task of a model trained on all tasks together, 0...1.

        Reference:
            Chaudhry et al. (2018), equation 4, averaged over tasks (there for the last alone).
        """
        _, trained = self._last()
        if len(joint) != len(self.task_names):
            raise ArgumentError(
                f"`joint` must be {len(self.task_names)} accuracies, one per task. "
                f"Received: joint={list(joint)!r}."
            )
        return _mean(joint[j] - self.accuracy[j + 1, j] for j in range(trained))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes JSON."""
        write_json(Path(path), self.as_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "ForgettingMatrix":
        """Reads what `save` wrote.

        Raises:
            ArgumentError: The file holds something else.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError) as error:
            raise ArgumentError(
                "`path` must be a file that ForgettingMatrix.save wrote. "
                f"Received: path={str(path)!r} ({type(error).__name__}: {error})."
            ) from error

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "ForgettingMatrix":
        """Makes it again of what stands in the JSON file."""
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
                "`record` must have been called before any task and after one at least. "
                f"Received: {len(self._rows)} rows."
            )
        return self.accuracy[-1], self.num_trained


def _mean(values: Any) -> float:
    values = list(values)
    return float(np.mean(values)) if values else float("nan")
