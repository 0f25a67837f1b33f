"""A backbone of RGB images for images with another number of channels."""

from dataclasses import dataclass

import keras
import numpy as np

from tlkit.errors import ArgumentError
from tlkit.models.flattening import on_input
from tlkit.models.graph import model_ends, nodes_between, parameters, sorted_nodes
from tlkit.models.plain_copies import copied_onto
from tlkit.utils.progress import note

RGB = 3
_PROBES = np.concatenate([np.zeros((1, RGB)), 255.0 * np.eye(RGB)])


@dataclass(frozen=True, eq=False)
class _Start:
    """The first layers of a backbone: preprocessing of each pixel, padding, and a convolution.

    Attributes:
        matrix: The preprocessed pixel is matrix @ (pixel + shift), `(3, 3)`.
        shift: See `matrix`, `(3,)`.
        paddings: The layers between preprocessing and convolution.
        convolution: The first layer with weights that are trained.
        output: The convolution's output.
    """

    matrix: np.ndarray
    shift: np.ndarray
    paddings: tuple[keras.layers.Layer, ...]
    convolution: keras.layers.Conv2D
    output: keras.KerasTensor


def with_channels(backbone: keras.Model, num_channels: int) -> keras.Model:
    """Returns a backbone for images with another number of channels, which keeps what it knows.

    Only the preprocessing and the kernel of the first convolution change. With one channel the
    kernel is summed over red, green and blue: a grey image has the features that it would have as
    an RGB image, exactly if the preprocessing of the three is the same, and otherwise wherever the
    convolution reads no padding. Two channels have half of that kernel each. With more than three
    channels the first three are red, green and blue, with their own kernels, and those of the
    others start at zero: features are those of the RGB image until the first group is trained.

    Args:
        backbone: A functional model from pixels 0...255 `(batch, height, width, 3)` to features.
        num_channels: The number of channels, at least 1.

    Raises:
        ArgumentError: The backbone takes images of another number of channels than three; or its
            first layer with weights is no convolution that reads each preprocessed pixel.

    Example:
        >>> import keras
        >>> from tlkit.models.channels import with_channels
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Rescaling(1 / 255),
        ...     keras.layers.Conv2D(4, 3)])
        >>> grey = with_channels(model, 1)
        >>> grey.input_shape, grey.output_shape
        ((None, 8, 8, 1), (None, 6, 6, 4))
    """
    pixels, features = model_ends(backbone)
    if pixels.shape[-1] == num_channels:
        return backbone
    if pixels.shape[-1] != RGB:
        raise _refusal(
            num_channels, backbone, f"takes {pixels.shape[-1]}", f"channels={pixels.shape[-1]}"
        )
    start = _start_of(backbone, num_channels)
    kernel, bias, scale, offset = _adapted(start, num_channels)
    inputs = keras.Input((*pixels.shape[1:-1], num_channels), name="pixels", dtype=pixels.dtype)
    rescaling = keras.layers.Rescaling(scale, offset=offset, dtype="float32", name="preprocessing")
    x = rescaling(inputs)
    for padding in start.paddings:
        x = padding(x)
    use_bias = start.convolution.use_bias or bool(np.abs(bias).max() > 1e-6 * np.abs(kernel).max())
    convolution = keras.layers.Conv2D.from_config(
        {**start.convolution.get_config(), "use_bias": use_bias}
    )
    x = convolution(x)
    convolution.kernel.assign(kernel)
    if use_bias:
        own = start.convolution.bias if start.convolution.use_bias else 0.0
        convolution.bias.assign(keras.ops.convert_to_numpy(own) + bias)
    behind = nodes_between(start.output, features)
    if behind is None:
        reason = f"has layers besides {convolution.name!r} that read the images"
        raise _refusal(num_channels, backbone, reason)
    if behind:
        x = on_input(keras.Model(start.output, features), x)
    adapted = keras.Model(inputs, x)
    note(f"{backbone.name}: the kernel of {convolution.name} {_in_words(num_channels)}")
    return copied_onto(adapted, inputs, backbone.name)


def _in_words(num_channels: int) -> str:
    if num_channels == 1:
        return "is summed over red, green and blue for grey images"
    if num_channels < RGB:
        return f"is summed over red, green and blue, and shared by {num_channels} channels"
    return (
        f"is extended to {num_channels} channels: red, green, blue, and others that count once "
        "this layer has been trained, as their kernels start at zero"
    )


