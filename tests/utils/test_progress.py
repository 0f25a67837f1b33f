"""Progress where somebody watches, no trace of it elsewhere, and the log of a run."""

import os
import pty
import re
import subprocess
import sys

import pytest

from tlkit.utils import progress
from tlkit.utils.progress import (
    Teller,
    bar,
    keep_log,
    note,
    phase,
    phases,
    plan,
    shown_as_lines,
    track,
)


def test_items_come_through_and_nothing_is_written_where_nobody_watches(capfd):
    assert list(track("abc", "letters", 3)) == ["a", "b", "c"]
    with phases(["one"]), phase("one"):
        note("a note")
    assert capfd.readouterr() == ("", "")


def test_the_command_line_gets_lines_on_standard_error(capfd):
    with shown_as_lines(), phases(["data", "training", "export"]):
        with phase("data"):
            note("10 images")
        plan(["data", "export"])
        with phase("export"), bar("files", 3) as advance:
            advance(3)
        with phase("export"):  # once more, as a model is made twice: nothing is skipped again
            pass
        with phase("something that was not announced"):
            pass
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ("[1/3] data\n  10 images\n[2/3] training: skipped\n[3/3] export\n[3/3] export\n")


def test_lines_are_written_while_standard_error_points_elsewhere(capfd):
    with shown_as_lines(), phases(["loading"]):
        shown = os.dup(2)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        note("still here")
        os.dup2(shown, 2)
        os.close(shown)
        os.close(nowhere)
    assert capfd.readouterr().err == "  still here\n"


def test_a_log_holds_what_was_said_before_it_had_a_file_and_is_appended_to(tmp_path):
    for session in range(2):
        with phases(["data"]):
            with phase("data"):
                Teller(None)(f"session {session}\n  a table")
            keep_log(tmp_path / "log.txt")
            note("epoch 1")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    plain = [re.sub(r"^\d\d:\d\d:\d\d", "", line).strip() for line in lines]
    assert plain[1:6] == ["[1/1] data", "session 0", "a table", "[1/1] data: 0.0 s", "epoch 1"]
    assert plain[7:12] == ["[1/1] data", "session 1", "a table", "[1/1] data: 0.0 s", "epoch 1"]
    assert re.match(r"\d{4}-\d\d-\d\d, process \d+: ", plain[6])


def test_a_log_says_what_ended_the_run(tmp_path):
    def run():
        with phases([]):
            keep_log(tmp_path / "log.txt")
            raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        run()
    assert (tmp_path / "log.txt").read_text().endswith("  ended by ValueError: wrong\n")


def test_who_wants_to_be_told_is_told_all_and_sees_no_notes(capfd):
    told = []
    with shown_as_lines():
        Teller(told.append)("a table\nof two lines", "in brief")
        Teller(None)("a table\nof two lines", "in brief")
        Teller(None)("a table\nof two lines")
        Teller(None)("not at all", "")
    assert told == ["a table\nof two lines"]
    assert capfd.readouterr().err == "  in brief\n  a table\n"


def test_a_bar_that_fails_leaves_nothing_behind(capfd):
    with pytest.raises(ValueError, match="wrong"), shown_as_lines(), bar("letters", 3):
        raise ValueError("wrong")
    assert progress._watched.display is None
    assert progress._watched.activities == []
    with bar("letters", 3) as advance:  # as before
        advance(3, "others")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("terminal", ["xterm", "dumb"])
def test_a_terminal_shows_bars_unless_it_cannot(terminal):
    code = (
        "from tlkit.utils.progress import *\n"
        "with shown_as_lines(), phases(['data']), phase('data'), bar('images', 3) as advance:\n"
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
