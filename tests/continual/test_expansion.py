"""Dynamic expansion: growth, bit-identical old outputs, removal of dead units, refusals."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tests.conftest import set_seeds
from tlkit.continual import expansion, expansion_steps
from tlkit.continual.anchors import anchorable
from tlkit.continual.expansion import expand
from tlkit.continual.expansion_drift import drift_of, incoming_weights, probe_drift, sizes_of
from tlkit.continual.expansion_reports import LayerDrift
from tlkit.continual.expansion_steps import (
    remove_dead_units,
    solve_rows_again,
    task_model,
    train_new,
    widen_layers,
)
from tlkit.continual.group_sparsity import GroupSparsity
from tlkit.continual.head_features import newest_rows
from tlkit.data.augmentation import Augmentation
from tlkit.models.layer_spec import parse_graph
from tlkit.models.surgery import (
    add_classes,
    consolidate,
    count_units,
    new_layers,
    widen_layer,
)

layers = keras.layers
FAST = {"epochs": 8, "probe_epochs": 2, "learning_rate": 1e-2}


def chain(with_norm=False, activation="relu", head="linear"):
    """Two small convolutions that can grow in isolation."""
    set_seeds(0)
    x = keras.Input((8, 8, 3))
    y = layers.Rescaling(1 / 255)(x)
    y = layers.Conv2D(3, 3, activation="relu", name="conv1")(y)
    y = layers.Conv2D(4, 3, use_bias=not with_norm, name="conv2")(y)
    if with_norm:
        y = layers.BatchNormalization(name="norm")(y)
    y = layers.GlobalAveragePooling2D(name="head_pool")(layers.Activation(activation)(y))
    return keras.Model(x, layers.Dense(2, activation=head, name="logits")(y))


def manually_grown(model):
    """Returns a model with two new classes and three isolated units of conv2, all untrained."""
    grown = widen_layer(add_classes(model, ["stripe", "bar"]), "conv2", 7, isolate=True)
    for layer in new_layers(grown):
        if "__reads" in layer.name:
            layer.kernel.assign(np.random.default_rng(1).standard_normal(layer.kernel.shape))
    return grown


def task(names=("stripe", "bar"), seed=0, flipped=False):
    """Images of horizontal and vertical lines, which colour features do not separate."""
    random = np.random.default_rng(seed)
    labels = np.arange(160) % 2
    images = random.integers(0, 60, (160, 8, 8, 3))
    for image, label in zip(images, labels, strict=True):
        at = random.integers(0, 8)
        image[(slice(None), at) if label else (at, slice(None))] += 180
    labels = 1 - labels if flipped else labels
    return tlkit.load_arrays(
        images.astype("uint8"), labels, list(names), batch_size=16, splits=(0.7, 0.3, 0)
    )


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(9).uniform(0, 255, (6, 8, 8, 3)).astype("float32")


@pytest.fixture(scope="module")
def grown():
    model = chain()
    return (model, *expand(model, task(), class_names=["a", "b"], target=0.0, **FAST))


def values(model, names):
    return {n: [w.copy() for w in model.get_layer(n).get_weights()] for n in names}


def is_same(some, others):
    return all(
        np.array_equal(a, b)
        for name, weights in some.items()
        for a, b in zip(weights, others[name], strict=True)
    )


def test_old_logits_and_old_weights_stay_bit_identical(grown, pixels):
    model, bigger, report = grown
    assert bigger.output_shape == (None, 4)
    assert np.array_equal(bigger(pixels)[:, :2], model(pixels))
    names = ["conv1", "conv2", "logits"]
    assert is_same(values(model, names), values(bigger, names))
    assert report.isolate
    assert report.has_grown
    assert report.weight_change["old"] == 0.0
    assert report.weight_change["new"] > 0.0


def test_growing_is_better_than_new_rows_only(grown):
    _, bigger, report = grown
    assert report.new_accuracy_after > report.new_accuracy_retrained
    assert report.loss_after < report.loss_retrained
    measured = tlkit.evaluate(task_model(bigger), task().validation)
    assert measured.accuracy == report.new_accuracy_after
    assert measured.loss == pytest.approx(report.loss_after)


def test_the_report_has_correct_counts(grown):
    model, bigger, report = grown
    assert [one.name for one in report.drift] == ["conv1", "conv2"]
    assert [len(one.relative) for one in report.drift] == [3, 4]
    assert all(max(one.absolute) > 0 for one in report.drift)
    for name, number in report.kept.items():
        assert count_units(bigger, name) == count_units(model, name) + number
    first, second = (one.num_drifted(report.threshold) for one in report.drift)
    assert report.added == {"conv1": first, "conv2": second or first}
    assert report.num_parameters_after == bigger.count_params() > report.num_parameters_before
    assert report.multiply_adds_after > report.multiply_adds_before
    new = {layer.name for layer in new_layers(bigger)}
    assert set(report.trained) <= new
    assert report.num_trained == sum(np.size(v) for v in bigger.trainable_variables)
    for words in ("units added", "accuracy not measured", f"{report.num_trained:,} trainable"):
        assert words in str(report)


def test_only_new_layers_are_trainable_afterwards(grown):
    _, bigger, _ = grown
    new = {layer.name for layer in new_layers(bigger)}
    assert {layer.name for layer in bigger.layers if layer.trainable_variables} <= new


def test_nothing_grows_if_new_rows_suffice(pixels):
    model = chain()
    before = model.get_weights()
    bigger, report = expand(model, task(), target=10.0)
    assert not report.has_grown
    assert report.drift == ()
    assert [layer.name for layer in new_layers(bigger)] == ["logits__grown1"]
    assert report.loss_after == report.loss_retrained
    assert np.array_equal(bigger(pixels)[:, :2], model(pixels))
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_nothing_grows_without_drift():
    bigger, report = expand(chain(), task(), target=0.0, threshold=1e6, **FAST)
    assert len(report.drift) == 2
    assert report.added == {}
    assert "no layer with drifted units can grow" in report.notes[0]
    assert "`class_names` not given" in report.notes[-1]
    assert [layer.name for layer in new_layers(bigger)] == ["logits__grown1"]


@pytest.mark.parametrize(
    ("isolate", "expected"), [(True, {"a": 2, "b": 2, "c": 1}), (False, {"a": 2, "c": 1})]
)
def test_in_isolation_layers_after_a_drifted_one_grow_too(isolate, expected):
    drift = [
        LayerDrift("stem", (0.01,), (1.0,)),
        LayerDrift("a", (0.5, 0.05, 0.2), (1.0, 1.0, 1.0)),
        LayerDrift("b", (0.05,), (1.0,)),
        LayerDrift("c", (0.11,), (1.0,)),
    ]
    given = {"isolate": isolate, "at_most": {"stem": 1, "a": 3, "b": 1, "c": 1}}
    assert sizes_of(drift, 0.1, None, **given) == expected
    assert sizes_of(drift, 0.1, 7, **given) == dict.fromkeys(expected, 7)


def test_a_layer_gains_at_most_its_original_number_of_units():
    drift = [LayerDrift("a", (0.5,) * 9, (1.0,) * 9)]
    assert sizes_of(drift, 0.1, None, isolate=True, at_most={"a": 4}) == {"a": 4}


def test_drift_of_each_unit_is_relative_to_the_norm_of_its_weights():
    before = [np.array([3.0, 4.0]), np.zeros(2), np.zeros(2)]
    after = [np.array([3.0, 5.0]), np.array([0.0, 2.0]), np.zeros(2)]
    drift = drift_of("a", before, after)
    assert drift.absolute == (1.0, 2.0, 0.0)
    assert drift.relative == (0.2, np.inf, 0.0)


def test_incoming_weights_include_all_parts():
    grown = widen_layer(manually_grown(chain()), "conv1", 5, isolate=True)
    units = incoming_weights(parse_graph(grown), "conv2")
    assert [unit.size for unit in units] == [27] * 4 + [27 + 18] * 3
    np.testing.assert_array_equal(units[1], grown.get_layer("conv2").kernel[..., 1].numpy().ravel())
    x = keras.Input((8, 8, 3))
    y = layers.GlobalAveragePooling2D()(layers.SeparableConv2D(4, 3, name="apart")(x))
    separable = keras.Model(x, layers.Dense(2)(y))
    assert [unit.size for unit in incoming_weights(parse_graph(separable), "apart")] == [3] * 4


def test_a_strong_anchor_limits_the_drift_of_the_probe():
    grown = add_classes(chain(), ["stripe", "bar"])
    settings = {"learning_rate": 1e-2, "augment": Augmentation("none"), "epochs": 1, "seed": 0}
    without, with_anchor = (
        probe_drift(grown, task(), strength=strength, settings=settings) for strength in (0.0, 1e3)
    )
    for free, anchored in zip(without, with_anchor, strict=True):
        assert 0 < max(anchored.absolute) < 0.2 * max(free.absolute)


def test_rows_alone_reach_the_target_if_features_suffice():
    labels = np.arange(80) % 2
    images = np.random.default_rng(0).integers(0, 60, (80, 8, 8, 3))
    images[labels == 1, ..., 0] += 180
    data = tlkit.load_arrays(
        images.astype("uint8"), labels, ["grey", "red"], batch_size=16, splits=(0.7, 0.3, 0)
    )
    _, report = expand(chain(), data, class_names=["a", "b"])
    assert report.loss_retrained < report.target
    assert report.new_accuracy_retrained == 1.0
    assert report.drift == report.notes == ()
    assert report.weight_change["new"] > 0.0


@pytest.mark.parametrize(
    ("activation", "shift", "is_dead"),
    [
        ("relu", None, True),
        ("sigmoid", None, False),
        ("softplus", None, False),
        ("relu", 0.3, False),
        ("relu", -0.3, True),
        ("relu", 0.0, True),
    ],
)
def test_units_are_removed_only_if_their_output_is_zero(activation, shift, is_dead, pixels):
    grown = manually_grown(chain(with_norm=shift is not None, activation=activation))
    new = grown.get_layer("conv2__grown2")
    kernel = new.kernel.numpy()
    kernel[..., 1] = 0
    new.kernel.assign(kernel)
    if shift is not None:
        grown.get_layer("norm__grown2").beta.assign([0.1, shift, 0.1])
    fewer, removed, notes = remove_dead_units(grown, 1, task().validation)
    assert notes == []
    assert removed == ({"conv2": 1} if is_dead else {})
    assert count_units(fewer, "conv2") == (6 if is_dead else 7)
    np.testing.assert_allclose(fewer(pixels), grown(pixels), rtol=1e-5, atol=1e-5)


def test_units_are_kept_if_validation_would_be_worse_without(monkeypatch):
    grown = manually_grown(chain())
    for layer in new_layers(grown):
        layer.set_weights([np.zeros_like(weight) for weight in layer.get_weights()])

    def damaged(model, kept):
        assert kept == {("conv2", 2): []}
        copy = add_classes(chain(), ["stripe", "bar"])
        copy.get_layer("logits__grown1").bias.assign([1e3, -1e3])
        return copy

    monkeypatch.setattr(expansion_steps, "keep_units", damaged)
    same, removed, notes = remove_dead_units(grown, 1, task().validation)
    assert same is grown
    assert removed == {}
    assert "3 zero units are kept, as validation would be worse without them" in notes[0]


def with_shared_layer():
    """Two calls of one convolution, and a convolution that can grow."""
    set_seeds(0)
    x = keras.Input((8, 8, 3))
    twice = layers.Conv2D(3, 3, activation="relu", padding="same", name="twice")
    y = layers.Conv2D(4, 3, activation="relu", name="conv2")(twice(twice(x)))
    y = layers.GlobalAveragePooling2D(name="head_pool")(y)
    return keras.Model(x, layers.Dense(2, name="logits")(y))


def test_a_model_with_a_shared_layer_grows(pixels):
    model = with_shared_layer()
    before = model(pixels)
    wanted = {"target": 1e-9, "threshold": 1e-9, "num_units": 2}
    grown, report = expand(model, task(), **wanted, **FAST)
    assert report.added["conv2"] == 2
    assert sum(layer.name == "twice" for layer in grown.layers) == 1
    np.testing.assert_array_equal(grown(pixels)[:, :2], before)


def test_dead_units_are_removed_from_a_model_with_a_shared_layer_too():
    grown = manually_grown(with_shared_layer())
    kernel = grown.get_layer("conv2__grown2").kernel
    kernel.assign(kernel.numpy() * np.array([1, 0, 1]))
    fewer, removed, _ = remove_dead_units(grown, 1, task().validation)
    assert removed == {"conv2": 1}
    images = next(iter(task().validation.dataset()))[0]
    np.testing.assert_allclose(fewer(images), grown(images), rtol=1e-5, atol=1e-5)
    assert sum(layer.name == "twice" for layer in fewer.layers) == 1


def test_scale_and_shift_after_a_new_layer_become_zero_with_it():
    grown = manually_grown(chain(with_norm=True))
    settings = {"learning_rate": 1e-2, "augment": Augmentation("none"), "epochs": 1, "seed": 0}
    assert train_new(grown, 1, task(), sparsity=50.0, settings=settings)
    norm = grown.get_layer("norm__grown2")
    for weights in (grown.get_layer("conv2__grown2").kernel, norm.gamma, norm.beta):
        assert not np.any(weights)
    assert remove_dead_units(grown, 1, task().validation)[1] == {"conv2": 3}


def test_each_layer_that_cannot_grow_is_named_with_its_own_reason():
    x = keras.Input((6, 6, 3))
    y = layers.LayerNormalization(name="norm")(layers.Conv2D(4, 1, name="conv1")(x))
    y = layers.Softmax(name="soft")(layers.Conv2D(4, 1, name="conv2")(y))
    model = keras.Model(x, layers.Dense(2)(layers.GlobalAveragePooling2D()(y)))
    _, added, notes = widen_layers(model, {"conv1": 1, "conv2": 1}, isolate=False, seed=0)
    assert added == {}
    assert "cannot grow: conv1. " in notes[0]
    assert "normalises over the units" in notes[0]
    assert "cannot grow: conv2. " in notes[1]
    assert "'soft' of class Softmax" in notes[1]


def test_old_logits_stay_bit_identical_in_further_training_of_new_layers(pixels):
    model = chain()
    model.get_layer("logits").bias.assign(
        [0.1, -0.1]
    )  # counts as trained, so that no head is solved first
    grown = widen_layer(manually_grown(model), "conv1", 5, isolate=True)
    labels = np.arange(48) % 4
    images = np.random.default_rng(2).integers(0, 255, (48, 8, 8, 3)).astype("uint8")
    data = tlkit.load_arrays(
        images, labels, ["a", "b", "stripe", "bar"], batch_size=16, splits=(1, 0, 0)
    )
    start = grown(pixels).numpy()
    report = tlkit.fine_tune(grown, data, unfreeze="new", epochs=1, learning_rate=1e-2)
    assert np.array_equal(grown(pixels)[:, :2], model(pixels))
    assert not np.array_equal(grown(pixels)[:, 2:], start[:, 2:])
    names = {layer.name for layer in new_layers(grown)}
    assert set(report.stages[-1].trainable.layers) <= names


def test_a_grown_network_can_be_anchored():
    grown = widen_layer(manually_grown(chain()), "conv1", 5, isolate=True)
    by_group = anchorable(grown)
    assert list(by_group) == ["conv1", "conv2"]
    layers_of_weights = {v.path.split("/")[0] for group in by_group.values() for v in group}
    assert layers_of_weights == {
        *("conv1", "conv1__grown3"),
        *("conv2", "conv2__grown2", "conv2__grown2__reads3"),
    }
    tlkit.anchor_weights(grown, 0.01)


def test_the_number_of_units_can_be_set():
    _, report = expand(chain(), task(), target=0.0, threshold=1e-6, num_units=2, sparsity=0, **FAST)
    assert report.added == {"conv1": 2, "conv2": 2}
    assert report.removed == {}


@pytest.mark.slow
def test_outputs_of_earlier_tasks_stay_bit_identical_over_several_tasks(grown, pixels):
    _, bigger, _ = grown
    third, report = expand(
        bigger,
        task(("x", "y"), seed=1),
        class_names=["a", "b", "stripe", "bar"],
        target=0.0,
        **FAST,
    )
    assert np.array_equal(third(pixels)[:, :4], bigger(pixels))
    assert third.output_shape == (None, 6)
    assert report.new_accuracy_after >= report.new_accuracy_retrained


@pytest.mark.slow
def test_strong_sparsity_removes_all_added_units(pixels):
    model = chain()
    bigger, report = expand(model, task(), target=0.0, sparsity=20.0, **FAST)
    assert report.added
    assert report.removed == report.added
    assert not report.has_grown
    assert [layer.name for layer in new_layers(bigger)] == ["logits__grown1"]
    assert np.array_equal(bigger(pixels)[:, :2], model(pixels))


def test_rows_solved_again_are_kept_only_if_validation_is_better():
    grown, data, flipped = manually_grown(chain()), task(), task(flipped=True)
    rows = [layer.name for layer in newest_rows(grown)]
    given = {"seed": 0, "cache": None}
    before = tlkit.evaluate(task_model(grown), data.validation)
    note = solve_rows_again(grown, data, data.validation, **given)
    after = tlkit.evaluate(task_model(grown), data.validation)
    assert after.accuracy > before.accuracy
    was = f"{before.loss:.4f} (accuracy {100 * before.accuracy:.1f} %)"
    assert f"validation loss {was} to {after.loss:.4f}" in note
    kept = values(grown, rows)
    assert solve_rows_again(grown, flipped, data.validation, **given) is None
    assert is_same(kept, values(grown, rows))


def test_units_that_no_epoch_improved_are_kept_if_solved_rows_use_them(pixels, monkeypatch):
    monkeypatch.setattr(expansion, "train_new", lambda *given, **settings: False)
    model = chain()
    bigger, report = expand(model, task(), target=0.0, **FAST)
    assert report.has_grown
    assert "rows solved again with the new units" in str(report)
    assert report.new_accuracy_after > report.new_accuracy_retrained
    assert report.weight_change["new"] > 0 == report.weight_change["old"]
    assert np.array_equal(bigger(pixels)[:, :2], model(pixels))


def modes_in_training(monkeypatch, layer_class=layers.Dropout):
    """Records the modes in which each layer of a class is called while the new layers train."""
    modes = {}
    plain = layer_class.call

    def call(self, inputs, training=False):
        modes.setdefault(self.name, set()).add(training)
        return plain(self, inputs, training=training)

    monkeypatch.setattr(layer_class, "call", call)
    return modes


def test_old_layers_run_in_inference_mode_while_new_ones_train(monkeypatch):
    set_seeds(0)
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(3, 3, activation="relu", name="conv1")(x)
    y = layers.Dropout(0.5, name="drop1")(y)
    y = layers.Conv2D(4, 3, name="conv2")(y)
    y = layers.Dropout(0.5, name="drop2")(y)
    y = layers.GlobalAveragePooling2D(name="head_pool")(y)
    y = layers.Dropout(0.5, name="drop_head")(y)
    grown = manually_grown(keras.Model(x, layers.Dense(2, name="logits")(y)))
    grown = widen_layer(grown, "conv1", 5, isolate=True)
    settings = {"epochs": 1, "learning_rate": 1e-2, "augment": Augmentation("none"), "seed": 0}
    modes = modes_in_training(monkeypatch)
    train_new(grown, 1, task(), sparsity=0.0, settings=settings)
    assert {name for name, seen in modes.items() if True not in seen} == {"drop1", "drop2"}
    assert {name for name, seen in modes.items() if True in seen} == {
        "drop1__grown3",
        "drop2__grown2",
        "drop_head",
        "drop_head__grown2",
    }


def test_batch_normalisation_of_new_units_trains_and_that_of_old_ones_does_not(pixels):
    model = chain(with_norm=True)
    bigger, report = expand(model, task(), target=0.0, **FAST)
    assert report.has_grown
    assert np.array_equal(bigger(pixels)[:, :2], model(pixels))
    assert is_same(values(model, ["norm"]), values(bigger, ["norm"]))


def test_without_isolation_old_units_read_new_ones(pixels):
    model = chain()
    bigger, report = expand(model, task(), target=0.0, isolate=False, sparsity=0, **FAST)
    assert report.has_grown
    names = ["conv1", "conv2", "logits"]
    assert is_same(values(model, names), values(bigger, names))
    assert not np.array_equal(bigger(pixels)[:, :2], model(pixels))


def test_residual_blocks_that_cannot_grow_in_isolation_are_named():
    model = tlkit.build_classifier("resnet20", ["a", "b"], weights=None)
    data = tlkit.load_arrays(
        np.random.default_rng(0).integers(0, 255, (24, 32, 32, 3), "uint8"),
        np.arange(24) % 2,
        ["c", "d"],
        batch_size=8,
        splits=(0.5, 0.5, 0),
    )
    bigger, report = expand(
        model, data, target=0.0, threshold=1e-6, epochs=1, probe_epochs=1, learning_rate=1e-2
    )
    assert report.added == {}
    assert any("cannot grow" in note and "isolate" in note for note in report.notes)
    assert bigger.output_shape == (None, 4)


def test_old_accuracy_is_that_of_old_classes_among_themselves():
    model = chain()
    old = task(("a", "b"), seed=4)
    _, report = expand(model, task(), target=0.0, old_data=old, **FAST)
    assert report.old_accuracy_before == tlkit.evaluate(model, old.validation).accuracy
    assert report.old_accuracy_after == report.old_accuracy_before
    assert "logits bit-identical" in str(report)


def test_a_grown_network_can_be_saved_and_consolidated(grown, tmp_path, pixels):
    _, bigger, _ = grown
    bigger.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert np.array_equal(loaded(pixels), bigger(pixels))
    plain = consolidate(bigger)(pixels).numpy()
    expected = bigger(pixels).numpy()
    assert np.abs(plain - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"threshold": 0.0}, "`threshold` must be a positive number"),
        ({"num_units": 0}, "`num_units` must be a whole number"),
        ({"target": -1.0}, "`target` must be a number, 0 or more"),
        ({"sparsity": -1.0}, "`sparsity` must be a number, 0 or more"),
        ({"strength": -1.0}, "`strength` must be a number, 0 or more"),
        ({"epochs": 0}, "`epochs` must be a whole number"),
        ({"probe_epochs": 0}, "`probe_epochs` must be a whole number"),
        ({"learning_rate": 0.0}, "`learning_rate` must be a positive number"),
        ({"class_names": ["stripe", "b"]}, "names of classes that the model does not have"),
        ({"augment": "lite"}, "`augment` must be one of"),
        ({"old_data": task().at_size(9)}, "`old_data` must have the image size of the model"),
        ({"old_data": [1, 2]}, "`old_data` must contain images"),
    ],
)
def test_invalid_arguments_are_refused_and_the_model_is_unchanged(given, message):
    model = chain()
    before = model.get_weights()
    with pytest.raises(tlkit.ArgumentError, match=message):
        expand(model, task(), **given)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_data_without_validation_is_refused():
    images = np.random.default_rng(0).integers(0, 255, (8, 8, 8, 3), "uint8")
    data = tlkit.load_arrays(images, np.arange(8) % 2, ["c", "d"], splits=(1, 0, 0))
    with pytest.raises(tlkit.DataError, match="`data` must contain validation images"):
        expand(chain(), data)
    with pytest.raises(tlkit.ArgumentError, match=r"`data\.train` must have the image size"):
        expand(chain(), task().at_size(9))
    with pytest.raises(tlkit.ArgumentError, match="`grown` must have added classes"):
        task_model(chain())


def test_a_class_without_images_or_a_multi_label_head_is_refused():
    images = np.random.default_rng(0).integers(0, 255, (12, 8, 8, 3), "uint8")
    labels = np.arange(12) % 2
    data = tlkit.load_arrays(images, labels, ["c", "d", "e"], splits=(0.5, 0.5, 0))
    with pytest.raises(
        tlkit.DataError, match=r"`data` must contain training images .* none of 'e'"
    ):
        expand(chain(), data)
    with pytest.raises(tlkit.ArgumentError, match="`model` must have mutually exclusive classes"):
        expand(chain(head="sigmoid"), task())


def test_a_proximal_step_matches_the_formula_with_exact_zeros():
    kernel = keras.Variable(np.array([[3.0, 0.1], [4.0, 0.0]], np.float32))
    bias = keras.Variable(np.array([0.0, 0.1], np.float32))
    hook = GroupSparsity([[kernel, bias]], strength=2.0)
    rate = tf.constant(0.1)
    hook.after_update([kernel, bias], [rate, rate])
    threshold = 0.1 * 2.0 * np.sqrt(3)
    expected = np.array([3.0, 4.0]) * (1 - threshold / 5.0)
    np.testing.assert_allclose(kernel.numpy()[:, 0], expected, rtol=1e-6)
    assert not kernel.numpy()[:, 1].any()
    assert bias.numpy()[1] == 0.0
    assert float(hook.metrics[0].result()) == 1.0
    with pytest.raises(tlkit.ArgumentError, match="values for each unit on the last axis"):
        GroupSparsity([[kernel, keras.Variable(np.zeros(3))]], strength=1.0)
