"""Plans of fine-tuning: which groups of layers train, for how long, one stage after the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import keras

from tlkit.errors import ArgumentError, as_tuple, check_count, check_positive
from tlkit.models.graph import parameters
from tlkit.models.group_choice import AS_IS
from tlkit.models.groups import layer_groups, resolve_group
from tlkit.models.trainable import are_set_by_hand, trains

DEFAULT_GROUPS = 3
MAX_STAGES = 4
RATE_FALL = 0.5
"""In a gradual plan each stage's rate is this share of the one before it."""


@dataclass(frozen=True)
class Stage:
    """One stage of fine-tuning.

    Args:
        unfreeze: The first group that trains, see `set_trainable`.
        epochs: Passes over the training images at most; `fine_tune`'s own by default.
        learning_rate: The head's highest rate; `fine_tune`'s own by default.

    Example:
        >>> import tlkit
        >>> tlkit.Stage("conv5", epochs=5, learning_rate=1e-4)
        Stage(unfreeze='conv5', epochs=5, learning_rate=0.0001)
    """

    unfreeze: str | int
    epochs: int | None = None
    learning_rate: float | None = None


@dataclass(frozen=True)
class PlannedStage:
    """A stage whose values are all settled."""

    unfreeze: str | int
    epochs: int
    learning_rate: float


def gradual_plan(
    model: keras.Model, epochs: int, *, learning_rate: float | None = None
) -> tuple[Stage, ...]:
    """Returns stages that unfreeze a model from its output to its input.

    The first stage trains the head and the group before it, the last one everything, and there are
    at most four, evenly spaced over the groups. Epochs are shared out evenly, what is left over
    going to the last stages. Rates are halved from stage to stage where one is given: the layers
    that know most about images in general come last and move least.

    Args:
        model: A functional model.
        epochs: Of all stages together.
        learning_rate: Of the first stage; where it is left out, every stage takes `fine_tune`'s.

    Raises:
        ArgumentError: `epochs` is no positive whole number, the rate is not positive, or the model
            cannot be divided into groups.

    Example:
        >>> import tlkit
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> [(stage.unfreeze, stage.epochs) for stage in tlkit.gradual_plan(model, 7)]
        [('stage3', 2), ('stage2', 2), ('stage1', 3)]

    Reference:
        Gradual unfreezing: Howard and Ruder (2018), section 3.3, https://arxiv.org/abs/1801.06146
        (there one group an epoch).
    """
    check_count("epochs", epochs)
    if learning_rate is not None:
        check_positive("learning_rate", learning_rate)
    names = [group.name for group in layer_groups(model)]
    backwards = names[-2::-1] or names
    num_stages = min(len(backwards), MAX_STAGES, epochs)
    chosen = [
        backwards[-1 - (num_stages - 1 - i) * (len(backwards) - 1) // max(num_stages - 1, 1)]
        for i in range(num_stages)
    ]
    return tuple(
        Stage(
            unfreeze=name,
            epochs=(epochs + i) // num_stages,
            learning_rate=None if learning_rate is None else learning_rate * RATE_FALL**i,
        )
        for i, name in enumerate(chosen)
    )


def default_unfreeze(model: keras.Model) -> str | int:
    """Returns what trains where nothing is named.

    What the layers' `trainable` flags say where someone has set them, "as_is"; else the head and
    the two groups before it.
    """
    if are_set_by_hand(model):
        return AS_IS
    return min(DEFAULT_GROUPS, len(layer_groups(model)))


def notes_on_flags(
    model: keras.Model, unfreeze: Sequence[str | int], *, is_given: bool
) -> list[str]:
    """Says what becomes of `trainable` flags that were set by hand, where there are any.

    Args:
        model: A functional model, before anything is done to it.
        unfreeze: What each stage trains.
        is_given: Whether the caller has named it.
    """
    if not are_set_by_hand(model):
        return []
    sizes = [prod(variable.shape) for variable in parameters(model)]
    free = sum(size for size, does in zip(sizes, trains(model), strict=True) if does)
    said = f"the `trainable` flags that were set by hand ({free:,} of {sum(sizes):,} parameters)"
    if all(one == AS_IS for one in unfreeze):
        why = "" if is_given else "; name `unfreeze` to choose groups instead"
        return [f"what trains is what {said} say{why}"]
    if not free:
        frozen = "as a whole" if not model.trainable else "in all of its layers"
        return [
            f"the model came frozen {frozen} (trainable=False, set by hand or before it was "
            "saved): `unfreeze` overrides that, and what it names is trainable afterwards"
        ]
    return [f"{said} are overridden: unfreeze='as_is' keeps to them"]


def check_stages(model: keras.Model, stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """Returns the stages, each of which unfreezes more than the one before it.

    Raises:
        ArgumentError: There is none, one is no `Stage` or has a wrong value, or one unfreezes no
            more than the one before it.
    """
    stages = as_tuple(stages)
    if not stages or not all(isinstance(stage, Stage) for stage in stages):
        raise ArgumentError(
            f"`stages` must be one or more tlkit.Stage. Received: stages={list(stages)!r}. "
            'Write stages=[tlkit.Stage("head", epochs=5), tlkit.Stage("all", epochs=10)].'
        )
    names = [group.name for group in layer_groups(model)]
    firsts = [resolve_group(model, stage.unfreeze) for stage in stages]
    for stage in stages:
        if stage.epochs is not None:
            check_count("epochs", stage.epochs)
        if stage.learning_rate is not None:
            check_positive("learning_rate", stage.learning_rate)
    for before, first in pairwise(firsts):
        if first >= before:
            what = "the same again" if first == before else "fewer groups"
            raise ArgumentError(
                "`stages` must each unfreeze more groups than the one before. Received: "
                f"{names[first]!r} after {names[before]!r}, which is {what}. "
                f"Order them from the output to the input: {', '.join(reversed(names))}."
            )
    return stages
