"""Images that are given as files, folders, patterns and archives."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from tlkit.data.given_images import GivenImage, ImageReader, find_images
from tlkit.errors import ArgumentError, DataError


def png(colour):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "new"
    for name in ("b.png", "a.png", "sub/c.png", "notes.txt", ".DS_Store", ".hidden/d.png"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png("red") + name.encode())
    return root


def names(images, root):
    return [Path(image.path).relative_to(root).as_posix() for image in images]


def test_a_folder_gives_all_its_files_but_hidden_ones(folder):
    (folder / "sub" / "loop").symlink_to(folder)
    (folder / "broken.png").symlink_to(folder / "nowhere.png")
    images = find_images(folder, "images")
    assert names(images, folder) == ["a.png", "b.png", "broken.png", "notes.txt", "sub/c.png"]
    assert [image.problem for image in images] == ["", "", "broken link", "", ""]
    with ImageReader() as reader:
        read = reader.read(images)
    assert [one.content[-5:] for one in read] == [b"a.png", b"b.png", b"", b"s.txt", b"c.png"]
    assert [one.problem for one in read] == ["", "", "broken link", "", ""]


def test_patterns_and_files_keep_their_order(folder):
    given = [folder / "sub" / "c.png", str(folder / "*.png"), "missing.png"]
    images = find_images(given, "images")
    assert [image.name for image in images] == ["c.png", "a.png", "b.png", "missing.png"]
    with ImageReader() as reader:
        assert "No such file" in reader.read(images)[-1].problem
    (folder / "[1].png").write_bytes(png("blue"))
    assert names(find_images(folder / "[1].png", "images"), folder) == ["[1].png"]


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".TGZ"])
def test_archives_are_read_without_unpacking(folder, tmp_path, suffix):
    path = tmp_path / f"new{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(folder.rglob("*")):
                archive.write(file, f"./{file.relative_to(folder)}")
    else:
        with tarfile.open(path, "w:gz" if "g" in suffix.lower() else "w") as archive:
            archive.add(folder, ".")
    before = sorted(tmp_path.rglob("*"))
    images = find_images(path, "images")
    assert sorted(names(images, path)) == ["a.png", "b.png", "notes.txt", "sub/c.png"]
    with ImageReader() as reader:
        read = reader.read(images)
    expected = {file.name: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert [one.content for one in read] == [expected[image.name] for image in images]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_member_has_its_reason(tmp_path):
    path = tmp_path / "new.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", png("red"))
        archive.writestr("b.png", png("green"))
    content = path.read_bytes()
    at = content.index(b"IDAT")
    path.write_bytes(content[:at] + b"XXXX" + content[at + 4 :])
    with ImageReader() as reader:
        first, second = reader.read(find_images(path, "images"))
    assert "cannot be read from the archive: Bad CRC-32" in first.problem
    assert second.content == png("green")


def test_what_holds_no_image_is_named(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.zip").write_bytes(b"PK no archive")
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as archive:
        archive.writestr("__MACOSX/a.png", b"")
    for given, message in (
        ("empty", "folder with images.*holds no file"),
        ("bad.zip", r"intact archive.*bad\.zip.*not a zip file"),
        ("none.zip", "archive with images.*holds no file"),
        ("*.gif", "must match files.*matches none"),
    ):
        with pytest.raises(DataError, match=message):
            find_images(tmp_path / given, "images")
    with pytest.raises(DataError, match="must name an image"):
        find_images([], "images")
    with pytest.raises(ArgumentError, match="must be a path"):
        find_images([3], "images")


def test_a_name_that_is_no_unicode_is_a_problem_of_its_file():
    (image,) = find_images("caf\udce9.png", "images")
    assert image == GivenImage("caf\udce9.png", problem="its name is not valid Unicode")
