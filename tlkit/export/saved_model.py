"""Export to a SavedModel that decodes image files and returns class names."""

import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import tensorflow as tf

from tlkit.data.decoding import decoder
from tlkit.data.settings import RGB, STRETCH
from tlkit.evaluation.exported import CLASS_NAMES_FILE, SERVING_FILE
from tlkit.evaluation.rejection import Rejection, ood_scores, with_features
from tlkit.evaluation.thresholds import Threshold
from tlkit.models.heads import probabilities as probabilities_of
from tlkit.utils.tensorflow_logging import unlogged
from tlkit.utils.text_repr import in_json

Answers = dict[str, tf.Tensor]


@dataclass(frozen=True)
class Serving:
    """How a model's outputs become answers: probabilities, labels and class numbers.

    Attributes:
        class_names: Class names in the order of the probabilities.
        kind: Kind of the head: "softmax", "binary" or "multi_label".
        image_size: Height and width in pixels of the model's input images.
        threshold: Lowest probability for which a multi-label head gives a label: one for all, or
            one for each.
        max_pixels: Largest number of pixels of an image file.
        rejection: Rejection of out-of-distribution images; `None` for none.
        resize: "stretch", "crop" or "pad", see `load_folder`.
        channels: Number of channels of the model's input images.
    """

    class_names: tuple[str, ...]
    kind: str
    image_size: tuple[int, int]
    threshold: Threshold
    max_pixels: int
    rejection: Rejection | None = None
    resize: str = STRETCH
    channels: int = RGB

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the model's input images."""
        return (*self.image_size, self.channels)

    def as_dict(self) -> dict[str, object]:
        """Returns the JSON-serializable settings, without the class names."""
        about = {
            "kind": self.kind,
            "image_size": list(self.image_size),
            "channels": self.channels,
            "resize": self.resize,
            "threshold": in_json(self.threshold),
            "max_pixels": self.max_pixels,
        }
        return about | ({"rejection": self.rejection.as_dict()} if self.rejection else {})

    def answers(
        self, model: keras.Model, images: tf.Tensor, neighbours: tf.Tensor | None = None
    ) -> Answers:
        """Returns the outputs of the SavedModel's signatures.

        Args:
            model: The model; computes in float32.
            images: uint8, `(n, height, width, channels)`; n may be 0.
            neighbours: The neighbours of `rejection` if a graph holds them in a variable.

        Returns:
            "probabilities" float32 `(n, num_classes)`, "label" string `(n,)`, "class_id" int64
            `(n,)`. For a multi-label head the label holds the names of all classes with at least
            the threshold's probability, joined with ", ", and the class number is that of the
            highest probability. With a `rejection` also "novelty" float32 `(n,)`, the OOD score,
            and "known" bool `(n,)`, whether the score is at most the rejection's threshold.
        """
        # oneDNN's convolutions give an empty batch a wrong shape: one image is added and removed
        num_images = tf.shape(images)[0]
        padding = tf.zeros((tf.cast(num_images == 0, tf.int32), *images.shape[1:]), tf.float32)
        pixels = tf.concat([tf.cast(images, tf.float32), padding], axis=0)
        if self.rejection is None:
            outputs, rejected = model(pixels, training=False), {}
        else:
            features, outputs = with_features(model)(pixels, training=False)
            rejected = _rejected(features[:num_images], self.rejection, neighbours)
        probabilities = probabilities_of(outputs, model)[:num_images]
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


def write_saved_model(model: keras.Model, folder: Path, serving: Serving) -> None:
    """Writes a SavedModel with the signatures "serving_default" and "pixels".

    "serving_default" takes `image_bytes`, string `(n,)`, contents of image files; "pixels" takes
    `images`, uint8 `(n, height, width, channels)`. Both return `Serving.answers`. The assets are
    class_names.txt, one name per line in UTF-8, and serving.json, the settings of `serving`. The
    SavedModel uses TensorFlow's own operations only and loads without tlkit and Keras.

    Args:
        model: The model; computes in float32.
        folder: The folder to write.
        serving: How outputs become answers.
    """
    # One variable for both signatures: a constant would be stored in each of them.
    neighbours = serving.rejection and tf.Variable(serving.rejection.neighbours, trainable=False)

    @tf.function(
        input_signature=[tf.TensorSpec([None, *serving.image_shape], tf.uint8, "images")],
        autograph=False,
    )
    def from_pixels(images: tf.Tensor) -> Answers:
        return serving.answers(model, images, neighbours)

    decode = decoder(serving.image_size, serving.max_pixels, serving.resize, serving.channels)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")], autograph=False)
    def from_bytes(image_bytes: tf.Tensor) -> Answers:
        images = tf.map_fn(
            decode,
            image_bytes,
            fn_output_signature=tf.TensorSpec(serving.image_shape, tf.uint8),
        )
        return from_pixels(images)

    module = tf.Module()
    # The variables themselves: tracking the layers would write Keras's own functions too.
    module.weights = [variable.value for variable in model.variables]
    module.neighbours = neighbours
    # TensorFlow would log its target in notebooks: a folder that is renamed right afterwards
    without_log = unlogged("tensorflow", below=logging.WARNING)
    with tempfile.TemporaryDirectory() as assets, without_log:
        module.assets = _write_assets(Path(assets), serving)
        tf.saved_model.save(
            module,
            str(folder),
            signatures={
                "serving_default": from_bytes.get_concrete_function(),
                "pixels": from_pixels.get_concrete_function(),
            },
        )


def run_saved_model(
    folder: Path, image_bytes: Sequence[bytes], images: tf.Tensor
) -> tuple[Answers, Answers]:
    """Loads a SavedModel and returns the answers of both signatures for the same images."""
    signatures = tf.saved_model.load(str(folder)).signatures
    return (
        signatures["serving_default"](image_bytes=tf.constant(image_bytes)),
        signatures["pixels"](images=images),
    )


def _write_assets(folder: Path, serving: Serving) -> list[tf.saved_model.Asset]:
    contents = {
        CLASS_NAMES_FILE: "".join(f"{name}\n" for name in serving.class_names),
        SERVING_FILE: json.dumps(serving.as_dict(), indent=2) + "\n",
    }
    for file, text in contents.items():
        (folder / file).write_bytes(text.encode())
    return [tf.saved_model.Asset(str(folder / file)) for file in contents]
