"""What a plan costs before it starts: work, memory, a measured step, time and disk."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from tlkit.advice.graph_costs import FLOAT_BYTES, GroupCost, group_costs, peak_activations
from tlkit.advice.projection import NOTHING, Timings, seconds_of_head, seconds_of_plan
from tlkit.advice.timing import Timed, timed
from tlkit.data.augmentation import AUGMENTATIONS
from tlkit.data.images import ImageData, ImageSplit
from tlkit.displays.activity import duration
from tlkit.distribution.strategies import check_one_device
from tlkit.errors import ArgumentError, check_choice, check_count
from tlkit.evaluation.names import num_classes_of
from tlkit.models.flattening import above, below
from tlkit.models.groups import cut_before, resolve_group, set_trainable_flags
from tlkit.models.heads import feature_cut, head_kind
from tlkit.training.cached_cut import (
    reason_not_to_store,
    required_and_available_bytes,
    view_policy_for,
)
from tlkit.training.fine_tuning import default_epochs
from tlkit.training.frozen import FrozenPart
from tlkit.training.head import is_trained
from tlkit.training.objective import loss_of, metrics_of, targets_of
from tlkit.training.rates import LayerwiseAdamW
from tlkit.training.recipe import DEFAULT_AUGMENTATION
from tlkit.training.sources import source_of, steps_in_epoch
from tlkit.training.stages import default_unfreeze
from tlkit.training.step import hooked
from tlkit.training.weight_change import restored_afterwards
from tlkit.utils.formatting import megabytes
from tlkit.utils.text_repr import ShownAsText

DEFAULT_BATCH_SIZE = 32

_OPTIMIZER_VALUES = 3  # a gradient and AdamW's two moments for each value that trains
_DECODED = 32
_ENOUGH_PASSES = range(1_000)
_LEAST_SECONDS = 0.1
"""Of each measurement: there are up to five of them, and a projection need not be finer."""


@dataclass(frozen=True)
class CostReport(ShownAsText):
    """What a plan costs on this machine.

    Attributes:
        groups: Parameters, work and activations of each group, input side first.
        unfreeze: What is to train.
        num_trainable: Values that training moves.
        batch_size: Images in a step.
        forward_milliseconds: Measured: a forward pass of all below the head's weights, for one
            image of such a batch, float32, decoding not included; `None` where nothing was timed.
        step_seconds: Measured: one training step of what trains, on a batch; `None` where the head
            alone is solved, which takes no steps, or nothing was timed.
        activation_bytes: Counted: what a step keeps for its gradients, the outputs of all layers
            that train, or, if that is more, the most that lies in memory in a forward pass.
        memory_bytes: Counted: that, all weights, and gradients and AdamW's moments of what trains.
        is_stored: Whether activations of the frozen part are stored and steps read from them.
        num_epochs: Of the plan; 0 where the head alone is solved.
        solves_head: Whether the head is solved, which `seconds` leaves out.
        seconds: Each part of the plan in order and about what it takes, if nothing is stored yet
            and no epoch is saved; empty without data, or where nothing was timed. "preparing" is
            what comes before the first image: tracing and freezing graphs, setting readers up.
            Decoding and computing are taken one after the other.
        disk_bytes: What the plan writes: activations in float32, and model files; empty without
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
        """Of all parts of the plan; 0 without data."""
        return sum(self.seconds.values())

    @property
    def total_disk_bytes(self) -> int:
        """All that the plan writes; 0 without data."""
        return sum(self.disk_bytes.values())

    @property
    def headline(self) -> str:
        """How much trains, and how long that takes where it was measured."""
        total = sum(group.num_parameters for group in self.groups)
        time = f": about {duration(self.total_seconds)}" if self.seconds else ""
        return f"{self.num_trainable:,} of {total:,} parameters train{time}"

    def __str__(self) -> str:
        width = max(len("group"), *(len(group.name) for group in self.groups))
        lines = [f"{'group':<{width}}  parameters  multiply-adds  activations of an image"]
        lines += [
            f"{group.name:<{width}}  {group.num_parameters:>10,}  {group.multiply_adds:>13,}"
            f"  {megabytes(FLOAT_BYTES * group.num_activations):>23}"
            for group in self.groups
        ]
        return "\n".join([*lines, *self._totals()])

    def _brief(self) -> str:
        return "\n".join([*self._totals(), *str(self).splitlines()[: 1 + len(self.groups)]])

    def _totals(self) -> list[str]:
        """Everything but the table of the groups, line by line."""
        total = sum(group.num_parameters for group in self.groups)
        lines = [f"{self.num_trainable:,} of {total:,} parameters train"]
        if self.forward_milliseconds is not None:
            step = f"{self.forward_milliseconds:.1f} ms for an image's forward pass"
            if self.step_seconds is not None:
                step += (
                    f", {1000 * self.step_seconds:.0f} ms for a step of {self.batch_size} images"
                )
            lines.append(f"measured here: {step}")
        lines.append(
            f"memory of a step: about {megabytes(self.memory_bytes)}, "
            f"{megabytes(self.activation_bytes)} of it activations"
        )
        if self.seconds:
            parts = ", ".join(f"{name} {duration(took)}" for name, took in self.seconds.items())
            left_out = "; solving the head is not included" if self.solves_head else ""
            lines.append(f"about {duration(self.total_seconds)}: {parts}{left_out}")
        if self.disk_bytes:
            parts = ", ".join(f"{name} {megabytes(size)}" for name, size in self.disk_bytes.items())
            lines.append(f"on disk {megabytes(self.total_disk_bytes)}: {parts}")
        return lines


