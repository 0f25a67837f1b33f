"""Canaries for the private parts of other libraries that tlkit uses.

A canary says in a sentence what a library has changed; without it, something unrelated would fail.
tests/test_architecture.py checks which parts are used where.
"""

import ast
import asyncio
import atexit
import inspect
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tlkit.utils import keras_private, tensorflow_private

layers = keras.layers

CANARIES = {}


def canary(what, sentence):
    """Registers a check of a private part, with the sentence for when it has changed."""

    def register(check):
        assert what not in CANARIES
        CANARIES[what] = (sentence, check)
        return check

    return register


def run_canary(what):
    """Runs a canary; fails with its sentence if the part has changed."""
    sentence, check = CANARIES[what]
    try:
        is_as_known = check()
    except Exception as error:
        pytest.fail(f"{sentence} ({type(error).__name__}: {error})")
    if not is_as_known:
        pytest.fail(sentence)


class Doubled(keras.layers.Layer):
    """A user's layer."""

    def call(self, inputs):
        return inputs * 2


class Tripled(keras.Operation):
    """A user's operation."""

    def call(self, inputs):
        return inputs * 3

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, inputs.dtype)


class Own(keras.Model):
    """A user's class of models."""


def a_model():
    inputs = keras.Input((4,), name="given")
    x = layers.BatchNormalization(name="norm")(inputs)
    x = layers.Dropout(0.5, seed=1, name="drop")(x)
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="inside")], name="nested")
    return keras.Model(inputs, inner(x), name="whole")


# Keras


@canary("operation_of", "Keras no longer has the operation of a tensor in `_keras_history`.")
def _():
    inputs, layer = keras.Input((4,), name="given"), layers.ReLU()
    found = keras_private.operation_of
    return found(layer(inputs)) is layer and found(inputs).name == "given"


@canary("node_of", "Keras no longer keeps the calls of an operation as nodes in `_inbound_nodes`.")
def _():
    first, second, layer = keras.Input((4,)), keras.Input((4,)), layers.Add()
    outputs = [layer([first, second]), layer([second, first])]
    nodes = [keras_private.node_of(output) for output in outputs]
    given, names = nodes[1].arguments.fill_in({id(first): 1, id(second): 2})
    return (
        all(node.operation is layer for node in nodes)
        and [node.output_tensors[0] for node in nodes] == outputs
        and nodes[1].input_tensors[0] is second
        and nodes[1].arguments.args[0][1] is first
        and not any(nodes[1].arguments.kwargs.values())
        and list(given[0]) == [2, 1]
        and not any(names.values())
        and not keras_private.node_of(first).input_tensors
    )


@canary("run_graph", "Keras no longer runs a graph by `_run_through_graph` with `operation_fn`.")
def _():
    model, called = a_model(), []

    def noted(operation):
        called.append(operation.name)
        return operation

    images = tf.constant(np.random.default_rng(0).normal(size=(2, 4)), tf.float32)
    outputs = keras_private.run_graph(model, images, noted)
    is_same = np.array_equal(outputs, model(images, training=False))
    return is_same and called == ["norm", "drop", "nested"]


@canary("with_inner_layers", "Keras no longer lists the layers in a layer by `_flatten_layers`.")
def _():
    names = [layer.name for layer in keras_private.with_inner_layers(a_model())]
    return names[0] == "whole" and names.count("inside") == 1 and {"norm", "drop"} < {*names}


@canary("inner_layers", "Keras no longer lists the layers directly in a layer in `_layers`.")
def _():
    outer = layers.TimeDistributed(inner := layers.Dense(2))
    names = [layer.name for layer in keras_private.inner_layers(a_model())]
    is_listed = keras_private.inner_layers(outer) == [inner]
    return is_listed and "nested" in names and "inside" not in names


@canary(
    "own_trainable_variables",
    "Keras no longer keeps the trainable variables of a frozen layer in `_trainable_variables`.",
)
def _():
    model = a_model()
    model.trainable = False
    norm = model.get_layer("norm")
    found = keras_private.own_trainable_variables
    return found(norm) == [norm.gamma, norm.beta] and not found(model)


@canary(
    "own_variables",
    "Keras no longer keeps a layer's own variables in `_trainable_variables` and "
    "`_non_trainable_variables`.",
)
def _():
    model = a_model()
    norm, found = model.get_layer("norm"), keras_private.own_variables
    return found(norm) == norm.variables and not found(model) and not found(model.get_layer("drop"))


