"""Stages of fine-tuning: which groups of layers are trainable in each, and for how long."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import keras

from tlkit.errors import ArgumentError, as_tuple, check_count, check_positive
from tlkit.models.graph import parameters
from tlkit.models.group_choice import ALL, AS_IS
from tlkit.models.groups import layer_groups, resolve_group
from tlkit.models.trainable import has_user_flags, trainable_mask

MAX_STAGES = 4
RATE_FALL = 0.5
"""In a gradual plan each stage's rate is this fraction of the previous stage's."""


@dataclass(frozen=True)
class Stage:
    """One stage of fine-tuning.

    Args:
        unfreeze: The first trainable group, see `set_trainable`.
        epochs: Maximum number of passes over the training images; by default that of `fine_tune`.
        learning_rate: The peak rate of the head; by default that of `fine_tune`.

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
    """A stage with all defaults filled in.

    Attributes:
        unfreeze: The first trainable group.
        epochs: Maximum number of epochs.
        learning_rate: The peak rate; `None` for the schedule of the user's optimizer.
    """

    unfreeze: str | int
    epochs: int
    learning_rate: float | None


def gradual_plan(
    model: keras.Model, epochs: int, *, learning_rate: float | None = None
) -> tuple[Stage, ...]:
    """Returns stages that unfreeze a model from its output to its input.

    The first stage trains the head and the group before it, the last one the whole model, and there
    are at most four, evenly spaced over the groups. Epochs are divided evenly, with the remainder
    going to the last stages. A given rate is halved from stage to stage: the first layers, with the
    most general features, are unfrozen last and changed least.

    Args:
        model: A functional model.
        epochs: Total number of epochs.
        learning_rate: Rate of the first stage; if `None`, every stage has that of `fine_tune`.

    Raises:
        ArgumentError: `epochs` is not a positive integer, the rate is not positive, or the model
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
    """Returns the default of `unfreeze`.

    "as_is" if the user has set `trainable` flags; else all groups.
    """
    return AS_IS if has_user_flags(model) else ALL


def notes_on_flags(
    model: keras.Model, unfreeze: Sequence[str | int], *, is_given: bool
) -> list[str]:
    """Returns notes on whether `trainable` flags set by the user are respected, if there are any.

    Args:
        model: A functional model, before the training.
        unfreeze: The first trainable group of each stage.
        is_given: Whether the caller has specified it.
    """
    if not has_user_flags(model):
        return []
    sizes = [prod(variable.shape) for variable in parameters(model)]
    num_trainable = sum(
        size for size, does in zip(sizes, trainable_mask(model), strict=True) if does
    )
    flags = (
        f"explicitly set `trainable` flags ({num_trainable:,} of {sum(sizes):,} parameters "
        "trainable)"
    )
    if all(one == AS_IS for one in unfreeze):
        hint = "" if is_given else "; give `unfreeze` to choose groups instead"
        return [f"{flags} are respected{hint}"]
    if not num_trainable:
        frozen = "as a whole" if not model.trainable else "in all of its layers"
        return [
            f"the model was frozen {frozen} (trainable=False, set explicitly or before it was "
            "saved): `unfreeze` overrides this, and its groups are trainable afterwards"
        ]
    return [f"{flags} are overridden; unfreeze='as_is' respects them"]


def check_stages(model: keras.Model, stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """Returns the stages after checking that each unfreezes more than the one before it.

    Raises:
        ArgumentError: There are none, one is not a `Stage` or has an invalid value, or one does
            not unfreeze more than the one before it.
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