def estimate_cost(
    model: keras.Model,
    data: ImageData | None = None,
    *,
    unfreeze: str | int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    augment: str = DEFAULT_AUGMENTATION,
    views: int | None = None,
    is_timed: bool = True,
    cache: str | os.PathLike[str] | None = None,
) -> CostReport:
    """Says what training would cost here, from the graph and a few measured steps.

    It takes some seconds, without timing less than one. The model is as it was afterwards:
    weights, dropout's random state, what trains. The time is an estimate, for a machine that goes
    on as busy as it is: training may stop earlier, find features that are stored, and compute them
    in bfloat16 where that is faster. Solving the head is not in it: how many passes over the
    features that takes shows only while it is done.

    Args:
        model: A classifier.
        data: What `load_folder`, `load_arrays` or `load_tfds` returned; without it there is no
            projected time.
        unfreeze: As for `fine_tune`; "head" without `epochs` is what `train_head` does.
        epochs: As for `fine_tune`, whose own is the default.
        batch_size: Images in a step, where there is no `data`, which has its own; 32 by default.
        augment: As for `fine_tune`.
        views: As for `fine_tune`; with the head alone as for `train_head`.
        is_timed: Whether anything is run to measure time; otherwise all is counted.
        cache: Folder of the feature stores; room there decides whether activations are stored.

    Raises:
        ArgumentError: An argument breaks its rule, or data and model do not fit.

    Example:
        >>> import tlkit
        >>> from tlkit.advice.cost import estimate_cost
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> report = estimate_cost(model, unfreeze="stage3")
        >>> [group.name for group in report.groups], report.step_seconds > 0
        (['stage1', 'stage2', 'stage3', 'head'], True)
    """
    check_choice("augment", augment, AUGMENTATIONS)
    batch_size = _checked(model, data, epochs, views, batch_size)
    solves_head = unfreeze == "head" and epochs is None
    if unfreeze is None:
        unfreeze = default_unfreeze(model)
    first = resolve_group(model, unfreeze)
    groups = group_costs(model)
    head_views = views or 1 if solves_head else 1
    views = view_policy_for(views, augment).number
    num_epochs = 0
    if data is not None and not solves_head:
        num_epochs = epochs or default_epochs(steps_in_epoch(data.train))
    is_stored = solves_head or not reason_not_to_store(
        model, first, views=views, epochs=num_epochs or None
    )
    cut = cut_before(model, groups[first].name) if is_stored and first else None
    if cut is not None and data is not None and not solves_head:
        part = FrozenPart(below(model, cut))
        wanted, room = required_and_available_bytes(part, _num_images(data, views), cache)
        if wanted > room:
            is_stored, cut = False, None
    has_steps = is_timed and not solves_head
    num_trainable, step = _step(model, cut, unfreeze, batch_size, is_timed=has_steps)
    forward = _forward(model, feature_cut(model), batch_size) if is_timed else None
    kept = 0 if solves_head else sum(group.num_activations for group in groups[first:])
    activations = FLOAT_BYTES * batch_size * max(kept, peak_activations(model))
    seconds: dict[str, float] = {}
    disk: dict[str, int] = {}
    is_solved = solves_head or not is_trained(model)
    if data is not None:
        num_features = int(np.prod(feature_cut(model).shape[1:]))
        if is_solved:
            disk["features"] = FLOAT_BYTES * num_features * _num_images(data, head_views)
        if is_stored and not solves_head:
            disk["activations"] = FLOAT_BYTES * groups[first].num_inputs * _num_images(data, views)
        disk["model files"] = 2 * FLOAT_BYTES * model.count_params()  # .keras and the SavedModel
    if data is not None and forward is not None:
        below_cut = _forward(model, cut, batch_size) if cut is not None else NOTHING
        is_augmented = head_views > 1 if solves_head else augment != "none"
        timings = _timings(data, augment if is_augmented else "none", forward, below_cut, step)
        if solves_head:
            seconds = seconds_of_head(data, timings, views=head_views)
        else:
            plan = {"epochs": num_epochs, "views": views}
            seconds = seconds_of_plan(
                data, timings, is_solved=is_solved, is_stored=is_stored, **plan
            )
    return CostReport(
        groups=groups,
        unfreeze=unfreeze,
        num_trainable=num_trainable,
        batch_size=batch_size,
        forward_milliseconds=None if forward is None else 1000 * forward.usual,
        step_seconds=None if step is None else step.usual,
        activation_bytes=activations,
        memory_bytes=activations
        + FLOAT_BYTES * (model.count_params() + _OPTIMIZER_VALUES * num_trainable),
        is_stored=is_stored,
        num_epochs=num_epochs,
        solves_head=is_solved,
        seconds=seconds,
        disk_bytes=disk,
    )


