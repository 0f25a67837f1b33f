"""Every format agrees with the model in memory, in a process with nothing but its runtime."""

import subprocess
import sys
from contextlib import nullcontext

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
from tlkit.export.parity import accuracy_drop, check_parity, run_in_fresh_process

FILES = [name for name, spec in EXPORT_FORMATS.items() if spec.packages]
RUNTIMES = {
    "saved_model": ["tensorflow"],
    "keras": ["keras", "tensorflow"],
    "litert": ["ai_edge_litert"],
    "onnx": ["onnxruntime"],
}


def needs(name):
    for module, _ in EXPORT_FORMATS[name].packages:
        pytest.importorskip(module, reason=f"{name} needs {module}")


def write(name, model, folder, kind="softmax"):
    needs(name)
    if name == "onnx":
        return write_onnx(model, folder, names_for(kind))
    if name in FILES:
        spec = EXPORT_FORMATS[name]
        return write_litert(
            model,
            folder,
            names_for(kind),
            quantization=spec.quantization,
            calibrate=random_images() if spec.needs_images else None,
        )
    report = tlkit.export_model(
        model, folder / "exported", names_for(kind), formats=(name,), fresh_process=False
    )
    return report.formats[0].path


def expected_of(model, images):
    return classifying_function(model)(tf.constant(images))["probabilities"].numpy()


@pytest.mark.slow
@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("name", EXPORT_FORMATS)
def test_every_format_agrees_for_every_head(name, kind, tmp_path):
    model, images = small_model(kind), random_images()
    path = write(name, model, tmp_path, kind)
    expected = expected_of(model, images)
    assert expected.std(axis=0).max() > 0.01  # probabilities differ between images
    report = check_parity(name, path, images, expected, model=model)
    assert report.name == name
    assert report.num_images == len(images)
    assert report.difference <= EXPORT_FORMATS[name].largest_difference
    assert report.load_seconds > 0
    assert report.milliseconds_per_image > 0
    assert str(report).startswith(f"{name}: probabilities within")
    assert "accuracy expected to be lower by" in str(report)


