"""Training of the head alone, on stored features of the frozen part."""

import os
import time
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from tlkit.data.augmentation import AugmentLike, augmentation_of, check_by_image
from tlkit.data.augmentation_checks import check_augmentation
from tlkit.data.class_weighting import BALANCED, ClassWeighting, ClassWeightLike, weighting_of
from tlkit.data.images import ImageData
from tlkit.distribution.lost_workers import lost_worker_named
from tlkit.distribution.shards import ONLY_SHARD, ShardedBatches
from tlkit.distribution.strategies import scope_of, workers_of
from tlkit.errors import ArgumentError, check_choice, check_count, check_positive, check_seed
from tlkit.evaluation.data_checks import Images, note_on_values
from tlkit.evaluation.names import num_classes_of
from tlkit.evaluation.outputs import as_two_columns
from tlkit.models.compiling import ensure_compiled
from tlkit.models.flattening import below
from tlkit.models.graph import FIXED_LAYER, parameters
from tlkit.models.group_choice import AS_IS
from tlkit.models.groups import choose_trainable, group_layers
from tlkit.models.heads import feature_cut, head_from_features, head_kind
from tlkit.models.random_state import seed_random_layers
from tlkit.models.trainable import has_user_flags, user_flags_restored
from tlkit.training.checks import check_class_weight, check_solve_head
from tlkit.training.criterion import Criterion, Score, criterion_for, plain_labels, score_of
from tlkit.training.features import Features, extract_features
from tlkit.training.fit_data import shards_with_class_weights
from tlkit.training.fitting import (
    FitPlan,
    Fitted,
    NotFiniteError,
    Objective,
    class_factors_of,
    fit_model,
    label_factors_of,
)
from tlkit.training.frozen import FrozenPart
from tlkit.training.head_forms import CLOSED_FORM, FORMS
from tlkit.training.objective import loss_of, metrics_of, targets_of
from tlkit.training.rates import NamedRate, warm_up_then_cosine
from tlkit.training.recipe import description_of
from tlkit.training.reports import StageReport, TrainingReport
from tlkit.training.solving import HeadTask, SolvedHead, solve, why_not_closed_form
from tlkit.training.sources import Source, note_on_classes, source_of
from tlkit.training.store import FEATURES_FOLDER
from tlkit.training.stored_batches import batches_in_order, one_pass
from tlkit.training.views import ViewPolicy
from tlkit.training.weight_change import relative_weight_change, restore_weights, weights_by_group
from tlkit.utils.cache import cache_note
from tlkit.utils.formatting import percent
from tlkit.utils.progress import bar

_BATCH_SIZE = 64
_WEIGHT_DECAY = 1e-3


@dataclass(frozen=True)
class _HeadTraining:
    """The arguments of `train_head` that say how to train."""

    form: str
    epochs: int
    learning_rate: float
    weighting: ClassWeighting
    views: ViewPolicy
    solve_head: bool | str
    seed: int


