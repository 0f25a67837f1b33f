"""Losses and metrics in which classes or labels count differently."""

from typing import Any

import keras
import numpy as np

from tlkit.models.heads import outputs_logits

_SMALLEST = 1e-7
"""Smallest probability of which a logarithm is taken, as in Keras."""


class FocalCrossentropy(keras.losses.Loss):
    """The focal loss, and the cross-entropy of labels with weights; takes a head's own labels.

    Each term -y log p of the cross-entropy is multiplied by (1 - p)^gamma, with p the probability
    of the class or, for a head with independent outputs, of the label's value; gamma 0 is the
    cross-entropy. A multi-label head's loss is the mean over its labels.

    Args:
        kind: The kind of head: "softmax", "binary" or "multi_label".
        gamma: The exponent.
        from_logits: Whether the model returns logits.
        label_smoothing: Fraction of each label's probability that is distributed over all classes.
        label_factors: Weights of images without and with each label, `(num_labels, 2)`; `None` if
            all count the same.
        one_hot: Whether the labels of a softmax head are rows.

    Reference:
        Lin et al. (2017), https://arxiv.org/abs/1708.02002, equation 4.
    """

    def __init__(
        self,
        kind: str,
        *,
        gamma: float,
        from_logits: bool,
        label_smoothing: float = 0.0,
        label_factors: np.ndarray | None = None,
        one_hot: bool = False,
    ) -> None:
        super().__init__(name="focal_crossentropy")
        self._kind, self._gamma, self._from_logits = kind, gamma, from_logits
        self._smoothing, self.one_hot = label_smoothing, one_hot
        self._factors = label_factors

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the loss of each image, `(batch,)`."""
        if self._kind == "softmax":
            targets = self._rows(y_true, y_pred.shape[-1])
            logs = self._log_softmax(y_pred)
            return keras.ops.sum(self._terms(targets, logs), axis=-1)
        targets = keras.ops.cast(y_true, y_pred.dtype)
        targets = targets * (1 - self._smoothing) + 0.5 * self._smoothing
        present, absent = self._log_sigmoids(y_pred)
        of_present, of_absent = self._terms(targets, present), self._terms(1 - targets, absent)
        if self._factors is not None:
            factors = keras.ops.convert_to_tensor(self._factors, y_pred.dtype)
            is_present = keras.ops.cast(y_true, y_pred.dtype)
            weights = is_present * factors[:, 1] + (1 - is_present) * factors[:, 0]
            return keras.ops.mean(weights * (of_present + of_absent), axis=-1)
        return keras.ops.mean(of_present + of_absent, axis=-1)

    def get_config(self) -> dict[str, object]:
        """Returns the arguments of `__init__` as plain values."""
        return {
            "kind": self._kind,
            "gamma": self._gamma,
            "from_logits": self._from_logits,
            "label_smoothing": self._smoothing,
            "label_factors": None if self._factors is None else self._factors.tolist(),
            "one_hot": self.one_hot,
        }

    def _rows(self, y_true: Any, num_classes: int) -> Any:
        if self.one_hot:
            rows = keras.ops.cast(y_true, "float32")
        else:
            labels = keras.ops.cast(keras.ops.reshape(y_true, [-1]), "int32")
            rows = keras.ops.one_hot(labels, num_classes)
        return rows * (1 - self._smoothing) + self._smoothing / num_classes

    def _log_softmax(self, y_pred: Any) -> Any:
        if self._from_logits:
            return keras.ops.log_softmax(y_pred, axis=-1)
        shares = y_pred / keras.ops.sum(y_pred, axis=-1, keepdims=True)
        return keras.ops.log(keras.ops.clip(shares, _SMALLEST, 1.0))

    def _log_sigmoids(self, y_pred: Any) -> tuple[Any, Any]:
        """Returns log p and log (1 - p)."""
        if self._from_logits:
            return keras.ops.log_sigmoid(y_pred), keras.ops.log_sigmoid(-y_pred)
        shares = keras.ops.clip(y_pred, _SMALLEST, 1 - _SMALLEST)
        return keras.ops.log(shares), keras.ops.log(1 - shares)

    def _terms(self, targets: Any, logs: Any) -> Any:
        if not self._gamma:
            return -targets * logs
        # 1 - p, kept above zero: at p = 1 the power of a gamma below 1 has no finite gradient
        others = keras.ops.maximum(-keras.ops.expm1(logs), _SMALLEST)
        return -targets * keras.ops.power(others, self._gamma) * logs


def label_metrics(
    model: keras.Model, label_factors: np.ndarray, prefix: str
) -> list[keras.metrics.Metric]:
    """Returns accuracy and cross-entropy of a multi-label head, with weights of its labels.

    Args:
        model: A classifier with a multi-label head.
        label_factors: See `FocalCrossentropy`.
        prefix: The prefix of their names, "accuracy" and "cross_entropy".
    """
    from_logits = outputs_logits(model)
    factors = label_factors.astype(np.float32)
    loss = FocalCrossentropy(
        "multi_label", gamma=0.0, from_logits=from_logits, label_factors=factors
    )

    def accuracy(y_true: Any, y_pred: Any) -> Any:
        targets = keras.ops.cast(y_true, "float32")
        assigned = keras.ops.cast(y_pred >= (0.0 if from_logits else 0.5), "float32")
        weights = targets * factors[:, 1] + (1 - targets) * factors[:, 0]
        is_correct = keras.ops.cast(keras.ops.equal(assigned, targets), "float32")
        return keras.ops.mean(weights * is_correct, axis=-1)

    return [
        keras.metrics.MeanMetricWrapper(accuracy, name=f"{prefix}accuracy"),
        keras.metrics.MeanMetricWrapper(loss.call, name=f"{prefix}cross_entropy"),
    ]
