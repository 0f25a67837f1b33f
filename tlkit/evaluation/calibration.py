"""Temperature scaling: probabilities that mean what they say, without another prediction."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from scipy.optimize import brentq, minimize_scalar

from tlkit.data.images import ImageSplit
from tlkit.errors import ArgumentError, DataError
from tlkit.evaluation.checks import check_outputs, check_targets
from tlkit.evaluation.intervals import Interval, Z
from tlkit.evaluation.names import num_classes_of
from tlkit.evaluation.outputs import (
    THRESHOLD,
    collect_outputs,
    log_softmax,
    mean_loss,
    probabilities_from,
)
from tlkit.evaluation.reliability import MIN_IMAGES, Reliability, measure_reliability
from tlkit.models.flattening import flat
from tlkit.models.graph import model_ends
from tlkit.models.heads import head_kind, outputs_logits
from tlkit.utils.formatting import percent
from tlkit.utils.keras_private import node_of, operation_of
from tlkit.utils.text_repr import ShownAsParagraphs

LOWEST, HIGHEST = 0.05, 20.0
"""Temperatures that are looked at; where the likelihood is highest at an end, the images leave open
how far the temperature should go."""

MIN_GAIN = 1.0
"""Nats, over all images, that a temperature must gain to be used: Akaike's price of one parameter.
With less it would rather follow these images' chance than be better on others."""

_NO_RISE = 1e-6  # nats
_LOWEST_EXPECTED = 1e-4  # where an expectation gives the temperature an end


@dataclass(frozen=True)
class CalibrationReport(ShownAsParagraphs):
    """What `calibrate` did to a model.

    Attributes:
        temperature: What the logits are divided by: above 1 the model was too sure of itself,
            below 1 not sure enough. 1.0 where nothing was changed, see `notes`.
        interval: Temperatures that the images do not speak against, at 95 %, by the likelihood
            ratio, cut off at 0.05 and 20; where every image is correct, of outcomes as the rule of
            succession expects them, and not cut off below. `temperature` is always among them. With
            several labels it is narrower than it should be, since the labels of one image hang
            together.
        num_images: Number of images it was chosen on.
        loss_before: Mean cross-entropy in nats before.
        loss_after: The same after; never higher on these images, by its making.
        before: Reliability before; `before.error` is the expected calibration error.
        after: Reliability after, on the same images. How well it holds is measured by
            `tlkit.evaluate` on others.
        notes: Why the model was left as it is, or how the temperature was chosen where the
            likelihood has no highest point between 0.05 and 20.
    """

    temperature: float
    interval: Interval
    num_images: int
    loss_before: float
    loss_after: float
    before: Reliability
    after: Reliability
    notes: tuple[str, ...]

    def __str__(self) -> str:
        low, high = self.interval
        lines = [
            f"temperature {_shown(self.temperature, 3)} (95 % interval {_shown(low, 2)} to "
            f"{_shown(high, 2)}) from "
            f"{self.num_images:,} images: loss {self.loss_before:.4f} to {self.loss_after:.4f}, "
            f"calibration error {percent(self.before.error)} to {percent(self.after.error)}"
        ]
        return "\n".join([*lines, *self.notes])


def _shown(value: float, places: int) -> str:
    """A temperature with so many decimals, and as many digits where it is below a tenth."""
    return f"{value:.{places}f}" if value >= 0.1 else f"{value:.{places}g}"


