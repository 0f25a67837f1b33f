"""LiteRT files: their inputs, outputs and labels."""

import zipfile

import flatbuffers
import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema

from tests.export.models import NAMES, SIZE, foreign_model, random_images, small_model
from tlkit.errors import ArgumentError, ExportError
from tlkit.export.classifying import classifying_function
from tlkit.export.image_input import ImageInput
from tlkit.export.labels import read_labels
from tlkit.export.litert import write_litert
from tlkit.export.litert_metadata import classifier_metadata
from tlkit.utils.tensorflow_private import litert_operations

DYNAMIC = (None, "float16", "int8")
QUANTIZATIONS = (*DYNAMIC, "full_int8")
ABOUT = {"kind": "softmax", "é": [1], "resize": "crop"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("litert") / "made"
    return {
        one: write_litert(
            small_model(),
            folder,
            NAMES,
            quantization=one,
            calibrate=random_images() if one == "full_int8" else None,
            about=ABOUT,
        )
        for one in QUANTIZATIONS
    }


def opened(file):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="needs ai-edge-litert")
    return interpreter.Interpreter(str(file)).get_signature_runner()


@pytest.mark.parametrize("quantization", DYNAMIC)
@pytest.mark.parametrize("num_images", [1, 7, 2])
def test_batches_of_any_size_are_classified(files, quantization, num_images):
    runner = opened(files[quantization])
    (images,) = runner.get_input_details().values()
    assert images["dtype"] is np.uint8
    assert images["shape_signature"].tolist() == [-1, *SIZE, 3]
    some = random_images()[:num_images]
    answers = runner(images=some)
    expected = classifying_function(small_model())(tf.constant(some))
    assert answers["probabilities"].shape == (num_images, 3)
    bound = {None: 1e-5, "float16": 1e-2, "int8": 0.1}[quantization]
    np.testing.assert_allclose(answers["probabilities"], expected["probabilities"], atol=bound)
    assert answers.keys() == {"probabilities"}  # MediaPipe refuses an output of another type


def test_full_integers_take_a_pixel_as_it_is_and_return_steps_of_a_256th(files):
    runner = opened(files["full_int8"])
    (images,) = runner.get_input_details().values()
    (outputs,) = runner.get_output_details().values()
    assert (images["dtype"], outputs["dtype"]) == (np.uint8, np.uint8)
    assert images["quantization"] == (1.0, 0)
    assert outputs["quantization"] == (1 / 256, 0)
    for details in (images, outputs):
        assert details["shape_signature"].tolist() == details["shape"].tolist()  # static
    assert images["shape"].tolist() == [1, *SIZE, 3]
    some = random_images()
    answers = np.concatenate([runner(images=one[np.newaxis])["probabilities"] for one in some])
    expected = classifying_function(small_model())(tf.constant(some))["probabilities"].numpy()
    assert expected.std(axis=0).max() > 0.01
    np.testing.assert_allclose(answers / 256, expected, atol=0.05)


def test_the_pixels_range_does_not_depend_on_the_images(tmp_path):
    dark = random_images() // 4 + 30
    file = write_litert(small_model(), tmp_path, NAMES, quantization="full_int8", calibrate=dark)
    (images,) = opened(file).get_input_details().values()
    assert images["quantization"] == (1.0, 0)
    assert (dark.min(), dark.max()) == (30, 93)  # and these are left as they were


def test_all_operations_compute_with_integers_and_kernels_have_a_scale_per_channel(files):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="needs ai-edge-litert")
    found = litert_operations(files["full_int8"].read_bytes())
    assert {"CONV_2D", "SOFTMAX", "MUL"} <= found.keys()
    assert set().union(*found.values()) <= {"INT8", "UINT8", "INT32"}
    in_float = litert_operations(files["int8"].read_bytes())
    assert "FLOAT32" in set().union(*in_float.values())
    tensors = interpreter.Interpreter(str(files["full_int8"])).get_tensor_details()
    scales = {
        tuple(one["shape"]): len(one["quantization_parameters"]["scales"])
        for one in tensors
        if one["dtype"] is np.int8
    }
    assert scales[32, 3, 3, 3] == 32  # of the first convolution
    assert scales[1, *SIZE, 3] == 1


def squared(inputs):
    """Layers that the converter leaves in float32 unless they are replaced."""
    x = keras.layers.Conv2D(4, 3, activation="silu")(inputs)
    return keras.layers.UnitNormalization()(keras.layers.Flatten()(x))


def negated(inputs):
    return -keras.layers.Flatten()(keras.layers.Conv2D(4, 3, activation="relu")(inputs))


@pytest.mark.parametrize(("layers", "is_possible"), [(squared, True), (negated, False)])
def test_a_model_that_is_not_in_integers_alone_is_refused(layers, is_possible, tmp_path):
    inputs = keras.Input((*SIZE, 3))
    model = keras.Model(inputs, keras.layers.Dense(3)(layers(inputs)))
    given = {"quantization": "full_int8", "calibrate": random_images()}
    if is_possible:
        file = write_litert(model, tmp_path, NAMES, **given)
        assert "FLOAT32" not in set().union(*litert_operations(file.read_bytes()).values())
    else:
        match = r"in integers only: it has no integer form of NEG\. .*'litert_int8'"
        with pytest.raises(ExportError, match=match):
            write_litert(model, tmp_path / "made", NAMES, **given)
        assert list(tmp_path.iterdir()) == []


