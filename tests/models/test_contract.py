"""The checks that every backbone must pass, run on the smallest one of each family.

Those with `any_model` hold for backbones of KerasHub and in files, too.
"""

import keras
import numpy as np
import pytest

from tlkit.models.catalogue import find_backbone
from tlkit.models.flattening import below
from tlkit.models.graph import count_parameters, parameters
from tlkit.models.groups import cut_before, cuts, layer_groups, set_trainable
from tlkit.models.heads import feature_cut, head_from_features
from tlkit.models.input_size import at_image_size
from tlkit.models.multiply_adds import count_multiply_adds
from tlkit.models.signature import signature

from .expectations import BOUNDARIES, MODULES, NUM_CUTS

NUM_PREPROCESSING_NODES = {"caffe": 2, "tf": 1, "torch": 1, "none": 0}
NUM_HEAD_NODES = 3  # pooling, dropout, Dense


def test_is_one_flat_graph(any_model):
    nested = [layer.name for layer in any_model.layers if isinstance(layer, keras.Model)]
    stems = [f"convnext_tiny_downsampling_block_{i}" for i in range(3)] + ["convnext_tiny_stem"]
    assert sorted(nested) == (stems if any_model.name == "convnext_tiny" else [])


def test_has_the_number_of_parameters_in_the_catalogue(family_model):
    head = layer_groups(family_model)[-1].num_parameters
    assert family_model.count_params() - head == find_backbone(family_model.name).num_parameters


def test_has_the_multiply_adds_in_the_catalogue(family_model):
    spec = find_backbone(family_model.name)
    resized = at_image_size(family_model, spec.default_image_size)
    found = count_multiply_adds(below(resized, feature_cut(resized)))
    assert found == spec.multiply_adds


def test_preprocesses_as_keras_does(family_model, pixels):
    module = MODULES.get(family_model.name)
    images = pixels(family_model)
    expected = images / 127.5 - 1
    if module is not None:
        expected = getattr(keras.applications, module).preprocess_input(images.copy())
    if find_backbone(family_model.name).preprocessing == "none":
        assert not any(layer.name == "preprocessing" for layer in family_model.layers)
        assert np.array_equal(expected, images)  # in Keras it is part of the backbone too
    else:
        prepared = family_model.get_layer("preprocessing").output
        computed = keras.Model(family_model.input, prepared)(images)
        np.testing.assert_allclose(computed, expected, rtol=1e-5, atol=1e-5)


def test_groups_contain_every_layer_once(any_model):
    groups = layer_groups(any_model)
    names = [name for group in groups for name in group.layers]
    assert sorted(names) == sorted(layer.name for layer in any_model.layers)
    assert sum(group.num_parameters for group in groups) == any_model.count_params()
    assert groups[-1].name == "head"
    assert len({group.name for group in groups}) == len(groups)


def test_groups_end_with_blocks(family_model):
    groups = layer_groups(family_model)[:-1]
    found = {group.name: group.boundary for group in groups}
    assert found == BOUNDARIES.get(family_model.name, found)
    if family_model.name == "convnext_tiny":
        assert list(found) == [f"convnext_tiny_stage_{n}" for n in range(4)]


def test_finds_the_cuts(family_model):
    preprocessing = NUM_PREPROCESSING_NODES[find_backbone(family_model.name).preprocessing]
    found = len(cuts(family_model)) - preprocessing - NUM_HEAD_NODES
    assert found == NUM_CUTS.get(family_model.name, found)
    assert found >= len(layer_groups(family_model))


@pytest.mark.slow
def test_parts_before_and_after_a_boundary_compute_the_whole(any_model, pixels):
    names = [group.name for group in layer_groups(any_model)]
    tensors = [cut_before(any_model, name) for name in names] + [feature_cut(any_model)]
    *features, outputs = keras.Model(any_model.input, [*tensors, any_model.output])(
        pixels(any_model)
    )
    for tensor, feature in zip(tensors[1:], features[1:], strict=True):
        behind = keras.Model(tensor, any_model.output)
        assert np.array_equal(behind(feature), outputs)
    assert np.array_equal(head_from_features(any_model)(features[-1]), outputs)


@pytest.mark.slow
def test_unfreezing_trains_a_group_and_all_after_it(any_model):
    groups = layer_groups(any_model)
    for position, group in enumerate(groups):
        for batch_norm in ("frozen", "affine", "train"):
            report = set_trainable(any_model, group.name, batch_norm=batch_norm)
            expected = {
                id(variable)
                for name in (name for later in groups[position:] for name in later.layers)
                if (layer := any_model.get_layer(name))
                and not (_is_batch_norm(layer) and batch_norm == "frozen")
                for variable in parameters(layer)
            }
            assert {id(v) for v in any_model.trainable_variables} == expected
            assert report.groups == tuple(later.name for later in groups[position:])
            assert report.num_trainable + report.num_frozen == any_model.count_params()
            assert report.num_trainable == sum(
                int(np.prod(v.shape)) for v in any_model.trainable_variables
            )
    set_trainable(any_model, "all", batch_norm="train")


@pytest.mark.slow
def test_outputs_in_plain_keras_are_bit_identical(any_model, pixels, tmp_path):
    if any_model.name in ("nasnet_mobile", "inception_resnet_v2"):
        pytest.skip("Keras takes long to load it; benchmarks/catalogue.py does the same check")
    path = tmp_path / "model.keras"
    any_model.save(path)
    loaded = keras.models.load_model(path)
    images = pixels(any_model)
    assert np.array_equal(loaded(images), any_model(images))
    assert signature(loaded) == signature(any_model)
    assert [g.name for g in layer_groups(loaded)] == [g.name for g in layer_groups(any_model)]


def test_counts_each_weight_once(any_model):
    assert count_parameters(any_model.layers) == any_model.count_params()


def _is_batch_norm(layer):
    return isinstance(layer, keras.layers.BatchNormalization)
