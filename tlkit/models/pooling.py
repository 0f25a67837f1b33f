"""Pooling: the features of an image from a feature map or from tokens."""

import keras

from tlkit.errors import ArgumentError, check_choice
from tlkit.models.backbone_spec import BackboneSpec
from tlkit.utils.keras_private import operation_of

POOLINGS = ("avg", "max", "flatten", "class_token", "attention")
_NAME = "head_pool"


def pooling_of(spec: BackboneSpec, pooling: str | None) -> str:
    """Returns how the features of a backbone are pooled.

    Args:
        spec: The backbone.
        pooling: One of `POOLINGS`; `None` for the backbone's own: its attention pooling, else its
            class token, else the mean.

    Raises:
        ArgumentError: It is none of these, or one that the backbone does not have.

    Example:
        >>> import tlkit
        >>> from tlkit.models.pooling import pooling_of
        >>> pooling_of(tlkit.list_backbones()[0], None)
        'avg'
    """
    has = {"attention": spec.build_pooled is not None, "class_token": spec.num_prefix_tokens > 0}
    if pooling is None:
        return next((name for name, is_there in has.items() if is_there), "avg")
    check_choice("pooling", pooling, POOLINGS)
    if not has.get(pooling, True):
        what = {"attention": "no attention pooling of its own", "class_token": "no class token"}
        raise ArgumentError(
            "`pooling` must be one that the backbone has. "
            f"Received: pooling={pooling!r}, and {spec.name!r} has {what[pooling]}. Use 'avg'."
        )
    return pooling


def pooled(features: keras.KerasTensor, pooling: str, num_prefix_tokens: int) -> keras.KerasTensor:
    """Returns the features `(batch, channels)` of images, or all of them flattened.

    Args:
        features: A feature map `(batch, rows, columns, channels)`; tokens `(batch, tokens,
            channels)`; or pooled features.
        pooling: "avg" or "max" over all positions, for tokens those of patches; "flatten" for all
            positions and tokens; "class_token" for the first token; "attention" for features that
            are pooled already.
        num_prefix_tokens: Number of tokens before those of the patches.

    Example:
        >>> import keras
        >>> from tlkit.models.pooling import pooled
        >>> pooled(keras.Input((17, 8)), "class_token", 1).shape
        (None, 8)
    """
    if pooling == "attention":
        return features
    if pooling == "flatten":
        return keras.layers.Flatten(name="head_flatten")(features)
    if pooling == "class_token":
        token = features[:, 0]
        operation_of(token).name = _NAME
        return token
    if num_prefix_tokens:
        features = features[:, num_prefix_tokens:]
        operation_of(features).name = "patch_tokens"
    kind = {"avg": "Average", "max": "Max"}[pooling]
    layer = getattr(keras.layers, f"Global{kind}Pooling{len(features.shape) - 2}D")
    return layer(name=_NAME)(features)
