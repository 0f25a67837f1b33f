"""Nested models are flattened to one graph of the same layers with the same outputs."""

import keras
import numpy as np
import pytest

from tests.conftest import set_seeds
from tlkit.models.flattening import above, below, flat, submodel
from tlkit.models.groups import cut_before, layer_groups
from tlkit.models.heads import feature_cut, head_from_features, head_kind
from tlkit.models.signature import signature

layers = keras.layers


def convolutions(name, filters=4, size=(16, 16, 3)):
    """A model with two resolutions, and the same layer names in every call."""
    x = keras.Input(size)
    y = layers.Conv2D(filters, 3, padding="same", activation="relu", name="block1_conv")(x)
    y = layers.MaxPooling2D(name="block1_pool")(y)
    y = layers.Conv2D(filters, 3, padding="same", name="block2_conv")(y)
    y = layers.BatchNormalization(name="block2_norm")(y)
    return keras.Model(x, layers.MaxPooling2D(name="block2_pool")(y), name=name)


def sequential():
    return keras.Sequential([convolutions("base"), layers.Flatten(), layers.Dense(2, name="out")])


def functional():
    x = keras.Input((16, 16, 3))
    y = convolutions("base")(layers.Rescaling(0.1)(x), training=False)
    y = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(y))
    return keras.Model(x, layers.Dense(2, name="out")(y))


def nested_twice():
    """A model nested twice, and another nested model with the same layer names."""
    inner = keras.Sequential([keras.Input((16, 16, 3)), convolutions("left")], name="outside")
    right = convolutions("right", size=(4, 4, 4))
    return keras.Sequential(
        [keras.Input((16, 16, 3)), inner, right, layers.Flatten(), layers.Dense(2, name="out")]
    )


def shared():
    """One model that is called twice."""
    x = keras.Input((4,))
    twice = keras.Sequential([keras.Input((4,)), layers.Dense(4, "tanh")], name="twice")
    y = twice(layers.Dense(4, name="between")(twice(x)))
    return keras.Model(x, layers.Dense(2, name="out")(y))


def several_ends():
    """A nested model with two inputs and two outputs."""
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    both = layers.Concatenate()([a, b])
    pair = keras.Model([a, b], [layers.Dense(4)(both), layers.Dense(3)(a)], name="pair")
    x = keras.Input((4,))
    first, second = pair([x, layers.Dense(3)(x)])
    return keras.Model(x, layers.Dense(2, name="out")(layers.Concatenate()([second, first])))


def of_whole_numbers():
    """The nested model computes in float32 on integer inputs."""
    x = keras.Input((16, 16, 3), dtype="uint8")
    y = layers.GlobalAveragePooling2D()(convolutions("base")(x))
    return keras.Model(x, layers.Dense(2, name="out")(y))


def at_the_end():
    """A model whose layers are all nested."""
    base = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3), layers.Dense(1, "sigmoid", name="out")], name="all"
    )
    return keras.Sequential([keras.Input((4,)), base])


MODELS = [
    *(sequential, functional, nested_twice, shared),
    *(several_ends, of_whole_numbers, at_the_end),
]


def built(build):
    set_seeds(0)
    model = build()
    random = np.random.default_rng(0)
    for variable in model.variables:
        if "seed" not in variable.path:
            variable.assign(random.uniform(0.1, 1, variable.shape))
    return model


def inputs(model):
    values = np.random.default_rng(1).uniform(0, 9, (5, *model.input_shape[1:]))
    return values.astype(model.inputs[0].dtype)


@pytest.mark.parametrize("build", MODELS)
def test_the_flat_graph_computes_the_same_with_the_same_weights(build):
    model = built(build)
    x = inputs(model)
    config, expected = model.get_config(), model(x).numpy()
    graph = flat(model)
    whole = submodel(graph.input, graph.output)
    assert not any(isinstance(layer, keras.Model) for layer in whole.layers)
    assert {id(v) for v in whole.variables} == {id(v) for v in model.variables}
    np.testing.assert_array_equal(whole(x), expected)
    assert model.get_config() == config
    assert flat(model) is graph  # made once
    names = [operation.name for operation in model.layers]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("build", MODELS)
