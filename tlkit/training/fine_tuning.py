"""Fine-tuning: all groups of layers, or the last ones, in one stage or several."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tlkit.data.augmentation import AugmentLike, augmentation_of
from tlkit.data.augmentation_checks import augmentation_for
from tlkit.data.class_weighting import ClassWeightLike, weighting_of
from tlkit.data.images import ImageData
from tlkit.distribution.lost_workers import lost_worker_named
from tlkit.distribution.strategies import scope_of, workers_of
from tlkit.errors import ArgumentError, as_tuple
from tlkit.evaluation.data_checks import Images, note_on_values
from tlkit.models.compiling import ensure_compiled
from tlkit.training.checks import (
    check_callbacks,
    check_class_weight,
    check_fits_source,
    check_loss_by_weights,
    check_mixing,
    check_own_optimizer,
    check_parts,
    check_recipe,
)
from tlkit.training.distributed_checks import check_distributed_training
from tlkit.training.head import reason_not_to_solve
from tlkit.training.lora import Lora, adapters_of
from tlkit.training.objective import check_loss, check_metrics
from tlkit.training.own_optimizer import own_optimizer
from tlkit.training.recipe import (
    DEFAULT_AUGMENTATION,
    DEFAULT_BATCH_NORM,
    DEFAULT_LABEL_SMOOTHING,
    FineTuning,
    Recipe,
    identity_of,
)
from tlkit.training.reports import TrainingReport
from tlkit.training.resume import Checkpoint
from tlkit.training.sources import source_of, steps_in_epoch
from tlkit.training.stages import (
    PlannedStage,
    Stage,
    check_stages,
    default_unfreeze,
    notes_on_flags,
)
from tlkit.training.step import StepHook, hooks_of
from tlkit.training.tuner import Tuner

# Chosen by measurements, see benchmarks/README.md
DEFAULT_STEPS = 1500
DEFAULT_EPOCHS = range(20, 61)


def fine_tune(
    model: keras.Model,
    data: ImageData | tf.data.Dataset,
    *,
    validation: Images | None = None,
    unfreeze: str | int | None = None,
    stages: Sequence[Stage] | None = None,
    epochs: int | None = None,
    learning_rate: float | None = None,
    layer_decay: float = 1.0,
    anchor: StepHook | Sequence[StepHook] | None = None,
    schedule: str | None = None,
    weight_decay: float | None = None,
    optimizer: keras.optimizers.Optimizer | str | None = None,
    batch_norm: str = DEFAULT_BATCH_NORM,
    train: str = "all",
    adapters: Lora | str | None = None,
    augment: AugmentLike = DEFAULT_AUGMENTATION,
    views: int | None = None,
    loss: keras.losses.Loss | str | None = None,
    label_smoothing: float = DEFAULT_LABEL_SMOOTHING,
    metrics: Sequence[keras.metrics.Metric] = (),
    class_weight: ClassWeightLike = None,
    sampling: str | None = None,
    patience: int | None = None,
    kept_fraction: float | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    precision: str = "auto",
    solve_head: bool | str = "auto",
    run_directory: str | os.PathLike[str] | None = None,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
) -> TrainingReport:
    """Fine-tunes a classifier: all of its layers, or its head and the groups next to it.

    An untrained head (all biases zero, or as `solve_head` says) is solved first by `train_head`, as
    a linear head: gradients through a random head would destroy the features of the backbone. Then
    AdamW trains the groups that `unfreeze` or each of the `stages` names for all epochs, each on
    new crops and flips of the images. At the end of a stage validation decides how much of the
    weight change is kept: three quarters of it, unless another fraction (none of it, for example)
    is better by more than one standard error, see `tlkit.training.mixture.choose_mixture`. With
    `class_weight` or `sampling` classes count there as in the loss, and so do sample weights of
    validation images, `(images, labels, weights)`. Without validation images three quarters are
    kept, untested.

    If the layers below a cut are frozen and views may repeat between epochs (`views`, or no
    augmentation), that part runs once for each view, its activations are stored, and only the part
    above the cut is trained. The result is the same whole model; the report notes whether
    activations were stored. It is several times faster than running the whole graph.

    In both cases the frozen part computes in inference mode, without dropout, noise or stochastic
    depth; layers of the model that augment images stay active.

    A model created under a strategy (`distribution_strategy`) is trained on all of its devices,
    each with a shard of every batch, with the result of one device on whole batches. With several
    machines, each must make this call with the same model, data and arguments; only the chief
    writes to `run_directory`.

    Args:
        model: A classifier, changed in place.
        data: The result of a loader, such as `load_folder` or `load_examples`; or batches of images
            `(batch, height, width, 3)`, 0...255, or of what the model takes, and labels, in a new
            order at each pass.
        validation: Validation images, if `data` is a `tf.data.Dataset`.
        unfreeze: The first trainable group, see `set_trainable`; by default "all". "as_is" respects
            the layers' `trainable` flags (also those of batch normalisation, whatever `batch_norm`
            says), and is the default if you have set some; the report notes this, and also if
            another value overrides your flags.
        stages: Several stages instead, each of which unfreezes more than the one before it.
        epochs: Number of passes over the training images; by default as many as make 1,500 steps,
            from 20 to 60. Applies to each stage without `epochs` of its own.
        learning_rate: The peak learning rate, that of the head; by default 5e-4, 2e-3 with
            `adapters`, and 5e-3 if `train` is "bias" or "norm".
        layer_decay: A group's rate is `learning_rate` times this to the power of its distance from
            the head, 0...1.
        anchor: One or more constraints, as returned by `anchor_weights`, `choose_anchor` or
            `distill_from`.
        schedule: The learning-rate schedule of each stage: "cosine" after a warm-up, "constant",
            which callbacks may change, or "step", see `tlkit.training.rates.schedule_of`. "cosine"
            by default, or "constant" with an `optimizer`.
        weight_decay: Decoupled weight decay of AdamW, 0.1 by default; not applied to biases and
            batch normalisation.
        optimizer: Replaces AdamW: a Keras optimizer, or the name of one, such as "sgd", with
            Keras's default settings. It brings its learning rate and its weight decay, so
            `learning_rate` and `weight_decay` must be left out. If its rate is a number, the rate
            stays constant; `schedule` makes it the peak of a schedule, and a stage's own rate
            replaces it. `layer_decay` multiplies its rate. Only its settings are used: each stage
            starts with a new optimizer like it, whose state is resumed, and the given one is
            unchanged. Weight decay is not applied to biases and batch normalisation, as with AdamW,
            nor to what its `exclude_from_weight_decay` names.
        batch_norm: "affine" trains scales and offsets of batch normalisation in the trainable
            groups, with the statistics of inference mode; "frozen" keeps all of it unchanged, as it
            always is within composite layers; "train" trains it with the statistics of each batch.
        train: What is trained of the unfrozen groups before the head: "all" weights; "bias": biases
            and the offsets of normalisation; "norm": scales and offsets of normalisation; "kernel":
            kernels. The head is always trained as a whole. Ignored with unfreeze="as_is".
        adapters: Trains two small factors of each kernel's change instead of the kernels: a
            `tlkit.Lora`, "lora" or "lora:RANK". The optimizer's state is then small, and so is what
            the model can forget; it has ordinary weights afterwards. Not with an `anchor`, nor on
            several devices.
        augment: Augmentation of the training images: "none", "light", "default", "strong" or
            "randaugment", see `tlkit.data.augmentation.augmentation_layers`; "mixup" or "cutmix",
            which also mix the images and labels of a batch, see `tlkit.data.mixing.mix`; or Keras
            layers of your own, one or a list, also a `keras.Sequential` or a
            `keras.layers.Pipeline`; or a function `function(images)` or `function(images, seed)`.
            Each image is passed to layers and functions by itself, float32
            `(1, height, width, 3)`, 0...255, and must come back in the same shape and range. Their
            random numbers depend only on `seed`, the epoch and the image, and their own seeds are
            ignored, so that a training can be repeated and resumed. The layers do not become part
            of the model. Labels of mixed images are shares of the classes: `loss` and `metrics` of
            your own then get one-hot labels, and several devices mix each its own images.
        views: Number of augmented versions of each training image that are stored if a part is
            frozen, and there are at least twice as many epochs. By default 0: every epoch augments
            the images anew. Without augmentation one version is stored.
        loss: "cross-entropy", the default; "focal" or "focal:GAMMA", in which images that are
            already correct count less, see `tlkit.ClassWeighting`; or a Keras loss that fits the
            head: it takes integer labels, or one-hot labels if it is one of Keras's categorical
            losses (your `metrics` then take them too).
        label_smoothing: Fraction of each label's probability that is distributed over all classes,
            0...1; ignored with a `loss` of your own.
        metrics: Your own Keras metrics, in addition to accuracy and cross-entropy.
        class_weight: How classes count in the loss, and in all choices by validation: "balanced",
            "effective" or "effective:BETA", a mapping from names of classes (or their numbers,
            for a `tf.data.Dataset`) to weights, or a `tlkit.ClassWeighting`, which see.
        sampling: "shuffled", the default, or "balanced": each class is drawn equally often in an
            epoch, to within one image, and decides equally on validation.
        patience: Number of epochs without improvement after which a stage stops; the weights of the
            epoch with the highest validation accuracy then count as the last ones. By default no
            stage stops early: the best epochs come late, at low rates, and few validation images
            tell epochs apart badly.
        kept_fraction: Fraction of the weight change that is kept at the end of each stage, 0...1;
            by default it is chosen by validation.
        callbacks: Your own Keras callbacks. If activations are stored, their `model` is the part
            above the cut; with `views=0` it is the whole model. Their state is not resumed.
        precision: "float32", "mixed_bfloat16" or "mixed_float16" (with loss scaling); "auto"
            chooses mixed precision on GPUs that benefit from it. Weights and logits are float32,
            and so is the model afterwards.
        solve_head: `True` if the head is new and to be solved first, whatever its weights; `False`
            if it is trained and training continues from its weights; "auto" treats a head as new
            if all its biases are zero, as they are when a head is built, and replaces a head in
            closed form by a linear one that is solved on these images, unless there is an anchor:
            training from a linear head is more accurate. The model as it was, with that head, is
            restored if validation prefers it by more than one standard error of the
            cross-entropy; if no weight change is kept, unless it is worse by more than one.
        run_directory: Folder in which the full training state is saved after each epoch (and every
            five minutes within long epochs). After an interruption the same call resumes; the
            result is bit-identical under deterministic operations, unless a `tf.data.Dataset`
            shuffles anew at each pass, as tlkit cannot restore its order.
        seed: Seed of shuffling and augmentation, added to that of the data, and of random layers
            such as dropout, whatever state the model was loaded or built with.
        cache: Folder of the feature stores.

    Returns:
        A report of the stages and of the validation accuracy. That accuracy chose how much is kept
        and is therefore optimistically biased; measure on the test split.

    Raises:
        ArgumentError: An argument is invalid, or data and model do not fit; `augment` does not
            return images 0...255 of the same shape; the same is set by `optimizer` and another
            argument.
        TrainingError: The loss became NaN (the best weights so far are restored), a trainable group
            did not change (the model is restored), or a worker was lost.
        RunError: `run_directory` holds a training of another model, other data or other arguments.

    Example:
        >>> import numpy as np, tlkit
        >>> images = np.random.default_rng(0).integers(0, 255, (40, 32, 32, 3), "uint8")
        >>> data = tlkit.load_arrays(images, np.arange(40) % 2, ["even", "odd"])
        >>> model = tlkit.build_classifier("resnet20", data.class_names, weights=None)
        >>> report = tlkit.fine_tune(model, data, unfreeze="stage3", epochs=1)
        >>> report.stages[-1].weight_change["stage2"]
        0.0
    """
    named = loss if isinstance(loss, str) else None
    weighting = weighting_of(class_weight, sampling=sampling, loss=named)
    recipe = Recipe(
        learning_rate=learning_rate,
        layer_decay=layer_decay,
        schedule=schedule,
        weight_decay=weight_decay,
        optimizer=own_optimizer(optimizer),
        batch_norm=batch_norm,
        train=train,
        adapters=adapters_of(adapters),
        augment=augmentation_of(augment),
        views=views,
        label_smoothing=label_smoothing,
        weighting=check_class_weight(weighting, model, data),
        patience=patience,
        kept_fraction=kept_fraction,
        precision=precision,
        seed=seed,
        solve_head=solve_head,
    )
    tuning = _resolved(
        model,
        data,
        recipe,
        validation=validation,
        unfreeze=unfreeze,
        stages=stages,
        epochs=epochs,
        anchor=anchor,
        loss=None if isinstance(loss, str) else loss,
        metrics=metrics,
        callbacks=callbacks,
    )
    workers = workers_of(model)
    with scope_of(model), lost_worker_named(workers):
        checkpoint = None
        if run_directory is not None or workers.num_workers > 1:
            identity = identity_of(model, tuning)
            workers.check_same("model, data and arguments", identity)
            if run_directory is not None:
                checkpoint = Checkpoint(run_directory, identity, workers)
        report = Tuner(model, tuning, checkpoint=checkpoint, cache=cache).run()
        ensure_compiled(model)
        return report


def check_fine_tuning(model: keras.Model, data: ImageData | tf.data.Dataset, **given: Any) -> None:
    """Makes the checks that `fine_tune` makes of its arguments before it starts.

    For callers that do long work before the training.

    Raises:
        ArgumentError: See `fine_tune`.
    """
    of_recipe = {field.name for field in dataclasses.fields(Recipe)}
    values = {name: value for name, value in given.items() if name in of_recipe}
    values["optimizer"] = own_optimizer(values.get("optimizer"))
    values["adapters"] = adapters_of(values.get("adapters"))
    values["augment"] = augmentation_of(values.get("augment", DEFAULT_AUGMENTATION))
    loss = given.pop("loss", None)
    weighting = weighting_of(
        given.pop("class_weight", None),
        sampling=given.pop("sampling", None),
        loss=loss if isinstance(loss, str) else None,
    )
    given["loss"] = None if isinstance(loss, str) else loss
    recipe = Recipe(**values, weighting=check_class_weight(weighting, model, data))
    others = of_recipe | {"cache", "run_directory"}
    _resolved(model, data, recipe, **{k: v for k, v in given.items() if k not in others})


def _resolved(
    model: keras.Model,
    data: ImageData | tf.data.Dataset,
    recipe: Recipe,
    *,
    validation: Images | None = None,
    unfreeze: str | int | None = None,
    stages: Sequence[Stage] | None = None,
    epochs: int | None = None,
    anchor: StepHook | Sequence[StepHook] | None = None,
    loss: keras.losses.Loss | None = None,
    metrics: Sequence[keras.metrics.Metric] = (),
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> FineTuning:
    """Checks the arguments of `fine_tune`, and resolves those that were left out."""
    callbacks, recipe = as_tuple(callbacks), recipe.resolved()
    if loss is not None:
        recipe = dataclasses.replace(recipe, label_smoothing=0.0)
    check_recipe(recipe, model, epochs)
    check_loss(loss, model)
    check_mixing(recipe, loss, model)
    metrics = check_metrics(metrics)
    check_callbacks(callbacks, recipe.schedule)
    source = source_of(model, data, validation)
    augment = augmentation_for(recipe.augment, source.train)
    recipe = dataclasses.replace(recipe, augment=augment)
    check_fits_source(recipe, source)
    check_loss_by_weights(recipe, loss, model, source)
    if stages is not None and unfreeze is not None:
        raise ArgumentError(
            "`unfreeze` must be left out if `stages` are given, each with an `unfreeze` of its "
            f"own. Received: unfreeze={unfreeze!r} and {len(as_tuple(stages))} stages. Give one of "
            "the two."
        )
    is_given = stages is not None or unfreeze is not None
    if stages is None:
        stages = [Stage(default_unfreeze(model) if unfreeze is None else unfreeze)]
    epochs = epochs or default_epochs(steps_in_epoch(source.train))
    stages = check_stages(model, stages)
    plan = tuple(
        PlannedStage(
            stage.unfreeze, stage.epochs or epochs, stage.learning_rate or recipe.learning_rate
        )
        for stage in stages
    )
    if recipe.solve_head is True and (why := reason_not_to_solve(model, plan[0].unfreeze)):
        raise ArgumentError(
            "`solve_head` must be 'auto' or False for a head that cannot be solved. Received: "
            f"solve_head=True, and {why}. Leave it out."
        )
    hooks, workers = hooks_of(anchor, model), workers_of(model)
    check_own_optimizer(recipe, stages, hooks, workers.num_replicas)
    check_parts(recipe, model, plan, hooks, workers.num_replicas)
    check_distributed_training(
        workers, recipe, source.train, loss=loss, metrics=metrics, hooks=hooks
    )
    notes = notes_on_flags(model, [stage.unfreeze for stage in plan], is_given=is_given)
    notes += [note] if (note := note_on_values(source.train)) else []
    return FineTuning(
        recipe, source, plan, loss, tuple(metrics), callbacks, tuple(hooks), tuple(notes)
    )


def default_epochs(num_steps: int) -> int:
    """Returns the number of epochs of `num_steps` steps that makes 1,500 steps, from 20 to 60."""
    return min(max(-(-DEFAULT_STEPS // num_steps), DEFAULT_EPOCHS[0]), DEFAULT_EPOCHS[-1])
