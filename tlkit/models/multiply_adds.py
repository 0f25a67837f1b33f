"""The number of multiply-adds of a forward pass, counted layer by layer."""

import inspect
from collections.abc import Callable
from math import prod
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from tlkit.models.graph import inner_nodes, is_nested, model_ends, sorted_nodes
from tlkit.models.traced_work import work_of_graph

_LAYERS = keras.layers
Shape: TypeAlias = tuple[int | None, ...]


def count_multiply_adds(model: keras.Model) -> int:
    """Returns the number of multiply-adds in one image's forward pass.

    Matrix products and convolutions are counted, of an input with a kernel or of two tensors
    (attention, `Dot`): each product of two numbers that is added to a sum. Normalisation, pooling,
    resizing, activations with or without weights, and embeddings, which look rows up, count as 0. A
    transposed convolution counts its kernel at each position of its input, a recurrent layer its
    cell at each step, in both directions if it has two. Each call in this graph counts once, even
    if other models share the layers. Other layers than Keras's own are traced, and their operations
    counted; their loops are assumed to run along the first axis of the input, unless the graph
    contains the number of iterations.

    Raises:
        ArgumentError: See `model_ends`.

    Example:
        >>> import keras
        >>> from tlkit.models.multiply_adds import count_multiply_adds
        >>> x = keras.Input((8, 8, 3))
        >>> count_multiply_adds(keras.Model(x, keras.layers.Conv2D(4, 3, padding="same")(x)))
        6912
    """
    return sum(multiply_adds_of(node) for node in sorted_nodes(model_ends(model)[1]))


def multiply_adds_of(node: Any) -> int:
    """Returns the multiply-adds of one call of an operation; sizes not fixed count as 1."""
    if is_nested(node):
        return sum(multiply_adds_of(inner) for inner in inner_nodes(node))
    operation = node.operation
    if type(operation) in _NOTHING:
        return 0
    inputs = [tuple(tensor.shape) for tensor in node.input_tensors]
    count = _known(operation, inputs, tuple(node.output_tensors[0].shape))
    return _traced(node) if count is None else count


def _known(operation: Any, inputs: list[Shape], output: Shape) -> int | None:
    """Returns the count by a rule; `None` if there is none for the operation's class."""
    rule = _RULES.get(type(operation))
    return None if rule is None else rule(operation, inputs, output)


def _by_output(layer: Any, inputs: list[Shape], output: Shape) -> int:
    """Counts each kernel once at each position of the output."""
    del inputs
    kernels = [v for v in (getattr(layer, name, None) for name in _KERNELS) if v is not None]
    return sum(prod(kernel.shape) for kernel in kernels) * _positions(layer, output)


def _by_input(layer: Any, inputs: list[Shape], output: Shape) -> int:
    del output
    return prod(layer.kernel.shape) * _positions(layer, inputs[0])


def _of_einsum_dense(layer: Any, inputs: list[Shape], output: Shape) -> int:
    """Counts the kernel once at each position of the input's axes that it does not contract."""
    del output
    left, _, _ = layer.equation.replace(" ", "").partition("->")
    given, _, of_kernel = left.partition(",")
    shape, (before, has_gap, after) = inputs[0], given.partition("...")
    names: list[str] = list(given)
    if has_gap:
        gap = len(shape) - len(before) - len(after)
        names = [*before, *("..." for _ in range(gap)), *after]
    sides = [side or 1 for name, side in zip(names, shape, strict=True) if name not in of_kernel]
    return prod(layer.kernel.shape) * prod(sides[1:])


def _of_recurrent(layer: Any, inputs: list[Shape], output: Shape) -> int | None:
    """Counts the cell's kernels at each step."""
    del output
    cells = layer.cell.cells if isinstance(layer.cell, _LAYERS.StackedRNNCells) else [layer.cell]
    if not all(type(cell) in _CELLS for cell in cells):
        return None
    kernels = [kernel for cell in cells for kernel in (cell.kernel, cell.recurrent_kernel)]
    return (inputs[0][1] or 1) * sum(prod(kernel.shape) for kernel in kernels)


def _of_convolutional_recurrent(layer: Any, inputs: list[Shape], output: Shape) -> int:
    """Counts both kernels of the cell at each step and at each position of the state."""
    del output
    state = layer.cell.compute_output_shape((inputs[0][0], *inputs[0][2:]))[0]
    cell = layer.cell
    size = prod(cell.kernel.shape) + prod(cell.recurrent_kernel.shape)
    return (inputs[0][1] or 1) * size * _positions(cell, tuple(state))


def _of_both_directions(layer: Any, inputs: list[Shape], output: Shape) -> int | None:
    counts = [_known(one, inputs, output) for one in (layer.forward_layer, layer.backward_layer)]
    return None if None in counts else sum(count or 0 for count in counts)


def _of_each_step(layer: Any, inputs: list[Shape], output: Shape) -> int | None:
    one, shape = layer.layer, inputs[0]
    if type(one) in _NOTHING:
        return 0
    if isinstance(one, keras.Model) and one.outputs:
        count: int | None = count_multiply_adds(one)
    else:
        count = _known(one, [(shape[0], *shape[2:])], (output[0], *output[2:]))
    return None if count is None else (shape[1] or 1) * count


