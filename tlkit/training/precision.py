"""The number format that training computes in; weights, logits and losses stay float32."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras
import tensorflow as tf

from tlkit.errors import ArgumentError
from tlkit.models.graph import with_nested

PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
_BFLOAT16_CAPABILITY, _FLOAT16_CAPABILITY = (8, 0), (7, 0)


def resolve_precision(name: str, num_replicas: int = 1) -> str:
    """Returns the policy that "auto" means here; any other name as it is.

    GPUs with tensor cores train in bfloat16 (compute capability 8.0 and up) or float16 (7.0 and
    up); everything else in float32: on a processor a small residual network trained no faster in
    bfloat16. On several replicas never in float16: Keras lets each of them decide for itself
    whether a step's gradients are finite.

    Raises:
        ArgumentError: "mixed_float16" is asked for on several replicas.
    """
    if name == "mixed_float16" and num_replicas > 1:
        raise ArgumentError(
            "`precision` must not be 'mixed_float16' on several replicas, which would not agree on "
            f"the scale of the loss. Received: precision={name!r} and {num_replicas} replicas. "
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
    """Lets the model's float32 layers compute in `precision` for a while, but for its end.

    The last layer with weights and what follows it give the logits, and stay. Afterwards each has
    its own policy again, so that a model saved later computes in float32.
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
    """Returns the last layer with weights and all after it, those in nested models too."""
    layers = list(_in_order(model))
    with_weights = [i for i, layer in enumerate(layers) if layer.weights]
    return layers[with_weights[-1] if with_weights else -1 :]


def _in_order(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _in_order(layer)
        else:
            yield layer


def scaled(optimizer: keras.optimizers.Optimizer, precision: str) -> keras.optimizers.Optimizer:
    """Returns the optimizer, with dynamic loss scaling where float16 needs it."""
    if precision == "mixed_float16":
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer
