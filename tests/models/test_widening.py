import keras
import numpy as np
import pytest

from tlkit.errors import ArgumentError
from tlkit.evaluation.forward import forward_of
from tlkit.models import routing as passing
from tlkit.models.graph import with_nested
from tlkit.models.groups import layer_groups
from tlkit.models.surgery import (
    add_classes,
    consolidate,
    count_units,
    new_layers,
    newest_classes,
    widen_layer,
    widenable_layers,
)

from .tiny import (
    NETWORKS,
    are_equal,
    convolution,
    dense,
    inputs,
    network,
    relative_difference,
    residual,
    separable,
    shaken,
    weights_of,
)

layers = keras.layers


@pytest.fixture(params=NETWORKS, ids=lambda build: build.__name__)
def tiny(request):
    """A network with a layer "target", one for each kind of layer between it and its readers."""
    return network(request.param)


def total(model, name="target"):
    return count_units(model, name)


def norms(kernel):
    kernel = np.asarray(kernel)
    return np.sqrt((kernel**2).sum(tuple(range(kernel.ndim - 1))))


def stacked(*stack, shape=(6, 6, 4)):
    """A model of layers or functions of a tensor, followed by pooling and logits."""
    x = y = keras.Input(shape)
    for layer in stack:
        y = layer(y)
    if len(y.shape) == 4:
        y = layers.GlobalAveragePooling2D()(y)
    return keras.Model(x, layers.Dense(2, name="logits")(y))


def test_outputs_of_a_wider_layer_are_bit_identical(tiny):
    wider = widen_layer(tiny, "target", total(tiny) + 3)
    x = inputs(tiny)
    assert np.array_equal(wider(x), tiny(x))
    # traced, TensorFlow fuses a Dense layer with its tanh, but not with a sum in between
    traced, expected = forward_of(wider)(x).numpy(), forward_of(tiny)(x).numpy()
    assert relative_difference(traced, expected) <= (1e-6 if tiny.name == "dense" else 0)
    assert total(wider) == total(tiny) + 3
    assert wider.name == tiny.name
    assert wider.count_params() > tiny.count_params()


def test_the_given_model_is_not_changed(tiny):
    before, config, outputs = weights_of(tiny), tiny.get_config(), np.array(tiny(inputs(tiny)))
    nodes = {id(op): len(op._inbound_nodes) for op in tiny.operations}
    wider = widen_layer(tiny, "target", total(tiny) + 2)
    shaken(wider)
    assert are_equal(before, weights_of(tiny))
    assert tiny.get_config() == config
    assert {id(op): len(op._inbound_nodes) for op in tiny.operations} == nodes
    assert np.array_equal(tiny(inputs(tiny)), outputs)
    assert not {id(v) for v in tiny.variables} & {id(v) for v in wider.variables}


def test_new_units_have_the_old_norm_and_are_read_with_zeros(tiny):
    wider = widen_layer(tiny, "target", total(tiny) + 2)
    old, new = wider.get_layer("target"), wider.get_layer("target__grown1")
    np.testing.assert_allclose(norms(new.kernel), norms(old.kernel).mean(), rtol=1e-5)
    readers = [layer for layer in wider.layers if layer.name.endswith("__reads1")]
    assert readers
    assert not any(layer.use_bias or np.any(layer.kernel) for layer in readers)


def test_training_changes_new_units(tiny):
    wider = widen_layer(tiny, "target", total(tiny) + 2)
    x, y = inputs(wider, 16), np.arange(16) % 3
    before = np.array(wider.get_layer("target__grown1").kernel)
    for layer in wider.layers:
        layer.trainable = "__" in layer.name and layer in new_layers(wider)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    wider.compile(keras.optimizers.SGD(0.1), loss)
    old = weights_of(tiny)
    wider.fit(x, y, batch_size=8, epochs=2, verbose=0)
    assert not np.array_equal(wider.get_layer("target__grown1").kernel, before)
    assert not np.array_equal(wider(inputs(tiny)), tiny(inputs(tiny)))
    assert are_equal(old, weights_of(tiny))


def test_a_consolidated_network_has_the_same_layers_but_wider(tiny):
    grown = widen_layer(tiny, "target", total(tiny) + 3)
    other = [name for name in widenable_layers(grown) if name != "target"]
    for name in (*other, "target"):
        grown = widen_layer(grown, name, total(grown, name) + 2)
    assert relative_difference(grown(inputs(tiny)), tiny(inputs(tiny))) == 0
    shaken(grown)
    before = weights_of(grown)
    plain = consolidate(grown)
    found, expected = plain(inputs(tiny)).numpy(), grown(inputs(tiny)).numpy()
    assert relative_difference(found, expected) <= 1e-5
    assert [type(layer) for layer in plain.layers] == [type(layer) for layer in tiny.layers]
    assert {layer.name for layer in plain.layers} == {layer.name for layer in tiny.layers}
    assert total(plain) == total(tiny) + 5
    assert not new_layers(plain)
    assert are_equal(before, weights_of(grown))


def test_a_grown_model_loads_in_plain_keras_and_grows_further(tiny, tmp_path):
    grown = shaken(widen_layer(tiny, "target", total(tiny) + 3))
    grown.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert all(type(layer).__module__.startswith("keras.") for layer in with_nested(loaded))
    x = inputs(tiny)
    assert np.array_equal(loaded(x), grown(x))
    assert len(new_layers(loaded)) == len(new_layers(grown)) > 0
    further = widen_layer(loaded, "target", total(loaded) + 1)
    assert np.array_equal(further(x), grown(x))
    assert len(new_layers(further, since=2)) == len(new_layers(further)) - len(new_layers(grown))


def test_the_same_seed_gives_the_same_weights():
    model = network(convolution)
    first, second, other = (widen_layer(model, "target", 6, seed=seed) for seed in (1, 1, 2))
    assert are_equal(first.get_weights(), second.get_weights())
    assert not are_equal(first.get_weights(), other.get_weights())


def test_old_units_of_zero_give_new_units_of_hes_variance():
    model = network(dense)
    target = model.get_layer("target")
    target.kernel.assign(np.zeros((6, 5)))
    new = widen_layer(model, "target", 3000).get_layer("target__grown1")
    assert np.std(new.kernel) == pytest.approx(np.sqrt(2 / 6), rel=0.05)


def test_new_batch_normalisation_has_the_averages_of_the_old():
    model = network(convolution)
    old = model.get_layer("bn")
    new = widen_layer(model, "target", 6).get_layer("bn__grown1")
    for name in ("gamma", "beta", "moving_variance"):
        mean = np.mean(getattr(old, name))
        np.testing.assert_allclose(getattr(new, name), [mean, mean], rtol=1e-6)
    assert not np.any(new.moving_mean)


def test_frozen_layers_stay_frozen_and_new_ones_train():
    model = network(convolution)
    model.trainable = False
    wider = widen_layer(model, "target", 6)
    assert {layer.name for layer in wider.layers if layer.trainable_variables} == {
        "target__grown1",
        "bn__grown1",
        "reader__reads1",
    }


def test_mixed_precision_is_kept():
    x = keras.Input((4,))
    y = layers.Dense(3, activation="relu", dtype="mixed_bfloat16", name="target")(x)
    y = layers.Dense(3, activation="relu", dtype="mixed_bfloat16", name="reader")(y)
    model = keras.Model(x, layers.Dense(2, dtype="float32", name="logits")(y))
    wider = widen_layer(model, "target", 5)
    policies = {layer.name: layer.dtype_policy.name for layer in wider.layers}
    for name in ("target__grown1", "reader__reads1", "reader__sum", "reader__activation"):
        assert policies[name] == "mixed_bfloat16"
    assert np.array_equal(wider(inputs(model)), model(inputs(model)))


def test_a_separable_convolution_reads_through_the_old_depthwise_one():
    wider = widen_layer(network(separable), "target", 6)
    assert isinstance(wider.get_layer("target__depthwise"), layers.DepthwiseConv2D)
    assert isinstance(wider.get_layer("target"), layers.Conv2D)
    assert isinstance(wider.get_layer("reader__depthwise__grown1"), layers.DepthwiseConv2D)
    assert wider.get_layer("target__grown1").input is wider.get_layer("target__depthwise").output


def plain_stack():
    """A stack without sums, so that parts can run in parallel up to the logits."""
    x = keras.Input((8, 8, 2))
    y = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3, name="conv1")(x)))
    y = layers.Conv2D(5, 3, activation="relu", name="conv2")(y)
    y = layers.Dense(6, activation="relu", name="fc")(layers.Flatten()(y))
    return x, layers.Dense(2, name="logits")(y)


def grown_in_isolation(model, names):
    grown = add_classes(model, names)
    for name in ("fc", "conv2", "conv1"):
        grown = widen_layer(grown, name, total(grown, name) + 2, isolate=True)
    return grown


def train_only_new(model):
    new = new_layers(model, since=newest_classes(model))
    for layer in model.layers:
        layer.trainable = layer in new
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.05), loss)
    x = inputs(model, 32)
    model.fit(x, np.arange(32) % model.output_shape[-1], epochs=6, verbose=0)


