"""Costs are counted from the graph: each call once, even if models share layers."""

import keras
import pytest

import tlkit
from tlkit.advice.graph_costs import group_costs, peak_activations
from tlkit.errors import ArgumentError
from tlkit.models.groups import cut_before, layer_groups
from tlkit.models.heads import head_from_features
from tlkit.models.multiply_adds import count_multiply_adds

# with residual blocks, depthwise convolutions, squeeze and excitation, and nested stems
FAMILIES = {"resnet20": 32, "mobilenet_025": 64, "efficientnet_b0": 64, "convnext_tiny": 32}


@pytest.mark.parametrize("name", FAMILIES)
def test_costs_of_groups_sum_to_those_of_the_model(name):
    model = tlkit.build_classifier(name, ["a", "b"], image_size=FAMILIES[name], weights=None)
    costs = group_costs(model)
    assert [cost.name for cost in costs] == [group.name for group in layer_groups(model)]
    assert sum(cost.multiply_adds for cost in costs) == count_multiply_adds(model)
    assert sum(cost.num_parameters for cost in costs) == model.count_params()
    assert costs[0].num_inputs == FAMILIES[name] ** 2 * 3
    assert max(cost.num_inputs for cost in costs) <= peak_activations(model)
    assert peak_activations(model) <= sum(cost.num_activations for cost in costs) + (
        costs[0].num_inputs
    )


def test_other_models_with_the_same_layers_are_not_counted():
    model = tlkit.build_classifier("tiny_resnet", ["a", "b"], weights=None)
    before = group_costs(model)
    head_from_features(model)
    keras.Model(cut_before(model, "stage2"), model.output)
    assert group_costs(model) == before
    assert count_multiply_adds(model) == sum(cost.multiply_adds for cost in before)


def test_the_costs_of_one_convolution_are_as_expected():
    x = keras.Input((8, 8, 3))
    y = keras.layers.Conv2D(4, 3, padding="same")(x)
    z = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(y))
    body, head = group_costs(keras.Model(x, z))
    assert (body.multiply_adds, body.num_activations) == (8 * 8 * 4 * 27, 8 * 8 * (3 + 4))
    assert (head.multiply_adds, head.num_activations, head.num_inputs) == (8, 4 + 2, 8 * 8 * 4)
    assert peak_activations(keras.Model(x, z)) == 8 * 8 * (3 + 4)


def test_a_skipped_tensor_stays_in_memory():
    x = keras.Input((10,))
    y = keras.layers.Dense(30)(x)
    z = keras.layers.Dense(10)(y)
    assert peak_activations(keras.Model(x, z)) == 40
    assert peak_activations(keras.Model(x, keras.layers.Add()([x, z]))) == 50


def test_a_variable_input_size_raises():
    x = keras.Input((None, None, 3))
    y = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(x))
    model = keras.Model(x, keras.layers.Dense(2)(y))
    for function in (group_costs, peak_activations):
        with pytest.raises(ArgumentError, match="`model` must take inputs of one size"):
            function(model)
