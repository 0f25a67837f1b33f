import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import tlkit
from tlkit.data.file_checks import FILE_CHECKS_FOLDER, INDEX_NAME
from tlkit.training.store import FEATURES_FOLDER, FeatureStore
from tlkit.utils import cache as cache_module
from tlkit.utils.cache import (
    FOLDERS,
    cache_entries,
    cache_folder,
    cache_limit,
    cache_note,
    clear_cache,
    describe_cache,
    open_index,
    trim_cache,
)

SCHEMA = "CREATE TABLE IF NOT EXISTS facts (name TEXT, value TEXT)"


@pytest.fixture
def unusable_cache(tmp_path, monkeypatch):
    """A cache that not even root can write to: its path is that of a file."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / "file"))
    return tmp_path / "file"


def test_the_environment_sets_the_folder_of_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path))
    assert cache_folder("features") == tmp_path / "features"
    assert cache_note("features") == ""


def test_all_folders_that_are_used_are_listed():
    assert {FEATURES_FOLDER, FILE_CHECKS_FOLDER} < set(FOLDERS)


def test_clearing_reports_the_removed_bytes(tmp_path):
    folder = cache_folder("features", tmp_path)
    (folder / "rows").write_bytes(bytes(100))
    before = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    report = clear_cache(tmp_path)
    assert report.num_bytes == before >= 100
    assert report.left == ()
    assert list(tmp_path.iterdir()) == []
    assert clear_cache(tmp_path / "none").num_bytes == 0


def test_clearing_keeps_files_that_tlkit_has_not_made(tmp_path):
    for name in list(FOLDERS)[1:]:
        cache_folder(name, tmp_path)
    (tmp_path / "thesis.txt").write_text("years of work")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "rows").write_bytes(bytes(7))
    (tmp_path / "features").symlink_to(elsewhere)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    report = clear_cache(tmp_path)
    assert {path.name for path in report.left} == {"elsewhere", "features", "gone", "thesis.txt"}
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in report.left}
    assert (elsewhere / "rows").stat().st_size == 7
    assert "kept, as not made by tlkit: " in str(report)
    assert str(tmp_path / "thesis.txt") in str(report)


def test_a_folder_of_the_user_with_the_caches_name_is_kept(tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "thesis.txt").write_text("years of work")
    assert cache_folder("files", tmp_path) == tmp_path / "files"
    assert clear_cache(tmp_path).left == (tmp_path / "files",)
    assert (tmp_path / "files" / "thesis.txt").exists()


DAY = 86_400


@pytest.fixture
def filled(tmp_path):
    """A store used now, one of 1,000 bytes used 9 days ago, verdicts 5 days, a data set 99 days."""
    now = time.time()
    for kind, name, size, days in (
        ("features", "new.rows", 300, 0),
        ("features", "new.index", 100, 0),
        ("features", "old.rows", 800, 9),
        ("features", "old.index", 200, 11),
        ("files", "verdicts-2.sqlite", 50, 5),
        ("tfds", "flowers", 7, 99),
    ):
        path = cache_folder(kind, tmp_path) / name
        if kind == "tfds":
            path.mkdir()
            (path / "a.png").write_bytes(bytes(size))
        else:
            path.write_bytes(bytes(size))
        os.utime(path, (now - days * DAY,) * 2)
    return tmp_path


def test_a_store_is_one_entry_with_its_index(filled):
    entries = cache_entries(filled)
    assert [(entry.kind, entry.num_bytes) for entry in entries] == [
        ("tfds", 7),
        ("features", 1000),
        ("files", 50),
        ("features", 400),
    ]


@pytest.mark.parametrize(
    ("bounds", "left"),
    [
        ({"max_bytes": 1457}, ["features/new", "features/old", "files/verdicts-2", "tfds/flowers"]),
        ({"max_bytes": 1456}, ["features/new", "features/old", "files/verdicts-2"]),
        ({"max_bytes": 450}, ["features/new", "files/verdicts-2"]),
        ({"max_bytes": 449}, ["features/new"]),
        ({"max_bytes": 0}, []),
        ({"older_than": 10}, ["features/new", "features/old", "files/verdicts-2"]),
        ({"older_than": 6, "max_bytes": 449}, ["features/new"]),
        ({"older_than": 0.5}, ["features/new"]),
    ],
)
def test_the_least_recently_used_entries_are_removed_first(filled, bounds, left):
    before = sum(entry.num_bytes for entry in cache_entries(filled))
    report = trim_cache(filled, **bounds)
    kept = {f"{e.kind}/{path.stem}" for e in cache_entries(filled) for path in e.paths}
    assert sorted(kept) == left
    after = sum(entry.num_bytes for entry in cache_entries(filled))
    assert report.num_bytes == before - after


def test_an_entry_that_cannot_be_removed_is_an_error(filled, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(cache_module.shutil, "rmtree", refused)
    with pytest.raises(PermissionError, match="flowers"):
        trim_cache(filled, older_than=90)
    assert (filled / "tfds" / "flowers" / "a.png").exists()


def test_trimming_keeps_files_that_tlkit_has_not_made(tmp_path):
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "thesis.rows").write_text("years of work")
    assert trim_cache(tmp_path, max_bytes=0).num_bytes == 0
    assert (tmp_path / "features" / "thesis.rows").exists()


def test_bounds_are_not_negative(tmp_path):
    with pytest.raises(tlkit.ArgumentError, match="`max_bytes` must be a number, 0 or more"):
        trim_cache(tmp_path, max_bytes=-1)
    with pytest.raises(tlkit.ArgumentError, match="`older_than` must be a number, 0 or more"):
        trim_cache(tmp_path, older_than=-0.5)


@pytest.mark.parametrize("value", ["much", "-1", "nan", "inf", ""])
def test_an_invalid_limit_in_the_environment_is_refused(monkeypatch, value):
    monkeypatch.setenv("TLKIT_CACHE_LIMIT", value)
    with pytest.raises(tlkit.ArgumentError, match=f"TLKIT_CACHE_LIMIT='{value}'"):
        cache_limit()


def test_the_environment_limits_stored_activations(tmp_path, monkeypatch):
    def fill(name):
        with FeatureStore(name, (1000,), folder=tmp_path) as store:
            store.append(["a"], np.zeros((1, 1000), "float32"))

    monkeypatch.setenv("TLKIT_CACHE_LIMIT", str(9000 / 1e9))
    for name in ("first", "second", "third"):
        fill(name)
        os.utime(tmp_path / f"{name}.rows", (ord(name[0]),) * 2)
    assert {path.stem for path in tmp_path.glob("*.rows")} == {"second", "third"}


def test_the_content_of_the_cache_is_described(filled, monkeypatch):
    monkeypatch.setenv("TLKIT_CACHE_LIMIT", "2.5")
    lines = describe_cache(filled).splitlines()
    assert lines[0].split()[:4] == ["0.0", "MB", "features", "2"]
    assert [line.split()[2] for line in lines[: len(FOLDERS)]] == list(FOLDERS)
    assert f"in {filled}" in lines[len(FOLDERS)]
    assert lines[len(FOLDERS) + 1].startswith("Limit of activations: 2.5 GB")
    assert "0 stores of activations" in describe_cache(filled / "empty")


@pytest.mark.parametrize("where", ["start", "middle"])
def test_a_damaged_index_counts_as_empty(tmp_path, where):
    path = tmp_path / "index"
    with closing(open_index(path, SCHEMA)) as index:
        index.execute("BEGIN")
        index.executemany(
            "INSERT INTO facts VALUES (?, ?)", [("x" * 99, str(n)) for n in range(999)]
        )
        index.execute("COMMIT")
    content = bytearray(path.read_bytes())
    start = 0 if where == "start" else 3 * 4096
    content[start : start + 4096] = b"junk" * 1024
    path.write_bytes(content)
    with closing(open_index(path, SCHEMA)) as index:
        assert index.execute("SELECT COUNT(*) FROM facts").fetchone() == (0,)
        index.execute("INSERT INTO facts VALUES ('a', 'b')")
    with closing(open_index(path, SCHEMA)) as index:
        assert index.execute("SELECT * FROM facts").fetchall() == [("a", "b")]


@pytest.fixture
def locked(monkeypatch):
    """Returns a function that locks an index as another process would; nothing waits for it."""
    monkeypatch.setattr(cache_module, "_LOCK_SECONDS", 0.0)
    held = []

    def hold(path):
        held.append(sqlite3.connect(path, isolation_level=None))
        held[-1].execute("BEGIN EXCLUSIVE")

    yield hold
    for connection in held:
        connection.close()


def test_a_locked_index_of_images_is_not_used_and_reported(photos, locked):
    index = cache_folder(FILE_CHECKS_FOLDER) / INDEX_NAME
    locked(index)
    report = tlkit.inspect_folder(photos)
    assert report.counts == {"green": {"all": 30}, "red": {"all": 30}}
    (note,) = report.notes
    assert str(index) in note
    assert "locked" in note
    assert "TLKIT_CACHE" in note


def test_an_index_of_images_that_cannot_be_opened_is_not_used_and_reported(photos):
    (cache_folder(FILE_CHECKS_FOLDER) / INDEX_NAME).mkdir()
    (note,) = tlkit.inspect_folder(photos).notes
    assert INDEX_NAME in note


def test_a_damaged_index_of_images_is_created_again(photos):
    index = cache_folder(FILE_CHECKS_FOLDER) / INDEX_NAME
    index.write_bytes(b"junk" * 1000)
    assert tlkit.inspect_folder(photos).notes == ()
    with closing(sqlite3.connect(index)) as connection:
        assert connection.execute("SELECT COUNT(*) FROM verdicts").fetchone() == (60,)


def test_the_error_names_a_locked_feature_store(tmp_path, locked):
    FeatureStore("a", (2,), folder=tmp_path).close()
    locked(tmp_path / "a.index")
    with pytest.raises(tlkit.TrainingError, match=r"a\.index.*locked.*TLKIT_CACHE"):
        FeatureStore("a", (2,), folder=tmp_path)


def test_an_unwritable_cache_is_replaced_and_reported(unusable_cache):
    folder = cache_folder("features")
    assert unusable_cache not in folder.parents
    assert folder.is_dir()
    assert str(unusable_cache) in cache_note("features")


def test_the_temporary_cache_is_removed_with_the_process(unusable_cache):
    code = "from tlkit.utils.cache import cache_folder; print(cache_folder('files'))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    folder = Path(done.stdout.strip())
    assert folder.name == "files"
    assert folder.parent.name.startswith("tlkit-cache-")
    assert not folder.parent.exists()


def test_a_user_without_a_home_has_a_cache_for_this_process(monkeypatch):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    for name in ("TLKIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    assert cache_folder("files").is_dir()
    assert cache_note("files").startswith("this user has no home folder: results are stored for")


def test_reports_name_an_unwritable_cache(unusable_cache, photos):
    data = tlkit.load_folder(photos, image_size=32)
    assert str(unusable_cache) in str(data.report)
    model = tlkit.build_classifier("tiny_resnet", data.class_names, weights=None)
    (stage,) = tlkit.train_head(model, data).stages
    assert any(f"{unusable_cache / FEATURES_FOLDER} is not writable" in n for n in stage.notes)
