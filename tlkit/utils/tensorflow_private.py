"""The private parts of TensorFlow that tlkit needs, each behind one function.

TensorFlow may change them in any release, so nothing else in tlkit may use them. Each function says
why there is no public alternative and where the part is defined; tests/test_private_api.py fails
with an explanation if one no longer works as expected.

Importing this module loads TensorFlow.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from tensorflow.python.grappler import tf_optimizer


def with_constants(
    function: tf.types.experimental.ConcreteFunction,
) -> tf.types.experimental.ConcreteFunction:
    """Returns a traced function with the values of its variables as constants in its graph.

    Why: `tf.compat.v1.graph_util.convert_variables_to_constants` needs a session, and TensorFlow
    2's function, which its converters use themselves, has no public name.

    Where: https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/python/framework/convert_to_constants.py

    Args:
        function: A function that reads no other resources than variables, such as lookup tables.
    """
    return convert_variables_to_constants_v2(function)


def rewritten(
    config: tf.compat.v1.ConfigProto, description: tf.compat.v1.MetaGraphDef
) -> tf.compat.v1.GraphDef:
    """Returns a graph as rewritten by grappler with the options of a configuration.

    Why: `tf.config.optimizer.set_experimental_options` sets them for the whole process, and they
    are read at each call, so every other function would be affected too.

    Where: https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/python/grappler/tf_optimizer.py

    Args:
        config: A configuration with the options in `graph_options.rewrite_options`.
        description: The graph, and the names of operations to keep, as "train_op".
    """
    return tf_optimizer.OptimizeGraph(config, description)


def has_started() -> bool:
    """Whether TensorFlow has initialized its devices; several workers can be set up only before.

    Why: the public function (`tf.config.list_logical_devices`) initializes them itself, and
    `tf.distribute.MultiWorkerMirroredStrategy` raises only after it has waited for the other
    workers.

    Where: https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/python/eager/context.py
    """
    return context.context()._context_handle is not None


def function_graph(graph: Any, name: str) -> Any:
    """Returns the graph of a function that is called by an operation of another graph.

    Why: `graph.as_graph_def().library` has the function's operations without their shapes.

    Where: https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/python/framework/ops.py

    Args:
        graph: The graph of the operation; outer graphs are searched too.
        name: Name of the function in the operation's attribute.

    Raises:
        LookupError: There is no function of that name.
    """
    while graph is not None:
        if name in graph._functions:
            function = graph._functions[name]
            return getattr(function, "graph", None) or function.cached_definition.graph
        graph = getattr(graph, "outer_graph", None)
    raise LookupError(f"the graph has no function {name!r}")


def datasets_read(dataset: tf.data.Dataset) -> list[tf.data.Dataset]:
    """Returns the data sets that a data set reads directly, such as the one `map` was called on.

    Why: there is no public name for the inputs of a data set, and its cardinality does not show
    whether a data set of unknown length ends.

    Where: https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/python/data/ops/dataset_ops.py
    """
    return list(dataset._inputs())


def dataset_graphs(dataset: tf.data.Dataset) -> list[tf.compat.v1.GraphDef]:
    """Returns the graphs of the functions that a data set calls itself, such as that of `map`.

    Why: as for `datasets_read`; the inputs of `flat_map` are only in such a function.

    Where: https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/python/data/ops/dataset_ops.py
    """
    return [function.function.graph.as_graph_def() for function in dataset._functions()]


def with_litert_metadata(content: bytes, name: str, metadata: bytes) -> bytes:
    """Returns a LiteRT model with one more named buffer of metadata.

    Why: the model's tables have to be written again, for which TensorFlow's converter has this
    code; the package that had a public name for it (tflite-support) is no longer maintained.

    Where: https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/lite/tools/flatbuffer_utils.py

    Args:
        content: A model without metadata of this name.
        name: The name of the metadata.
        metadata: The content of the buffer.
    """
    # imported here, as reading them takes a while
    from tensorflow.lite.python import schema_py_generated as litert_schema
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    buffer, entry = litert_schema.BufferT(), litert_schema.MetadataT()
    buffer.data = np.frombuffer(metadata, np.uint8)
    entry.name, entry.buffer = name, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or ()), entry]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def litert_operations(content: bytes) -> Mapping[str, frozenset[str]]:
    """Returns the operations of a LiteRT model, with the types of their inputs and outputs.

    Why: `tf.lite.experimental.Analyzer` prints them, and the interpreter does not say which tensors
    an operation reads.

    Where: https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/lite/tools/flatbuffer_utils.py

    Args:
        content: The model.

    Returns:
        For each kind of operation, such as "CONV_2D", names such as "INT8" and "FLOAT32".
    """
    from tensorflow.lite.python import schema_py_generated as litert_schema
    from tensorflow.lite.tools import flatbuffer_utils

    names = {number: name for name, number in vars(litert_schema.TensorType).items()}
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    types: dict[str, set[str]] = {}
    for graph in model.subgraphs:
        for operation in graph.operators:
            kind = flatbuffer_utils.opcode_to_name(model, operation.opcodeIndex)
            tensors = [index for index in (*operation.inputs, *operation.outputs) if index >= 0]
            types.setdefault(kind, set()).update(
                names[graph.tensors[index].type] for index in tensors
            )
    return {kind: frozenset(found) for kind, found in types.items()}
