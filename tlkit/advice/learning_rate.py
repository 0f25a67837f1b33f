"""Learning-rate range test: suggests a rate by a sweep of increasing rates."""

from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from tlkit.data.augmentation import Augmentation, AugmentLike, augmentation_of
from tlkit.data.augmentation_checks import augmentation_for, check_augmentation
from tlkit.data.images import ImageData, ImageSplit
from tlkit.data.missing_files import missing_files_named
from tlkit.distribution.strategies import check_one_device
from tlkit.errors import ArgumentError, TrainingError, check_count, check_positive
from tlkit.evaluation.data_checks import Images
from tlkit.models.groups import set_trainable_flags
from tlkit.models.heads import head_kind, outputs_logits
from tlkit.training.inference_mode import find_frozen_calls
from tlkit.training.objective import check_loss, loss_of, takes_one_hot
from tlkit.training.recipe import DEFAULT_BATCH_NORM, DEFAULT_LEARNING_RATE
from tlkit.training.sources import source_of, with_targets
from tlkit.training.stages import default_unfreeze
from tlkit.training.step import hooked
from tlkit.training.weight_change import restored_afterwards
from tlkit.utils.progress import track
from tlkit.utils.text_repr import ShownAsText

SMOOTHING = 0.9
"""Decay of the exponential moving average of losses."""

MIN_STEPS = 10
"""Minimum number of steps before the moving average is used, so that it is not mostly noise."""

DIVERGED = 2.0
"""The sweep ends when the smoothed loss exceeds its minimum by this multiple of the initial loss,
or of the loss of uniform predictions if that is larger, or when the loss is not finite.

The initial loss alone is no suitable scale: for a model that fits its data it may be 1e-5, and ten
times as much on the next batch with the same weights."""

MIN_FALL = 0.02
"""Minimum decrease of the smoothed loss, as a fraction of the initial loss, for a suggestion."""

MIN_SIGNAL = 2.0
"""Minimum decrease in standard deviations of the batches' losses. Of 2,000 curves of 100 steps of
pure noise none reached it; of 1,000 with a true decrease of three deviations 98 % did."""

_MAX_LOSS_RATIO = (
    1.2  # relative to the initial loss; steps with higher losses are not used to estimate noise
)


