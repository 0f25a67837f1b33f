import functools
import json
import os
import shutil
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.python.eager import context

import tlkit
from tests.conftest import set_seeds
from tlkit.data.decoding import decode_image
from tlkit.errors import ArgumentError, DataError, ExportError
from tlkit.evaluation.prediction_stream import predict_exported
from tlkit.evaluation.rejection import Rejection, ood_scores, unit_vectors, with_features
from tlkit.export import exporting as export
from tlkit.export import saved_model
from tlkit.export.formats import EXPORT_FORMATS
from tlkit.export.labels import read_labels
from tlkit.models import signature as signatures
from tlkit.models.heads import feature_cut
from tlkit.runs.predicting import predict_with
from tlkit.serving.model import ServedModel

SETTINGS = {"kind", "image_size", "channels", "resize", "threshold", "max_pixels"}
NAMES = ("ant", "bee", "猫 & <dog>")
SIZE = (12, 16)

# The fresh process takes seconds and has tests of its own.
export_model = functools.partial(tlkit.export_model, fresh_process=False)


def small_model(num_outputs=3, activation=None, policy="float32", name="small"):
    set_seeds(0)
    inputs = keras.Input((*SIZE, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = keras.layers.Conv2D(8, 3, dtype=policy)(x)
    x = keras.layers.BatchNormalization(dtype=policy)(x)
    x = keras.layers.ReLU(dtype=policy)(x)
    x = keras.layers.Flatten(dtype=policy)(x)
    x = keras.layers.Dropout(0.5, seed=0)(x)
    outputs = keras.layers.Dense(num_outputs, activation=activation, dtype="float32")(x)
    return keras.Model(inputs, outputs, name=name)


@pytest.fixture
def model():
    return small_model()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An export of `small_model()` to both formats."""
    folder = tmp_path_factory.mktemp("export") / "exported"
    export_model(small_model(), folder, NAMES, formats=("saved_model", "keras"))
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    generator = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("images")
    names = ("a.jpg", "b.png", "c.webp", "d.bmp", "e.gif", "f.jpg", "猫.png")
    for number, name in enumerate(names):
        pixels = generator.integers(0, 256, (20 + 9 * number, 60 - 5 * number, 3), dtype=np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 6
        arguments = {"exif": exif} if name == "f.jpg" else {}
        Image.fromarray(pixels).save(folder / name, **arguments)
    clear = generator.integers(0, 256, (30, 40, 4), dtype=np.uint8)  # its alpha channel is dropped
    Image.fromarray(clear, "RGBA").save(folder / "b2.webp", lossless=True, exact=True)
    return sorted(folder.iterdir())


def names_in(folder):
    return sorted(path.name for path in folder.rglob("*"))


def signatures_of(folder):
    loaded = tf.saved_model.load(str(folder))
    return loaded, loaded.signatures["serving_default"], loaded.signatures["pixels"]


def test_signatures_are_the_documented_ones(model, tmp_path):
    report = export_model(model, tmp_path / "exported", NAMES)
    _, from_bytes, from_pixels = signatures_of(tmp_path / "exported")
    inputs = from_bytes.structured_input_signature[1]
    assert inputs == {"image_bytes": tf.TensorSpec([None], tf.string, "image_bytes")}
    inputs = from_pixels.structured_input_signature[1]
    assert inputs == {"images": tf.TensorSpec([None, *SIZE, 3], tf.uint8, "images")}
    for signature in (from_bytes, from_pixels):
        specs = {
            name: (spec.shape.as_list(), spec.dtype)
            for name, spec in signature.structured_outputs.items()
        }
        assert specs == {
            "probabilities": ([None, 3], tf.float32),
            "label": ([None], tf.string),
            "class_id": ([None], tf.int64),
        }
    (exported,) = report.formats
    assert exported.path == tmp_path / "exported"
    assert exported.num_bytes > 10_000
    assert exported.difference <= 1e-5
    assert report.num_samples == 8
    assert "compared with the model in memory on 8 images" in str(report)
    names = (tmp_path / "exported" / "assets" / "class_names.txt").read_bytes().decode()
    assert names == "ant\nbee\n猫 & <dog>\n"
    about = json.loads((tmp_path / "exported" / "assets" / "serving.json").read_text())
    assert about["image_size"] == list(SIZE)


@pytest.mark.parametrize("num_images", [0, 1, 7])
def test_batches_of_any_size_give_the_models_probabilities(model, files, exported, num_images):
    _, from_bytes, from_pixels = signatures_of(exported / "saved_model")
    contents = [file.read_bytes() for file in files[:num_images]]
    images = np.zeros((num_images, *SIZE, 3), np.uint8)
    for index, content in enumerate(contents):
        images[index] = decode_image(tf.constant(content), SIZE)
    padded = np.concatenate([images, images[:1] if num_images else np.zeros((1, *SIZE, 3))])
    probabilities = keras.ops.softmax(model(padded.astype(np.float32)))
    expected = keras.ops.convert_to_numpy(probabilities)[:num_images]
    for answers in (
        from_bytes(image_bytes=tf.constant(contents, tf.string, shape=(num_images,))),
        from_pixels(images=tf.constant(images)),
    ):
        assert answers["probabilities"].shape == (num_images, 3)
        np.testing.assert_allclose(answers["probabilities"], expected, atol=1e-5)
        class_ids = answers["class_id"].numpy()
        assert class_ids.tolist() == expected.argmax(axis=1).tolist()
        assert [label.decode() for label in answers["label"].numpy()] == [
            NAMES[index] for index in class_ids
        ]


def test_a_binary_model_gives_both_probabilities(files, tmp_path):
    model = small_model(1)
    export_model(model, tmp_path / "exported", NAMES[:2])
    expected = tlkit.predict(model, files, NAMES[:2])
    predictions = predict_exported(tmp_path / "exported", files)
    for one, other in zip(predictions, expected, strict=True):
        assert one.label == other.label
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
        assert sum(one.probabilities.values()) == pytest.approx(1)


def test_multi_label_joins_the_names_above_the_threshold(files, tmp_path):
    model = small_model(3, "sigmoid")
    predictions = tlkit.predict(model, files, NAMES)
    probabilities = [list(one.probabilities.values()) for one in predictions]
    threshold = float(np.median(probabilities))
    export_model(model, tmp_path / "exported", NAMES, threshold=threshold)
    _, from_bytes, _ = signatures_of(tmp_path / "exported")
    answers = from_bytes(image_bytes=tf.constant([file.read_bytes() for file in files]))
    labels = [label.decode() for label in answers["label"].numpy()]
    assert labels == [
        ", ".join(name for name, value in zip(NAMES, row, strict=True) if value >= threshold)
        for row in answers["probabilities"].numpy()
    ]
    assert len(set(labels)) > 1
    assert answers["class_id"].numpy().tolist() == np.argmax(probabilities, axis=1).tolist()
    assert [one.label for one in predict_exported(tmp_path / "exported", files)] == labels
    none = predict_exported(tmp_path / "exported", files, 0.999999)
    assert {one.label for one in none} == {""}
    nothing = from_bytes(image_bytes=tf.constant([], tf.string))
    assert nothing["label"].shape == (0,)


def test_exported_predictions_are_those_of_predict(model, files, exported):
    expected = tlkit.predict(model, files, NAMES)
    for predictions in (
        predict_exported(exported, files, batch_size=3),
        predict_exported(exported / "saved_model", files),
        tlkit.predict(keras.saving.load_model(exported / "model.keras"), files, NAMES),
    ):
        assert [one.label for one in predictions] == [one.label for one in expected]
        assert [one.path for one in predictions] == [str(file) for file in files]
        for one, other in zip(predictions, expected, strict=True):
            assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
    assert predict_exported(exported, str(files[0]))[0].label == expected[0].label
    first, missing = predict_exported(exported, [files[0], "missing.jpg"])
    assert (first.label, missing.label) == (expected[0].label, "")
    assert "No such file" in missing.reason
    with pytest.raises(DataError, match=r"`files` must .*missing\.jpg"):
        predict_exported(exported, ["missing.jpg"])


@pytest.mark.parametrize("resize", ["crop", "pad"])
def test_exports_resize_as_in_training(model, files, resize, tmp_path):
    folder = tmp_path / "out"
    export_model(model, folder, NAMES, formats=("saved_model", "keras"), resize=resize)
    expected = [
        list(one.probabilities.values())
        for one in tlkit.predict(model, files, NAMES, resize=resize)
    ]
    (folder / "class_names.json").write_text(json.dumps(NAMES))
    safely = predict_with(folder, [*map(str, files)], safe=True)
    for predictions in (predict_exported(folder, files), safely):
        found = [list(one.probabilities.values()) for one in predictions]
        np.testing.assert_allclose(found, expected, atol=1e-5)
    for safe in (False, True):
        served = ServedModel(folder, 2**20, safe=safe)
        for file, probabilities in zip(files[:2], expected, strict=False):
            answer = served.answer(file.read_bytes())["probabilities"]
            assert list(answer.values()) == pytest.approx(probabilities, abs=1e-5)
    probabilities, _ = answers_without_tlkit(folder / "saved_model", files[0], tmp_path)
    assert probabilities == pytest.approx(expected[0], abs=1e-5)
    assert read_labels(folder / "model.keras")[1]["resize"] == resize


def test_resize_is_checked_before_anything_is_written(model, tmp_path):
    with pytest.raises(ArgumentError, match="`resize` must be one of 'stretch', 'crop', 'pad'"):
        export_model(model, tmp_path / "out", NAMES, resize="fit")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "settings",
    ['{"resize": "fit"}', "[]", "{", " " * 2**17],
    ids=["unknown", "list", "truncated", "long"],
)
def test_damaged_settings_of_a_keras_file_raise(exported, tmp_path, settings):
    shutil.copy(exported / "model.keras", tmp_path)
    (tmp_path / "class_names.json").write_text(json.dumps(NAMES))
    with (
        zipfile.ZipFile(exported / "model.keras") as whole,
        zipfile.ZipFile(tmp_path / "model.keras", "w") as archive,
    ):
        for name in whole.namelist():
            archive.writestr(name, settings if name == "serving.json" else whole.read(name))
    with pytest.raises(ExportError, match=r"serving\.json must hold a model's settings"):
        predict_with(tmp_path, ["a.png"], safe=True)


def test_the_saved_model_loads_without_tlkit_and_keras(model, files, exported, tmp_path):
    probabilities, label = answers_without_tlkit(exported / "saved_model", files[0], tmp_path)
    (expected,) = tlkit.predict(model, files[0], NAMES)
    assert label == expected.label
    assert probabilities == pytest.approx(list(expected.probabilities.values()), abs=1e-5)


def answers_without_tlkit(folder, file, working_directory):
    """The probabilities and label of a SavedModel in a process without tlkit and Keras."""
    script = (
        "import sys, json\n"
        "sys.modules['tlkit'] = sys.modules['keras'] = None\n"
        "import tensorflow as tf\n"
        "serve = tf.saved_model.load(sys.argv[1]).signatures['serving_default']\n"
        "answers = serve(image_bytes=tf.constant([open(sys.argv[2], 'rb').read()]))\n"
        "print(json.dumps([answers['probabilities'].numpy().tolist()[0],\n"
        "                  answers['label'].numpy()[0].decode()]))\n"
    )
    completed = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(file)],
        cwd=working_directory,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        check=False,
        text=True,
    )
    assert completed.returncode == 0, completed.stderr
    return json.loads(completed.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("formats", "expected"),
    [
        (("keras",), {"keras": "model.keras"}),
        (("saved_model",), {"saved_model": "."}),
        (("keras", "saved_model"), {"keras": "model.keras", "saved_model": "saved_model"}),
    ],
)
def test_the_paths_of_the_formats(model, tmp_path, formats, expected):
    report = export_model(model, tmp_path / "deep" / "exported", NAMES, formats=formats)
    root = tmp_path / "deep" / "exported"
    assert {one.name: one.path for one in report.formats} == {
        name: root / path for name, path in expected.items()
    }
    assert (root / "model.keras").exists() == ("keras" in expected)
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert [path.name for path in root.parent.iterdir()] == ["exported"]


def test_mixed_precision_is_exported_in_float32(files, tmp_path):
    mixed, full = small_model(policy="mixed_bfloat16"), small_model()
    mixed.set_weights([weight + 0.01 for weight in full.get_weights()])
    full.set_weights(mixed.get_weights())
    export_model(mixed, tmp_path / "out", NAMES, formats=("saved_model", "keras"))
    expected = tlkit.predict(full, files, NAMES)
    reloaded = keras.saving.load_model(tmp_path / "out" / "model.keras")
    for predictions in (
        predict_exported(tmp_path / "out", files),
        tlkit.predict(reloaded, files, NAMES),
    ):
        for one, other in zip(predictions, expected, strict=True):
            assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
    assert mixed.layers[2].dtype_policy.name == "mixed_bfloat16"


def test_the_model_is_unchanged_and_the_export_is_not_compiled(model, tmp_path):
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    model.layers[2].trainable = False
    optimizer, weights = model.optimizer, model.get_weights()
    export_model(model, tmp_path / "exported", NAMES, formats="keras")
    assert model.optimizer is optimizer
    assert all(map(np.array_equal, model.get_weights(), weights))
    reloaded = keras.saving.load_model(tmp_path / "exported" / "model.keras")
    assert not reloaded.compiled
    assert [layer.name for layer in reloaded.layers] == [layer.name for layer in model.layers]
    assert not reloaded.layers[2].trainable


def test_samples_may_be_files_or_pixels(model, files, tmp_path):
    report = export_model(model, tmp_path / "a", NAMES, samples=files)
    assert report.num_samples == len(files)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 30, 20, 3), dtype=np.uint8)
    assert export_model(model, tmp_path / "b", NAMES, samples=pixels).num_samples == 3
    with pytest.raises(DataError, match=r"`samples` must be.*missing\.jpg' .cannot be read"):
        export_model(model, tmp_path / "c", NAMES, samples=["missing.jpg"])
    with pytest.raises(ArgumentError, match=r"`samples` must be.*arrays of different shapes"):
        export_model(model, tmp_path / "c", NAMES, samples=[pixels[0], pixels[0][:5]])
    with pytest.raises(ArgumentError, match="`samples` must contain at least one image"):
        export_model(model, tmp_path / "c", NAMES, samples=[])
    assert not (tmp_path / "c").exists()


def test_a_saved_model_that_differs_is_refused_and_removed(model, tmp_path, monkeypatch):
    def sabotage(exported, folder, serving):
        other = keras.models.clone_model(exported)
        other.set_weights([weight * 1.001 for weight in exported.get_weights()])
        saved_model.write_saved_model(other, folder, serving)

    monkeypatch.setattr(export, "write_saved_model", sabotage)
    rule = "must give the same probabilities as the model in memory, within 1e-05"
    with pytest.raises(ExportError, match=rf"exported saved_model {rule}.*differ by up to"):
        export_model(model, tmp_path / "new" / "exported", NAMES)
    assert names_in(tmp_path) == []


def test_a_keras_file_that_differs_is_refused_even_if_not_requested(model, tmp_path, monkeypatch):
    load = keras.saving.load_model

    def sabotage(file, **arguments):
        loaded = load(file, **arguments)
        loaded.set_weights([weight * 1.001 for weight in loaded.get_weights()])
        return loaded

    monkeypatch.setattr(keras.saving, "load_model", sabotage)
    with pytest.raises(ExportError, match="exported keras must give the same probabilities"):
        export_model(model, tmp_path / "exported", NAMES)
    assert names_in(tmp_path) == []


def test_wrong_labels_are_refused(model, tmp_path, monkeypatch):
    run = saved_model.run_saved_model

    def sabotage(*arguments):
        return tuple({**one, "label": one["label"][::-1] + "x"} for one in run(*arguments))

    monkeypatch.setattr(export, "run_saved_model", sabotage)
    with pytest.raises(ExportError, match="must give the labels that its probabilities determine"):
        export_model(model, tmp_path / "exported", NAMES)
    assert names_in(tmp_path) == []


def test_a_model_that_cannot_be_reloaded_is_refused(tmp_path):
    class Unregistered(keras.layers.Layer):
        def call(self, inputs):
            return inputs * 2

    inputs = keras.Input((*SIZE, 3))
    x = Unregistered()(keras.layers.GlobalAveragePooling2D()(inputs))
    with pytest.raises(ExportError, match=r"\.keras file of this model cannot be loaded"):
        export_model(keras.Model(inputs, x), tmp_path / "exported", NAMES)
    assert names_in(tmp_path) == []


def test_an_interruption_leaves_no_files(model, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "run_saved_model", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_model(model, tmp_path / "exported", NAMES)
    assert names_in(tmp_path) == []


def test_nan_probabilities_are_refused(model, tmp_path):
    model.set_weights([weight * np.nan for weight in model.get_weights()])
    with pytest.raises(ExportError, match="`model` must give finite probabilities"):
        export_model(model, tmp_path / "exported", NAMES)
    assert names_in(tmp_path) == []


def test_a_model_of_grey_images_decodes_files_to_grey(tmp_path):
    grey = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    pixels = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 1), "uint8")
    export_model(grey, tmp_path / "exported", NAMES, samples=pixels, fresh_process=False)
    served = tf.saved_model.load(str(tmp_path / "exported")).signatures["serving_default"]
    files = tf.constant([tf.io.encode_png(one).numpy() for one in pixels])
    expected = tf.nn.softmax(grey(pixels.astype("float32")))
    np.testing.assert_allclose(served(image_bytes=files)["probabilities"], expected, atol=1e-5)


def test_a_model_of_any_size_is_refused(tmp_path):
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs))
    with pytest.raises(ArgumentError, match=r"one fixed size, \(batch, height, width, 3\).*None"):
        export_model(model, tmp_path / "exported", NAMES)
    assert names_in(tmp_path) == []


def test_existing_files_at_path_are_never_changed(model, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file"):
        with pytest.raises(ArgumentError, match="`path` must be a folder that does not exist"):
            export_model(model, tmp_path / name, NAMES)
    assert names_in(tmp_path) == ["file", "full", "mine"]
    (tmp_path / "empty").mkdir()
    export_model(model, tmp_path / "empty", NAMES, formats=("keras",))
    assert names_in(tmp_path / "empty") == ["model.keras"]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"formats": ("saved-model",)}, "`formats` must be one of .*Did you mean 'saved_model'"),
        ({"formats": ()}, "`formats` must name at least one format"),
        ({"class_names": ("a", "b")}, "`class_names` must name the model's 3 classes"),
        ({"class_names": ("a", "b\nc", "d")}, r"one line of text.*Received: 'b\\nc'"),
        ({"class_names": ("a", "b\u2028c", "d")}, "one line of text"),
        ({"class_names": ("a", "", "d")}, "one line of text"),
        ({"threshold": 1.5}, "`threshold` must be between 0 and 1"),
        ({"max_pixels": 0}, "`max_pixels` must be a whole number"),
    ],
)
def test_arguments_are_checked_before_anything_is_written(model, tmp_path, arguments, match):
    with pytest.raises(ArgumentError, match=match):
        export_model(model, tmp_path / "exported", **{"class_names": NAMES, **arguments})
    assert names_in(tmp_path) == []


def test_the_bound_of_pixels_is_part_of_the_export(model, files, tmp_path):
    export_model(model, tmp_path / "exported", NAMES, max_pixels=300_000)
    _, from_bytes, _ = signatures_of(tmp_path / "exported")
    large = tf.io.encode_png(tf.zeros((600, 600, 3), tf.uint8))
    with pytest.raises(tf.errors.InvalidArgumentError, match="max_pixels"):
        from_bytes(image_bytes=large[None])
    (tmp_path / "large.png").write_bytes(large.numpy())
    with pytest.raises(DataError, match=r"large\.png' .has .*pixels"):
        predict_exported(tmp_path / "exported", tmp_path / "large.png")


def rejection_for(model, known, threshold=0.01):
    """A rejection that accepts the given images, each its own nearest neighbour."""
    features, _ = with_features(model)(tf.cast(known, tf.float32), training=False)
    return Rejection(
        signature=signatures.signature(keras.Model(model.input, feature_cut(model))),
        neighbours=unit_vectors(features).numpy(),
        num_neighbours=1,
        threshold=threshold,
        keep=0.95,
        num_images=40,
        wrongly_rejected=0.05,
        interval=(0.01, 0.12),
        by_class={"ant": (2, 40)},
    )


def decoded(files):
    return np.stack([decode_image(tf.constant(file.read_bytes()), SIZE) for file in files])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "names"),
    [((3, None), NAMES), ((1, None), NAMES[:2]), ((3, "sigmoid"), NAMES)],
    ids=["softmax", "binary", "multi_label"],
)
def test_a_rejection_is_exported_as_known(files, tmp_path, head, names):
    model = small_model(*head)
    rejection = rejection_for(model, decoded(files[:3]))
    report = export_model(model, tmp_path / "exported", names, rejection=rejection, samples=files)
    assert report.formats[0].difference <= 1e-5
    _, from_bytes, from_pixels = signatures_of(tmp_path / "exported")
    for signature in (from_bytes, from_pixels):
        specs = {
            name: (spec.shape.as_list(), spec.dtype)
            for name, spec in signature.structured_outputs.items()
        }
        assert specs.keys() == {"probabilities", "label", "class_id", "known", "novelty"}
        assert specs["known"] == ([None], tf.bool)
        assert specs["novelty"] == ([None], tf.float32)
    contents = [file.read_bytes() for file in files]
    features, _ = with_features(model)(decoded(files).astype(np.float32), training=False)
    expected = ood_scores(features, rejection.neighbours, 1)
    for answers in (
        from_bytes(image_bytes=tf.constant(contents)),
        from_pixels(images=tf.constant(decoded(files))),
    ):
        np.testing.assert_allclose(answers["novelty"], expected, atol=1e-5)
        assert answers["known"].numpy().tolist() == [True] * 3 + [False] * (len(files) - 3)
    nothing = from_bytes(image_bytes=tf.constant([], tf.string))
    assert nothing["known"].shape == nothing["novelty"].shape == (0,)
    about = json.loads((tmp_path / "exported" / "assets" / "serving.json").read_text())
    assert about["rejection"]["wrongly_rejected"] == 0.05
    assert about["rejection"]["num_images"] == 40
    predictions = predict_exported(tmp_path / "exported", files)
    assert [one.known for one in predictions] == [True] * 3 + [False] * (len(files) - 3)
    assert "none of these, else" in str(predictions[-1])
    assert "none of these" not in str(predictions[0])
    assert predictions[0].as_dict()["known"] is True


def test_an_export_without_rejection_does_not_mention_it(exported, files):
    about = json.loads((exported / "saved_model" / "assets" / "serving.json").read_text())
    assert about.keys() == SETTINGS
    (prediction,) = predict_exported(exported, files[0])
    assert prediction.known is None
    assert "known" not in prediction.as_dict()


def test_a_rejection_does_not_change_labels_and_probabilities(model, files, exported, tmp_path):
    rejection = rejection_for(model, decoded(files[:3]))
    export_model(
        model, tmp_path / "out", NAMES, rejection=rejection, formats=("saved_model", "keras")
    )
    expected = predict_exported(exported, files)
    for one, other in zip(predict_exported(tmp_path / "out", files), expected, strict=True):
        assert one.label == other.label
        assert one.probabilities == other.probabilities
    assert len(keras.saving.load_model(tmp_path / "out" / "model.keras").outputs) == 1


def test_the_stored_features_are_written_once(model, tmp_path):
    rejection = rejection_for(model, np.zeros((1, *SIZE, 3)))
    many = np.repeat(rejection.neighbours, 2000, axis=0)
    large = Rejection(**{**vars(rejection), "neighbours": many})
    plain = export_model(model, tmp_path / "plain", NAMES).formats[0]
    report = export_model(model, tmp_path / "large", NAMES, rejection=large).formats[0]
    assert many.nbytes <= report.num_bytes - plain.num_bytes < 1.2 * many.nbytes


@pytest.mark.parametrize(
    ("output", "change"),
    [
        ("novelty", lambda value: value + 0.001),
        ("known", tf.logical_not),
    ],
)
def test_a_rejection_that_differs_is_refused(model, tmp_path, monkeypatch, output, change):
    run = saved_model.run_saved_model

    def sabotage(*arguments):
        return tuple({**one, output: change(one[output])} for one in run(*arguments))

    monkeypatch.setattr(export, "run_saved_model", sabotage)
    rejection = rejection_for(model, np.zeros((1, *SIZE, 3)))
    message = {
        "novelty": "OOD scores that differ by up to 0.001",
        "known": "must give `known` as its OOD scores and threshold determine",
    }
    with pytest.raises(ExportError, match=message[output]):
        export_model(model, tmp_path / "exported", NAMES, rejection=rejection)
    assert names_in(tmp_path) == []


def test_a_rejection_of_another_model_is_refused(model, tmp_path):
    rejection = rejection_for(model, np.zeros((1, *SIZE, 3)))
    model.layers[-1].kernel.assign_add(keras.ops.ones(model.layers[-1].kernel.shape))
    export_model(model, tmp_path / "head", NAMES, rejection=rejection, formats="keras")
    model.layers[2].kernel.assign_add(keras.ops.ones(model.layers[2].kernel.shape))
    with pytest.raises(ArgumentError, match="`rejection` must have been fitted to the current"):
        export_model(model, tmp_path / "exported", NAMES, rejection=rejection)
    with pytest.raises(ArgumentError, match="`rejection` must be the result of `fit_rejection`"):
        export_model(model, tmp_path / "exported", NAMES, rejection=0.5)
    assert not (tmp_path / "exported").exists()


def test_calibration_is_in_the_exported_probabilities(files, tmp_path):
    model = small_model()
    before = tlkit.predict(model, files, NAMES)
    for weight in model.layers[-1].weights:
        weight.assign(weight / 4)
    export_model(model, tmp_path / "exported", NAMES, samples=files)
    for one, other in zip(predict_exported(tmp_path / "exported", files), before, strict=True):
        scaled = np.array(list(other.probabilities.values())) ** 0.25
        expected = (scaled / scaled.sum()).tolist()
        assert list(one.probabilities.values()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["litert", "litert_float16", "onnx"])
def test_other_runtimes_are_run_in_a_process_of_their_own(name, tmp_path):
    for package, _ in EXPORT_FORMATS[name].packages:
        pytest.importorskip(package)
    model = tlkit.build_classifier("resnet20", ["cat", "dog"])
    report = export_model(model, tmp_path / "out", ["cat", "dog"], formats=(name,))
    (exported,) = report.formats
    assert [path.name for path in (tmp_path / "out").iterdir()] == [EXPORT_FORMATS[name].path]
    assert exported.load_seconds > 0
    assert exported.milliseconds_per_image > 0
    assert 0 <= exported.difference <= EXPORT_FORMATS[name].largest_difference
    assert "in a fresh process" in str(exported)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["saved_model", "keras"])
def test_formats_are_run_and_timed_in_a_fresh_process_by_default(model, tmp_path, name):
    (exported,) = tlkit.export_model(model, tmp_path / "out", NAMES, formats=(name,)).formats
    assert exported.load_seconds > 0
    assert exported.milliseconds_per_image > 0
    assert exported.accuracy_drop == 0
    assert 0 <= exported.difference <= 1e-5
    (exported,) = export_model(model, tmp_path / "again", NAMES, formats=(name,)).formats
    assert exported.load_seconds is exported.milliseconds_per_image is None
    assert "fresh process" not in str(exported)


def test_a_keras_file_has_labels_and_the_same_weights(model, tmp_path):
    export_model(model, tmp_path / "out", NAMES, formats=("keras",), threshold=0.25)
    file = tmp_path / "out" / "model.keras"
    names, about = read_labels(file)
    assert names == NAMES
    assert about.keys() == SETTINGS
    assert (about["threshold"], about["image_size"]) == (0.25, list(SIZE))
    reloaded = keras.saving.load_model(file)
    assert all(map(np.array_equal, model.get_weights(), reloaded.get_weights()))


def test_outputs_are_compared_on_the_cpu(model, tmp_path, monkeypatch):
    devices = []
    answers, run = saved_model.Serving.answers, saved_model.run_saved_model

    def recorded_answers(self, *arguments):
        if tf.executing_eagerly():  # not while a graph is traced, which is bound to no device
            devices.append(device_scope())
        else:
            assert "CPU" not in tf.constant(0).device
        return answers(self, *arguments)

    def recorded_run(*arguments):
        devices.append(device_scope())
        return run(*arguments)

    monkeypatch.setattr(saved_model.Serving, "answers", recorded_answers)
    monkeypatch.setattr(export, "run_saved_model", recorded_run)
    export_model(model, tmp_path / "out", NAMES, formats=("saved_model", "keras"))
    assert len(devices) == 3
    assert all(device.endswith("CPU:0") for device in devices)


def device_scope():
    """The device set by `tf.device`; empty if TensorFlow is free to choose."""
    return context.context().device_name


def test_the_loss_of_accuracy_is_called_expected(tmp_path):
    exported = export.ExportedFormat("litert_int8", tmp_path, 10, 0.1, 0.02, 0.1, 1.0)
    assert str(exported).endswith("expected loss of accuracy 2.0 points")
