"""The loss and the metrics that fit a classifier's head, and compiling a model with them."""

from typing import Any

import keras

from tlkit.models.heads import head_kind, outputs_logits
from tlkit.models.recompiling import recompile, training_scope

LEARNING_RATE, CLIP_NORM = 0.01, 1.0
"""Settings of the optimizer with which neither random nor pretrained weights diverge."""


def cross_entropy_of(model: keras.Model) -> keras.losses.Loss:
    """Returns the cross-entropy that fits a classifier's head, from logits or from probabilities.

    Example:
        >>> import tlkit
        >>> from tlkit.models.compiling import cross_entropy_of
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> type(cross_entropy_of(model)).__name__
        'SparseCategoricalCrossentropy'
    """
    from_logits = outputs_logits(model)
    if head_kind(model) != "softmax":
        return keras.losses.BinaryCrossentropy(from_logits=from_logits)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)


def accuracy_of(model: keras.Model, name: str = "accuracy") -> keras.metrics.Metric:
    """Returns the accuracy that fits a classifier's head.

    Example:
        >>> import tlkit
        >>> from tlkit.models.compiling import accuracy_of
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None, binary=True)
        >>> accuracy_of(model).get_config()["threshold"]  # of logits
        0.0
    """
    if head_kind(model) == "softmax":
        return keras.metrics.SparseCategoricalAccuracy(name=name)
    threshold = 0.0 if outputs_logits(model) else 0.5
    return keras.metrics.BinaryAccuracy(name=name, threshold=threshold)


def compile_classifier(model: keras.Model) -> None:
    """Compiles a classifier with the loss and accuracy that fit its head, and gradient descent.

    Loss, metrics and optimizer are Keras's own, so that the model loads without tlkit and is
    compiled. Gradients are clipped to a norm of 1, and there is no momentum: an optimizer with
    state makes the model and its files two or three times as large, or does not load from a file
    written before the state existed. Nothing is built or traced here.
    """
    given: dict[str, Any] = {"loss": cross_entropy_of(model), "metrics": [accuracy_of(model)]}
    with training_scope(model):
        optimizer = keras.optimizers.SGD(LEARNING_RATE, global_clipnorm=CLIP_NORM)
        model.compile(optimizer=optimizer, **given)


def ensure_compiled(model: keras.Model) -> None:
    """Compiles a classifier for Keras's `evaluate` and `fit`, after any change to it.

    A compiled model keeps its loss, its metrics and its optimizer's settings; any other is compiled
    by `compile_classifier`.
    """
    if model.compiled:
        recompile(model)
    else:
        compile_classifier(model)
