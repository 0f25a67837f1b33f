"""Training, evaluating, growing and exporting models of text and of spectra."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tests.sentences import (
    FILM,
    RESTAURANT,
    reviews,
    spectra,
    spectrum_model,
    text_model,
    vocabulary,
)
from tlkit.continual.adding_classes import Replay, learn_classes
from tlkit.errors import ArgumentError, ExportError
from tlkit.evaluation.exported import ExportedModel
from tlkit.models.vocabularies import with_same_vocabularies
from tlkit.training.weight_change import weights_by_group

NAMES = ["negative", "positive"]
LINES = ["short", "middle", "long"]
SHORT = {"epochs": 2, "solve_head": False, "kept_fraction": 1.0}


def load_reviews(number=80):
    texts, labels = reviews(RESTAURANT, number, seed=0)
    return tlkit.load_examples(texts, labels, NAMES, splits=(0.5, 0.25, 0.25))


def load_spectra(number=40):
    return tlkit.load_examples(*spectra(number, 0), LINES, splits=(0.5, 0.25, 0.25))


def make(kind):
    """Returns data, and a model with a trained head."""
    if kind == "text":
        data = load_reviews()
        model = text_model(vocabulary(data.train.source.pixels))
    else:
        data, model = load_spectra(), spectrum_model()
    tlkit.train_head(model, data, head="linear")
    return data, model


def test_the_head_of_a_text_model_is_solved_on_features_that_are_computed_once():
    data = load_reviews()
    model = text_model(vocabulary(data.train.source.pixels))
    before = weights_by_group(model)
    report = tlkit.train_head(model, data)
    assert report.stages[0].num_forward_passes == len(set(data.train.digests)) + len(
        set(data.validation.digests)
    )
    assert tlkit.train_head(model, data).stages[0].num_forward_passes == 0
    assert report.accuracy_after == tlkit.evaluate(model, data.validation, NAMES).accuracy
    after = weights_by_group(model)
    for group in ("block1", "block2"):
        for old, new in zip(before[group], after[group], strict=True):
            np.testing.assert_array_equal(old, new)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text", "spectra"])
def test_groups_freeze_train_and_resume(kind, tmp_path):
    data, model = make(kind)
    assert [group.name for group in tlkit.layer_groups(model)] == ["block1", "block2", "head"]
    tuned = tlkit.fine_tune(model, data, unfreeze="block2", run_directory=tmp_path, **SHORT)
    change = tuned.stages[-1].weight_change
    assert change["block1"] == 0 < change["block2"]
    assert any("stored activations" in note for note in tuned.stages[-1].notes)
    stages = tlkit.gradual_plan(model, epochs=1)
    staged = tlkit.fine_tune(model, data, stages=stages, kept_fraction=1.0, solve_head=False)
    assert all(change for change in staged.stages[-1].weight_change.values())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text", "spectra"])
def test_an_anchor_weighted_by_the_fisher_information_holds_the_weights(kind):
    data, model = make(kind)
    importance = tlkit.estimate_importance(model, data, num_samples=20)
    assert any(np.any(value) for value in importance.values())
    weights = model.get_weights()

    def drift(anchor):
        model.set_weights(weights)
        long = {**SHORT, "epochs": 8, "learning_rate": 5e-3}
        tlkit.fine_tune(model, data, anchor=anchor, unfreeze="all", **long)
        pairs = zip(weights[:3], model.get_weights()[:3], strict=True)
        return sum(float(np.square(old - new).sum()) for old, new in pairs)

    free = drift(None)
    model.set_weights(weights)
    anchor = tlkit.anchor_weights(model, strength=100.0)
    assert drift(anchor) < free / 2
    anchor.release()
    model.set_weights(weights)
    chosen = tlkit.choose_anchor(
        model, data, old_data=data, importance=importance, epochs=1, max_trials=1
    )
    assert chosen.report.num_validation == data.validation.num_images
    chosen.release()
    distilled = tlkit.fine_tune(model, data, anchor=tlkit.distill_from(model), **SHORT)
    assert distilled.accuracy_after is not None


@pytest.mark.parametrize("kind", ["text", "spectra"])
def test_classes_are_added_isolated_with_replay_and_exactly(kind):
    data, model = make(kind)
    inputs = tf.constant(data.test.source.pixels)
    expected = model(inputs).numpy()
    num_old = data.num_classes
    wider = tlkit.add_classes(model, ["new"], class_names=data.class_names)
    np.testing.assert_array_equal(wider(inputs)[:, :num_old], expected)

    # the new class has the inputs of the first one, changed
    old = data.train.source.pixels[data.train.labels == 0]
    new = np.array([b"no: " + text[::-1] for text in old], object) if kind == "text" else -old
    labels = np.full(len(new), num_old)
    # a loader numbers what it finds: the old classes have images, too
    both = np.concatenate([data.train.source.pixels, new])
    mixed = tlkit.load_examples(
        both, np.concatenate([data.train.labels, labels]), [*data.class_names, "new"]
    )
    only_new = mixed.train.subset(np.flatnonzero(mixed.train.labels == num_old))
    for replay in (Replay(exemplars=0), Replay(exemplars=5, images=data.train)):
        learned = learn_classes(model, only_new, ["new"], data.class_names, replay=replay)
        np.testing.assert_array_equal(learned.model(inputs)[:, :num_old], expected)
        assert bool(learned.num_replayed) == bool(replay.exemplars)

    statistics = tlkit.gather_statistics(model, mixed.train, mixed.class_names)
    exact, report = tlkit.with_exact_head(model, statistics)
    assert exact.output_shape == (None, num_old + 1)
    assert tlkit.evaluate(exact, mixed.validation, mixed.class_names).accuracy > 1 / num_old
    assert str(mixed.train.num_images) in str(report)


@pytest.mark.parametrize("kind", ["text", "spectra"])
def test_evaluation_calibration_and_predictions(kind):
    data, model = make(kind)
    report = tlkit.evaluate(model, data.test, data.class_names)
    inputs = data.test.source.pixels
    given = [text.decode() for text in inputs] if kind == "text" else inputs
    predictions = tlkit.predict(model, given, data.class_names)
    correct = [
        data.class_names.index(one.label) == label
        for one, label in zip(predictions, data.test.labels, strict=True)
    ]
    assert np.mean(correct) == pytest.approx(report.accuracy)
    calibrated = tlkit.calibrate(model, data.validation)
    assert calibrated.num_images == data.validation.num_images
    rejection = tlkit.fit_rejection(model, data, keep=0.8)
    assert rejection.num_images == data.validation.num_images
    comparison = tlkit.compare_models(model, model, data.test)
    assert comparison.difference == 0
    with pytest.raises(ArgumentError, match="`images` must"):
        tlkit.predict(model, np.zeros((2, 8, 8, 3), "uint8"), data.class_names)


SERVED = """
import json, sys
import tensorflow as tf

