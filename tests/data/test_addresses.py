"""Folders and archives of images at addresses, in the file systems of fsspec without a network."""

import builtins
import shutil
import sys
import time
import zipfile
from collections import namedtuple

import pytest

import tlkit
from tests.conftest import write_photos
from tlkit.data import addresses
from tlkit.data.addresses import fetch, is_address
from tlkit.data.given_images import ImageReader, find_images
from tlkit.errors import ArgumentError, DataError, StorageError
from tlkit.runs.config import RunConfig

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def memory():
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]


@pytest.fixture
def fetched(memory, monkeypatch):
    """The addresses of the files that are fetched."""
    names = []
    get_file = type(memory).get_file

    def noted(self, address, path, **options):
        names.append(address)
        return get_file(self, address, path, **options)

    monkeypatch.setattr(type(memory), "get_file", noted)
    return names


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("remote") / "photos", {"green": 6, "red": 6})


def test_addresses_are_told_from_paths():
    assert all(map(is_address, ("s3://b/a", "https://x.org/a.zip", "memory://a", "GS://b")))
    assert not any(
        map(is_address, ("a/b.zip", "C:\\images", "C:/images", "//share/a", "a:b", None))
    )


@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_a_folder_at_an_address_has_the_splits_of_the_folder(photos, memory, protocol):
    memory.put(str(photos), "/bucket/photos", recursive=True)
    address = "memory://bucket/photos" if protocol == "memory" else photos.as_uri()
    found = tlkit.load_folder(address, image_size=16)
    assert found.fingerprint == tlkit.load_folder(photos, image_size=16).fingerprint
    assert any(note.startswith(f"{address} is copied to the cache") for note in found.report.notes)


def test_an_archive_at_an_address_is_unpacked(photos, memory, tmp_path):
    path = shutil.make_archive(tmp_path / "photos", "zip", photos.parent, "photos")
    memory.put(path, "/bucket/photos.zip")
    report = tlkit.inspect_folder("memory://bucket/photos.zip")
    assert report.counts == {"green": {"all": 6}, "red": {"all": 6}}
    images = find_images("memory://bucket/photos.zip", "images")
    assert len(images) == 12
    assert images[0].path.startswith("memory://bucket/photos.zip/photos/")


def test_only_changed_files_are_fetched_again(memory, fetched):
    for name in ("a/1.png", "a/2.png", "b/3.png"):
        memory.pipe(f"/images/{name}", name.encode())
    folder = fetch("memory://images")
    assert len(fetched) == 3
    assert fetch("memory://images") == folder
    assert len(fetched) == 3
    memory.pipe("/images/a/2.png", b"other")
    memory.pipe("/images/b/4.png", b"new")
    memory.rm("/images/b/3.png")
    (folder / "a" / "1.png").unlink()
    fetch("memory://images")
    assert sorted(fetched[3:]) == ["/images/a/1.png", "/images/a/2.png", "/images/b/4.png"]
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*.png")}
    assert sorted(files) == ["a/1.png", "a/2.png", "b/4.png"]
    assert files["a/2.png"].read_bytes() == b"other"


