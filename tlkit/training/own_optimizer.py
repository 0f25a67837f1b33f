"""An optimizer of the user's: its settings, from which each stage of training makes a new one."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tlkit.errors import ArgumentError, check_positive, did_you_mean
from tlkit.training.rates import Rate, layerwise
from tlkit.utils.keras_private import decays

_NAMES = (
    *("sgd", "adam", "adamw", "adamax", "adagrad", "adadelta", "adafactor", "ftrl", "lion"),
    *("muon", "nadam", "rmsprop"),
)
_EXAMPLE = "Write for example optimizer=keras.optimizers.SGD(0.01, momentum=0.9)."


@dataclass(frozen=True)
class OwnOptimizer:
    """The settings of the user's optimizer.

    Attributes:
        given: The optimizer itself, which is never built or changed.
        settings: Its configuration, without its name and its learning rate.
        learning_rate: The number that is its learning rate; `None` if that has a schedule.
        schedule: The schedule of its learning rate, or `None`.
    """

    given: keras.optimizers.Optimizer = field(repr=False)
    settings: Mapping[str, Any]
    learning_rate: float | None
    schedule: keras.optimizers.schedules.LearningRateSchedule | None = None

    @property
    def name(self) -> str:
        """The name of its class."""
        return type(self.given).__name__

    @property
    def weight_decay(self) -> float:
        """Its weight decay; 0 if it has none."""
        return float(self.settings.get("weight_decay") or 0.0)

    def __str__(self) -> str:
        return self.with_rate(self.learning_rate)

    def with_rate(self, rate: float | None) -> str:
        """Returns its class and a learning rate in words; `None` stands for its schedule."""
        shown = type(self.schedule).__name__ if rate is None else rate
        return f"{self.name} with learning_rate={shown}"

    def identity(self) -> str:
        """Returns a text that identifies class and settings."""
        rate: Any = self.learning_rate
        if self.schedule is not None:
            rate = f"{type(self.schedule).__name__} {self.schedule.get_config()}"
        return f"{self.name} {dict(self.settings)} learning_rate={rate}"

    def create(
        self,
        rate: Rate | None = None,
        *,
        undecayed: Sequence[keras.Variable] = (),
        multipliers: Mapping[str, float] | None = None,
        names: Mapping[int, str] | None = None,
    ) -> keras.optimizers.Optimizer:
        """Returns a new optimizer with these settings, which is not built.

        Args:
            rate: Its learning rate; its own if left out.
            undecayed: Variables that are excluded from weight decay.
            multipliers: From a variable's name to the multiplier of its rate, if they differ.
            names: From the id of each variable to its name.
        """
        kind = type(self.given)
        settings = dict(self.settings)
        settings["learning_rate"] = rate or self.schedule or self.learning_rate
        if multipliers is not None:
            kind = layerwise(kind)
            settings |= {"multipliers": multipliers, "names": names}
        optimizer = kind.from_config(settings)
        if undecayed:
            optimizer.exclude_from_weight_decay(var_list=list(undecayed))
        return optimizer

    def excludes(self, variable: keras.Variable) -> bool:
        """Whether the user has excluded a variable from weight decay."""
        return not decays(self.given, variable)


def own_optimizer(optimizer: Any) -> OwnOptimizer | None:
    """Returns the settings of an argument `optimizer`; `None` for `None`.

    Args:
        optimizer: A Keras optimizer, or the name of one with Keras's default settings.

    Raises:
        ArgumentError: It is neither; it cannot be made anew from its configuration; it changes the
            weights at the end of `fit`; or its learning rate is not above zero.

    Example:
        >>> import keras
        >>> from tlkit.training.own_optimizer import own_optimizer
        >>> print(own_optimizer(keras.optimizers.SGD(0.1, momentum=0.9)))
        SGD with learning_rate=0.1
    """
    if optimizer is None or isinstance(optimizer, OwnOptimizer):
        return optimizer
    if isinstance(optimizer, str):
        optimizer = _by_name(optimizer)
    _check_kind(optimizer)
    _check_features(optimizer)
    try:
        config = optimizer.get_config()
        schedule = _schedule_of(config["learning_rate"])
        settings = {
            name: value for name, value in config.items() if name not in ("name", "learning_rate")
        }
        rate = None if schedule else _decimal(config["learning_rate"])
        own = OwnOptimizer(optimizer, settings, rate, schedule)
        own.create()
    except ArgumentError:
        raise
    except (TypeError, ValueError, KeyError, NotImplementedError) as error:
        raise ArgumentError(
            "`optimizer` must be one that can be made anew from its configuration, as each stage "
            f"starts with a new one. Received: optimizer={type(optimizer).__name__}, for which "
            f"from_config(get_config()) fails with {type(error).__name__}: {error!s:.200}. Return "
            "all arguments from its `get_config`, and register a schedule of your own with "
            "keras.saving.register_keras_serializable()."
        ) from error
    if rate is not None:
        check_positive("optimizer.learning_rate", rate)
    return own


def _by_name(name: str) -> keras.optimizers.Optimizer:
    if name.lower() not in _NAMES:
        raise ArgumentError(
            f"`optimizer` must be a Keras optimizer, or one of {', '.join(map(repr, _NAMES))}. "
            f"Received: optimizer={name!r}.{did_you_mean(name.lower(), _NAMES)} {_EXAMPLE}"
        )
    return keras.optimizers.get(name.lower())


def _check_kind(optimizer: Any) -> None:
    if inspect.isclass(optimizer) and issubclass(optimizer, keras.optimizers.Optimizer):
        raise ArgumentError(
            "`optimizer` must be an optimizer, not its class. Received: "
            f"optimizer={optimizer.__name__}. Create one: optimizer=keras.optimizers."
            f"{optimizer.__name__}(learning_rate=...)."
        )
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        kind = f"{type(optimizer).__module__}.{type(optimizer).__name__}"
        raise ArgumentError(
            "`optimizer` must be a keras.optimizers.Optimizer of Keras 3, its name, or None for "
            f"AdamW. Received: an object of type {kind}. {_EXAMPLE}"
        )
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise ArgumentError(
            "`optimizer` must not be a LossScaleOptimizer: precision='mixed_float16' adds loss "
            "scaling. Received: one. Give its inner optimizer."
        )
    if isinstance(optimizer, keras.optimizers.MultiOptimizer):
        raise ArgumentError(
            "`optimizer` must be one optimizer for all weights, whose state can be saved. "
            "Received: a MultiOptimizer. Give one of its optimizers, and `layer_decay` or `stages` "
            "for learning rates that differ between groups."
        )


def _check_features(optimizer: keras.optimizers.Optimizer) -> None:
    """Checks settings that fit one call of Keras's `fit`, but not a training in several."""
    of_keras = keras.optimizers.Optimizer.finalize_variable_values
    has_own = type(optimizer).finalize_variable_values is not of_keras
    if has_own or optimizer.use_ema:
        what = "a `finalize_variable_values` of its own" if has_own else "use_ema=True"
        raise ArgumentError(
            "`optimizer` must not change the weights at the end of Keras's `fit`, which a resumed "
            "training calls several times, and after the weights were measured on validation "
            f"images. Received: {type(optimizer).__name__} with {what}. Leave it out: `fine_tune` "
            "itself keeps a mixture of the weights before and after."
        )


def _schedule_of(
    rate: float | Mapping[str, Any],
) -> keras.optimizers.schedules.LearningRateSchedule | None:
    """Returns the schedule in the configuration of an optimizer; `None` for a number."""
    if not isinstance(rate, Mapping):
        return None
    schedule = keras.optimizers.schedules.deserialize(dict(rate))
    if not isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        raise ArgumentError(
            "`optimizer` must have a number or a LearningRateSchedule as its learning rate. "
            "Received: a function, which cannot be saved. Write a subclass of "
            "keras.optimizers.schedules.LearningRateSchedule."
        )
    return schedule


def _decimal(rate: float) -> float:
    """Returns the shortest decimal number that has this float32 value."""
    return float(str(np.float32(rate)))
