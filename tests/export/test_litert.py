"""LiteRT files: their inputs, outputs and labels."""

import zipfile

import numpy as np
import pytest
import tensorflow as tf

from tests.export.models import NAMES, SIZE, foreign_model, random_images, small_model
from tlkit.errors import ArgumentError, ExportError
from tlkit.export.classifying import classifying_function
from tlkit.export.labels import read_labels
from tlkit.export.litert import write_litert

QUANTIZATIONS = (None, "float16", "int8")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("litert") / "made"
    return {
        one: write_litert(
            small_model(), folder, NAMES, quantization=one, about={"kind": "softmax", "é": [1]}
        )
        for one in QUANTIZATIONS
    }


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("num_images", [1, 7, 2])
def test_batches_of_any_size_are_classified(files, quantization, num_images):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="needs ai-edge-litert")
    runner = interpreter.Interpreter(str(files[quantization])).get_signature_runner()
    (images,) = runner.get_input_details().values()
    assert images["dtype"] is np.uint8
    assert images["shape_signature"].tolist() == [-1, *SIZE, 3]
    some = random_images()[:num_images]
    answers = runner(images=some)
    expected = classifying_function(small_model())(tf.constant(some))
    assert answers["probabilities"].shape == (num_images, 3)
    bound = {None: 1e-5, "float16": 1e-2, "int8": 0.1}[quantization]
    np.testing.assert_allclose(answers["probabilities"], expected["probabilities"], atol=bound)
    assert answers["class_id"].dtype == np.int64
    assert answers["class_id"].tolist() == answers["probabilities"].argmax(axis=1).tolist()


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_labels_stand_in_the_file_and_any_zip_program_reads_them(files, quantization):
    assert read_labels(files[quantization]) == (NAMES, {"kind": "softmax", "é": [1]})
    with zipfile.ZipFile(files[quantization]) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["class_names.txt", "serving.json"]


def test_fewer_bits_make_smaller_files(files):
    sizes = [files[one].stat().st_size for one in QUANTIZATIONS]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[2] < 0.5 * sizes[0]
    assert {one: file.name for one, file in files.items()} == {
        None: "model.tflite",
        "float16": "model_float16.tflite",
        "int8": "model_int8.tflite",
    }


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"quantization": "int4"}, "`quantization` must be one of 'float16', 'int8'"),
        ({"class_names": ["ant"]}, "`class_names` must name the model's 3 classes"),
    ],
)
def test_invalid_arguments_are_refused_before_any_work(arguments, match, tmp_path):
    given = {"class_names": NAMES} | arguments
    with pytest.raises(ArgumentError, match=match):
        write_litert(small_model(), tmp_path / "made", **given)
    assert list(tmp_path.iterdir()) == []


def test_the_error_names_operations_that_litert_does_not_support(tmp_path):
    with pytest.raises(ExportError, match=r"LiteRT cannot compute this model: .*Erfinv"):
        write_litert(foreign_model(), tmp_path / "made", NAMES)
    assert list(tmp_path.iterdir()) == []