def test_an_interrupted_download_leaves_complete_files_only(memory, fetched, monkeypatch):
    for number in range(4):
        memory.pipe(f"/images/a/{number}.png", bytes(1000))
    get_file = type(memory).get_file

    def interrupted(self, address, path, **options):
        if address.endswith("2.png"):
            with open(path, "wb") as file:
                file.write(b"half")
            time.sleep(0.2)  # the others are complete by now
            raise KeyboardInterrupt
        return get_file(self, address, path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "get_file", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch("memory://images")
    root = next(addresses.cache_folder("remote").glob("[0-9a-f]*"))
    assert all(len(file.read_bytes()) == 1000 for file in root.rglob("*.png"))
    assert not list(root.glob(".tlkit-*"))
    fetched.clear()
    folder = fetch("memory://images")
    assert "/images/a/2.png" in fetched
    assert "/images/a/0.png" not in fetched
    assert len(list(folder.rglob("*.png"))) == 4


def test_files_at_an_address_can_be_predicted(memory):
    memory.pipe("/new/sub/1.png", b"one")
    (image,) = find_images("memory://new", "images")
    assert image.path == "memory://new/sub/1.png"
    assert image.name == "1.png"
    with ImageReader() as reader:
        assert reader.read([image])[0].content == b"one"


def test_a_name_that_leads_out_is_rejected(memory):
    memory.store["/images/../out.png"] = memory.store.get("x")  # as keys of object stores may be
    memory.pipe("/images/1.png", b"1")
    memory.store["/images/../out.png"] = memory.store["/images/1.png"]
    with pytest.raises(DataError, match=r"plain names.*out\.png"):
        fetch("memory://images")


def test_the_free_space_is_checked_first(memory, fetched, monkeypatch):
    memory.pipe("/images/a/1.png", bytes(10**6))
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100))
    with pytest.raises(StorageError, match=r"must fit.*memory://images.*1\.0 MB"):
        fetch("memory://images")
    assert fetched == []


@pytest.mark.parametrize(
    ("address", "kind", "message"),
    [
        ("memory://nowhere", DataError, r"can be read from here.*which does not exist"),
        ("memory://empty", DataError, "holds no file"),
        ("memory://one/1.png", DataError, "address of a folder or an archive"),
        ("https://example.org/images/", DataError, r"archive, such as images\.zip"),
        ("foo://bucket/images", ArgumentError, "protocol of fsspec"),
        ("memoy://bucket/images", ArgumentError, "Did you mean 'memory'"),
        ("ftp://me:secret@host/images", ArgumentError, "without a password"),
    ],
)
def test_unusable_addresses_are_rejected(memory, address, kind, message):
    memory.mkdir("/empty")
    memory.pipe("/one/1.png", b"1")
    with pytest.raises(kind, match=message) as raised:
        tlkit.load_folder(address)
    assert "secret" not in str(raised.value)


def test_an_address_without_access_is_rejected(memory, monkeypatch):
    class NoCredentialsError(Exception):
        """As the packages of file systems have them."""

    def info(self, path, **options):
        raise NoCredentialsError("Unable to locate credentials")

    monkeypatch.setattr(type(memory), "info", info)
    message = "can be read from here.*NoCredentialsError: Unable to locate credentials.*your access"
    with pytest.raises(DataError, match=message):
        tlkit.load_folder("memory://bucket/images")


@pytest.mark.parametrize(
    ("address", "package"),
    [
        ("s3://bucket/images", "s3fs"),
        ("gs://b/a", "gcsfs"),
        ("https://x.org/a.zip", r"'tlkit\[rem"),
    ],
)
def test_a_missing_package_of_a_protocol_is_named(monkeypatch, address, package):
    def missing(protocol):
        raise ImportError(f"Please install something for {protocol}")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(ArgumentError, match=f"`photos` must .*pip install {package}"):
        fetch(address, argument="photos")


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(
        ArgumentError, match=r"unless the extra remote.*pip install 'tlkit\[remote\]'"
    ):
        tlkit.load_folder("s3://bucket/images")


def test_nothing_of_fsspec_is_needed_for_paths(photos, monkeypatch):
    real = builtins.__import__

    def importing(name, *others):
        assert not name.startswith("fsspec")
        return real(name, *others)

    monkeypatch.setattr(builtins, "__import__", importing)
    assert find_images(photos, "images")
    with pytest.raises(DataError, match="does not exist"):
        tlkit.load_folder(photos / "nowhere.zip")


def test_the_config_of_a_run_keeps_an_address_as_it_is():
    config = RunConfig(photos="s3://bucket/images.zip", backbone="resnet20")
    assert config.photos == "s3://bucket/images.zip"
    assert zipfile.is_zipfile(config.photos) is False
