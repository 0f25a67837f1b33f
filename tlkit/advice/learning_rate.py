"""A rate to fine-tune with, found by a sweep of rising rates."""

from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from tlkit.data.images import ImageData, ImageSplit
from tlkit.data.missing_files import missing_files_named
from tlkit.distribution.strategies import check_one_device
from tlkit.errors import ArgumentError, TrainingError, check_count, check_positive
from tlkit.evaluation.data_checks import Images
from tlkit.models.groups import set_trainable_flags
from tlkit.models.heads import head_kind, outputs_logits
from tlkit.training.inference_mode import find_frozen_calls
from tlkit.training.objective import check_loss, loss_of, takes_one_hot
from tlkit.training.recipe import DEFAULT_LEARNING_RATE
from tlkit.training.sources import source_of, with_targets
from tlkit.training.stages import default_unfreeze
from tlkit.training.step import hooked
from tlkit.training.weight_change import restored_afterwards
from tlkit.utils.progress import track
from tlkit.utils.text_repr import ShownAsText

SMOOTHING = 0.9
"""Weight of the past in the running mean of losses."""

SETTLED = 10
"""Steps before the running mean is one of enough batches to tell a fall from their noise."""

DIVERGED = 2.0
"""The sweep ends when the smoothed loss has risen above its lowest value by so many times the
first one, or that of a model that knows nothing if it is larger, or the loss is not finite.

The first one alone is no measure: where the model has learned its data it may be 1e-5, and that of
the next batch ten times as much at the same weights."""

MIN_FALL = 0.02
"""Share of the first loss that the smoothed one must fall for a suggestion to be made."""

MIN_SIGNAL = 2.0
"""And how many standard deviations of the batches' losses. Of 2,000 curves of 100 steps that were
noise alone, none fell as far; of 1,000 with a true fall of three deviations 98 % fell farther."""

_EXPLODES = 1.2  # times the loss at the beginning: steps behind are not those of noise


