"""Virtual environments that contain only what a user would install."""

import subprocess
import venv
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
AS_HERE = ("keras", "tensorflow", "ai-edge-litert", "onnxruntime")
"""Packages that are installed in the versions of this environment, for a fair comparison."""


def python_with(packages: Sequence[str], place: Path) -> tuple[Path | None, str]:
    """Returns the Python of an environment, created if missing; or `None` and the reason."""
    python = place / "bin" / "python"
    if (place / "complete").is_file():
        return python, ""
    wanted = [str(ROOT) if name == "tlkit" else name for name in packages]
    wanted = [f"{name}=={version(name)}" if name in AS_HERE else name for name in wanted]
    print(f"installing {', '.join(wanted)} in {place}", flush=True)
    venv.create(place, with_pip=True, clear=True)
    command = [python, "-m", "pip", "install", "--quiet", *wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return None, f"cannot be installed: {done.stderr.strip().splitlines()[-1]}"
    (place / "complete").touch()
    return python, ""


def versions_in(python: Path, packages: Sequence[str]) -> str:
    """Returns the names and versions of packages in an environment."""
    code = f"from importlib.metadata import version\nprint(*map(version, {tuple(packages)!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    pairs = zip(packages, done.stdout.split(), strict=True)
    return ", ".join(f"{name} {number}" for name, number in pairs)