@pytest.mark.slow
def test_in_isolation_old_logits_never_change():
    model = network(plain_stack)
    x = inputs(model)
    for round_, names in enumerate((["c", "d"], ["e"])):
        old = np.array(model(x))
        grown = grown_in_isolation(model, names)
        start = np.array(grown(x))
        assert np.array_equal(start[:, : old.shape[1]], old)
        traced = forward_of(model)(x)
        before = {layer.name: layer.get_weights() for layer in grown.layers}
        train_only_new(grown)
        after = np.array(grown(x))
        assert np.array_equal(after[:, : old.shape[1]], old)
        assert np.array_equal(forward_of(grown)(x)[:, : old.shape[1]], traced)
        assert not np.array_equal(after[:, old.shape[1] :], start[:, old.shape[1] :])
        changed = {
            layer.name
            for layer in grown.layers
            if layer.trainable_variables and not are_equal(layer.get_weights(), before[layer.name])
        }
        assert changed == {layer.name for layer in grown.layers if layer.trainable_variables}
        number = newest_classes(grown)
        assert number == 1 + 4 * round_
        assert f"fc__grown{number + 1}__reads{number + 2}" in changed
        model = grown
    plain = consolidate(model)
    assert relative_difference(plain(x).numpy(), model(x).numpy()) <= 1e-5
    assert [layer.name for layer in plain.layers][-1] == "logits"
    old_reads_new = np.asarray(plain.get_layer("logits").kernel)[6:, :2]
    assert not old_reads_new.any()


def test_new_units_read_those_that_were_added_before():
    model = network(plain_stack)
    grown = grown_in_isolation(grown_in_isolation(model, ["c"]), ["d"])
    names = {layer.name for layer in grown.layers}
    assert {"conv2__grown7__reads4", "fc__grown6__reads3", "logits__grown5__reads2"} <= names
    assert not {"conv2__reads4", "logits__reads2", "logits__grown1__reads6"} & names


def test_isolation_needs_new_layers_that_read():
    model = network(plain_stack)
    with pytest.raises(ArgumentError, match=r"`isolate` must be False .*'fc': no classes were"):
        widen_layer(model, "fc", 9, isolate=True)
    with pytest.raises(ArgumentError, match=r"'conv1'.* from the output to the input"):
        widen_layer(add_classes(model, ["c"]), "conv1", 9, isolate=True)


def test_groups_are_found_in_grown_models():
    model = network(residual)
    grown = widen_layer(add_classes(model, ["c"]), "target", 6)
    groups = layer_groups(grown)
    assert [group.name for group in groups] == [group.name for group in layer_groups(model)]
    assert "logits__grown1" in groups[-1].layers
    assert "target__grown2" not in groups[-1].layers