class Table:
    """A table of a FlatBuffer; its fields are read by their numbers in the published schema."""

    def __init__(self, content, position):
        self.table = flatbuffers.table.Table(content, position)

    @classmethod
    def root(cls, content):
        offset = flatbuffers.encode.Get(flatbuffers.packer.uoffset, content, 0)
        return cls(content, offset)

    def _place(self, field):
        offset = self.table.Offset(4 + 2 * field)
        return offset + self.table.Pos if offset else None

    def text(self, field):
        return self.table.String(self._place(field)).decode()

    def byte(self, field):
        place = self._place(field)
        return self.table.Get(flatbuffers.number_types.Int8Flags, place) if place else 0

    def child(self, field):
        return Table(self.table.Bytes, self.table.Indirect(self._place(field)))

    def children(self, field):
        offset = self.table.Offset(4 + 2 * field)
        start, length = self.table.Vector(offset), self.table.VectorLen(offset)
        places = range(start, start + 4 * length, 4)
        return [Table(self.table.Bytes, self.table.Indirect(place)) for place in places]

    def floats(self, field):
        offset = self.table.Offset(4 + 2 * field)
        start, length = self.table.Vector(offset), self.table.VectorLen(offset)
        kind = flatbuffers.number_types.Float32Flags
        return [self.table.Get(kind, start + 4 * number) for number in range(length)]


def metadata_of(file):
    """The content of the buffer that the model itself names TFLITE_METADATA."""
    model = schema.Model.GetRootAs(file.read_bytes())
    entries = [model.Metadata(number) for number in range(model.MetadataLength())]
    (entry,) = (one for one in entries if one.Name() == b"TFLITE_METADATA")
    return model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_the_metadata_describe_an_image_classifier(files, quantization):
    content = metadata_of(files[quantization])
    assert content[4:8] == b"M001"
    model = Table.root(content)
    assert model.text(0) == "small"
    assert "32 x 24 pixels, " in model.text(1)
    assert model.text(7) == "1.0.0"
    (settings,) = model.children(6)
    assert (settings.text(0), settings.byte(2)) == ("serving.json", 1)  # a description
    (graph,) = model.children(3)
    (image,), (probability,) = graph.children(2), graph.children(3)
    assert image.child(3).byte(0) == 2  # the content is an image
    assert image.child(3).child(1).byte(0) == 1  # RGB
    (unit,) = image.children(4)
    assert unit.byte(0) == 1  # normalisation
    assert (unit.child(1).floats(0), unit.child(1).floats(1)) == ([0.0], [1.0])
    assert (image.child(5).floats(0), image.child(5).floats(1)) == ([255.0], [0.0])
    assert probability.child(3).byte(0) == 1  # features
    (labels,) = probability.children(6)
    assert (labels.text(0), labels.byte(2)) == ("class_names.txt", 2)  # labels of the axis
    with zipfile.ZipFile(files[quantization]) as archive:
        names = [settings.text(0), labels.text(0)]
        assert all(archive.getinfo(one).compress_type == zipfile.ZIP_STORED for one in names)
        assert archive.read(labels.text(0)).decode().splitlines() == list(NAMES)


@pytest.mark.parametrize(("channels", "space"), [(1, 2), (3, 1), (5, 0)])
def test_the_metadata_name_the_kind_of_images(channels, space):
    model = Table.root(classifier_metadata("grown", ImageInput(8, 9, channels)))
    (image,) = model.children(3)[0].children(2)
    assert image.child(3).child(1).byte(0) == space


def test_mediapipe_classifies_with_the_files_as_they_are(files):
    """MediaPipe Tasks is in no extra, as it needs OpenCV; where it is installed, it must agree."""
    mediapipe = pytest.importorskip("mediapipe", reason="needs mediapipe")
    tasks = mediapipe.tasks
    image = random_images()[0]
    for quantization, file in files.items():
        options = tasks.vision.ImageClassifierOptions(
            base_options=tasks.BaseOptions(model_asset_path=str(file))
        )
        with tasks.vision.ImageClassifier.create_from_options(options) as classifier:
            given = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=image)
            (found,) = classifier.classify(given).classifications
        assert {one.category_name for one in found.categories} == set(NAMES), quantization


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_labels_stand_in_the_file_and_any_zip_program_reads_them(files, quantization):
    assert read_labels(files[quantization]) == (NAMES, ABOUT)
    with zipfile.ZipFile(files[quantization]) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["class_names.txt", "serving.json"]


def test_fewer_bits_make_smaller_files(files):
    sizes = [files[one].stat().st_size for one in DYNAMIC]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[2] < 0.5 * sizes[0]
    assert {one: file.name for one, file in files.items()} == {
        None: "model.tflite",
        "float16": "model_float16.tflite",
        "int8": "model_int8.tflite",
        "full_int8": "model_full_int8.tflite",
    }


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"quantization": "int4"}, "`quantization` must be one of 'float16', 'int8', 'full_int8'"),
        ({"quantization": "full_int8"}, "`calibrate` must be images with quantization='full_int8'"),
        (
            {"quantization": "int8", "calibrate": random_images()},
            "`calibrate` must be left out with quantization='int8'. Received: calibrate=16 images",
        ),
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
