"""Fine-tuning: the last groups of layers, or all of them, in one stage or several."""

import dataclasses
import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from tlkit.data.images import ImageData
from tlkit.distribution.lost_workers import lost_worker_named
from tlkit.distribution.strategies import scope_of, strategy_of
from tlkit.distribution.workers import Workers
from tlkit.errors import ArgumentError, as_tuple
from tlkit.evaluation.data_checks import Images, note_on_values
from tlkit.models.compiling import leave_compiled
from tlkit.training.checks import check_callbacks, check_fits_source, check_recipe
from tlkit.training.distributed_checks import check_spread
from tlkit.training.head import why_head_stays
from tlkit.training.objective import check_loss, check_metrics
from tlkit.training.recipe import DEFAULT_AUGMENTATION, Recipe, identity_of
from tlkit.training.reports import TrainingReport
from tlkit.training.resume import Checkpoint
from tlkit.training.sources import Source, source_of, steps_in_epoch
from tlkit.training.stages import (
    PlannedStage,
    Stage,
    check_stages,
    default_unfreeze,
    notes_on_flags,
)
from tlkit.training.step import StepHook, hooks_of
from tlkit.training.tuner import Tuner

# Chosen on validation images, see benchmarks/README.md
DEFAULT_STEPS = 1000
DEFAULT_EPOCHS = range(8, 41)
DEFAULT_LEARNING_RATE = 2e-4
DEFAULT_WEIGHT_DECAY = 0.1
DEFAULT_LABEL_SMOOTHING = 0.1


