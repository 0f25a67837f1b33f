"""What a classifier takes and gives, in one record that data are checked against."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import keras
import numpy as np

from tlkit.errors import ArgumentError
from tlkit.models.flattening import flat
from tlkit.models.graph import model_ends, parameters, sorted_nodes
from tlkit.models.heads import head_kind

PIXELS = (0.0, 255.0)
UNIT = (0.0, 1.0)

_PROBED = (0.0, 1.0, 127.0, 255.0)
_OPEN_SIDE = 32  # stands in for a side that the model leaves open
# What one grey level may become: Rescaling(1/255) at the one end, a deviation of 16 at the other.
# Measurements in other units (reflectance, temperature) are scaled by far less.
_IMAGE_SCALES = (1 / 512, 1 / 16)
_PIXEL_SCALES = (1 / 257, 1 / 127)  # of inputs that are no images for certain
_LEAST_SHIFT = 32.0  # of a mean that is subtracted without scaling
# Mean and deviation of images in 0...1, with room: ImageNet's are 0.41 to 0.49 and 0.22 to 0.23.
# Nothing done at all is a mean of 0 and a deviation of 1.
_UNIT_MEANS = (0.05, 0.95)
_UNIT_DEVIATIONS = (0.05, 1.0)


@dataclass(frozen=True)
class ModelSpec:
    """What a classifier takes and gives.

    Attributes:
        name: The model's.
        input_shape: Shape of a batch; `None` where a size is open, the batch's always.
        input_dtype: Of the input, "string" for text.
        num_outputs: Values for each image.
        kind: How they are to be read: "softmax", "binary" or "multi_label".
    """

    name: str
    input_shape: tuple[int | None, ...]
    input_dtype: str
    num_outputs: int
    kind: str
    _model: keras.Model = field(repr=False, compare=False)

    @property
    def num_classes(self) -> int:
        """How many classes the outputs tell apart: two for one binary output."""
        return 2 if self.kind == "binary" else self.num_outputs

    def describes(self, other: "ModelSpec") -> bool:
        """Whether it is of the same model, as it is now, as another."""
        return self == other and self._model is other._model

    @property
    def takes_text(self) -> bool:
        """Whether the input is strings."""
        return self.input_dtype == "string"

    @property
    def takes_images(self) -> bool:
        """Whether the input is `(batch, height, width, channels)`."""
        return len(self.input_shape) == 4 and not self.takes_text

    @cached_property
    def value_range(self) -> tuple[float, float] | None:
        """`PIXELS` or `UNIT` where the model itself brings these to what its layers take.

        `None` where neither is certain.

        What stands between the input and the first layer with weights is asked: where it is one
        affine function of each value, such as `Rescaling(1 / 255)`, a `Normalization` adapted to
        pixels, `x / 127.5 - 1`, or the subtraction of ImageNet's mean, that decides. So it does for
        0...1, of images with three channels alone: `x * 2 - 1`, or mean and deviation of such
        images. A model without anything of the kind may take any values, and so may one that does
        something else first.
        """
        if self.takes_text or len(self.input_shape) < 2:
            return None
        values = _before_first_weights(self._model, self._constant_inputs())
        return None if values is None else self._range_brought(values)

    @cached_property
    def num_tokens(self) -> int | None:
        """How many whole numbers from 0 on the input may hold, where an `Embedding` reads it."""
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

    def _range_brought(self, values: np.ndarray) -> tuple[float, float] | None:
        """The range whose values are brought to what the constant inputs became."""
        # the middle, as padding changes what lies at the edge
        centre = values[(slice(None), *(size // 2 for size in values.shape[1:-1]))]
        if centre.ndim < 2 or not np.isfinite(centre).all():
            return None
        offset, scale = centre[0], (centre[-1] - centre[0]) / _PROBED[-1]
        expected = offset + np.outer(_PROBED, scale)
        if not np.allclose(centre, expected, rtol=1e-3, atol=1e-3) or not scale.all():
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


def describe_model(model: keras.Model) -> ModelSpec:
    """Returns what a classifier takes and gives.

    Raises:
        ArgumentError: The model is not functional, has several inputs or outputs, returns a
            dictionary, does not give one row of values for each image, or ends in a softmax over
            a single output.

    Example:
        >>> import tlkit
        >>> from tlkit.models.model_spec import describe_model
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> spec = describe_model(model)
        >>> spec.input_shape, spec.num_classes, spec.value_range
        ((None, 32, 32, 3), 2, (0.0, 255.0))
    """
    model_input, _ = model_ends(model)
    if isinstance(named := getattr(model, "output", None), dict):
        raise ArgumentError(
            "`model` must return one tensor. Received: "
            f"model={model.name!r}, which returns a dictionary with {', '.join(map(repr, named))}. "
            "Make it keras.Model(model.inputs[0], model.outputs[0]), which shares its weights."
        )
    dtype = keras.backend.standardize_dtype(model_input.dtype)
    output = flat(model).output
    if len(output.shape) != 2 or output.shape[-1] is None:
        remedy = "Put a global pooling or Flatten, and a Dense layer, at its end."
        if dtype == "string":  # or words are counted in a nested model, see `flat`
            remedy = (
                "Put a global pooling or Flatten before its first Dense layer; where words are "
                "counted (multi_hot, count, tf_idf), keras.Input((), dtype='string') does as well."
            )
        raise ArgumentError(
            "`model` must return one row of values for each image, (batch, classes). Received: "
            f"model={model.name!r} with outputs of the shape {tuple(output.shape)}. {remedy}"
        )
    kind = head_kind(model)
    if kind == "softmax" and output.shape[-1] == 1:
        raise ArgumentError(
            "`model` must not end in a softmax over one output, which gives 1.0 whatever the image "
            f"is. Received: model={model.name!r} with outputs of the shape (None, 1). For two "
            'classes end it in Dense(1, activation="sigmoid"), or in two outputs: '
            'Dense(2, activation="softmax").'
        )
    return ModelSpec(
        name=model.name,
        input_shape=(None, *model_input.shape[1:]),
        input_dtype=dtype,
        num_outputs=int(output.shape[-1]),
        kind=kind,
        _model=model,
    )


def _before_first_weights(model: keras.Model, values: Any) -> np.ndarray | None:
    """What inputs become on their way to the first layers with weights, nested models included.

    `None` where these read several tensors, or none.
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
        outputs = keras.tree.flatten(_computed(node, known))
        known |= {id(one): value for one, value in zip(node.output_tensors, outputs, strict=True)}
    if len(readers) != 1:
        return None
    ((key, operations),) = readers.items()
    if len(operations) == 1 and _is_one_to_one(operations[0]):
        return _before_first_weights(operations[0], known[key])
    found = keras.ops.convert_to_numpy(keras.ops.cast(known[key], "float32"))
    return found.astype(np.float64)


def _computed(node: Any, known: dict[int, Any]) -> Any:
    """What an operation gives in inference for values that are known."""
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
