"""Export to a SavedModel that decodes image files and returns class names."""

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tlkit.data.decoding import decoder
from tlkit.data.settings import RGB, STRETCH
from tlkit.evaluation.exported import CLASS_NAMES_FILE, SERVING_FILE
from tlkit.evaluation.rejection import Rejection
from tlkit.evaluation.thresholds import Threshold
from tlkit.export.answers import Answering, Answers
from tlkit.utils.tensorflow_logging import unlogged
from tlkit.utils.text_repr import in_json


@dataclass(frozen=True)
class Serving(Answering):
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

    def model_inputs(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns images, uint8, as float32."""
        return tf.cast(inputs, tf.float32)


def write_saved_model(model: keras.Model, folder: Path, serving: Serving) -> None:
    """Writes a SavedModel with the signatures "serving_default" and "pixels".

    "serving_default" takes `image_bytes`, string `(n,)`, contents of image files; "pixels" takes
    `images`, uint8 `(n, height, width, channels)`. Both return `Answering.answers`. The assets are
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
    module.neighbours = neighbours
    save_module(
        module, model, folder, serving, {"serving_default": from_bytes, "pixels": from_pixels}
    )


def save_module(
    module: tf.Module,
    model: keras.Model,
    folder: Path,
    serving: Answering,
    functions: Mapping[str, Any],
) -> None:
    """Saves functions of a model as a SavedModel with class names and settings as its assets.

    Args:
        module: Tracks what the functions read besides the model's variables.
        model: The model.
        folder: The folder to write.
        serving: How outputs become answers.
        functions: A `tf.function` with an input signature for each signature of the SavedModel.
    """
    # The variables themselves: tracking the layers would write Keras's own functions too.
    module.weights = [variable.value for variable in model.variables]
    # TensorFlow would log its target in notebooks: a folder that is renamed right afterwards
    without_log = unlogged("tensorflow", below=logging.WARNING)
    with tempfile.TemporaryDirectory() as assets, without_log:
        module.assets = _write_assets(Path(assets), serving)
        tf.saved_model.save(
            module,
            str(folder),
            signatures={
                name: function.get_concrete_function() for name, function in functions.items()
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


def _write_assets(folder: Path, serving: Answering) -> list[tf.saved_model.Asset]:
    contents = {
        CLASS_NAMES_FILE: "".join(f"{name}\n" for name in serving.class_names),
        SERVING_FILE: json.dumps(serving.as_dict(), indent=2) + "\n",
    }
    for file, text in contents.items():
        (folder / file).write_bytes(text.encode())
    return [tf.saved_model.Asset(str(folder / file)) for file in contents]
