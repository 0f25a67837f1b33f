"""Learning without forgetting: the old model's answers as a constraint on the new one's."""

from typing import Any

import keras
import tensorflow as tf

from tlkit.errors import ArgumentError, check_not_negative, check_positive
from tlkit.models.graph import check_model
from tlkit.models.heads import head_kind, outputs_logits
from tlkit.models.model_spec import describe_model
from tlkit.models.signature import signature
from tlkit.training.step import StepHook

DEFAULT_TEMPERATURE = 2.0
_SMALLEST = 1e-7


class Distillation(StepHook):
    """What `distill_from` returns: hand it to `fine_tune`.

    The epoch's log has `distillation`, the mean of what is added to the loss.
    """

    needs_images = True
    works_on_replicas = True

    def __init__(self, teacher: keras.Model, temperature: float, weight: float) -> None:
        self.temperature, self.weight = temperature, weight
        self._teacher, self._kind = teacher, head_kind(teacher)
        self._gives_logits = {"old": outputs_logits(teacher), "new": outputs_logits(teacher)}
        self._term = keras.metrics.Mean(name="distillation")
        self.metrics = (self._term,)
        self.notes = (
            f"held to the old model's answers for {teacher.output_shape[-1]} outputs, temperature "
            f"{temperature:g}, weight {weight:g}",
        )

    def check(self, model: keras.Model) -> None:
        """Raises `ArgumentError` where outputs or inputs of the two models do not correspond."""
        num_old, num_new = (one.output_shape[-1] for one in (self._teacher, model))
        if num_new < num_old or head_kind(model) != self._kind:
            raise ArgumentError(
                "`anchor` must be distilled from a model whose outputs are the first ones of the "
                f"model that is trained. Received: an old model with {num_old} outputs "
                f"({self._kind}), and {num_new} ({head_kind(model)}) in the new one. Add classes "
                "with tlkit.add_classes."
            )
        old, new = describe_model(self._teacher), describe_model(model)
        is_shape = tf.TensorShape(old.input_shape).is_compatible_with(new.input_shape)
        if not is_shape or old.takes_text != new.takes_text:
            raise ArgumentError(
                "`anchor` must be distilled from a model that takes the same inputs as the one "
                f"that is trained. Received: an old model for {old.input_dtype} of the shape "
                f"{old.input_shape}, and {new.input_dtype} of {new.input_shape} in the new one. "
                "Build both for one image size."
            )
        self._gives_logits["new"] = outputs_logits(model)

    def identity(self) -> dict[str, Any]:
        """Returns temperature, weight, and which model is the old one."""
        return {
            "name": "distill_from",
            "temperature": self.temperature,
            "weight": self.weight,
            "teacher": signature(self._teacher),
        }

    def loss(self, images: Any, outputs: Any, loss: tf.Tensor) -> tf.Tensor:
        """Returns weight * T**2 * cross-entropy of the softened answers."""
        old = self._logits(self._teacher(images, training=False), whose="old")
        new = self._logits(outputs, whose="new")
        num_old = old.shape[-1]
        old, new = old / self.temperature, new[:, :num_old] / self.temperature
        if self._kind == "softmax":
            each = tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(old), new)
        else:
            each = tf.nn.sigmoid_cross_entropy_with_logits(labels=tf.sigmoid(old), logits=new)
        # a replica may see no image of a small batch
        mean = tf.math.divide_no_nan(tf.reduce_sum(each), tf.cast(tf.size(each), each.dtype))
        term = self.weight * self.temperature**2 * mean
        self._term.update_state(term, sample_weight=tf.shape(each)[0])
        return term

    def _logits(self, outputs: Any, *, whose: str) -> tf.Tensor:
        outputs = tf.cast(outputs, tf.float32)
        if self._gives_logits[whose]:
            return outputs
        outputs = tf.clip_by_value(outputs, _SMALLEST, 1 - _SMALLEST)
        logs = tf.math.log(outputs)
        return logs if self._kind == "softmax" else logs - tf.math.log1p(-outputs)


def distill_from(
    old_model: keras.Model, temperature: float = DEFAULT_TEMPERATURE, weight: float = 1.0
) -> Distillation:
    """Keeps a model's answers near those of an old one while it trains on other images.

    L = L_new + weight * T**2 * H(softmax(z_old / T), softmax(z_new / T)), a mean over the batch, on
    the new task's images as they are augmented: no old image is needed. Where the new model has
    more outputs, its first ones are the old ones. Sigmoid outputs are softened one by one, and the
    mean is over them too, as in Keras's binary cross-entropy. The gradient of a softened answer is
    smaller by T**2, which the factor makes up for.

    Args:
        old_model: A classifier that takes the same images; a copy of it is kept.
        temperature: T; above 1 it brings out what the old model thinks second likeliest.
        weight: Of the term, beside 1 for the new task; 0 or more.

    Returns:
        A constraint: `fine_tune(model, data, anchor=distill_from(old_model))`. The whole graph runs
        in each step, and the old model beside it.

    Raises:
        ArgumentError: `temperature` is not positive, or `weight` negative.

    Example:
        >>> import tlkit
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> tlkit.distill_from(model, temperature=2.0, weight=0.5).notes[0]
        "held to the old model's answers for 2 outputs, temperature 2, weight 0.5"

    Reference:
        Li and Hoiem (2016), https://arxiv.org/abs/1606.09282; the factor T**2: Hinton et al.
        (2015), https://arxiv.org/abs/1503.02531, section 2 (why: section 2.1).
    """
    check_model("old_model", old_model)
    check_positive("temperature", temperature)
    check_not_negative("weight", weight)
    teacher = keras.models.clone_model(old_model)
    teacher.set_weights(old_model.get_weights())
    teacher.trainable = False
    return Distillation(teacher, float(temperature), float(weight))
