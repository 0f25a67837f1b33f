"""Standard error of displays: losing its reader or a full disk never stops the program."""

import os
import pty
import sys

import pytest

from tlkit.displays.display import own_standard_error


@pytest.mark.parametrize("connect", [os.pipe, pty.openpty])
def test_a_closed_reader_is_no_error(connect, monkeypatch):
    reader, writer = connect()
    with os.fdopen(writer, "w") as file:
        monkeypatch.setattr(sys, "stderr", file)
        with own_standard_error() as stream:
            stream.write("one\n")
            assert os.read(reader, 10).startswith(b"one")
            os.close(reader)
            for _ in range(3):
                stream.write("two\n")
                stream.flush()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_full_disk_is_no_error(monkeypatch):
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stderr", full)
        with own_standard_error() as stream:
            stream.write("no end of a line")
            stream.flush()
            stream.write("a line\n")