def fine_tune(
    model: keras.Model,
    data: ImageData | tf.data.Dataset,
    *,
    validation: Images | None = None,
    unfreeze: str | int | None = None,
    stages: Sequence[Stage] | None = None,
    epochs: int | None = None,
    learning_rate: float = DEFAULT_LEARNING_RATE,
    layer_decay: float = 1.0,
    anchor: StepHook | Sequence[StepHook] | None = None,
    schedule: str = "cosine",
    weight_decay: float = DEFAULT_WEIGHT_DECAY,
    batch_norm: str = "frozen",
    augment: str = DEFAULT_AUGMENTATION,
    views: int | None = None,
    loss: keras.losses.Loss | None = None,
    label_smoothing: float = DEFAULT_LABEL_SMOOTHING,
    metrics: Sequence[keras.metrics.Metric] = (),
    class_weight: str | None = None,
    patience: int | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    precision: str = "auto",
    solve_head: bool | str = "auto",
    run_directory: str | os.PathLike[str] | None = None,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
) -> TrainingReport:
    """Goes on training a classifier, its head and the groups of layers next to it.

    An untrained head, one whose biases are all zero or as `solve_head` says, is solved first
    (`train_head`): gradients through a random head destroy what the backbone knows. Then AdamW
    trains what `unfreeze` or each of the `stages` names, and the epoch that is best on validation
    is kept. A model that was trained before is never left worse on validation than it was given: if
    no epoch is better, its weights are put back and the report says so. Better is a higher
    accuracy, at the same a lower cross-entropy; with `class_weight` the balanced accuracy, and
    weights of validation images, `(images, labels, weights)`, count as they do in the loss.

    Where a part below is frozen, and an epoch need not see views that no epoch saw before, that
    part runs once for each view and its activations are stored; only the part above is trained.
    The model that comes out is the same whole model. The report says which way was taken.

    On either way what is frozen computes as in inference, without dropout, noise or stochastic
    depth; layers of the model that augment images go on doing so.

    A model that was made under a strategy (`distribution_strategy`) is trained on all of its
    devices, each with a share of every batch, as one device would with whole batches. Of several
    machines each must make this call, with the same model, data and arguments; the chief alone
    writes to `run_directory`.

    Args:
        model: A classifier, changed in place.
        data: What `load_folder`, `load_arrays` or `load_tfds` returned; or batches of images
            `(batch, height, width, 3)`, 0...255, and labels, in a new order at each pass.
        validation: Where `data` is a `tf.data.Dataset`: images to decide on.
        unfreeze: The first group that trains, see `set_trainable`; by default the head and the
            two groups before it. "as_is" keeps to the layers' `trainable` flags (batch
            normalisation's too, whatever `batch_norm` says), and is the default where some were set
            by hand; the report says so, and says it too where another value overrides them.
        stages: Several stages instead, each of which unfreezes more than the one before it.
        epochs: Passes over the training images, at most; by default as many as make 1,000 steps,
            from 8 to 40. For stages that name none of their own, each.
        learning_rate: The highest rate, that of the head.
        layer_decay: A group's rate is `learning_rate` times this to the power of its distance from
            the head, 0...1.
        anchor: A constraint, or several: what `anchor_weights`, `choose_anchor` or `distill_from`
            returned.
        schedule: Course of the rate in each stage: "cosine" after a warm-up, "constant", which
            callbacks may change, or "step", see `tlkit.training.rates.schedule_of`.
        weight_decay: AdamW's, decoupled; biases and batch normalisation are left out.
        batch_norm: "frozen" keeps batch normalisation in inference mode with its weights as
            they are; "train" trains it in the groups that train.
        augment: Augmentation of the training images, by name.
        views: How many augmented versions of each training image are stored where a part is
            frozen. By default 8, if there are at least twice as many epochs; 0 makes new ones in
            every epoch.
        loss: Instead of the cross-entropy that fits the head; takes whole-number labels, or one-hot
            ones if it is one of Keras's categorical losses (which `metrics` of yours then take
            too).
        label_smoothing: Shard of each label that is spread over all classes, 0...1; of no effect
            with a `loss` of your own.
        metrics: Keras metrics of your own, beside accuracy and cross-entropy.
        class_weight: "balanced" weighs each class by the inverse of its frequency.
        patience: Epochs without a better one after which a stage stops; two thirds of its epochs
            by default, and at least 5: the best ones come late, when the rate has fallen.
        callbacks: Keras callbacks of your own. Where activations are stored, their `model` is the
            part above the cut; `views=0` makes it the whole one. What they remember is not resumed.
        precision: "float32", "mixed_bfloat16" or "mixed_float16" (with loss scaling); "auto" takes
            a mixed one on GPUs that gain from it. Weights and logits are float32, and so is the
            model afterwards.
        solve_head: `True` where the head is new and to be solved first, whatever it holds; `False`
            where it counts as trained and is trained on as it is; "auto" takes a head for new if
            all its biases are zero, as they are when a head is built.
        run_directory: Where everything that goes on needs is saved after each epoch (and every
            five minutes within long ones). The same call, after whatever stopped it, continues; to
            the same weights under deterministic operations, except where a `tf.data.Dataset` comes
            in a new order at each pass, for its order is not tlkit's to restore.
        seed: Of orders and augmentation, added to that of the data; and of what random layers such
            as dropout draw, whatever state the model was loaded or built with.
        cache: Folder of the feature stores.

    Returns:
        What was done and what it brought on validation. The validation figure chose the epoch, so
        it flatters; the test split has the honest one.

    Raises:
        ArgumentError: An argument breaks its rule, or data and model do not fit.
        TrainingError: The loss became NaN (the best weights so far are put back), a group that
            was to train did not change (the model is as it was given), or a worker was lost.
        RunError: `run_directory` holds the training of another model, of other data, or with other
            arguments.

    Example:
        >>> import numpy as np, tlkit
        >>> images = np.random.default_rng(0).integers(0, 255, (40, 32, 32, 3), "uint8")
        >>> data = tlkit.load_arrays(images, np.arange(40) % 2, ["even", "odd"])
        >>> model = tlkit.build_classifier("resnet20", data.class_names, weights=None)
        >>> report = tlkit.fine_tune(model, data, unfreeze="stage3", epochs=1)
        >>> report.stages[-1].weight_change["stage2"]
        0.0
    """
    call = _checked(dict(locals()))
    recipe, source = call.recipe, call.source
    strategy = strategy_of(model)
    workers = Workers(strategy)
    own: dict[str, Any] = {"loss": loss, "metrics": call.metrics}
    with scope_of(model), lost_worker_named(strategy):
        checkpoint = None
        if run_directory is not None or workers.num_workers > 1:
            identity = identity_of(model, source, recipe, call.plan, **own)
            identity["anchor"] = [hook.identity() for hook in call.hooks]
            workers.check_same("model, data and arguments", identity)
            if run_directory is not None:
                checkpoint = Checkpoint(run_directory, identity, workers)
        tuner = Tuner(
            model,
            source,
            recipe,
            callbacks=call.callbacks,
            checkpoint=checkpoint,
            cache=cache,
            hooks=call.hooks,
            notes=call.notes,
            **own,
        )
        report = tuner.run(call.plan)
        leave_compiled(model)
        return report