def _of_wrapped(layer: Any, inputs: list[Shape], output: Shape) -> int | None:
    return 0 if type(layer.layer) in _NOTHING else _known(layer.layer, inputs, output)


def _of_additive_attention(layer: Any, inputs: list[Shape], output: Shape) -> int:
    """Counts the scale, a kernel that sums over values, and the weighted sum over positions."""
    del output
    query, value = inputs[:2]
    key = inputs[2] if len(inputs) > 2 else value
    pairs = (query[1] or 1) * (value[1] or 1)
    return pairs * ((key[-1] or 1 if layer.use_scale else 0) + (value[-1] or 1))


def _positions(layer: Any, shape: Shape) -> int:
    is_first = getattr(layer, "data_format", None) == "channels_first"
    return prod(side or 1 for side in (shape[2:] if is_first else shape[1:-1]))


def _traced(node: Any) -> int:
    """Counts the operations in the graph of one call."""
    tensors = node.input_tensors
    specs = [tf.TensorSpec((1, *tensor.shape[1:]), tensor.dtype) for tensor in tensors]

    def call(*values: tf.Tensor) -> Any:
        arguments, keywords = node.arguments.fill_in(
            {id(tensor): value for tensor, value in zip(tensors, values, strict=True)}
        )
        is_layer = isinstance(node.operation, keras.layers.Layer)
        if is_layer and "training" in inspect.signature(node.operation.call).parameters:
            keywords["training"] = False
        return node.operation(*arguments, **keywords)

    traced = tf.function(call, autograph=False).get_concrete_function(*specs)
    shape: Shape = tuple(tensors[0].shape) if tensors else ()
    return work_of_graph(traced.graph, steps=(shape[1] or 1) if len(shape) > 2 else 1)


_KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel")
_CELLS = (_LAYERS.SimpleRNNCell, _LAYERS.LSTMCell, _LAYERS.GRUCell)
_NOTHING = frozenset(
    [
        *(_LAYERS.InputLayer, _LAYERS.Identity, _LAYERS.Flatten, _LAYERS.Reshape, _LAYERS.Permute),
        *(_LAYERS.RepeatVector, _LAYERS.Activation, _LAYERS.ReLU, _LAYERS.LeakyReLU, _LAYERS.ELU),
        *(_LAYERS.PReLU, _LAYERS.Softmax, _LAYERS.BatchNormalization, _LAYERS.LayerNormalization),
        *(_LAYERS.GroupNormalization, _LAYERS.RMSNormalization, _LAYERS.UnitNormalization),
        *(_LAYERS.Normalization, _LAYERS.Rescaling, _LAYERS.Resizing, _LAYERS.CenterCrop),
        *(_LAYERS.Embedding, _LAYERS.Masking, _LAYERS.ActivityRegularization, _LAYERS.Dropout),
        *(_LAYERS.AlphaDropout, _LAYERS.GaussianDropout, _LAYERS.GaussianNoise),
        *(_LAYERS.Add, _LAYERS.Subtract, _LAYERS.Multiply, _LAYERS.Average, _LAYERS.Maximum),
        *(_LAYERS.Minimum, _LAYERS.Concatenate),
        *(
            getattr(_LAYERS, f"{kind}{n}D")
            for kind in (
                *("SpatialDropout", "AveragePooling", "MaxPooling", "GlobalAveragePooling"),
                *("GlobalMaxPooling", "ZeroPadding", "Cropping", "UpSampling"),
            )
            for n in (1, 2, 3)
        ),
    ]
)
_RULES: dict[type, Callable[[Any, list[Shape], Shape], int | None]] = {
    **dict.fromkeys(
        [
            *(_LAYERS.Dense, _LAYERS.Conv1D, _LAYERS.Conv2D, _LAYERS.Conv3D),
            *(_LAYERS.DepthwiseConv1D, _LAYERS.DepthwiseConv2D),
            *(_LAYERS.SeparableConv1D, _LAYERS.SeparableConv2D),
        ],
        _by_output,
    ),
    **dict.fromkeys(
        [_LAYERS.Conv1DTranspose, _LAYERS.Conv2DTranspose, _LAYERS.Conv3DTranspose], _by_input
    ),
    **dict.fromkeys([_LAYERS.SimpleRNN, _LAYERS.LSTM, _LAYERS.GRU, _LAYERS.RNN], _of_recurrent),
    **dict.fromkeys(
        [_LAYERS.ConvLSTM1D, _LAYERS.ConvLSTM2D, _LAYERS.ConvLSTM3D], _of_convolutional_recurrent
    ),
    _LAYERS.EinsumDense: _of_einsum_dense,
    _LAYERS.Bidirectional: _of_both_directions,
    _LAYERS.TimeDistributed: _of_each_step,
    _LAYERS.SpectralNormalization: _of_wrapped,
    _LAYERS.AdditiveAttention: _of_additive_attention,
}
