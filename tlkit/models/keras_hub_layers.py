"""The layers of KerasHub's vision transformers, made of plain Keras layers with their weights.

KerasHub keeps class tokens, position embeddings and scales as weights of layers of its own, of
which some cannot be loaded from a file, and DINOv2's embeddings lose precision in one. Plain layers
need no KerasHub to be loaded. Each function takes a layer of KerasHub 0.32 and what it is called
on.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tlkit.models.opening import Replacement

ops = keras.ops
_ROTATIONS = "DINOV3RopePositionEmbedding"
_GELU = "gelu_approximate"  # an activation of KerasHub


def _vectors(
    table: Any, name: str, like: keras.KerasTensor, *, per_image: bool = False
) -> keras.KerasTensor:
    """Returns trainable vectors `(1, n, channels)`, or `(batch, n, channels)`, in the graph.

    A graph of plain layers holds weights that read no input in an `Embedding` of constant indices.

    Args:
        table: The vectors `(n, channels)`.
        name: Name of the layer.
        like: A tensor `(batch, tokens, channels)`, of which only the shape counts.
        per_image: Whether to have them for each image of the batch.
    """
    values = np.asarray(table, np.float32)
    zeros = ops.zeros_like(like[:, :1, 0], dtype="int32") if per_image else _zero(like)
    indices = zeros + np.arange(len(values), dtype=np.int32)[None]
    layer = keras.layers.Embedding(*values.shape, name=name)
    vectors = layer(indices)
    layer.set_weights([values])
    return vectors


def _zero(like: keras.KerasTensor) -> keras.KerasTensor:
    """Returns 0 `(1, 1)`, int32, computed from a tensor `(batch, tokens, channels)`.

    Keras's graphs contain only what is computed from an input.
    """
    return ops.sum(ops.zeros_like(like[:, :1, 0], dtype="int32"), axis=0, keepdims=True)


def _patches(
    projection: keras.layers.Layer, images: keras.KerasTensor
) -> tuple[keras.KerasTensor, tuple[int, int]]:
    """Returns the patches `(batch, rows * columns, channels)`, and (rows, columns)."""
    maps = projection(images)
    rows, columns, channels = maps.shape[1:]
    return ops.reshape(maps, (-1, rows * columns, channels)), (rows, columns)


def _at_grid(layer: Any, grid: tuple[int, int], num_prefix: int) -> np.ndarray:
    """Returns a layer's position embeddings `(n, channels)`, resized bicubically for another grid.

    The first `num_prefix` belong to tokens that are no patches.
    """
    positions = np.asarray(layer.position_embedding.embeddings, np.float32)
    prefix, patches = positions[:num_prefix], positions[num_prefix:]
    size, patch = (
        (side, side) if isinstance(side, int) else side
        for side in (layer.image_size, layer.patch_size)
    )
    own = (size[0] // patch[0], size[1] // patch[1])
    if own == grid:
        return positions
    resized = tf.image.resize(patches.reshape(1, *own, -1), grid, method="bicubic").numpy()
    return np.concatenate([prefix, resized.reshape(grid[0] * grid[1], -1)])


def _vit_embedding(layer: Any, images: keras.KerasTensor) -> keras.KerasTensor:
    tokens, grid = _patches(layer.patch_embedding, images)
    if layer.use_class_token:
        first = _vectors(layer.class_token[0], "class_token", tokens, per_image=True)
        tokens = ops.concatenate([first, tokens], axis=1)
    table = _at_grid(layer, grid, int(layer.use_class_token))
    return tokens + _vectors(table, "position_embedding", tokens)


def _siglip_embedding(
    layer: Any, images: keras.KerasTensor, training: bool | None = None
) -> keras.KerasTensor:
    del training
    tokens, grid = _patches(layer.patch_embedding, images)
    table = _at_grid(layer, grid, 0)
    return tokens + _vectors(table, "position_embedding", tokens)


def _siglip_mlp(
    layer: Any, tokens: keras.KerasTensor, training: bool | None = None
) -> keras.KerasTensor:
    """Two Dense layers; KerasHub's approximation of GELU would need KerasHub to be loaded."""
    del training
    if getattr(layer.fc1.activation, "__name__", "") != _GELU:
        return layer.fc2(layer.fc1(tokens))
    first = keras.layers.Dense(layer.fc1.units, name="fc1")
    hidden = ops.gelu(first(tokens), approximate=True)
    first.set_weights(layer.fc1.get_weights())
    return layer.fc2(hidden)


