"""Solving a head: computes the optimum of a solvable head and assigns it to its weights."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

import keras
import numpy as np

from tlkit.distribution.strategies import workers_of
from tlkit.errors import DataError
from tlkit.evaluation.names import num_classes_of
from tlkit.models.groups import choose_trainable
from tlkit.models.heads import head_from_features, head_kind
from tlkit.models.kernel_head import (
    KernelMap,
    has_kernel_head,
    make_head_linear,
    replace_head,
    why_not_replaceable,
)
from tlkit.models.trainable import Flags
from tlkit.training.closed_form import (
    MAX_FEATURES,
    ClosedForm,
    ClosedFormTask,
    solve_closed_form,
)
from tlkit.training.criterion import plain_labels
from tlkit.training.features import MAX_BYTES_IN_MEMORY, Features
from tlkit.training.head_choice import HeadComparison, compare_heads
from tlkit.training.head_forms import CLOSED_FORM, LINEAR
from tlkit.training.labelled import LabelledFeatures
from tlkit.training.linear import (
    MIN_VALIDATION,
    LinearSolution,
    balanced_weights,
    folds_of,
    solve_linear,
)
from tlkit.training.resume import assign_all
from tlkit.training.solvable import SolvableHead, is_solved, solvable_head

_NUM_VERIFIED = 4096
"""Maximum number of images on which the solved head is verified."""


def _nothing() -> None:
    """Undoes nothing."""


@dataclass(frozen=True)
class SolvedHead:
    """The result of solving a head.

    Attributes:
        is_solved: Whether the weights are the optimum; otherwise they are unchanged.
        note: How the optimum was chosen, or why the head could not be solved.
        undo: Restores the layers of the head, if they were replaced.
    """

    is_solved: bool
    note: str
    undo: Callable[[], None] = _nothing


@dataclass(frozen=True)
class HeadTask:
    """A head and the features to train it on.

    Attributes:
        head: From features to outputs, its `trainable` flags set.
        model: The whole classifier.
        train: Features of the training images.
        held_out: Features of validation images, or `None`.
        form: "linear", "closed-form", or "auto" for the better one.
        class_weight: "balanced" or `None`.
        seed: Seed of the folds, and of shuffling and random layers.
    """

    head: keras.Model
    model: keras.Model
    train: Features
    held_out: Features | None
    form: str
    class_weight: str | None
    seed: int

    @property
    def labels(self) -> np.ndarray:
        """The plain labels of the training images, `(n,)` or `(n, labels)`."""
        return plain_labels(self.train.labels, self.model)


@dataclass(frozen=True, eq=False)
class _Solution:
    """The weights of a head's last layer; with `kernel_map`, of one in closed form."""

    note: str
    kernel: np.ndarray
    bias: np.ndarray
    kernel_map: KernelMap | None = None

    def to_arrays(self) -> list[np.ndarray]:
        """Returns the solution as arrays, to be sent to other workers."""
        arrays = [_text(self.note), self.kernel, self.bias]
        if (some := self.kernel_map) is not None:
            arrays += [some.mean, some.scale, some.landmarks, np.array(some.sharpness)]
        return arrays

    @classmethod
    def from_arrays(cls, note: np.ndarray, *arrays: np.ndarray) -> "_Solution":
        """Reads what `to_arrays` returned."""
        kernel, bias, *rest = arrays
        kernel_map = KernelMap(rest[0], rest[1], rest[2], float(rest[3])) if rest else None
        return cls(note.tobytes().decode(), kernel, bias, kernel_map)

    def with_note(self, note: str) -> "_Solution":
        """Returns the solution with another line in its note."""
        return replace(self, note=f"{self.note}; {note}")


def why_not_closed_form(model: keras.Model) -> str:
    """Returns why a model cannot get a closed-form head, else ""; the model is unchanged."""
    flags = Flags.of(model)
    try:
        choose_trainable(model, "head")
        return _why_not_closed_form(solvable_head(head_from_features(model), model), model)
    finally:
        flags.restore()


def _why_not_closed_form(solvable: SolvableHead, model: keras.Model) -> str:
    if solvable.dense is None:
        return solvable.why_not
    if solvable.slope is not None:
        return f"layer {solvable.dense.name!r} is followed by other layers than an activation"
    if (num_features := solvable.dense.kernel.shape[0]) > MAX_FEATURES:
        return f"layer {solvable.dense.name!r} reads {num_features:,} features"
    return why_not_replaceable(model, solvable.dense)


