import json
import os
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tlkit
from tests.conftest import set_seeds
from tests.data.image_bytes import drawing, encoded
from tlkit.data.decoding import decode_image
from tlkit.data.file_checks import check_files
from tlkit.data.limits import MAX_PIXELS
from tlkit.data.resizing import resize_image
from tlkit.errors import ArgumentError, DataError

NAMES = ("ant", "bee", "cat")
SIZE = (6, 8)


@pytest.fixture
def model():
    return small_model()


def small_model(num_outputs=3, activation=None, name=None):
    set_seeds(0)
    return keras.Sequential(
        [
            keras.Input((*SIZE, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(num_outputs, activation=activation, name=name),
        ]
    )


@pytest.fixture
def files(tmp_path):
    """Four images of different sizes and formats; one file name is not in Latin script."""
    generator = np.random.default_rng(0)
    paths = []
    for name, shape in (
        ("a.jpg", (30, 40)),
        ("b.PNG", (7, 5)),
        ("c.webp", (90, 20)),
        ("猫.jpg", SIZE),
    ):
        pixels = generator.integers(0, 256, (*shape, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
        paths.append(tmp_path / name)
    return paths


def probabilities_by_decoding(model, images):
    return keras.ops.convert_to_numpy(keras.ops.softmax(model(np.asarray(images, np.float32))))


def test_files_are_decoded_as_in_training(model, files):
    images = [decode_image(tf.constant(file.read_bytes()), SIZE) for file in files]
    expected = probabilities_by_decoding(model, images)
    predictions = tlkit.predict(model, files, NAMES, batch_size=3)
    found = [list(one.probabilities.values()) for one in predictions]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert [one.path for one in predictions] == [str(file) for file in files]
    assert [one.label for one in predictions] == [NAMES[row.argmax()] for row in expected]
    assert all(one.labels == (one.label,) for one in predictions)
    assert [one.probability for one in predictions] == [max(row) for row in found]
    assert list(predictions[0].probabilities) == list(NAMES)


def test_a_single_file_can_be_predicted(model, files):
    (prediction,) = tlkit.predict(model, str(files[0]), NAMES)
    assert str(prediction).startswith(f"{files[0]}: {prediction.label} (")
    assert json.loads(json.dumps(prediction.as_dict()))["label"] == prediction.label
    assert tlkit.predict(model, [], NAMES) == ()


def test_arrays_are_resized_as_files_are(model):
    image = np.random.default_rng(0).integers(0, 256, (50, 30, 3), dtype=np.uint8)
    expected = probabilities_by_decoding(model, resize_image(image, SIZE)[None])
    for given in (image, image[None], (image + 0.2).clip(0, 255), [image]):
        (prediction,) = tlkit.predict(model, given, NAMES)
        np.testing.assert_allclose([*prediction.probabilities.values()], expected[0], atol=1e-6)
        assert prediction.path is None
    assert tlkit.predict(model, np.zeros((0, 9, 9, 3), np.uint8), NAMES) == ()


@pytest.mark.parametrize("resize", ["crop", "pad"])
def test_files_and_arrays_are_resized_as_in_training(model, files, resize):
    contents = [tf.constant(file.read_bytes()) for file in files]
    images = [decode_image(content, SIZE, resize=resize) for content in contents]
    predictions = tlkit.predict(model, files, NAMES, resize=resize)
    found = [list(one.probabilities.values()) for one in predictions]
    np.testing.assert_allclose(found, probabilities_by_decoding(model, images), atol=1e-6)
    image = np.random.default_rng(0).integers(0, 256, (50, 30, 3), dtype=np.uint8)
    expected = probabilities_by_decoding(model, resize_image(image, SIZE, resize)[None])
    (prediction,) = tlkit.predict(model, image, NAMES, resize=resize)
    np.testing.assert_allclose([*prediction.probabilities.values()], expected[0], atol=1e-6)
    assert prediction.probabilities != tlkit.predict(model, image, NAMES)[0].probabilities


@pytest.mark.parametrize("call", [tlkit.predict, tlkit.explain])
def test_resize_is_checked_before_any_file(model, call):
    with pytest.raises(ArgumentError, match="`resize` must be one of 'stretch', 'crop', 'pad'"):
        call(model, "nowhere.jpg", NAMES, resize="letterbox")


def test_binary_gives_both_probabilities():
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    model = small_model(1)
    (prediction,) = tlkit.predict(model, image, NAMES[:2])
    share = float(keras.ops.sigmoid(model(image[None].astype(np.float32)))[0, 0])
    assert prediction.probabilities == pytest.approx({"ant": 1 - share, "bee": share}, abs=1e-6)
    assert prediction.label == ("bee" if share > 0.5 else "ant")


def test_multi_label_assigns_every_label_from_the_threshold():
    model = small_model(3, "sigmoid")
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    shares = model(image[None].astype(np.float32)).numpy()[0]
    for threshold in (0.01, float(np.sort(shares)[1]), 0.99):
        (prediction,) = tlkit.predict(model, image, NAMES, threshold=threshold)
        expected = [name for name, share in zip(NAMES, shares, strict=True) if share >= threshold]
        assert prediction.labels == tuple(expected)
        assert prediction.label == ", ".join(expected)
        assert prediction.probability == pytest.approx(shares.max())
    assert "no label" in str(tlkit.predict(model, image, NAMES, threshold=0.999)[0])


@pytest.fixture
def bad_files(tmp_path):
    """Unusable paths: three files, a folder, and one that does not exist."""
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "short.jpg").write_bytes(encoded(drawing(), "JPEG")[:400])
    (tmp_path / "folder").mkdir()
    names = ("empty.jpg", "text.jpg", "short.jpg", "folder", "missing.jpg")
    return [tmp_path / name for name in names]


def test_only_unusable_files_raise_with_all_names(model, bad_files, monkeypatch):
    monkeypatch.setattr(
        "tlkit.evaluation.prediction._decoded_batches", lambda *_: pytest.fail("asked")
    )
    given = [path for path in bad_files if not path.is_dir()]
    with pytest.raises(DataError, match="`images` must be image files") as error:
        tlkit.predict(model, given, NAMES)
    verdicts = check_files([str(path) for path in given], max_pixels=MAX_PIXELS)
    for path, verdict in zip(given, verdicts, strict=True):
        assert f"{str(path)!r} ({verdict.reason})" in str(error.value)


def test_usable_files_are_predicted_beside_unusable_ones(model, files, bad_files):
    """Entries are in the order of the files, and usable ones are predicted as on their own."""
    given = [bad_files[0], files[0], *bad_files[1:4], *files[1:], bad_files[4], "caf\udce9.jpg"]
    found = tlkit.predict(model, given, NAMES)
    assert [one.path for one in found] == list(map(str, given))
    assert [one.index for one in found] == list(range(len(given)))
    bad = {os.path.basename(one.path): one.reason for one in found if one.reason}
    assert bad.keys() == {*(path.name for path in bad_files), "caf\udce9.jpg"}
    assert bad["empty.jpg"] == "empty file"
    assert bad["text.jpg"] == "not an image: text"
    assert bad["folder"] == "is a folder"
    assert bad["caf\udce9.jpg"] == "its name is not valid Unicode"
    assert "No such file" in bad["missing.jpg"]
    good = [one for one in found if not one.reason]
    alone = tlkit.predict(model, files, NAMES)
    assert [replace(one, index=0) for one in good] == [replace(one, index=0) for one in alone]
    assert found[0].as_dict() == {
        **{"index": 0, "path": str(given[0]), "label": "", "labels": [], "probability": None},
        **{"probabilities": {}, "reason": "empty file"},
    }
    assert str(found[0]).endswith("empty.jpg: no prediction, the file cannot be used: empty file")
    assert "reason" not in good[0].as_dict()


def test_a_damaged_file_is_predicted_with_a_warning(model, tmp_path):
    content = encoded(drawing(), "JPEG")
    (tmp_path / "rotten.jpg").write_bytes(content[:-2] + bytes(9) + content[-2:])
    (found,) = tlkit.predict(model, tmp_path / "rotten.jpg", NAMES)
    assert found.warning.startswith("Corrupt JPEG data: ")
    assert found.warning in str(found)
    assert found.as_dict()["warning"] == found.warning
    assert found.label in NAMES


def test_too_many_pixels_and_many_bad_files(model, files, tmp_path):
    with pytest.raises(DataError, match=r"a\.jpg' .has .*pixels"):
        tlkit.predict(model, files[0], NAMES, max_pixels=1000)
    with pytest.raises(DataError, match="and 5 more"):
        tlkit.predict(model, [tmp_path / f"{index}.jpg" for index in range(25)], NAMES)


def test_a_path_that_is_not_valid_unicode_raises(model):
    with pytest.raises(DataError, match=r"`images` must have a path in valid Unicode.*Rename"):
        tlkit.predict(model, "caf\udce9.jpg", NAMES)


def test_a_folder_raises(model, tmp_path):
    with pytest.raises(ArgumentError, match=r"must be image files, not a folder.*glob"):
        tlkit.predict(model, tmp_path, NAMES)


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (np.zeros((4, 4)), r"pixels of the shape \(height, width, 3\).*Received: .*\(4, 4\)"),
        (np.zeros((2, 4, 4, 1)), "repeat the channel"),
        ([np.zeros((4, 4, 3)), np.zeros((5, 4, 3))], "arrays of different shapes"),
        (np.full((4, 4, 3), 0.5), "Multiply values from 0 to 1 by 255"),
        (np.full((4, 4, 3), 256), "pixels from 0 to 255"),
        (np.full((4, 4, 3), np.nan), "pixels from 0 to 255"),
        (None, "Received: a NoneType"),
    ],
)
def test_arrays_that_are_not_pixels_raise(model, images, match):
    with pytest.raises(ArgumentError, match=match):
        tlkit.predict(model, images, NAMES)


def test_arguments_are_checked(model, files):
    with pytest.raises(ArgumentError, match="`class_names` must name the model's 3 classes"):
        tlkit.predict(model, files, NAMES[:2])
    with pytest.raises(ArgumentError, match="`class_names` must be strings"):
        tlkit.predict(model, files, None)
    for threshold in (0, 1, "0.5", -2):
        with pytest.raises(ArgumentError, match="`threshold` must be between 0 and 1"):
            tlkit.predict(model, files, NAMES, threshold=threshold)
    with pytest.raises(ArgumentError, match="`batch_size` must be a whole number"):
        tlkit.predict(model, files, NAMES, batch_size=0)
    fully_convolutional = keras.Sequential(
        [keras.Input((None, None, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)]
    )
    with pytest.raises(ArgumentError, match="`model` must take images of one fixed size"):
        tlkit.predict(fully_convolutional, files, NAMES)


def test_a_folder_without_an_export_raises(tmp_path, files):
    from tlkit.evaluation.prediction_stream import predict_exported

    with pytest.raises(
        ArgumentError, match="`folder` must contain a SavedModel that `export_model`"
    ):
        predict_exported(tmp_path, files)