@pytest.mark.parametrize(
    ("model", "name", "reason"),
    [
        (lambda: network(residual), "reader", r"'sum' \(Add\), a residual sum, all of whose"),
        (lambda: network(residual), "stem", r"'sum' \(Add\), a residual sum"),
        (lambda: network(dense), "logits", r"the model's outputs .*tlkit\.add_classes"),
        (
            lambda: stacked(layers.Conv2D(4, 1, groups=2, name="grouped")),
            "grouped",
            r"grouped convolution \(groups=2\)",
        ),
        (
            lambda: stacked(layers.Conv2D(4, 1, name="a"), layers.Conv2D(4, 1, groups=2, name="b")),
            "a",
            r"'b', which reads it, is a grouped convolution \(groups=2\)",
        ),
        (
            lambda: stacked(layers.Conv2D(4, 1, name="a"), layers.LayerNormalization(name="norm")),
            "a",
            r"'norm' \(LayerNormalization\) normalises over the units",
        ),
        (
            lambda: stacked(
                layers.Conv2D(4, 1, name="a"), layers.GroupNormalization(2, name="norm")
            ),
            "a",
            r"'norm' \(GroupNormalization\) normalises over the units",
        ),
        (
            lambda: stacked(layers.Conv2D(4, 1, name="a"), layers.Permute((2, 1, 3), name="p")),
            "a",
            r"'p' of class Permute is between it .* does not",
        ),
        (
            lambda: stacked(layers.Conv2D(4, 1, name="a"), layers.Softmax(name="s")),
            "a",
            r"'s' of class Softmax is between it",
        ),
        (
            lambda: stacked(layers.Conv2D(4, 1, name="a", activation="softmax")),
            "a",
            r"'a' has the activation 'softmax'",
        ),
        (
            lambda: stacked(
                layers.Conv2D(4, 1, name="a"), layers.BatchNormalization(axis=1, name="bn")
            ),
            "a",
            r"'bn' of class BatchNormalization is between it",
        ),
        *(
            (
                lambda kind=kind, activation=activation: stacked(
                    layers.Conv2D(4, 1, name="a"), kind(activation)
                ),
                "a",
                rf"'dw' has the activation '{activation}'",
            )
            for activation in ("softmax", "log_softmax", "sparsemax", "glu")
            for kind in [lambda name: layers.DepthwiseConv2D(1, activation=name, name="dw")]
        ),
        (
            lambda: stacked(
                layers.Conv2D(4, 1, name="a"),
                layers.DepthwiseConv2D(1, activation=keras.ops.softmax, name="dw"),
            ),
            "a",
            r"'dw' has the activation .*'softmax'",
        ),
        (
            lambda: stacked(
                layers.Conv1D(4, 1, name="a"),
                layers.DepthwiseConv1D(1, activation="softmax", name="dw"),
                shape=(6, 4),
            ),
            "a",
            r"'dw' has the activation 'softmax'",
        ),
        (
            lambda: stacked(layers.Conv2D(4, 1, name="a"), layers.UnitNormalization(name="norm")),
            "a",
            r"'norm' \(UnitNormalization\) normalises over the units",
        ),
        (
            lambda: stacked(
                layers.Conv2D(4, 1, name="a"), layers.Dropout(0.5, (None, 1, 1, 4), name="drop")
            ),
            "a",
            r"'drop' of class Dropout is between it",
        ),
        (
            lambda: stacked(layers.Conv2D(4, 1, name="a"), keras.ops.softmax),
            "a",
            r"of class Softmax is between it",
        ),
        (
            lambda: stacked(layers.Conv2D(4, 1, name="a"), lambda y: keras.ops.cumsum(y, axis=-1)),
            "a",
            r"of class Cumsum is between it",
        ),
        (
            lambda: stacked(layers.Conv2D(4, 1, name="a"), layers.Dense(4, "glu", name="gated")),
            "gated",
            r"'gated' has the activation 'glu'",
        ),
        (
            lambda: stacked(layers.Conv2D(4, 1, name="a"), layers.DepthwiseConv2D(1, name="dw")),
            "dw",
            r"a depthwise convolution has as many channels as its input: widen the layer before",
        ),
        (lambda: network(convolution), "relu", r"a ReLU has no units; only Dense"),
        (
            lambda: stacked(
                layers.Conv2D(4, 1, name="a"), lambda y: layers.Multiply(name="m")([y, y])
            ),
            "a",
            r"its output is merged with another layer's in 'm' \(Multiply\)",
        ),
        (
            lambda: stacked(
                layers.Conv2D(4, 1, name="a"),
                lambda y: layers.Concatenate(axis=1, name="below")([y, y]),
            ),
            "a",
            r"'below' concatenates along axis 1",
        ),
        (
            lambda: stacked(
                layers.Conv2D(4, 1, name="a"),
                layers.Conv2D(2, 1, activity_regularizer="l2", name="b"),
            ),
            "a",
            r"'b', which reads it, has an activity_regularizer",
        ),
        (
            lambda: stacked(
                layers.Conv2D(4, 1, name="a"),
                layers.GlobalAveragePooling2D(data_format="channels_first", name="pool"),
            ),
            "a",
            r"'pool' has data_format='channels_first'",
        ),
    ],
)
def test_layers_that_cannot_be_widened_are_refused_with_the_reason(model, name, reason):
    built = model()
    before = weights_of(built)
    with pytest.raises(ArgumentError, match=rf"(?s)`name` must be .*name='{name}': .*{reason}"):
        widen_layer(built, name, 9)
    assert are_equal(before, weights_of(built))


def test_shared_layers_are_refused():
    shared, after = layers.Dense(4, name="twice"), layers.ReLU(name="relu")
    x = keras.Input((4,))
    y = layers.Dense(4, name="a")(x)
    y = after(layers.Dense(4, name="b")(after(shared(shared(y)))))
    model = keras.Model(x, layers.Dense(2, name="logits")(y))
    with pytest.raises(ArgumentError, match=r"name='twice': the layer is shared: it is called sev"):
        widen_layer(model, "twice", 9)
    with pytest.raises(ArgumentError, match=r"name='a': the layer 'twice' after it is shared"):
        widen_layer(model, "a", 9)
    with pytest.raises(ArgumentError, match=r"name='b': the layer 'relu' after it is shared"):
        widen_layer(model, "b", 9)


