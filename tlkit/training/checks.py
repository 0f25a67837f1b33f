"""Checks of the arguments of training, made before any work is done."""

from collections.abc import Sequence

import keras

from tlkit.data.augmentation import AUGMENTATIONS
from tlkit.data.images import ImageSplit
from tlkit.errors import (
    ArgumentError,
    check_choice,
    check_count,
    check_fraction,
    check_not_negative,
    check_positive,
    check_positive_fraction,
    check_seed,
    check_unit,
)
from tlkit.models.groups import BATCH_NORM
from tlkit.models.heads import head_kind
from tlkit.training.precision import PRECISIONS
from tlkit.training.rates import SCHEDULES
from tlkit.training.recipe import DEFAULT_AUGMENTATION, Recipe
from tlkit.training.sources import Source


def check_recipe(recipe: Recipe, model: keras.Model, epochs: int | None) -> None:
    """Raises `ArgumentError` unless every value is valid."""
    if epochs is not None:
        check_count("epochs", epochs)
    check_positive("learning_rate", recipe.learning_rate)
    check_positive_fraction("layer_decay", recipe.layer_decay)
    check_choice("schedule", recipe.schedule, SCHEDULES)
    check_choice("augment", recipe.augment, AUGMENTATIONS)
    check_choice("batch_norm", recipe.batch_norm, BATCH_NORM)
    check_choice("precision", recipe.precision, PRECISIONS)
    check_fraction("label_smoothing", recipe.label_smoothing)
    check_not_negative("weight_decay", recipe.weight_decay)
    if recipe.kept_fraction is not None:
        check_unit("kept_fraction", recipe.kept_fraction)
    if recipe.patience is not None:
        check_count("patience", recipe.patience)
    if recipe.views is not None:
        check_count("views", recipe.views, minimum=0)
    check_seed(recipe.seed)
    check_solve_head(recipe.solve_head)
    check_class_weight(recipe.class_weight, is_multi_label=head_kind(model) == "multi_label")


def check_solve_head(solve_head: bool | str) -> None:
    """Raises `ArgumentError` unless it is "auto", `True` or `False`."""
    if not isinstance(solve_head, bool) and solve_head != "auto":
        raise ArgumentError(
            f"`solve_head` must be 'auto', True or False. Received: solve_head={solve_head!r}. "
            "Give True for a new head, False for a trained one."
        )


def check_fits_source(recipe: Recipe, source: Source) -> None:
    """Raises `ArgumentError` if an argument does not apply to a `tf.data.Dataset`."""
    if isinstance(source.train, ImageSplit):
        return
    if recipe.views is not None or recipe.augment not in (DEFAULT_AUGMENTATION, "none"):
        raise ArgumentError(
            "`views` and `augment` must be left out if `data` is a tf.data.Dataset. "
            f"Received: views={recipe.views}, augment={recipe.augment!r}. Augment in the dataset "
            "itself."
        )


def check_callbacks(callbacks: Sequence[keras.callbacks.Callback], schedule: str) -> None:
    """Raises `ArgumentError` if a callback does not work in `fine_tune`."""
    for callback in callbacks:
        if not isinstance(callback, keras.callbacks.Callback):
            raise ArgumentError(
                "`callbacks` must be objects of keras.callbacks.Callback. Received: "
                f"{callback!r}. Write for example callbacks=[keras.callbacks.History()]."
            )
        if isinstance(callback, keras.callbacks.ModelCheckpoint):
            raise ArgumentError(
                "`callbacks` must not contain a ModelCheckpoint, which would save only the part of "
                "the model that is trained on stored activations. Received: one. Leave it out: the "
                "best weights are kept in any case, `run_directory` saves progress, and the model "
                "can be saved afterwards."
            )
        sets_rate = isinstance(
            callback, keras.callbacks.ReduceLROnPlateau | keras.callbacks.LearningRateScheduler
        )
        if sets_rate and schedule != "constant":
            raise ArgumentError(
                "`schedule` must be 'constant' if a callback sets the learning rate. Received: "
                f"schedule={schedule!r} and a {type(callback).__name__}. Give schedule='constant'."
            )


def check_class_weight(class_weight: str | None, *, is_multi_label: bool) -> None:
    """Raises `ArgumentError` unless `class_weight` is "balanced" or `None`, and fits the labels."""
    if class_weight is None:
        return
    check_choice("class_weight", class_weight, ["balanced"])
    if is_multi_label:
        raise ArgumentError(
            "`class_weight` must be None for a multi-label classifier. "
            f"Received: class_weight={class_weight!r}. Leave it out."
        )
