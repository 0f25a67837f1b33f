"""Temperature scaling: calibrates probabilities without changing the predicted classes."""

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
    collect_outputs,
    image_losses,
    log_softmax,
    mean_loss,
    probabilities_from,
)
from tlkit.evaluation.reliability import MIN_IMAGES, Reliability, measure_reliability
from tlkit.evaluation.thresholds import THRESHOLD
from tlkit.models.flattening import flat
from tlkit.models.graph import model_ends
from tlkit.models.heads import head_kind, outputs_logits
from tlkit.utils.formatting import percent
from tlkit.utils.keras_private import node_of, operation_of
from tlkit.utils.text_repr import ShownAsParagraphs

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
"""Range of temperatures that is searched; if the likelihood is highest at an end, the images do not
determine the temperature in that direction."""

MIN_GAIN = 1.0
"""Minimum gain in log-likelihood, in nats over all images, for a temperature to be used: Akaike's
penalty for one parameter. With a smaller gain it would probably overfit these images."""

_LOSS_TOLERANCE = 1e-6  # nats
_MIN_TEMPERATURE_IF_ALL_CORRECT = 1e-4  # the expected loss then bounds it


@dataclass(frozen=True)
class CalibrationReport(ShownAsParagraphs):
    """The result of `calibrate`.

    Attributes:
        temperature: The divisor of the logits: above 1 the model was overconfident, below 1
            underconfident. 1.0 if nothing was changed, see `notes`.
        interval: 95 % confidence interval of the temperature by the likelihood ratio, limited to
            0.05...20; if every image is correct, for outcomes expected by the rule of succession,
            and not limited below. It always contains `temperature`. For multi-label models it is
            too narrow, since the labels of one image are dependent.
        num_images: Number of images that the temperature was fitted on.
        loss_before: Mean cross-entropy in nats before calibration.
        loss_after: The same after calibration; by construction never higher on these images.
        before: Reliability before; `before.error` is the expected calibration error.
        after: Reliability after, on the same images and so optimistically biased; measure it on
            other images with `tlkit.evaluate`.
        notes: Why the model was left unchanged, or how the temperature was chosen if the likelihood
            has no maximum between 0.05 and 20.
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
            f"temperature {_format_temperature(self.temperature, 3)} (n = {self.num_images:,}, "
            f"95 % CI {_format_temperature(low, 2)} to {_format_temperature(high, 2)}): "
            f"loss {self.loss_before:.4f} to {self.loss_after:.4f}, expected calibration error "
            f"{percent(self.before.error)} to {percent(self.after.error)}"
        ]
        return "\n".join([*lines, *self.notes])


def _format_temperature(value: float, places: int) -> str:
    """Returns a temperature with `places` decimals, or as many digits if it is below 0.1."""
    return f"{value:.{places}f}" if value >= 0.1 else f"{value:.{places}g}"


def calibrate(
    model: keras.Model,
    images: ImageSplit | tf.data.Dataset,
    *,
    batch_size: int | None = None,
) -> CalibrationReport:
    """Calibrates `model` in place by temperature scaling on `images`.

    Kernel and bias of the last Dense layer are divided by the temperature that fits best. The model
    keeps its graph and the most probable class of every image; exported and saved models have the
    calibrated probabilities. A multi-label head has one temperature for all labels; the labels
    assigned at a threshold of 0.5 stay the same. After further training, calibrate again.

    The model is left unchanged, with a note in the report, if the best temperature fits the images
    hardly better than 1.

    If all n images are correct, the likelihood increases without bound as the temperature falls.
    The temperature is then fitted to the probability (n + 1) / (n + 2) that the next image is
    correct, by Laplace's rule of succession; it never lowers the model's confidence. This also
    compensates for label smoothing, which makes a model underconfident. If the likelihood increases
    without bound with the temperature, because the logits do not predict the labels, the
    temperature of the 95 % interval that is nearest to 1 is used.

    Args:
        model: A classifier whose outputs come from a Dense layer, with or without softmax or
            sigmoid. With such an activation, logits are computed from the float32 probabilities,
            which limits their precision near 0 and 1.
        images: `data.validation`; or a dataset of batches `(images, labels)` that the model was
            not trained on.
        batch_size: Images per forward pass; for a split only.

    Raises:
        ArgumentError: If the outputs do not come from a Dense layer; if `images` are the training
            split; if they do not fit the model.
        DataError: If there are fewer than 20 images; if labels are not among the classes.

    Example:
        >>> import keras, numpy as np, tensorflow as tf
        >>> from tlkit.evaluation.calibration import calibrate
        >>> model = keras.Sequential([keras.Input((1, 1, 2)), keras.layers.Flatten(),
        ...     keras.layers.Dense(2, kernel_initializer="identity")])
        >>> pixels = np.tile(np.float32([[[[4, 0]]]]), (100, 1, 1, 1))  # confidence 98.2 %
        >>> labels = (np.arange(100) >= 75).astype(int)                 # accuracy 75 %
        >>> dataset = tf.data.Dataset.from_tensor_slices((pixels, labels)).batch(50)
        >>> report = calibrate(model, dataset)
        >>> round(report.temperature, 2), round(report.before.error, 2)
        (3.64, 0.23)

    Reference:
        Guo et al. (2017), section 4.2, https://arxiv.org/abs/1706.04599: T is chosen by the
        likelihood; the expected calibration error has 15 bins of equal width. Akaike (1974),
        https://doi.org/10.1109/TAC.1974.1100705, for the minimum gain. Platt (1999), Probabilistic
        Outputs for Support Vector Machines, section 2.2, for targets by the rule of succession.
    """
    _last_dense(model)  # raises unless there is one
    if isinstance(images, ImageSplit) and images.name == "train":
        raise ArgumentError(
            "`images` must be images that the model was not trained on. Received: the split "
            "'train', on which a model is overconfident. Use `data.validation`."
        )
    kind = head_kind(model)
    (outputs,), labels = collect_outputs(
        [model], images, batch_size=batch_size, description="calibration"
    )
    check_outputs(outputs, outputs.shape[1], kind)
    if len(outputs) < MIN_IMAGES:
        raise DataError(
            f"`images` must be at least {MIN_IMAGES} to fit a temperature. Received: "
            f"{len(outputs)}. Add validation images, or do without calibration."
        )
    targets = check_targets(labels, kind, len(outputs), num_classes_of(model))
    logits = outputs if outputs_logits(model) else logits_of(outputs, kind)
    report = fit_temperature(logits, targets, kind)
    scale_logits(model, report.temperature)
    return report


def scale_logits(model: keras.Model, temperature: float) -> None:
    """Divides the logits of a model by a temperature, in its last Dense layer.

    Raises:
        ArgumentError: If the outputs do not come from a Dense layer.
    """
    for variable in _last_dense(model).weights:
        variable.assign(keras.ops.convert_to_numpy(variable) / temperature)


def can_calibrate(model: keras.Model) -> bool:
    """Whether the outputs come from one plain Dense layer, which can absorb the temperature."""
    return _last_layers(model)[0] is not None


def fit_temperature(logits: np.ndarray, targets: np.ndarray, kind: str) -> CalibrationReport:
    """Fits the temperature by which logits must be divided.

    Args:
        logits: `(n, num_classes)`; of a binary head `(n, 1)`.
        targets: Whole numbers `(n,)`; for a multi-label head rows of 0/1.
        kind: The kind of head: "softmax", "binary" or "multi_label".

    Example:
        >>> import numpy as np
        >>> from tlkit.evaluation.calibration import fit_temperature
        >>> logits = np.tile([[np.log(3), 0]], (100, 1))  # confidence and accuracy 75 %
        >>> print(round(fit_temperature(logits, np.arange(100) // 75, "softmax").temperature, 3))
        1.0
    """
    logits = logits.astype(np.float64)

    def loss_at(log_temperature: float) -> float:
        return mean_loss(logits / math.exp(log_temperature), targets, kind, True)

    fit = _minimise_loss(loss_at, targets.size)
    best, note = fit.best, ""
    if fit.is_open_below and fit.is_open_above:
        best, note = 0.0, "the model is unchanged: these images do not determine a temperature"
    elif fit.is_open_below:
        num_correct = _num_correct(logits, targets, kind)
        expectation = _next_is_correct(num_correct, len(targets))

        def expected_loss_at(log_temperature: float) -> float:
            scaled = logits / math.exp(log_temperature)
            return float(_expected_losses(scaled, targets, kind, expectation).mean())

        fit = _minimise_loss(
            expected_loss_at, targets.size, min_temperature=_MIN_TEMPERATURE_IF_ALL_CORRECT
        )
        best = min(fit.best, 0.0)
        note = (
            f"{num_correct:,} of {len(targets):,} images are correct, which does not bound the "
            f"confidence: it is fitted to {percent(expectation)}, the rule of succession's "
            "estimate for the next image"
        )
        if targets.size * (expected_loss_at(0.0) - expected_loss_at(best)) < MIN_GAIN:
            best = 0.0
            note = (
                f"the model is unchanged: {num_correct:,} of {len(targets):,} images are correct, "
                "which does not bound the confidence, and the model is hardly underconfident"
            )
    elif fit.is_open_above:
        best = max(fit.low, 0.0)
        note = (
            f"these {len(targets):,} images do not bound the temperature from above: the lower end "
            "of its 95 % interval is used"
        )
    elif targets.size * (loss_at(0.0) - loss_at(best)) < MIN_GAIN:
        note = (
            f"the model is unchanged: the temperature {math.exp(best):.3f} fits these "
            f"{len(targets):,} images best, but hardly better than 1"
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
    """Logarithms of the best temperature and its interval, and whether the loss has no minimum."""

    best: float
    low: float
    high: float
    is_open_below: bool
    is_open_above: bool


def _minimise_loss(
    loss_at: Callable[[float], float], num_outcomes: int, min_temperature: float = MIN_TEMPERATURE
) -> _Fit:
    """Returns the temperature with the lowest loss, and its 95 % interval."""
    start, end = math.log(min_temperature), math.log(MAX_TEMPERATURE)
    optimum = minimize_scalar(
        loss_at, bounds=(start, end), method="bounded", options={"xatol": 1e-6}
    )
    best, lowest_loss = float(optimum.x), float(optimum.fun)
    is_open = [loss_at(one) <= lowest_loss + _LOSS_TOLERANCE for one in (start, end)]
    if any(is_open):
        best = start if is_open[0] else end
    # Twice the increase of the summed loss has a chi-square distribution with one degree of freedom
    level = min(lowest_loss, loss_at(best)) + Z**2 / 2 / num_outcomes
    low, high = (_find_crossing(loss_at, level, best, one) for one in (start, end))
    return _Fit(best, low, high, *is_open)


def _num_correct(logits: np.ndarray, targets: np.ndarray, kind: str) -> int:
    """Returns the number of images all of whose labels are correct."""
    probabilities = probabilities_from(logits, kind, True)
    if kind == "multi_label":
        return int(((probabilities >= THRESHOLD) == (targets == 1)).all(axis=1).sum())
    return int((probabilities.argmax(axis=1) == targets).sum())


def _next_is_correct(num_correct: int, num_images: int) -> float:
    """Returns the rule of succession's probability that the next image is correct."""
    return (num_correct + 1) / (num_images + 2)


def _expected_losses(
    logits: np.ndarray, targets: np.ndarray, kind: str, probability: float
) -> np.ndarray:
    """Returns each image's cross-entropy if its target has the probability `probability`, `(n,)`.

    The remaining probability is distributed equally over the other outcomes.
    """
    correct_losses = image_losses(logits, targets, kind, True)
    if kind == "softmax":
        all_losses = -log_softmax(logits).sum(axis=1)
        other_losses = (all_losses - correct_losses) / (logits.shape[1] - 1)
    else:
        other_losses = image_losses(logits, 1 - targets, kind, True)
    return probability * correct_losses + (1 - probability) * other_losses


def _reliability(logits: np.ndarray, targets: np.ndarray, kind: str) -> Reliability:
    probabilities = probabilities_from(logits, kind, True)
    if kind == "multi_label":
        return measure_reliability(probabilities.ravel(), targets.ravel() == 1, independent=False)
    return measure_reliability(probabilities.max(axis=1), probabilities.argmax(axis=1) == targets)


def _find_crossing(
    loss_at: Callable[[float], float], level: float, minimum: float, end: float
) -> float:
    """Returns where the loss reaches `level` between its minimum and `end`, else `end`."""
    if end == minimum or loss_at(end) <= level:
        return end
    return float(brentq(lambda value: loss_at(value) - level, minimum, end))


def best_factor(
    logits: np.ndarray,
    targets: np.ndarray,
    kind: str,
    weights: np.ndarray,
    log_bounds: tuple[float, float],
) -> float:
    """Returns the factor of logits, the inverse temperature, with the lowest mean cross-entropy.

    Each image's target has the rule of succession's probability for n correct images of n, not 1:
    no finite factor would be best for classes that these images separate perfectly.

    Args:
        logits: `(n, num_classes)`; of a binary head `(n, 1)`.
        targets: Whole numbers `(n,)`; for a multi-label head rows of 0/1.
        kind: The kind of head: "softmax", "binary" or "multi_label".
        weights: The weight of each image, `(n,)`.
        log_bounds: Bounds of the factor's natural logarithm.

    Reference:
        Platt (1999), Probabilistic outputs for support vector machines (smoothed targets).
    """
    probability = _next_is_correct(len(targets), len(targets))

    def loss_at(log_factor: float) -> float:
        losses = _expected_losses(math.exp(log_factor) * logits, targets, kind, probability)
        return float(np.average(losses, weights=weights))

    return math.exp(minimize_scalar(loss_at, bounds=log_bounds, method="bounded").x)


def logits_of(probabilities: np.ndarray, kind: str) -> np.ndarray:
    """Returns the logits of float32 probabilities, limited where they round to 0 or 1.

    Args:
        probabilities: `(n, num_classes)`; of a binary head both columns, [1 - p, p].
        kind: The kind of head: "softmax", "binary" or "multi_label".

    Returns:
        float64, `(n, num_classes)`; of a binary head `(n, 1)`.
    """
    probabilities = probabilities.astype(np.float64)
    if kind == "softmax":
        return np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    if kind == "binary":
        probabilities = probabilities[:, 1:]
    margin = np.finfo(np.float32).epsneg
    probabilities = np.clip(probabilities, margin, 1 - margin)
    return np.log(probabilities) - np.log1p(-probabilities)


def _last_dense(model: keras.Model) -> keras.layers.Dense:
    """Returns the Dense layer whose outputs are the logits."""
    dense, last = _last_layers(model)
    if dense is None:
        raise ArgumentError(
            "`model` must end in a plain Dense layer, with or without softmax or sigmoid, to which "
            f"the temperature can be applied. Received: model={model.name!r}, which ends in "
            f"{type(last).__name__} {last.name!r}. Add a Dense layer at its end."
        )
    return dense


def _last_layers(model: keras.Model) -> tuple[keras.layers.Dense | None, keras.Operation]:
    """Returns the Dense layer that computes the logits, if any, and the model's last operation."""
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