def test_nested_models_have_cuts_like_any_other(build):
    model = built(build)
    x = inputs(model)
    for group in layer_groups(model):
        tensor = cut_before(model, group.name)
        found = above(model, tensor)(below(model, tensor)(x))
        np.testing.assert_allclose(found, model(x), rtol=1e-6)
    features = below(model, feature_cut(model))(x)
    np.testing.assert_allclose(head_from_features(model)(features), model(x), rtol=1e-6)


def test_training_is_the_same_in_the_flat_graph():
    """Dropout and batch normalisation behave as in the nested model in Keras."""
    model = built(functional)
    x = inputs(model)
    graph = flat(model)
    outputs = []
    for one in (model, submodel(graph.input, graph.output)):
        for layer in one.layers:
            if isinstance(layer, layers.Dropout):
                layer.seed_generator.state.assign([0, 7])
        norm = model.get_layer("base").get_layer("block2_norm")
        norm.moving_mean.assign(np.zeros(4))
        outputs.append((one(x, training=True).numpy(), norm.moving_mean.numpy()))
    np.testing.assert_allclose(outputs[0][0], outputs[1][0], rtol=1e-6)
    np.testing.assert_array_equal(outputs[0][1], outputs[1][1])


def test_groups_contain_the_layers_of_nested_models():
    names = ["group_1", "block1", "block2", "head"]
    for build in (sequential, functional):
        found = [group.name for group in layer_groups(built(build))]
        assert [name for name in found if name in names[1:]] == names[1:]
    groups = layer_groups(built(nested_twice))
    of_left = [name for group in groups for name in group.layers if name.startswith("outside/")]
    assert of_left[:2] == ["outside/left/block1_conv", "outside/left/block1_pool"]
    assert [group.name for group in groups][-1] == "head"
    assert len(groups) == 5
    assert sum(group.num_parameters for group in groups) == built(nested_twice).count_params()
    assert head_kind(built(at_the_end)) == "binary"


def test_a_model_without_nesting_is_its_own_flat_graph():
    x = keras.Input((4,))
    model = keras.Model(x, layers.Dense(2)(layers.Dense(3)(x)))
    nodes = [len(operation._inbound_nodes) for operation in model.operations]
    assert flat(model).output is model.outputs[0]
    assert [len(operation._inbound_nodes) for operation in model.operations] == nodes


def test_nested_models_with_custom_computations_stay_one_layer():
    class Doubled(keras.Model):
        def call(self, x, training=None):
            return 2 * super().call(x, training=training)

    class WithWeight(keras.Model):
        def __init__(self, *ends):
            super().__init__(*ends)
            self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    for kind in (Doubled, WithWeight):
        a = keras.Input((4,))
        inner = kind(a, layers.Dense(4, name="inside")(a))
        x = keras.Input((4,))
        model = keras.Model(x, layers.Dense(2)(inner(x)))
        assert inner.name in flat(model).names.values()
        assert "inside" not in flat(model).names.values()
        values = np.ones((2, 4), "float32")
        graph = flat(model)
        np.testing.assert_array_equal(submodel(graph.input, graph.output)(values), model(values))


def test_a_convolution_with_its_normalisation_stays_one_layer():
    step = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(4, 2, name="conv"), layers.LayerNormalization()],
        name="step",
    )
    x = keras.Input((8, 8, 3))
    y = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(step(x)))
    names = flat(keras.Model(x, layers.Dense(2)(y))).names.values()
    assert "step" in names
    assert "conv" not in names


def test_a_changed_nested_model_is_flattened_again():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="first")])
    model = keras.Sequential([keras.Input((4,)), inner, layers.Dense(2, name="out")])
    assert "first" in flat(model).names.values()
    model.pop()
    model.add(layers.Dense(3, name="other"))
    assert "other" in flat(model).names.values()
    assert "out" not in flat(model).names.values()


def test_the_part_below_a_tensor_of_the_model_itself_keeps_its_name():
    """So that stored features of a nested base, and rejections fitted on them, stay valid."""
    model = built(functional)
    pooling = next(o for o in model.layers if isinstance(o, layers.GlobalAveragePooling2D))
    plain = keras.Model(model.inputs[0], pooling.input)
    assert signature(below(model, cut_before(model, "head"))) == signature(plain)
