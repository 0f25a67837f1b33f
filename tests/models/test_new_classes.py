import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tests.conftest import set_seeds
from tlkit.errors import ArgumentError
from tlkit.models.assembly import build_classifier
from tlkit.models.graph import with_nested
from tlkit.models.groups import layer_groups, set_trainable
from tlkit.models.heads import (
    feature_cut,
    head_from_features,
    head_kind,
    outputs_logits,
    probabilities,
)
from tlkit.models.surgery import (
    add_classes,
    align_new_classes,
    consolidate,
    new_layers,
    newest_classes,
    widen_layer,
)

from .tiny import (
    are_equal,
    inputs,
    relative_difference,
    shaken,
    weights_of,
)

layers = keras.layers

LARGE = {"nasnet_mobile", "inception_resnet_v2", "densenet121", "efficientnet_v2_b0", "resnet50"}
"""Families with hundreds of layers, or with the blocks of another family."""


def ending(units, *behind, activation=None, name="scores"):
    """A classifier of vectors with random weights."""
    set_seeds(0)
    x = keras.Input((6,))
    y = layers.Dense(5, activation="relu")(x)
    y = layers.Dense(units, activation=activation, name=name)(y)
    for layer in behind:
        y = layer(y)
    return shaken(keras.Model(x, y))


def logits_of(model, name):
    return keras.Model(model.input, model.get_layer(name).output)


@pytest.mark.slow
def test_old_logits_are_bit_identical_in_every_family(family_model, pixels):
    grown = add_classes(family_model, ["d", "e"], class_names=["ant", "bee", "cat"])
    images = pixels(family_model)
    assert grown.output_shape == (None, 5)
    assert np.array_equal(grown(images)[:, :3], family_model(images))
    assert head_kind(grown) == "softmax"
    assert outputs_logits(grown)
    before, after = layer_groups(family_model), layer_groups(grown)
    assert [g.name for g in after] == [g.name for g in before]
    assert [g.layers for g in after[:-1]] == [g.layers for g in before[:-1]]
    assert head_from_features(grown).input_shape[1:] == feature_cut(family_model).shape[1:]


