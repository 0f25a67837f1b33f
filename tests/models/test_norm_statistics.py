"""Batch normalisation with statistics, without them, and folded into the weights."""

import keras
import numpy as np
import pytest

import tlkit
from tests.advice.test_similarity import normalising
from tlkit.advice.similarity import measure_similarity, statistic_distances
from tlkit.errors import ArgumentError
from tlkit.models.norm_statistics import has_statistics, is_folded

FOLDED = (
    ("mobilenet", "weights/mobilenet_imagenet_folded.weights.h5"),
    ("mobilenet_v2", "weights/mobilenet_v2_imagenet_folded.weights.h5"),
    ("mobilenet_v2", "weights/mobilenet_v2_insects_folded.weights.h5"),
    ("mobilenet_v2", "weights/mobilenet_v2_birds_folded.weights.h5"),
)
PLAIN = ("mobilenet_025", "weights/mobilenet_2_5_224_tf_no_top.h5")


def folded(data):
    """A model whose batch normalisation is folded: statistics 0 and 1, trained offsets."""
    model = normalising(data, [0.0] * 3, [1 - 1e-3] * 3)
    model.get_layer("norm").beta.assign([0.5, -0.5, 0.0])
    return model


def test_statistics_are_those_that_differ_from_zero_and_one():
    layer = keras.layers.BatchNormalization()
    layer.build((None, 3))
    assert not has_statistics(layer)
    layer.moving_variance.assign([1 - layer.epsilon] * 3)  # so that the layer divides by 1
    assert not has_statistics(layer)
    layer.moving_variance.assign([1, 1, 1.1])
    assert has_statistics(layer)
    layer.moving_variance.assign([1, 1, 1])
    layer.moving_mean.assign([0, 0.001, 0])
    assert has_statistics(layer)


def test_a_new_network_is_not_folded(data):
    assert not is_folded(normalising(data, [0.0] * 3, [1.0] * 3))
    assert not is_folded(normalising(data, [0.1] * 3, [1.0] * 3))
    assert not is_folded(tlkit.build_classifier("resnet20", data.class_names, weights=None))
    assert not is_folded(tlkit.build_classifier("resnet20", data.class_names))
    assert is_folded(folded(data))


def test_a_layer_without_scale_and_offset_is_not_trained():
    x = keras.Input((4, 4, 3))
    y = keras.layers.BatchNormalization(scale=False, center=False)(x)
    assert not is_folded(keras.Model(x, keras.layers.GlobalAveragePooling2D()(y)))


def test_statistics_that_are_none_are_not_compared(data):
    assert statistic_distances(folded(data), data.train) == {}
    report = measure_similarity(folded(data), data)
    assert (report.distance, report.level, report.has_batch_norm) == (None, "unknown", True)
    assert "its batch normalisation has no statistics, as where it is folded" in report.verdict
    assert "accuracy" in report.verdict  # the heads remain
    plain = keras.Sequential(
        [
            keras.Input((*data.image_size, 3)),
            keras.layers.Conv2D(4, 3),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(data.num_classes),
        ]
    )
    assert "the network has no batch normalisation" in measure_similarity(plain, data).verdict


def test_folded_batch_normalisation_is_not_trained_with_statistics_of_batches(data):
    model = folded(data)
    before = model.get_weights()
    with pytest.raises(ArgumentError, match="`batch_norm` must be 'affine' or 'frozen' for a"):
        tlkit.fine_tune(model, data, epochs=1, batch_norm="train")
    with pytest.raises(ArgumentError, match="folded into its weights"):
        tlkit.set_trainable(model, "all", batch_norm="train")
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    tlkit.fine_tune(model, data, epochs=1)
    tlkit.set_trainable(
        normalising(data, [0.0] * 3, [1.0] * 3), "all", batch_norm="train"
    )  # a new network


@pytest.mark.shared_data
def test_published_weights_are_recognised(shared):
    for name, file in (*FOLDED, PLAIN):
        model = tlkit.build_classifier(name, ["a", "b"], image_size=64, weights=shared / file)
        assert is_folded(model) is (file != PLAIN[1])
