"""Estimates the cost of training: multiply-adds, memory, time and disk space."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from tlkit.advice.graph_costs import FLOAT_BYTES, GroupCost, group_costs, peak_activations
from tlkit.advice.projection import NOTHING, Timings, estimate_head_seconds, estimate_plan_seconds
from tlkit.advice.timing import Timing, time_calls
from tlkit.data.augmentation import Augmentation, AugmentLike, augmentation_of
from tlkit.data.augmentation_checks import augmentation_for, check_augmentation
from tlkit.data.images import ImageData, ImageSplit
from tlkit.displays.activity import duration
from tlkit.distribution.strategies import check_one_device
from tlkit.errors import ArgumentError, check_count
from tlkit.evaluation.names import num_classes_of
from tlkit.models.flattening import above, below
from tlkit.models.groups import cut_before, resolve_group, set_trainable_flags
from tlkit.models.heads import feature_cut, head_kind
from tlkit.models.model_spec import describe_inputs
from tlkit.training.adapters import LowRankUpdates, choose_kernels
from tlkit.training.cached_cut import (
    reason_not_to_store,
    required_and_available_bytes,
    view_policy_for,
)
from tlkit.training.checks import check_recipe
from tlkit.training.fine_tuning import default_epochs
from tlkit.training.frozen import FrozenPart
from tlkit.training.head import is_trained
from tlkit.training.lora import Lora, adapters_of
from tlkit.training.objective import loss_of, metrics_of, targets_of
from tlkit.training.rates import LayerwiseAdamW
from tlkit.training.recipe import DEFAULT_AUGMENTATION, Recipe
from tlkit.training.sources import source_of, steps_in_epoch
from tlkit.training.stages import default_unfreeze
from tlkit.training.step import hooked
from tlkit.training.weight_change import restored_afterwards
from tlkit.utils.formatting import megabytes
from tlkit.utils.text_repr import ShownAsText

DEFAULT_BATCH_SIZE = 32

_OPTIMIZER_VALUES = 3  # a gradient and AdamW's two moments per trainable value
_NUM_MODEL_FILES = 2  # the .keras file and the SavedModel
_NUM_DECODED = 32
_EPOCHS = range(1_000)
_MIN_SECONDS = 0.1
"""Minimum duration of each of up to five measurements, precise enough for an estimate."""


@dataclass(frozen=True)
class CostReport(ShownAsText):
    """The estimated cost of training on this machine.

    Attributes:
        groups: Parameters, multiply-adds and activations of each group, input side first.
        unfreeze: What is trained.
        num_trainable: Number of trainable values.
        batch_size: Images per step.
        forward_milliseconds: Measured time per image of a forward pass up to the head's input, with
            this batch size, float32, without decoding; `None` if nothing was timed.
        step_seconds: Measured time of one training step; `None` if only the head is solved, which
            takes no steps, or nothing was timed.
        activation_bytes: Counted: the outputs of all trained layers, which a step keeps for its
            gradients, or the peak of activations in a forward pass if that is larger.
        memory_bytes: Counted: activations, all weights, gradients and AdamW's moments.
        is_stored: Whether activations of the frozen part are stored and steps read them.
        num_epochs: Number of epochs; 0 if only the head is solved.
        solves_head: Whether the head is solved, which is not included in `seconds`.
        seconds: Estimated time of each part in order, if nothing is stored yet and training does
            not stop early; empty without data, or if nothing was timed. "preparing" is the time
            before the first image: tracing and freezing graphs, and setting up readers. Decoding
            and computation are assumed not to overlap.
        disk_bytes: The disk space for activations in float32 and for model files; empty without
            data.
    """

    _derived = ("total_seconds", "total_disk_bytes")

    groups: tuple[GroupCost, ...]
    unfreeze: str | int
    num_trainable: int
    batch_size: int
    forward_milliseconds: float | None
    step_seconds: float | None
    activation_bytes: int
    memory_bytes: int
    is_stored: bool
    num_epochs: int
    solves_head: bool
    seconds: dict[str, float]
    disk_bytes: dict[str, int]

    @property
    def total_seconds(self) -> float:
        """Total time of all parts; 0 without data."""
        return sum(self.seconds.values())

    @property
    def total_disk_bytes(self) -> int:
        """Total disk space; 0 without data."""
        return sum(self.disk_bytes.values())

    @property
    def headline(self) -> str:
        """The number of trainable parameters, and the total time if it was estimated."""
        total = sum(group.num_parameters for group in self.groups)
        time = f": about {duration(self.total_seconds)}" if self.seconds else ""
        return f"{self.num_trainable:,} of {total:,} parameters are trainable{time}"

    def __str__(self) -> str:
        width = max(len("group"), *(len(group.name) for group in self.groups))
        lines = [f"{'group':<{width}}  parameters  multiply-adds  activations per image"]
        lines += [
            f"{group.name:<{width}}  {group.num_parameters:>10,}  {group.multiply_adds:>13,}"
            f"  {megabytes(FLOAT_BYTES * group.num_activations):>21}"
            for group in self.groups
        ]
        return "\n".join([*lines, *self._totals()])

    def _brief(self) -> str:
        return "\n".join([*self._totals(), *str(self).splitlines()[: 1 + len(self.groups)]])

    def _totals(self) -> list[str]:
        """Returns the lines except the table of groups."""
        total = sum(group.num_parameters for group in self.groups)
        lines = [f"{self.num_trainable:,} of {total:,} parameters are trainable"]
        if self.forward_milliseconds is not None:
            step = f"forward pass {self.forward_milliseconds:.1f} ms per image"
            if self.step_seconds is not None:
                step += (
                    f", training step {1000 * self.step_seconds:.0f} ms per batch of "
                    f"{self.batch_size}"
                )
            lines.append(f"measured: {step}")
        lines.append(
            f"memory: about {megabytes(self.memory_bytes)}, of which "
            f"{megabytes(self.activation_bytes)} activations"
        )
        if self.seconds:
            parts = ", ".join(f"{name} {duration(took)}" for name, took in self.seconds.items())
            left_out = "; without solving the head" if self.solves_head else ""
            lines.append(f"time: about {duration(self.total_seconds)} ({parts}){left_out}")
        if self.disk_bytes:
            parts = ", ".join(f"{name} {megabytes(size)}" for name, size in self.disk_bytes.items())
            lines.append(f"disk: {megabytes(self.total_disk_bytes)} ({parts})")
        return lines


def estimate_cost(
    model: keras.Model,
    data: ImageData | None = None,
    *,
    unfreeze: str | int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    augment: AugmentLike = DEFAULT_AUGMENTATION,
    views: int | None = None,
    train: str = "all",
    adapters: Lora | str | None = None,
    is_timed: bool = True,
    cache: str | os.PathLike[str] | None = None,
) -> CostReport:
    """Estimates the cost of training on this machine, from the graph and a few measured steps.

    It takes some seconds, less than one without timing. The model is unchanged afterwards: weights,
    the random state of dropout, and what is trainable. The time is an estimate for the machine's
    current load: training may stop early, find stored features, and compute them in bfloat16 if
    that is faster. Solving the head is not included, as its number of iterations is not known
    before.

    Args:
        model: A classifier.
        data: The result of `load_folder`, `load_arrays` or `load_tfds`; without it, no time is
            estimated.
        unfreeze: As for `fine_tune`; "head" without `epochs` is the cost of `train_head`.
        epochs: As for `fine_tune`, with the same default.
        batch_size: Images per step, only without `data`; 32 by default.
        augment: As for `fine_tune`.
        views: As for `fine_tune`; for the head alone as for `train_head`.
        train: As for `fine_tune`.
        adapters: As for `fine_tune`.
        is_timed: Whether to measure times; otherwise everything is counted from the graph.
        cache: Folder of the feature stores; its free space decides whether activations are stored.

    Raises:
        ArgumentError: An argument is invalid, or data and model do not fit.

    Example:
        >>> import tlkit
        >>> from tlkit.advice.cost import estimate_cost
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> report = estimate_cost(model, unfreeze="stage3")
        >>> [group.name for group in report.groups], report.step_seconds > 0
        (['stage1', 'stage2', 'stage3', 'head'], True)
    """
    augmentation = _augmentation(augment, data)
    recipe = Recipe(train=train, adapters=adapters_of(adapters))
    check_recipe(recipe, model, epochs)
    batch_size = _check_arguments(model, data, views, batch_size)
    solves_head = unfreeze == "head" and epochs is None
    if unfreeze is None:
        unfreeze = default_unfreeze(model)
    first = resolve_group(model, unfreeze)
    groups = group_costs(model)
    head_views = views or 1 if solves_head else 1
    views = view_policy_for(views, augmentation).number
    num_epochs = 0
    if data is not None and not solves_head:
        num_epochs = epochs or default_epochs(steps_in_epoch(data.train))
    is_stored = solves_head or not reason_not_to_store(
        model, first, views=views, epochs=num_epochs or None
    )
    cut = cut_before(model, groups[first].name) if is_stored and first else None
    if cut is not None and data is not None and not solves_head:
        part = FrozenPart(below(model, cut))
        required, available = required_and_available_bytes(part, _num_images(data, views), cache)
        if required > available:
            is_stored, cut = False, None
    num_trainable, step = _time_step(
        model, cut, unfreeze, recipe, batch_size=batch_size, is_timed=is_timed and not solves_head
    )
    forward = _time_forward(model, feature_cut(model), batch_size) if is_timed else None
    num_kept = 0 if solves_head else sum(group.num_activations for group in groups[first:])
    activations = FLOAT_BYTES * batch_size * max(num_kept, peak_activations(model))
    seconds: dict[str, float] = {}
    disk: dict[str, int] = {}
    is_solved = solves_head or not is_trained(model)
    if data is not None:
        features = _num_images(data, head_views) if is_solved else 0
        stored = _num_images(data, views) if is_stored and not solves_head else 0
        disk = _disk_bytes(model, features, stored * groups[first].num_inputs)
    if data is not None and forward is not None:
        below_cut = _time_forward(model, cut, batch_size) if cut is not None else NOTHING
        if solves_head and head_views == 1:
            augmentation = Augmentation("none")
        timings = _collect_timings(data, augmentation, forward, below_cut, step)
        if solves_head:
            seconds = estimate_head_seconds(data, timings, views=head_views)
        else:
            plan = {"epochs": num_epochs, "views": views}
            seconds = estimate_plan_seconds(
                data, timings, is_solved=is_solved, is_stored=is_stored, **plan
            )
    return CostReport(
        groups=groups,
        unfreeze=unfreeze,
        num_trainable=num_trainable,
        batch_size=batch_size,
        forward_milliseconds=None if forward is None else 1000 * forward.typical,
        step_seconds=None if step is None else step.typical,
        activation_bytes=activations,
        memory_bytes=activations
        + FLOAT_BYTES * (model.count_params() + _OPTIMIZER_VALUES * num_trainable),
        is_stored=is_stored,
        num_epochs=num_epochs,
        solves_head=is_solved,
        seconds=seconds,
        disk_bytes=disk,
    )


def _disk_bytes(model: keras.Model, num_features: int, num_activations: int) -> dict[str, int]:
    """Returns the bytes of what is written.

    Args:
        model: The model.
        num_features: Number of images and views whose features are stored.
        num_activations: Number of activations that are stored, of all images and views.
    """
    disk = {
        "features": num_features * int(np.prod(feature_cut(model).shape[1:])),
        "activations": num_activations,
        "model files": _NUM_MODEL_FILES * model.count_params(),
    }
    return {name: FLOAT_BYTES * number for name, number in disk.items() if number}


def _augmentation(augment: AugmentLike, data: ImageData | None) -> Augmentation:
    """Returns the checked augmentation of the training images."""
    augmentation = augmentation_of(augment)
    if isinstance(data, ImageData):
        augmentation = augmentation_for(augmentation, data.train)
        check_augmentation(augmentation, data.train)
    return augmentation


def _check_arguments(
    model: keras.Model,
    data: ImageData | None,
    views: int | None,
    batch_size: int | None,
) -> int:
    """Checks the arguments, and returns the batch size."""
    if views is not None:
        check_count("views", views, minimum=0)
    if data is None:
        batch_size = DEFAULT_BATCH_SIZE if batch_size is None else batch_size
        check_count("batch_size", batch_size)
        return batch_size
    if not isinstance(data, ImageData):
        raise ArgumentError(
            "`data` must be the result of load_folder, load_arrays or load_tfds, or None. "
            f"Received: data of type {type(data).__name__}. Load the images first."
        )
    if batch_size is not None:
        raise ArgumentError(
            "`batch_size` must be left out if `data` is given, which has its own. "
            f"Received: batch_size={batch_size!r}. Set it when loading the data."
        )
    source_of(model, data, None)
    check_one_device(model, "estimate_cost")
    return data.batch_size


def _time_step(
    model: keras.Model,
    cut: keras.KerasTensor | None,
    unfreeze: str | int,
    recipe: Recipe,
    *,
    batch_size: int,
    is_timed: bool,
) -> tuple[int, Timing | None]:
    """Returns the number of trainable values and the time of a step; restores the model.

    With adapters, the step is that of their kernels, which takes about as long.
    """
    with restored_afterwards(model):
        report = set_trainable_flags(
            model, unfreeze, batch_norm=recipe.batch_norm, parts=recipe.parts
        )
        if recipe.adapters is not None:
            kernels = choose_kernels(model, recipe.adapters).adapted
            report = LowRankUpdates(recipe.adapters, kernels, seed=0).counted(report)
        num_trainable = report.num_trainable
        if not is_timed:
            return num_trainable, None
        trained = model if cut is None else above(model, cut)
        trainee = hooked(trained)
        optimizer = LayerwiseAdamW(1e-6, multipliers={})
        trainee.compile(
            optimizer=optimizer, loss=loss_of(model), metrics=metrics_of(model), jit_compile=False
        )
        optimizer.build(trainee.trainable_variables)  # otherwise the step would be traced twice
        targets = targets_of(_labels(model, batch_size), model).numpy()
        batch = (_any_inputs(trained, batch_size), targets)
        return num_trainable, time_calls(lambda: trainee.train_on_batch(*batch), _MIN_SECONDS)


def _any_inputs(model: keras.Model, batch_size: int) -> tf.Tensor:
    """Returns a batch of random pixels; or of empty texts or zeros, which all layers take."""
    spec = describe_inputs(model)
    shape = (batch_size, *(side or 1 for side in spec.input_shape[1:]))
    if spec.takes_images:
        return tf.constant(np.random.default_rng(0).integers(0, 256, shape), tf.float32)
    return tf.zeros(shape, spec.input_dtype)


def _labels(model: keras.Model, batch_size: int) -> np.ndarray:
    num_classes = num_classes_of(model)
    labels = np.arange(batch_size) % num_classes
    return np.eye(num_classes)[labels] if head_kind(model) == "multi_label" else labels


def _collect_timings(
    data: ImageData,
    augmentation: Augmentation,
    forward: Timing,
    below_cut: Timing,
    step: Timing | None,
) -> Timings:
    decoding = augmenting = _time_decoding(data.train, Augmentation("none"))
    if not augmentation.is_none:
        augmenting = _time_decoding(data.train, augmentation)
    return Timings(forward, below_cut, decoding, augmenting, step or NOTHING)


def _time_forward(model: keras.Model, tensor: keras.KerasTensor, batch_size: int) -> Timing:
    """Returns the forward time per image; tracing and freezing the graph count as set-up."""
    part = FrozenPart(below(model, tensor))
    images = tf.cast(_any_inputs(model, batch_size), part.input_dtype)
    return time_calls(lambda: part.float32(images).numpy(), _MIN_SECONDS).divide(batch_size)


def _time_decoding(split: ImageSplit, augmentation: Augmentation) -> Timing:
    """Returns the time to read and augment one image; setting up readers counts as set-up."""
    rows = np.arange(min(split.num_images, _NUM_DECODED))

    def read_batches() -> Iterator[object]:
        yield from split.dataset(
            shuffle=False, augment=augmentation.by_image, indices=rows, epochs=_EPOCHS, keep=False
        )

    batches = read_batches()  # the set-up happens with the first batch
    num_batches = -(-len(rows) // split.batch_size)
    read = time_calls(lambda: [next(batches) for _ in range(num_batches)], _MIN_SECONDS)
    return read.divide(len(rows))


def _num_images(data: ImageData, views: int) -> int:
    held_out = data.validation.num_images if data.validation is not None else 0
    return views * data.train.num_images + held_out