def _adapted(
    start: _Start, num_channels: int
) -> tuple[np.ndarray, np.ndarray, list[float], list[float]]:
    """Returns the kernel, what is added to the bias, and scale and offset of the pixels."""
    own = keras.ops.convert_to_numpy(start.convolution.kernel).astype(np.float64)
    of_pixels = np.einsum("hwcf,ci->hwif", own, start.matrix)  # kernels of red, green and blue
    scales = np.abs(start.matrix).sum(axis=0)
    scale, shift = scales.mean(), start.shift.mean()
    if num_channels < RGB:
        summed = of_pixels.sum(axis=2, keepdims=True) / (num_channels * scale)
        kernel = np.repeat(summed, num_channels, axis=2)
        bias = np.einsum("hwif,i->f", of_pixels, start.shift - shift)
        all_scales = np.full(num_channels, scale)
        shifts = np.full(num_channels, shift)
    else:
        num_new = num_channels - RGB
        kernel = np.zeros((*own.shape[:2], num_channels, own.shape[-1]))
        kernel[:, :, :RGB] = of_pixels / scales[:, np.newaxis]
        bias = np.zeros(own.shape[-1])
        all_scales = np.append(scales, np.full(num_new, scale))
        shifts = np.append(start.shift, np.full(num_new, shift))
    return kernel, bias, all_scales.tolist(), (all_scales * shifts).tolist()


def _start_of(backbone: keras.Model, num_channels: int) -> _Start:
    pixels, features = model_ends(backbone)
    first = next((one for one in sorted_nodes(features) if parameters(one.operation)), None)
    convolution = None if first is None else first.operation
    if (
        first is None
        or convolution is None
        or type(convolution) is not keras.layers.Conv2D
        or convolution.groups != 1
        or convolution.data_format != "channels_last"
    ):
        kind = "none" if convolution is None else f"a {type(convolution).__name__}"
        reason = f"has {kind} where a Conv2D must read the images"
        raise _refusal(num_channels, backbone, reason)
    nodes = nodes_between(pixels, first.input_tensors[0]) or []
    prepared, paddings = pixels, []
    for node in nodes:
        if isinstance(node.operation, keras.layers.ZeroPadding2D):
            paddings.append(node.operation)
        elif not paddings:
            prepared = node.output_tensors[0]
        else:
            raise _refusal(num_channels, backbone, f"has {node.operation.name!r} after padding")
    matrix, shift = _affine(backbone, prepared, num_channels)
    return _Start(matrix, shift, tuple(paddings), convolution, first.output_tensors[0])


def _affine(
    backbone: keras.Model, prepared: keras.KerasTensor, num_channels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns `matrix` and `shift` of `_Start`, checked on an image of random pixels."""
    pixels = model_ends(backbone)[0]
    sides = pixels.shape[1:-1]
    constant = np.broadcast_to(_PROBES[:, np.newaxis, np.newaxis], (len(_PROBES), *sides, RGB))
    random = np.random.default_rng(0).uniform(0, 255, (1, *sides, RGB))
    computed = _computed(pixels, prepared, np.concatenate([constant, random]))
    if computed.shape[1:] == (*sides, RGB):
        offset = computed[0, 0, 0]
        matrix = (computed[1 : 1 + RGB, 0, 0] - offset).T / 255.0
        expected = random @ matrix.T + offset
        tolerance = 1e-4 * np.abs(expected).max()
        is_affine = np.allclose(computed[-1:], expected, rtol=0, atol=tolerance)
        if is_affine and np.linalg.cond(matrix) < 1e6:
            return matrix, np.linalg.solve(matrix, offset)
    raise _refusal(num_channels, backbone, "has preprocessing that is not affine for each pixel")


def _computed(start: keras.KerasTensor, end: keras.KerasTensor, values: np.ndarray) -> np.ndarray:
    if end is start:
        return values
    outputs = keras.Model(start, end)(values.astype("float32"), training=False)
    return keras.ops.convert_to_numpy(outputs).astype(np.float64)


def _refusal(
    num_channels: int, backbone: keras.Model, reason: str, remedy: str = "channels=3"
) -> ArgumentError:
    return ArgumentError(
        "`channels` must be a number that the backbone can be adapted to. "
        f"Received: channels={num_channels}, and {backbone.name!r} {reason}. Give {remedy}, or "
        "another backbone."
    )