def calibrate(
    model: keras.Model,
    images: ImageSplit | tf.data.Dataset,
    *,
    batch_size: int | None = None,
) -> CalibrationReport:
    """Divides the logits of `model` by the temperature that fits `images` best.

    The model changes in place: kernel and bias of its last Dense layer are divided by the
    temperature. So it stays plain Keras with the same graph, the most probable class of every
    image stays the same, and whatever is exported or saved from it has calibrated probabilities.
    Of a multi-label head one temperature serves all labels; which labels are given at a threshold
    of 0.5 stays the same too. What is trained afterwards needs calibrating again.

    The model is left as it is, and the report says so, where the best temperature explains the
    images hardly better than 1 does.

    Where every image is correct no confidence is too high for them, and the likelihood rises for as
    long as the temperature falls. Of n correct ones the next is then taken to be correct with the
    probability (n + 1) / (n + 2), Laplace's rule of succession, and the temperature gives the model
    that confidence, but never a lower one than it had. So it also makes up for label smoothing,
    which leaves a model less confident than it is correct. Where the likelihood rises without end
    with the temperature, because the logits say nothing of the labels, the temperature nearest to 1
    is taken that the images do not speak against.

    Args:
        model: A classifier whose outputs come from a Dense layer, with or without softmax or
            sigmoid. Of a model with such an activation logits are taken back from float32
            probabilities, which cuts them off near 0 and 1.
        images: `data.validation`; or a dataset of batches `(images, labels)` that the model was
            not trained on.
        batch_size: Images in one forward pass; for a split only.

    Raises:
        ArgumentError: If the outputs do not come from a Dense layer; if `images` are the training
            split; if they do not fit the model.
        DataError: If there are fewer than 20 images; if labels are not among the classes.

    Example:
        >>> import keras, numpy as np, tensorflow as tf
        >>> from tlkit.evaluation.calibration import calibrate
        >>> model = keras.Sequential([keras.Input((1, 1, 2)), keras.layers.Flatten(),
        ...     keras.layers.Dense(2, kernel_initializer="identity")])
        >>> pixels = np.tile(np.float32([[[[4, 0]]]]), (100, 1, 1, 1))  # 98.2 % sure of class 0
        >>> labels = (np.arange(100) >= 75).astype(int)                 # which is right for 75 %
        >>> dataset = tf.data.Dataset.from_tensor_slices((pixels, labels)).batch(50)
        >>> report = calibrate(model, dataset)
        >>> round(report.temperature, 2), round(report.before.error, 2)
        (3.64, 0.23)

    Reference:
        Guo et al. (2017), section 4.2, https://arxiv.org/abs/1706.04599: T is chosen by the
        likelihood; the expected calibration error is over 15 bins of equal width. Akaike (1974),
        https://doi.org/10.1109/TAC.1974.1100705, for the least gain. Platt (1999), Probabilistic
        Outputs for Support Vector Machines, section 2.2, for targets by the rule of succession.
    """
    dense = _last_dense(model)
    if isinstance(images, ImageSplit) and images.name == "train":
        raise ArgumentError(
            "`images` must be images that the model was not trained on. Received: the split "
            "'train', on which a model is surer than elsewhere. Give `data.validation`."
        )
    kind = head_kind(model)
    (outputs,), labels = collect_outputs(
        [model], images, batch_size=batch_size, description="calibration"
    )
    check_outputs(outputs, outputs.shape[1], kind)
    if len(outputs) < MIN_IMAGES:
        raise DataError(
            f"`images` must be at least {MIN_IMAGES} to choose a temperature. Received: "
            f"{len(outputs)}. Add some to validation, or leave the model as it is."
        )
    targets = check_targets(labels, kind, len(outputs), num_classes_of(model))
    logits = outputs if outputs_logits(model) else _logits_of(outputs, kind)
    report = fit_temperature(logits, targets, kind)
    for variable in dense.weights:
        variable.assign(keras.ops.convert_to_numpy(variable) / report.temperature)
    return report


def can_calibrate(model: keras.Model) -> bool:
    """Whether the outputs come from one plain Dense layer, which the temperature can go into."""
    return _ending(model)[0] is not None


def fit_temperature(logits: np.ndarray, targets: np.ndarray, kind: str) -> CalibrationReport:
    """Chooses the temperature that given logits must be divided by.

    Args:
        logits: `(n, num_classes)`; of a binary head `(n, 1)`.
        targets: Whole numbers `(n,)`; with several labels rows of 0/1.
        kind: The head: "softmax", "binary" or "multi_label".

    Example:
        >>> import numpy as np
        >>> from tlkit.evaluation.calibration import fit_temperature
        >>> logits = np.tile([[np.log(3), 0]], (100, 1))  # 75 % sure, and right for 75 %
        >>> print(round(fit_temperature(logits, np.arange(100) // 75, "softmax").temperature, 3))
        1.0
    """
    logits = logits.astype(np.float64)

    def loss_at(log_temperature: float) -> float:
        return mean_loss(logits / math.exp(log_temperature), targets, kind, True)

    fit = _fitted(loss_at, targets.size)
    best, note = fit.best, ""
    if fit.is_open_below and fit.is_open_above:
        best, note = 0.0, "the model is left as it is: these images say nothing of a temperature"
    elif fit.is_open_below:
        num_right = _num_right(logits, targets, kind)
        expectation = (num_right + 1) / (len(targets) + 2)

        def expected_loss_at(log_temperature: float) -> float:
            return _expected_loss(logits / math.exp(log_temperature), targets, kind, expectation)

        fit = _fitted(expected_loss_at, targets.size, lowest=_LOWEST_EXPECTED)
        best = min(fit.best, 0.0)
        note = (
            f"{num_right:,} of {len(targets):,} images are correct, which sets no limit to "
            f"confidence: it is fitted to {percent(expectation)}, the rule of succession's "
            "estimate for the next image"
        )
        if targets.size * (expected_loss_at(0.0) - expected_loss_at(best)) < MIN_GAIN:
            best = 0.0
            note = (
                f"the model is left as it is: {num_right:,} of {len(targets):,} images are "
                "correct, which sets no limit to confidence, and its own is hardly too low"
            )
    elif fit.is_open_above:
        best = max(fit.low, 0.0)
        note = (
            f"these {len(targets):,} images leave open how far the temperature should rise: the "
            "lowest is taken that they do not speak against"
        )
    elif targets.size * (loss_at(0.0) - loss_at(best)) < MIN_GAIN:
        note = (
            f"the model is left as it is: {math.exp(best):.3f} fits these {len(targets):,} images "
            "best, but hardly better than 1"
        )
        best = 0.0
    temperature = math.exp(best)
    return CalibrationReport(
        temperature=temperature,
        interval=(math.exp(min(fit.low, best)), math.exp(max(fit.high, best))),
        num_images=len(targets),
        loss_before=loss_at(0.0),
        loss_after=loss_at(best),
        before=_reliability(logits, targets, kind),
        after=_reliability(logits / temperature, targets, kind),
        notes=(note,) if note else (),
    )


