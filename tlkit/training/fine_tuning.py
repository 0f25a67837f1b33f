"""Fine-tuning: the last groups of layers, or all of them, at a low rate."""

import os
import time
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tlkit.data.augmentation import AUGMENTATIONS
from tlkit.data.images import ImageData, ImageSplit
from tlkit.errors import check_choice, check_count, check_positive
from tlkit.evaluation.metrics import evaluate
from tlkit.evaluation.names import num_classes_of
from tlkit.models.groups import resolve_group, set_trainable
from tlkit.training.fitting import (
    check_class_weight,
    class_weight_of,
    fit_model,
    warm_up_then_cosine,
)
from tlkit.training.head import is_trained, train_head
from tlkit.training.movement import relative_movement, weights_by_group
from tlkit.training.reports import StageReport, TrainingReport
from tlkit.training.sources import Images, batches_of, source_of, with_targets

DEFAULT_EPOCHS = 12
DEFAULT_LEARNING_RATE = 1e-3
DEFAULT_WEIGHT_DECAY = 1e-2


def fine_tune(
    model: keras.Model,
    data: ImageData | tf.data.Dataset,
    *,
    validation: Images | None = None,
    unfreeze: str | int = "all",
    epochs: int = DEFAULT_EPOCHS,
    learning_rate: float = DEFAULT_LEARNING_RATE,
    weight_decay: float = DEFAULT_WEIGHT_DECAY,
    batch_norm: str = "frozen",
    augment: str = "default",
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
        unfreeze: The first group that trains, see `set_trainable`.
        epochs: Passes over the training images, at most.
        learning_rate: The highest rate.
        weight_decay: AdamW's, decoupled; biases and batch normalisation are left out.
        batch_norm: "frozen" keeps batch normalisation in inference mode with its weights as
            they are; "train" trains it in the groups that train.
        augment: Augmentation of the training images, by name.
        class_weight: "balanced" weighs each class by the inverse of its frequency.
        patience: Epochs without a better one after which training stops; a third of `epochs`
            by default.
        callbacks: Keras callbacks of your own.
        seed: Of orders and augmentation.
        cache: Folder of the feature stores, for solving the head.

    Returns:
        What was done and what it brought on validation. The validation figure chose the epoch, so
        it flatters; the test split has the honest one.

    Raises:
        ArgumentError: An argument breaks its rule, or data and model do not fit.

    Example:
        >>> import numpy as np, tlkit
        >>> images = np.random.default_rng(0).integers(0, 255, (40, 32, 32, 3), "uint8")
        >>> data = tlkit.load_arrays(images, np.arange(40) % 2, ["even", "odd"])
        >>> model = tlkit.build_classifier("resnet20", data.class_names, weights=None)
        >>> report = tlkit.fine_tune(model, data, unfreeze="stage3", epochs=1)
        >>> report.stages[-1].moved["stage2"]
        0.0
    """
    check_count("epochs", epochs)
    check_positive("learning_rate", learning_rate)
    check_choice("augment", augment, AUGMENTATIONS)
    check_choice("batch_norm", batch_norm, ["frozen", "train"])
    if weight_decay:
        check_positive("weight_decay", weight_decay)
    if patience is not None:
        check_count("patience", patience)
    check_class_weight(class_weight, model)
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
    batches, steps = _training_batches(source.train, model, augment, epochs)
    history, improved = fit_model(
        model,
        batches,
        None if source.validation is None else batches_of(source.validation, model),
        optimizer=_optimizer(model, learning_rate, weight_decay, steps * epochs),
        epochs=epochs,
        steps_per_epoch=steps if isinstance(source.train, ImageSplit) else None,
        patience=patience or max(3, epochs // 3),
        class_weight=_class_weight(source.train, class_weight, model),
        callbacks=callbacks,
        best=(baseline.accuracy, baseline.loss) if baseline else None,
    )
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


def _optimizer(
    model: keras.Model, learning_rate: float, weight_decay: float, num_steps: int
) -> keras.optimizers.Optimizer:
    optimizer = keras.optimizers.AdamW(
        warm_up_then_cosine(learning_rate, num_steps), weight_decay=weight_decay
    )
    vectors = [variable for variable in model.trainable_variables if len(variable.shape) < 2]
    optimizer.exclude_from_weight_decay(var_list=vectors)
    return optimizer


def _training_batches(
    images: Images, model: keras.Model, augment: str, epochs: int
) -> tuple[tf.data.Dataset, int]:
    """Returns the batches of all epochs (of one, for a plain data set) and the steps of one."""
    if isinstance(images, ImageSplit):
        dataset = images.dataset(shuffle=True, augment=augment, epochs=range(epochs))
        return with_targets(dataset, model), -(-images.num_images // images.batch_size)
    steps = int(images.cardinality())
    if steps == tf.data.UNKNOWN_CARDINALITY:
        steps = sum(1 for _ in images)
    return with_targets(images, model), steps


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
