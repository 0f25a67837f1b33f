"""ONNX files: their inputs, outputs and labels."""

import importlib.util
import json

import numpy as np
import pytest
import tensorflow as tf

from tests.export.models import NAMES, SIZE, foreign_model, random_images, small_model
from tlkit.data.settings import RESIZES
from tlkit.errors import ArgumentError, ExportError
from tlkit.export.classifying import classifying_function
from tlkit.export.constant_graph import constant_graph
from tlkit.export.onnx import write_onnx

ABOUT = {"kind": "softmax", "threshold": 0.5, "resize": "pad"}

onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
pytest.importorskip("tf2onnx", reason="needs tf2onnx")


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx") / "made"
    file = write_onnx(small_model(), folder, NAMES, about=ABOUT)
    assert file == folder / "model.onnx"
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("num_images", [1, 7, 0])
def test_batches_of_any_size_are_classified(session, num_images):
    images = random_images()[:num_images]
    probabilities, class_ids = session.run(["probabilities", "class_id"], {"images": images})
    assert probabilities.shape == (num_images, 3)
    expected = classifying_function(small_model())(tf.constant(random_images()))["probabilities"]
    np.testing.assert_allclose(probabilities, expected[:num_images], atol=1e-5)
    assert class_ids.dtype == np.int64
    assert class_ids.tolist() == probabilities.argmax(axis=1).tolist()


def test_inputs_and_outputs_are_the_documented_ones(session):
    (images,) = session.get_inputs()
    assert (images.name, images.type, images.shape) == (
        "images",
        "tensor(uint8)",
        ["batch", *SIZE, 3],
    )
    outputs = {(output.name, output.type, tuple(output.shape)) for output in session.get_outputs()}
    assert outputs == {
        ("probabilities", "tensor(float)", ("batch", 3)),
        ("class_id", "tensor(int64)", ("batch",)),
    }


def test_labels_are_in_the_metadata(session):
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["class_names"]) == list(NAMES)
    assert json.loads(metadata["serving"]) == ABOUT
    assert f"32 x 24 pixels, {RESIZES['pad']};" in session.get_modelmeta().description


def test_the_graph_has_no_variables_and_the_eager_setting_is_restored():
    before = tf.config.functions_run_eagerly()
    graph = constant_graph(small_model())
    assert tf.config.functions_run_eagerly() == before
    inputs = [node.name for node in graph.graph_def.node if node.op == "Placeholder"]
    assert inputs == ["images"]
    operations = {node.op for node in graph.graph_def.node}
    assert operations.isdisjoint({"Erfc", "ReadVariableOp", "StatefulPartitionedCall"})


def test_the_error_names_operations_that_onnx_does_not_support(tmp_path):
    with pytest.raises(ExportError, match=r"ONNX cannot compute this model: .*Erfinv"):
        write_onnx(foreign_model(), tmp_path / "made", NAMES)
    assert list(tmp_path.iterdir()) == []


def test_the_error_names_a_missing_package_and_how_to_install_it(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "tlkit.export.formats.find_spec",
        lambda name: None if name == "tf2onnx" else find(name),
    )
    with pytest.raises(ArgumentError, match=r"'onnx', which needs tf2onnx\..*tlkit\[export\]"):
        write_onnx(small_model(), tmp_path / "made", NAMES)
    assert list(tmp_path.iterdir()) == []
