"""Solving a head: computes the optimum of a solvable head and assigns it to its weights."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import keras
import numpy as np

from tlkit.data.class_weighting import ClassWeighting
from tlkit.distribution.strategies import workers_of
from tlkit.errors import DataError
from tlkit.evaluation.names import num_classes_of
from tlkit.models.groups import choose_trainable
from tlkit.models.heads import head_from_features, head_kind
from tlkit.models.kernel_head import (
    has_kernel_head,
    make_head_linear,
    replace_head,
    why_not_replaceable,
)
from tlkit.models.trainable import Flags
from tlkit.training.closed_form import MAX_FEATURES
from tlkit.training.criterion import plain_labels
from tlkit.training.features import MAX_BYTES_IN_MEMORY, Features
from tlkit.training.head_forms import LINEAR
from tlkit.training.head_solution import (
    HeadProblem,
    HeadSolution,
    as_array,
    solve_on_features,
)
from tlkit.training.labelled import LabelledFeatures
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
        weighting: How classes count.
        seed: Seed of the folds, and of shuffling and random layers.
    """

    head: keras.Model
    model: keras.Model
    train: Features
    held_out: Features | None
    form: str
    weighting: ClassWeighting
    seed: int

    @property
    def labels(self) -> np.ndarray:
        """The plain labels of the training images, `(n,)` or `(n, labels)`."""
        return plain_labels(self.train.labels, self.model)


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
            arrays = [as_array(str(error))]
    note, *weights = workers.from_chief(arrays)
    if not weights:
        undo()
        return SolvedHead(False, note.tobytes().decode())
    solution = HeadSolution.from_arrays(note, *weights)
    undo_last = _apply(solution, solvable.dense, model)

    def undo_all() -> None:
        undo_last()
        undo()

    return SolvedHead(True, solution.note, undo_all)


class _NotSolvedError(Exception):
    """The reason why a head was not solved; caught in this file."""


def _apply(
    solution: HeadSolution, dense: keras.layers.Dense, model: keras.Model
) -> Callable[[], None]:
    """Gives a head the weights of a solution, in new layers if need be; returns how to undo it."""
    if solution.kernel_map is not None:
        return replace_head(model, dense, solution.kernel_map, solution.kernel, solution.bias)
    variables = [dense.kernel] if dense.bias is None else [dense.kernel, dense.bias]
    before = [variable.numpy() for variable in variables]
    assign_all(variables, [solution.kernel, solution.bias][: len(variables)])
    return lambda: assign_all(variables, before)


def _solved_by_chief(solvable: SolvableHead, task: HeadTask) -> HeadSolution:
    """Returns the better one of the solutions that were asked for."""
    dense, model, train, held_out = solvable.dense, task.model, task.train, task.held_out
    rows = solvable.read_by_dense(train.load())
    if dense is None or not np.isfinite(rows).all():
        raise _NotSolvedError("the inputs of its Dense layer are not finite for every image")
    solution = solve_on_features(
        HeadProblem(
            LabelledFeatures(rows, task.labels, train.groups, train.weights),
            images=train.images,
            kind=head_kind(model),
            num_classes=num_classes_of(model),
            form=LINEAR if _why_not_closed_form(solvable, model) else task.form,
            weighting=task.weighting,
            seed=task.seed,
            use_bias=dense.use_bias,
            num_validation=len(held_out.keys) if held_out else 0,
            read_validation=partial(_validation_rows, solvable, task) if held_out else None,
        )
    )
    return _checked(solution, solvable, task)


def _validation_rows(solvable: SolvableHead, task: HeadTask) -> LabelledFeatures:
    if task.held_out is None:
        raise RuntimeError("there are no validation images")
    return LabelledFeatures(
        solvable.read_by_dense(task.held_out.load()),
        plain_labels(task.held_out.labels, task.model),
        weights=task.held_out.weights,
    )


def _checked(solution: HeadSolution, solvable: SolvableHead, task: HeadTask) -> HeadSolution:
    """Returns a solution as the Dense layer's weights, if the head then computes its logits.

    That is verified on images from all parts of the training set.
    """
    num_images = len(task.train.keys)
    some = np.unique(np.linspace(0, num_images - 1, _NUM_VERIFIED).astype(np.int64))
    features = task.train.read(some)
    logits = solution.logits(solvable.read_by_dense(features))
    if solution.kernel_map is None:
        kernel, bias = solvable.weights_for(solution.kernel, solution.bias)
        solution = replace(solution, kernel=kernel, bias=bias)
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


def _check_every_class_has_images(labels: np.ndarray, num_classes: int) -> None:
    if labels.ndim > 1:
        return
    absent = np.setdiff1d(np.arange(num_classes), labels)
    if len(absent):
        raise DataError(
            "`data` must contain training images of every class. Received: none of class "
            f"{absent[0]}. Add some, or build the model without this class."
        )
