"""Solving a head: computes the optimum of a solvable head and assigns it to its weights."""

from dataclasses import dataclass
from math import prod

import keras
import numpy as np

from tlkit.distribution.strategies import workers_of
from tlkit.errors import DataError
from tlkit.evaluation.names import num_classes_of
from tlkit.training.criterion import plain_labels
from tlkit.training.features import MAX_BYTES_IN_MEMORY, Features
from tlkit.training.labelled import LabelledFeatures
from tlkit.training.linear import LinearSolution, solve_linear
from tlkit.training.solvable import SolvableHead, is_solved, solvable_head

_NUM_VERIFIED = 4096
"""Maximum number of images on which the solved head is verified."""


@dataclass(frozen=True)
class SolvedHead:
    """The result of solving a head.

    Attributes:
        is_solved: Whether the weights are the optimum; otherwise they are unchanged.
        note: How the optimum was chosen, or why the head could not be solved.
    """

    is_solved: bool
    note: str


@dataclass(frozen=True)
class HeadTask:
    """A head and the features to train it on.

    Attributes:
        head: From features to outputs, its `trainable` flags set.
        model: The whole classifier.
        train: Features of the training images.
        held_out: Features of validation images, or `None`.
        class_weight: "balanced" or `None`.
        seed: Seed of the folds, and of shuffling and random layers.
    """

    head: keras.Model
    model: keras.Model
    train: Features
    held_out: Features | None
    class_weight: str | None
    seed: int

    @property
    def labels(self) -> np.ndarray:
        """The plain labels of the training images, `(n,)` or `(n, labels)`."""
        return plain_labels(self.train.labels, self.model)


def solve(task: HeadTask) -> SolvedHead:
    """Solves a head on the chief, if its logits are linear in one Dense layer.

    Raises:
        DataError: A class has no image.
    """
    model, train = task.model, task.train
    solvable = solvable_head(task.head, model)
    if solvable.dense is None:
        return SolvedHead(False, solvable.why_not)
    sizes = [train.store.row_shape] + (
        [solvable.before.output_shape[1:]] if solvable.before else []
    )
    if max(len(train.keys) * prod(shape) * 4 for shape in sizes) > MAX_BYTES_IN_MEMORY:
        return SolvedHead(
            False, f"its features need more than {MAX_BYTES_IN_MEMORY / 2**30:.2g} GiB of memory"
        )
    _check_every_class_has_images(task.labels, num_classes_of(model))
    workers = workers_of(model)
    own = _solved_by_chief(solvable, task) if workers.is_chief else []
    text, *weights = workers.from_chief(own)
    for variable, value in zip(_variables(solvable.dense), weights, strict=False):
        variable.assign(value)
    return SolvedHead(bool(weights), text.tobytes().decode())


def _solved_by_chief(solvable: SolvableHead, task: HeadTask) -> list[np.ndarray]:
    """Returns a note and the weights; only the note if the head does not match the solution."""
    dense, model, train, held_out = solvable.dense, task.model, task.train, task.held_out
    rows = solvable.read_by_dense(train.load())
    if dense is None or not np.isfinite(rows).all():
        return [_text("the inputs of its Dense layer are not finite for every image")]
    validation = None
    if held_out:
        validation = LabelledFeatures(
            solvable.read_by_dense(held_out.load()),
            plain_labels(held_out.labels, model),
            weights=held_out.weights,
        )
    solution = solve_linear(
        LabelledFeatures(rows, task.labels, train.groups, train.weights),
        num_units=model.output_shape[-1],
        validation=validation,
        class_weight=task.class_weight,
        use_bias=dense.use_bias,
        seed=task.seed,
    )
    kernel, bias = solvable.weights_for(solution.kernel, solution.bias)
    before = [variable.numpy() for variable in _variables(dense)]
    weights = [kernel, bias][: len(before)]
    for variable, value in zip(_variables(dense), weights, strict=True):
        variable.assign(value)
    if not _matches_solution(solvable, task, solution):
        for variable, value in zip(_variables(dense), before, strict=True):
            variable.assign(value)
        return [_text("with the solved weights its outputs differ from the solution's")]
    note = f"solved with C={solution.strength:.2g}, chosen by {solution.chosen_by}"
    if any(variable.regularizer is not None for variable in _variables(dense)):
        note += f"; the regularizer of {dense.name!r} is ignored, C replaces it"
    return [_text(note), *weights]


def _matches_solution(solvable: SolvableHead, task: HeadTask, solution: LinearSolution) -> bool:
    """Whether the head computes the solution on images from all parts of the training set."""
    num_images = len(task.train.keys)
    some = np.unique(np.linspace(0, num_images - 1, _NUM_VERIFIED).astype(np.int64))
    features = task.train.read(some)
    logits = solvable.read_by_dense(features) @ solution.kernel + solution.bias
    return is_solved(solvable, task.head, task.model, features=features, logits=logits)


def _variables(dense: keras.layers.Dense) -> list[keras.Variable]:
    return [dense.kernel] if dense.bias is None else [dense.kernel, dense.bias]


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
