"""The documentation: its code runs, its reference is complete, and the README is short."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from typer.main import get_command

import tlkit
from tests.conftest import write_photos
from tests.page_blocks import RUN, blocks_of
from tlkit import cli

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
WITH_CODE = [
    path
    for path in PAGES
    if any(
        block.language in RUN and block.reason is None
        for block in blocks_of(path.read_text(encoding="utf-8"))
    )
]
WEIGHTS_FILE = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
"""The file that Keras would download for the network of its own in the pages."""

MAX_NOT_RUN = 6
MAX_README_LINES = 130
IMAGES_OF_A_CLASS = 14
NUM_GROUPS = 2
"""Pages are run in so many processes, as importing TensorFlow takes longer than many a block."""


@pytest.fixture(scope="module")
def keras_home(tmp_path_factory):
    """Keras's folder with a weights file of the expected name and random content."""
    home = tmp_path_factory.mktemp("keras")
    (home / "models").mkdir()
    network = keras.applications.MobileNetV2((224, 224, 3), include_top=False, weights=None)
    network.save(home / "models" / WEIGHTS_FILE)
    return home


GROUPS = [WITH_CODE[number::NUM_GROUPS] for number in range(NUM_GROUPS)]


@pytest.mark.slow
@pytest.mark.parametrize("pages", GROUPS, ids=lambda pages: " ".join(path.stem for path in pages))
def test_the_code_of_pages_runs(pages, tmp_path, keras_home):
    names = ("daisy", "roses", "tulips")
    arguments = []
    for path in pages:
        folder = tmp_path / path.stem
        write_photos(folder / "flowers", dict.fromkeys(names, IMAGES_OF_A_CLASS), size=48)
        write_photos(folder / "more_flowers", dict.fromkeys(names, IMAGES_OF_A_CLASS), 48, seed=1)
        (folder / "new.jpg").write_bytes((folder / "more_flowers/roses/000.jpg").read_bytes())
        (folder / "new").mkdir()
        (folder / "new" / "one.jpg").write_bytes((folder / "new.jpg").read_bytes())
        arguments += [str(path), str(folder)]
    environment = {
        **os.environ,
        "KERAS_HOME": str(keras_home),
        "MPLBACKEND": "agg",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.page_blocks", *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"


def test_blocks_that_are_not_run_are_few_and_have_a_reason():
    reasons = {
        f"{path.name}:{block.line}": block.reason
        for path in PAGES
        for block in blocks_of(path.read_text(encoding="utf-8"))
        if block.reason is not None
    }
    assert len(reasons) <= MAX_NOT_RUN, reasons
    assert all(len(reason.split()) >= 3 for reason in reasons.values()), reasons


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_code_uses_public_names_only(path):
    for block in blocks_of(path.read_text(encoding="utf-8")):
        if block.language != "python":
            continue
        for node in ast.walk(ast.parse(block.code)):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("tlkit"), node.module
            if isinstance(node, ast.Import):
                assert not any(name.name.startswith("tlkit.") for name in node.names)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.value.id != "tlkit" or node.attr in tlkit.__all__, node.attr


def test_every_fence_has_a_language():
    for path in PAGES:
        languages = {block.language for block in blocks_of(path.read_text(encoding="utf-8"))}
        assert languages <= {*RUN, "text", "json", "mermaid"}, path


def test_the_readme_is_short_and_keeps_its_two_commands():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_README_LINES
    commands = [line for line in lines if line.startswith("python3 -m venv ")]
    assert len(commands) == 2
    assert commands[0].endswith("tlkit demo")
    assert "pytest" in commands[1]


def test_every_public_name_is_in_the_reference_once():
    shown = [
        name
        for path in sorted((DOCS / "reference").glob("*.md"))
        for name in re.findall(r"^::: tlkit\.(\w+)$", path.read_text("utf-8"), re.MULTILINE)
    ]
    assert sorted(shown) == sorted(name for name in tlkit.__all__ if name != "__version__")


def test_every_command_has_its_table_of_options():
    """The tables are made from the commands when the pages are built."""
    page = (DOCS / "command_line.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## `tlkit ([\w-]+)", page, re.MULTILINE)
    tables = re.findall(r"^<!-- options of ([\w-]+) -->$", page, re.MULTILINE)
    assert headings == tables
    assert sorted(headings) == sorted(get_command(cli.app).commands)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_page_of_a_notebook_shows_its_cells_with_results_and_no_local_paths(path):
    page = (DOCS / "notebooks" / f"{path.stem}.md").read_text(encoding="utf-8")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    start = 0
    for cell in cells:
        start = page.find("".join(cell["source"]), start)
        assert start >= 0, "".join(cell["source"])
    assert "```text\n" in page
    for image in re.findall(r"\]\((images/[^)]*)\)", page):
        assert (DOCS / "notebooks" / image).is_file()
    assert re.search(r"images/\w+\.png", page)
    assert not re.search(r"/(tmp|home|root|work|Users)/", page)


def test_images_are_small_enough_to_load():
    for path in DOCS.rglob("*.png"):
        assert path.stat().st_size < 200_000, path
