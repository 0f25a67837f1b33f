"""A model's graph with its weights as constants, in operations that converters support."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tlkit.export.classifying import classifying_function
from tlkit.utils.tensorflow_private import with_constants


@dataclass(frozen=True)
class ConstantGraph:
    """A graph without variables.

    Attributes:
        graph_def: The graph.
        input_names: The name that each input tensor gets in the export.
        output_names: The name that each output tensor gets in the export.
    """

    graph_def: tf.compat.v1.GraphDef
    input_names: dict[str, str]
    output_names: dict[str, str]


def constant_graph(model: keras.Model) -> ConstantGraph:
    """Returns the graph of `classifying_function` in operations that tf2onnx 1.17 supports.

    Two operations that Keras makes are not supported and are replaced by equivalent ones: grouped
    convolutions, which Keras compiles with XLA, and the complementary error function of an exact
    GELU.

    Args:
        model: As for `classifying_function`.

    Example:
        >>> import keras
        >>> from tlkit.export.constant_graph import constant_graph
        >>> model = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.Flatten(),
        ...     keras.layers.Dense(2, activation="gelu")])
        >>> graph = constant_graph(model)
        >>> graph.input_names, sorted(graph.output_names.values())
        ({'images:0': 'images'}, ['class_id', 'probabilities'])
        >>> {node.op for node in graph.graph_def.node} & {"ReadVariableOp", "Erfc"}
        set()
    """
    graph = graph_of(classifying_function(model))
    _replace_erfc(graph.graph_def)
    return graph


def graph_of(function: Any) -> ConstantGraph:
    """Returns the graph of a `tf.function` of one input, as TensorFlow traces it.

    Args:
        function: A function with an input signature that returns a dictionary of tensors.
    """
    with _functions_inlined():
        concrete = function.get_concrete_function()
    ((spec,), _) = concrete.structured_input_signature
    frozen = with_constants(concrete)
    names = sorted(concrete.structured_outputs)  # the order of a function's flat outputs
    return ConstantGraph(
        graph_def=frozen.graph.as_graph_def(add_shapes=True),
        input_names={frozen.inputs[0].name: spec.name},
        output_names=dict(zip((x.name for x in frozen.outputs), names, strict=True)),
    )


@contextmanager
def _functions_inlined() -> Iterator[None]:
    """Inlines functions into the function that is being traced, including those for XLA.

    Keras compiles grouped convolutions with XLA, as TensorFlow cannot compute their gradient on a
    CPU otherwise; only LiteRT's converter reads compiled functions:
    https://github.com/keras-team/keras/blob/v3.15.1/keras/src/backend/tensorflow/nn.py
    """
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def _replace_erfc(graph_def: tf.compat.v1.GraphDef) -> None:
    """Replaces erfc(x) by 1 - erf(x), which tf2onnx supports; its error is float32's rounding."""
    for node in [node for node in graph_def.node if node.op == "Erfc"]:
        dtype = node.attr["T"].type
        one, erf = graph_def.node.add(), graph_def.node.add()
        one.name, one.op = f"{node.name}/one", "Const"
        one.attr["dtype"].type = dtype
        value = tf.make_tensor_proto(np.ones((), tf.as_dtype(dtype).as_numpy_dtype))
        one.attr["value"].tensor.CopyFrom(value)
        erf.CopyFrom(node)
        erf.name, erf.op = f"{node.name}/erf", "Erf"
        node.op = "Sub"
        node.ClearField("input")
        node.input.extend([one.name, erf.name])