def _dino_embedding(
    layer: Any, images: keras.KerasTensor, masks: Any = None, training: bool | None = None
) -> keras.KerasTensor:
    """DINOv2's and DINOv3's: class token, then registers without positions, then patches."""
    del masks, training
    patches, _ = _patches(layer.patch_embeddings.projection, images)
    first = _vectors(layer.cls_token[0], "class_token", patches, per_image=True)
    tokens = ops.concatenate([first, patches], axis=1)
    positions = getattr(layer, "interpolated_position_embeddings", None)
    if positions is not None:
        tokens = tokens + _vectors(positions[0], "position_embedding", tokens)
    if layer.num_register_tokens:
        registers = _vectors(layer.register_tokens[0], "registers", patches, per_image=True)
        tokens = ops.concatenate([tokens[:, :1], registers, tokens[:, 1:]], axis=1)
    dropout = getattr(layer, "dropout", None)
    return tokens if dropout is None else dropout(tokens)


def _layer_scale(
    layer: Any, tokens: keras.KerasTensor, training: bool | None = None
) -> keras.KerasTensor:
    del training
    return tokens * _vectors(layer.lambda1[None], "scale", tokens)


def _stochastic_depth(
    layer: Any, tokens: keras.KerasTensor, training: bool | None = None
) -> keras.KerasTensor:
    """Dropout of a whole branch for each image (Huang et al. 2016, arXiv:1603.09382)."""
    del training
    rate = float(layer.drop_prob if hasattr(layer, "drop_prob") else layer.rate)
    noise_shape = (None, *[1] * (len(tokens.shape) - 1))
    return keras.layers.Dropout(rate, noise_shape=noise_shape, name="depth")(tokens)


def _rotary_attention(
    rope: Any, grid: tuple[int, int], layer: Any, tokens: keras.KerasTensor, **others: Any
) -> keras.KerasTensor:
    """DINOv3's attention: queries and keys of patches are rotated by their positions.

    KerasHub computes the rotations once for all blocks, from the image. Each block would then read
    a second tensor, and no cut would lie between two blocks; so they are computed in each block.
    """
    shape = (-1, tokens.shape[1], layer.num_heads, layer.head_dim)
    query, key, value = (
        ops.reshape(dense(tokens), shape)
        for dense in (layer.query_dense, layer.key_dense, layer.value_dense)
    )
    angles = _angles(tokens, grid, np.asarray(rope.inv_freq))
    cosines, sines = (ops.cast(one, tokens.dtype) for one in (ops.cos(angles), ops.sin(angles)))
    first, half = others["num_prefix_tokens"], layer.head_dim // 2

    def rotated(heads: keras.KerasTensor) -> keras.KerasTensor:
        patches = heads[:, first:]
        turned = ops.concatenate([-patches[..., half:], patches[..., :half]], axis=-1)
        return ops.concatenate([heads[:, :first], patches * cosines + turned * sines], axis=1)

    attended = ops.dot_product_attention(rotated(query), rotated(key), value, scale=layer.scale)
    merged = ops.reshape(attended, (-1, tokens.shape[1], layer.hidden_dim))
    return layer.output_dense(layer.dropout(merged))


def _angles(
    tokens: keras.KerasTensor, grid: tuple[int, int], frequencies: np.ndarray
) -> keras.KerasTensor:
    """Returns the rotation of each patch, `(1, patches, 1, channels of a head)`, in radians.

    Computed in the graph from a few numbers: as a constant they would be most of a model's file.
    """
    zero = ops.cast(_zero(tokens), "float32")[..., None, None]
    sides = []
    for axis, size in enumerate(grid, start=1):
        centres = 2 * (np.arange(size, dtype=np.float32) + 0.5) / size - 1
        angles = (2 * np.pi * centres[:, None] * frequencies).astype(np.float32)
        angles = np.expand_dims(angles, (0, 3 - axis))
        sides.append(ops.broadcast_to(zero + angles, (1, *grid, len(frequencies))))
    half = ops.reshape(ops.concatenate(sides, axis=-1), (1, grid[0] * grid[1], 1, -1))
    return ops.concatenate([half, half], axis=-1)


