"""Runs notebooks and keeps what they show in them; the tests run them too, but keep nothing.

    pip install nbclient ipykernel
    python .ci/notebooks.py notebooks/*.ipynb

Standard error is left out, and so is what tells when and where they ran. A notebook that fails
stays as it is.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

TIMEOUT = 600


def run(path: Path) -> None:
    """Runs a notebook from top to bottom, with an empty cache, and writes it anew."""
    notebook = nbformat.read(path, as_version=4)
    before = dict(notebook.metadata)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TLKIT_CACHE"] = cache
        NotebookClient(notebook, timeout=TIMEOUT).execute()
    notebook.metadata = before
    for cell in notebook.cells:
        cell.metadata.clear()
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
    # joined strings are split into lines, as other tools do
    content = json.loads(nbformat.writes(notebook))
    text = json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True)
    path.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        run(Path(name))
        print(name, flush=True)
