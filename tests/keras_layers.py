"""All Keras layers, each on a small input, with manually counted multiply-adds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

L = keras.layers


@dataclass(frozen=True)
class LayerCase:
    """One layer in one setting.

    Attributes:
        name: Name of the test.
        make: Returns the layer.
        shapes: Shape of one sample of each input.
        multiply_adds: Multiply-adds of one sample, counted manually.
        dtype: Type of the inputs.
        call: Returns the output from the layer and its inputs, unless it is a plain call.
    """

    name: str
    make: Callable[[], Any]
    shapes: tuple[tuple[int, ...], ...]
    multiply_adds: int = 0
    dtype: str = "float32"
    call: Callable[..., Any] | None = None

    def model(self) -> keras.Model:
        """Returns a functional model of the layer alone."""
        keras.utils.set_random_seed(0)
        inputs = [keras.Input(shape, dtype=self.dtype) for shape in self.shapes]
        layer = self.make()
        if self.call is not None:
            output = self.call(layer, *inputs)
        else:
            output = layer(inputs[0] if len(inputs) == 1 else inputs)
        return keras.Model(inputs if len(inputs) > 1 else inputs[0], output)


def _case(
    name: str,
    make: Callable[[], Any],
    *shapes: tuple[int, ...],
    count: int = 0,
    dtype: str = "float32",
    call: Callable[..., Any] | None = None,
) -> LayerCase:
    return LayerCase(name, make, shapes, count, dtype, call)


SEQUENCE, IMAGE, VOLUME, VECTOR = (6, 4), (6, 5, 4), (4, 5, 6, 4), (4,)

DENSE = (
    _case("Dense", lambda: L.Dense(3), VECTOR, count=4 * 3),
    _case("Dense_on_sequences", lambda: L.Dense(3), SEQUENCE, count=6 * 4 * 3),
    _case("Dense_on_images", lambda: L.Dense(3, "relu"), IMAGE, count=6 * 5 * 4 * 3),
    _case("EinsumDense", lambda: L.EinsumDense("ab,bc->ac", 3), VECTOR, count=4 * 3),
    _case(
        "EinsumDense_two_axes",
        lambda: L.EinsumDense("abc,cde->abde", (6, 2, 3)),
        SEQUENCE,
        count=6 * 4 * 2 * 3,
    ),
    _case(
        "EinsumDense_summed_out",
        lambda: L.EinsumDense("abc,bcd->ad", 3),
        SEQUENCE,
        count=6 * 4 * 3,
    ),
    _case(
        "EinsumDense_ellipsis",
        lambda: L.EinsumDense("...x,xy->...y", 3),
        IMAGE,
        count=6 * 5 * 4 * 3,
    ),
    _case("EinsumDense_open", lambda: L.EinsumDense("abc,cd->abd", (None, 3)), SEQUENCE, count=72),
)

CONVOLUTIONS = (
    _case("Conv1D", lambda: L.Conv1D(3, 2), SEQUENCE, count=5 * 2 * 4 * 3),
    _case("Conv1D_causal", lambda: L.Conv1D(3, 2, padding="causal"), SEQUENCE, count=6 * 2 * 4 * 3),
    _case("Conv2D", lambda: L.Conv2D(3, 3), IMAGE, count=4 * 3 * 9 * 4 * 3),
    _case(
        "Conv2D_strides",
        lambda: L.Conv2D(3, 3, strides=2, padding="same"),
        IMAGE,
        count=3 * 3 * 9 * 4 * 3,
    ),
    _case(
        "Conv2D_dilated", lambda: L.Conv2D(3, 2, dilation_rate=3), IMAGE, count=3 * 2 * 4 * 4 * 3
    ),
    _case("Conv2D_groups", lambda: L.Conv2D(6, 3, groups=2), IMAGE, count=4 * 3 * 9 * 2 * 6),
    _case("Conv3D", lambda: L.Conv3D(3, 2), VOLUME, count=3 * 4 * 5 * 8 * 4 * 3),
    _case("DepthwiseConv1D", lambda: L.DepthwiseConv1D(2), SEQUENCE, count=5 * 2 * 4),
    _case(
        "DepthwiseConv2D",
        lambda: L.DepthwiseConv2D(3, depth_multiplier=2),
        IMAGE,
        count=4 * 3 * 9 * 4 * 2,
    ),
    _case("SeparableConv1D", lambda: L.SeparableConv1D(3, 2), SEQUENCE, count=5 * (2 * 4 + 4 * 3)),
    _case(
        "SeparableConv2D",
        lambda: L.SeparableConv2D(3, 3, strides=2, padding="same"),
        (6, 6, 4),
        count=3 * 3 * (9 * 4 + 4 * 3),
    ),
    _case(
        "Conv1DTranspose", lambda: L.Conv1DTranspose(3, 2, strides=2), SEQUENCE, count=6 * 2 * 12
    ),
    _case(
        "Conv2DTranspose",
        lambda: L.Conv2DTranspose(3, 3, strides=2, padding="same"),
        IMAGE,
        count=6 * 5 * 9 * 4 * 3,
    ),
    _case(
        "Conv3DTranspose",
        lambda: L.Conv3DTranspose(3, 2, strides=2),
        VOLUME,
        count=4 * 5 * 6 * 8 * 4 * 3,
    ),
)

RECURRENT = (
    _case("SimpleRNN", lambda: L.SimpleRNN(3), SEQUENCE, count=6 * (4 * 3 + 3 * 3)),
    _case("LSTM", lambda: L.LSTM(3), SEQUENCE, count=6 * 4 * (4 * 3 + 3 * 3)),
    _case("LSTM_sequences", lambda: L.LSTM(3, return_sequences=True), SEQUENCE, count=6 * 4 * 21),
    _case("LSTM_unrolled", lambda: L.LSTM(3, unroll=True), SEQUENCE, count=6 * 4 * 21),
    _case("GRU", lambda: L.GRU(3), SEQUENCE, count=6 * 3 * (4 * 3 + 3 * 3)),
    _case("GRU_reset_before", lambda: L.GRU(3, reset_after=False), SEQUENCE, count=6 * 3 * 21),
    _case("RNN", lambda: L.RNN(L.GRUCell(3)), SEQUENCE, count=6 * 3 * 21),
    _case(
        "RNN_stacked",
        lambda: L.RNN(L.StackedRNNCells([L.LSTMCell(3), L.SimpleRNNCell(2)])),
        SEQUENCE,
        count=6 * (4 * 21 + 3 * 2 + 2 * 2),
    ),
    _case(
        "Bidirectional",
        lambda: L.Bidirectional(L.LSTM(3, return_sequences=True)),
        SEQUENCE,
        count=2 * 6 * 4 * 21,
    ),
    _case("TimeDistributed", lambda: L.TimeDistributed(L.Dense(3)), IMAGE, count=6 * 5 * 4 * 3),
    _case(
        "TimeDistributed_convolution",
        lambda: L.TimeDistributed(L.Conv1D(3, 2)),
        IMAGE,
        count=6 * 4 * 2 * 4 * 3,
    ),
    _case(
        "ConvLSTM1D",
        lambda: L.ConvLSTM1D(3, 2),
        IMAGE,
        count=6 * 4 * (2 * 4 * 12 + 2 * 3 * 12),
    ),
    _case(
        "ConvLSTM2D",
        lambda: L.ConvLSTM2D(3, 2, strides=2, padding="same"),
        VOLUME,
        count=4 * 3 * 3 * (4 * 4 * 12 + 4 * 3 * 12),
    ),
    _case(
        "ConvLSTM3D",
        lambda: L.ConvLSTM3D(2, 1),
        (3, 2, 2, 2, 4),
        count=3 * 8 * (4 * 8 + 2 * 8),
    ),
)

# 2 heads of 3 values: four projections, and two products of 6 by 6 positions
_ATTENTION = 6 * 4 * 6 * 3 + 6 * 6 * 4 + 2 * 6 * 6 * 6

ATTENTION = (
    _case(
        "MultiHeadAttention",
        lambda: L.MultiHeadAttention(2, 3),
        SEQUENCE,
        count=_ATTENTION,
        call=lambda layer, x: layer(x, x),
    ),
    _case(
        "MultiHeadAttention_across",
        lambda: L.MultiHeadAttention(2, 3, value_dim=5),
        SEQUENCE,
        (7, 4),
        # queries, keys, values, output; scores and their sums
        count=6 * 4 * 6 + 7 * 4 * 6 + 7 * 4 * 10 + 6 * 10 * 4 + 6 * 7 * 6 + 6 * 7 * 10,
        call=lambda layer, x, y: layer(x, y),
    ),
    _case(
        "MultiHeadAttention_along_rows",
        lambda: L.MultiHeadAttention(2, 3, attention_axes=(2,)),
        IMAGE,
        count=4 * 30 * 4 * 6 + 2 * 6 * 5 * 5 * 6,
        call=lambda layer, x: layer(x, x),
    ),
    _case(
        "GroupQueryAttention",
        lambda: L.GroupQueryAttention(3, 4, 2),
        SEQUENCE,
        # 4 heads of queries and 2 of keys and values
        count=6 * 4 * (12 + 6 + 6) + 6 * 12 * 4 + 2 * 6 * 6 * 12,
        call=lambda layer, x: layer(x, x),
    ),
    _case(
        "Attention",
        L.Attention,
        SEQUENCE,
        (7, 4),
        count=6 * 7 * 4 + 6 * 7 * 4,
    ),
    _case(
        "Attention_concat", lambda: L.Attention(score_mode="concat"), SEQUENCE, (7, 4), count=168
    ),
    _case(
        "AdditiveAttention",
        L.AdditiveAttention,
        SEQUENCE,
        (7, 4),
        count=6 * 7 * 4 + 6 * 7 * 4,
    ),
    _case(
        "AdditiveAttention_unscaled",
        lambda: L.AdditiveAttention(use_scale=False),
        SEQUENCE,
        (7, 4),
        count=6 * 7 * 4,
    ),
    _case("Dot", lambda: L.Dot(axes=(2, 2)), SEQUENCE, (7, 4), count=6 * 7 * 4),
    _case("Dot_of_vectors", lambda: L.Dot(axes=1), VECTOR, VECTOR, count=4),
)

WITHOUT_KERNELS = (
    _case("Embedding", lambda: L.Embedding(9, 3), (6,), dtype="int32"),
    _case(
        "ReversibleEmbedding",
        lambda: L.ReversibleEmbedding(9, 4),
        (6,),
        dtype="int32",
    ),
    _case(
        "ReversibleEmbedding_back",
        lambda: L.ReversibleEmbedding(9, 4),
        SEQUENCE,
        count=6 * 4 * 9,
        call=lambda layer, x: layer(x, reverse=True),
    ),
    _case("BatchNormalization", L.BatchNormalization, IMAGE),
    _case("LayerNormalization", L.LayerNormalization, IMAGE),
    _case("LayerNormalization_axes", lambda: L.LayerNormalization(axis=(1, 2, 3)), IMAGE),
    _case("RMSNormalization", L.RMSNormalization, IMAGE),
    _case("GroupNormalization", lambda: L.GroupNormalization(2), IMAGE),
    _case("UnitNormalization", L.UnitNormalization, IMAGE),
    _case("Normalization", lambda: L.Normalization(mean=0.5, variance=2.0), IMAGE),
    _case("PReLU", L.PReLU, IMAGE),
    _case("PReLU_shared", lambda: L.PReLU(shared_axes=(1, 2)), IMAGE),
    _case("ReLU", lambda: L.ReLU(6.0), IMAGE),
    _case("LeakyReLU", L.LeakyReLU, IMAGE),
    _case("ELU", L.ELU, IMAGE),
    _case("Softmax", L.Softmax, IMAGE),
    _case("Activation", lambda: L.Activation("gelu"), IMAGE),
    _case("Identity", L.Identity, IMAGE),
    _case("Rescaling", lambda: L.Rescaling(0.5, 1.0), IMAGE),
    _case("ActivityRegularization", lambda: L.ActivityRegularization(l2=0.1), IMAGE),
    _case("Masking", L.Masking, SEQUENCE),
    *(
        _case(name, getattr(L, name), shape)
        for n, shape in ((1, SEQUENCE), (2, IMAGE), (3, VOLUME))
        for name in (
            *(f"MaxPooling{n}D", f"GlobalAveragePooling{n}D"),
            *(f"GlobalMaxPooling{n}D", f"ZeroPadding{n}D", f"Cropping{n}D", f"UpSampling{n}D"),
        )
    ),
    *(
        _case(f"{name}{n}D", lambda name=name, n=n: getattr(L, f"{name}{n}D")(2), shape)
        for n, shape in ((1, SEQUENCE), (2, IMAGE), (3, VOLUME))
        for name in ("AveragePooling", "AdaptiveAveragePooling", "AdaptiveMaxPooling")
    ),
    _case("UpSampling2D_bilinear", lambda: L.UpSampling2D(2, interpolation="bilinear"), (6, 6, 4)),
    _case("AveragePooling2D_same", lambda: L.AveragePooling2D(3, 2, padding="same"), IMAGE),
    _case("MaxPooling2D_same", lambda: L.MaxPooling2D(3, 2, padding="same"), IMAGE),
    _case("Resizing", lambda: L.Resizing(3, 3), IMAGE),
    _case("CenterCrop", lambda: L.CenterCrop(3, 3), IMAGE),
    *(
        _case(name, lambda name=name: getattr(L, name)(0.5), shape)
        for name, shape in (
            *(("Dropout", IMAGE), ("GaussianNoise", IMAGE), ("GaussianDropout", IMAGE)),
            *(("AlphaDropout", IMAGE), ("SpatialDropout1D", SEQUENCE)),
            *(("SpatialDropout2D", IMAGE), ("SpatialDropout3D", VOLUME)),
        )
    ),
    _case("Flatten", L.Flatten, IMAGE),
    _case("Reshape", lambda: L.Reshape((30, 4)), IMAGE),
    _case("Permute", lambda: L.Permute((2, 1, 3)), IMAGE),
    _case("RepeatVector", lambda: L.RepeatVector(3), VECTOR),
    *(
        _case(name, getattr(L, name), IMAGE, IMAGE)
        for name in ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate")
    ),
    _case("RandomFlip", L.RandomFlip, IMAGE),
    _case(
        "SpectralNormalization",
        lambda: L.SpectralNormalization(L.Dense(3)),
        SEQUENCE,
        count=6 * 4 * 3,
    ),
    _case("Lambda", lambda: L.Lambda(lambda x: x * 2.0), IMAGE),
)

CASES = (*DENSE, *CONVOLUTIONS, *RECURRENT, *ATTENTION, *WITHOUT_KERNELS)