def _attention_pooling(
    layer: Any, tokens: keras.KerasTensor, training: bool | None = None
) -> keras.KerasTensor:
    """SigLIP's pooling: one learned query attends to all tokens."""
    del training
    query = _vectors(layer.probe[0], "pool_query", tokens, per_image=True)
    pooled = layer.attention(query, tokens, tokens)
    return (pooled + _siglip_mlp(layer.mlp, layer.layer_norm(pooled)))[:, 0]


def _swin_block(layer: Any, tokens: keras.KerasTensor) -> keras.KerasTensor:
    """A block of Swin: attention within windows, which are shifted in every second block."""
    size, shift, (rows, columns) = layer.window_size, layer.shift_size, layer.input_resolution
    num_channels = tokens.shape[-1]
    windows = _Windows(rows, columns, size)
    maps = ops.reshape(layer.norm1(tokens), (-1, rows, columns, num_channels))
    mask = None
    if shift:
        maps = _rolled(maps, shift)
        mask = _mask_of_shift(tokens, windows, shift)
    attended = _window_attention(layer.attn, windows.split(maps), mask)
    maps = windows.merged(attended)
    if shift:
        maps = _rolled(maps, -shift)
    maps = maps[:, :rows, :columns]
    tokens = tokens + _branch(layer, ops.reshape(maps, (-1, rows * columns, num_channels)))
    return tokens + _branch(layer, layer.mlp.call(layer.norm2(tokens)))


def _rolled(maps: keras.KerasTensor, shift: int) -> keras.KerasTensor:
    """Returns maps moved up and left by `shift`, what leaves them entering on the other side.

    With `keras.ops.roll` a model cannot be exported to LiteRT.
    """
    maps = ops.concatenate([maps[:, shift:], maps[:, :shift]], axis=1)
    return ops.concatenate([maps[:, :, shift:], maps[:, :, :shift]], axis=2)


def _branch(layer: Any, tokens: keras.KerasTensor) -> keras.KerasTensor:
    has_depth = not isinstance(layer.drop_path, keras.layers.Identity)
    return _stochastic_depth(layer.drop_path, tokens) if has_depth else tokens


