"""Every format says what the model in memory says, in a process with its own runtime alone."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit
import tlkit.export.client as client_program
from tests.conftest import set_seeds
from tests.export.models import HEADS, names_for, random_images, small_model
from tlkit.errors import ExportError
from tlkit.export import parity
from tlkit.export.classifying import classifying_function
from tlkit.export.formats import EXPORT_FORMATS
from tlkit.export.litert import write_litert
from tlkit.export.onnx import write_onnx
from tlkit.export.parity import accuracy_drop, ask_in_fresh_process, check_parity

FILES = [name for name, one in EXPORT_FORMATS.items() if one.packages]
RUNTIMES = {
    "saved_model": ["tensorflow"],
    "keras": ["keras", "tensorflow"],
    "litert": ["ai_edge_litert"],
    "onnx": ["onnxruntime"],
}


def needs(name):
    for module, _ in EXPORT_FORMATS[name].packages:
        pytest.importorskip(module, reason=f"{name} needs {module}")


def written(name, model, folder, kind="softmax"):
    needs(name)
    if name == "onnx":
        return write_onnx(model, folder, names_for(kind))
    if name in FILES:
        quantization = EXPORT_FORMATS[name].quantization
        return write_litert(model, folder, names_for(kind), quantization=quantization)
    report = tlkit.export_model(
        model, folder / "exported", names_for(kind), formats=(name,), fresh_process=False
    )
    return report.formats[0].path


def expected_of(model, images):
    return classifying_function(model)(tf.constant(images))["probabilities"].numpy()


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("name", EXPORT_FORMATS)
def test_every_format_agrees_for_every_head(name, kind, tmp_path):
    model, images = small_model(kind), random_images()
    path = written(name, model, tmp_path, kind)
    expected = expected_of(model, images)
    assert expected.std(axis=0).max() > 0.01  # the images are told apart
    report = check_parity(name, path, images, expected, model=model)
    assert report.name == name
    assert report.num_images == len(images)
    assert report.difference <= EXPORT_FORMATS[name].largest_difference
    assert report.load_seconds > 0
    assert report.milliseconds_per_image > 0
    assert str(report).startswith(f"{name}: probabilities within")
    assert "accuracy expected to be lower by" in str(report)


def telling_apart(backbone, kind, images):
    """A classifier whose features differ between images, whatever its weights are."""
    set_seeds(0)
    model = tlkit.build_classifier(
        backbone,
        names_for(kind),
        image_size=images.shape[1],
        weights="pretrained" if backbone == "resnet20" else None,
        binary=kind == "binary",
        multi_label=kind == "multi_label",
    )
    if backbone != "resnet20":
        # features of random weights vanish unless every layer is scaled to what comes in
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = 0.0
        model(tf.constant(images, tf.float32), training=True)
    return model


@pytest.mark.parametrize(
    ("backbone", "kind"),
    [
        ("resnet20", "softmax"),
        ("resnet8", "binary"),
        ("resnet8", "multi_label"),
        ("mobilenet_025", "softmax"),
        ("mobilenet_v3_small", "softmax"),
    ],
)
def test_every_format_passes_the_gate_for_three_backbones(backbone, kind, tmp_path):
    for name in EXPORT_FORMATS:
        needs(name)
    size = 96 if backbone.startswith("mobilenet") else 32
    images = random_images((size, size))
    model = telling_apart(backbone, kind, images)
    assert expected_of(model, images).std(axis=0).max() > 0.01
    report = tlkit.export_model(
        model, tmp_path / "out", names_for(kind), formats=tuple(EXPORT_FORMATS), samples=images
    )
    assert report.num_samples == len(images)
    assert [one.name for one in report.formats] == list(EXPORT_FORMATS)
    for one in report.formats:
        assert one.difference <= EXPORT_FORMATS[one.name].largest_difference
        assert one.accuracy_drop <= 0.03
        assert one.num_bytes > 0
        assert one.load_seconds > 0
        assert one.milliseconds_per_image > 0


@pytest.mark.parametrize("name", ["litert", "litert_float16", "onnx"])
def test_other_weights_are_refused(name, tmp_path):
    model, images = small_model(), random_images()
    path = written(name, model, tmp_path)
    model.layers[-1].kernel.assign(model.layers[-1].kernel * -1)
    with pytest.raises(ExportError, match=rf"exported {name} does not compute.*is allowed"):
        check_parity(name, path, images, expected_of(model, images), model=model)


def test_rounding_that_costs_accuracy_is_refused(tmp_path):
    model, images = small_model(), random_images()
    path = written("litert_int8", model, tmp_path)
    expected = expected_of(model, images)
    # the truth is what the model says, and the export was made of another
    swapped = expected[:, [1, 2, 0]]
    with pytest.raises(ExportError, match=r"int8 is expected to be right on .* % fewer of the 16"):
        check_parity("litert_int8", path, images, swapped, model=model)
    labels = expected.argmax(axis=1)
    report = check_parity("litert_int8", path, images, expected, model=model, labels=labels)
    assert report.accuracy_drop <= 0.03
    assert "accuracy lower by" in str(report)
    with pytest.raises(ExportError, match=r"litert_int8 is right on .* % fewer of the 16"):
        parity.compare_answers("litert_int8", swapped, expected, kind="softmax", labels=labels)


def test_a_broken_file_is_refused_with_the_runtime_s_reason(tmp_path):
    needs("onnx")
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ExportError, match=r"cannot be asked in a process that has only onnxrun"):
        ask_in_fresh_process("onnx", tmp_path / "model.onnx", random_images()[:1])


def test_nan_and_other_shapes_are_refused():
    expected = np.full((2, 3), 1 / 3)
    for name in EXPORT_FORMATS:
        with pytest.raises(ExportError, match="differ by up to nan"):
            parity.compare_answers(name, expected * np.nan, expected, kind="softmax")
    with pytest.raises(ExportError, match=r"shape \(2, 2\) where the model in memory gives"):
        parity.compare_answers("onnx", expected[:, :2], expected, kind="softmax")


def test_a_process_that_hangs_is_ended(monkeypatch, tmp_path):
    monkeypatch.setattr(parity, "TIME_LIMIT", 0.01)
    with pytest.raises(ExportError, match=r"gave no answer within 0\.01 seconds"):
        ask_in_fresh_process("onnx", tmp_path / "none", random_images()[:1])


@pytest.mark.parametrize("name", RUNTIMES)
def test_nothing_but_the_runtime_can_be_imported_there(name, tmp_path):
    path = written(name, small_model(), tmp_path)
    np.save(tmp_path / "images.npy", random_images()[:2])
    arguments = [EXPORT_FORMATS[name].runtime, path, "images.npy", "answers.npz"]
    every = ("ai_edge_litert", "keras", "onnxruntime", "tensorflow", "tlkit")
    code = (
        f"import importlib, runpy, sys; sys.argv = {['client', *map(str, arguments)]!r}\n"
        f"runpy.run_path({client_program.__file__!r}, run_name='__main__')\n"
        "found = []\n"
        f"for name in {every!r}:\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "        found.append(name)\n"
        "    except ImportError:\n"
        "        pass\n"
        "print(found)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, check=True, text=True, cwd=tmp_path
    )
    assert done.stdout.splitlines()[-1] == repr(RUNTIMES[name])
    assert np.load(tmp_path / "answers.npz")["outputs"].shape == (2, 3)


def test_the_expected_drop_is_the_drop_with_labels_on_average():
    generator = np.random.default_rng(0)
    expected = generator.dirichlet(np.ones(3), 4000)
    found = generator.dirichlet(np.ones(3), 4000)
    labels = np.array([generator.choice(3, p=row) for row in expected])
    drop = accuracy_drop(found, expected, kind="softmax")
    assert drop == pytest.approx(
        accuracy_drop(found, expected, kind="softmax", labels=labels), abs=0.03
    )
    assert drop > 0.2
    many = (generator.uniform(size=expected.shape) < expected).astype(int)
    drop = accuracy_drop(found, expected, kind="multi_label")
    assert drop == pytest.approx(
        accuracy_drop(found, expected, kind="multi_label", labels=many), abs=0.03
    )
    right = ((expected >= 0.5) == many).mean() - ((found >= 0.5) == many).mean()
    assert right == pytest.approx(accuracy_drop(found, expected, kind="multi_label", labels=many))
