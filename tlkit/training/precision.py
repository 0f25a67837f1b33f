"""The number format of training; weights, logits and losses stay in float32."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras
import tensorflow as tf

from tlkit.errors import ArgumentError
from tlkit.models.graph import with_nested

PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
_BFLOAT16_CAPABILITY, _FLOAT16_CAPABILITY = (8, 0), (7, 0)


def resolve_precision(name: str, num_replicas: int = 1) -> str:
    """Returns the policy that "auto" stands for on this machine; any other name unchanged.

    GPUs with tensor cores train in bfloat16 (compute capability 8.0 and up) or float16 (7.0 and
    up), all other devices in float32: on a CPU a small residual network trained no faster in
    bfloat16. Several replicas never use float16: in Keras each replica decides by itself whether a
    step's gradients are finite.

    Raises:
        ArgumentError: `name` is "mixed_float16" and there are several replicas.
    """
    if name == "mixed_float16" and num_replicas > 1:
        raise ArgumentError(
            "`precision` must not be 'mixed_float16' on several replicas, whose loss scales would "
            f"diverge. Received: precision={name!r} and {num_replicas} replicas. "
            "Give 'mixed_bfloat16' or 'float32'."
        )
    if name != "auto":
        return name
    capabilities = [
        tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    if not capabilities or min(capabilities) < _FLOAT16_CAPABILITY:
        return "float32"
    if min(capabilities) >= _BFLOAT16_CAPABILITY:
        return "mixed_bfloat16"
    return "mixed_float16" if num_replicas == 1 else "float32"


@contextmanager
def computed_in(model: keras.Model, precision: str) -> Iterator[None]:
    """Sets the model's float32 layers to `precision`, except for its end, and restores them.

    The last layer with weights and the layers after it compute the logits and stay in float32.
    Afterwards every layer has its former policy, so that a model saved later computes in float32.
    """
    if precision == "float32":
        yield
        return
    end = {id(layer) for layer in _end(model)}
    layers = [
        layer
        for layer in with_nested(model)
        if layer.dtype_policy.name == "float32" and id(layer) not in end
    ]
    try:
        for layer in layers:
            layer.dtype_policy = keras.DTypePolicy(precision)
        yield
    finally:
        for layer in layers:
            layer.dtype_policy = keras.DTypePolicy("float32")


def _end(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns the last layer with weights and all layers after it, also in nested models."""
    layers = list(_in_order(model))
    with_weights = [i for i, layer in enumerate(layers) if layer.weights]
    return layers[with_weights[-1] if with_weights else -1 :]


def _in_order(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _in_order(layer)
        else:
            yield layer


def with_loss_scaling(
    optimizer: keras.optimizers.Optimizer, precision: str
) -> keras.optimizers.Optimizer:
    """Returns the optimizer, with dynamic loss scaling for float16."""
    if precision == "mixed_float16":
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer
