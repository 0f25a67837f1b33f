import dataclasses
import os
import shutil
import subprocess
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tests.conftest import write_photos
from tests.data.image_bytes import drawing, encoded, photograph, png_claiming, sixteen_bit_png
from tlkit.data import conversion, decoding, listing
from tlkit.data import file_checks as checks
from tlkit.data.folders import load_listing
from tlkit.data.settings import check_settings
from tlkit.errors import ArgumentError, DataError


@pytest.fixture
def messy(tmp_path):
    """A folder with two valid classes, and many kinds of other files."""
    root = write_photos(tmp_path / "photos", {"cat": 6, "dog": 6})
    cat, dog = root / "cat", root / "dog"
    jpeg = (cat / "000.jpg").read_bytes()
    good = {
        "Große Katze.JPG": photograph(drawing(), 6),
        "png.jpg": encoded(drawing(), "PNG"),
        "a.webp": encoded(drawing(), "WEBP"),
        "b.gif": encoded(drawing(), "GIF"),
        "c.bmp": encoded(drawing(), "BMP"),
        "deep.png": sixteen_bit_png(),
        "grey.jpg": encoded(drawing().convert("L"), "JPEG"),
        "cmyk.jpg": encoded(drawing().convert("CMYK"), "JPEG"),
        "palette.png": encoded(drawing().quantize(16), "PNG"),
        "alpha.png": encoded(drawing().convert("RGBA"), "PNG"),
        "pixel.png": encoded(drawing(1, 1), "PNG"),
        "wide.png": encoded(drawing(3000, 20), "PNG"),
        "no ending": encoded(drawing(50, 50), "JPEG"),
        "deeper/猫.jpeg": encoded(drawing(51, 51), "JPEG"),
    }
    bad = {
        "empty.jpg": b"",
        "text.jpg": b"hello",
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "cut.png": encoded(drawing(), "PNG")[:200],
        "scan.tif": encoded(drawing(), "TIFF")[:2000],
        "photo.heic": b"\0\0\0\x18ftypheic" + bytes(100),
        "drawing.svg": b'<?xml version="1.0"?><svg></svg>',
        "bomb.png": png_claiming(60_000, 60_000),
        "._hidden.jpg": jpeg,
        "Thumbs.db": b"\0",
        ".git/object.jpg": jpeg,
        "__MACOSX/copy.jpg": jpeg,
    }
    for name, content in {**good, **bad}.items():
        (dog / name).parent.mkdir(exist_ok=True)
        (dog / name).write_bytes(content)
    (root / "stray.jpg").write_bytes(jpeg)
    (root / "nothing").mkdir()
    (root / ".cache").mkdir()
    (dog / "loop").symlink_to(root)
    (dog / "gone.jpg").symlink_to(root / "nowhere.jpg")
    os.mkfifo(dog / "pipe.jpg")
    return root


def reasons(report, root):
    return {os.path.relpath(file.path, root): file.reason for file in report.skipped}


def used(data):
    splits = (data.train, data.validation, data.test)
    return {path for split in splits if split is not None for path in split.paths}


def test_everything_skipped_in_a_messy_folder_is_reported(messy, monkeypatch):
    monkeypatch.setattr(conversion, "_has_heif", lambda: False)
    files_before = {path: path.lstat().st_size for path in messy.rglob("*")}
    data = tlkit.load_folder(messy, image_size=16, splits=(1, 0, 0))
    assert reasons(data.report, messy) == {
        "dog/empty.jpg": "empty file",
        "dog/text.jpg": "not an image: text",
        "dog/cut.jpg": "truncated or damaged JPEG: jpeg::Uncompress failed. Invalid JPEG data "
        "or crop window.",
        "dog/cut.png": "truncated or damaged PNG: Invalid PNG data, size 200",
        "dog/scan.tif": "truncated or damaged TIFF: image file is truncated (240 bytes not "
        "processed)",
        "dog/photo.heic": "HEIC is not supported: pip install 'tlkit[heif]', or convert it to JPEG "
        "or PNG, with ImageMagick or pillow-heif for example",
        "dog/drawing.svg": "SVG is not supported: convert it to JPEG or PNG, with Inkscape or "
        "rsvg-convert for example",
        "dog/bomb.png": "has 3600000000 pixels, more than the bound of 134217728 "
        "(raise `max_pixels`)",
        "dog/._hidden.jpg": "hidden",
        "dog/.git": "hidden",
        ".cache": "hidden",
        "dog/Thumbs.db": "made by an operating system",
        "dog/__MACOSX": "made by an operating system",
        "stray.jpg": "not in a class folder",
        "dog/loop": "link back to an enclosing folder",
        "dog/gone.jpg": "broken link",
        "dog/pipe.jpg": "neither a file nor a folder",
    }
    assert data.class_names == ("cat", "dog")
    assert data.report.empty_classes == ("nothing",)
    assert data.report.counts == {"cat": {"train": 6}, "dog": {"train": 20}}
    assert data.report.formats == {"jpeg": 17, "png": 6, "bmp": 1, "gif": 1, "webp": 1}
    assert data.report.imbalance == 20 / 6
    assert {file.class_name for file in data.report.skipped} == {"", "dog"}
    assert {path: path.lstat().st_size for path in messy.rglob("*")} == files_before
    (images, labels), *_ = data.train.dataset(shuffle=False, batch_size=26)
    assert images.shape == (26, 16, 16, 3)
    assert labels.numpy().tolist() == [0] * 6 + [1] * 20


def test_the_report_lists_findings_and_escapes_names(messy):
    (messy / "<b>").mkdir()
    (messy / "<b>" / "x.jpg").write_bytes(b"")
    report = tlkit.inspect_folder(messy)
    assert "dog: " in str(report)
    assert "truncated or damaged JPEG" in str(report)
    assert report.splits == ("all",)
    page = report._repr_html_()
    assert "&lt;b&gt;" in page
    assert "<b>" not in page


def test_the_pixel_bound_can_be_set(tmp_path):
    root = write_photos(tmp_path / "photos", {"a": 2, "b": 2}, size=30)
    assert not tlkit.inspect_folder(root, max_pixels=900).skipped
    report = tlkit.inspect_folder(root, max_pixels=899)
    assert {file.reason for file in report.skipped} == {
        "has 900 pixels, more than the bound of 899 (raise `max_pixels`)"
    }
    assert not tlkit.inspect_folder(root, max_pixels=900).skipped


def test_a_second_inspection_opens_no_file(messy, monkeypatch):
    first = tlkit.load_folder(messy, image_size=16)
    checked = []
    real = checks.check_file
    monkeypatch.setattr(
        checks, "check_file", lambda path, decoder: checked.append(path) or real(path, decoder)
    )
    second = tlkit.load_folder(messy, image_size=16)
    assert not checked
    assert second.fingerprint == first.fingerprint
    assert second.report == first.report
    (messy / "cat" / "new.jpg").write_bytes(encoded(drawing(33, 33), "JPEG"))
    (messy / "cat" / "001.jpg").write_bytes(encoded(drawing(34, 34), "JPEG"))
    tlkit.load_folder(messy, image_size=16)
    assert sorted(map(os.path.basename, checked)) == ["001.jpg", "new.jpg"]


@pytest.mark.slow
def test_many_threads_cause_no_retracing_warning(photos, monkeypatch, caplog):
    monkeypatch.setattr(checks.os, "cpu_count", lambda: 16)
    monkeypatch.setattr(tf.get_logger(), "propagate", True)
    max_pixels = 12_345_678  # a unique bound, so that no other test has traced its decoder
    data = tlkit.load_folder(photos, image_size=32, max_pixels=max_pixels)
    assert data.report.num_files > 16
    assert not [record.message for record in caplog.records if record.name == "tensorflow"]


def test_a_changed_file_with_an_old_mtime_is_checked_again(photos):
    path = photos / "red" / "000.jpg"
    before, status = tlkit.inspect_folder(photos), path.stat()
    assert not before.skipped
    path.write_bytes(bytes(status.st_size))  # same size and mtime
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    (skipped,) = tlkit.inspect_folder(photos).skipped
    assert skipped.reason == "not an image"


def test_another_decoder_version_checks_again(photos, monkeypatch):
    tlkit.inspect_folder(photos)
    monkeypatch.setattr(checks, "DECODER_VERSION", "another")
    checked = []
    real = checks.check_file
    monkeypatch.setattr(
        checks, "check_file", lambda path, decoder: checked.append(path) or real(path, decoder)
    )
    tlkit.inspect_folder(photos)
    assert len(checked) == 60


def test_checks_are_cached_after_an_interrupt(photos, monkeypatch):
    real, checked = checks.check_file, []

    def stopping(path, decoder):
        if path.endswith("red/005.jpg"):
            raise KeyboardInterrupt
        return real(path, decoder)

    monkeypatch.setattr(checks, "check_file", stopping)
    with pytest.raises(KeyboardInterrupt):
        tlkit.inspect_folder(photos)
    monkeypatch.setattr(
        checks, "check_file", lambda path, decoder: checked.append(path) or real(path, decoder)
    )
    tlkit.inspect_folder(photos)
    assert len(checked) == 25


def test_a_file_without_permission_is_not_cached(photos, monkeypatch):
    def refuse(path, mode, opener):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    checked = checks.check_file(str(photos / "red" / "000.jpg"), lambda content: (1, 1, "", 0))
    assert checked == checks.FileCheck(reason="permission denied", is_lasting=False)


def test_files_of_a_folder_without_permission_are_skipped(photos, monkeypatch):
    scan = listing._scan

    class Closed:
        """An entry of a folder that can be listed but not entered."""

        def __init__(self, entry):
            self.name, self.path = entry.name, entry.path

        def stat(self):
            raise PermissionError(13, "Permission denied")

    def scanned(folder):
        entries, problem = scan(folder)
        is_closed = folder.endswith("red")
        return [Closed(entry) for entry in entries] if is_closed else entries, problem

    monkeypatch.setattr(listing, "_scan", scanned)
    report = tlkit.inspect_folder(photos)
    assert {file.reason for file in report.skipped} == {"permission denied"}
    assert report.counts == {"green": {"all": 30}}
    assert report.empty_classes == ("red",)


def test_adding_files_moves_no_existing_image(tmp_path):
    root = write_photos(tmp_path / "photos", {"a": 40, "b": 40}, size=12)
    before = tlkit.load_folder(root, image_size=8)
    write_photos(tmp_path / "more", {"a": 15, "b": 5, "c": 9}, size=12, seed=1)
    for file in sorted((tmp_path / "more").rglob("*.jpg")):
        target = root / file.parent.name / f"0{file.name}"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(file, target)
    after = tlkit.load_folder(root, image_size=8)
    for name in ("train", "validation", "test"):
        assert set(getattr(before, name).paths) < set(getattr(after, name).paths)
    assert after.fingerprint != before.fingerprint


def test_class_names_are_normalised_to_nfc(tmp_path):
    root = write_photos(tmp_path / "photos", {"Ähre": 3, "ZWERG": 3, "猫": 3}, size=12)
    (root / "Ähre").rename(root / unicodedata.normalize("NFD", "Ähre"))
    data = tlkit.load_folder(root, image_size=8, splits=(1, 0, 0))
    assert data.class_names == ("ZWERG", "Ähre", "猫")
    assert sum(batch.shape[0] for batch, _ in data.train.dataset()) == 9


def test_links_to_folders_elsewhere_are_followed(tmp_path):
    root = write_photos(tmp_path / "photos", {"a": 3, "b": 3}, size=12)
    write_photos(tmp_path / "elsewhere", {"x": 4}, size=12, seed=5)
    (root / "c").symlink_to(tmp_path / "elsewhere")
    data = tlkit.load_folder(root, image_size=8, splits=(1, 0, 0))
    assert data.report.counts["c"] == {"train": 4}


def test_a_users_split_is_kept(tmp_path):
    root = tmp_path / "photos"
    write_photos(root / "train", {"a": 5, "b": 5}, size=12)
    write_photos(root / "val", {"a": 2, "b": 2}, size=12, seed=1)
    (root / "val" / "c").mkdir()
    (root / "models").mkdir()
    shutil.copy(root / "train" / "a" / "000.jpg", root / "val" / "a" / "copy.jpg")
    data = tlkit.load_folder(root, image_size=8)
    assert data.report.counts == {
        "a": {"train": 5, "validation": 2},
        "b": {"train": 5, "validation": 2},
    }
    assert data.test is None
    (leak,) = data.report.leaks
    assert (leak.kept, leak.left_out) == (
        str(root / "train" / "a" / "000.jpg"),
        str(root / "val" / "a" / "copy.jpg"),
    )
    assert "LEAKS" in str(data.report)
    assert data.report.empty_classes == ("c",)
    assert reasons(data.report, root) == {"models": "beside the split folders"}
    write_photos(root / "test", {"a": 1, "b": 3}, size=12, seed=2)
    assert tlkit.load_folder(root, image_size=8).test.num_images == 4
    assert tlkit.inspect_folder(root).counts["b"] == {"train": 5, "validation": 2, "test": 3}


def test_a_folder_of_a_split_without_images_is_noted(tmp_path):
    root = tmp_path / "photos"
    write_photos(root / "train", {"a": 20, "b": 20}, size=12)
    (root / "val" / "a").mkdir(parents=True)
    data = tlkit.load_folder(root, image_size=8)
    assert data.validation.num_images > 0
    assert "The validation split has no usable images and is left out." in data.report.notes


def test_classes_may_be_named_like_splits(tmp_path):
    root = write_photos(tmp_path / "photos", {"train": 3, "plane": 3}, size=12)
    assert tlkit.load_folder(root, image_size=8).class_names == ("plane", "train")


def test_class_names_set_the_order_and_must_match_the_folder(photos):
    data = tlkit.load_folder(photos, image_size=8, class_names=["red", "green"])
    assert data.class_names == ("red", "green")
    assert all("red" in path for path in np.array(data.train.paths)[data.train.labels == 0])
    with pytest.raises(DataError, match="no images of 'blue' and unexpected classes 'red'"):
        tlkit.load_folder(photos, class_names=["green", "blue"])
    with pytest.raises(ArgumentError, match="Name each class once"):
        tlkit.load_folder(photos, class_names=["red", "red"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "`image_size` must be a positive number of pixels.*image_size=0"),
        ({"image_size": (8, -1)}, r"image_size=\(8, -1\)"),
        ({"image_size": 8.5}, "image_size=8.5"),
        ({"batch_size": 0}, "`batch_size` must be .* at least 1. Received: batch_size=0"),
        ({"seed": -1}, "`seed` must be"),
        ({"seed": 2**32}, "`seed` must be .* below 4294967296. Received: seed=4294967296"),
        ({"splits": (0.5, 0.5)}, "`splits` must be three fractions"),
        ({"splits": (0.5, 0.4, 0.4)}, "that sum to 1"),
        ({"splits": (0.0, 0.5, 0.5)}, "above zero"),
        ({"splits": (1.2, -0.1, -0.1)}, "`splits`"),
        ({"max_pixels": 0}, "`max_pixels` must be"),
    ],
)
def test_invalid_arguments_raise_before_the_folder_is_listed(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        tlkit.load_folder("there is no such folder", **arguments)


def test_a_single_number_is_a_square_image_size():
    assert check_settings(7, 1, [1, 0, 0], 0).image_size == (7, 7)
    assert check_settings([7, 9], 1, [1, 0, 0], 0).image_size == (7, 9)


def test_loader_settings_reach_the_splits(photos, tmp_path):
    settings = check_settings(
        8, 4, (0.5, 0.5, 0), 3, class_names=["b", "a"], max_pixels=90_000, cache=tmp_path
    )
    assert (settings.class_names, settings.cache) == (("b", "a"), tmp_path)
    names = tlkit.inspect_folder(photos).counts
    settings = dataclasses.replace(settings, class_names=tuple(sorted(names, reverse=True)))
    data = load_listing(listing.list_folder(photos), settings)
    assert data.class_names == settings.class_names
    assert (data.image_size, data.batch_size, data.seed) == ((8, 8), 4, 3)
    assert data.train.source.max_pixels == 90_000
    assert data.test is None


@pytest.mark.parametrize("load", [tlkit.load_folder, tlkit.inspect_folder])
def test_paths_that_are_not_image_folders_raise(tmp_path, load):
    with pytest.raises(DataError, match=r"`path` must be a folder.*which does not exist"):
        load(tmp_path / "missing")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="which is a file"):
        load(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="which is empty"):
        load(tmp_path / "empty")