@dataclass(frozen=True)
class _Fit:
    """Logarithms of the best temperature and of its interval's ends, and whether it has one."""

    best: float
    low: float
    high: float
    is_open_below: bool
    is_open_above: bool


def _fitted(loss_at: Callable[[float], float], num_outcomes: int, lowest: float = LOWEST) -> _Fit:
    """Finds the temperature with the lowest loss, a mean over so many outcomes."""
    start, end = math.log(lowest), math.log(HIGHEST)
    found = minimize_scalar(loss_at, bounds=(start, end), method="bounded", options={"xatol": 1e-6})
    best, least = float(found.x), float(found.fun)
    is_open = [loss_at(one) <= least + _NO_RISE for one in (start, end)]
    if any(is_open):
        best = start if is_open[0] else end
    # Twice the rise of the summed loss is chi-square distributed with one degree of freedom
    level = min(least, loss_at(best)) + Z**2 / 2 / num_outcomes
    low, high = (_crossing(loss_at, level, best, one) for one in (start, end))
    return _Fit(best, low, high, *is_open)


def _num_right(logits: np.ndarray, targets: np.ndarray, kind: str) -> int:
    """How many images are wholly correct."""
    shares = probabilities_from(logits, kind, True)
    if kind == "multi_label":
        return int(((shares >= THRESHOLD) == (targets == 1)).all(axis=1).sum())
    return int((shares.argmax(axis=1) == targets).sum())


def _expected_loss(logits: np.ndarray, targets: np.ndarray, kind: str, share: float) -> float:
    """Mean cross-entropy where each outcome is what it was with the probability `share`.

    What is left of it goes to the other outcomes in equal parts.
    """
    right = mean_loss(logits, targets, kind, True)
    if kind != "softmax":
        return share * right + (1 - share) * mean_loss(logits, 1 - targets, kind, True)
    num_classes = logits.shape[1]
    log_shares = log_softmax(logits)
    wrong = (-float(log_shares.sum(axis=1).mean()) - right) / (num_classes - 1)
    return share * right + (1 - share) * wrong


def _reliability(logits: np.ndarray, targets: np.ndarray, kind: str) -> Reliability:
    shares = probabilities_from(logits, kind, True)
    if kind == "multi_label":
        return measure_reliability(shares.ravel(), targets.ravel() == 1, independent=False)
    return measure_reliability(shares.max(axis=1), shares.argmax(axis=1) == targets)


def _crossing(loss_at: Callable[[float], float], level: float, inside: float, end: float) -> float:
    """Where the loss rises to `level` between its minimum and `end`, or `end` itself."""
    if end == inside or loss_at(end) <= level:
        return end
    return float(brentq(lambda value: loss_at(value) - level, inside, end))


def _logits_of(probabilities: np.ndarray, kind: str) -> np.ndarray:
    """Logits that float32 probabilities come from, up to what they round to 0 or to 1."""
    shares = probabilities.astype(np.float64)
    if kind == "softmax":
        return np.log(np.maximum(shares, np.finfo(np.float32).tiny))
    if kind == "binary":
        shares = shares[:, 1:]
    margin = np.finfo(np.float32).epsneg
    shares = np.clip(shares, margin, 1 - margin)
    return np.log(shares) - np.log1p(-shares)


def _last_dense(model: keras.Model) -> keras.layers.Dense:
    """Returns the layer whose outputs are the logits."""
    dense, last = _ending(model)
    if dense is None:
        raise ArgumentError(
            "`model` must end in a plain Dense layer, with or without softmax or sigmoid, whose "
            f"weights can take the temperature. Received: model={model.name!r}, which ends in "
            f"{type(last).__name__} {last.name!r}. Put a Dense layer at its end."
        )
    return dense


def _ending(model: keras.Model) -> tuple[keras.layers.Dense | None, keras.Operation]:
    """The Dense layer that gives the logits, if there is one, and what the model ends in."""
    node = node_of(flat(model).output)
    while isinstance(node.operation, keras.Model):
        node = node_of(model_ends(node.operation)[1])
    last = node.operation
    if isinstance(last, keras.layers.Activation | keras.layers.Softmax):
        dense = operation_of(node.input_tensors[0])
        is_linear = _activation_of(dense) == "linear"
    else:
        dense, is_linear = last, True
    is_known = _activation_of(last) in {"linear", "softmax", "sigmoid"}
    is_plain = isinstance(dense, keras.layers.Dense) and len(dense.weights) <= 2
    return (dense if is_plain and is_linear and is_known else None), last


def _activation_of(operation: keras.Operation) -> str:
    if isinstance(operation, keras.layers.Softmax):
        return "softmax"
    return getattr(getattr(operation, "activation", None), "__name__", "")
