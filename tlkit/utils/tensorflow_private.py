"""The private parts of TensorFlow that tlkit needs, each behind one function.

TensorFlow promises nothing of them from one release to the next, so nothing else in tlkit may use
them. Each function says why no public name serves and where the part stands in TensorFlow, and
tests/test_private_api.py says in a sentence what has changed when one no longer does what it is
used for.

Importing this loads TensorFlow.
"""

from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from tensorflow.python.grappler import tf_optimizer


def with_constants(
    function: tf.types.experimental.ConcreteFunction,
) -> tf.types.experimental.ConcreteFunction:
    """Returns a traced function with the values of its variables as constants in its graph.

    Why: `tf.compat.v1.graph_util.convert_variables_to_constants` needs a session, and the way of
    TensorFlow 2, which its converters use themselves, has no public name.

    Where: https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/python/framework/convert_to_constants.py

    Args:
        function: Must read no other resources than variables, such as tables of words.
    """
    return convert_variables_to_constants_v2(function)


def rewritten(
    config: tf.compat.v1.ConfigProto, description: tf.compat.v1.MetaGraphDef
) -> tf.compat.v1.GraphDef:
    """Returns a graph as grappler rewrites it by the options of a configuration.

    Why: `tf.config.optimizer.set_experimental_options` sets them for the whole process, and they
    are read at each call, so every other function would be changed too.

    Where: https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/python/grappler/tf_optimizer.py

    Args:
        config: With the rewriting's options in `graph_options.rewrite_options`.
        description: The graph, and the names of what must stay in it, as "train_op".
    """
    return tf_optimizer.OptimizeGraph(config, description)


def has_started() -> bool:
    """Whether TensorFlow has set its devices up; it can be spread over machines before that alone.

    Why: what asks publicly (`tf.config.list_logical_devices`) sets them up itself, and
    `tf.distribute.MultiWorkerMirroredStrategy` says that it is too late only after it has waited
    for the other workers.

    Where: https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/python/eager/context.py
    """
    return context.context()._context_handle is not None


def function_graph(graph: Any, name: str) -> Any:
    """Returns the graph of a function that an operation of another graph calls.

    Why: `graph.as_graph_def().library` has its operations without their shapes.

    Where: https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/python/framework/ops.py

    Args:
        graph: Of the operation; graphs around it are asked too.
        name: Of the function, as the operation's attribute has it.

    Raises:
        LookupError: There is none of that name.
    """
    while graph is not None:
        if name in graph._functions:
            found = graph._functions[name]
            return getattr(found, "graph", None) or found.cached_definition.graph
        graph = getattr(graph, "outer_graph", None)
    raise LookupError(f"the graph has no function {name!r}")


def datasets_read(dataset: tf.data.Dataset) -> list[tf.data.Dataset]:
    """Returns the data sets that one reads directly, such as the one that `map` was called on.

    Why: no public name leads from a data set to what it is made of, and its cardinality does not
    tell whether one of unknown length ends.

    Where: https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/python/data/ops/dataset_ops.py
    """
    return list(dataset._inputs())


def dataset_graphs(dataset: tf.data.Dataset) -> list[tf.compat.v1.GraphDef]:
    """Returns the graphs of the functions that a data set calls itself, such as that of `map`.

    Why: as for `datasets_read`; what `flat_map` reads stands in such a function alone.

    Where: https://github.com/tensorflow/tensorflow/blob/v2.21.0/tensorflow/python/data/ops/dataset_ops.py
    """
    return [function.function.graph.as_graph_def() for function in dataset._functions()]
