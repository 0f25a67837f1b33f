"""Feature extraction: the frozen part once for each image, then the head alone."""

import os
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tlkit.data.images import ImageData
from tlkit.distribution.lost_workers import lost_worker_named
from tlkit.distribution.shards import ONLY_SHARD, ShardedBatches
from tlkit.distribution.strategies import scope_of, strategy_of
from tlkit.errors import ArgumentError, check_count, check_positive, check_seed
from tlkit.evaluation.data_checks import Images, note_on_values
from tlkit.evaluation.names import num_classes_of
from tlkit.evaluation.outputs import both_columns
from tlkit.models.compiling import leave_compiled
from tlkit.models.flattening import below
from tlkit.models.graph import parameters
from tlkit.models.group_choice import AS_IS
from tlkit.models.groups import choose_trainable, group_layers
from tlkit.models.heads import feature_cut, head_from_features, head_kind
from tlkit.models.random_state import seed_random_layers
from tlkit.models.trainable import are_set_by_hand, flags_by_hand_kept
from tlkit.training.checks import check_class_weight, check_solve_head
from tlkit.training.criterion import (
    Criterion,
    Score,
    criterion_for,
    plain_labels,
    score_of,
)
from tlkit.training.features import Features, extract_features
from tlkit.training.fit_data import weighed_as
from tlkit.training.fitting import Fitted, NotFiniteError, class_weight_of, fit_model
from tlkit.training.frozen import FrozenPart
from tlkit.training.objective import loss_of, metrics_of, targets_of
from tlkit.training.rates import warm_up_then_cosine
from tlkit.training.recipe import description_of
from tlkit.training.reports import StageReport, TrainingReport
from tlkit.training.solving import solve_head as solved_head
from tlkit.training.sources import Source, source_of
from tlkit.training.store import FEATURES_FOLDER
from tlkit.training.stored_batches import batches_in_order, one_pass
from tlkit.training.views import ViewPolicy
from tlkit.training.weight_change import relative_weight_change, restore_weights, weights_by_group
from tlkit.utils.cache import cache_note
from tlkit.utils.formatting import percent
from tlkit.utils.progress import bar

_BATCH_SIZE = 64
_WEIGHT_DECAY = 1e-3


def train_head(
    model: keras.Model,
    data: ImageData | tf.data.Dataset,
    *,
    validation: Images | None = None,
    epochs: int = 60,
    learning_rate: float = 1e-3,
    class_weight: str | None = None,
    augment: str = "none",
    views: int = 1,
    solve_head: bool | str = "auto",
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
) -> TrainingReport:
    """Trains the head of a classifier and leaves everything below it as it is.

    The part below the head runs once for each image; what it computes is stored and found again by
    later calls, so a second call makes no forward pass, and new images cost one each. A head whose
    logits are linear in its one Dense layer is then solved to its optimum by (multinomial or
    one-vs-rest) logistic regression, see `tlkit.training.linear.solve_linear`: what is computed
    before that layer counts as features, and where its outputs are scaled, negated or shifted the
    weights make up for it. Others (hidden layers, a tanh), and features of more than 2 GB, are
    trained on the stored features with AdamW, warm-up and cosine; the report says why.

    A head that had been trained before is kept where the new one is worse on validation; say by
    `solve_head` whether it had, where its biases do not tell. Weights of images in a
    `tf.data.Dataset`, `(images, labels, weights)`, count there as in the loss. `trainable` flags
    that were set by hand are put back afterwards; without any, those of the head alone are on.

    Where the model was made under a strategy over several machines, each computes the features of
    its share of the images, all store those of all, the chief solves the head, and all get it.

    Args:
        model: A classifier; its head is changed in place.
        data: What `load_folder`, `load_arrays` or `load_tfds` returned; or batches of images
            `(batch, height, width, 3)`, 0...255, and labels.
        validation: Where `data` is a `tf.data.Dataset`: images to measure on.
        epochs: For heads that are not solved: epochs at most.
        learning_rate: For heads that are not solved: the highest rate.
        class_weight: "balanced" weighs each class by the inverse of its frequency, in what is
            trained and in what decides between heads: the balanced accuracy then.
        augment: Augmentation of the stored views, by name.
        views: How many augmented versions of each training image are stored.
        solve_head: `True` where the head that is there counts for nothing and always gives way to
            the new one; `False` where it counts as trained, and stays where it is better on
            validation; "auto" takes a head for untrained if all its biases are zero, as they are
            when a head is built.
        seed: Of folds, orders, and what random layers in the head draw.
        cache: Folder of the feature stores; tlkit's cache by default.

    Returns:
        What was done. Its accuracy is that of the whole float32 model on decoded validation images
        (stored features are only ever float32 there).

    Raises:
        ArgumentError: An argument breaks its rule, or data and model do not fit.
        TrainingError: The loss of a head that is not solved became NaN (the model is as it was
            given), or a worker was lost.

    Example:
        >>> import numpy as np, tlkit
        >>> labels = np.arange(60) % 2
        >>> images = np.random.default_rng(0).integers(0, 99, (60, 32, 32, 3), "uint8")
        >>> images[labels == 1, :, :, 0] += 100
        >>> data = tlkit.load_arrays(images, labels, ["grey", "red"])
        >>> model = tlkit.build_classifier("resnet20", data.class_names, weights=None)
        >>> tlkit.train_head(model, data).accuracy_after
        1.0
    """
    check_count("epochs", epochs)
    check_positive("learning_rate", learning_rate)
    check_count("views", views)
    check_seed(seed)
    check_class_weight(class_weight, is_multi_label=head_kind(model) == "multi_label")
    check_solve_head(solve_head)
    source = source_of(model, data, validation)
    if isinstance(source.train, tf.data.Dataset):
        if views > 1 or augment != "none":
            raise ArgumentError(
                "`views` and `augment` must be left out where `data` is a tf.data.Dataset. "
                f"Received: views={views}, augment={augment!r}. Augment in the data set itself."
            )
    elif views > 1 and augment == "none":
        raise ArgumentError(
            f"`views` must be 1 without augmentation. Received: views={views}, augment='none'. "
            "Name an augmentation, such as 'default'."
        )

    strategy = strategy_of(model)
    with scope_of(model), lost_worker_named(strategy):
        with flags_by_hand_kept(model):
            report = _train(
                model,
                source,
                epochs=epochs,
                learning_rate=learning_rate,
                class_weight=class_weight,
                views=ViewPolicy(augment, views),
                solve_head=solve_head,
                seed=seed,
                cache=cache,
            )
        leave_compiled(model)
        return report


