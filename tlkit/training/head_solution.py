"""The solution of a head on features: linear, in closed form, or the better one."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from tlkit.data.class_weighting import ClassWeighting
from tlkit.models.kernel_head import KernelMap
from tlkit.training.closed_form import ClosedForm, ClosedFormTask, solve_closed_form
from tlkit.training.head_choice import HeadComparison, compare_heads
from tlkit.training.head_forms import CLOSED_FORM, LINEAR
from tlkit.training.labelled import LabelledFeatures
from tlkit.training.linear import (
    MIN_VALIDATION,
    LinearSolution,
    folds_of,
    solve_linear,
)

BY_LABEL_NOTE = (
    "no head in closed form was solved: it has one weight for each image, not for each label"
)


@dataclass(frozen=True, eq=False)
class HeadProblem:
    """Features to solve a head on, and how.

    Attributes:
        rows: The training rows; a linear solution standardises their features in place.
        images: The number of each row's image, `(n,)`; views of one image have the same.
        kind: The kind of head: "softmax", "binary" or "multi_label".
        num_classes: Number of classes; all have rows, except with several labels.
        form: "linear", "closed-form", or "auto" for the better one.
        weighting: How classes count.
        seed: Seed of the folds.
        use_bias: Whether a linear head has an intercept.
        num_validation: Number of validation rows.
        read_validation: Returns the validation rows, new arrays at each call; `None` without any.
    """

    rows: LabelledFeatures
    images: np.ndarray
    kind: str
    num_classes: int
    form: str
    weighting: ClassWeighting = field(default_factory=ClassWeighting)
    seed: int = 0
    use_bias: bool = True
    num_validation: int = 0
    read_validation: Callable[[], LabelledFeatures] | None = None

    @property
    def is_chosen_on_validation(self) -> bool:
        """Whether there are enough validation rows to choose on."""
        return self.read_validation is not None and self.num_validation >= MIN_VALIDATION


@dataclass(frozen=True, eq=False)
class HeadSolution:
    """The weights of a head's last layer; with `kernel_map`, of one in closed form.

    Attributes:
        note: How the solution was chosen.
        kernel: `(num_features or num_landmarks, num_outputs)`.
        bias: `(num_outputs,)`.
        kernel_map: The map from features to the last layer's inputs; `None` for a linear head.
    """

    note: str
    kernel: np.ndarray
    bias: np.ndarray
    kernel_map: KernelMap | None = None

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Returns the logits of images with the given features, `(n, num_outputs)`."""
        read = features if self.kernel_map is None else self.kernel_map.values(features)
        logits: np.ndarray = read @ self.kernel + self.bias
        return logits

    def with_note(self, note: str) -> "HeadSolution":
        """Returns the solution with another line in its note."""
        return replace(self, note=f"{self.note}; {note}")

    def to_arrays(self) -> list[np.ndarray]:
        """Returns the solution as arrays, to be sent to other workers."""
        arrays = [as_array(self.note), self.kernel, self.bias]
        if (some := self.kernel_map) is not None:
            arrays += [some.mean, some.scale, some.landmarks, np.array(some.sharpness)]
        return arrays

    @classmethod
    def from_arrays(cls, note: np.ndarray, *arrays: np.ndarray) -> "HeadSolution":
        """Reads what `to_arrays` returned."""
        kernel, bias, *rest = arrays
        kernel_map = KernelMap(rest[0], rest[1], rest[2], float(rest[3])) if rest else None
        return cls(note.tobytes().decode(), kernel, bias, kernel_map)


def as_array(note: str) -> np.ndarray:
    """Returns the bytes of a note as an array, to be sent to other workers."""
    return np.frombuffer(note.encode(), np.uint8)