def train_head(
    model: keras.Model,
    data: ImageData | tf.data.Dataset,
    *,
    validation: Images | None = None,
    head: str = "auto",
    epochs: int = 60,
    learning_rate: float = 1e-3,
    class_weight: ClassWeightLike = None,
    augment: AugmentLike = "none",
    views: int = 1,
    solve_head: bool | str = "auto",
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
) -> TrainingReport:
    """Trains the head of a classifier; all layers below it stay unchanged.

    The part below the head runs once for each image, and its features are stored and reused by
    later calls: a second call makes no forward pass, and each new image costs one. A head whose
    logits are linear in its one Dense layer is then solved to its optimum by (multinomial or
    one-vs-rest) logistic regression, see `tlkit.training.linear.solve_linear`: the input of that
    layer counts as the features, and if its outputs are scaled, negated or shifted, its weights
    compensate for it. A head in closed form, kernel ridge regression on landmarks, is solved too
    where the Dense layer can be replaced, see `tlkit.training.closed_form.solve_closed_form`: it
    gets plain Keras layers before the Dense layer, one of them frozen, in place. Other heads (with
    hidden layers, or a tanh), and features of more than 2 GB, are trained on the stored features
    with AdamW, warm-up and cosine; the report notes the reason.

    A head that was already trained is kept if the new one is worse on validation; set `solve_head`
    if its biases do not tell whether it was trained. Sample weights in a `tf.data.Dataset`,
    `(images, labels, weights)`, count on validation as in the loss. `trainable` flags that you have
    set are restored afterwards; otherwise only those of the head are set.

    If the model was created under a strategy over several machines, each computes the features of
    its shard of the images, all store all features, and the chief solves the head for all.

    Args:
        model: A classifier; its head is changed in place.
        data: The result of a loader, such as `load_folder` or `load_examples`; or batches of images
            `(batch, height, width, 3)`, 0...255, or of what the model takes, and labels.
        validation: Validation images, if `data` is a `tf.data.Dataset`.
        head: "linear", "closed-form", or "auto": the closed form, unless the linear head is more
            accurate by more than two standard errors, or neither is ever wrong. They are compared
            on validation images if there are at least 300, else on the training images in
            cross-validation, for which each class needs two images; with fewer, it is the closed
            form.
        epochs: Maximum number of epochs, for heads that are not solved.
        learning_rate: The peak learning rate, for heads that are not solved.
        class_weight: How classes count, in training and in the choices of the penalty and between
            the old and the new head: "balanced", "effective" or "effective:BETA", a mapping from
            names of classes to weights, or a `tlkit.ClassWeighting`, which see. With several labels
            per image, a head in closed form has no class weights.
        augment: Augmentation of the stored views: a preset or Keras layers, see `fine_tune`.
        views: Number of augmented versions of each training image that are stored.
        solve_head: `True` if the existing head is untrained and always replaced by the new one;
            `False` if it is trained, and kept if it is better on validation; "auto" treats a head
            as untrained if all its biases are zero, as they are when a head is built.
        seed: Seed of folds, shuffling and random layers in the head.
        cache: Folder of the feature stores; tlkit's cache by default.

    Returns:
        A report of the training. Its accuracy is that of the whole float32 model on the validation
        images, whose stored features are always float32.

    Raises:
        ArgumentError: An argument is invalid, or data and model do not fit.
        TrainingError: The loss of a head that is not solved became NaN (the model is restored), or
            a worker was lost.

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
    check_choice("head", head, FORMS)
    check_count("epochs", epochs)
    check_positive("learning_rate", learning_rate)
    check_count("views", views)
    check_seed(seed)
    weighting = check_class_weight(weighting_of(class_weight), model, data)
    check_solve_head(solve_head)
    _check_solvable(weighting, head, model)
    augmentation = augmentation_of(augment)
    check_by_image(augmentation, "a head that is solved")
    source = source_of(model, data, validation)
    if isinstance(source.train, tf.data.Dataset):
        if views > 1 or not augmentation.is_none:
            raise ArgumentError(
                "`views` and `augment` must be left out if `data` is a tf.data.Dataset. "
                f"Received: views={views}, augment={str(augmentation)!r}. Augment in the dataset "
                "itself."
            )
    elif views > 1 and augmentation.is_none:
        raise ArgumentError(
            f"`views` must be 1 without augmentation. Received: views={views}, augment='none'. "
            "Name an augmentation, such as 'default'."
        )
    else:
        check_augmentation(augmentation, source.train)
    if head == CLOSED_FORM and (why := why_not_closed_form(model)):
        raise ArgumentError(
            "`head` must be 'auto' or 'linear' for a model whose last layer cannot be replaced. "
            f"Received: head='closed-form', and {why}. Leave it out."
        )
    with scope_of(model), lost_worker_named(workers_of(model)):
        with user_flags_restored(model):
            training = _HeadTraining(
                form=head,
                epochs=epochs,
                learning_rate=learning_rate,
                weighting=weighting,
                views=ViewPolicy(augmentation, views),
                solve_head=solve_head,
                seed=seed,
            )
            report = _train(model, source, training, cache=cache)
        ensure_compiled(model)
        return report


def _train(
    model: keras.Model,
    source: Source,
    training: _HeadTraining,
    *,
    cache: str | os.PathLike[str] | None,
) -> TrainingReport:
    started = time.perf_counter()
    before = weights_by_group(model)
    has_flags = has_user_flags(model)
    part = FrozenPart(below(model, feature_cut(model)))
    views = {"augment": training.views.augmentation.identity(), "views": training.views.number}
    same = {"model": part.signature, "data": description_of(source), **vars(training), **views}
    part.workers.check_same("model, data and arguments", same)
    train = extract_features(part, source.train, exact=False, views=training.views, cache=cache)
    held_out = None
    if source.validation is not None:
        held_out = extract_features(part, source.validation, exact=True, cache=cache)
    trainable = choose_trainable(model, "head")  # after all batches have been checked
    head = head_from_features(model)
    criterion = criterion_for(source.validation, training.weighting)
    old = None
    if held_out and not is_new_head(model, training.solve_head):
        old = _evaluate_head(head, model, held_out, criterion)
    notes = _notes_on_features(train, source, cache, num_workers=part.workers.num_workers)
    notes += note_on_classes(training.weighting, source)
    if training.weighting.sampling == BALANCED:
        notes.append("the head is solved with balanced weights, in place of balanced sampling")
    if has_flags:
        notes.append(
            "only the head was trained, regardless of the `trainable` flags that were set "
            "explicitly; they are restored"
        )
    task = HeadTask(head, model, train, held_out, training.form, training.weighting, training.seed)
    try:
        solved, fitted = _solve_or_fit(task, training, criterion)
    except NotFiniteError as error:
        restore_weights(model, before)
        left = "The model's weights are restored."
        raise error.at_rate(NamedRate(training.learning_rate), left) from error
    notes.append(solved.note)
    if solved.is_solved:  # possibly with other layers
        trainable, head = choose_trainable(model, "head"), head_from_features(model)
    kept_epoch = fitted.kept_epoch
    new = _evaluate_head(head, model, held_out, criterion) if held_out else None
    weight_change = relative_weight_change(before, weights_by_group(model))
    discarded_change = {}
    if old and new and part.workers.chief_says(old.is_better_than(new)):
        solved.undo()
        restore_weights(model, before)
        discarded_change, weight_change = weight_change, dict.fromkeys(weight_change, 0.0)
        notes.append(
            f"the old head is kept: validation {criterion.name} {percent(old.value)}, "
            f"{percent(new.value)} with the new one"
        )
        new, kept_epoch = old, None
    stage = StageReport(
        name="head",
        trainable=trainable,
        history=fitted.history,
        kept_epoch=kept_epoch,
        weight_change=weight_change,
        put_back=discarded_change,
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


def _check_solvable(weighting: ClassWeighting, form: str, model: keras.Model) -> None:
    """Raises `ArgumentError` if a head cannot be solved with a weighting."""
    if weighting.is_focal:
        raise ArgumentError(
            "`loss` must be 'cross-entropy' for a head that is solved: neither logistic nor ridge "
            f"regression minimises a focal loss. Received: {weighting}. Use fine_tune, which does."
        )
    is_by_label = head_kind(model) == "multi_label" and not weighting.is_plain
    if is_by_label and form == CLOSED_FORM:
        raise ArgumentError(
            "`head` must be 'linear' or 'auto' with class weights of several labels: a head in "
            "closed form has one weight for each image. Received: head='closed-form', "
            f"class_weight={weighting}. Use head='linear'."
        )


def is_new_head(model: keras.Model, solve_head: bool | str) -> bool:
    """Whether the existing head is untrained, according to `solve_head` or its biases.

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