def _train(
    model: keras.Model,
    source: Source,
    *,
    cache: str | os.PathLike[str] | None,
    views: ViewPolicy,
    solve_head: bool | str,
    **given: Any,
) -> TrainingReport:
    started = time.perf_counter()
    before = weights_by_group(model)
    has_flags = are_set_by_hand(model)
    part = FrozenPart(below(model, feature_cut(model)))
    same = {
        "model": part.signature,
        "data": description_of(source),
        "augment": views.augment,
        "views": views.number,
        "solve_head": solve_head,
        **given,
    }
    part.workers.check_same("model, data and arguments", same)
    train = extract_features(part, source.train, exact=False, views=views, cache=cache)
    held_out = None
    if source.validation is not None:
        held_out = extract_features(part, source.validation, exact=True, cache=cache)
    trainable = choose_trainable(model, "head")  # not before all batches have passed their check
    head = head_from_features(model)
    criterion = criterion_for(source.validation, given["class_weight"])
    old = None
    if held_out and not is_new_head(model, solve_head):
        old = _measured(head, model, held_out, criterion)
    notes = [f"features in {train.precision}: {train.store.path}"]
    if cache is None and (note := cache_note(FEATURES_FOLDER)):
        notes.append(note)
    if part.workers.num_workers > 1:
        notes.append(f"features shared out among {part.workers.num_workers} workers")
    if note := note_on_values(source.train):
        notes.append(note)
    if has_flags:
        notes.append(
            "the head alone trained, whatever the `trainable` flags say that were set by hand; "
            "they are put back"
        )
    history: tuple[dict[str, float], ...] = ()
    kept_epoch = None
    chosen = {name: given[name] for name in ("class_weight", "seed")}
    with bar("solving the head", None):
        solved = solved_head(head, model, train, held_out, **chosen)
    if solved.is_solved:
        notes.append(solved.note)
    else:
        notes.append(f"trained by gradients, for the head cannot be solved: {solved.note}")
        try:
            fitted = _fit(head, model, train, held_out, criterion=criterion, **given)
            history, kept_epoch = fitted.history, fitted.kept_epoch
        except NotFiniteError as error:
            restore_weights(model, before)
            left = "The model is as it was given."
            raise error.at_rate(given["learning_rate"], left) from error
    new = _measured(head, model, held_out, criterion) if held_out else None
    moved = relative_weight_change(before, weights_by_group(model))
    put_back = {}
    if old and new and part.workers.chief_says(old.is_better_than(new)):
        restore_weights(model, before)
        moved, put_back = relative_weight_change(before, weights_by_group(model)), moved
        notes.append(
            f"the head that was there is kept: {percent(old.value)} {criterion.name} on "
            f"validation against {percent(new.value)} of the new one"
        )
        new, kept_epoch = old, None
    stage = StageReport(
        name="head",
        trainable=trainable,
        history=history,
        kept_epoch=kept_epoch,
        weight_change=moved,
        put_back=put_back,
        seconds=time.perf_counter() - started,
        num_forward_passes=train.num_forward_passes
        + (held_out.num_forward_passes if held_out else 0),
        notes=tuple(notes),
    )
    return TrainingReport(
        stages=(stage,),
        accuracy_before=old.accuracy if old else None,
        accuracy_after=new.accuracy if new else None,
        num_validation=len(held_out.labels) if held_out else 0,
        decided_by=criterion.name,
        decision_before=old.value if old else None,
        decision_after=new.value if new else None,
    )