@pytest.mark.slow
def test_an_inner_layer_of_every_family_widens_and_consolidates(family_model, pixels):
    if family_model.name in LARGE:
        pytest.skip("it takes long; benchmarks/surgery.py does the same check for every backbone")
    names = tlkit.models.surgery.widenable_layers(family_model)
    name = names[len(names) // 2]
    number = tlkit.models.surgery.count_units(family_model, name) + 2
    grown = widen_layer(add_classes(family_model, ["d"]), name, number)
    images = pixels(family_model)
    assert np.array_equal(grown(images)[:, :3], family_model(images))
    random = np.random.default_rng(0)
    for layer in new_layers(grown):
        for variable in layer.trainable_variables:
            scale = 0.1 * random.standard_normal(variable.shape)
            variable.assign(variable.numpy() + scale)
    plain = consolidate(grown)
    assert relative_difference(plain(images).numpy(), grown(images).numpy()) <= 1e-5
    kinds = [type(layer) for layer in plain.layers]
    assert kinds == [type(layer) for layer in family_model.layers]


@pytest.mark.parametrize(
    ("model", "kind", "is_logits", "cut"),
    [
        (lambda: ending(3), "softmax", True, "scores"),
        (lambda: ending(3, activation="softmax"), "softmax", False, None),
        (lambda: ending(3, layers.Softmax()), "softmax", False, "scores"),
        (lambda: ending(3, layers.Activation("softmax")), "softmax", False, "scores"),
        (lambda: ending(3, layers.Activation("linear")), "softmax", True, "scores"),
        (lambda: ending(3, name="label_logits"), "multi_label", True, "label_logits"),
        (lambda: ending(3, activation="sigmoid"), "multi_label", False, "scores"),
        (lambda: ending(3, layers.Activation("sigmoid")), "multi_label", False, "scores"),
        (lambda: ending(3, keras.ops.sigmoid), "multi_label", False, "scores"),
        (lambda: ending(3, keras.ops.softmax), "softmax", False, "scores"),
    ],
)
def test_heads_of_every_kind_grow_twice(model, kind, is_logits, cut, tmp_path):
    old = model()
    before, outputs = weights_of(old), np.array(old(inputs(old)))
    grown = add_classes(add_classes(old, ["d", "e"]), ["f"])
    x = inputs(old)
    assert grown.output_shape == (None, 6)
    assert head_kind(grown) == kind
    assert outputs_logits(grown) == is_logits
    if cut is not None:
        assert np.array_equal(logits_of(grown, cut)(x), logits_of(old, cut)(x))
    if is_logits or kind == "multi_label":
        assert np.array_equal(grown(x)[:, :3], outputs)
    else:  # old probabilities are the same after renormalisation
        renormalised = grown(x)[:, :3].numpy()
        renormalised /= renormalised.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(renormalised, outputs, rtol=1e-5)
    assert are_equal(before, weights_of(old))
    shaken(grown).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert all(type(layer).__module__.startswith("keras.") for layer in with_nested(loaded))
    assert np.array_equal(loaded(x), grown(x))
    plain = consolidate(loaded)
    assert relative_difference(plain(x).numpy(), grown(x).numpy()) <= 1e-5
    assert len(plain.layers) == len(old.layers)
    assert head_kind(plain) == kind
    assert outputs_logits(plain) == is_logits


@pytest.mark.parametrize(
    "model",
    [
        lambda: ending(1),
        lambda: ending(1, name="binary_logit"),
        lambda: ending(1, activation="sigmoid"),
        lambda: ending(1, layers.Activation("sigmoid", dtype="float32")),
        lambda: ending(1, keras.ops.sigmoid),
    ],
)
def test_one_logit_becomes_two_classes_followed_by_new_ones(model, tmp_path):
    old = model()
    x = inputs(old)
    grown = add_classes(old, ["c"], class_names=["a", "b"])
    assert grown.output_shape == (None, 3)
    assert head_kind(grown) == "softmax"
    assert outputs_logits(grown) == outputs_logits(old)
    renormalised = probabilities(grown(x), grown).numpy()[:, :2]
    renormalised /= renormalised.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(renormalised, probabilities(old(x), old), rtol=1e-5)
    if outputs_logits(old):
        assert np.array_equal(grown(x)[:, 1:2], old(x))
        assert not np.any(grown(x)[:, :1])
    further = add_classes(grown, ["d"], class_names=["a", "b", "c"])
    assert further.output_shape == (None, 4)
    if outputs_logits(old):
        assert np.array_equal(further(x)[:, :3], grown(x))
    plain = consolidate(shaken(further))
    assert relative_difference(plain(x).numpy(), further(x).numpy()) <= 1e-5
    assert head_kind(plain) == "softmax"
    further.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert add_classes(loaded, ["e"]).output_shape == (None, 5)


def test_new_rows_are_initialised_as_requested():
    model = ending(3)
    grown = add_classes(model, ["d"], initializer="ones")
    assert np.all(grown.get_layer("scores__grown1").kernel == np.ones((5, 1)))
    first, second, other = (add_classes(model, ["d"], seed=seed) for seed in (1, 1, 2))
    assert are_equal(first.get_weights(), second.get_weights())
    assert not are_equal(first.get_weights(), other.get_weights())
    own = keras.initializers.Constant(0.5)
    new = add_classes(model, ["d"], initializer=own).get_layer("scores__grown1")
    assert np.all(new.kernel == np.full((5, 1), 0.5))
    with pytest.raises(ArgumentError, match="`initializer` must be a Keras initializer"):
        add_classes(model, ["d"], initializer="glorot")


def test_class_means_are_imprinted():
    model = ending(3)
    means = np.random.default_rng(0).uniform(0.1, 1, (2, 5))
    new = add_classes(model, ["d", "e"], class_means=means).get_layer("scores__grown1")
    old = model.get_layer("scores")
    rows = np.asarray(new.kernel).T
    norms = np.linalg.norm(np.asarray(old.kernel), axis=0)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), norms.mean(), rtol=1e-5)
    cosines = (rows * means).sum(1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(means, axis=1)
    np.testing.assert_allclose(cosines, 1, rtol=1e-5)
    np.testing.assert_allclose(new.bias, np.mean(old.bias), rtol=1e-5)
    for bad in (means[:1], means[:, :4], means * np.nan, means * [[0], [1]]):
        with pytest.raises(ArgumentError, match="`class_means` must be one row of 5 finite"):
            add_classes(model, ["d", "e"], class_means=bad)


def test_aligned_rows_have_the_mean_norm_of_the_old():
    model = ending(3)
    grown = add_classes(model, ["d", "e"])
    new = grown.get_layer("scores__grown1")
    new.kernel.assign(7 * np.asarray(new.kernel))
    x = inputs(model)
    before = np.array(grown(x))
    aligned = align_new_classes(grown)
    assert np.array_equal(grown(x), before)
    assert np.array_equal(aligned(x)[:, :3], before[:, :3])
    old, found = (
        np.linalg.norm(np.asarray(aligned.get_layer(name).kernel), axis=0)
        for name in ("scores", "scores__grown1")
    )
    np.testing.assert_allclose(found.mean(), old.mean(), rtol=1e-5)
    ratios = np.linalg.norm(np.asarray(new.kernel), axis=0) / found  # one factor for all
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-5)
    assert np.array_equal(aligned.get_layer("scores__grown1").bias, new.bias)


def test_alignment_includes_weights_for_new_units():
    x = keras.Input((6,))
    y = layers.Dense(4, activation="relu", name="fc")(x)
    model = shaken(keras.Model(x, layers.Dense(2, name="logits")(y)))
    grown = widen_layer(add_classes(model, ["c"]), "fc", 7, isolate=True)
    reader = grown.get_layer("logits__grown1__reads2")
    reader.kernel.assign(np.full((3, 1), 5.0))
    aligned = align_new_classes(grown)
    blocks = [aligned.get_layer(n).kernel for n in ("logits__grown1", "logits__grown1__reads2")]
    norm = np.linalg.norm(np.concatenate(blocks))
    old = np.linalg.norm(np.asarray(aligned.get_layer("logits").kernel), axis=0).mean()
    assert norm == pytest.approx(old, rel=1e-5)