def _checked(
    model: keras.Model,
    data: ImageData | None,
    epochs: int | None,
    views: int | None,
    batch_size: int | None,
) -> int:
    """Returns the number of images in a step, after the checks."""
    if epochs is not None:
        check_count("epochs", epochs)
    if views is not None:
        check_count("views", views, minimum=0)
    if data is None:
        batch_size = DEFAULT_BATCH_SIZE if batch_size is None else batch_size
        check_count("batch_size", batch_size)
        return batch_size
    if not isinstance(data, ImageData):
        raise ArgumentError(
            "`data` must be what load_folder, load_arrays or load_tfds returned, or None. "
            f"Received: data of type {type(data).__name__}."
        )
    if batch_size is not None:
        raise ArgumentError(
            "`batch_size` must be left out where `data` is given, which has its own. "
            f"Received: batch_size={batch_size!r}."
        )
    source_of(model, data, None)
    check_one_device(model, "estimate_cost")
    return data.batch_size


def _step(
    model: keras.Model,
    cut: keras.KerasTensor | None,
    unfreeze: str | int,
    batch_size: int,
    *,
    is_timed: bool,
) -> tuple[int, Timed | None]:
    """Returns the number of values that train, and the time of a step; all is put back."""
    with restored_afterwards(model):
        num_trainable = set_trainable_flags(model, unfreeze).num_trainable
        if not is_timed:
            return num_trainable, None
        trained = model if cut is None else above(model, cut)
        trainee = hooked(trained)
        optimizer = LayerwiseAdamW(1e-6, multipliers={})
        trainee.compile(
            optimizer=optimizer, loss=loss_of(model), metrics=metrics_of(model), jit_compile=False
        )
        optimizer.build(trainee.trainable_variables)  # or the step would be traced twice
        random = np.random.default_rng(0)
        images = random.uniform(0, 255, (batch_size, *trained.input_shape[1:]))
        targets = targets_of(_labels(model, batch_size), model).numpy()
        batch = (images.astype("float32"), targets)
        return num_trainable, timed(lambda: trainee.train_on_batch(*batch), _LEAST_SECONDS)


def _labels(model: keras.Model, batch_size: int) -> np.ndarray:
    num_classes = num_classes_of(model)
    labels = np.arange(batch_size) % num_classes
    return np.eye(num_classes)[labels] if head_kind(model) == "multi_label" else labels


def _timings(
    data: ImageData, augment: str, forward: Timed, below_cut: Timed, step: Timed | None
) -> Timings:
    decoding = _decoding(data.train, "none")
    augmenting = decoding if augment == "none" else _decoding(data.train, augment)
    return Timings(forward, below_cut, decoding, augmenting, step or NOTHING)


def _forward(model: keras.Model, tensor: keras.KerasTensor, batch_size: int) -> Timed:
    """The time of one image; tracing and freezing the graph come before the first."""
    part = FrozenPart(below(model, tensor))
    values = np.random.default_rng(0).integers(0, 256, (batch_size, *model.input_shape[1:]))
    images = tf.cast(values, part.input_dtype)
    return timed(lambda: part.float32(images).numpy(), _LEAST_SECONDS).shared_by(batch_size)


def _decoding(split: ImageSplit, augment: str) -> Timed:
    """The time that one image takes until it lies in a batch; readers are set up before."""
    rows = np.arange(min(split.num_images, _DECODED))

    def read_on() -> Iterator[object]:
        yield from split.dataset(
            shuffle=False, augment=augment, indices=rows, epochs=_ENOUGH_PASSES, keep=False
        )

    batches = read_on()  # nothing is set up before the first
    num_batches = -(-len(rows) // split.batch_size)
    read = timed(lambda: [next(batches) for _ in range(num_batches)], _LEAST_SECONDS)
    return read.shared_by(len(rows))


def _num_images(data: ImageData, views: int) -> int:
    held_out = data.validation.num_images if data.validation is not None else 0
    return views * data.train.num_images + held_out
