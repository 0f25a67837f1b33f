"""Export of models that take no images: texts as strings, or numbers, to answers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tlkit.data.examples import examples_of
from tlkit.errors import ArgumentError
from tlkit.evaluation.example_checks import check_examples
from tlkit.evaluation.rejection import Rejection
from tlkit.evaluation.thresholds import Threshold
from tlkit.export.answers import Answering, Answers
from tlkit.export.formats import EXPORT_FORMATS
from tlkit.export.saved_model import save_module
from tlkit.models.graph import with_nested
from tlkit.models.model_spec import ModelSpec
from tlkit.utils.keras_private import lookup_table
from tlkit.utils.text_repr import in_json

WITH_TEXT = ("saved_model", "keras")
"""Formats that look words up in a vocabulary."""


@dataclass(frozen=True)
class ExampleServing(Answering):
    """How the outputs of a model that takes no images become answers.

    Attributes:
        class_names: Class names in the order of the probabilities.
        kind: Kind of the head: "softmax", "binary" or "multi_label".
        input_shape: Shape of one input; `None` for sizes that are not fixed.
        input_dtype: Type of the inputs, "string" for texts.
        threshold: Lowest probability for which a multi-label head gives a label: one for all, or
            one for each.
        rejection: Rejection of out-of-distribution inputs; `None` for none.
    """

    class_names: tuple[str, ...]
    kind: str
    input_shape: tuple[int | None, ...]
    input_dtype: str
    threshold: Threshold
    rejection: Rejection | None = None

    @property
    def input_spec(self) -> tf.TensorSpec:
        """The argument of the signature: its name, shape and type."""
        name = "texts" if self.input_dtype == "string" else "inputs"
        return tf.TensorSpec([None, *self.input_shape], self.input_dtype, name)

    def as_dict(self) -> dict[str, object]:
        """Returns the JSON-serializable settings, without the class names."""
        about: dict[str, object] = {
            "kind": self.kind,
            "input": {
                "name": self.input_spec.name,
                "shape": list(self.input_shape),
                "dtype": self.input_dtype,
            },
            "threshold": in_json(self.threshold),
        }
        return about | ({"rejection": self.rejection.as_dict()} if self.rejection else {})

    def model_inputs(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the inputs unchanged."""
        return inputs


def check_example_formats(
    formats: tuple[str, ...], spec: ModelSpec, resize: str, test: object
) -> None:
    """Raises `ArgumentError` if a format cannot look words up, and the model does, or needs images.

    Args:
        formats: Names of `EXPORT_FORMATS`.
        spec: The specification of a model that takes no images.
        resize: How images would be resized: "stretch", the default, for none.
        test: Labelled images to measure formats on, or `None`.
    """
    if resize != "stretch":
        raise ArgumentError(
            f"`resize` must be left out for a model that takes no images. Received: resize="
            f"{resize!r} for model={spec.name!r}. Leave it out."
        )
    if test is not None:
        raise ArgumentError(
            "`test` must be left out for a model that takes no images. Received: test of type "
            f"{type(test).__name__} for model={spec.name!r}. Leave it out."
        )
    if calibrated := [name for name in formats if EXPORT_FORMATS[name].needs_images]:
        raise ArgumentError(
            "`formats` must be calibrated on images only for a model that takes images. Received: "
            f"{', '.join(map(repr, calibrated))} for model={spec.name!r}. Export to 'litert' or "
            "'litert_int8'."
        )
    if spec.takes_text and (others := [name for name in formats if name not in WITH_TEXT]):
        raise ArgumentError(
            f"`formats` must be some of {', '.join(map(repr, WITH_TEXT))} for a model that takes "
            f"text: the others have no table of words. Received: {', '.join(map(repr, others))}. "
            "Leave it out, or export the part behind the vocabulary, which takes tokens."
        )


def example_samples(samples: Any, spec: ModelSpec) -> tf.Tensor:
    """Returns the inputs to compare an export on.

    Args:
        samples: `(n, ...)`, as the model takes them.
        spec: The model's specification.

    Raises:
        ArgumentError: There are none, or they do not fit the model.
        DataError: A value is no token of the model.
    """
    if samples is None:
        what = "texts" if spec.takes_text else "inputs"
        raise ArgumentError(
            f"`samples` must be given for a model that takes no images: some {what} to compare the "
            f"export on. Received: none. Give an array of real {what}, such as those of validation."
        )
    examples = examples_of("samples", samples)
    check_examples("samples", examples, spec)
    return tf.constant(examples, spec.input_dtype)


def write_example_model(model: keras.Model, folder: Path, serving: ExampleServing) -> None:
    """Writes a SavedModel with the signature "serving_default".

    It takes `texts`, string `(n,)`, or `inputs`, in the shape and type of the model's input, and
    returns `Answering.answers`. Vocabularies are part of it. It uses TensorFlow's own operations
    only and loads without tlkit and Keras.

    Args:
        model: The model; computes in float32.
        folder: The folder to write.
        serving: How outputs become answers.
    """
    neighbours = serving.rejection and tf.Variable(serving.rejection.neighbours, trainable=False)

    @tf.function(input_signature=[serving.input_spec], autograph=False)
    def from_inputs(inputs: tf.Tensor) -> Answers:
        return serving.answers(model, inputs, neighbours)

    module = tf.Module()
    module.tables = [table for layer in with_nested(model) if (table := lookup_table(layer))]
    module.neighbours = neighbours
    save_module(module, model, folder, serving, {"serving_default": from_inputs})


def run_example_model(folder: Path, inputs: tf.Tensor) -> tuple[Answers]:
    """Loads a SavedModel and returns the answers of its signature."""
    signature = tf.saved_model.load(str(folder)).signatures["serving_default"]
    (name,) = signature.structured_input_signature[1]
    return (signature(**{name: inputs}),)


def sample_array(inputs: tf.Tensor) -> np.ndarray:
    """Returns the inputs as an array that can be saved without pickling: texts as bytes."""
    array: np.ndarray = inputs.numpy()
    return array.astype(np.bytes_) if array.dtype == object else array