def reason_not_to_solve(model: keras.Model, unfreeze: str | int) -> str:
    """Returns why `fine_tune` cannot solve the head, else "".

    Args:
        model: A classifier.
        unfreeze: The first trainable group of the first stage.
    """
    if None in feature_cut(model).shape[1:]:
        return "its features have no fixed shape and cannot be stored"
    trainable = {id(variable) for variable in model.trainable_variables}
    head = [variable for layer in group_layers(model)[-1] for variable in parameters(layer)]
    if unfreeze == AS_IS and not all(id(variable) in trainable for variable in head):
        return "its `trainable` flags, which unfreeze='as_is' respects, freeze it"
    return ""


def is_trained(model: keras.Model) -> bool:
    """Whether the head has been trained, that is, whether any bias differs from its initial zero.

    A head without biases counts as trained: if it was, solving it anew would discard the training.
    """
    layers = [layer for layer in head_from_features(model).layers if layer.name != FIXED_LAYER]
    biases = [getattr(layer, "bias", None) for layer in layers]
    biases = [bias for bias in biases if bias is not None]
    return not biases or any(np.any(keras.ops.convert_to_numpy(bias)) for bias in biases)


def _notes_on_features(
    train: Features, source: Source, cache: str | os.PathLike[str] | None, *, num_workers: int
) -> list[str]:
    notes = [f"features {train.note}"]
    if cache is None and (note := cache_note(FEATURES_FOLDER)):
        notes.append(note)
    if num_workers > 1:
        notes.append(f"features sharded over {num_workers} workers")
    if note := note_on_values(source.train):
        notes.append(note)
    return notes


