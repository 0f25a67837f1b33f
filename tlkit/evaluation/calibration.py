"""Temperature scaling: probabilities that mean what they say, without another prediction."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

import keras
import numpy as np
import tensorflow as tf
from scipy.optimize import brentq, minimize_scalar

from tlkit.data.images import ImageSplit
from tlkit.errors import ArgumentError, DataError
from tlkit.evaluation.checks import check_outputs, check_targets
from tlkit.evaluation.intervals import Interval, Z
from tlkit.evaluation.names import num_classes_of
from tlkit.evaluation.outputs import collect_outputs, mean_loss, probabilities_from
from tlkit.evaluation.reliability import MIN_IMAGES, Reliability, measure_reliability
from tlkit.models.graph import model_ends, producing_node
from tlkit.models.heads import head_kind, outputs_logits
from tlkit.showing import ShownAsText

LOWEST, HIGHEST = 0.05, 20.0
"""Temperatures that are looked at; where the best lies at an end, the images leave it open."""

MIN_GAIN = 1.0
"""Nats, over all images, that a temperature must gain to be used: Akaike's price of one parameter.
With less it would rather follow these images' chance than be better on others."""

_NO_RISE = 1e-6  # nats


@dataclass(frozen=True)
class CalibrationReport(ShownAsText):
    """What `calibrate` did to a model.

    Attributes:
        temperature: What the logits are divided by: above 1 the model was too sure of itself,
            below 1 not sure enough. 1.0 where nothing was changed, see `notes`.
        interval: Temperatures that the images do not speak against, at 95 %, by the likelihood
            ratio; cut off at 0.05 and 20. With several labels it is narrower than it should be,
            since the labels of one image hang together.
        num_images: Number of images it was chosen on.
        loss_before: Mean cross-entropy in nats before.
        loss_after: The same after; never higher on these images, by its making.
        before: Reliability before; `before.error` is the expected calibration error.
        after: Reliability after, on the same images. How well it holds is measured by
            `tlkit.evaluate` on others.
        notes: Why the model was left as it is.
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
            f"temperature {self.temperature:.3f} (95 % interval {low:.2f} to {high:.2f}) from "
            f"{self.num_images:,} images: loss {self.loss_before:.4f} to {self.loss_after:.4f}, "
            f"calibration error {100 * self.before.error:.1f} to {100 * self.after.error:.1f} %"
        ]
        return "\n".join([*lines, *self.notes])

    def _repr_html_(self) -> str:
        return "".join(f"<p>{escape(line)}</p>" for line in str(self).splitlines())


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
    images hardly better than 1 does, and where it has no end (as where every image is right, so
    that no confidence is too high).

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
        https://doi.org/10.1109/TAC.1974.1100705, for the least gain.
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

    bounds = math.log(LOWEST), math.log(HIGHEST)
    found = minimize_scalar(loss_at, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    best, lowest_loss = float(found.x), float(found.fun)
    open_ends = [end for end in bounds if loss_at(end) <= lowest_loss + _NO_RISE]
    gain = targets.size * (loss_at(0.0) - lowest_loss)
    notes: tuple[str, ...] = ()
    if open_ends:
        notes = (
            f"the model is left as it is: these {len(targets):,} images leave open how far the "
            f"temperature should {'fall' if open_ends[0] < 0 else 'rise'}",
        )
    elif gain < MIN_GAIN:
        notes = (
            f"the model is left as it is: {math.exp(best):.3f} fits these {len(targets):,} images "
            "best, but hardly better than 1",
        )

    # Twice the rise of the summed loss is chi-square distributed with one degree of freedom
    level = lowest_loss + Z**2 / 2 / targets.size
    low, high = (_crossing(loss_at, level, best, end) for end in bounds)
    temperature = 1.0 if notes else math.exp(best)
    return CalibrationReport(
        temperature=temperature,
        interval=(math.exp(low), math.exp(high)),
        num_images=len(targets),
        loss_before=loss_at(0.0),
        loss_after=loss_at(math.log(temperature)),
        before=_reliability(logits, targets, kind),
        after=_reliability(logits / temperature, targets, kind),
        notes=notes,
    )


def _reliability(logits: np.ndarray, targets: np.ndarray, kind: str) -> Reliability:
    shares = probabilities_from(logits, kind, True)
    if kind == "multi_label":
        return measure_reliability(shares.ravel(), targets.ravel() == 1, independent=False)
    return measure_reliability(shares.max(axis=1), shares.argmax(axis=1) == targets)


def _crossing(loss_at: Callable[[float], float], level: float, inside: float, end: float) -> float:
    """Where the loss rises to `level` between its minimum and `end`, or `end` itself."""
    if loss_at(end) <= level:
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
    node = producing_node(model_ends(model)[1])
    while isinstance(node.operation, keras.Model):
        node = producing_node(model_ends(node.operation)[1])
    last = node.operation
    if isinstance(last, keras.layers.Activation | keras.layers.Softmax):
        dense = producing_node(node.input_tensors[0]).operation
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