def discriminating_classifier(backbone, kind, images):
    """A classifier whose features differ between images, whatever its weights are."""
    set_seeds(0)
    model = tlkit.build_classifier(
        backbone,
        names_for(kind),
        image_size=images.shape[1],
        weights="pretrained" if backbone == "resnet20" else None,
        multi_label=kind == "multi_label",
    )
    if backbone != "resnet20":
        # features of random weights vanish unless every layer is scaled to its inputs
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = 0.0
        model(tf.constant(images, tf.float32), training=True)
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "kind"), [("resnet20", "multi_label"), ("mobilenet_v3_small", "softmax")]
)
def test_every_format_passes_the_checks_for_several_backbones(backbone, kind, tmp_path):
    for name in EXPORT_FORMATS:
        needs(name)
    size = 96 if backbone.startswith("mobilenet") else 32
    images = random_images((size, size))
    model = discriminating_classifier(backbone, kind, images)
    assert expected_of(model, images).std(axis=0).max() > 0.01
    report = tlkit.export_model(
        model,
        tmp_path / "out",
        names_for(kind),
        formats=tuple(EXPORT_FORMATS),
        samples=images,
        calibrate=images,
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
    path = write(name, model, tmp_path)
    model.layers[-1].kernel.assign(model.layers[-1].kernel * -1)
    with pytest.raises(ExportError, match=rf"exported {name} must give the same probabilities"):
        check_parity(name, path, images, expected_of(model, images), model=model)


def test_rounding_that_costs_too_much_accuracy_is_refused(tmp_path):
    model, images = small_model(), random_images()
    path = write("litert_int8", model, tmp_path)
    expected = expected_of(model, images)
    # the predictions of the model count as true, and the export is of another model
    swapped = expected[:, [1, 2, 0]]
    lower = r"is expected to be lower by [\d.]+ points on 16"
    with pytest.raises(ExportError, match=rf"int8 must lose at most 3 points.*accuracy {lower}"):
        check_parity("litert_int8", path, images, swapped, model=model)
    labels = expected.argmax(axis=1)
    report = check_parity("litert_int8", path, images, expected, model=model, labels=labels)
    assert report.accuracy_drop <= 0.03
    assert "accuracy lower by" in str(report)
    assert report.comparison.num_images == len(images)
    assert report.comparison.difference == pytest.approx(-report.accuracy_drop)
    arguments = {"kind": "softmax", "labels": labels}
    with pytest.raises(ExportError, match=r"accuracy is lower by [\d.]+ points on 16"):
        parity.compare_probabilities("litert_int8", swapped, expected, **arguments)


@pytest.mark.parametrize(("num_images", "is_refused"), [(20, False), (40, True)])
def test_of_few_images_one_may_be_lost(num_images, is_refused):
    """One of 20 images is 5 points, and two of 40 are, too."""
    labels = np.zeros(num_images, int)
    expected = np.tile([0.9, 0.1], (num_images, 1))
    exported = expected.copy()
    exported[: num_images // 20] = [0.4, 0.6]
    arguments = {"kind": "softmax", "labels": labels}
    expectation = pytest.raises(ExportError, match=r"lower by 5\.0 points") if is_refused else None
    with expectation or nullcontext():
        parity.compare_probabilities("litert_full_int8", exported, expected, **arguments)


def test_the_error_about_a_broken_file_has_the_runtimes_reason(tmp_path):
    needs("onnx")
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ExportError, match=r"cannot be run in a process that has only onnxruntime"):
        run_in_fresh_process("onnx", tmp_path / "model.onnx", random_images()[:1])


def test_nan_and_other_shapes_are_refused():
    expected = np.full((2, 3), 1 / 3)
    for name in EXPORT_FORMATS:
        with pytest.raises(ExportError, match="differ by up to nan"):
            parity.compare_probabilities(name, expected * np.nan, expected, kind="softmax")
    with pytest.raises(ExportError, match=r"of the shape \(2, 3\).*Received: shape \(2, 2\)"):
        parity.compare_probabilities("onnx", expected[:, :2], expected, kind="softmax")


def test_a_process_that_hangs_is_ended(monkeypatch, tmp_path):
    monkeypatch.setattr(parity, "TIME_LIMIT", 0.01)
    with pytest.raises(ExportError, match=r"gave no output within 0\.01 seconds"):
        run_in_fresh_process("onnx", tmp_path / "none", random_images()[:1])


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNTIMES)
def test_nothing_but_the_runtime_can_be_imported_in_the_process(name, tmp_path):
    path = write(name, small_model(), tmp_path)
    np.save(tmp_path / "images.npy", random_images()[:2])
    arguments = [EXPORT_FORMATS[name].runtime, path, "images.npy", "answers.npz"]
    packages = ("ai_edge_litert", "keras", "onnxruntime", "tensorflow", "tlkit")
    code = (
        f"import importlib, runpy, sys; sys.argv = {['client', *map(str, arguments)]!r}\n"
        f"runpy.run_path({client_program.__file__!r}, run_name='__main__')\n"
        "importable = []\n"
        f"for name in {packages!r}:\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "        importable.append(name)\n"
        "    except ImportError:\n"
        "        pass\n"
        "print(importable)"
    )
    completed = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, check=True, text=True, cwd=tmp_path
    )
    assert completed.stdout.splitlines()[-1] == repr(RUNTIMES[name])
    assert np.load(tmp_path / "answers.npz")["outputs"].shape == (2, 3)


def test_the_expected_drop_is_the_average_of_the_measured_drop():
    generator = np.random.default_rng(0)
    expected = generator.dirichlet(np.ones(3), 4000)
    exported = generator.dirichlet(np.ones(3), 4000)
    labels = np.array([generator.choice(3, p=row) for row in expected])
    drop = accuracy_drop(exported, expected, kind="softmax")
    measured = accuracy_drop(exported, expected, kind="softmax", labels=labels)
    assert drop == pytest.approx(measured, abs=0.03)
    assert drop > 0.2
    labels = (generator.uniform(size=expected.shape) < expected).astype(int)
    drop = accuracy_drop(exported, expected, kind="multi_label")
    measured = accuracy_drop(exported, expected, kind="multi_label", labels=labels)
    assert drop == pytest.approx(measured, abs=0.03)
    counted = ((expected >= 0.5) == labels).mean() - ((exported >= 0.5) == labels).mean()
    assert measured == pytest.approx(counted)