def is_new_head(model: keras.Model, solve_head: bool | str) -> bool:
    """Whether the head that is there counts for nothing, as `solve_head` says or its biases do.

    Args:
        model: A classifier.
        solve_head: `True`, `False`, or "auto" to ask `is_trained`.

    Example:
        >>> import tlkit
        >>> from tlkit.training.head import is_new_head
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> is_new_head(model, "auto"), is_new_head(model, False)
        (True, False)
    """
    return solve_head if isinstance(solve_head, bool) else not is_trained(model)


def why_head_stays(model: keras.Model, unfreeze: str | int) -> str:
    """Says what forbids that `fine_tune` solves the head; empty where nothing does.

    Args:
        model: A classifier.
        unfreeze: What its first stage trains.
    """
    if None in feature_cut(model).shape[1:]:
        return "its features have no one size, and cannot be stored"
    moving = {id(variable) for variable in model.trainable_variables}
    head = [variable for layer in group_layers(model)[-1] for variable in parameters(layer)]
    if unfreeze == AS_IS and not all(id(variable) in moving for variable in head):
        return "its `trainable` flags, which are kept to, freeze it"
    return ""


def is_trained(model: keras.Model) -> bool:
    """Whether the head has been trained: training leaves no bias at the zeros it starts from.

    A head without biases counts as trained, for nothing in it tells, and solving a trained one
    anew would lose it.
    """
    biases = [getattr(layer, "bias", None) for layer in head_from_features(model).layers]
    biases = [bias for bias in biases if bias is not None]
    return not biases or any(np.any(keras.ops.convert_to_numpy(bias)) for bias in biases)


def _fit(
    head: keras.Model,
    model: keras.Model,
    train: Features,
    held_out: Features | None,
    *,
    criterion: Criterion,
    epochs: int,
    learning_rate: float,
    class_weight: str | None,
    seed: int,
) -> Fitted:
    targets = targets_of(train.labels, model).numpy()
    seed_random_layers(head, seed)

    def order_of(epoch: int) -> np.ndarray:
        return np.random.default_rng((seed, epoch)).permutation(len(targets))

    batches = batches_in_order(train, targets, order_of, batch_size=_BATCH_SIZE)
    return fit_model(
        head,
        batches,
        _weighed_pass(held_out, model, criterion) if held_out else None,
        optimizer=keras.optimizers.AdamW(
            warm_up_then_cosine(learning_rate, batches.num_steps * epochs),
            weight_decay=_WEIGHT_DECAY,
        ),
        loss=loss_of(model),
        metrics=metrics_of(model),
        deciding=criterion.metrics(model) if held_out else (),
        epochs=epochs,
        patience=max(5, epochs // 4),
        class_weight=class_weight_of(
            plain_labels(train.labels, model), num_classes_of(model), class_weight
        ),
    )


def _one_pass(features: Features, model: keras.Model) -> ShardedBatches:
    targets = targets_of(features.labels, model).numpy()
    return one_pass(features, targets, batch_size=_BATCH_SIZE)


def _weighed_pass(features: Features, model: keras.Model, criterion: Criterion) -> ShardedBatches:
    weights = class_weight_of(
        plain_labels(features.labels, model), num_classes_of(model), criterion.class_weight
    )
    return weighed_as(_one_pass(features, model), weights)


def _measured(
    head: keras.Model, model: keras.Model, held_out: Features, criterion: Criterion
) -> Score:
    """The model's figures on validation images, from their float32 features."""
    batches = _one_pass(held_out, model)(ONLY_SHARD)
    outputs = np.concatenate([head(batch[0], training=False).numpy() for batch in batches])
    return score_of(
        model, both_columns(outputs, model), held_out.labels, held_out.weights, criterion
    )
