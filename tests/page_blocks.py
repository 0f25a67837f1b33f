"""Runs the code blocks of pages of the documentation in order, as a reader would.

    python -m tests.page_blocks PAGE FOLDER [PAGE FOLDER ...]

Each page runs in its folder, which must have the images that pages mention. Blocks marked `python`
share their names; in those marked `sh` each `tlkit ...` is a command that must exit with status 0.
Hidden blocks, `<!-- setup`, are Python too. A block after `<!-- not run: REASON -->` is left out.
"""

import os
import re
import shlex
import subprocess
import sys
import traceback
import urllib.request
from dataclasses import dataclass
from pathlib import Path

RUN = ("python", "sh")
_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]*?) -->\n+)?"
    r"(?:^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```$"
    r"|^<!-- setup\n(?P<setup>.*?)^-->$)",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        line: Number of the first line of the code.
        language: Language of the fence; "python" for a hidden block.
        code: The code.
        reason: Why it is not run; `None` if it is run.
    """

    line: int
    language: str
    code: str
    reason: str | None


def blocks_of(text):
    """Returns the blocks of a page in order."""
    blocks = []
    for match in _BLOCK.finditer(text):
        kind = "code" if match["setup"] is None else "setup"
        code = match[kind]
        if match["indent"]:
            code = re.sub(f"^{match['indent']}", "", code, flags=re.MULTILINE)
        line = text.count("\n", 0, match.start(kind)) + 1
        language = match["language"] if kind == "code" else "python"
        blocks.append(Block(line, language, code, match["reason"]))
    return blocks


def run_page(path):
    """Runs the blocks of a page; errors have the line numbers of the page."""
    names = {"__name__": "__main__"}
    for block in blocks_of(path.read_text(encoding="utf-8")):
        if block.reason is not None or block.language not in RUN:
            continue
        print(f"--- {path.name}:{block.line}", flush=True)
        if block.language == "python":
            code = "\n" * (block.line - 1) + block.code
            exec(compile(code, str(path), "exec"), names)
        else:
            run_commands(block.code)


def run_commands(text):
    """Runs the commands of a block."""
    for command in commands_of(text):
        program, *arguments = shlex.split(command, comments=True)
        assert program == "tlkit", f"only tlkit is run here, not {command!r}: mark it `not run`"
        if arguments[0] == "serve":
            ask_server(arguments)
        else:
            run_command(arguments)


def commands_of(text):
    """Returns the commands of a block; lines that end in a backslash are joined."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if shlex.split(line, comments=True)]


def run_command(arguments):
    """Runs a command in this process, in which TensorFlow is loaded."""
    from tlkit import cli

    sys.argv = ["tlkit", *arguments]
    try:
        cli.main()
    except SystemExit as ended:
        if ended.code:
            raise RuntimeError(f"{sys.argv} ended with status {ended.code}") from None


def ask_server(arguments):
    """Starts the server on a free port, requests its health, and stops it."""
    arguments = [
        "0" if before == "--port" else one
        for before, one in zip(["", *arguments], arguments, strict=False)
    ]
    command = [sys.executable, "-m", "tlkit", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        address = re.search(r"http://\S+", server.stdout.readline())
        try:
            with urllib.request.urlopen(f"{address.group()}health", timeout=30) as answer:
                assert answer.status == 200
        finally:
            server.terminate()


if __name__ == "__main__":
    from tests import networks, quick

    networks.replace_built_in("mobilenet_025", "mobilenet_v2", "resnet20")
    quick.train_two_epochs_by_default()
    quick.project_costs_untimed()
    quick.trace_without_stacks()
    quick.run_graphs_as_traced()
    for page, folder in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        os.chdir(folder)
        try:
            run_page(Path(page))
        except BaseException:
            traceback.print_exc()
            sys.exit(1)
