"""The notebooks run from top to bottom, offline, use public names only, and show images."""

import ast
import importlib.util
import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tlkit
from tests import networks
from tlkit.models import catalogue

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
PNG = b"\x89PNG"


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Allows connections to this machine only, for a notebook's own server."""
    connect = socket.socket.connect

    def connect_here(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1"):
            raise OSError(f"there is no network: {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)


def cells_of(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source_of(cell):
    return "".join(cell["source"])


def run(path, given=(), until=None):
    """Runs the cells in order; returns the names that they define, and the displayed values.

    `given`: pairs of text in the notebook and its replacement. `until`: text in the first cell that
    is not run.
    """
    names, shown = {}, []
    for cell in cells_of(path):
        if cell["cell_type"] != "code":
            continue
        source = source_of(cell)
        if until is not None and until in source:
            return names, shown
        for old, new in given:
            source = source.replace(old, new)
        tree = ast.parse(source, path.name)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, path.name, "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), path.name, "eval"), names)
            if value is not None:
                shown.append(display_of(value))
    assert until is None, f"no cell of {path.name} holds {until!r}"
    return names, shown


def display_of(value):
    """Returns what a notebook displays for a value: an image, HTML, or plain text."""
    for method in ("_repr_png_", "_repr_html_"):
        if hasattr(value, method):
            return getattr(value, method)()
    return repr(value)


def check_feature_extraction(names):
    assert names["again"].stages[0].num_forward_passes == 0


def check_fine_tuning(names):
    first, *_, last = names["report"].stages
    assert first.weight_change["stage1"] == first.weight_change["stage2"] == 0.0
    assert all((last.put_back or last.weight_change).values())


def check_constrain(names):
    """Checks what holds on any processor; accuracies after four epochs do not."""
    assert set(names["results"]) == {"plain", "anchor", "EWC", "mixed"}
    free, *anchored = names["anchor"].report.trials
    # 44 times less in the notebook as it is
    assert all(trial.drift < free.drift / 5 for trial in anchored)
    means = np.mean(list(names["sweep"].accuracies.values()), axis=0)
    assert means[names["sweep"].alphas.index(names["sweep"].best_alpha)] == means.max()


def check_extend(names):
    assert (names["new_logits"][:, :7] == names["old_logits"]).all()
    assert names["growth"]["new_after"] > names["growth"]["new_before"]
    assert names["report"].has_grown
    assert names["report"].old_accuracy_after == names["report"].old_accuracy_before
    assert len(names["plain"].layers) == len(names["small"].layers)


def check_class_after_class(names):
    reached = names["accuracy"]
    assert set(reached) == {"exact", "replay", "isolated", "fine-tuning", "all images"}
    assert all(len(one) == names["NUM_STEPS"] for one in reached.values())
    assert names["smaller"].class_names == names["data"].class_names[1:]


def check_choose_backbone(names):
    assert names["comparison"].best.name == "resnet20"
    assert names["similarity"].knows_more_than_chance


def check_export_and_serve(names):
    assert [one.name for one in names["report"].formats] == names["FORMATS"]
    assert names["health"]["class_names"] == list(names["data"].class_names)
    assert names["answer"]["label"] == names["answers"]["label"].numpy()[0].decode()


def check_texts(names):
    assert names["evaluation"].accuracy > 0.9
    assert names["answers"]["label"].numpy()[0] == b"negative"
    assert names["old"].train.example_dtype == "string"


CHECKS = {
    name.removeprefix("check_"): check
    for name, check in globals().items()
    if name.startswith("check_")
}


UNTIL = {
    "feature_extraction": "tlkit.build_classifier",
    "fine_tuning": "tlkit.build_classifier",
    "constrain": "tlkit.build_classifier",
    "extend": "tlkit.train_run",
    "class_after_class": "tlkit.train_run",
    "choose_backbone": "tlkit.compare_backbones",
    "export_and_serve": "subprocess.Popen",
    "texts": "import tempfile",
}
"""Text of the first cell that is not run with a reader's own images."""

SMALLER = [
    ("max_trials=3", "max_trials=1"),
    ("num_samples=200", "num_samples=20"),
    ('"epochs": 4', '"epochs": 2'),
    ("NUM_STEPS = 5", "NUM_STEPS = 3"),
    ("EPOCHS = 3", "EPOCHS = 1"),
]
"""Replacements that make notebooks faster in the tests."""

FEW_FORMATS = 'FORMATS = ["saved_model", "keras"]'


NEEDS_PRETRAINED = {"feature_extraction", "choose_backbone"}
"""Notebooks whose checks do not hold with a small network and random weights."""


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, monkeypatch):
    if path.stem not in NEEDS_PRETRAINED:
        small = networks.small_version("resnet20")
        monkeypatch.setitem(catalogue._BUILT_IN, "resnet20", small)
    names, shown = run(path, SMALLER)
    assert any(isinstance(one, bytes) and one.startswith(PNG) for one in shown)
    CHECKS[path.stem](names)


def test_connections_to_other_machines_are_refused():
    with pytest.raises(OSError, match="there is no network"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)


def test_every_notebook_has_a_check():
    assert set(CHECKS) == set(UNTIL) == {path.stem for path in NOTEBOOKS}


OF_IMAGES = [path for path in NOTEBOOKS if path.stem != "texts"]


def write_own_photos(folder, names):
    """Images of different sizes and shapes, 12 of each class."""
    generator = np.random.default_rng(0)
    for index, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            height, width = 40 + 7 * number, 90 - 4 * number
            pixels = generator.integers(0, 156, (height, width, 3), dtype=np.uint8)
            pixels[:, :, index % 3] += 100
            Image.fromarray(pixels).save(folder / name / f"{number}.jpg")
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize("path", OF_IMAGES, ids=lambda path: path.stem)
def test_a_notebook_takes_images_of_different_sizes(path, tmp_path):
    photos = write_own_photos(tmp_path / "photos", ["ant", "bee"])
    more = write_own_photos(
        tmp_path / "more", ["cow", "dog"] if path.stem == "extend" else ["ant", "bee"]
    )
    given = [
        ("OLD_PHOTOS, NEW_PHOTOS = None, None", f"OLD_PHOTOS, NEW_PHOTOS = {photos!r}, {more!r}"),
        ("PHOTOS = None", f"PHOTOS = {photos!r}"),
        ('FORMATS = ["saved_model", "keras", "litert", "litert_int8", "onnx"]', FEW_FORMATS),
    ]
    names, shown = run(path, given, UNTIL[path.stem])
    data = names["data"] if "data" in names else names["old"]
    assert data.train.paths[0].startswith(photos)
    assert any(isinstance(one, bytes) and one.startswith(PNG) for one in shown)
    if path.stem == "export_and_serve":
        assert data.validation.num_images < 20
        assert "too few validation images" in shown[0]
        assert names["report"].num_samples == data.test.num_images


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_uses_public_names_only(path):
    for cell in cells_of(path):
        for node in ast.walk(ast.parse(source_of(cell) if cell["cell_type"] == "code" else "")):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("tlkit"), node.module
            if isinstance(node, ast.Import):
                assert not any(name.name.startswith("tlkit.") for name in node.names)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.value.id != "tlkit" or node.attr in tlkit.__all__, node.attr


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_begins_with_its_question_and_ends_with_what_to_remember(path):
    cells = cells_of(path)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    assert source_of(cells[0]).startswith("# ")
    assert source_of(cells[-1]).startswith("## What to remember")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize("is_missing", [True, False])
def test_the_first_cell_installs_tlkit_where_it_is_missing(path, is_missing, monkeypatch):
    commands = []
    spec = None if is_missing else object()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: {"tlkit": spec}[name])
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    first = next(cell for cell in cells_of(path) if cell["cell_type"] == "code")
    exec(source_of(first), {})
    install = [sys.executable, "-m", "pip", "install", "--quiet", ".."]
    assert commands == ([install] if is_missing else [])
    assert (path.parent / ".." / "setup.cfg").is_file()


@pytest.mark.parametrize("path", OF_IMAGES, ids=lambda path: path.stem)
def test_a_notebook_takes_a_folder_or_a_data_set_of_the_reader(path):
    text = "\n".join(source_of(cell) for cell in cells_of(path))
    assert "PHOTOS = None" in text or "OLD_PHOTOS, NEW_PHOTOS = None, None" in text
    assert 'tlkit.load_tfds("' in text


@pytest.mark.slow
def test_the_notebook_of_texts_takes_those_of_the_reader():
    (path,) = (path for path in NOTEBOOKS if path not in OF_IMAGES)
    texts = [f"a {word} book, number {number}" for number in range(9) for word in ("witty", "dull")]
    given = [
        ("TEXTS, LABELS = None, None", f"TEXTS, LABELS = {texts!r}, {[1, 0] * 9}"),
        ("EPOCHS = 5", "EPOCHS = 1"),
        ("epochs=20", "epochs=5"),
    ]
    names, _ = run(path, given, UNTIL[path.stem])
    assert names["new"].train.paths[0].startswith("inputs[")
    assert names["evaluation"].num_images == names["new"].test.num_images < 18
