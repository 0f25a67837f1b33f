import errno
import json
import os
import shutil
import types
from pathlib import Path

import numpy as np
import pytest

import tlkit
from tlkit.utils.files import (
    ASIDE,
    as_cell,
    from_cell,
    staging_beside,
    storage_named,
    sweep_asides,
    write_json,
    written_aside,
)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_after_a_failure(tmp_path, error):
    with pytest.raises(error), written_aside(tmp_path / "new" / "deep" / "file") as aside:  # noqa: PT012
        aside.write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_unchanged_after_a_failure(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    with pytest.raises(ValueError, match="half"), written_aside(tmp_path / "folder") as aside:  # noqa: PT012
        aside.mkdir()
        raise ValueError("half")
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "old"]


def test_files_and_folders_are_replaced_completely(tmp_path):
    for content in ("first", "second"):
        with written_aside(tmp_path / "folder") as aside:
            aside.mkdir()
            (aside / content).touch()
        with written_aside(tmp_path / "file") as aside:
            aside.write_text(content)
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    assert found == ["file", "folder", "folder/second"]
    assert (tmp_path / "file").read_text() == "second"


def test_a_link_is_kept_and_its_target_is_written(tmp_path):
    (tmp_path / "large" / "there").mkdir(parents=True)
    for link, target in (("folder", "large/there"), ("new", "large/new")):
        (tmp_path / link).symlink_to(tmp_path / target)
        with written_aside(tmp_path / link) as aside:
            aside.mkdir()
            (aside / "whole").touch()
        assert (tmp_path / link).is_symlink()
        assert [path.name for path in (tmp_path / target).iterdir()] == ["whole"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "large", "new"]


def test_the_current_folder_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with written_aside(Path()) as aside:
        aside.mkdir()
        (aside / "whole").touch()
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
    assert found == ["here", "here/whole"]


def test_any_name_can_be_replaced(tmp_path):
    (tmp_path / "replaced").mkdir()
    with written_aside(tmp_path / "replaced") as aside:
        aside.mkdir()
        (aside / "whole").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["replaced", "whole"]


def test_json_is_written_in_utf_8(tmp_path):
    write_json(tmp_path / "names.json", ["猫", 1.5, None])
    assert "猫" in (tmp_path / "names.json").read_bytes().decode()
    assert json.loads((tmp_path / "names.json").read_text("utf-8")) == ["猫", 1.5, None]


def test_json_holds_numpy_numbers(tmp_path):
    write_json(tmp_path / "numbers.json", {"seed": np.int64(3), "rate": np.float32(0.5)})
    assert json.loads((tmp_path / "numbers.json").read_text()) == {"seed": 3, "rate": 0.5}
    with pytest.raises(TypeError, match="Object of type set is not JSON serializable"):
        write_json(tmp_path / "set.json", {1})
    assert not (tmp_path / "set.json").exists()


def make_leftover(folder, name, content="half"):
    """Makes the temporary folder of a process that was killed while writing, without a lock."""
    aside = folder / f"{ASIDE}{name}-0a1b2c3d"
    aside.mkdir(parents=True)
    (aside / name).write_text(content)
    return aside


def test_leftovers_of_a_killed_process_are_removed_when_the_file_is_written_again(tmp_path):
    left = make_leftover(tmp_path, "model")
    other = make_leftover(tmp_path, "report")
    (tmp_path / ".model-mine").mkdir()
    with written_aside(tmp_path / "model") as aside:
        assert not left.exists()
        aside.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".model-mine", other.name, "model"]
    sweep_asides(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".model-mine", "model"]


def test_temporary_folders_of_running_processes_are_kept(tmp_path):
    with written_aside(tmp_path / "model") as first:
        first.write_text("first")
        with written_aside(tmp_path / "model") as second:
            second.write_text("second")
        sweep_asides(tmp_path, is_alone=True)
        assert first.exists()
    assert (tmp_path / "model").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("is_alone", [False, True])
def test_without_locks_leftovers_are_removed_only_if_no_other_process_writes(
    tmp_path, monkeypatch, is_alone
):
    monkeypatch.setattr("tlkit.utils.files.try_lock", lambda descriptor: None)
    left = make_leftover(tmp_path, "model")
    sweep_asides(tmp_path, is_alone=is_alone)
    assert left.exists() is not is_alone