for name in ("tlkit", "keras"):
    sys.modules[name] = None
signature = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
answers = signature(texts=tf.constant(json.loads(sys.argv[2])))
print(json.dumps([answers["probabilities"].numpy().tolist(),
                  [label.decode() for label in answers["label"].numpy()]]))
"""


@pytest.mark.slow
def test_a_saved_model_takes_strings_in_a_process_without_tlkit_and_keras(tmp_path):
    data, model = make("text")
    texts = [text.decode() for text in data.test.source.pixels[:9]]
    report = tlkit.export_model(
        model, tmp_path / "served", NAMES, samples=texts, fresh_process=False
    )
    assert report.formats[0].difference < 1e-5
    completed = subprocess.run(
        [sys.executable, "-c", SERVED, str(tmp_path / "served"), json.dumps(texts)],
        capture_output=True,
        check=True,
        cwd=tmp_path,
    )
    served, labels = json.loads(completed.stdout)
    expected = keras.ops.softmax(model(tf.constant(texts)))
    np.testing.assert_allclose(served, expected, atol=1e-5)
    assert labels == [one.label for one in tlkit.predict(model, texts, NAMES)]
    with pytest.raises(ExportError, match=r"must take images.*takes texts \(string\)"):
        ExportedModel(tmp_path / "served")


@pytest.mark.slow
def test_spectra_are_exported_to_all_formats(tmp_path):
    data, model = make("spectra")
    report = tlkit.export_model(
        model,
        tmp_path / "exported",
        LINES,
        formats=("saved_model", "keras", "litert", "onnx"),
        samples=data.test.source.pixels[:9],
        rejection=tlkit.fit_rejection(model, data, keep=0.8),
        fresh_process=False,  # only the runtimes of LiteRT and ONNX, which load faster
    )
    assert len(report.formats) == 4
    for exported in report.formats:
        assert exported.difference < 1e-3, exported.name
    served = tf.saved_model.load(str(tmp_path / "exported" / "saved_model"))
    answers = served.signatures["serving_default"](inputs=tf.zeros((0, 64, 1)))
    assert answers["probabilities"].shape == (0, 3)
    assert answers["known"].shape == (0,)


def test_what_cannot_be_exported_is_named_before_any_work(tmp_path):
    data = load_reviews()
    model = text_model(vocabulary(data.train.source.pixels))
    texts = ["the soup was dull"]
    for formats, samples, given, message in (
        (("onnx", "keras"), texts, {}, r"'saved_model', 'keras' for a model .* Received: 'onnx'\."),
        (("litert_int8",), texts, {}, "Received: 'litert_int8'"),
        (("saved_model",), None, {}, "`samples` must be given .*: some texts"),
        (("saved_model",), np.ones((2, 3)), {}, "`samples` must contain text"),
        (("saved_model",), texts, {"resize": "crop"}, "`resize` must be left out"),
        (("saved_model",), texts, {"test": data.train}, "`test` must be left out"),
        (
            ("litert_full_int8",),
            texts,
            {"calibrate": texts},
            "calibrated on images only .* Received: 'litert_full_int8'",
        ),
    ):
        with pytest.raises(ArgumentError, match=message):
            tlkit.export_model(
                model, tmp_path / "out", NAMES, formats=formats, samples=samples, **given
            )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_model_of_other_reviews_needs_few_sentences_of_a_film():
    """Transfer from reviews of restaurants, with eight sentences of each class."""
    texts, labels = reviews(RESTAURANT, 400, seed=0)
    old = tlkit.load_examples(texts, labels, NAMES, splits=(1, 0, 0))
    keras.utils.set_random_seed(0)
    pretrained = text_model(vocabulary(np.concatenate([texts, [" ".join(FILM)]])))
    pretrained.compile(
        keras.optimizers.Adam(5e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    pretrained.fit(old.train, epochs=5, verbose=0)
    accuracies = {"pretrained": [], "new": []}
    for seed in range(3):
        few = reviews(FILM, 8, seed)
        data = tlkit.load_examples(*few, NAMES, test=reviews(FILM, 150, seed + 100), seed=seed)
        copy = with_same_vocabularies(pretrained)
        copy.set_weights(pretrained.get_weights())
        features = copy.get_layer("pooling").output
        moved = keras.Model(copy.input, keras.layers.Dense(2, name="logits")(features))
        untrained = text_model(vocabulary(few[0]))
        for name, model in (("pretrained", moved), ("new", untrained)):
            tlkit.train_head(model, data)
            accuracies[name].append(tlkit.evaluate(model, data.test).accuracy)
    assert np.mean(accuracies["pretrained"]) > 0.9
    assert np.mean(accuracies["new"]) < np.mean(accuracies["pretrained"]) - 0.1
