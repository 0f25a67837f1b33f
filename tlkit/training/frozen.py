"""The fastest forward pass of a frozen part of a model."""

import os
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tlkit.distribution.strategies import workers_of
from tlkit.models.multiply_adds import count_multiply_adds
from tlkit.models.signature import signature
from tlkit.utils.openvino import compiled
from tlkit.utils.tensorflow_private import rewritten, with_constants

Forward = Callable[[tf.Tensor], tf.Tensor]

MAX_BFLOAT16_DIFFERENCE = 0.02
"""Largest relative difference, in norm over one batch, at which bfloat16 is accepted."""

_WITH_BFLOAT16 = ("DEFAULT", "ALL", "BF16", "FP16", "AMX", "AVX10")
"""Parts of oneDNN's names of instruction sets with bfloat16; on others it would be emulated."""


class FrozenPart:
    """The inference of a model, with its weights folded into the graph as constants on first use.

    A graph that looks words up in a table, which cannot be a constant, keeps its variables.

    Args:
        model: From raw pixels to features; must not change while this object is used.

    Attributes:
        input_shape: Shape of a batch of images.
        output_shape: Shape of one image's features; `None` for a size that is not fixed.
        input_dtype: The number format that images must be cast to.
        workers: The workers with the same model, over which images can be sharded.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self.input_shape: tuple[int | None, ...] = model.input_shape
        self.input_dtype: str = model.inputs[0].dtype
        self.workers = workers_of(model)
        shape = model.output_shape[1:]
        if None in shape:  # the traced graph may know a size that a layer does not report
            shape = self._traced.outputs[0].shape[1:]
        self.output_shape: tuple[int, ...] = tuple(shape)

    @cached_property
    def signature(self) -> str:
        """The model's signature, see `tlkit.models.signature.signature`."""
        return signature(self._model)

    @cached_property
    def multiply_adds(self) -> int:
        """The multiply-adds for one image, see `count_multiply_adds`."""
        return count_multiply_adds(self._model)

    @cached_property
    def float32(self) -> Forward:
        """The function that computes features of a batch of images in float32."""
        if self._reads_tables:
            return self._traced
        frozen = self._frozen
        return lambda images: frozen(images)[0]

    @cached_property
    def bfloat16(self) -> Forward | None:
        """The same function in bfloat16; `None` if this processor or graph does not support it.

        Grappler is called explicitly on this one graph: its options are process-wide and read at
        each call, so setting them would change every other function too.
        """
        if not has_bfloat16() or self._reads_tables:
            return None
        frozen = self._frozen
        graph = _rewritten(frozen)
        if not any(node.op == "Cast" for node in graph.node):
            return None
        wrapped = tf.compat.v1.wrap_function(
            lambda: tf.graph_util.import_graph_def(graph, name=""), []
        ).prune([x.name for x in frozen.inputs], [x.name for x in frozen.outputs])
        return lambda images: wrapped(images)[0]

    def openvino(self, precision: str) -> Forward | None:
        """The same function, computed by OpenVINO, which must be installed.

        Args:
            precision: "float32" or "bfloat16"; float32 is used where the processor has no bfloat16.

        Returns:
            The function; `None` if the graph reads tables.
        """
        if self._reads_tables:
            return None
        if precision not in self._compiled:
            self._compiled[precision] = compiled(self._traced, precision)
        return self._compiled[precision]

    @cached_property
    def _compiled(self) -> dict[str, Forward]:
        """The functions of `openvino`, by precision."""
        return {}

    @cached_property
    def _frozen(self) -> tf.types.experimental.ConcreteFunction:
        return with_constants(self._traced)

    @cached_property
    def _traced(self) -> tf.types.experimental.ConcreteFunction:
        specification = tf.TensorSpec((None, *self._model.input_shape[1:]), self.input_dtype)
        forward = tf.function(lambda images: self._model(images, training=False), autograph=False)
        return forward.get_concrete_function(specification)

    @cached_property
    def _reads_tables(self) -> bool:
        """Whether the graph reads resources that cannot be constants, such as a vocabulary."""
        graph = self._traced.graph
        variables = {variable.handle.ref() for variable in graph.variables}
        return any(
            outside.dtype == tf.resource and outside.ref() not in variables
            for outside, _ in graph.captures
        )


def relative_difference(values: np.ndarray, reference: np.ndarray) -> float:
    """Returns |values - reference| / |reference|, in the Euclidean norm over everything."""
    scale = np.linalg.norm(reference)
    return float(np.linalg.norm(values - reference) / scale) if scale else 0.0


@cache
def has_bfloat16() -> bool:
    """Whether matrices are multiplied on a processor that supports bfloat16.

    The processor must support it, oneDNN must be allowed to use it
    (https://uxlfoundation.github.io/oneDNN, "CPU Dispatcher Control"), and TensorFlow must use
    oneDNN (`TF_ENABLE_ONEDNN_OPTS`), which rewriting a small graph reveals.
    """
    if tf.config.list_physical_devices("GPU"):
        return False
    description = Path("/proc/cpuinfo")
    if not description.exists():
        return False
    flags = description.read_text()
    if "avx512_bf16" not in flags and "amx_bf16" not in flags:
        return False
    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "DEFAULT"))
    if not any(name in allowed.upper() for name in _WITH_BFLOAT16):
        return False
    product = tf.function(lambda rows: rows @ tf.ones((8, 8)), autograph=False)
    frozen = product.get_concrete_function(tf.TensorSpec((None, 8)))
    return any(node.op == "Cast" for node in _rewritten(frozen).node)


def _rewritten(frozen: tf.types.experimental.ConcreteFunction) -> tf.compat.v1.GraphDef:
    config = tf.compat.v1.ConfigProto()
    rewriting = config.graph_options.rewrite_options
    rewriting.auto_mixed_precision_onednn_bfloat16 = rewriting.ON
    rewriting.meta_optimizer_iterations = rewriting.ONE
    rewriting.min_graph_nodes = -1  # small graphs too
    graph = tf.Graph()
    with graph.as_default():
        tf.graph_util.import_graph_def(frozen.graph.as_graph_def(), name="")
        description = tf.compat.v1.train.export_meta_graph(
            graph_def=graph.as_graph_def(), graph=graph
        )
    kept = description.collection_def["train_op"]
    kept.node_list.value.extend(x.name for x in (*frozen.inputs, *frozen.outputs))
    return rewritten(config, description)
