"""The floors: files import from lower floors or from their own folder only."""

import ast
import importlib
import inspect
import re
import runpy
import subprocess
import sys
import textwrap
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import tlkit

PACKAGE = Path(tlkit.__file__).parent

# The room of a file is its folder, or the file itself at the top level
FLOORS = {
    "errors": 0,
    "displays": 0,
    "utils": 1,
    "data": 2,
    "distribution": 2,
    "models": 2,
    "tracking": 2,
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


def test_few_dicts_are_untyped_and_no_function_is_long():
    counts = runpy.run_path(str(PACKAGE.parent / ".ci" / "counts.py"))["count"](PACKAGE)
    assert counts.untyped_dicts <= 25
    assert counts.gathered_locals == 0
    assert counts.long_functions == 0


def test_every_room_has_a_floor():
    assert {path.parts[0].removesuffix(".py") for path in FILES} - {"__init__"} == set(FLOORS)


def test_the_documentation_draws_the_floors_as_they_are():
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
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
def test_tensorflow_is_not_loaded_before_it_is_needed(code):
    check = f"{code}\nimport sys; sys.exit(int('tensorflow' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, check=False)
    assert done.returncode == 0


# Files that use parts of libraries that are not public, each with its reason and with a canary in
# tests/test_private_api.py
PRIVATE = (
    "utils/keras_private.py",
    "utils/tensorflow_private.py",
    "utils/signals.py",  # atexit
    "training/keras_workers.py",
    "serving/connections.py",  # uvicorn
    "plots/figure.py",  # matplotlib
)
UNSTABLE = ("keras.src", "tensorflow.python", "tensorflow.core", "uvicorn.protocols")

DOCUMENTED = {"_exit"}
"""Documented names with a leading underscore: `os._exit`."""


def is_private(name):
    return name.startswith("_") and not name.endswith("_") and name not in DOCUMENTED


def private_uses(tree):
    """Yields line and name of private names that a module reads, sets or imports from others."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", "") or ""
            for name in node.names:
                if f"{module}.{name.name}".lstrip(".").startswith(UNSTABLE) or (
                    is_private(name.name) and not module.startswith("tlkit")
                ):
                    yield node.lineno, name.name
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            if not isinstance(node.value, ast.Name) or node.value.id not in ("self", "cls"):
                yield node.lineno, node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if node.value.startswith(UNSTABLE):
                yield node.lineno, node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            named = node.args[1] if len(node.args) > 1 else None
            if node.func.id in ("getattr", "setattr", "hasattr", "delattr") and (
                isinstance(named, ast.Constant) and is_private(named.value)
            ):
                yield node.lineno, named.value


def own_names(tree):
    """Yields the names that a class or module defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and (
            isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
        ):
            yield node.attr


def tree_of(path):
    return ast.parse((PACKAGE / path).read_text(encoding="utf-8"))


PUBLIC = [path for path in FILES if path.as_posix() not in PRIVATE]
OTHERS = {name for path in PRIVATE for _, name in private_uses(tree_of(path))}
"""Private names of libraries, which tlkit's own classes must not define."""


@pytest.mark.parametrize("path", PUBLIC, ids=str)
def test_private_parts_of_libraries_are_used_in_the_listed_files_only(path):
    tree = tree_of(path)
    allowed = set(own_names(tree)) - OTHERS
    uses = [(line, name) for line, name in private_uses(tree) if name not in allowed]
    assert not uses, f"{path}: give it a function and a canary, see tlkit/utils/keras_private.py"


def is_own(kind):
    return kind.__module__.startswith("tlkit.")


def private_names(kind):
    """Returns the private names that a class defines, and those that it reads of itself."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    read = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("self", "cls")
    }
    return set(filter(is_private, own_names(tree))), set(filter(is_private, read))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        pytest.param(path, node.name, id=f"{path.stem}.{node.name}")
        for path in PUBLIC
        for node in tree_of(path).body
        if isinstance(node, ast.ClassDef) and node.bases
    ],
)
def test_a_subclass_of_a_librarys_class_uses_no_private_part_of_it(path, name):
    """It reads only its own private names, and none of them overrides one of the library."""
    module = importlib.import_module(".".join(("tlkit", *path.with_suffix("").parts)))
    kinds = getattr(module, name).__mro__
    own, read = private_names(kinds[0])
    inherited = {one for kind in kinds[1:] if is_own(kind) for one in private_names(kind)[0]}
    assert read <= own | inherited
    assert not own & {one for kind in kinds if not is_own(kind) for one in dir(kind)}


@pytest.mark.parametrize(
    "line",
    [
        "tensor._keras_history",
        "getattr(model, '_layers', ())",
        "setattr(model, '_tlkit_note', 1)",
        "import tensorflow.python.eager",
        "from keras.src import ops",
        "from keras.layers import _Merge",
        "kind.__module__.startswith('keras.src.ops.')",
        "super()._compute_loss()",
    ],
)
def test_private_uses_are_detected(line):
    assert list(private_uses(ast.parse(line)))
    assert not list(private_uses(ast.parse("os._exit(0), self._own, figure._repr_html_()")))
