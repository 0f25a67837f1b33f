"""Models whose per-sample gradients may be vectorised: only those with tested operations."""

from collections.abc import Iterator

import keras

from tlkit.continual.sample_convolutions import is_plain_convolution
from tlkit.utils.keras_private import is_graph_operation, is_plain_model

_LAYERS = keras.layers

PROVEN_LAYERS = frozenset(
    [
        *(_LAYERS.InputLayer, _LAYERS.Identity, _LAYERS.Flatten, _LAYERS.Reshape),
        *(_LAYERS.Permute, _LAYERS.RepeatVector, _LAYERS.Dense, _LAYERS.Conv2D),
        *(_LAYERS.Activation, _LAYERS.ReLU, _LAYERS.LeakyReLU, _LAYERS.ELU, _LAYERS.PReLU),
        *(_LAYERS.BatchNormalization, _LAYERS.LayerNormalization, _LAYERS.GroupNormalization),
        *(_LAYERS.RMSNormalization, _LAYERS.UnitNormalization, _LAYERS.Normalization),
        *(_LAYERS.Rescaling, _LAYERS.ZeroPadding2D, _LAYERS.Cropping2D, _LAYERS.MaxPooling1D),
        *(_LAYERS.MaxPooling2D, _LAYERS.AveragePooling2D, _LAYERS.GlobalAveragePooling1D),
        *(_LAYERS.GlobalAveragePooling2D, _LAYERS.GlobalMaxPooling1D, _LAYERS.GlobalMaxPooling2D),
        *(_LAYERS.Add, _LAYERS.Subtract, _LAYERS.Multiply, _LAYERS.Average, _LAYERS.Maximum),
        *(_LAYERS.Minimum, _LAYERS.Concatenate, _LAYERS.Dropout, _LAYERS.GaussianNoise),
        *(_LAYERS.GaussianDropout, _LAYERS.SpatialDropout2D),
    ]
)
"""Exact classes, each of which `tests/continual/test_vectorizing.py` compares with the loop.

Excluded are layers without a rule (depthwise and separable convolutions, 3D convolutions, plain
and transposed, resizing), layers that need a loop for the filters (1D and transposed convolutions),
layers that crash the process at once or later by writing out of bounds (`EinsumDense`, and all
attention built on it), and layers with a `tf.while_loop` (recurrent layers).
"""

PROVEN_ACTIVATIONS = frozenset(
    keras.activations.get(name)
    for name in ("linear", "relu", "relu6", "elu", "gelu", "sigmoid", "silu", "softmax", "tanh")
)

PROVEN_OPERATIONS = frozenset(["Add", "Subtract", "Multiply", "TrueDivide", "Negative", "GetItem"])
"""Classes of operations, by name, such as those of `x * 2` and `x[..., ::-1]`."""

PROVEN_TYPES = ("float32", "bfloat16", "float16")

MAX_RANK = 4
"""Maximum number of axes of an output, including that of samples."""


def reason_not_to_vectorize(model: keras.Model) -> str:
    """Returns why a model cannot be vectorised over samples, or "".

    `tf.vectorized_map` has no rule for some operations and a wrong rule for others, which may crash
    the process without an exception. So models with any other operation, including user-defined
    layers, are processed one sample at a time.

    Example:
        >>> import keras
        >>> from tlkit.continual.vectorizing import reason_not_to_vectorize
        >>> x = keras.Input((8,))
        >>> reason_not_to_vectorize(keras.Model(x, keras.layers.Dense(2)(x)))
        ''
        >>> y = keras.layers.LSTM(2, name="words")(keras.layers.Reshape((4, 2))(x))
        >>> reason_not_to_vectorize(keras.Model(x, y))
        'LSTM (words) is not tested for vectorisation over samples'
    """
    for operation in _operations(model):
        if not _is_proven(operation):
            return (
                f"{type(operation).__name__} ({operation.name}) is not tested for vectorisation "
                "over samples"
            )
    return ""


def _operations(model: keras.Model) -> Iterator[keras.Operation]:
    """Yields the operations of a model and its nested models; a subclassed model counts as one."""
    if not is_plain_model(model):
        yield model
        return
    for operation in getattr(model, "operations", model.layers):
        if isinstance(operation, keras.Model):
            yield from _operations(operation)
        else:
            yield operation


def _is_proven(operation: keras.Operation) -> bool:
    kind = type(operation)
    rank = max(len(tensor.shape) for tensor in keras.tree.flatten(operation.output))
    if rank > MAX_RANK and kind is not keras.layers.InputLayer:
        return False
    if not isinstance(operation, keras.layers.Layer):
        return is_graph_operation(operation) and kind.__name__ in PROVEN_OPERATIONS
    activation = getattr(operation, "activation", None) or keras.activations.linear
    return (
        kind in PROVEN_LAYERS
        and (kind is not keras.layers.Conv2D or is_plain_convolution(operation))
        and activation in PROVEN_ACTIVATIONS
        and (activation is not keras.activations.softmax or rank == 2)
        and getattr(operation, "data_format", None) in (None, "channels_last")
        and operation.compute_dtype in PROVEN_TYPES
        and operation.activity_regularizer is None
        and operation.quantization_mode is None
        and not getattr(operation, "lora_enabled", False)
    )