@canary("seed_generators", "Keras no longer lists a layer's generators in `_seed_generators`.")
def _():
    (generator,) = keras_private.seed_generators(layers.Dropout(0.5))
    generator.state.assign([1, 2])
    return not keras_private.seed_generators(layers.Dense(2))


@canary(
    "compile_arguments",
    "Keras no longer keeps the arguments of compile in `_compile_config.config`.",
)
def _():
    model, loss = a_model(), lambda labels, outputs: outputs - labels
    model.compile(loss=loss, optimizer="sgd", jit_compile=False, loss_weights=[2.0])
    found = keras_private.compile_arguments(model)
    model.compile(**found)
    is_kept = found["loss"] is loss and found["jit_compile"] is False
    is_kept &= list(found["loss_weights"]) == [2.0]
    names = {*inspect.signature(keras.Model.compile).parameters} - {"self", "auto_scale_loss"}
    return is_kept and {*found} == names


@canary(
    "inverse_document_frequencies",
    "Keras no longer keeps the weights of tf-idf in `_lookup_layer.idf_weights_const`.",
)
def _():
    counted = layers.TextVectorization(output_mode="tf_idf")
    counted.adapt(["red green", "green"])
    looked_up = layers.StringLookup(
        vocabulary=["red", "green"], idf_weights=[2.0, 1.0], output_mode="tf_idf"
    )
    found = keras_private.inverse_document_frequencies
    lengths = [len(np.asarray(found(layer))) for layer in (counted, looked_up)]
    return lengths == [3, 3] and found(layers.TextVectorization()) is None


@canary(
    "lookup_table",
    "Keras no longer keeps the table of words in `_lookup_layer.lookup_table`.",
)
def _():
    texts = layers.TextVectorization()
    texts.adapt(["red green", "green"])
    looked_up = layers.StringLookup(vocabulary=["red", "green"])
    found = keras_private.lookup_table
    sizes = [int(found(layer).size()) for layer in (texts, looked_up)]
    return sizes == [2, 2] and found(layers.ReLU()) is None


@canary("is_graph_operation", "Keras no longer defines a graph's operations in `keras.src.ops`.")
def _():
    inputs, doubled = keras.Input((4,)), layers.ReLU()
    made = [inputs * 2, inputs[..., ::-1], keras.ops.abs(inputs), -inputs, inputs / 2.0]
    others = [doubled(inputs), Doubled()(inputs), Tripled()(inputs)]
    kinds = [keras_private.is_graph_operation(keras_private.operation_of(x)) for x in made + others]
    return kinds == [True] * 5 + [False] * 3


@canary("is_plain_model", "Keras no longer defines its model classes in `keras.src.models`.")
def _():
    x = keras.Input((4,))
    own = Own(x, layers.ReLU()(x))
    models = [a_model(), keras.Sequential([layers.ReLU()]), own]
    return [keras_private.is_plain_model(model) for model in models] == [True, True, False]


@canary(
    "the mean loss",
    "Keras's first metric of a compiled model is no longer the mean loss: HookedModel in "
    "tlkit/training/step.py counts each batch's loss in it.",
)
def _():
    model = a_model()
    model.compile(loss="mse", optimizer="sgd", metrics=["mae"])
    logs = model.train_on_batch(np.ones((2, 4)), np.ones((2, 3)), return_dict=True)
    first = model.metrics[0]
    return isinstance(first, keras.metrics.Mean) and logs["loss"] == float(first.result())


@canary(
    "inner_optimizer",
    "Keras's LossScaleOptimizer no longer has its optimizer in `inner_optimizer`: rates_of in "
    "tlkit/training/rates.py and recompile in tlkit/models/recompiling.py read it there.",
)
def _():
    inner = keras.optimizers.SGD()
    return keras.optimizers.LossScaleOptimizer(inner).inner_optimizer is inner


@canary(
    "update_step",
    "Keras's optimizers no longer call `update_step` with TensorFlow's own variables, one device's "
    "part of each: LayerwiseAdamW in tlkit/training/rates.py finds learning rates by them.",
)
def _():
    seen = []

    class Noting(keras.optimizers.SGD):
        def update_step(self, gradient, variable, learning_rate):
            seen.append(variable)

    with tf.distribute.MirroredStrategy([tf.config.list_logical_devices("CPU")[0].name]).scope():
        mirrored, optimizer = keras.Variable([1.0]), Noting()
    optimizer.apply([tf.constant([1.0])], [mirrored])
    alone = keras.Variable([1.0])
    Noting().apply([tf.constant([1.0])], [alone])
    strategy = mirrored.value.distribute_strategy
    (part,) = strategy.experimental_local_results(mirrored.value)
    return [one.ref() for one in seen] == [part.ref(), alone.value.ref()]