def test_alignment_needs_new_classes_with_weights():
    with pytest.raises(ArgumentError, match=r"`model` must have added classes"):
        align_new_classes(ending(3))
    with pytest.raises(ArgumentError, match=r"nonzero weights for its new classes"):
        align_new_classes(add_classes(ending(3), ["d"], initializer="zeros"))


@pytest.mark.parametrize(
    ("new_names", "class_names", "message"),
    [
        ([], None, r"`new_names` must be a list of one or more .*new_names=\[\]"),
        (["d", ""], None, r"none of them empty\. Received: new_names=\['d', ''\]"),
        (["d", " "], None, "none of them empty"),
        (["d", "d"], None, r"distinct names .*with \['d'\] repeated"),
        ("dog", None, r"must be a list .*new_names='dog'"),
        ([3], None, r"must be a list .*new_names=\[3\]"),
        (["d", "a"], ["a", "b", "c"], r"classes that the model does not have.*it has \['a'\]"),
        (["d"], ["a", "b"], r"`class_names` must be the names of the 3 classes .*\['a', 'b'\]"),
    ],
)
def test_bad_names_are_refused(new_names, class_names, message):
    model = ending(3)
    before = weights_of(model)
    with pytest.raises(ArgumentError, match=message):
        add_classes(model, new_names, class_names)
    assert are_equal(before, weights_of(model))


def test_models_without_one_classification_head_are_refused():
    x = keras.Input((8, 8, 2))
    maps = layers.Conv2D(3, 1, name="maps")(x)
    shared = layers.Dense(6, name="twice")
    vector = keras.Input((6,))
    outputs = [layers.Dense(2, name=name)(vector) for name in ("age", "mood")]
    for model, message in (
        (keras.Model(x, maps), r"must have one classification head.*'maps' of class Conv2D"),
        (keras.Model(x, layers.Dense(3, name="each")(maps)), r"\(None, 8, 8, 3\)"),
        (keras.Model(x, layers.GlobalMaxPooling2D()(maps)), r"of class GlobalMaxPooling2D"),
        (
            keras.Model(vector, shared(shared(vector))),
            r"a Dense layer at the end, called once.*'twice'",
        ),
        (keras.Model(vector, outputs), r"one output.*'age', 'mood'"),
    ):
        with pytest.raises(ArgumentError, match=message):
            add_classes(model, ["d"])


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "sparsemax"])
@pytest.mark.parametrize("behind", [[], [layers.Activation("linear", name="behind")]])
def test_activations_over_all_classes_include_the_new_ones(name, behind):
    old = ending(3, *behind, activation=name)
    grown = shaken(add_classes(old, ["d", "e"]))
    x = inputs(old)
    features = keras.Model(grown.inputs[0], grown.get_layer("scores").input)(x)
    logits = [
        keras.ops.matmul(features, layer.kernel) + layer.bias
        for layer in (grown.get_layer("scores"), grown.get_layer("scores__grown1"))
    ]
    expected = keras.activations.get(name)(keras.ops.concatenate(logits, axis=-1))
    np.testing.assert_allclose(grown(x), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(consolidate(grown)(x), expected, rtol=1e-5, atol=1e-6)


def custom_activation(logits):
    return keras.ops.softmax(logits)


@pytest.mark.parametrize("activation", ["glu", custom_activation])
def test_a_head_with_an_unknown_activation_is_refused(activation):
    with pytest.raises(
        ArgumentError, match=r"'scores' has the .*activation .*(glu|custom_activation)"
    ):
        add_classes(ending(4, activation=activation), ["new"])


def test_a_custom_activation_with_the_name_of_one_of_keras_is_refused():
    def relu(values):
        return keras.ops.softmax(values)

    with pytest.raises(ArgumentError, match=r"custom activation .* 'relu'. Give it another"):
        add_classes(ending(4, activation=relu), ["new"])


@pytest.mark.slow
def test_a_grown_model_trains_like_any_other():
    labels = np.arange(60) % 3
    images = np.random.default_rng(0).integers(0, 60, (60, 32, 32, 3), "uint8")
    images[np.arange(60), :, :, labels] += 120
    data = tlkit.load_arrays(images, labels, ["red", "green", "blue"])
    model = build_classifier("resnet20", ["red", "green"], weights=None)
    grown = widen_layer(add_classes(model, ["blue"]), "stage3_block3_1_conv", 100)
    before = weights_of(model)
    report = tlkit.train_head(grown, data)
    assert report.stages[0].weight_change["head"] > 0 == report.stages[0].weight_change["stage3"]
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(20)
    report = tlkit.fine_tune(grown, batches, unfreeze="stage3", epochs=1)
    assert report.stages[-1].weight_change["stage3"] > 0
    assert report.stages[-1].weight_change["stage2"] == 0
    assert are_equal(before, weights_of(model))
    assert newest_classes(grown) == 1
    trained = set_trainable(grown, "head")
    assert trained.layers == ("logits", "logits__grown1")