@dataclass(frozen=True)
class LearningRateReport(ShownAsText):
    """The result of a learning-rate sweep.

    Attributes:
        rates: The rate of each step, `(n,)`, increasing by a constant factor.
        losses: The loss of each step's batch before its update, `(n,)`.
        smoothed: The exponential moving average of the losses, `(n,)`.
        suggestions: The rate suggested by each rule: "steepest" at the steepest descent of the
            smoothed loss over the logarithm of the rate, "minimum" a tenth of the rate at its
            minimum, "valley" two thirds (of the logarithm of the rate) of the way from its maximum
            to its minimum. Empty if the curve is flat.
        suggestion: The median of the suggestions; if the curve is flat, the default of `fine_tune`.
        unfreeze: What was trained.
        notes: Whether the curve is flat, and what that means.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    suggestions: dict[str, float]
    suggestion: float
    unfreeze: str | int
    notes: tuple[str, ...] = ()

    @property
    def is_flat(self) -> bool:
        """Whether the loss never decreased by more than its noise."""
        return not self.suggestions

    def __str__(self) -> str:
        if self.is_flat:
            return f"learning_rate={self.suggestion:.1e} (default): {'; '.join(self.notes)}"
        rules = ", ".join(f"{name} {rate:.1e}" for name, rate in self.suggestions.items())
        return (
            f"learning_rate={self.suggestion:.1e} for unfreeze={self.unfreeze!r} ({rules}; "
            f"{len(self.rates)} steps up to {self.rates[-1]:.1e})"
        )


def find_learning_rate(
    model: keras.Model,
    data: ImageData | tf.data.Dataset,
    *,
    unfreeze: str | int | None = None,
    lowest: float = 1e-6,
    highest: float = 1.0,
    num_steps: int = 100,
    weight_decay: float = 0.0,
    augment: AugmentLike = "default",
    loss: keras.losses.Loss | None = None,
) -> LearningRateReport:
    """Suggests a learning rate by training some steps with increasing rates.

    The model is unchanged afterwards: weights, the random state of dropout, and what is trainable.
    Train its head first (`train_head`), since the suggestion is for the model in its current state.
    If the loss never decreases by more than it varies between batches, the curve is flat, which is
    noted in the report, and the default of `fine_tune` is suggested.

    Args:
        model: A classifier.
        data: As `fine_tune` takes it.
        unfreeze: What is trained; the default is that of `fine_tune`.
        lowest: The first rate.
        highest: The last rate, unless the loss diverges before.
        num_steps: Number of steps from `lowest` to `highest`.
        weight_decay: The weight decay of AdamW.
        augment: Augmentation of the training images: a preset or Keras layers, see `fine_tune`;
            images are not mixed.
        loss: As `fine_tune` takes it; the cross-entropy that fits the head by default.

    Raises:
        ArgumentError: An argument is invalid.
        TrainingError: The loss diverges at the first rates, or is not finite at the beginning.

    Example:
        >>> import numpy as np, tlkit
        >>> images = np.random.default_rng(0).integers(0, 99, (64, 32, 32, 3), "uint8")
        >>> images[::2] += 100
        >>> data = tlkit.load_arrays(images, np.arange(64) % 2, ["bright", "dark"])
        >>> model = tlkit.build_classifier("resnet20", data.class_names, weights=None)
        >>> found = tlkit.find_learning_rate(model, data, unfreeze="head", num_steps=30)
        >>> 1e-6 < found.suggestion < 1
        True

    Reference:
        Smith (2017), section 3.3, https://arxiv.org/abs/1506.01186 (with a linearly increasing
        rate; here it increases by a constant factor).
    """
    for name, value in (("lowest", lowest), ("highest", highest)):
        check_positive(name, value)
    if highest <= lowest:
        raise ArgumentError(
            f"`highest` must be above `lowest`. Received: highest={highest!r}, lowest={lowest!r}. "
            "Exchange them, or leave them out."
        )
    check_count("num_steps", num_steps, minimum=20)
    check_one_device(model, "find_learning_rate")
    check_loss(loss, model)
    loss = loss_of(model) if loss is None else loss
    augmentation, source = augmentation_of(augment), source_of(model, data, None)
    augmentation = augmentation_for(augmentation, source.train)
    if isinstance(source.train, ImageSplit):
        check_augmentation(augmentation, source.train)
    if unfreeze is None:
        unfreeze = default_unfreeze(model)
    rates = np.geomspace(lowest, highest, num_steps)
    with restored_afterwards(model):
        report = set_trainable_flags(model, unfreeze, batch_norm=DEFAULT_BATCH_NORM)
        frozen_calls = find_frozen_calls(model, unfreeze, report)
        batches = _repeat_batches(source.train, model, augmentation, one_hot=takes_one_hot(loss))
        trainee = hooked(model, frozen_calls=frozen_calls)
        with missing_files_named([source.train]):
            losses = _run_sweep(
                trainee,
                batches,
                rates,
                loss,
                weight_decay=weight_decay,
                uniform_outputs=_uniform_outputs(model),
            )
    if not len(losses):
        raise TrainingError(
            "`model` must have a finite loss at the beginning. Received: a loss that is not finite "
            "at the first step. Check for weights that are not finite, or reload earlier weights."
        )
    if len(losses) < MIN_STEPS:
        raise TrainingError(
            "`lowest` must be a rate at which the loss does not diverge. Received: "
            f"lowest={lowest!r}, with which it diverged after {len(losses)} steps. Try "
            f"lowest={lowest / 100:.0e}."
        )
    rates = rates[: len(losses)]
    smoothed = _smooth(losses)
    flat_reason = _flat_reason(rates, losses, smoothed)
    suggestions = {} if flat_reason else _suggest(rates, smoothed)
    return LearningRateReport(
        rates=rates,
        losses=losses,
        smoothed=smoothed,
        suggestions=suggestions,
        suggestion=float(np.median([*suggestions.values()] or [DEFAULT_LEARNING_RATE])),
        unfreeze=unfreeze,
        notes=(flat_reason,) if flat_reason else (),
    )


def _repeat_batches(
    images: Images, model: keras.Model, augmentation: Augmentation, *, one_hot: bool
) -> tf.data.Dataset:
    if isinstance(images, ImageSplit):
        images = images.dataset(shuffle=True, augment=augmentation.by_image)
    return with_targets(images.repeat(), model, one_hot=one_hot)


def _run_sweep(
    trainee: keras.Model,
    batches: tf.data.Dataset,
    rates: np.ndarray,
    loss: keras.losses.Loss,
    *,
    weight_decay: float,
    uniform_outputs: np.ndarray,
) -> np.ndarray:
    """Returns the losses of the steps up to the last rate, or until they diverge.

    Args:
        trainee: The model to train.
        batches: An infinite data set.
        rates: The rate of each step.
        loss: The loss to minimise.
        weight_decay: The weight decay of AdamW.
        uniform_outputs: The outputs of a uniform prediction, `(1, num_outputs)`.
    """
    optimizer = keras.optimizers.AdamW(float(rates[0]), weight_decay=weight_decay)
    trainee.compile(optimizer=optimizer, loss=loss, jit_compile=False)
    optimizer.build(trainee.trainable_variables)  # or the step would be traced twice
    losses: list[float] = []
    uniform_loss = 0.0
    for rate, batch in track(zip(rates, batches, strict=False), "learning rates", len(rates)):
        if not losses:
            targets = batch[1]
            uniform_loss = float(loss(targets, np.repeat(uniform_outputs, len(targets), axis=0)))
        optimizer.learning_rate = float(rate)
        value = float(trainee.train_on_batch(*batch))
        trainee.reset_metrics()
        losses.append(value)
        smoothed = _smooth(np.array(losses))
        limit = smoothed.min() + DIVERGED * max(smoothed[0], uniform_loss)
        if not np.isfinite(value) or smoothed[-1] > limit:
            break
    return np.array([value for value in losses if np.isfinite(value)])


def _uniform_outputs(model: keras.Model) -> np.ndarray:
    """Returns outputs that give each class the same probability, float32 `(1, num_outputs)`."""
    num_outputs = model.output_shape[-1]
    value = 0.0
    if not outputs_logits(model):
        value = 1 / num_outputs if head_kind(model) == "softmax" else 0.5
    return np.full((1, num_outputs), value, np.float32)


def _smooth(losses: np.ndarray) -> np.ndarray:
    """Returns the bias-corrected exponential moving average."""
    mean, out = 0.0, []
    for step, loss in enumerate(losses, start=1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        out.append(mean / (1 - SMOOTHING**step))
    return np.array(out)


def _flat_reason(rates: np.ndarray, losses: np.ndarray, smoothed: np.ndarray) -> str:
    """Returns why a curve counts as flat, or "" if the loss decreases significantly."""
    start = MIN_STEPS - 1
    lowest = start + int(smoothed[start:].argmin())
    fall = float(smoothed[start : lowest + 1].max() - smoothed[lowest])
    steps = np.diff(losses)[smoothed[1:] <= _MAX_LOSS_RATIO * smoothed[start]]
    noise = float(np.sqrt(np.mean(np.square(steps)) / 2)) if len(steps) else 0.0
    min_fall = max(MIN_FALL * float(smoothed[start]), MIN_SIGNAL * noise)
    if lowest >= start + 2 and fall >= min_fall:
        return ""
    return (
        f"the curve is flat: between {rates[0]:.1e} and {rates[-1]:.1e} the loss decreased by "
        f"{fall:.3f}, and less than {min_fall:.3f} is within noise. The model may already fit its "
        "data, as a solved head does; more steps (`num_steps`) or larger batches reduce the noise"
    )


def _suggest(rates: np.ndarray, smoothed: np.ndarray) -> dict[str, float]:
    start = min(MIN_STEPS, len(smoothed)) - 1
    rates, smoothed = rates[start:], smoothed[start:]
    lowest = int(smoothed.argmin())
    descent = smoothed[: lowest + 1]
    top = int(descent.argmax())
    slope = np.gradient(smoothed[: lowest + 1], np.log(rates[: lowest + 1]))
    return {
        "steepest": float(rates[slope.argmin()]),
        "minimum": float(rates[lowest] / 10),
        "valley": float(np.exp(np.interp(2 / 3, [0, 1], np.log(rates[[top, lowest]])))),
    }