@canary(
    "decays",
    "Keras's optimizers no longer say in `_use_weight_decay` whether a variable decays: "
    "fine_tune(optimizer=...) asks it what the user has excluded.",
)
def _():
    kernel, bias = (keras.Variable([0.0], name=name) for name in ("kernel", "bias"))
    optimizer = keras.optimizers.SGD(weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_list=[kernel], var_names=["bias"])
    other = keras.optimizers.SGD(weight_decay=0.1)
    excluded = [keras_private.decays(optimizer, variable) for variable in (kernel, bias)]
    return excluded == [False, False] and keras_private.decays(other, kernel)


@canary(
    "_maybe_symbolic_build",
    "Keras no longer builds metrics and losses before training in `_maybe_symbolic_build`: "
    "tlkit/training/keras_workers.py patches it, and may have to patch another part.",
)
def _():
    given = inspect.signature(keras.Model._maybe_symbolic_build).parameters
    called = inspect.getsource(keras.Model.fit)
    return [*given] == ["self", "iterator", "data_batch"] and "_maybe_symbolic_build(" in called


# TensorFlow


def traced():
    weights = tf.Variable([[1.0], [2.0]])
    function = tf.function(lambda rows: rows @ weights + (tf.constant(1.0) + tf.constant(2.0)))
    return function.get_concrete_function(tf.TensorSpec((None, 2))), weights


@canary(
    "with_constants",
    "TensorFlow no longer makes variables constants by `convert_variables_to_constants_v2`.",
)
def _():
    function, _kept = traced()
    frozen = tensorflow_private.with_constants(function)
    (outputs,) = frozen(tf.ones((3, 2)))
    kinds = {operation.type for operation in frozen.graph.get_operations()}
    return "ReadVariableOp" not in kinds and outputs.numpy().tolist() == [[6.0]] * 3


@canary("rewritten", "TensorFlow no longer rewrites a graph by `tf_optimizer`.")
def _():
    function, _kept = traced()
    frozen = tensorflow_private.with_constants(function)
    config = tf.compat.v1.ConfigProto()
    config.graph_options.rewrite_options.min_graph_nodes = -1
    with (graph := tf.Graph()).as_default():
        tf.graph_util.import_graph_def(frozen.graph.as_graph_def(), name="")
        description = tf.compat.v1.train.export_meta_graph(
            graph_def=graph.as_graph_def(), graph=graph
        )
    names = [tensor.name for tensor in (*frozen.inputs, *frozen.outputs)]
    description.collection_def["train_op"].node_list.value.extend(names)
    left = tensorflow_private.rewritten(config, description).node
    before = frozen.graph.as_graph_def().node
    is_kept = {name.partition(":")[0] for name in names} <= {node.name for node in left}
    return is_kept and len(left) < len(before)


@canary("has_started", "TensorFlow no longer keeps its devices in `_context_handle`.")
def _():
    from tensorflow.python.eager import context

    tf.zeros(())
    return tensorflow_private.has_started() and context.Context()._context_handle is None


@canary("function_graph", "TensorFlow no longer keeps a graph's functions in `_functions`.")
def _():
    inner = tf.function(lambda a: a @ a)
    outer = tf.function(lambda a: inner(a + 1)).get_concrete_function(tf.TensorSpec((2, 2)))
    (call,) = [one for one in outer.graph.get_operations() if "PartitionedCall" in one.type]
    graph = tensorflow_private.function_graph(outer.graph, call.get_attr("f").name)
    with pytest.raises(LookupError, match="no function 'none'"):
        tensorflow_private.function_graph(outer.graph, "none")
    shapes = [one.outputs[0].shape for one in graph.get_operations() if one.type == "MatMul"]
    return shapes == [(2, 2)]


@canary("datasets_read", "TensorFlow no longer returns the inputs of a data set by `_inputs`.")
def _():
    source = tf.data.Dataset.range(3)
    mapped = source.map(lambda number: number)
    both = tf.data.Dataset.zip((source, mapped))
    found = tensorflow_private.datasets_read
    is_one = len(found(mapped)) == 1 and found(mapped)[0] is source
    return is_one and [*map(id, found(both))] == [id(source), id(mapped)] and not found(source)


