"""Runs of a benchmark, each in a process of its own, that are not repeated."""

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np


def run_jobs(jobs: Iterable[Any], kind: type, out: Path) -> list[dict[str, Any]]:
    """Runs the jobs that have no line in a file of results yet, and adds their lines.

    Each is run by the same command with `--job JSON`, whose last line of output is the result.

    Args:
        jobs: Frozen dataclasses of `kind`, in the order of the runs.
        kind: Their class, whose fields are in each result.
        out: The file of results.

    Returns:
        All results in the file.
    """
    rows = []
    if out.exists():
        rows = [json.loads(line) for line in out.read_text().splitlines()]
    done = {kind(**{field.name: row[field.name] for field in fields(kind)}) for row in rows}
    for job in jobs:
        if job in done:
            continue
        command = [sys.executable, *sys.argv, "--job", json.dumps(asdict(job))]
        output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        line = output.stdout.splitlines()[-1]
        with out.open("a") as file:
            file.write(line + "\n")
        rows.append(json.loads(line))
        print(line, flush=True)
    return rows


def packed(is_correct: np.ndarray) -> str:
    """Returns whether a model was right on each test image, as the text of a result."""
    return np.packbits(is_correct).tobytes().hex()


def unpacked(text: str, num_test: int) -> np.ndarray:
    """Returns what `packed` got, as 0 and 1."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))
    return bits[:num_test].astype(float)
