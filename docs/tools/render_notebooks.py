"""Runs the notebooks and writes documentation pages with their results.

    python docs/tools/render_notebooks.py [NAME ...] [--replace TEXT OTHER]

The notebooks themselves are stored without outputs. Each is run from top to bottom, offline, with
the smaller settings of the tests, if any, or with those of `--replace`. `docs/notebooks/NAME.md`
has its cells with their output; figures are in `docs/notebooks/images/`.
"""

import argparse
import ast
import contextlib
import io
import json
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "notebooks"
SMALLER = (("max_trials=3", "max_trials=1"),)
"""Settings of a notebook and the smaller ones that replace them, the same as in the tests."""

Replacements = Sequence[tuple[str, str]]

_TOO_WIDE = 1000
"""Pixels beyond which a figure is reduced."""


def main() -> None:
    """Renders the notebooks that are named, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--replace", nargs=2, action="append", metavar=("TEXT", "OTHER"))
    given = parser.parse_args()
    replacements = [*SMALLER, *map(tuple, given.replace or ())]
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        if not given.names or path.stem in given.names:
            render(path, replacements)


def render(path: Path, replacements: Replacements) -> None:
    """Writes the page of one notebook."""
    (PAGES / "images").mkdir(parents=True, exist_ok=True)
    for old in (PAGES / "images").glob(f"{path.stem}_*.png"):
        old.unlink()
    title, *rest = [
        (cell["cell_type"], "".join(cell["source"]))
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
    ]
    parts = [title[1], note_on(path, "".join(source for _, source in rest), replacements)]
    names: dict[str, Any] = {"__name__": "__main__"}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TLKIT_CACHE"] = str(Path(folder, "cache"))
        tempfile.tempdir = folder
        for kind, source in rest:
            if kind == "markdown":
                parts.append(source)
                continue
            parts.append(f"```python\n{source}\n```")
            printed, value = run_cell(source, names, replacements)
            printed = without_places(printed, folder)
            if printed:
                parts.append(f"```text\n{printed}\n```")
            if value is not None:
                parts.append(as_shown(value, path.stem, len(parts), folder))
        tempfile.tempdir = None
    (PAGES / f"{path.stem}.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(f"{path.stem}: {len(parts)} parts")


def note_on(path: Path, source: str, replacements: Replacements) -> str:
    """A note on how the page was generated."""
    changed = [f"`{new}` for `{old}`" for old, new in replacements if old in source]
    small = f", with {' and '.join(changed)}" if changed else ""
    return (
        f"*`notebooks/{path.name}`, run on two CPU cores{small}. Times were measured on a "
        "machine under other load.*"
    )


def run_cell(source: str, names: dict[str, Any], replacements: Replacements) -> tuple[str, Any]:
    """Runs a cell; returns its printed output and the value of its last expression."""
    for old, new in replacements:
        source = source.replace(old, new)
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    value = None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, "cell", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    return printed.getvalue(), value


def without_places(text: str, folder: str) -> str:
    """Replaces temporary folders of this machine by WORK."""
    return re.sub(rf"{re.escape(folder)}(/tmp\w+)?", "WORK", text).rstrip()


def as_shown(value: Any, name: str, number: int, folder: str) -> str:
    """How a notebook displays the last value of a cell: as a figure, or text."""
    if isinstance(value, Figure) and not hasattr(value, "_repr_png_"):
        buffer = io.BytesIO()
        value.savefig(buffer, format="png")
        png = buffer.getvalue()
    elif hasattr(value, "_repr_png_"):
        png = value._repr_png_()
    else:
        return f"```text\n{without_places(repr(value), folder)}\n```"
    file = PAGES / "images" / f"{name}_{number}.png"
    with Image.open(io.BytesIO(png)) as image:
        small = image.convert("RGB")
        small.thumbnail((_TOO_WIDE, 10 * _TOO_WIDE))
        small.quantize(128, dither=Image.Dither.NONE).save(file, optimize=True)
    return f"![Output of the cell](images/{file.name})"


if __name__ == "__main__":
    main()
