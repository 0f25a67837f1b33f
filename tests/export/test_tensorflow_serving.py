"""TensorFlow Serving: numbered versions, and requests that fit the signature."""

import base64
import json
import re

import pytest
import tensorflow as tf

import tlkit
from tests.export.models import NAMES, small_model
from tlkit.errors import ArgumentError
from tlkit.export.tensorflow_serving import predict_request, version_folder, write_batching_file
from tlkit.runs.predicting import predict_with
from tlkit.serving.model import ServedModel


def test_versions_are_in_one_folder_and_take_the_request(tmp_path):
    model, root = small_model(), tmp_path / "model"
    for version in (1, 2):
        tlkit.export_model(model, version_folder(root, version), NAMES, fresh_process=False)
    assert sorted(path.name for path in root.iterdir()) == ["1", "2"]
    assert (root / "2" / "saved_model.pb").is_file()
    signature = tf.saved_model.load(str(root / "1")).signatures["serving_default"]
    random_images = [
        tf.io.encode_png(tf.fill((9, 9, 3), tf.cast(n, tf.uint8))).numpy() for n in (0, 90)
    ]
    request = json.loads(json.dumps(predict_request(*random_images)))
    assert request["signature_name"] == "serving_default"
    (name,) = {name for instance in request["instances"] for name in instance}
    assert name in signature.structured_input_signature[1]
    decoded = [base64.b64decode(instance[name]["b64"]) for instance in request["instances"]]
    assert decoded == random_images
    answers = signature(**{name: tf.constant(decoded)})
    assert {len(values) for values in answers.values()} == {2}  # one entry for each image
    for load in (lambda: predict_with(root, ["a.jpg"]), lambda: ServedModel(root, 2**20)):
        with pytest.raises(ArgumentError, match=r"holds numbered versions.*Give '.*model/2'\."):
            load()


def test_the_batching_file_is_what_tensorflow_serving_reads_and_is_not_replaced(tmp_path):
    file = write_batching_file(tmp_path / "model")
    settings = dict(re.findall(r"^(\w+) \{ value: (\d+) \}$", file.read_text(), re.MULTILINE))
    assert settings == {
        "max_batch_size": "32",
        "batch_timeout_micros": "5000",
        "max_enqueued_batches": "100",
    }
    file.write_text("max_batch_size { value: 8 }")
    write_batching_file(tmp_path / "model")
    assert file.read_text() == "max_batch_size { value: 8 }"


def test_an_existing_version_is_not_replaced(tmp_path):
    (tmp_path / "3").mkdir()
    rule = "must be a version that does not exist yet"
    with pytest.raises(ArgumentError, match=rf"`version` {rule}.*Give 4\."):
        version_folder(tmp_path, 3)
    with pytest.raises(ArgumentError, match="`version` must be a whole number of at least 1"):
        version_folder(tmp_path, 0)
