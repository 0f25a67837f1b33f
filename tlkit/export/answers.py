"""What a served model answers: probabilities, labels and class numbers, for inputs of any kind."""

import keras
import tensorflow as tf

from tlkit.evaluation.rejection import Rejection, ood_scores, with_features
from tlkit.evaluation.thresholds import Threshold
from tlkit.models.heads import probabilities as probabilities_of

Answers = dict[str, tf.Tensor]


class Answering:
    """How a model's outputs become answers.

    Subclasses are frozen dataclasses with these attributes.

    Attributes:
        class_names: Class names in the order of the probabilities.
        kind: Kind of the head: "softmax", "binary" or "multi_label".
        threshold: Lowest probability for which a multi-label head gives a label: one for all, or
            one for each.
        rejection: Rejection of out-of-distribution inputs; `None` for none.
    """

    class_names: tuple[str, ...]
    kind: str
    threshold: Threshold
    rejection: Rejection | None

    def as_dict(self) -> dict[str, object]:
        """Returns the JSON-serializable settings, without the class names."""
        raise NotImplementedError

    def model_inputs(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the inputs in the type that the model takes."""
        raise NotImplementedError

    def answers(
        self, model: keras.Model, inputs: tf.Tensor, neighbours: tf.Tensor | None = None
    ) -> Answers:
        """Returns the outputs of the SavedModel's signatures.

        Args:
            model: The model; computes in float32.
            inputs: What clients send, such as images as uint8, `(n, height, width, channels)`; n
                may be 0.
            neighbours: The neighbours of `rejection` if a graph holds them in a variable.

        Returns:
            "probabilities" float32 `(n, num_classes)`, "label" string `(n,)`, "class_id" int64
            `(n,)`. For a multi-label head the label holds the names of all classes with at least
            the threshold's probability, joined with ", ", and the class number is that of the
            highest probability. With a `rejection` also "novelty" float32 `(n,)`, the OOD score,
            and "known" bool `(n,)`, whether the score is at most the rejection's threshold.
        """
        # oneDNN's convolutions give an empty batch a wrong shape: one input is added and removed
        num_inputs = tf.shape(inputs)[0]
        given = self.model_inputs(inputs)
        added = (tf.cast(num_inputs == 0, tf.int32), *tf.unstack(tf.shape(given)[1:]))
        given = tf.concat([given, tf.zeros(added, given.dtype)], axis=0)
        given.set_shape((None, *inputs.shape[1:]))
        if self.rejection is None:
            outputs, rejected = model(given, training=False), {}
        else:
            features, outputs = with_features(model)(given, training=False)
            rejected = _rejected(features[:num_inputs], self.rejection, neighbours)
        probabilities = probabilities_of(outputs, model)[:num_inputs]
        probabilities = tf.ensure_shape(probabilities, (None, len(self.class_names)))
        class_ids = tf.argmax(probabilities, axis=1, output_type=tf.int64)
        names = tf.constant(self.class_names)
        if self.kind == "multi_label":
            # Without a label, a row's segment is empty and the result is "".
            thresholds = tf.constant(self.threshold, tf.float32)
            rows_and_columns = tf.where(probabilities >= thresholds)
            labels = tf.strings.unsorted_segment_join(
                tf.gather(names, rows_and_columns[:, 1]),
                rows_and_columns[:, 0],
                tf.shape(probabilities, out_type=tf.int64)[0],
                separator=", ",
            )
        else:
            labels = tf.gather(names, class_ids)
        answers = {"probabilities": probabilities, "label": labels, "class_id": class_ids}
        return answers | rejected


def _rejected(
    features: tf.Tensor, rejection: Rejection, neighbours: tf.Tensor | None
) -> dict[str, tf.Tensor]:
    stored = rejection.neighbours if neighbours is None else neighbours
    distances = ood_scores(features, stored, rejection.num_neighbours)
    # compared in float32, in which the threshold was chosen
    return {"novelty": distances, "known": distances <= rejection.threshold}
