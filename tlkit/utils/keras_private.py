"""The private parts of Keras that tlkit needs, each behind one function.

Keras may change them in any release, even a small one, so nothing else in tlkit may use them, but
for tlkit/training/keras_workers.py, which mends a fault of Keras. Each function says why no public
name serves and where the part stands in Keras, and tests/test_private_api.py says in a sentence
what has changed when one no longer does what it is used for.

Importing this loads Keras.
"""

from collections.abc import Callable
from typing import Any

import keras


def operation_of(tensor: keras.KerasTensor) -> keras.Operation:
    """Returns the operation that a symbolic tensor is an output of.

    Why: a tensor says what computed it in `_keras_history` alone; `keras.Operation.output` leads
    from an operation to a tensor, and not back.

    Where: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/ops/node.py

    Example:
        >>> import keras
        >>> from tlkit.utils.keras_private import operation_of
        >>> operation_of(keras.Input((4,), name="images")).name
        'images'
    """
    return tensor._keras_history.operation


def node_of(tensor: keras.KerasTensor) -> Any:
    """Returns the node that a symbolic tensor is an output of: one call of its operation.

    A node has the attributes `operation`, `input_tensors`, `output_tensors` and `arguments`, which
    has the `args` and `kwargs` of the call, and `fill_in`, which puts values in the tensors' place.

    Why: `model.operations` has each operation once, and says neither how often one was called nor
    on what. Keras keeps the calls in `_inbound_nodes`; its class of nodes has no public name.

    Where: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/ops/node.py and
    https://github.com/keras-team/keras/blob/v3.15.1/keras/src/ops/symbolic_arguments.py

    Example:
        >>> import keras
        >>> from tlkit.utils.keras_private import node_of
        >>> images = keras.Input((4,))
        >>> node_of(keras.layers.ReLU()(images)).input_tensors[0] is images
        True
    """
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def run_graph(
    model: keras.Model, inputs: Any, mode_of: Callable[[keras.Operation], Callable[..., Any]]
) -> Any:
    """Runs a functional model's graph with what `mode_of` makes of each operation, call by call.

    Why: `model(inputs, training=...)` tells all layers the same, and here the frozen ones must
    compute as in inference while others train.

    Where: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/ops/function.py

    Args:
        model: Functional, of one input and one output.
        inputs: A batch, of the type that the model takes.
        mode_of: Given an operation, returns what is called in its place.

    Returns:
        The output.
    """
    outputs = model._run_through_graph([inputs], operation_fn=mode_of)
    return outputs[0] if isinstance(outputs, list | tuple) else outputs


def with_inner_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Returns a layer and all layers inside it, each once but for itself.

    Why: `layers` is an attribute of models alone; what a wrapper, a cell or a user's layer holds
    has no public list. The order is Keras's own, after which it saves weights.

    Where: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/layers/layer.py

    Example:
        >>> import keras
        >>> from tlkit.utils.keras_private import with_inner_layers
        >>> inner = keras.layers.Dense(2, name="inner")
        >>> outer = keras.layers.TimeDistributed(inner, name="outer")
        >>> [layer.name for layer in with_inner_layers(outer)]
        ['outer', 'inner']
    """
    return list(layer._flatten_layers())


def inner_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Returns the layers that a layer holds itself, without those inside them.

    Why: as for `with_inner_layers`; there it cannot be told which layer holds which.

    Where: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/layers/layer.py
    """
    return list(layer._layers)


def own_trainable_variables(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Returns the variables of a layer that train unless it is frozen, without those inside it.

    Why: `trainable_variables` is empty while a layer is frozen, and `variables` does not tell which
    of them could train.

    Where: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/layers/layer.py
    """
    return list(layer._trainable_variables)


def own_variables(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Returns the variables of a layer, without those of layers inside it and random states.

    Why: `variables` holds those of inner layers too, in one list.

    Where: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/layers/layer.py
    """
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def seed_generators(layer: keras.layers.Layer) -> list[keras.random.SeedGenerator]:
    """Returns the random generators of a layer, without those of layers inside it.

    Why: a generator's state is in `variables` among all others, which can be told from it by their
    names alone.

    Where: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/layers/layer.py
    """
    return list(layer._seed_generators)


def compile_arguments(model: keras.Model) -> dict[str, Any]:
    """Returns the arguments with which a compiled model was compiled, as the objects they were.

    Why: `get_compile_config` gives them serialized, and a loss or a metric of a user's own that is
    not registered cannot be made again from that.

    Where: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/trainers/trainer.py
    """
    return dict(model._compile_config.config)


def inverse_document_frequencies(layer: keras.layers.Layer) -> Any:
    """Returns the weights that a layer which looks words up learned for "tf_idf"; `None` for none.

    Why: they are no variable, and `get_config` and `get_weights` lack them; a TextVectorization
    keeps them in a layer without a public name.

    Where: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/layers/preprocessing/text_vectorization.py
    and https://github.com/keras-team/keras/blob/v3.15.1/keras/src/layers/preprocessing/index_lookup.py
    """
    lookup = layer._lookup_layer if isinstance(layer, keras.layers.TextVectorization) else layer
    return getattr(lookup, "idf_weights_const", None)


def is_graph_operation(operation: keras.Operation) -> bool:
    """Whether an operation is what a graph holds for `x * 2`, `x[..., ::-1]` or `keras.ops.abs(x)`.

    Why: the functions of `keras.ops` are public, the classes that stand for them in a graph are
    not; that a class is one of these, and no user's of the same name, is told by its module.

    Where: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/ops/numpy.py

    Example:
        >>> import keras
        >>> from tlkit.utils.keras_private import is_graph_operation, operation_of
        >>> images = keras.Input((4,))
        >>> is_graph_operation(operation_of(images * 2)), is_graph_operation(operation_of(images))
        (True, False)
    """
    return type(operation).__module__.startswith("keras.src.ops.")


def is_plain_model(model: keras.Model) -> bool:
    """Whether a model's class is Keras's own, so that it computes what its layers do and no more.

    Why: the class of `keras.Model(inputs, outputs)` has no public name.

    Where: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/models/functional.py

    Example:
        >>> import keras
        >>> from tlkit.utils.keras_private import is_plain_model
        >>> is_plain_model(keras.Sequential([keras.layers.ReLU()]))
        True
    """
    return type(model).__module__.startswith("keras.src.models.")