def _solve_or_fit(
    task: HeadTask, training: _HeadTraining, criterion: Criterion
) -> tuple[SolvedHead, Fitted]:
    """Solves the head, or trains it by gradient descent; the note says which."""
    with bar("solving the head", None):
        solved = solve(task)
    if solved.is_solved:
        return solved, Fitted((), improved=True, kept_epoch=None)
    note = f"trained by gradient descent, as the head cannot be solved: {solved.note}"
    return SolvedHead(False, note), _fit(task, training, criterion)


def _fit(task: HeadTask, training: _HeadTraining, criterion: Criterion) -> Fitted:
    model, held_out, epochs = task.model, task.held_out, training.epochs
    targets = targets_of(task.train.labels, model).numpy()
    seed_random_layers(task.head, task.seed)

    def order_of(epoch: int) -> np.ndarray:
        return np.random.default_rng((task.seed, epoch)).permutation(len(targets))

    batches = batches_in_order(task.train, targets, order_of, batch_size=_BATCH_SIZE)
    return fit_model(
        task.head,
        batches,
        _weighted_pass(held_out, model, criterion) if held_out else None,
        Objective(
            keras.optimizers.AdamW(
                warm_up_then_cosine(training.learning_rate, batches.num_steps * epochs),
                weight_decay=_WEIGHT_DECAY,
            ),
            loss_of(model, label_factors=label_factors_of(task.labels, task.weighting)),
            metrics_of(model),
            criterion.metrics(model, plain_labels(held_out.labels, model)) if held_out else (),
            class_factors_of(task.labels, num_classes_of(model), task.weighting),
        ),
        FitPlan(epochs=epochs, patience=max(5, epochs // 4)),
    )


def _one_pass(features: Features, model: keras.Model) -> ShardedBatches:
    targets = targets_of(features.labels, model).numpy()
    return one_pass(features, targets, batch_size=_BATCH_SIZE)


def _weighted_pass(features: Features, model: keras.Model, criterion: Criterion) -> ShardedBatches:
    weights = class_factors_of(
        plain_labels(features.labels, model), num_classes_of(model), criterion.weighting
    )
    return shards_with_class_weights(_one_pass(features, model), weights)


def _evaluate_head(
    head: keras.Model, model: keras.Model, held_out: Features, criterion: Criterion
) -> Score:
    """Returns the model's score on the validation images, from their float32 features."""
    batches = _one_pass(held_out, model)(ONLY_SHARD)
    outputs = np.concatenate([head(batch[0], training=False).numpy() for batch in batches])
    return score_of(
        model, as_two_columns(outputs, model), held_out.labels, held_out.weights, criterion
    )
