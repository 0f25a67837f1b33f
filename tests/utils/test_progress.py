"""Progress is shown on terminals and as lines, not elsewhere, and is written to a run's log."""

import os
import pty
import re
import subprocess
import sys

import pytest

from tlkit.utils import progress
from tlkit.utils.progress import (
    RunLog,
    bar,
    log_to,
    note,
    phase,
    phases,
    plan,
    progress_as_lines,
    progress_hidden,
    track,
)


def test_nothing_is_shown_without_a_terminal_or_lines(capfd):
    assert list(track("abc", "letters", 3)) == ["a", "b", "c"]
    with phases(["one"]), phase("one"):
        note("a note")
    assert capfd.readouterr() == ("", "")


def test_the_command_line_gets_lines_on_standard_error(capfd):
    with progress_as_lines(), phases(["data", "training", "export"]):
        with phase("data"):
            note("10 images")
        plan(["data", "export"])
        with phase("export"), bar("files", 3) as advance:
            advance(3)
        with phase("export"):  # repeated, as "model" is: the skipped phase is not shown again
            pass
        with phase("something that was not announced"):
            pass
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ("[1/3] data\n  10 images\n[2/3] training: skipped\n[3/3] export\n[3/3] export\n")


def test_hidden_progress_is_in_the_log_alone(capfd, tmp_path):
    with progress_as_lines(), progress_hidden(), phases(["data"]):
        log_to(tmp_path / "log.txt")
        with phase("data"):
            note("60 images")
    assert not capfd.readouterr().err
    assert "60 images" in (tmp_path / "log.txt").read_text()
    with progress_as_lines(), phases(["data"]), phase("data"):
        note("60 images")
    assert "60 images" in capfd.readouterr().err


def test_lines_are_written_while_standard_error_is_redirected(capfd):
    with progress_as_lines(), phases(["loading"]):
        shown = os.dup(2)
        null_device = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null_device, 2)
        note("still here")
        os.dup2(shown, 2)
        os.close(shown)
        os.close(null_device)
    assert capfd.readouterr().err == "  still here\n"


def test_the_log_buffers_lines_until_its_file_is_known_and_appends_to_it(tmp_path):
    for session in range(2):
        with phases(["data"]):
            with phase("data"):
                RunLog(None)(f"session {session}\n  a table")
            log_to(tmp_path / "log.txt")
            note("epoch 1")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    plain = [re.sub(r"^\d\d:\d\d:\d\d", "", line).strip() for line in lines]
    assert plain[1:6] == ["[1/1] data", "session 0", "a table", "[1/1] data: 0.0 s", "epoch 1"]
    assert plain[7:12] == ["[1/1] data", "session 1", "a table", "[1/1] data: 0.0 s", "epoch 1"]
    assert re.match(r"\d{4}-\d\d-\d\d, process \d+: ", plain[6])


def test_the_log_records_the_error_that_ended_the_run(tmp_path):
    def run():
        with phases([]):
            log_to(tmp_path / "log.txt")
            raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        run()
    assert (tmp_path / "log.txt").read_text().endswith("  ended by ValueError: wrong\n")


def test_a_log_function_gets_messages_in_full_and_the_display_in_brief(capfd):
    messages = []
    with progress_as_lines():
        RunLog(messages.append)("a table\nof two lines", "in brief")
        RunLog(None)("a table\nof two lines", "in brief")
        RunLog(None)("a table\nof two lines")
        RunLog(None)("not at all", "")
    assert messages == ["a table\nof two lines"]
    assert capfd.readouterr().err == "  in brief\n  a table\n"


def test_a_bar_is_closed_when_its_block_fails(capfd):
    with pytest.raises(ValueError, match="wrong"), progress_as_lines(), bar("letters", 3):
        raise ValueError("wrong")
    assert progress._state.display is None
    assert progress._state.activities == []
    with bar("letters", 3) as advance:  # as before
        advance(3, "others")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("terminal", ["xterm", "dumb"])
def test_a_terminal_shows_bars_unless_it_is_dumb(terminal):
    code = (
        "from tlkit.utils.progress import *\n"
        "with progress_as_lines(), phases(['data']), phase('data'), bar('images', 3) as advance:\n"
        "    advance(1)\n    note('a note')\n"
    )
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": terminal}
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", code],
        stderr=theirs,
        stdout=subprocess.PIPE,
        env=environment,
        check=False,
        timeout=120,
    )
    os.close(theirs)
    shown = b""
    while chunk := _read(ours):
        shown += chunk
    os.close(ours)
    assert done.returncode == 0
    assert done.stdout == b""
    assert b"a note" in shown
    assert (b"\x1b[" in shown) == (terminal == "xterm")


def _read(descriptor):
    try:
        return os.read(descriptor, 65536)
    except OSError:  # all of it is read
        return b""
