"""Signals end a command cleanly: with one line and the status that shells expect."""

import os
import signal
import subprocess
import sys

import pytest

from tlkit.utils.files import written_aside
from tlkit.utils.signals import (
    EndedBySignal,
    lost_signal_raised,
    run_interruptible,
    signals_delayed,
)

KINDS = [
    ("SIGINT", 130, "interrupted"),
    ("SIGTERM", 143, "ended by SIGTERM"),
    ("SIGHUP", 129, "ended by SIGHUP"),
]


@pytest.fixture(autouse=True)
def default_handlers():
    """Sets handlers, as background jobs and nohup ignore signals, which children inherit."""
    kinds = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {kind: signal.signal(kind, handler) for kind, handler in kinds.items()}
    yield
    for kind, handler in before.items():
        signal.signal(kind, handler)


def send(name):
    """Sends a signal to this process, which is handled before the next line."""
    os.kill(os.getpid(), getattr(signal, name))


@pytest.mark.parametrize(("name", "status", "text"), KINDS)
def test_a_signal_ends_a_command_cleanly_with_line_and_status(tmp_path, capsys, name, status, text):
    def command():
        with written_aside(tmp_path / "model") as aside:
            aside.write_text("half")
            send(name)

    before = signal.getsignal(getattr(signal, name))
    with pytest.raises(EndedBySignal) as ended:
        run_interruptible(command, lambda: "; the same command resumes the run")
    assert ended.value.code == status
    assert capsys.readouterr().err == f"tlkit: {text}; the same command resumes the run.\n"
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(getattr(signal, name)) is before


def test_an_error_raised_by_an_interrupt_counts_as_the_interrupt(capsys):
    def command():
        try:
            send("SIGTERM")
        except KeyboardInterrupt as error:
            raise ImportError("cannot import name 'half' (most likely due to ...)") from error

    with pytest.raises(EndedBySignal) as ended:
        run_interruptible(command)
    assert ended.value.code == 143
    assert capsys.readouterr().err == "tlkit: ended by SIGTERM.\n"


def test_other_errors_and_exits_are_unchanged():
    def fail():
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        run_interruptible(fail)
    with pytest.raises(SystemExit) as ended:
        run_interruptible(lambda: sys.exit(2))
    assert ended.value.code == 2
    assert not isinstance(ended.value, EndedBySignal)


def test_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run_interruptible(lambda: send("SIGHUP"))
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_repeated_signal_of_a_closing_terminal_is_ignored():
    done = []

    def command():
        try:
            send("SIGHUP")
        finally:
            send("SIGHUP")
            done.append("cleaned up")

    with pytest.raises(EndedBySignal):
        run_interruptible(command)
    assert done == ["cleaned up"]


def test_a_signal_is_delayed_until_the_end_of_an_import():
    done = []

    def command():
        with signals_delayed():
            send("SIGINT")
            done.append("import")
        done.append("more")

    with pytest.raises(EndedBySignal):
        run_interruptible(command)
    assert done == ["import"]


def test_a_signal_that_was_lost_during_an_import_is_raised_at_its_end():
    done = []

    def command():
        with lost_signal_raised():
            try:
                send("SIGINT")
            except KeyboardInterrupt:  # as in a callback, in which it is lost
                done.append("lost")
        done.append("more")

    with pytest.raises(EndedBySignal):
        run_interruptible(command)
    assert done == ["lost"]


@pytest.mark.parametrize(("name", "status", "text"), KINDS)
def test_the_command_ends_with_the_status(name, status, text):
    code = (
        "import os, signal, sys, time\n"
        "sys.argv = ['tlkit', 'add-classes']\n"
        "import tlkit.__main__, tlkit.cli\n"
        "def command():\n"
        f"    eval('os.kill(os.getpid(), signal.{name})')\n"
        "    time.sleep(60)\n"
        "tlkit.cli.run_command = command\n"
        "tlkit.__main__.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert done.stderr == f"tlkit: {text}; the same command resumes the run.\n"


def test_an_interrupt_during_the_first_imports_is_one_line():
    command = [sys.executable, "-X", "importtime", "-m", "tlkit", "--version"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:  # one is written when a module has been imported
            if line.strip().endswith("| tlkit.utils.signals"):
                process.send_signal(signal.SIGINT)
                break
        lines = [line for line in process.stderr if not line.startswith("import time:")]
    assert process.returncode == 130, lines
    assert lines == ["tlkit: interrupted.\n"]


def test_a_closed_terminal_does_not_change_the_status():
    code = (
        "import os, signal, sys\n"
        "import tlkit.__main__, tlkit.cli\n"
        "def command():\n"
        "    print('not yet written')\n"
        "    os.close(1); os.close(2)\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "tlkit.cli.run_command = command\n"
        "tlkit.__main__.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, stdout=subprocess.PIPE)
    assert done.returncode == 129
