"""The optimum of a head that can be solved, put into its weights."""

from dataclasses import dataclass
from math import prod

import keras
import numpy as np

from tlkit.distribution.strategies import strategy_of
from tlkit.distribution.workers import Workers
from tlkit.errors import DataError
from tlkit.evaluation.names import num_classes_of
from tlkit.training.criterion import plain_labels
from tlkit.training.features import MAX_BYTES_IN_MEMORY, Features
from tlkit.training.labelled import LabelledFeatures
from tlkit.training.linear import LinearSolution, solve_linear
from tlkit.training.solvable import SolvableHead, is_solved, solvable_head

_NUM_PROVEN = 4096
"""Images on which the solved head must give what was solved for."""


@dataclass(frozen=True)
class SolvedHead:
    """What came of solving a head.

    Attributes:
        is_solved: Whether its weights are the optimum now; else they are as they were.
        note: How they were found, or why they were not, in words.
    """

    is_solved: bool
    note: str


def solve_head(
    head: keras.Model,
    model: keras.Model,
    train: Features,
    held_out: Features | None,
    *,
    class_weight: str | None,
    seed: int,
) -> SolvedHead:
    """Solves a head, on the chief, where its logits are linear in one Dense layer.

    Args:
        head: From features to outputs; what trains is set.
        model: The whole classifier.
        train: Features to solve on.
        held_out: Those of validation images, or `None`.
        class_weight: "balanced" or `None`.
        seed: Of folds.

    Raises:
        DataError: A class has no image.
    """
    found = solvable_head(head, model)
    if found.dense is None:
        return SolvedHead(False, found.why_not)
    sizes = [train.store.row_shape] + ([found.before.output_shape[1:]] if found.before else [])
    if max(len(train.keys) * prod(shape) * 4 for shape in sizes) > MAX_BYTES_IN_MEMORY:
        return SolvedHead(
            False, f"its features take more than the {MAX_BYTES_IN_MEMORY / 2**30:.2g} GiB"
        )
    labels = plain_labels(train.labels, model)
    _check_every_class_is_there(labels, num_classes_of(model))
    workers = Workers(strategy_of(model))
    own: list[np.ndarray] = []
    if workers.is_chief:
        own = _solved_by_chief(
            found, head, model, train, held_out, class_weight=class_weight, seed=seed
        )
    text, *weights = workers.from_chief(own)
    for variable, value in zip(_variables(found.dense), weights, strict=False):
        variable.assign(value)
    return SolvedHead(bool(weights), text.tobytes().decode())


def _solved_by_chief(
    found: SolvableHead,
    head: keras.Model,
    model: keras.Model,
    train: Features,
    held_out: Features | None,
    *,
    class_weight: str | None,
    seed: int,
) -> list[np.ndarray]:
    """Returns a note and the weights; the note alone where the head does not bear them out."""
    dense = found.dense
    rows = found.read_by_dense(train.load())
    if dense is None or not np.isfinite(rows).all():
        return [_text("what its Dense layer reads is not finite for every image")]
    validation = None
    if held_out:
        validation = LabelledFeatures(
            found.read_by_dense(held_out.load()),
            plain_labels(held_out.labels, model),
            weights=held_out.weights,
        )
    solution = solve_linear(
        LabelledFeatures(rows, plain_labels(train.labels, model), train.groups, train.weights),
        num_units=model.output_shape[-1],
        validation=validation,
        class_weight=class_weight,
        use_bias=dense.use_bias,
        seed=seed,
    )
    kernel, bias = found.weights_for(solution.kernel, solution.bias)
    before = [variable.numpy() for variable in _variables(dense)]
    weights = [kernel, bias][: len(before)]
    for variable, value in zip(_variables(dense), weights, strict=True):
        variable.assign(value)
    if not _is_borne_out(found, head, model, train, solution):
        for variable, value in zip(_variables(dense), before, strict=True):
            variable.assign(value)
        return [_text("with solved weights it does not give what was solved for")]
    note = f"solved with C={solution.strength:.2g}, chosen by {solution.chosen_by}"
    if any(variable.regularizer is not None for variable in _variables(dense)):
        note += f"; the regularizer of {dense.name!r} is left out, C stands in its place"
    return [_text(note), *weights]


def _is_borne_out(
    found: SolvableHead,
    head: keras.Model,
    model: keras.Model,
    train: Features,
    solution: LinearSolution,
) -> bool:
    """Whether the head gives, on images from all over the training set, what was solved for."""
    some = np.unique(np.linspace(0, len(train.keys) - 1, _NUM_PROVEN).astype(np.int64))
    features = train.read(some)
    logits = found.read_by_dense(features) @ solution.kernel + solution.bias
    return is_solved(found, head, model, features=features, logits=logits)


def _variables(dense: keras.layers.Dense) -> list[keras.Variable]:
    return [dense.kernel] if dense.bias is None else [dense.kernel, dense.bias]


def _text(note: str) -> np.ndarray:
    return np.frombuffer(note.encode(), np.uint8)


def _check_every_class_is_there(labels: np.ndarray, num_classes: int) -> None:
    if labels.ndim > 1:
        return
    absent = np.setdiff1d(np.arange(num_classes), labels)
    if len(absent):
        raise DataError(
            "`data` must hold images of every class to train on. Received: none of class "
            f"{absent[0]}. Add some, or build the model without it."
        )
