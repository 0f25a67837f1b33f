"""Archives of images, which are unpacked into the cache."""

import io
import os
import shutil
import struct
import tarfile
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

import tlkit
from tests.conftest import write_photos
from tlkit.data import unpacking
from tlkit.data.image_places import locate, place_name, shown_path
from tlkit.data.manifests import list_images
from tlkit.data.unpacking import publish, unpack
from tlkit.errors import DataError, StorageError

CLASSES = {"green": 12, "red": 12}


def packed(folder, path, above=""):
    """Packs a folder into an archive, with another folder above its content."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(folder.rglob("*")):
                archive.write(file, f"{above}{file.relative_to(folder)}")
    else:
        with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
            archive.add(folder, above or ".")
    return path


def zip_of(path, **contents):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("archives") / "photos", CLASSES)


@pytest.mark.parametrize("name", ["photos.zip", "photos.tar", "photos.tar.gz"])
@pytest.mark.parametrize("above", ["", "photos/", "deep/photos/"])
def test_an_archive_has_the_splits_of_its_folder(photos, tmp_path, name, above):
    path = packed(photos, tmp_path / name, above)
    expected = tlkit.load_folder(photos, image_size=16)
    found = tlkit.load_folder(path, image_size=16)
    assert found.fingerprint == expected.fingerprint
    names = [shown_path(path) for path in found.train.paths]
    assert names == [
        f"{name}/{above}{Path(path).relative_to(photos)}" for path in expected.train.paths
    ]
    assert any(f"{path} is unpacked in the cache: 24 files" in one for one in found.report.notes)


def test_a_split_in_an_archive_is_kept(photos, tmp_path):
    for split in ("train", "val"):
        shutil.copytree(photos, tmp_path / "all" / split)
    path = packed(tmp_path / "all", tmp_path / "some.zip", "top/")
    listing = list_images(path)
    assert {file.split for file in listing.files} == {"train", "validation"}


def test_reports_name_the_files_in_the_archive(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "red" / "notes.txt").write_text("hello")
    first = min((photos / "red").iterdir())
    shutil.copy(first, tmp_path / "photos" / "green" / "same.png")
    report = tlkit.inspect_folder(packed(tmp_path / "photos", tmp_path / "new.zip"))
    assert [file.path for file in report.skipped] == ["new.zip/red/notes.txt"]
    assert report.conflicts == (("new.zip/green/same.png", f"new.zip/red/{first.name}"),)


def test_an_archive_is_unpacked_once_and_again_if_it_changes(photos, tmp_path, monkeypatch):
    path = packed(photos, tmp_path / "photos.zip")
    folder = unpack(path).folder
    (tmp_path / "elsewhere").mkdir()
    moved = path.rename(tmp_path / "elsewhere" / "photos.zip")
    with monkeypatch.context() as patch:
        patch.setattr(unpacking, "_write_files", lambda *_: pytest.fail("unpacked again"))
        assert unpack(moved).folder == folder
    zip_of(moved, **{"red/1.png": b"1"})
    changed = unpack(moved)
    assert changed.folder != folder
    assert (changed.num_files, changed.num_bytes) == (1, 1)


@pytest.mark.parametrize("name", ["../out.png", "a/../../out.png", "/tmp/out.png", "C:/out.png"])
@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_names_that_lead_out_of_an_archive_are_rejected(tmp_path, name, suffix):
    path = tmp_path / f"bad{suffix}"
    if suffix == ".zip":
        zip_of(path, **{"a/1.png": b"1", name: b"2"})
    else:
        with tarfile.open(path, "w") as archive:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(DataError, match=r"whose files lie inside it.*bad.*out\.png"):
        unpack(path)
    assert not list(tmp_path.rglob("out.png"))
    assert not any(path.is_dir() for path in unpacking.cache_folder("archives").iterdir())


def test_links_and_devices_are_left_out_and_reported(tmp_path):
    path = tmp_path / "photos.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("red/1.png", "green/1.png"):
            info = tarfile.TarInfo(name)
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
        for name, kind in (("red/2.png", tarfile.SYMTYPE), ("red/3.png", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("red/4.png")
        info.type = tarfile.CHRTYPE
        archive.addfile(info)
    skipped = {file.path: file.reason for file in list_images(path).skipped}
    assert skipped == {
        "photos.tar/red/2.png": "a link in an archive, which is not followed",
        "photos.tar/red/3.png": "a link in an archive, which is not followed",
        "photos.tar/red/4.png": "a device in an archive, which is not followed",
    }
    files = [file for file in unpack(path).folder.rglob("*") if not file.is_dir()]
    assert sorted(file.name for file in files) == ["1.png", "1.png"]


def test_of_files_with_one_name_the_last_counts(tmp_path):
    path = tmp_path / "photos.tar"
    with tarfile.open(path, "w") as archive:
        for content in (b"old", b"newer"):
            info = tarfile.TarInfo("red/1.png")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert (unpack(path).folder / "red" / "1.png").read_bytes() == b"newer"


def test_backslashes_of_windows_archives_separate_folders(tmp_path):
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("red\\1.png")
        info.create_system = 0
        archive.writestr(info, b"1")
    assert (unpack(path).folder / "red" / "1.png").is_file()


def test_an_encrypted_archive_is_rejected(tmp_path):
    path = zip_of(tmp_path / "secret.zip", **{"red/1.png": b"1"})
    content = bytearray(path.read_bytes())
    for signature, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        struct.pack_into("<H", content, content.index(signature) + at, 1)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"without a password.*secret\.zip.*red/1\.png"):
        unpack(path)


def test_a_decompression_bomb_is_rejected_before_anything_is_written(tmp_path, monkeypatch):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("red/1.bmp", bytes(10**6))
    monkeypatch.setattr(unpacking, "GIGABYTE", 10**5)
    with pytest.raises(DataError, match=r"archive of images.*bomb\.zip.*1\.0 MB.*bomb"):
        unpack(path)
    monkeypatch.setattr(unpacking, "MAX_RATIO", 10**4)
    assert unpack(path).num_bytes == 10**6


def test_the_free_space_is_checked_first(photos, tmp_path, monkeypatch):
    path = packed(photos, tmp_path / "photos.zip")
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100))
    with pytest.raises(StorageError, match=r"must fit.*photos\.zip.*0\.0 MB are free.*TLKIT_CACHE"):
        unpack(path)


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("bad.zip", lambda path: path.write_bytes(b"PK no archive"), "intact archive"),
        ("bad.tar.gz", lambda path: path.write_bytes(b"\x1f\x8b damaged"), "intact archive"),
        ("none.zip", zip_of, "archive with images.*holds no file"),
        ("gone.zip", lambda path: None, "folder of images.*does not exist.*archive of it"),
        ("text.csv.txt", lambda path: path.write_text("a"), "folder of images.*a file"),
    ],
)
def test_unusable_archives_are_rejected(tmp_path, name, make, message):
    make(tmp_path / name)
    with pytest.raises(DataError, match=f"`path` must .*{message}"):
        tlkit.load_folder(tmp_path / name)


@pytest.mark.parametrize("name", ["photos.zip", "photos.tar.gz"])
def test_a_truncated_archive_leaves_nothing(photos, tmp_path, name):
    path = packed(photos, tmp_path / name)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="intact archive"):
        unpack(path)
    if name.endswith(".zip"):  # a damaged member instead of the end
        start = content.index(b"\xff\xda")
        path.write_bytes(content[:start] + b"damaged!" + content[start + 8 :])
        with pytest.raises(DataError, match=r"intact archive.*CRC"):
            unpack(path)
    left = [file.name for file in unpacking.cache_folder("archives").iterdir() if file.is_dir()]
    assert left == []


def test_an_archive_without_images_says_what_is_in_it(tmp_path):
    path = zip_of(tmp_path / "texts.zip", **{"a/1.txt": "x", "b/2.txt": "y"})
    with pytest.raises(
        DataError, match=r"must contain images.*such as .texts\.zip/a/1\.txt. \(not an image: text"
    ):
        tlkit.load_folder(path)


def test_another_process_may_have_unpacked_it_meanwhile(tmp_path):
    for name in ("staged", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    publish(tmp_path / "staged", tmp_path / "there")
    assert (tmp_path / "there" / "file").read_text() == "there"
    with pytest.raises(FileNotFoundError):
        publish(tmp_path / "missing", tmp_path / "new")


def test_a_use_of_an_archive_counts_for_the_cache(photos, tmp_path):
    path = packed(photos, tmp_path / "photos.zip")
    root = unpack(path).folder.parent
    os.utime(root, (1, 1))
    unpack(path)
    assert root.stat().st_mtime > 1


def test_places_have_names_for_runs_and_reports(photos, tmp_path):
    assert place_name(str(photos)) == "photos"
    assert place_name("a/flowers.tar.gz") == "flowers"
    assert place_name("a/images.csv") == "images"
    assert place_name("s3://bucket/flowers.v2") == "flowers.v2"
    assert shown_path(str(photos)) == str(photos)
    folder = tmp_path / "v1.zip"
    folder.mkdir()
    assert locate(folder).folder == folder  # a folder with the name of an archive
