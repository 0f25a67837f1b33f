"""The private parts of Keras that tlkit needs, each behind one function.

Keras may change them in any release, so nothing else in tlkit may use them, except for
tlkit/training/keras_workers.py, which works around an error of Keras. Each function says why there
is no public alternative and where the part is defined; tests/test_private_api.py fails with an
explanation if one no longer works as expected.

Importing this module loads Keras.
"""

from collections.abc import Callable
from typing import Any

import keras


def operation_of(tensor: keras.KerasTensor) -> keras.Operation:
    """Returns the operation whose output a symbolic tensor is.

    Why: only `_keras_history` leads from a tensor to its operation; `keras.Operation.output` leads
    the other way.

    Where: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/ops/node.py

    Example:
        >>> import keras
        >>> from tlkit.utils.keras_private import operation_of
        >>> operation_of(keras.Input((4,), name="images")).name
        'images'
    """
    return tensor._keras_history.operation


def node_of(tensor: keras.KerasTensor) -> Any:
    """Returns the node whose output a symbolic tensor is: one call of its operation.

    A node has the attributes `operation`, `input_tensors`, `output_tensors` and `arguments`. The
    latter has the `args` and `kwargs` of the call, and `fill_in`, which replaces tensors by values.

    Why: `model.operations` has each operation once, without its calls and their inputs. Keras keeps
    the calls in `_inbound_nodes`; its class of nodes is not public.

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
    """Runs a functional model's graph with a replacement from `mode_of` for each operation.

    Why: `model(inputs, training=...)` sets the same mode for all layers, but frozen layers must
    compute as in inference while others train.

    Where: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/ops/function.py

    Args:
        model: A functional model with one input and one output.
        inputs: A batch of the model's input type.
        mode_of: Returns the function that is called instead of an operation.

    Returns:
        The model's output.
    """
    outputs = model._run_through_graph([inputs], operation_fn=mode_of)
    return outputs[0] if isinstance(outputs, list | tuple) else outputs


def with_inner_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Returns a layer and all layers inside it.

    Why: only models have the attribute `layers`; there is no public list of the layers inside a
    wrapper, a cell or a custom layer. The order is Keras's own, in which it saves weights.

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
    """Returns the layers directly inside a layer.

    Why: as for `with_inner_layers`, whose result does not show which layer contains which.

    Where: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/layers/layer.py
    """
    return list(layer._layers)


def own_trainable_variables(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Returns a layer's own variables that are trainable unless the layer is frozen.

    Why: `trainable_variables` is empty while a layer is frozen, and `variables` does not show which
    of them can be trainable.

    Where: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/layers/layer.py
    """
    return list(layer._trainable_variables)


def own_variables(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Returns a layer's own variables, without those of inner layers and without random states.

    Why: `variables` also has those of inner layers, in one list.

    Where: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/layers/layer.py
    """
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def seed_generators(layer: keras.layers.Layer) -> list[keras.random.SeedGenerator]:
    """Returns a layer's own random generators, without those of inner layers.

    Why: `variables` has the generators' states among all others, which differ in their names only.

    Where: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/layers/layer.py
    """
    return list(layer._seed_generators)


def compile_arguments(model: keras.Model) -> dict[str, Any]:
    """Returns the arguments with which a model was compiled, as the original objects.

    Why: `get_compile_config` serializes them, and a custom loss or metric that is not registered
    cannot be restored from that.

    Where: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/trainers/trainer.py
    """
    return dict(model._compile_config.config)


def decays(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> bool:
    """Whether an optimizer applies weight decay, if it has any, to a variable.

    Why: what was excluded by `exclude_from_weight_decay` is not in the optimizer's configuration,
    and there is no public way to read it.

    Where: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/optimizers/base_optimizer.py

    Example:
        >>> import keras
        >>> from tlkit.utils.keras_private import decays
        >>> optimizer = keras.optimizers.SGD(weight_decay=0.1)
        >>> optimizer.exclude_from_weight_decay(var_names=["bias"])
        >>> decays(optimizer, keras.Variable([0.0], name="bias"))
        False
    """
    return bool(optimizer._use_weight_decay(variable))


def inverse_document_frequencies(layer: keras.layers.Layer) -> Any:
    """Returns the "tf_idf" weights of a lookup layer; `None` if it has none.

    Why: they are not a variable, and `get_config` and `get_weights` do not have them; a
    TextVectorization keeps them in a layer without a public name.

    Where: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/layers/preprocessing/text_vectorization.py
    and https://github.com/keras-team/keras/blob/v3.15.1/keras/src/layers/preprocessing/index_lookup.py
    """
    lookup = layer._lookup_layer if isinstance(layer, keras.layers.TextVectorization) else layer
    return getattr(lookup, "idf_weights_const", None)


def lookup_table(layer: keras.layers.Layer) -> Any:
    """Returns the TensorFlow table in which a layer looks words up; `None` for other layers.

    Why: a SavedModel must track the table, and tracking the layer would write Keras's own functions
    too; a TextVectorization keeps it in a layer without a public name.

    Where: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/layers/preprocessing/text_vectorization.py
    and https://github.com/keras-team/keras/blob/v3.15.1/keras/src/layers/preprocessing/index_lookup.py

    Example:
        >>> import keras
        >>> from tlkit.utils.keras_private import lookup_table
        >>> layer = keras.layers.StringLookup(vocabulary=["good", "bad"])
        >>> int(lookup_table(layer).size()), lookup_table(keras.layers.ReLU())
        (2, None)
    """
    lookup = layer._lookup_layer if isinstance(layer, keras.layers.TextVectorization) else layer
    return getattr(lookup, "lookup_table", None)


def is_graph_operation(operation: keras.Operation) -> bool:
    """Whether a graph's operation stands for code such as `x * 2` or `keras.ops.abs(x)`.

    Why: the functions of `keras.ops` are public, but their classes in a graph are not; only the
    module shows that a class is one of these and not a user's class of the same name.

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
    """Whether a model's class is Keras's own, so that it computes only what its layers compute.

    Why: the class of `keras.Model(inputs, outputs)` has no public name.

    Where: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/models/functional.py

    Example:
        >>> import keras
        >>> from tlkit.utils.keras_private import is_plain_model
        >>> is_plain_model(keras.Sequential([keras.layers.ReLU()]))
        True
    """
    return type(model).__module__.startswith("keras.src.models.")
