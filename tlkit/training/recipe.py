"""The arguments of a training as plain values that can be stored and compared."""

import dataclasses
from dataclasses import dataclass, field

import keras

from tlkit.data.augmentation import Augmentation
from tlkit.data.class_weighting import ClassWeighting
from tlkit.data.settings import RGB, STRETCH
from tlkit.errors import ArgumentError
from tlkit.models.graph import parameters
from tlkit.models.group_choice import AS_IS
from tlkit.models.groups import Parts
from tlkit.models.signature import signature
from tlkit.models.trainable import trainable_mask
from tlkit.models.variable_names import variable_names
from tlkit.training.lora import Lora
from tlkit.training.own_optimizer import OwnOptimizer
from tlkit.training.sources import Source, steps_in_epoch
from tlkit.training.stages import PlannedStage
from tlkit.training.step import StepHook

DEFAULT_AUGMENTATION = "default"

# Chosen on validation images, see benchmarks/README.md
DEFAULT_LEARNING_RATE = 5e-4
DEFAULT_WEIGHT_DECAY = 0.1
DEFAULT_SCHEDULE = "cosine"
DEFAULT_LABEL_SMOOTHING = 0.1
DEFAULT_BATCH_NORM = "affine"

# Chosen on one draw of one set: fewer weights have to change more
ADAPTERS_LEARNING_RATE = 2e-3
PARTS_LEARNING_RATES = {"bias": 5e-3, "norm": 5e-3}

_PLAIN_REGULARIZERS = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)


@dataclass(frozen=True)
class Recipe:
    """The arguments of `fine_tune` that apply to all stages.

    `learning_rate`, `schedule` and `weight_decay` are `None` until `resolved` fills them in.

    Attributes:
        optimizer: The settings of the user's optimizer; `None` for AdamW.
        adapters: The low-rank adapters; `None` to train the weights themselves.
        augment: The augmentation of the training images.
        weighting: How classes count, by their numbers.

    All other attributes are plain values, as `fine_tune` takes them.
    """

    learning_rate: float | None = None
    layer_decay: float = 1.0
    schedule: str | None = None
    weight_decay: float | None = None
    optimizer: OwnOptimizer | None = None
    batch_norm: str = DEFAULT_BATCH_NORM
    train: str = "all"
    adapters: Lora | None = None
    augment: Augmentation = field(default_factory=lambda: Augmentation(DEFAULT_AUGMENTATION))
    views: int | None = None
    label_smoothing: float = DEFAULT_LABEL_SMOOTHING
    weighting: ClassWeighting = field(default_factory=ClassWeighting)
    patience: int | None = None
    kept_fraction: float | None = None
    precision: str = "auto"
    seed: int = 0
    solve_head: bool | str = "auto"

    def resolved(self) -> "Recipe":
        """Returns the recipe with a learning rate, a schedule and a weight decay.

        They are the defaults, or those of the user's optimizer. If that has a schedule, the
        learning rate and the name of the schedule stay `None`.

        Raises:
            ArgumentError: One of them is given in two places.
        """
        own = self.optimizer
        if own is None:
            return self._filled(self._default_rate(), DEFAULT_SCHEDULE, DEFAULT_WEIGHT_DECAY)
        for name in ("learning_rate", "weight_decay"):
            if (value := getattr(self, name)) is not None:
                raise ArgumentError(
                    f"`{name}` must be left out if `optimizer` is given, which has its own. "
                    f"Received: {name}={value!r} and optimizer={own.name}. Write "
                    f"optimizer=keras.optimizers.{own.name}(..., {name}={value!r})."
                )
        if own.schedule is not None and self.schedule is not None:
            raise ArgumentError(
                "`schedule` must be left out if the learning rate of `optimizer` has a schedule. "
                f"Received: schedule={self.schedule!r} and {own}. Leave it out, or give the "
                "optimizer a number, which is then the peak."
            )
        return self._filled(
            own.learning_rate, None if own.schedule else "constant", own.weight_decay
        )

    def _default_rate(self) -> float:
        if self.adapters is not None:
            return ADAPTERS_LEARNING_RATE
        return PARTS_LEARNING_RATES.get(self.train, DEFAULT_LEARNING_RATE)

    def _filled(
        self, learning_rate: float | None, schedule: str | None, weight_decay: float
    ) -> "Recipe":
        return dataclasses.replace(
            self,
            learning_rate=learning_rate if self.learning_rate is None else self.learning_rate,
            schedule=schedule if self.schedule is None else self.schedule,
            weight_decay=weight_decay if self.weight_decay is None else self.weight_decay,
        )

    @property
    def parts(self) -> Parts:
        """Which weights before the head are trained."""
        if self.adapters is not None:
            return Parts("kernel", self.adapters.groups, argument="adapters")
        return Parts(self.train)

    def identity(self) -> dict[str, object]:
        """Returns plain values that identify the recipe in a checkpoint.

        Arguments that earlier versions did not have are left out if they have their defaults.
        """
        written = {**vars(self), "augment": self.augment.identity()}
        del written["optimizer"], written["weighting"]
        written["class_weight"] = self.weighting.identity()
        if self.optimizer is not None:
            written["optimizer"] = self.optimizer.identity()
        if self.solve_head == "auto":
            del written["solve_head"]
        if self.kept_fraction is None:
            del written["kept_fraction"]
        if self.train == "all":
            del written["train"]
        del written["adapters"]
        if self.adapters is not None:
            written["adapters"] = self.adapters.identity()
        return written


@dataclass(frozen=True)
class FineTuning:
    """The arguments of a call of `fine_tune`, checked and resolved.

    Attributes:
        recipe: The arguments that apply to all stages, resolved.
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
    flags = {}
    if (own := recipe.optimizer) is not None:
        flags["undecayed"] = [
            names[id(variable)] for variable in parameters(model) if own.excludes(variable)
        ]
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
        **recipe.identity(),
        "anchor": [hook.identity() for hook in tuning.hooks],
    }


def description_of(source: Source) -> str:
    """Returns a description that identifies a source, as far as possible without reading it."""
    if source.data is None:
        return str(getattr(source.train, "element_spec", None))
    resize = "" if source.data.resize == STRETCH else f", resize {source.data.resize}"
    channels = "" if source.data.channels == RGB else f", {source.data.channels} channels"
    return (
        f"{source.data.fingerprint}, seed {source.data.seed}, batches of "
        f"{source.data.batch_size}, image size {source.data.image_size}{channels}{resize}"
    )