def test_shared_layers_elsewhere_stay_shared():
    shared = layers.Dense(6, name="twice")
    x = keras.Input((6,))
    y = layers.Dense(4, name="a")(layers.ReLU()(shared(shared(x))))
    model = shaken(keras.Model(x, layers.Dense(2, name="logits")(y)))
    wider = widen_layer(model, "a", 6)
    assert np.array_equal(wider(inputs(model)), model(inputs(model)))
    assert sum(layer.name == "twice" for layer in wider.layers) == 1


def test_a_model_grown_through_a_layer_that_mixes_channels_is_not_consolidated(monkeypatch):
    """Files of earlier versions, in which such layers were not refused, may contain such models."""
    model = stacked(
        layers.Conv2D(4, 1, name="a"), layers.DepthwiseConv2D(1, activation="softmax", name="dw")
    )
    with monkeypatch.context() as patched:
        patched.setattr(passing, "is_elementwise", lambda activation: True)
        grown = shaken(widen_layer(model, "a", 6))
    with pytest.raises(ArgumentError, match=r"added units before 'dw' of class DepthwiseConv2D"):
        consolidate(grown)


def test_bad_names_and_numbers_are_refused():
    model = network(convolution)
    with pytest.raises(
        ArgumentError,
        match=r"`name` must be the name of a layer.*name='tarket'\. Did you mean 'target'\?"
        r".*can be widened: target, reader\.",
    ):
        widen_layer(model, "tarket", 9)
    for number in (4, 3):
        with pytest.raises(ArgumentError, match=rf"more than the 4 units .*num_units={number}\."):
            widen_layer(model, "target", number)
    with pytest.raises(ArgumentError, match="`num_units` must be a whole number"):
        widen_layer(model, "target", 4.5)
    with pytest.raises(ArgumentError, match="`seed` must be a whole number"):
        widen_layer(model, "target", 9, seed=-1)
    wider = widen_layer(model, "target", 6)
    with pytest.raises(ArgumentError, match=r"extends: 'target'\."):
        widen_layer(wider, "target__grown1", 9)
    with pytest.raises(ArgumentError, match=r"more than the 6 units"):
        widen_layer(wider, "target", 6)


def test_models_with_several_ends_are_refused():
    a, b = keras.Input((2,), name="left"), keras.Input((2,), name="right")
    hidden = layers.Dense(3, name="fc")(layers.Concatenate()([a, b]))
    with pytest.raises(ArgumentError, match=r"one input.*'left', 'right'"):
        widen_layer(keras.Model([a, b], layers.Dense(2)(hidden)), "fc", 5)
    hidden = layers.Dense(3, name="fc")(a)
    outputs = [layers.Dense(1, name=name)(hidden) for name in ("age", "mood")]
    with pytest.raises(ArgumentError, match=r"one output.*'age', 'mood'"):
        widen_layer(keras.Model(a, outputs), "fc", 5)


def test_layers_that_cannot_be_recreated_are_refused():
    class Scaled(layers.Layer):
        def __init__(self, factor, **keywords):
            super().__init__(**keywords)
            self.factor = factor

        def call(self, x):
            return self.factor * x

        def get_config(self):
            return {"name": self.name}

    x = keras.Input((4,))
    y = layers.Dense(3, name="target")(Scaled(2.0, name="scaled")(x))
    model = keras.Model(x, layers.Dense(2)(y))
    with pytest.raises(ArgumentError, match=r"recreated .* 'scaled' of class Scaled: .*factor"):
        widen_layer(model, "target", 5)


def test_custom_layers_that_read_one_part_are_refused():
    grown = widen_layer(network(dense), "target", 7)
    own = layers.Dense(2, name="own")(grown.get_layer("target__grown1").output)
    both = layers.Concatenate()([grown.output, own])
    with pytest.raises(ArgumentError, match=r"only by tlkit's functions.* reads 'target__grown1'"):
        consolidate(keras.Model(grown.input, both))


def test_names_that_only_look_like_those_of_grown_layers_do_no_harm():
    x = keras.Input((4,))
    y = layers.Dense(3, name="target")(x)
    y = layers.Dense(3, activation="relu", name="target__sum")(y)
    model = keras.Model(x, layers.Dense(2, name="target__activation")(y))
    wider = widen_layer(model, "target", 5)
    assert np.array_equal(wider(inputs(model)), model(inputs(model)))
    assert not [layer for layer in new_layers(model) if layer.name == "target__sum"]
