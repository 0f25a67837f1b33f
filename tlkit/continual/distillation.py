"""Learning without forgetting: distillation of the old model's outputs as a constraint."""

from typing import Any

import keras
import tensorflow as tf

from tlkit.errors import ArgumentError, check_not_negative, check_positive
from tlkit.models.graph import check_model
from tlkit.models.heads import head_kind, outputs_logits
from tlkit.models.model_spec import describe_model
from tlkit.models.signature import signature
from tlkit.models.vocabularies import with_same_vocabularies
from tlkit.training.step import StepHook

DEFAULT_TEMPERATURE = 2.0
_SMALLEST = 1e-7


class Distillation(StepHook):
    """The constraint that `distill_from` returns, to be passed to `fine_tune`.

    The epoch's log has `distillation`, the mean of the term that is added to the loss.
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
            f"distilled from the old model's {teacher.output_shape[-1]} outputs, temperature "
            f"{temperature:g}, weight {weight:g}",
        )

    def check(self, model: keras.Model) -> None:
        """Raises `ArgumentError` unless inputs and outputs of the two models correspond."""
        num_old, num_new = (one.output_shape[-1] for one in (self._teacher, model))
        if num_new < num_old or head_kind(model) != self._kind:
            raise ArgumentError(
                "`anchor` must be distilled from a model whose outputs are the first outputs of "
                f"the model that is trained. Received: an old model with {num_old} outputs "
                f"({self._kind}), and a new model with {num_new} ({head_kind(model)}). Add classes "
                "with tlkit.add_classes."
            )
        old, new = describe_model(self._teacher), describe_model(model)
        is_shape = tf.TensorShape(old.input_shape).is_compatible_with(new.input_shape)
        if not is_shape or old.takes_text != new.takes_text:
            raise ArgumentError(
                "`anchor` must be distilled from a model with the same inputs as the model that is "
                f"trained. Received: an old model for {old.input_dtype} inputs of shape "
                f"{old.input_shape}, and a new model for {new.input_dtype} inputs of shape "
                f"{new.input_shape}. Build both for the same image size."
            )
        self._gives_logits["new"] = outputs_logits(model)

    def identity(self) -> dict[str, object]:
        """Returns the temperature, the weight, and the old model's signature."""
        return {
            "name": "distill_from",
            "temperature": self.temperature,
            "weight": self.weight,
            "teacher": signature(self._teacher),
        }

    def loss(self, images: Any, outputs: Any, loss: tf.Tensor) -> tf.Tensor:
        """Returns weight * T**2 * cross-entropy of the softened outputs."""
        old = self._logits(self._teacher(images, training=False), whose="old")
        new = self._logits(outputs, whose="new")
        num_old = old.shape[-1]
        old, new = old / self.temperature, new[:, :num_old] / self.temperature
        if self._kind == "softmax":
            each = tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(old), new)
        else:
            each = tf.nn.sigmoid_cross_entropy_with_logits(labels=tf.sigmoid(old), logits=new)
        # a replica may get no image of a small batch
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
    """Keeps a model's outputs near those of an old model while it trains on other images.

    L = L_new + weight * T**2 * H(softmax(z_old / T), softmax(z_new / T)), a mean over the batch, on
    the new task's augmented images: no old image is needed. If the new model has more outputs, its
    first ones correspond to the old ones. Sigmoid outputs are softened individually, and the mean
    is over them too, as in Keras's binary cross-entropy. The gradient of a softened output is
    smaller by T**2, which the factor compensates for.

    Args:
        old_model: A classifier that takes the same images; a copy of it is kept.
        temperature: T; values above 1 emphasise the less probable classes.
        weight: Weight of the term, relative to 1 for the new task; 0 or more.

    Returns:
        A constraint: `fine_tune(model, data, anchor=distill_from(old_model))`. The whole graph and
        the old model run in each step.

    Raises:
        ArgumentError: `temperature` is not positive, or `weight` negative.

    Example:
        >>> import tlkit
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> tlkit.distill_from(model, temperature=2.0, weight=0.5).notes[0]
        "distilled from the old model's 2 outputs, temperature 2, weight 0.5"

    Reference:
        Li and Hoiem (2016), https://arxiv.org/abs/1606.09282; the factor T**2: Hinton et al.
        (2015), https://arxiv.org/abs/1503.02531, section 2 (why: section 2.1).
    """
    check_model("old_model", old_model)
    check_positive("temperature", temperature)
    check_not_negative("weight", weight)
    teacher = with_same_vocabularies(old_model)
    teacher.set_weights(old_model.get_weights())
    teacher.trainable = False
    return Distillation(teacher, float(temperature), float(weight))
