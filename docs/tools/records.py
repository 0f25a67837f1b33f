"""Adds to each reference page the records that its functions return.

A page lists only public names, as `::: tlkit.NAME`. The classes that these return, and the classes
of their attributes, are looked up in the source, so that no page changes when a module is moved.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).parents[2]
_PUBLIC = re.compile(r"^::: tlkit\.(\w+)$", re.MULTILINE)
_PACKAGE: dict[str, griffe.Module] = {}
_RECORDS: dict[str, list[str]] = {}


def on_nav(nav: Any, **_: Any) -> None:
    """Reads the package, and assigns each record to the first page that needs it."""
    package = griffe.load("tlkit", search_paths=[ROOT], resolve_aliases=True)
    _PACKAGE["tlkit"] = package
    public = {
        name: package[name].final_target
        for name, member in package.members.items()
        if member.is_alias and not name.startswith("_")
    }
    shown = {target.canonical_path for target in public.values()}
    _RECORDS.clear()
    for page in nav.pages:
        names = _PUBLIC.findall(Path(page.file.abs_src_path).read_text(encoding="utf-8"))
        found = dict.fromkeys(path for name in names for path in records_of(public[name]))
        _RECORDS[page.file.src_uri] = [path for path in found if path not in shown]
        shown.update(found)


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Appends its records to a reference page."""
    records = _RECORDS.get(page.file.src_uri)
    if not records:
        return markdown
    blocks = [f"::: {path}\n    options:\n      heading_level: 3\n" for path in records]
    return "\n".join([markdown, "## Returned records\n", *blocks])


def records_of(target: griffe.Object, seen: set[str] | None = None) -> Iterator[str]:
    """Yields the paths of the tlkit classes that a function returns, and of their attributes."""
    seen = set() if seen is None else seen
    for annotation in annotations_of(target):
        for found in classes_in(annotation):
            if found.canonical_path not in seen and found.docstring is not None:
                seen.add(found.canonical_path)
                yield found.canonical_path
                yield from records_of(found, seen)


def annotations_of(target: griffe.Object) -> Iterator[griffe.Expr]:
    """Yields the return annotation of a function, or those of a class's public attributes."""
    if isinstance(target, griffe.Function):
        yield from filter(is_expression, [target.returns])
    if isinstance(target, griffe.Class):
        for name, member in target.members.items():
            if not name.startswith("_") and isinstance(member, griffe.Attribute):
                yield from filter(is_expression, [member.annotation])


def is_expression(annotation: Any) -> bool:
    """Whether an annotation is an expression whose names can be looked up."""
    return isinstance(annotation, griffe.Expr)


def classes_in(annotation: griffe.Expr) -> Iterator[griffe.Class]:
    """Yields the public classes of tlkit that an annotation mentions."""
    for part in annotation.iterate(flat=True):
        if isinstance(part, griffe.ExprName) and part.canonical_path.startswith("tlkit."):
            try:
                found = _PACKAGE["tlkit"][part.canonical_path.removeprefix("tlkit.")]
            except KeyError:
                continue
            found = found.final_target if found.is_alias else found
            if isinstance(found, griffe.Class) and not found.name.startswith("_"):
                yield found
