"""The arguments of a training as plain values that can be stored and compared."""

import dataclasses
from dataclasses import dataclass

import keras

from tlkit.data.settings import STRETCH
from tlkit.models.graph import parameters
from tlkit.models.group_choice import AS_IS
from tlkit.models.signature import signature
from tlkit.models.trainable import trainable_mask
from tlkit.models.variable_names import variable_names
from tlkit.training.sources import Source, steps_in_epoch
from tlkit.training.stages import PlannedStage
from tlkit.training.step import StepHook

DEFAULT_AUGMENTATION = "default"

# Chosen on validation images, see benchmarks/README.md
DEFAULT_LEARNING_RATE = 5e-4
DEFAULT_WEIGHT_DECAY = 0.1
DEFAULT_LABEL_SMOOTHING = 0.1

_PLAIN_REGULARIZERS = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)


@dataclass(frozen=True)
class Recipe:
    """The arguments of `fine_tune` that apply to all stages and are plain values."""

    learning_rate: float = DEFAULT_LEARNING_RATE
    layer_decay: float = 1.0
    schedule: str = "cosine"
    weight_decay: float = DEFAULT_WEIGHT_DECAY
    batch_norm: str = "frozen"
    augment: str = DEFAULT_AUGMENTATION
    views: int | None = None
    label_smoothing: float = DEFAULT_LABEL_SMOOTHING
    class_weight: str | None = None
    patience: int | None = None
    precision: str = "auto"
    seed: int = 0
    solve_head: bool | str = "auto"


@dataclass(frozen=True)
class FineTuning:
    """The arguments of a call of `fine_tune`, checked and resolved.

    Attributes:
        recipe: The arguments that are plain values.
        source: Training and validation images.
        plan: The stages.
        loss: The user's loss; `None` for the one that fits the head.
        metrics: The user's metrics.
        callbacks: The user's callbacks.
        hooks: The constraints' hooks in each step.
        notes: Notes on the arguments, for the report.
    """

    recipe: Recipe
    source: Source
    plan: tuple[PlannedStage, ...]
    loss: keras.losses.Loss | None
    metrics: tuple[keras.metrics.Metric, ...]
    callbacks: tuple[keras.callbacks.Callback, ...]
    hooks: tuple[StepHook, ...]
    notes: tuple[str, ...]


def identity_of(model: keras.Model, tuning: FineTuning) -> dict[str, object]:
    """Returns the values that identify a training, so that no other one is resumed by mistake."""
    recipe, source, loss = tuning.recipe, tuning.source, tuning.loss
    data, names = description_of(source), variable_names(model)
    written = dataclasses.asdict(recipe)
    if recipe.solve_head == "auto":  # checkpoints of earlier versions lack the argument
        del written["solve_head"]
    flags = {}
    if any(stage.unfreeze == AS_IS for stage in tuning.plan):
        flags["frozen"] = [
            names[id(variable)]
            for variable, does_train in zip(parameters(model), trainable_mask(model), strict=True)
            if not does_train
        ]
    return {
        **flags,
        "model": signature(model),
        "regularizers": {
            names[id(variable)]: f"{type(penalty).__name__} {penalty.get_config()}"
            for variable in model.variables
            if isinstance(penalty := variable.regularizer, _PLAIN_REGULARIZERS)
        },
        "data": data,
        "num_steps": steps_in_epoch(source.train),
        "stages": [dataclasses.asdict(stage) for stage in tuning.plan],
        "metrics": [f"{type(metric).__name__} {metric.get_config()}" for metric in tuning.metrics],
        "loss": None if loss is None else f"{type(loss).__name__} {loss.get_config()}",
        **written,
        "anchor": [hook.identity() for hook in tuning.hooks],
    }


def description_of(source: Source) -> str:
    """Returns a description that identifies a source, as far as possible without reading it."""
    if source.data is None:
        return str(getattr(source.train, "element_spec", None))
    resize = "" if source.data.resize == STRETCH else f", resize {source.data.resize}"
    return (
        f"{source.data.fingerprint}, seed {source.data.seed}, batches of "
        f"{source.data.batch_size}, image size {source.data.image_size}{resize}"
    )