@dataclass(frozen=True)
class LearningRateReport(ShownAsText):
    """What a sweep found.

    Attributes:
        rates: The rate of each step, `(n,)`, rising by a constant factor.
        losses: The loss of each step's batch before its update, `(n,)`.
        smoothed: Their running mean over the logarithm of the rate, `(n,)`.
        suggestions: A rate by each rule: "steepest" where the smoothed loss falls fastest,
            "minimum" a tenth of the rate at which it is lowest, "valley" two thirds of the way down
            (in the logarithm of the rate) of its longest fall.
        suggestion: The middle one of them; where the curve is flat there is none, and it is
            `fine_tune`'s default.
        unfreeze: What trained.
        notes: That the curve is flat, and what that means.
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
        """Whether the loss fell at no rate by more than its noise, so that nothing is suggested."""
        return not self.suggestions

    def __str__(self) -> str:
        if self.is_flat:
            return f"learning_rate={self.suggestion:.1e} is kept: {'; '.join(self.notes)}"
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
    augment: str = "default",
    loss: keras.losses.Loss | None = None,
) -> LearningRateReport:
    """Trains for some steps at rates that rise from step to step, and suggests one to train with.

    The model is as it was afterwards: weights, dropout's random state, what trains. Its head should
    be trained (`train_head`), for it is the model as it stands that the suggestion holds for. Where
    the loss falls at no rate by more than it varies from batch to batch, the curve is flat, the
    report says so, and `fine_tune`'s default is kept.

    Args:
        model: A classifier.
        data: As `fine_tune` takes it.
        unfreeze: What is to train; as `fine_tune`'s by default.
        lowest: The first rate.
        highest: The last one, unless the loss has exploded before.
        num_steps: Steps from the one to the other.
        weight_decay: AdamW's.
        augment: Augmentation of the training images, by name.
        loss: As `fine_tune` takes it; the cross-entropy that fits the head by default.

    Raises:
        ArgumentError: An argument breaks its rule.
        TrainingError: The loss explodes at the first rates, or is not finite to begin with.

    Example:
        >>> import numpy as np, tlkit
        >>> images = np.random.default_rng(0).integers(0, 99, (64, 32, 32, 3), "uint8")
        >>> images[::2] += 100
        >>> data = tlkit.load_arrays(images, np.arange(64) % 2, ["bright", "dark"])
        >>> model = tlkit.build_classifier("resnet20", data.class_names, weights=None)
        >>> 1e-6 < tlkit.find_learning_rate(model, data, unfreeze="head").suggestion < 1
        True

    Reference:
        Smith (2017), section 3.3, https://arxiv.org/abs/1506.01186 (there the rate rises linearly;
        here by a constant factor).
    """
    for name, value in (("lowest", lowest), ("highest", highest)):
        check_positive(name, value)
    if highest <= lowest:
        raise ArgumentError(
            f"`highest` must be above `lowest`. Received: highest={highest!r}, lowest={lowest!r}."
        )
    check_count("num_steps", num_steps, minimum=20)
    check_one_device(model, "find_learning_rate")
    check_loss(loss, model)
    loss = loss_of(model) if loss is None else loss
    source = source_of(model, data, None)
    if unfreeze is None:
        unfreeze = default_unfreeze(model)
    rates = np.geomspace(lowest, highest, num_steps)
    with restored_afterwards(model):
        frozen_calls = find_frozen_calls(model, unfreeze, set_trainable_flags(model, unfreeze))
        batches = _endless(source.train, model, augment, one_hot=takes_one_hot(loss))
        trainee = hooked(model, frozen_calls=frozen_calls)
        with missing_files_named([source.train]):
            losses = _sweep(
                trainee,
                batches,
                rates,
                loss,
                weight_decay=weight_decay,
                uninformed=_knows_nothing(model),
            )
    if not len(losses):
        raise TrainingError(
            "`model` must have a finite loss before anything is changed. Received: none at the "
            "first step. Look for weights that are not finite, or load those of before."
        )
    if len(losses) < SETTLED:
        raise TrainingError(
            "`lowest` must be a rate at which the loss does not explode. Received: "
            f"lowest={lowest!r}, and it did after {len(losses)} steps. Try "
            f"lowest={lowest / 100:.0e}."
        )
    rates = rates[: len(losses)]
    smoothed = _smooth(losses)
    flat = _why_flat(rates, losses, smoothed)
    suggestions = {} if flat else _suggestions(rates, smoothed)
    return LearningRateReport(
        rates=rates,
        losses=losses,
        smoothed=smoothed,
        suggestions=suggestions,
        suggestion=float(np.median([*suggestions.values()] or [DEFAULT_LEARNING_RATE])),
        unfreeze=unfreeze,
        notes=(flat,) if flat else (),
    )


def _endless(images: Images, model: keras.Model, augment: str, *, one_hot: bool) -> tf.data.Dataset:
    if isinstance(images, ImageSplit):
        images = images.dataset(shuffle=True, augment=augment)
    return with_targets(images.repeat(), model, one_hot=one_hot)


def _sweep(
    trainee: keras.Model,
    batches: tf.data.Dataset,
    rates: np.ndarray,
    loss: keras.losses.Loss,
    *,
    weight_decay: float,
    uninformed: np.ndarray,
) -> np.ndarray:
    """Returns the losses of the steps until the last rate, or until they explode.

    Args:
        trainee: What trains.
        batches: Without end.
        rates: Of the steps.
        loss: What is to fall.
        weight_decay: AdamW's.
        uninformed: What a model that knows nothing says of an image, `(1, num_outputs)`.
    """
    optimizer = keras.optimizers.AdamW(float(rates[0]), weight_decay=weight_decay)
    trainee.compile(optimizer=optimizer, loss=loss, jit_compile=False)
    optimizer.build(trainee.trainable_variables)  # or the step would be traced twice
    losses: list[float] = []
    large = 0.0
    for rate, batch in track(zip(rates, batches, strict=False), "learning rates", len(rates)):
        if not losses:
            targets = batch[1]
            large = float(loss(targets, np.repeat(uninformed, len(targets), axis=0)))
        optimizer.learning_rate = float(rate)
        value = float(trainee.train_on_batch(*batch))
        trainee.reset_metrics()
        losses.append(value)
        smoothed = _smooth(np.array(losses))
        limit = smoothed.min() + DIVERGED * max(smoothed[0], large)
        if not np.isfinite(value) or smoothed[-1] > limit:
            break
    return np.array([value for value in losses if np.isfinite(value)])


def _knows_nothing(model: keras.Model) -> np.ndarray:
    """Returns outputs that give each class the same probability, float32 `(1, num_outputs)`."""
    num_outputs = model.output_shape[-1]
    value = 0.0
    if not outputs_logits(model):
        value = 1 / num_outputs if head_kind(model) == "softmax" else 0.5
    return np.full((1, num_outputs), value, np.float32)


def _smooth(losses: np.ndarray) -> np.ndarray:
    """A running mean whose start is not drawn towards zero."""
    mean, out = 0.0, []
    for step, loss in enumerate(losses, start=1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        out.append(mean / (1 - SMOOTHING**step))
    return np.array(out)


def _why_flat(rates: np.ndarray, losses: np.ndarray, smoothed: np.ndarray) -> str:
    """Says that a curve is flat; nothing where the loss falls by more than chance makes it fall."""
    start = SETTLED - 1
    lowest = start + int(smoothed[start:].argmin())
    fall = float(smoothed[start : lowest + 1].max() - smoothed[lowest])
    steps = np.diff(losses)[smoothed[1:] <= _EXPLODES * smoothed[start]]
    noise = float(np.sqrt(np.mean(np.square(steps)) / 2)) if len(steps) else 0.0
    least = max(MIN_FALL * float(smoothed[start]), MIN_SIGNAL * noise)
    if lowest >= start + 2 and fall >= least:
        return ""
    return (
        f"the curve is flat: between {rates[0]:.1e} and {rates[-1]:.1e} the loss fell by "
        f"{fall:.3f}, where less than {least:.3f} may be chance. The model may have "
        "learned what it can here, as a solved head has; a noisy curve clears up with more steps "
        "(`num_steps`) or larger batches"
    )


def _suggestions(rates: np.ndarray, smoothed: np.ndarray) -> dict[str, float]:
    start = min(SETTLED, len(smoothed)) - 1
    rates, smoothed = rates[start:], smoothed[start:]
    lowest = int(smoothed.argmin())
    before = smoothed[: lowest + 1]
    top = int(before.argmax())
    slope = np.gradient(smoothed[: lowest + 1], np.log(rates[: lowest + 1]))
    return {
        "steepest": float(rates[slope.argmin()]),
        "minimum": float(rates[lowest] / 10),
        "valley": float(np.exp(np.interp(2 / 3, [0, 1], np.log(rates[[top, lowest]])))),
    }