@dataclass(frozen=True)
class _Windows:
    """Windows of `size` x `size` patches; the last ones are padded."""

    rows: int
    columns: int
    size: int

    @property
    def grid(self) -> tuple[int, int]:
        """The number of windows in each direction."""
        return -(-self.rows // self.size), -(-self.columns // self.size)

    def split(self, maps: keras.KerasTensor) -> keras.KerasTensor:
        """Returns `(batch, windows, patches of a window, channels)` of maps."""
        (down, across), size, num_channels = self.grid, self.size, maps.shape[-1]
        padding = (down * size - self.rows, across * size - self.columns)
        if any(padding):
            maps = ops.pad(maps, [(0, 0), (0, padding[0]), (0, padding[1]), (0, 0)])
        parts = ops.reshape(maps, (-1, down, size, across, size, num_channels))
        parts = ops.transpose(parts, (0, 1, 3, 2, 4, 5))
        return ops.reshape(parts, (-1, down * across, size * size, num_channels))

    def merged(self, windows: keras.KerasTensor) -> keras.KerasTensor:
        """Returns maps of whole windows, with the padding."""
        (down, across), size, num_channels = self.grid, self.size, windows.shape[-1]
        parts = ops.reshape(windows, (-1, down, across, size, size, num_channels))
        parts = ops.transpose(parts, (0, 1, 3, 2, 4, 5))
        return ops.reshape(parts, (-1, down * size, across * size, num_channels))


def _mask_of_shift(tokens: keras.KerasTensor, windows: _Windows, shift: int) -> keras.KerasTensor:
    """Returns -100 `(1, windows, 1, patches, patches)` for pairs that the shift brings together.

    Computed in the graph from the part of the image that each row and column is in, as a constant
    would be most of a model's file.
    """
    zero = _zero(tokens)[..., None, None]
    rows, columns = (
        np.digitize(np.arange(side), (side - windows.size, side - shift)).astype(np.int32)
        for side in (windows.rows, windows.columns)
    )
    # both broadcast first: Keras adds (1, n, 1, 1) and (1, 1, n, 1) wrongly (3.15)
    shape = (1, windows.rows, windows.columns, 1)
    parts = ops.broadcast_to(zero + 3 * rows[None, :, None, None], shape)
    parts = parts + ops.broadcast_to(zero + columns[None, None, :, None], shape)
    parts = windows.split(parts)[..., 0]
    is_apart = ops.not_equal(parts[:, :, None, None, :], parts[:, :, None, :, None])
    return ops.cast(is_apart, tokens.dtype) * -100.0


def _window_attention(
    layer: Any, windows: keras.KerasTensor, mask: keras.KerasTensor | None
) -> keras.KerasTensor:
    size, num_patches, num_heads = layer.win_h, layer.win_h * layer.win_w, layer.num_heads
    shape = (-1, windows.shape[1], num_patches, 3, num_heads, layer.head_dim)
    parts = ops.reshape(layer.qkv(windows), shape)
    query, key, value = (ops.transpose(parts[:, :, :, i], (0, 1, 3, 2, 4)) for i in range(3))
    scores = ops.matmul(query * layer.scale, ops.transpose(key, (0, 1, 2, 4, 3)))
    # one bias for each head and each offset between two patches of a window
    places = np.stack(np.meshgrid(range(size), range(size), indexing="ij"), -1).reshape(-1, 2)
    offsets = places[:, None] - places[None] + size - 1
    indices = (offsets[..., 0] * (2 * size - 1) + offsets[..., 1]).reshape(1, -1).astype(np.int32)
    table = layer.relative_position_bias_table
    embedding = keras.layers.Embedding(*table.shape, name="relative_position_bias")
    biases = embedding(_zero(windows[:, 0]) + indices)
    embedding.set_weights([table])
    biases = ops.reshape(biases, (1, 1, num_patches, num_patches, num_heads))
    scores = scores + ops.transpose(biases, (0, 1, 4, 2, 3))
    if mask is not None:
        scores = scores + mask
    weights = layer.attention_dropout_layer(ops.softmax(scores, axis=-1))
    attended = ops.transpose(ops.matmul(weights, value), (0, 1, 3, 2, 4))
    merged = ops.reshape(attended, (*shape[:3], layer.attn_dim))
    return layer.proj_drop(layer.proj(merged))


def replacements_for(
    operations: Iterable[Any], image_size: tuple[int, int]
) -> Mapping[str, Replacement]:
    """Returns the functions for layers of KerasHub, by the names of these layers' classes.

    Args:
        operations: Those of a model that may be a vision backbone of KerasHub.
        image_size: (height, width) in pixels of the images that it is built for.
    """
    found: dict[str, Replacement] = {
        "ViTPatchingAndEmbedding": _vit_embedding,
        "SigLIPVisionEmbedding": _siglip_embedding,
        "SigLIPMLP": _siglip_mlp,
        "DINOV2Embedding": _dino_embedding,
        "DINOV3Embedding": _dino_embedding,
        "DINOV2LayerScale": _layer_scale,
        "DINOV3LayerScale": _layer_scale,
        "DINOV2DropPath": _stochastic_depth,
        "DINOV3DropPath": _stochastic_depth,
        "SigLIPMultiHeadAttentionPooling": _attention_pooling,
        "SwinTransformerBlock": _swin_block,
    }
    for rope in (one for one in operations if type(one).__name__ == _ROTATIONS):
        grid = (image_size[0] // rope.patch_size, image_size[1] // rope.patch_size)
        found["DINOV3Attention"] = partial(_rotary_attention, rope, grid)
    return found
