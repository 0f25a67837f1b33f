"""The spec of a model's inputs and outputs, which data are checked against."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import keras
import numpy as np

from tlkit.errors import ArgumentError
from tlkit.models.flattening import flat
from tlkit.models.graph import model_ends, parameters, sorted_nodes
from tlkit.models.heads import head_kind
from tlkit.models.vocabularies import check_vocabularies

PIXELS = (0.0, 255.0)
UNIT = (0.0, 1.0)

_PROBED = (0.0, 1.0, 127.0, 255.0)
_ROUNDING = 0.01  # of the range of values
_OPEN_SIDE = 32  # replaces a side that is not fixed
# Scales of one grey level that count as image preprocessing: from below Rescaling(1/255) to a
# deviation of 16. Measurements in other units (reflectance, temperature) are scaled by far less.
_IMAGE_SCALES = (1 / 512, 1 / 16)
_PIXEL_SCALES = (1 / 257, 1 / 127)  # for inputs that may not be images
_LEAST_SHIFT = 32.0  # of a mean that is subtracted without scaling
# Plausible means and deviations of images in 0...1; ImageNet's are 0.41 to 0.49 and 0.22 to 0.23.
# Without preprocessing the mean is 0 and the deviation 1.
_UNIT_MEANS = (0.05, 0.95)
_UNIT_DEVIATIONS = (0.05, 1.0)


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """The inputs of a model.

    Attributes:
        name: The model's name.
        input_shape: Shape of a batch; `None` for sizes that are not fixed, including the batch's.
        input_dtype: Type of the input, "string" for text.
    """

    name: str
    input_shape: tuple[int | None, ...]
    input_dtype: str
    _model: keras.Model = field(repr=False, compare=False)

    @property
    def takes_text(self) -> bool:
        """Whether the input consists of strings."""
        return self.input_dtype == "string"

    @property
    def takes_images(self) -> bool:
        """Whether the input is `(batch, height, width, channels)`."""
        return len(self.input_shape) == 4 and not self.takes_text

    @cached_property
    def value_range(self) -> tuple[float, float] | None:
        """The range of values that the model's preprocessing expects: `PIXELS` or `UNIT`.

        `None` if neither is certain.

        It is derived from the operations between the input and the first layer with weights, if
        they are an affine function of each value: for pixels, such as `Rescaling(1 / 255)`, a
        `Normalization` adapted to pixels, `x / 127.5 - 1`, or the subtraction of ImageNet's mean;
        for 0...1, only with three channels, `x * 2 - 1`, or the mean and deviation of such images.
        A model without such preprocessing, or with another operation first, may take any values.
        """
        if self.takes_text or len(self.input_shape) < 2:
            return None
        values = _before_first_weights(self._model, self._constant_inputs())
        return None if values is None else self._expected_range(values)

    @cached_property
    def num_tokens(self) -> int | None:
        """The number of tokens, integers from 0 on, if an `Embedding` reads the input."""
        model_input, output = model_ends(self._model)
        sizes = [
            node.operation.input_dim
            for node in sorted_nodes(output)
            if isinstance(node.operation, keras.layers.Embedding)
            and any(tensor is model_input for tensor in node.input_tensors)
        ]
        return min(sizes, default=None)

    def _constant_inputs(self) -> np.ndarray:
        shape = [side or _OPEN_SIDE for side in self.input_shape[1:]]
        values = np.array(_PROBED).reshape(-1, *(1 for _ in shape))
        return np.broadcast_to(values, (len(_PROBED), *shape)).astype("float32")

    def _expected_range(self, values: np.ndarray) -> tuple[float, float] | None:
        """Returns the expected range, from the values that the constant inputs are mapped to."""
        # the centre, because padding changes values at the edge
        centre = values[(slice(None), *(size // 2 for size in values.shape[1:-1]))]
        if centre.ndim < 2 or not np.isfinite(centre).all():
            return None
        offset, scale = centre[0], (centre[-1] - centre[0]) / _PROBED[-1]
        expected = offset + np.outer(_PROBED, scale)
        # half precision, which a layer may compute in, has two to three digits
        is_affine = np.abs(centre - expected) <= _ROUNDING * np.abs(centre[-1] - centre[0])
        if not is_affine.all() or not scale.all():
            return None
        if self._scales_pixels(offset, scale):
            return PIXELS
        return UNIT if self._scales_unit(offset, scale) else None

    def _scales_pixels(self, offset: np.ndarray, scale: np.ndarray) -> bool:
        size = np.abs(scale)
        if not self.takes_images:
            return bool(np.all((size >= _PIXEL_SCALES[0]) & (size <= _PIXEL_SCALES[1])))
        if np.all((size >= _IMAGE_SCALES[0]) & (size <= _IMAGE_SCALES[1])):
            return bool(np.all((-offset / scale >= -1) & (-offset / scale <= PIXELS[1] + 1)))
        return bool(np.allclose(size, 1) and np.all(-offset / scale >= _LEAST_SHIFT))

    def _scales_unit(self, offset: np.ndarray, scale: np.ndarray) -> bool:
        if not self.takes_images or self.input_shape[-1] != 3:
            return False
        means, deviations = -offset / scale, 1 / np.abs(scale)
        return bool(
            np.all((means >= _UNIT_MEANS[0]) & (means <= _UNIT_MEANS[1]))
            and np.all(deviations >= _UNIT_DEVIATIONS[0])
            and np.all(deviations <= _UNIT_DEVIATIONS[1] + 1e-3)
        )


@dataclass(frozen=True, kw_only=True)
class ModelSpec(InputSpec):
    """The inputs and outputs of a classifier.

    Attributes:
        num_outputs: Number of values for each image.
        kind: Kind of the head: "softmax", "binary" or "multi_label".
    """

    num_outputs: int
    kind: str

    @property
    def num_classes(self) -> int:
        """The number of classes: two for one binary output."""
        return 2 if self.kind == "binary" else self.num_outputs

    def describes(self, other: "ModelSpec") -> bool:
        """Whether another spec describes the same model in its current state."""
        return self == other and self._model is other._model


def describe_inputs(model: keras.Model) -> InputSpec:
    """Returns the spec of the inputs of a model, whatever its outputs are.

    Raises:
        ArgumentError: The model is not functional, or has several inputs or outputs.
    """
    model_input, _ = model_ends(model)
    return InputSpec(
        name=model.name,
        input_shape=(None, *model_input.shape[1:]),
        input_dtype=keras.backend.standardize_dtype(model_input.dtype),
        _model=model,
    )


def describe_model(model: keras.Model) -> ModelSpec:
    """Returns the spec of a classifier's inputs and outputs.

    Raises:
        ArgumentError: The model is not functional, has several inputs or outputs, returns a
            dictionary, does not return one row of values for each image, or ends in a softmax
            over a single output; or a layer that looks words up has no vocabulary.

    Example:
        >>> import tlkit
        >>> from tlkit.models.model_spec import describe_model
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> spec = describe_model(model)
        >>> spec.input_shape, spec.num_classes, spec.value_range
        ((None, 32, 32, 3), 2, (0.0, 255.0))
    """
    inputs = describe_inputs(model)
    check_vocabularies(model)
    if isinstance(named := getattr(model, "output", None), dict):
        raise ArgumentError(
            "`model` must return one tensor. Received: "
            f"model={model.name!r}, which returns a dictionary with {', '.join(map(repr, named))}. "
            "Use keras.Model(model.inputs[0], model.outputs[0]), which shares its weights."
        )
    output = flat(model).output
    if len(output.shape) != 2 or output.shape[-1] is None:
        remedy = "Add a global pooling or Flatten, and a Dense layer, at its end."
        if inputs.takes_text:  # or words are counted in a nested model, see `flat`
            remedy = (
                "Add a global pooling or Flatten before its first Dense layer; if words are "
                "counted (multi_hot, count, tf_idf), keras.Input((), dtype='string') works too."
            )
        raise ArgumentError(
            "`model` must return one row of values for each image, (batch, classes). Received: "
            f"model={model.name!r} with outputs of the shape {tuple(output.shape)}. {remedy}"
        )
    kind = head_kind(model)
    if kind == "softmax" and output.shape[-1] == 1:
        raise ArgumentError(
            "`model` must not end in a softmax over one output, which is 1.0 for every image. "
            f"Received: model={model.name!r} with outputs of the shape (None, 1). For two "
            'classes use Dense(1, activation="sigmoid"), or two outputs: '
            'Dense(2, activation="softmax").'
        )
    return ModelSpec(
        name=inputs.name,
        input_shape=inputs.input_shape,
        input_dtype=inputs.input_dtype,
        num_outputs=int(output.shape[-1]),
        kind=kind,
        _model=model,
    )


def _before_first_weights(model: keras.Model, values: Any) -> np.ndarray | None:
    """Returns the input of the first layers with weights for given values, also in nested models.

    `None` if these layers read several tensors, or there are none.
    """
    model_input, output = model_ends(model)
    known: dict[int, Any] = {id(model_input): keras.ops.cast(values, model_input.dtype)}
    readers: dict[int, list[keras.Operation]] = {}
    for node in sorted_nodes(output):
        if not node.input_tensors or any(id(tensor) not in known for tensor in node.input_tensors):
            continue
        if parameters(node.operation):
            for tensor in node.input_tensors:
                readers.setdefault(id(tensor), []).append(node.operation)
            continue
        outputs = keras.tree.flatten(_run_node(node, known))
        known |= {id(one): value for one, value in zip(node.output_tensors, outputs, strict=True)}
    if len(readers) != 1:
        return None
    ((key, operations),) = readers.items()
    if len(operations) == 1 and _is_one_to_one(operations[0]):
        return _before_first_weights(operations[0], known[key])
    read = keras.ops.convert_to_numpy(keras.ops.cast(known[key], "float32"))
    return read.astype(np.float64)


def _run_node(node: Any, known: dict[int, Any]) -> Any:
    """Returns the outputs of an operation for known inputs, in inference mode."""
    arguments, keywords = keras.tree.map_structure(
        lambda value: known[id(value)] if isinstance(value, keras.KerasTensor) else value,
        (node.arguments.args, node.arguments.kwargs),
    )
    if "training" in keywords:
        keywords = {**keywords, "training": False}
    return node.operation(*arguments, **keywords)


def _is_one_to_one(operation: keras.Operation) -> bool:
    is_model = isinstance(operation, keras.Model)
    return is_model and all(
        ends is not None and len(ends) == 1
        for ends in (getattr(operation, "inputs", None), getattr(operation, "outputs", None))
    )