def solve_on_features(problem: HeadProblem) -> HeadSolution:
    """Solves a head in the form that was asked for, or in the better one.

    Example:
        >>> import numpy as np
        >>> from tlkit.training.head_solution import HeadProblem, solve_on_features
        >>> from tlkit.training.labelled import LabelledFeatures
        >>> labels = np.arange(60) % 2
        >>> features = np.random.default_rng(0).normal(size=(60, 4)) + 5 * labels[:, np.newaxis]
        >>> rows = LabelledFeatures(features.astype("float32"), labels)
        >>> given = features.astype("float32")
        >>> solution = solve_on_features(HeadProblem(rows, np.arange(60), "softmax", 2, "auto"))
        >>> float(np.mean(solution.logits(given).argmax(axis=1) == labels))
        1.0
    """
    weighs_labels = problem.kind == "multi_label" and not problem.weighting.is_plain
    is_linear = problem.form == LINEAR or weighs_labels
    closed = None if is_linear else _solve_closed_form(problem)
    if closed is not None and problem.form == CLOSED_FORM:
        return _described(closed)
    validation = None if problem.read_validation is None else problem.read_validation()
    linear = solve_linear(  # standardises the rows in place
        problem.rows,
        num_units=1 if problem.kind == "binary" else problem.num_classes,
        validation=validation,
        weighting=problem.weighting,
        use_bias=problem.use_bias,
        seed=problem.seed,
        predicts_folds=closed is not None and not problem.is_chosen_on_validation,
    )
    solution = HeadSolution(
        f"solved with C={linear.strength:.2g}, chosen by {linear.chosen_by}",
        linear.kernel,
        linear.bias,
    )
    compared = None if closed is None else _compare(linear, closed, problem)
    if closed is None:
        is_skipped = weighs_labels and problem.form != LINEAR
        return solution.with_note(BY_LABEL_NOTE) if is_skipped else solution
    if compared is None:
        return _described(closed).with_note("a linear head was not compared: too few images")
    if not compared.prefers_linear:
        solution = _described(closed)
    return solution.with_note(str(compared))


def _solve_closed_form(problem: HeadProblem) -> ClosedForm:
    rows = problem.rows
    labels = rows.labels
    targets = labels if labels.ndim > 1 else np.eye(problem.num_classes)[labels]
    weights = _weights(rows, problem.weighting)
    _, candidates = np.unique(problem.images, return_index=True)
    return solve_closed_form(
        ClosedFormTask(
            rows,
            targets=targets.astype(np.float64),
            weights=weights / weights.mean(),
            folds=[test for _, test in folds_of(rows, problem.seed)],
            candidates=candidates,
            kind=problem.kind,
            seed=problem.seed,
        )
    )


def _described(closed: ClosedForm) -> HeadSolution:
    """Returns a solution in closed form with its note."""
    kernel_map = closed.kernel_map
    note = (
        f"solved in closed form: {len(kernel_map.landmarks):,} landmarks, sharpness "
        f"{kernel_map.sharpness:g}, penalty {closed.penalty:g}, chosen by {closed.chosen_by}"
    )
    return HeadSolution(note, closed.kernel, closed.bias, kernel_map)


def _compare(
    linear: LinearSolution, closed: ClosedForm, problem: HeadProblem
) -> HeadComparison | None:
    """Compares both heads on validation images if there are enough, else out of fold.

    `None` if there are neither.
    """
    if problem.read_validation is not None and problem.is_chosen_on_validation:
        rows = problem.read_validation()
        return compare_heads(
            rows.features @ linear.kernel + linear.bias,
            closed.logits(rows.features),
            replace(rows, weights=_weights(rows, problem.weighting)),
            kind=problem.kind,
            image_of=np.arange(len(rows)),
            images="validation images",
        )
    if linear.out_of_fold is None or not np.isfinite(closed.out_of_fold).any():
        return None
    rows = replace(problem.rows, features=linear.out_of_fold)
    return compare_heads(
        linear.out_of_fold,
        closed.out_of_fold,
        replace(rows, weights=_weights(rows, problem.weighting)),
        kind=problem.kind,
        image_of=problem.images,
        images="training images out of fold",
    )


def _weights(rows: LabelledFeatures, weighting: ClassWeighting) -> np.ndarray:
    """Returns the weight of each row, `(n,)`: its own, times that of its class."""
    own = np.ones(len(rows)) if rows.weights is None else rows.weights
    return own if weighting.is_plain else own * weighting.decision_weights(rows.labels)
