"""The feature store: never returns a wrong row, even after kills and damaged files."""

import errno
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

import tlkit
import tlkit.utils.cache
from tlkit.errors import TrainingError
from tlkit.training.store import FeatureStore, remove_store, stored_files

SHAPE = (3, 2)


def rows_of(numbers):
    """Rows filled with the number of their key."""
    return np.stack([np.full(SHAPE, number, np.float32) for number in numbers])


def keys_of(numbers):
    return [f"image{number}" for number in numbers]


def test_rows_are_read_by_key_in_the_given_order(tmp_path):
    with FeatureStore("a", SHAPE, folder=tmp_path) as store:
        store.append(keys_of(range(5)), rows_of(range(5)))
        store.append(keys_of(range(3, 8)), rows_of(range(3, 8)))
        assert len(store) == 8
        np.testing.assert_array_equal(store.read(keys_of([6, 0, 3, 3])), rows_of([6, 0, 3, 3]))
        assert store.contains(["image7", "image8"]).tolist() == [True, False]


def test_a_key_given_twice_is_stored_once(tmp_path):
    with FeatureStore("a", SHAPE, folder=tmp_path) as store:
        store.append(["x", "x"], rows_of([1, 1]))
        assert len(store) == 1
        assert store.path.stat().st_size == rows_of([1]).nbytes


def test_stored_rows_are_available_when_reopened(tmp_path):
    with FeatureStore("a", SHAPE, folder=tmp_path) as store:
        store.append(keys_of([1]), rows_of([1]))
        store.remember("precision", "float32")
    with FeatureStore("a", SHAPE, folder=tmp_path) as store:
        assert store.recall("precision") == "float32"
        np.testing.assert_array_equal(store.read(["image1"]), rows_of([1]))


def test_another_name_never_hits_old_rows(tmp_path):
    with FeatureStore("a", SHAPE, folder=tmp_path) as store:
        store.append(["x"], rows_of([1]))
    with FeatureStore("b", SHAPE, folder=tmp_path) as store:
        assert not store.contains(["x"]).any()


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_row_counts_as_missing(tmp_path, damage):
    with FeatureStore("a", SHAPE, folder=tmp_path) as store:
        store.append(keys_of(range(4)), rows_of(range(4)))
        path = store.path
    row_bytes = rows_of([0]).nbytes
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[2 * row_bytes + 5] ^= 1
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[: 2 * row_bytes])
    else:
        path.unlink()
    with FeatureStore("a", SHAPE, folder=tmp_path) as store:
        with pytest.raises(KeyError, match="not in the store"):
            store.read(keys_of(range(4)))
        missing = [key for key in keys_of(range(4)) if not store.contains([key])[0]]
        assert "image2" in missing
        numbers = [int(key.removeprefix("image")) for key in missing]
        store.append(missing, rows_of(numbers))
        np.testing.assert_array_equal(store.read(keys_of(range(4))), rows_of(range(4)))


def test_a_damaged_index_is_an_empty_one(tmp_path):
    with FeatureStore("a", SHAPE, folder=tmp_path) as store:
        store.append(["x"], rows_of([1]))
        index = store.path.with_suffix(".index")
    index.write_bytes(b"no database" * 100)
    with FeatureStore("a", SHAPE, folder=tmp_path) as store:
        assert not store.contains(["x"]).any()
        store.append(["x"], rows_of([2]))
        np.testing.assert_array_equal(store.read(["x"]), rows_of([2]))