def test_a_folder_that_was_being_replaced_is_restored(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old").touch()
    with written_aside(tmp_path / "model") as aside:
        (tmp_path / "model").rename(aside.parent / ".tlkit-replaced-model")
        crashed = tmp_path / "crashed"
        shutil.copytree(aside.parent, crashed)
        aside.mkdir()
    shutil.rmtree(tmp_path / "model")
    crashed.rename(tmp_path / f"{ASIDE}model-0a1b2c3d")
    sweep_asides(tmp_path, ["model"])
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == [
        "model",
        "model/old",
    ]


def test_leftovers_of_earlier_versions_are_removed_by_their_names_only(tmp_path):
    for name in (".run.json-abc_1234", "..export-12345678", ".run.json-abc_1235"):
        (tmp_path / name).mkdir()
    (tmp_path / ".run.json-abc_1234" / "run.json").touch()
    (tmp_path / ".run.json-abc_1235" / "thesis.txt").touch()
    sweep_asides(tmp_path, ["run.json", ".export"])
    assert len(list(tmp_path.iterdir())) == 3  # another process may be writing them
    sweep_asides(tmp_path, ["run.json", ".export"], is_alone=True)
    assert [path.name for path in tmp_path.iterdir()] == [".run.json-abc_1235"]


@pytest.mark.parametrize("name", ["ж" * 120, "a" * 240])
def test_long_names_are_written_too(tmp_path, name):
    with written_aside(tmp_path / name) as aside:
        aside.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space is left on its disk"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the quota of its disk is used up"),
        (OSError("Can't write data (errno = 28, error message = 'No space left on device')"), "no"),
        (RuntimeError("UNKNOWN: /run/x.index; No space left on device"), "no space is left"),
        (OSError(errno.EFBIG, "File too large"), "ulimit -f"),
        (OSError(errno.EROFS, "Read-only file system"), "its disk is read-only"),
    ],
)
def test_a_full_disk_is_reported_whichever_library_raises(tmp_path, error, reason):
    def write():
        with written_aside(tmp_path / "run" / "model") as aside:
            aside.write_text("half")
            raise error

    with pytest.raises(tlkit.StorageError, match=f"run/model.*{reason}.*Free some space") as raised:
        write()
    assert raised.value.__cause__ is error
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_inodes_is_distinguished_from_one_without_space(tmp_path, monkeypatch):
    status = os.statvfs(tmp_path)
    fields = {name: getattr(status, name) for name in dir(status) if name.startswith("f_")}
    full = types.SimpleNamespace(**(fields | {"f_files": 100, "f_favail": 0}))
    monkeypatch.setattr(os, "statvfs", lambda place: full if "run" in str(place) else status)
    (tmp_path / "run").mkdir()
    with (
        pytest.raises(tlkit.StorageError, match=r"run' must.*takes no further file"),
        storage_named(tmp_path / "other", tmp_path / "run"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_the_remedy_for_temporary_files_is_tmpdir(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(tlkit.StorageError, match="TMPDIR"), storage_named():
        raise OSError(errno.ENOSPC, "No space left on device")


def test_other_errors_are_unchanged(tmp_path):
    with pytest.raises(PermissionError), storage_named(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(tlkit.RunError, match="mine"), storage_named(tmp_path):
        raise tlkit.RunError("mine: No space left on device")


def test_the_error_names_the_users_folder_and_is_examined_before_space_is_freed(
    tmp_path, monkeypatch
):
    status = os.statvfs(tmp_path)
    fields = {name: getattr(status, name) for name in dir(status) if name.startswith("f_")}
    full = types.SimpleNamespace(**(fields | {"f_files": 100, "f_favail": 0}))
    monkeypatch.setattr(
        os, "statvfs", lambda place: full if any(tmp_path.glob("run/.tlkit*")) else status
    )

    def write():
        with staging_beside(tmp_path / "run" / "export") as aside, written_aside(aside / "model"):
            raise OSError(errno.ENOSPC, "No space left on device", str(aside / "model.index"))

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # a parent of the run
    (tmp_path / "run").mkdir()
    with pytest.raises(tlkit.StorageError, match=r"run' must be.*takes no further file"):
        write()
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        *('=HYPERLINK("http://x","y")', "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "＝1", "|x"),
        *("'=1", "''=1", "'", "''", "'cat'", "cat", "", "a=1", "\n", "%x", "'\t"),
    ],
)
def test_a_cell_is_never_a_formula_and_is_read_back_unchanged(text):
    cell = as_cell(text)
    assert cell[:1] not in set("=+-@\t\r\n|%＝＋－＠")
    assert not cell.strip().startswith(("=", "+", "-", "@"))
    assert from_cell(cell) == text
    assert cell in {text, f"'{text}"}
