"""Fine-tuning: the last groups of layers, or all of them, at a low rate."""

import os
import time
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tlkit.data.augmentation import AUGMENTATIONS
from tlkit.data.images import ImageData, ImageSplit
from tlkit.errors import TrainingError, check_choice, check_count, check_fraction, check_positive
from tlkit.evaluation.metrics import evaluate
from tlkit.evaluation.names import num_classes_of
from tlkit.models.groups import TrainableReport, layer_groups, resolve_group, set_trainable
from tlkit.training.fitting import (
    check_class_weight,
    class_weight_of,
    fit_model,
    warm_up_then_cosine,
)
from tlkit.training.head import is_trained, train_head
from tlkit.training.movement import (
    WatchMovement,
    Weights,
    relative_movement,
    restore_weights,
    weights_by_group,
)
from tlkit.training.reports import StageReport, TrainingReport
from tlkit.training.sources import Images, batches_of, source_of, with_targets

# Chosen on validation photographs, see benchmarks/README.md
DEFAULT_GROUPS = 3
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
    epochs: int | None = None,
    learning_rate: float = DEFAULT_LEARNING_RATE,
    weight_decay: float = DEFAULT_WEIGHT_DECAY,
    batch_norm: str = "frozen",
    augment: str = "default",
    label_smoothing: float = DEFAULT_LABEL_SMOOTHING,
    class_weight: str | None = None,
    patience: int | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
) -> TrainingReport:
    """Goes on training a classifier, its head and the groups of layers next to it.

    An untrained head is solved first (`train_head`): gradients through a random head destroy what
    the backbone knows. Then AdamW trains what `unfreeze` names, its rate rising linearly over
    the first tenth of the steps and falling along half a cosine; the epoch that is best on
    validation is kept. A model that was trained before is never left worse on validation than it
    was given: if no epoch is better, its weights are put back and the report says so.

    Args:
        model: A classifier, changed in place.
        data: What `load_folder`, `load_arrays` or `load_tfds` returned; or batches of images
            `(batch, height, width, 3)`, 0...255, and labels, in a new order at each pass.
        validation: Where `data` is a `tf.data.Dataset`: images to decide on.
        unfreeze: The first group that trains, see `set_trainable`; by default the head and the
            two groups before it.
        epochs: Passes over the training images, at most; by default as many as make 1,000 steps,
            from 8 to 40.
        learning_rate: The highest rate.
        weight_decay: AdamW's, decoupled; biases and batch normalisation are left out.
        batch_norm: "frozen" keeps batch normalisation in inference mode with its weights as
            they are; "train" trains it in the groups that train.
        augment: Augmentation of the training images, by name.
        label_smoothing: Share of each label that is spread over all classes, 0...1.
        class_weight: "balanced" weighs each class by the inverse of its frequency.
        patience: Epochs without a better one after which training stops; two thirds of `epochs`
            by default, since the best ones come late, when the rate has fallen.
        callbacks: Keras callbacks of your own.
        seed: Of orders and augmentation.
        cache: Folder of the feature stores, for solving the head.

    Returns:
        What was done and what it brought on validation. The validation figure chose the epoch, so
        it flatters; the test split has the honest one.

    Raises:
        ArgumentError: An argument breaks its rule, or data and model do not fit.
        TrainingError: A group that was to train did not move; the model is as it was given.

    Example:
        >>> import numpy as np, tlkit
        >>> images = np.random.default_rng(0).integers(0, 255, (40, 32, 32, 3), "uint8")
        >>> data = tlkit.load_arrays(images, np.arange(40) % 2, ["even", "odd"])
        >>> model = tlkit.build_classifier("resnet20", data.class_names, weights=None)
        >>> report = tlkit.fine_tune(model, data, unfreeze="stage3", epochs=1)
        >>> report.stages[-1].moved["stage2"]
        0.0
    """
    if epochs is not None:
        check_count("epochs", epochs)
    check_positive("learning_rate", learning_rate)
    check_choice("augment", augment, AUGMENTATIONS)
    check_choice("batch_norm", batch_norm, ["frozen", "train"])
    check_fraction("label_smoothing", label_smoothing)
    if weight_decay:
        check_positive("weight_decay", weight_decay)
    if patience is not None:
        check_count("patience", patience)
    check_class_weight(class_weight, model)
    if unfreeze is None:
        unfreeze = min(DEFAULT_GROUPS, len(layer_groups(model)))
    resolve_group(model, unfreeze)
    source = source_of(model, data, validation)
    stages: tuple[StageReport, ...] = ()
    was_trained = is_trained(model)
    if not was_trained:
        stages = train_head(
            model,
            data,
            validation=validation,
            class_weight=class_weight,
            seed=seed,
            cache=cache,
        ).stages

    started = time.perf_counter()
    baseline = None if source.validation is None else evaluate(model, source.validation)
    before = weights_by_group(model)
    trainable = set_trainable(model, unfreeze, batch_norm=batch_norm)
    watch = WatchMovement(model, before)
    one_hot = label_smoothing > 0
    steps = _num_steps(source.train)
    if epochs is None:
        epochs = default_epochs(steps)
    held_out = None
    if source.validation is not None:
        held_out = batches_of(source.validation, model, one_hot=one_hot)
    batches = _training_batches(source.train, model, augment, epochs, one_hot)
    history, improved = fit_model(
        model,
        batches,
        held_out,
        optimizer=_optimizer(model, learning_rate, weight_decay, steps * epochs),
        epochs=epochs,
        steps_per_epoch=steps if isinstance(source.train, ImageSplit) else None,
        patience=patience or max(3, 2 * epochs // 3),
        label_smoothing=label_smoothing,
        class_weight=_class_weight(source.train, class_weight, model),
        callbacks=[*callbacks, watch],
        best=(baseline.accuracy, baseline.loss) if baseline else None,
    )
    _check_moved(model, trainable, watch.moved, before, learning_rate)
    notes = []
    if baseline is None:
        notes.append("no validation images: the last epoch's weights are kept, untested")
    elif not improved:
        notes.append(
            f"no epoch was better on validation than the model before, "
            f"{100 * baseline.accuracy:.1f} %: its weights are kept"
        )
    stage = StageReport(
        name="fine-tune",
        trainable=trainable,
        history=history,
        moved=relative_movement(before, weights_by_group(model)),
        seconds=time.perf_counter() - started,
        notes=tuple(notes),
    )
    after = None if source.validation is None else evaluate(model, source.validation)
    return TrainingReport(
        stages=(*stages, stage),
        accuracy_before=baseline.accuracy if baseline and was_trained else None,
        accuracy_after=after.accuracy if after else None,
        num_validation=after.num_images if after else 0,
    )


def default_epochs(num_steps: int) -> int:
    """Returns as many epochs of `num_steps` steps as make 1,000 steps, from 8 to 40."""
    return min(max(-(-DEFAULT_STEPS // num_steps), DEFAULT_EPOCHS[0]), DEFAULT_EPOCHS[-1])


def _check_moved(
    model: keras.Model,
    trainable: TrainableReport,
    moved: dict[str, float],
    before: Weights,
    learning_rate: float,
) -> None:
    """Raises `TrainingError`, the weights put back, if a group stayed that was to train."""
    if still := [name for name in trainable.groups if not moved[name]]:
        restore_weights(model, before)
        raise TrainingError(
            "`learning_rate` must be high enough to move every group that trains. Received: "
            f"learning_rate={learning_rate!r}, and not a bit of {', '.join(still)} has changed. "
            "Raise it, or unfreeze fewer groups."
        )


def _optimizer(
    model: keras.Model, learning_rate: float, weight_decay: float, num_steps: int
) -> keras.optimizers.Optimizer:
    optimizer = keras.optimizers.AdamW(
        warm_up_then_cosine(learning_rate, num_steps), weight_decay=weight_decay
    )
    vectors = [variable for variable in model.trainable_variables if len(variable.shape) < 2]
    optimizer.exclude_from_weight_decay(var_list=vectors)
    return optimizer


def _num_steps(images: Images) -> int:
    """Batches in one epoch."""
    if isinstance(images, ImageSplit):
        return -(-images.num_images // images.batch_size)
    steps = int(images.cardinality())
    return sum(1 for _ in images) if steps == tf.data.UNKNOWN_CARDINALITY else steps


def _training_batches(
    images: Images, model: keras.Model, augment: str, epochs: int, one_hot: bool
) -> tf.data.Dataset:
    """Returns the batches of all epochs; of one, for a plain data set."""
    if isinstance(images, ImageSplit):
        images = images.dataset(shuffle=True, augment=augment, epochs=range(epochs))
    return with_targets(images, model, one_hot=one_hot)


def _class_weight(
    images: Images, class_weight: str | None, model: keras.Model
) -> dict[int, float] | None:
    if class_weight is None:
        return None
    if isinstance(images, ImageSplit):
        labels = images.labels
    else:
        targets = with_targets(images, model)
        labels = np.concatenate([np.ravel(labels) for _, labels, *_ in targets]).astype(np.int64)
    return class_weight_of(labels, num_classes_of(model), class_weight)