def solve(task: HeadTask) -> SolvedHead:
    """Solves a head on the chief, if its logits are linear in one Dense layer.

    A head in closed form is replaced by a linear one first, from whose features both are solved.

    Raises:
        DataError: A class has no image.
    """
    model, train = task.model, task.train
    solvable = solvable_head(task.head, model)
    undo = _nothing
    if solvable.dense is not None and has_kernel_head(model):
        undo = make_head_linear(model)
        choose_trainable(model, "head")
        task = replace(task, head=head_from_features(model))
        solvable = solvable_head(task.head, model)
    if solvable.dense is None:
        return SolvedHead(False, solvable.why_not)
    sizes = [train.store.row_shape] + (
        [solvable.before.output_shape[1:]] if solvable.before else []
    )
    if max(len(train.keys) * prod(shape) * 4 for shape in sizes) > MAX_BYTES_IN_MEMORY:
        undo()
        return SolvedHead(
            False, f"its features need more than {MAX_BYTES_IN_MEMORY / 2**30:.2g} GiB of memory"
        )
    _check_every_class_has_images(task.labels, num_classes_of(model))
    workers = workers_of(model)
    arrays: list[np.ndarray] = []
    if workers.is_chief:
        try:
            arrays = _solved_by_chief(solvable, task).to_arrays()
        except _NotSolvedError as error:
            arrays = [_text(str(error))]
    note, *weights = workers.from_chief(arrays)
    if not weights:
        undo()
        return SolvedHead(False, note.tobytes().decode())
    solution = _Solution.from_arrays(note, *weights)
    undo_last = _apply(solution, solvable.dense, model)

    def undo_all() -> None:
        undo_last()
        undo()

    return SolvedHead(True, solution.note, undo_all)


class _NotSolvedError(Exception):
    """The reason why a head was not solved; caught in this file."""


def _apply(
    solution: _Solution, dense: keras.layers.Dense, model: keras.Model
) -> Callable[[], None]:
    """Gives a head the weights of a solution, in new layers if need be; returns how to undo it."""
    if solution.kernel_map is not None:
        return replace_head(model, dense, solution.kernel_map, solution.kernel, solution.bias)
    variables = [dense.kernel] if dense.bias is None else [dense.kernel, dense.bias]
    before = [variable.numpy() for variable in variables]
    assign_all(variables, [solution.kernel, solution.bias][: len(variables)])
    return lambda: assign_all(variables, before)


def _solved_by_chief(solvable: SolvableHead, task: HeadTask) -> _Solution:
    """Returns the better one of the solutions that were asked for."""
    dense, model, train = solvable.dense, task.model, task.train
    rows = solvable.read_by_dense(train.load())
    if dense is None or not np.isfinite(rows).all():
        raise _NotSolvedError("the inputs of its Dense layer are not finite for every image")
    labelled = LabelledFeatures(rows, task.labels, train.groups, train.weights)
    closed = None
    if task.form != LINEAR and not _why_not_closed_form(solvable, model):
        closed = _solve_closed_form(labelled, task)
    if closed is not None and task.form == CLOSED_FORM:
        return _checked(_described(closed), solvable, task, closed.logits)
    held_out = task.held_out
    in_validation = bool(held_out and len(held_out.keys) >= MIN_VALIDATION)
    linear = solve_linear(  # standardises the rows in place
        labelled,
        num_units=model.output_shape[-1],
        validation=_validation_rows(solvable, task) if held_out else None,
        class_weight=task.class_weight,
        use_bias=dense.use_bias,
        seed=task.seed,
        predicts_folds=closed is not None and not in_validation,
    )
    kernel, bias = solvable.weights_for(linear.kernel, linear.bias)
    solution = _Solution(
        f"solved with C={linear.strength:.2g}, chosen by {linear.chosen_by}", kernel, bias
    )
    if closed is not None:
        compared = _compare(linear, closed, solvable, task, in_validation=in_validation)
        if compared is not None and not compared.prefers_linear:
            solution = _described(closed)
            return _checked(solution.with_note(str(compared)), solvable, task, closed.logits)
        solution = solution if compared is None else solution.with_note(str(compared))
    return _checked(
        solution, solvable, task, lambda features: features @ linear.kernel + linear.bias
    )


