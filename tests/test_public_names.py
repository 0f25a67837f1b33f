"""The public names are the same at run time, for type checkers and for completion."""

import ast
import json
import pkgutil
import pydoc
import re
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

import jedi
import pytest

import tlkit

ROOT = Path(tlkit.__file__).parents[1]
CLIENT = Path(__file__).with_name("typed_client.py")
WRONG = [
    number
    for number, line in enumerate(CLIENT.read_text("utf-8").splitlines(), start=1)
    if line.endswith("  # wrong")
]
PUBLIC = [name for name in tlkit.__all__ if name != "__version__"]


def names_for_checkers():
    """Yields name and module of everything under `TYPE_CHECKING`."""
    tree = ast.parse(Path(tlkit.__file__).read_text("utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    for node in block.body:
        for alias in node.names:
            assert alias.asname == alias.name, f"{alias.name} is not exported"
            yield alias.name, node.module


def test_names_at_run_time_are_those_for_checkers():
    listed = list(names_for_checkers())
    assert len(listed) == len(dict(listed)) == len(PUBLIC)
    assert dict(listed) == tlkit._HOME
    for name, module in listed:
        assert getattr(tlkit, name) is getattr(sys.modules[module], name)


def test_every_public_object_has_its_public_name():
    for name in PUBLIC:
        value = getattr(tlkit, name)
        assert value.__name__ == name
        assert value.__module__ == tlkit._HOME[name]
    text = pydoc.plain(pydoc.render_doc(tlkit.plot_training))
    assert re.search(r"\nplot_training\(\s*report", text)  # Python 3.13 breaks long lines


def test_dir_lists_the_public_names():
    assert dir(tlkit) == sorted(tlkit.__all__)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("load_foldr", "'load_folder'"),
        ("load_folders", "'load_folder'"),
        ("finetune", "'fine_tune'"),
        ("Stages", "'Stage'"),
        ("plot_trainings", "'plot_training'"),
    ],
)
def test_the_error_for_a_misspelled_name_has_near_matches_once(name, near):
    with pytest.raises(AttributeError, match="no attribute") as caught:
        getattr(tlkit, name)
    assert str(caught.value).startswith(
        f"module 'tlkit' has no attribute {name!r}. Did you mean {near}"
    )
    shown = "".join(traceback.format_exception(caught.value))
    assert shown.lower().count("did you mean") == 1


def test_the_error_for_an_unrelated_name_has_no_near_matches():
    with pytest.raises(AttributeError, match=r"^module 'tlkit' has no attribute 'qqqqqqq'\.$"):
        _ = tlkit.qqqqqqq
    assert not hasattr(tlkit, "__wrapped__")


def test_mypy_finds_the_errors_of_a_client(tmp_path):
    command = [
        *(sys.executable, "-m", "mypy", "--config-file=", "--follow-imports=silent"),
        *("--ignore-missing-imports", "--no-error-summary", "--no-pretty", "--hide-error-context"),
        *("--cache-dir", str(tmp_path), str(CLIENT)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    errors = re.findall(rf"{CLIENT.name}:(\d+): error", done.stdout)
    assert sorted({int(number) for number in errors}) == WRONG, done.stdout + done.stderr


def test_pyright_finds_the_errors_of_a_client():
    pyright = shutil.which("pyright")
    if pyright is None:
        pytest.skip("pyright is not installed; mypy checks the same file")
    command = [pyright, "--pythonpath", sys.executable, "--outputjson", str(CLIENT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    found = json.loads(done.stdout)["generalDiagnostics"]
    errors = {one["range"]["start"]["line"] + 1 for one in found if one["severity"] == "error"}
    assert sorted(errors) == WRONG, found


def completions(code):
    """Returns the completions at the end of the code; no code is run."""
    line = code.count("\n") + 1
    project = jedi.Project(ROOT, added_sys_path=[str(ROOT)])
    return [one.name for one in jedi.Script(code, project=project).complete(line)]


def test_completion_offers_the_public_names_and_no_internals_before_them():
    offered = completions("import tlkit\ntlkit.")
    assert set(PUBLIC) <= set(offered)
    first = [name for name in offered if not name.startswith("_")]
    assert offered[: len(first)] == first
    modules = {module.name for module in pkgutil.iter_modules(tlkit.__path__)}
    assert set(first) - set(PUBLIC) <= modules


def test_completion_knows_the_types_of_public_names():
    assert completions("import tlkit\ntlkit.plot_tr") == ["plot_training"]
    assert "dataset" in completions("import tlkit\ntlkit.load_folder('x').train.")


def test_completion_in_a_session_does_not_load_tensorflow():
    code = (
        "import jedi, sys, tlkit\n"
        "offered = jedi.Interpreter('tlkit.', [{'tlkit': tlkit}]).complete()\n"
        "assert [one.name for one in offered if one.name != '__version__'] == sorted("
        "tlkit._HOME, key=str.lower)\n"
        "assert 'tensorflow' not in sys.modules\n"
        "assert 'matplotlib' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
