"""Only one process writes a run, also on file systems without locks."""

import errno
import fcntl
import json
import os
import platform

import pytest

import tlkit
from tlkit.utils import locks
from tlkit.utils.locks import LOCK_FILE
from tlkit.utils.run_lock import holds_only_leftovers, locked, sweep_run, tidy_finished


@pytest.fixture(params=[errno.ENOLCK, errno.EBADF, errno.ENOSYS, errno.EOPNOTSUPP])
def no_locks(request, monkeypatch):
    """A file system that refuses locks with one of these errors."""

    def refuse(*_):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_without_locks_a_second_process_is_refused(tmp_path, no_locks):
    with locked(tmp_path):
        with (
            pytest.raises(tlkit.RunError, match=f"process {os.getpid()} on .* is writing.*Wait"),
            locked(tmp_path),
        ):
            pass
        assert (tmp_path / LOCK_FILE).exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("since", ["", "0"])  # an unused process number; a reused one
def test_the_lock_file_of_a_process_that_has_ended_is_replaced(tmp_path, no_locks, since):
    ended = {
        "host": platform.node(),
        "process": os.getpid() if since else 2**22 + 5,
        "since": since,
    }
    (tmp_path / LOCK_FILE).write_text(json.dumps(ended))
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["process"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", ["", "[]", json.dumps({"host": "elsewhere", "process": 1, "since": ""})]
)
def test_a_process_that_cannot_be_checked_counts_as_writing(tmp_path, no_locks, content):
    (tmp_path / LOCK_FILE).write_text(content)
    with pytest.raises(tlkit.RunError, match=f"remove {LOCK_FILE} there"), locked(tmp_path):
        pass
    assert (tmp_path / LOCK_FILE).read_text() == content


def test_other_errors_of_a_lock_are_raised(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match="Input/output error"), locked(tmp_path):
        pass


def test_a_process_is_identified_by_its_number_and_start_time():
    assert locks._start(os.getpid()) == locks._start(os.getpid())
    assert locks._is_running(os.getpid())
    assert not locks._is_running(2**22 + 5)


def test_leftovers_of_killed_processes_are_removed_and_nothing_else(tmp_path):
    names = ("..export-abcd1234", ".run.json-abcd1234", ".training.npz-abcd1234", ".export")
    for name in (*names, ".tlkit-aside-export-abcd1234"):
        (tmp_path / name).mkdir()
    assert not holds_only_leftovers(tmp_path)
    (tmp_path / "model.keras").touch()
    (tmp_path / ".mine").touch()
    sweep_run(tmp_path, ("model.keras",))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine", "model.keras"]


def test_a_finished_run_is_tidied_unless_a_process_writes_it(tmp_path):
    (tmp_path / "training.npz").touch()
    with locked(tmp_path):
        tidy_finished(tmp_path, ())
        assert (tmp_path / "training.npz").exists()
    tidy_finished(tmp_path, ())
    assert list(tmp_path.iterdir()) == []
