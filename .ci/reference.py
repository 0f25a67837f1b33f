"""Renders the docstrings as a reference, one page for each module; any warning is an error.

    python .ci/reference.py FOLDER

The page `tlkit.html` has the public names; the others have what these return and are made of.
"""

import pkgutil
import sys
import warnings
from pathlib import Path

import pdoc
import pdoc.render

import tlkit

PROGRAMS = ("__main__", "export.client")
"""Not modules to import."""


def main(folder: Path) -> None:
    """Writes the pages into a folder."""
    for name in tlkit.__all__:
        getattr(tlkit, name)  # loaded when first used; pdoc shows what is there
    # with `__all__`, pdoc takes what is not in it for private: the modules are named one by one
    rooms = [f"tlkit.{room.name}" for room in pkgutil.iter_modules(tlkit.__path__)]
    left_out = [f"!tlkit.{name}" for name in PROGRAMS]
    pdoc.render.configure(
        docformat="google", footer_text=f"tlkit {tlkit.__version__}", show_source=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pdoc.pdoc("tlkit", *rooms, *left_out, output_directory=folder)
    page = (folder / "tlkit.html").read_text(encoding="utf-8")
    missing = [name for name in tlkit.__all__ if f'id="{name}"' not in page]
    if missing:
        raise SystemExit(f"The reference must show every public name. Missing: {missing}.")
    print(f"{len(list(folder.rglob('*.html')))} pages in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
