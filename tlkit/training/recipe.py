"""The arguments of a training as plain values that can be stored and compared."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from tlkit.models.graph import parameters
from tlkit.models.group_choice import AS_IS
from tlkit.models.signature import signature
from tlkit.models.trainable import trains
from tlkit.models.variable_names import variable_names
from tlkit.training.sources import Source, steps_in_epoch
from tlkit.training.stages import PlannedStage

DEFAULT_AUGMENTATION = "default"

_PLAIN_REGULARIZERS = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)


@dataclass(frozen=True)
class Recipe:
    """The arguments of `fine_tune` that apply to all stages and are plain values."""

    learning_rate: float
    layer_decay: float
    schedule: str
    weight_decay: float
    batch_norm: str
    augment: str
    views: int | None
    label_smoothing: float
    class_weight: str | None
    patience: int | None
    precision: str
    seed: int
    solve_head: bool | str = "auto"


def identity_of(
    model: keras.Model,
    source: Source,
    recipe: Recipe,
    plan: Sequence[PlannedStage],
    *,
    loss: keras.losses.Loss | None,
    metrics: Sequence[keras.metrics.Metric],
) -> dict[str, Any]:
    """Returns the values that identify a training, so that no other one is resumed by mistake."""
    data, names = description_of(source), variable_names(model)
    written = dataclasses.asdict(recipe)
    if recipe.solve_head == "auto":  # checkpoints of earlier versions lack the argument
        del written["solve_head"]
    flags = {}
    if any(stage.unfreeze == AS_IS for stage in plan):
        flags["frozen"] = [
            names[id(variable)]
            for variable, does_train in zip(parameters(model), trains(model), strict=True)
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
        "stages": [dataclasses.asdict(stage) for stage in plan],
        "metrics": [f"{type(metric).__name__} {metric.get_config()}" for metric in metrics],
        "loss": None if loss is None else f"{type(loss).__name__} {loss.get_config()}",
        **written,
    }


def description_of(source: Source) -> str:
    """Returns a description that identifies a source, as far as possible without reading it."""
    if source.data is None:
        return str(getattr(source.train, "element_spec", None))
    return (
        f"{source.data.fingerprint}, seed {source.data.seed}, batches of "
        f"{source.data.batch_size}, image size {source.data.image_size}"
    )