def test_a_store_that_stays_locked_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tlkit.utils.cache, "_LOCK_SECONDS", 0.05)
    with FeatureStore("a", SHAPE, folder=tmp_path) as store:
        holder = sqlite3.connect(store.path.with_suffix(".index"), isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(TrainingError, match=r"must be writable.*a\.index.*locked"):
            store.append(["x"], rows_of([1]))
        holder.close()
        store.append(["x"], rows_of([1]))
        assert store.contains(["x"]).all()


def test_a_failed_write_enters_no_row(tmp_path, monkeypatch):
    with FeatureStore("a", SHAPE, folder=tmp_path) as store:

        def full(descriptor):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space is left on its disk"):
            store.append(["x"], rows_of([1]))
        monkeypatch.undo()
        assert not store.contains(["x"]).any()
        store.append(["x"], rows_of([1]))
        np.testing.assert_array_equal(store.read(["x"]), rows_of([1]))


def test_the_least_recently_used_store_is_evicted_first_and_the_open_one_never(tmp_path):
    for age, name in enumerate(["new", "middle", "old"]):
        with FeatureStore(name, SHAPE, folder=tmp_path) as store:
            store.append(keys_of(range(10)), rows_of(range(10)))
        os.utime(store.path, (1000 - age, 1000 - age))
    each = rows_of(range(10)).nbytes
    with FeatureStore("open", SHAPE, folder=tmp_path, max_bytes=2 * each) as store:
        assert [path.stem for path, _ in stored_files(tmp_path)] == ["middle", "new", "open"]
        store.append(keys_of(range(30)), rows_of(range(30)))
        assert [path.stem for path, _ in stored_files(tmp_path)] == ["open"]
        np.testing.assert_array_equal(store.read(keys_of([29])), rows_of([29]))


def test_a_store_removed_under_an_open_one_gives_no_wrong_row(tmp_path):
    with FeatureStore("a", SHAPE, folder=tmp_path) as store:
        store.append(keys_of(range(4)), rows_of(range(4)))
        remove_store(store.path)
        with FeatureStore("a", SHAPE, folder=tmp_path) as other:
            assert not other.contains(["image1"]).any()
            other.append(["image9"], rows_of([9]))
            np.testing.assert_array_equal(store.read(["image1"]), rows_of([1]))
            np.testing.assert_array_equal(other.read(["image9"]), rows_of([9]))


WRITER = """
    import sys, numpy as np
    from tlkit.training.store import FeatureStore
    folder, first = sys.argv[1], int(sys.argv[2])
    with FeatureStore("a", (3, 2), folder=folder) as store:
        print("ready", flush=True)
        for number in range(first, first + 5000):
            store.append([f"image{number}"], np.full((1, 3, 2), number, "float32"))
    """


def start_writer(folder, first):
    code = textwrap.dedent(WRITER)
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(folder), str(first)], stdout=subprocess.PIPE
    )
    assert writer.stdout.readline() == b"ready\n"
    return writer


@pytest.mark.slow
def test_killed_writers_leave_only_correct_rows(tmp_path):
    """Two processes write the same store at once and are killed at random moments."""
    generator = np.random.default_rng(0)
    for attempt in range(4):
        writers = [start_writer(tmp_path, first) for first in (10_000 * attempt, 5_000)]
        time.sleep(generator.uniform(0.02, 0.3))
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.communicate()
    with FeatureStore("a", SHAPE, folder=tmp_path) as store:
        numbers = [n for n in range(40_000) if store.contains([f"image{n}"])[0]]
        assert len(numbers) > 8
        np.testing.assert_array_equal(store.read(keys_of(numbers)), rows_of(numbers))


def test_a_full_disk_is_named_and_loses_only_the_rows_that_did_not_fit(tmp_path):
    with FeatureStore("full", (4,), folder=tmp_path) as store:
        store.append(["kept"], np.ones((1, 4), "float32"))
        (pages,) = store._index.execute("PRAGMA page_count").fetchone()
        store._index.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own full disk
        keys = [f"{number:0500d}" for number in range(100)]
        with pytest.raises(
            tlkit.StorageError, match=r"have disk space.*no space is left.*TLKIT_CACHE"
        ):
            store.append(keys, np.zeros((100, 4), "float32"))
        assert store.contains(["kept", keys[0]]).tolist() == [True, False]
        assert store.read(["kept"]).tolist() == [[1.0] * 4]
        store._index.execute("PRAGMA max_page_count = 1000000")
        store.append(keys, np.zeros((100, 4), "float32"))
        assert store.contains(keys).all()


def test_a_full_disk_for_rows_is_named(tmp_path, monkeypatch):
    def full(file, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    with FeatureStore("full", (4,), folder=tmp_path) as store:
        monkeypatch.setattr("tlkit.training.store._write_all", full)
        with pytest.raises(tlkit.StorageError, match=r"must have disk space.*Free some there"):
            store.append(["a"], np.zeros((1, 4), "float32"))
        assert len(store) == 0


def test_a_store_removed_while_it_is_open_is_named(tmp_path):
    with FeatureStore("gone", (4,), folder=tmp_path / "cache") as store:
        store.append(["kept"], np.ones((1, 4), "float32"))
        shutil.rmtree(tmp_path / "cache")
        assert store.read(["kept"]).tolist() == [[1.0] * 4]  # it is still open
        with pytest.raises(tlkit.TrainingError, match=r"removed while it is open.*again"):
            store.append(["a"], np.zeros((1, 4), "float32"))
