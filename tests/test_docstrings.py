"""Docstrings describe all arguments and mention only names that exist."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

import tlkit

PACKAGE = Path(tlkit.__file__).parent
PROGRAMS = ("tlkit.__main__", "tlkit.export.client")
MODULES = sorted(
    name
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
    and (name := ".".join(("tlkit", *path.relative_to(PACKAGE).with_suffix("").parts)))
    not in PROGRAMS
)
PUBLIC = sorted(set(tlkit.__all__) - {"__version__"})


def section(docstring, title):
    """The lines of a Google section, dedented."""
    lines = inspect.cleandoc(docstring).splitlines()
    if f"{title}:" not in lines:
        return []
    rest = lines[lines.index(f"{title}:") + 1 :]
    end = next((i for i, line in enumerate(rest) if line and not line.startswith(" ")), len(rest))
    return inspect.cleandoc("\n".join(rest[:end])).splitlines()


def described(docstring):
    """Names under `Args:`, without the stars of `*args` and `**kwargs`."""
    return [
        match[1]
        for line in section(docstring, "Args")
        if (match := re.match(r"\*{0,2}(\w+):", line))
    ]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_argument_of_a_public_name_is_described(name):
    value = getattr(tlkit, name)
    if inspect.isclass(value) and issubclass(value, BaseException):
        return
    assert described(value.__doc__) == list(inspect.signature(value).parameters)


def test_an_outdated_docstring_is_detected():
    def outdated(old_name):
        """Does something.

        Args:
            new_name: Another name of the argument,
                on two lines.
            **others: More.

        Raises:
            ValueError: never.
        """

    assert described(outdated.__doc__) == ["new_name", "others"]


@pytest.mark.parametrize("name", MODULES)
def test_names_of_tlkit_in_docstrings_exist(name):
    source = Path(importlib.import_module(name).__file__).read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            for dotted in re.findall(r"`(tlkit(?:\.\w+)+)", ast.get_docstring(node) or ""):
                assert resolves(dotted), dotted


def resolves(dotted):
    """Whether a module or an attribute has this name."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            if not hasattr(value, attribute):
                return False
            value = getattr(value, attribute)
        return True
    return False
