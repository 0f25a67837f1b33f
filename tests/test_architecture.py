"""The floors: imports run to lower floors or within a folder, never upwards or sideways."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import tlkit

PACKAGE = Path(tlkit.__file__).parent

# The room of a file is its folder, or the file itself where it stands alone
FLOORS = {
    "errors": 0,
    "displays": 0,
    "utils": 1,
    "data": 2,
    "distribution": 2,
    "models": 2,
    "evaluation": 3,
    "training": 4,
    "advice": 5,
    "continual": 5,
    "export": 5,
    "plots": 6,
    "serving": 6,
    "runs": 7,
    "cli": 8,
    "__main__": 9,
}
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def room_of(module):
    return module.split(".")[1] if "." in module else "__init__"


def imported_modules(path):
    for node in ast.walk(ast.parse((PACKAGE / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tlkit."):
            yield node.module
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith("tlkit."))


@pytest.mark.parametrize("path", [p for p in FILES if p.name != "__init__.py"], ids=str)
def test_imports_run_downwards(path):
    room = path.parts[0].removesuffix(".py")
    for module in imported_modules(path):
        other = room_of(module)
        allowed = FLOORS[other] < FLOORS[room] or (other == room and len(path.parts) > 1)
        assert allowed, f"{path} imports {module}"


@pytest.mark.parametrize("path", [p for p in FILES if len(p.parts) > 1], ids=str)
def test_no_file_imports_from_a_package(path):
    """Names come from the module that defines them, so that no import can run in a circle."""
    for module in imported_modules(path):
        assert (PACKAGE / Path(*module.split(".")[1:])).with_suffix(".py").is_file(), module


def test_no_imports_run_in_a_circle():
    """Among files, whether an import stands at the top, in a function or under TYPE_CHECKING."""
    graph = {
        f"tlkit.{'.'.join(path.with_suffix('').parts)}": set(imported_modules(path))
        for path in FILES
        if path.name != "__init__.py"
    }
    TopologicalSorter(graph).prepare()  # names a circle where there is one


def test_every_room_has_a_floor():
    assert {path.parts[0].removesuffix(".py") for path in FILES} - {"__init__"} == set(FLOORS)


def test_the_readme_draws_the_floors_as_they_are():
    text = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    drawn = re.findall(r"^(\d)  ((?:\w+  )*\w+)   ", text, re.MULTILINE)
    assert [int(floor) for floor, _ in drawn] == list(range(max(FLOORS.values()), -1, -1))
    assert {room for _, rooms in drawn for room in rooms.split()} == set(FLOORS)
    for floor, rooms in drawn:
        assert all(FLOORS[room] == int(floor) for room in rooms.split()), rooms


def test_every_public_name_exists_and_is_documented():
    for name in tlkit.__all__:
        value = getattr(tlkit, name)
        assert name == "__version__" or value.__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'load_folders'"):
        _ = tlkit.load_folders


@pytest.mark.parametrize(
    "code",
    [
        "import tlkit",
        "import tlkit.runs.train, tlkit.runs.directory, tlkit.models.catalogue, tlkit.data.folders",
        "import sys; sys.argv = ['tlkit', '--help']\n"
        "import tlkit.cli\ntry:\n    tlkit.cli.main()\nexcept SystemExit:\n    pass",
    ],
)
def test_nothing_loads_tensorflow_before_it_is_needed(code):
    check = f"{code}\nimport sys; sys.exit(int('tensorflow' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, check=False)
    assert done.returncode == 0