def test_untrainable_folders_raise(tmp_path):
    with pytest.raises(DataError, match="classes='a'"):
        tlkit.load_folder(write_photos(tmp_path / "one", {"a": 5}, size=12))
    with pytest.raises(DataError, match="a single image of 'b'"):
        tlkit.load_folder(write_photos(tmp_path / "single", {"a": 5, "b": 1}, size=12))
    for name in ("val", "validation", "train"):
        write_photos(tmp_path / "both" / name, {"a": 2, "b": 2}, size=12)
    with pytest.raises(DataError, match="at most one folder each for validation"):
        tlkit.load_folder(tmp_path / "both")
    for name in ("val", "test"):
        write_photos(tmp_path / "untrained" / name, {"a": 2, "b": 2}, size=12)
    with pytest.raises(DataError, match="`path` must contain `train`"):
        tlkit.load_folder(tmp_path / "untrained")


def test_files_are_decoded_as_everywhere(tmp_path):
    root = write_photos(tmp_path / "photos", {"a": 2, "b": 2})
    (root / "a" / "turned.jpg").write_bytes(photograph(drawing(), 6))
    data = tlkit.load_folder(root, image_size=(24, 16), splits=(1, 0, 0))
    (images, _), *_ = data.train.dataset(shuffle=False)
    for path, image in zip(data.train.paths, images.numpy(), strict=True):
        expected = decoding.decode_image(tf.io.read_file(path), (24, 16))
        assert np.array_equal(image, expected)


@pytest.mark.parametrize("path", [None, 5, ["photos"], b"photos"])
def test_arguments_that_are_not_paths_raise(path):
    with pytest.raises(ArgumentError, match="`path` must be a path, a string"):
        tlkit.load_folder(path)


def test_folders_with_mutual_links_are_listed_once_per_class(tmp_path):
    names = "abcdefgh"
    for index, name in enumerate(names):
        write_photos(tmp_path, {name: 1}, seed=index)
        for other in set(names) - {name}:
            (tmp_path / name / other).symlink_to(tmp_path / other)
    found = listing.list_folder(tmp_path)
    # each class has itself and seven linked folders, and 49 of their 56 links lead to listed
    # folders
    assert len(found.files) == 8 * 8
    assert len(found.skipped) == 8 * (8 * 7 - 7)
    assert {file.reason for file in found.skipped} == {
        "link back to an enclosing folder",
        "link to a folder of the class that is already listed",
    }


def test_files_are_listed_under_their_real_path_despite_links(tmp_path):
    write_photos(tmp_path / "a", {"z": 1})
    write_photos(tmp_path, {"b": 1})
    (tmp_path / "a" / "first").symlink_to(tmp_path / "a" / "z")
    found = listing.list_folder(tmp_path)
    assert [Path(file.path).relative_to(tmp_path).as_posix() for file in found.files] == [
        "a/z/000.jpg",
        "b/000.jpg",
    ]
    assert [Path(file.path).name for file in found.skipped] == ["first"]


@pytest.mark.parametrize(("depth", "num_files"), [(1200, 2), (2200, 1)])
def test_deep_folders_are_listed_or_reported(tmp_path, monkeypatch, depth, num_files):
    write_photos(tmp_path / "photos", {"a": 1, "b": 1})
    photo = tmp_path / "photos" / "a" / "000.jpg"
    monkeypatch.chdir(photo.parent)
    content = photo.read_bytes()
    photo.unlink()
    for _ in range(depth):  # absolute paths are limited in length
        os.mkdir("d")
        os.chdir("d")
    Path("000.jpg").write_bytes(content)
    found = listing.list_folder(tmp_path / "photos")
    assert len(found.files) == num_files
    assert {file.reason for file in found.skipped} == (
        {"its path is too long"} if num_files == 1 else set()
    )
    monkeypatch.chdir(tmp_path)
    subprocess.run(["rm", "-rf", tmp_path / "photos"], check=True)  # shutil.rmtree is recursive
