"""The loss and the metrics that fit a classifier's head, and a model that is compiled with them."""

from typing import Any

import keras

from tlkit.models.heads import head_kind, outputs_logits
from tlkit.models.recompiling import compile_again, training_scope

LEARNING_RATE, CLIP_NORM = 0.01, 1.0
"""Of the optimizer: a step that neither random weights nor pretrained ones are thrown off by."""


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

    All of it is Keras's own, so that the model loads without tlkit, compiled as it is. Gradients
    are clipped to a norm of 1, and there is no momentum: an optimizer with a state makes copies of
    the model twice or three times as large, and its files too, or does not load from a file that
    was written before it had one. Nothing is built or traced here.
    """
    given: dict[str, Any] = {"loss": cross_entropy_of(model), "metrics": [accuracy_of(model)]}
    with training_scope(model):
        optimizer = keras.optimizers.SGD(LEARNING_RATE, global_clipnorm=CLIP_NORM)
        model.compile(optimizer=optimizer, **given)


def leave_compiled(model: keras.Model) -> None:
    """Leaves a classifier fit for Keras's `evaluate` and `fit`, whatever has changed in it.

    One that was compiled keeps its loss, its metrics and its optimizer's settings; another one is
    compiled as `compile_classifier` does it.
    """
    if model.compiled:
        compile_again(model)
    else:
        compile_classifier(model)