def _solve_closed_form(labelled: LabelledFeatures, task: HeadTask) -> ClosedForm:
    kind, labels = head_kind(task.model), task.labels
    targets = labels if labels.ndim > 1 else np.eye(num_classes_of(task.model))[labels]
    weights = _weights(labelled, task.class_weight)
    folds = [test for _, test in folds_of(labelled, task.seed)]
    _, candidates = np.unique(task.train.images, return_index=True)
    return solve_closed_form(
        ClosedFormTask(
            labelled,
            targets=targets.astype(np.float64),
            weights=weights / weights.mean(),
            folds=folds,
            candidates=candidates,
            kind=kind,
            seed=task.seed,
        )
    )


def _described(closed: ClosedForm) -> _Solution:
    """Returns a solution in closed form with its note."""
    kernel_map = closed.kernel_map
    note = (
        f"solved in closed form: {len(kernel_map.landmarks):,} landmarks, sharpness "
        f"{kernel_map.sharpness:g}, penalty {closed.penalty:g}, chosen by {closed.chosen_by}"
    )
    return _Solution(note, closed.kernel, closed.bias, kernel_map)


def _compare(
    linear: LinearSolution,
    closed: ClosedForm,
    solvable: SolvableHead,
    task: HeadTask,
    *,
    in_validation: bool,
) -> HeadComparison | None:
    """Compares both heads on validation images if there are enough, else out of fold.

    `None` if there are neither.
    """
    kind = head_kind(task.model)
    if in_validation:
        rows = _validation_rows(solvable, task)
        return compare_heads(
            rows.features @ linear.kernel + linear.bias,
            closed.logits(rows.features),
            replace(rows, weights=_weights(rows, task.class_weight)),
            kind=kind,
            image_of=np.arange(len(rows)),
            images="validation images",
        )
    if linear.out_of_fold is None or not np.isfinite(closed.out_of_fold).any():
        return None
    rows = LabelledFeatures(linear.out_of_fold, task.labels, weights=task.train.weights)
    return compare_heads(
        linear.out_of_fold,
        closed.out_of_fold,
        replace(rows, weights=_weights(rows, task.class_weight)),
        kind=kind,
        image_of=task.train.images,
        images="training images out of fold",
    )


def _weights(rows: LabelledFeatures, class_weight: str | None) -> np.ndarray:
    """Returns the weight of each row, `(n,)`: its own, times that of its class."""
    own = np.ones(len(rows)) if rows.weights is None else rows.weights
    return own if class_weight is None else own * balanced_weights(rows.labels)


def _validation_rows(solvable: SolvableHead, task: HeadTask) -> LabelledFeatures:
    if task.held_out is None:
        raise RuntimeError("there are no validation images")
    return LabelledFeatures(
        solvable.read_by_dense(task.held_out.load()),
        plain_labels(task.held_out.labels, task.model),
        weights=task.held_out.weights,
    )


def _checked(
    solution: _Solution,
    solvable: SolvableHead,
    task: HeadTask,
    logits_of: Callable[[np.ndarray], np.ndarray],
) -> _Solution:
    """Returns a solution if the head computes it, on images from all parts of the training set."""
    num_images = len(task.train.keys)
    some = np.unique(np.linspace(0, num_images - 1, _NUM_VERIFIED).astype(np.int64))
    features = task.train.read(some)
    logits = logits_of(solvable.read_by_dense(features))
    if solvable.dense is None:
        raise RuntimeError("a head without a Dense layer was solved")
    dense = solvable.dense
    if any(variable.regularizer is not None for variable in dense.weights):
        replaces = "C replaces it" if solution.kernel_map is None else "the penalty replaces it"
        solution = solution.with_note(f"the regularizer of {dense.name!r} is ignored, {replaces}")
    undo = _apply(solution, dense, task.model)
    try:
        head = head_from_features(task.model)
        is_same = is_solved(solvable, head, task.model, features=features, logits=logits)
    finally:
        undo()
    if not is_same:
        raise _NotSolvedError("with the solved weights its outputs differ from the solution's")
    return solution


def _text(note: str) -> np.ndarray:
    return np.frombuffer(note.encode(), np.uint8)


def _check_every_class_has_images(labels: np.ndarray, num_classes: int) -> None:
    if labels.ndim > 1:
        return
    absent = np.setdiff1d(np.arange(num_classes), labels)
    if len(absent):
        raise DataError(
            "`data` must contain training images of every class. Received: none of class "
            f"{absent[0]}. Add some, or build the model without this class."
        )