@canary("dataset_graphs", "TensorFlow no longer lists a data set's functions by `_functions`.")
def _():
    source = tf.data.Dataset.range(3)
    endless = source.flat_map(lambda number: tf.data.Dataset.from_tensors(number).repeat())
    (graph,) = tensorflow_private.dataset_graphs(endless)
    nodes = [*graph.node, *(node for one in graph.library.function for node in one.node_def)]
    return "RepeatDataset" in {node.op for node in nodes} and not (
        tensorflow_private.dataset_graphs(source)
    )


def converted():
    function = tf.function(lambda x: {"y": tf.nn.relu(x)}, autograph=False)
    concrete = function.get_concrete_function(tf.TensorSpec((1, 2), tf.float32, "x"))
    module = tf.Module()
    module.function = function
    return tf.lite.TFLiteConverter.from_concrete_functions([concrete], module).convert()


@canary(
    "with_litert_metadata",
    "TensorFlow no longer writes LiteRT models that were read by its flatbuffer_utils, with their "
    "metadata.",
)
def _():
    before = converted()
    after = tensorflow_private.with_litert_metadata(before, "OWN", b"own content")
    same = tensorflow_private.litert_operations
    return b"own content" in after and b"OWN" in after and same(before) == same(after)


@canary(
    "litert_operations",
    "TensorFlow's flatbuffer_utils no longer gives operations and types of LiteRT models.",
)
def _():
    return tensorflow_private.litert_operations(converted()) == {"RELU": frozenset({"FLOAT32"})}


# Others


@canary(
    "uvicorn",
    "uvicorn's HttpToolsProtocol no longer has all attributes that Connection in "
    "tlkit/serving/connections.py reads or overrides.",
)
def _():
    import uvicorn
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
    from uvicorn.server import ServerState

    async def of_a_connection():
        config = uvicorn.Config(lambda *_: None, limit_concurrency=7, log_config=None)
        return HttpToolsProtocol(config, ServerState(), {})

    protocol = asyncio.run(of_a_connection())
    methods = ("connection_made", "connection_lost", "data_received", "on_headers_complete")
    return (
        all(map(callable, (getattr(protocol, name) for name in methods)))
        and callable(protocol.on_message_complete)
        and callable(protocol.on_response_complete)
        and protocol.limit_concurrency == 7
        and isinstance(protocol.connections, set)
        and hasattr(protocol.loop, "call_later")
        and {"transport", "cycle"} <= vars(protocol).keys()
        and "response_complete" in RequestResponseCycle.__init__.__code__.co_names
    )


@canary(
    "matplotlib",
    "matplotlib's `pyplot.figure` no longer registers an existing figure by `FigureClass`: "
    "tlkit/plots/figure.py registers its figures so.",
)
def _():
    import matplotlib.pyplot

    from tlkit.plots.figure import Figure

    drawn = Figure()
    given = matplotlib.pyplot.figure(FigureClass=lambda *_, **__: drawn)
    is_known = matplotlib.pyplot.fignum_exists(drawn.canvas.manager.num)
    matplotlib.pyplot.close(drawn)
    return given is drawn and is_known


@canary(
    "atexit",
    "Python no longer runs functions registered with atexit by `atexit._run_exitfuncs`: "
    "immediate_exit in tlkit/utils/signals.py calls it before it ends the process.",
)
def _():
    return callable(atexit._run_exitfuncs) and "exit functions" in atexit._run_exitfuncs.__doc__


@pytest.mark.parametrize("what", CANARIES)
def test_the_private_part_works_as_expected(what):
    run_canary(what)


@pytest.mark.parametrize("module", [keras_private, tensorflow_private])
def test_each_private_part_has_a_reason_a_link_and_a_canary(module):
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert functions
    for function in functions:
        docstring = ast.get_docstring(function)
        assert "\nWhy: " in docstring, function.name
        assert "\nWhere: https://github.com/" in docstring, function.name
        assert function.name in CANARIES, function.name


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda patch: patch.delattr(keras.layers.Layer, "_flatten_layers"), "with_inner_layers"),
        (lambda patch: patch.setattr(keras_private, "inner_layers", lambda _: []), "inner_layers"),
    ],
)
def test_a_canary_fails_with_its_sentence(monkeypatch, change, what):
    with monkeypatch.context() as patch:
        change(patch)
        with pytest.raises(pytest.fail.Exception, match=r"^Keras no longer lists"):
            run_canary(what)
    run_canary(what)
