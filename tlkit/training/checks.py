"""Checks of the arguments of training, made before any work is done."""

from collections.abc import Sequence

import keras

from tlkit.data.augmentation_checks import check_augmentation
from tlkit.data.class_weighting import BALANCED, NONE, ClassWeighting, check_weighting
from tlkit.data.images import ImageData, ImageSplit
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
from tlkit.models.group_choice import AS_IS
from tlkit.models.groups import ALL_PARTS, set_trainable_flags
from tlkit.models.heads import head_kind
from tlkit.models.norm_statistics import check_batch_norm
from tlkit.models.part_names import PARTS
from tlkit.models.trainable import Flags
from tlkit.training.adapters import check_groups, choose_kernels
from tlkit.training.objective import takes_one_hot
from tlkit.training.precision import PRECISIONS, resolve_precision
from tlkit.training.rates import SCHEDULES
from tlkit.training.recipe import DEFAULT_AUGMENTATION, Recipe
from tlkit.training.sources import Source
from tlkit.training.stages import PlannedStage, Stage
from tlkit.training.step import StepHook


def check_recipe(recipe: Recipe, model: keras.Model, epochs: int | None) -> None:
    """Raises `ArgumentError` unless every value of a resolved recipe is valid."""
    if epochs is not None:
        check_count("epochs", epochs)
    if recipe.learning_rate is not None:
        check_positive("learning_rate", recipe.learning_rate)
    check_positive_fraction("layer_decay", recipe.layer_decay)
    if recipe.schedule is not None:
        check_choice("schedule", recipe.schedule, SCHEDULES)
    check_batch_norm(recipe.batch_norm, model)
    check_choice("train", recipe.train, PARTS)
    if recipe.train != "all" and recipe.adapters is not None:
        raise ArgumentError(
            "`train` must be left out with `adapters`, which train factors of kernels. "
            f"Received: train={recipe.train!r}, adapters={recipe.adapters}. Leave one of them out."
        )
    check_choice("precision", recipe.precision, PRECISIONS)
    check_fraction("label_smoothing", recipe.label_smoothing)
    if recipe.weight_decay is not None:
        check_not_negative("weight_decay", recipe.weight_decay)
    if recipe.kept_fraction is not None:
        check_unit("kept_fraction", recipe.kept_fraction)
    if recipe.patience is not None:
        check_count("patience", recipe.patience)
    if recipe.views is not None:
        check_count("views", recipe.views, minimum=0)
    check_seed(recipe.seed)
    check_solve_head(recipe.solve_head)


def check_mixing(recipe: Recipe, loss: keras.losses.Loss | None, model: keras.Model) -> None:
    """Raises `ArgumentError` if images are to be mixed, and other arguments do not allow that."""
    mixing = recipe.augment.mixing
    if not mixing:
        return
    if recipe.views:
        raise ArgumentError(
            f"`views` must be 0 with augment={mixing!r}, which mixes the images of each batch "
            f"anew. Received: views={recipe.views}. Leave it out."
        )
    if loss is not None and head_kind(model) == "softmax" and not takes_one_hot(loss):
        raise ArgumentError(
            f"`loss` must be one for one-hot labels with augment={mixing!r}, which mixes labels. "
            f"Received: {type(loss).__name__}. Use keras.losses.CategoricalCrossentropy, for "
            "example, or leave it out."
        )


def check_solve_head(solve_head: bool | str) -> None:
    """Raises `ArgumentError` unless it is "auto", `True` or `False`."""
    if not isinstance(solve_head, bool) and solve_head != "auto":
        raise ArgumentError(
            f"`solve_head` must be 'auto', True or False. Received: solve_head={solve_head!r}. "
            "Give True for a new head, False for a trained one."
        )


def check_fits_source(recipe: Recipe, source: Source) -> None:
    """Raises `ArgumentError` if an argument does not apply to a `tf.data.Dataset`.

    Augments some images of a split by the user's layers, if there are any.
    """
    if isinstance(source.train, ImageSplit):
        check_augmentation(recipe.augment, source.train)
        return
    if recipe.views is not None or recipe.augment.preset not in (DEFAULT_AUGMENTATION, "none"):
        raise ArgumentError(
            "`views` and `augment` must be left out if `data` is a tf.data.Dataset. "
            f"Received: views={recipe.views}, augment={str(recipe.augment)!r}. Augment in the "
            "dataset itself."
        )