def check_fine_tuning(model: keras.Model, data: ImageData | tf.data.Dataset, **given: Any) -> None:
    """Raises what `fine_tune` with these arguments would raise before it does anything.

    For whoever has long work to do first.

    Raises:
        ArgumentError: See `fine_tune`.
    """
    bound = inspect.signature(fine_tune).bind(model, data, **given)
    bound.apply_defaults()
    _checked(bound.arguments)


@dataclass(frozen=True)
class _Call:
    """The arguments of `fine_tune`, checked and completed."""

    recipe: Recipe
    source: Source
    plan: Sequence[PlannedStage]
    hooks: Sequence[StepHook]
    metrics: Sequence[keras.metrics.Metric]
    callbacks: Sequence[keras.callbacks.Callback]
    notes: Sequence[str]


def _checked(given: Mapping[str, Any]) -> _Call:
    model, loss, callbacks = given["model"], given["loss"], as_tuple(given["callbacks"])
    written = {field.name: given[field.name] for field in dataclasses.fields(Recipe)}
    if loss is not None:
        written["label_smoothing"] = 0.0
    recipe = Recipe(**written)
    check_recipe(recipe, model, given["epochs"])
    check_loss(loss, model)
    metrics = check_metrics(given["metrics"])
    check_callbacks(callbacks, recipe.schedule)
    source = source_of(model, given["data"], given["validation"])
    check_fits_source(recipe, source)
    stages, unfreeze = given["stages"], given["unfreeze"]
    if stages is not None and unfreeze is not None:
        raise ArgumentError(
            "`unfreeze` must be left out where `stages` are given, which name their own. "
            f"Received: unfreeze={unfreeze!r}."
        )
    if stages is None:
        stages = [Stage(default_unfreeze(model) if unfreeze is None else unfreeze)]
    epochs = given["epochs"] or default_epochs(steps_in_epoch(source.train))
    plan = [
        PlannedStage(
            stage.unfreeze, stage.epochs or epochs, stage.learning_rate or recipe.learning_rate
        )
        for stage in check_stages(model, stages)
    ]
    if recipe.solve_head is True and (why := why_head_stays(model, plan[0].unfreeze)):
        raise ArgumentError(
            "`solve_head` must be 'auto' or False where the head cannot be solved. Received: "
            f"solve_head=True for a head that cannot: {why}. Leave it out."
        )
    hooks = hooks_of(given["anchor"], model)
    strategy = strategy_of(model)
    check_spread(strategy, recipe, source.train, loss=loss, metrics=metrics, hooks=hooks)
    is_given = given["stages"] is not None or unfreeze is not None
    notes = notes_on_flags(model, [stage.unfreeze for stage in plan], is_given=is_given)
    notes += [note] if (note := note_on_values(source.train)) else []
    return _Call(recipe, source, plan, hooks, metrics, callbacks, notes)


def default_epochs(num_steps: int) -> int:
    """Returns as many epochs of `num_steps` steps as make 1,000 steps, from 8 to 40."""
    return min(max(-(-DEFAULT_STEPS // num_steps), DEFAULT_EPOCHS[0]), DEFAULT_EPOCHS[-1])