def check_parts(
    recipe: Recipe,
    model: keras.Model,
    plan: Sequence[PlannedStage],
    hooks: Sequence[StepHook],
    num_replicas: int,
) -> None:
    """Raises `ArgumentError` unless each stage has weights that `train` or `adapters` selects.

    The model's flags are unchanged afterwards.
    """
    adapters = recipe.adapters
    if adapters is not None and (hooks or num_replicas > 1):
        other = "an anchor" if hooks else f"{num_replicas} devices"
        raise ArgumentError(
            "`adapters` must be left out with an anchor and on several devices. "
            f"Received: adapters={adapters} and {other}. Leave one of them out."
        )
    if recipe.parts == ALL_PARTS:
        return
    if adapters is not None:
        check_groups(model, adapters)
    before = Flags.of(model)
    try:
        for stage in plan:
            if stage.unfreeze != AS_IS:
                set_trainable_flags(
                    model, stage.unfreeze, batch_norm=recipe.batch_norm, parts=recipe.parts
                )
            if adapters is not None:
                choose_kernels(model, adapters)
    finally:
        before.restore()


def check_own_optimizer(
    recipe: Recipe, stages: Sequence[Stage], hooks: Sequence[StepHook], num_replicas: int
) -> None:
    """Raises `ArgumentError` unless the user's optimizer, if any, fits the other arguments."""
    own = recipe.optimizer
    if own is None:
        return
    if own.schedule is not None and any(stage.learning_rate is not None for stage in stages):
        raise ArgumentError(
            "`learning_rate` of a stage must be left out if the learning rate of `optimizer` has a "
            f"schedule. Received: {own}, and a stage with a rate of its own. Give the optimizer a "
            "number, or leave the stage's rate out."
        )
    if recipe.layer_decay < 1 and isinstance(own.given, keras.optimizers.Muon):
        raise ArgumentError(
            "`layer_decay` must be 1 with an optimizer that has a weight decay of its own for each "
            f"kind of weights. Received: layer_decay={recipe.layer_decay!r} and optimizer="
            f"{own.name}. Leave it out, or give another optimizer."
        )
    is_accumulating = bool(own.given.gradient_accumulation_steps)
    if is_accumulating and (hooks or num_replicas > 1):
        what = "an `anchor`" if hooks else f"{num_replicas} replicas"
        raise ArgumentError(
            "`optimizer` must update the weights in every step if there is an `anchor`, or on "
            "several replicas. Received: gradient_accumulation_steps="
            f"{own.given.gradient_accumulation_steps} and {what}. Leave it out, and load the data "
            "in larger batches."
        )
    precision = resolve_precision(recipe.precision, num_replicas)
    if own.given.loss_scale_factor and precision == "mixed_float16":
        raise ArgumentError(
            "`optimizer` must not scale the loss in mixed_float16, which has a loss scale of its "
            f"own. Received: loss_scale_factor={own.given.loss_scale_factor!r}. Leave it out."
        )


def check_callbacks(callbacks: Sequence[keras.callbacks.Callback], schedule: str | None) -> None:
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
        if sets_rate and schedule is None:
            raise ArgumentError(
                "`optimizer` must have a number as its learning rate if a callback sets the rate. "
                f"Received: one with a schedule and a {type(callback).__name__}. Give a number."
            )
        if sets_rate and schedule != "constant":
            raise ArgumentError(
                "`schedule` must be 'constant' if a callback sets the learning rate. Received: "
                f"schedule={schedule!r} and a {type(callback).__name__}. Give schedule='constant'."
            )


def check_class_weight(
    weighting: ClassWeighting, model: keras.Model, data: object
) -> ClassWeighting:
    """Returns a weighting by numbers of the classes of some data.

    Raises:
        ArgumentError: A name is not a class, or the model's labels have no such weighting.
    """
    names = data.class_names if isinstance(data, ImageData) else None
    is_multi_label = head_kind(model) == "multi_label"
    return check_weighting(weighting, names, is_multi_label=is_multi_label)


def check_loss_by_weights(
    recipe: Recipe, loss: keras.losses.Loss | None, model: keras.Model, source: Source
) -> None:
    """Raises `ArgumentError` if how classes count does not fit the loss or the images."""
    weighting = recipe.weighting
    is_by_label = weighting.kind != NONE and head_kind(model) == "multi_label"
    if loss is not None and (weighting.is_focal or is_by_label):
        what = "a focal loss" if weighting.is_focal else "class weights of several labels"
        raise ArgumentError(
            f"`loss` must be left out, or a name, with {what}. Received: a "
            f"{type(loss).__name__}. Leave one of them out."
        )
    if weighting.sampling == BALANCED and not isinstance(source.train, ImageSplit):
        raise ArgumentError(
            "`sampling` must be 'shuffled' if `data` is a tf.data.Dataset, whose images come in "
            "its own order. Received: sampling='balanced'. Use class_weight='balanced'."
        )
