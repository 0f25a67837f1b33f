import dataclasses
import shutil

import numpy as np
import pytest
from PIL import Image, ImageEnhance

import tlkit
from tests.data.image_bytes import encoded
from tests.data.test_manifests import rows_of, write_manifest
from tlkit.data import near_duplicates
from tlkit.data.images import ImageSplit
from tlkit.data.listing import list_folder
from tlkit.data.near_duplicate_reports import NearDuplicate, NearDuplicateReport
from tlkit.data.near_duplicates import audit_listing, find_near_duplicates
from tlkit.data.perceptual import NUM_BITS, num_differing, perceptual_hashes
from tlkit.errors import ArgumentError, DataError


def scene(seed, width=160, height=120):
    """Noise with a 1/f spectrum, as natural images have."""
    generator = np.random.default_rng(seed)
    across, down = np.fft.rfftfreq(width), np.fft.fftfreq(height)[:, np.newaxis]
    frequency = np.maximum(np.hypot(across, down), 1 / width)
    planes = []
    for _ in range(3):
        spectrum = generator.normal(size=(2, *frequency.shape)) / frequency**1.2
        plane = np.fft.irfft2(spectrum[0] + 1j * spectrum[1], (height, width))
        planes.append(128 + 45 * (plane - plane.mean()) / plane.std())
    return Image.fromarray(np.stack(planes, axis=-1).clip(0, 255).astype(np.uint8))


def cropped(image, fraction):
    width, height = image.size
    left, top = round(width * fraction / 2), round(height * fraction / 2)
    return image.crop((left, top, width - left, height - top))


CHANGES = {
    "saved worse": lambda image: encoded(image, "JPEG", quality=30),
    "another format": lambda image: encoded(image, "PNG"),
    "half": lambda image: encoded(image.resize((image.width // 2, image.height // 2)), "JPEG"),
    "double": lambda image: encoded(image.resize((image.width * 2, image.height * 2)), "JPEG"),
    "brighter": lambda image: encoded(ImageEnhance.Brightness(image).enhance(1.3), "JPEG"),
    "grey": lambda image: encoded(image.convert("L"), "JPEG"),
    "cropped": lambda image: encoded(cropped(image, 0.04), "JPEG"),
}


@pytest.fixture
def scenes(tmp_path):
    """A folder of 40 images in two classes without near-duplicates."""
    folder = tmp_path / "scenes"
    for number in range(40):
        path = folder / "ab"[number % 2] / f"{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(scene(number), "JPEG", quality=92))
    return folder


def test_modified_copies_are_found_and_nothing_else(scenes):
    originals = sorted(scenes.rglob("*.jpg"))
    copies = {}
    for path in originals:
        for name, change in CHANGES.items():
            copy = path.with_name(f"{path.stem}-{name}")
            copy.write_bytes(change(Image.open(path)))
            copies[str(copy)] = (str(path), name)
    data = tlkit.load_folder(scenes, image_size=8, splits=(1, 0, 0))
    report = find_near_duplicates(data)
    assert report.num_images == 40 * (1 + len(CHANGES))
    found = {frozenset(pair.paths) for pair in report.pairs}
    for copy, (path, name) in copies.items():
        assert {copy, path} in found, name
    stems = {tuple(sorted(path.split("/")[-1][:2] for path in paths)) for paths in found}
    assert stems == {(f"{number:02d}",) * 2 for number in range(40)}
    assert len(set(report.groups.values())) == 40


def test_pairs_across_splits_come_before_those_across_labels(scenes):
    rows = []
    for number, path in enumerate(sorted(scenes.rglob("*.jpg"))):
        rows.append((str(path), path.parent.name, "val" if number % 4 == 3 else "train"))

    def add(copied, class_name, split):
        name = scenes / f"{len(rows)}.jpg"
        name.write_bytes(CHANGES["half"](Image.open(rows[copied][0])))
        rows.append((str(name), class_name, split))
        return {str(name), rows[copied][0]}

    inside, mislabelled, leak = add(0, "a", "train"), add(1, "b", "train"), add(2, "a", "val")
    both = add(4, "b", "val")
    manifest = write_manifest(scenes / "m.csv", rows, ("path", "label", "split"))
    report = find_near_duplicates(tlkit.load_manifest(manifest, image_size=8))
    assert [set(pair.paths) for pair in report.pairs[2:]] == [mislabelled, inside]
    assert [set(pair.paths) for pair in report.across_splits] in ([leak, both], [both, leak])
    assert {frozenset(pair.paths) for pair in report.across_classes} == {
        frozenset(both), frozenset(mislabelled),
    }  # fmt: skip
    assert report.pairs[0].splits == ("train", "validation")
    text = str(report)
    assert "44 different images compared: 4 near-duplicate pairs (at most 64 of 255" in text
    assert "LEAKS: across splits (2):" in text
    assert "With different labels (1):" in text
    assert "In the same split and class (1):" in text
    assert "groups=tlkit.find_near_duplicates(data).group_of" in text


def test_the_reports_groups_keep_near_duplicates_in_one_split(scenes):
    for path in sorted(scenes.rglob("*.jpg")):
        for name in ("half", "cropped"):
            copy = path.with_name(f"{path.stem}-{name}.jpg")
            copy.write_bytes(CHANGES[name](Image.open(path)))
    before = find_near_duplicates(tlkit.load_folder(scenes, image_size=8))
    assert before.across_splits
    data = tlkit.load_folder(scenes, image_size=8, groups=before.group_of)
    assert data.report.num_groups == 40
    after = find_near_duplicates(data)
    assert not after.across_splits
    assert after.num_pairs == before.num_pairs
    assert before.group_of(scenes / "nowhere.jpg") is None


def test_an_image_is_found_by_any_spelling_of_its_path(scenes, monkeypatch):
    for path in sorted(scenes.rglob("*.jpg"))[:4]:
        path.with_suffix(".png").write_bytes(CHANGES["half"](Image.open(path)))
    monkeypatch.chdir(scenes.parent)
    report = find_near_duplicates(tlkit.load_folder("scenes", image_size=8))
    assert len(report.groups) == 8
    assert all(path.startswith("scenes/") for path in report.groups)
    found = [tlkit.load_folder("./scenes", image_size=8, groups=report.group_of)]
    found.append(tlkit.load_folder(scenes, image_size=8, groups=report.group_of))
    rows = [(f"../scenes/{path}", *more) for path, *more in rows_of(scenes)]
    manifest = write_manifest(scenes / "m.csv", [*rows, (str(scenes / "a" / "00.png"), "a")])
    found.append(tlkit.load_manifest(manifest, image_size=8, groups=report.group_of))
    assert [data.report.num_groups for data in found] == [4, 4, 4]
    assert not any("no key for any image" in note for data in found for note in data.report.notes)


def test_a_second_search_decodes_only_new_images(scenes, monkeypatch):
    data = tlkit.load_folder(scenes, image_size=8)
    first = find_near_duplicates(data)
    real, read = ImageSplit.dataset, []

    def counting(split, **arguments):
        read.extend(split.paths[row] for row in arguments["indices"])
        return real(split, **arguments)

    monkeypatch.setattr(ImageSplit, "dataset", counting)
    assert find_near_duplicates(data) == first
    assert not read
    (scenes / "a" / "new.png").write_bytes(encoded(scene(99), "PNG"))
    shutil.copy(scenes / "a" / "00.jpg", scenes / "a" / "copy.jpg")
    report = find_near_duplicates(tlkit.load_folder(scenes, image_size=8, splits=(1, 0, 0)))
    assert read == [str(scenes / "a" / "new.png")]
    assert (report.num_images, report.num_pairs) == (41, 0)  # an exact copy counts once


def test_images_in_memory_and_multi_label_images_are_compared():
    images = np.stack([np.asarray(scene(seed, 48, 40)) for seed in range(12)])
    images[9] = images[2] // 2 + 30
    labels = np.eye(3)[np.arange(12) % 3]
    labels[2] = labels[9] = 0
    data = tlkit.load_arrays(images, labels, ["sun", "sea", "sky"], splits=(1, 0, 0))
    report = find_near_duplicates(data)
    (pair,) = report.pairs
    assert pair.paths == ("images[2]", "images[9]")
    assert "remove one of each pair before tlkit.load_arrays" in str(report)
    assert "load_folder" not in str(report)
    assert pair.classes == ("", "")
    assert "images[2] (train, no label) ~ images[9]" in str(pair)


def test_a_listing_is_inspected_and_compared(scenes):
    (scenes / "b" / "again.jpg").write_bytes(CHANGES["double"](Image.open(scenes / "a" / "00.jpg")))
    (scenes / "b" / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    data, report = audit_listing(list_folder(scenes))
    assert data == tlkit.inspect_folder(scenes)
    (pair,) = report.pairs
    assert pair.splits == ("all", "all")
    assert pair.classes == ("a", "b")
    for split in ("train", "test"):
        for name in ("a", "b"):
            place = scenes / "conflicts" / split / name / "same.jpg"
            place.parent.mkdir(parents=True)
            place.write_bytes((scenes / "a" / "00.jpg").read_bytes())
    data, report = audit_listing(list_folder(scenes / "conflicts"))
    assert (len(data.conflicts), report.num_images) == (1, 0)
    (scenes / "nothing").mkdir()
    (scenes / "nothing" / "x").mkdir()
    data, report = audit_listing(list_folder(scenes / "nothing"))
    assert (report.num_images, report.num_pairs, report.pairs) == (0, 0, ())


def test_hash_bits_are_signs_of_frequencies():
    images = np.stack([np.asarray(scene(seed, 32, 32)) for seed in range(6)])
    hashes = perceptual_hashes(images)
    assert hashes.shape == (6, 32)
    np.testing.assert_array_equal(perceptual_hashes(images / 2 + 20), hashes)
    counted = [
        [sum((int(a) ^ int(b)).bit_count() for a, b in zip(x, y, strict=True)) for y in hashes]
        for x in hashes
    ]
    assert num_differing(hashes, hashes[:4]).tolist() == [row[:4] for row in counted]
    off_diagonal = np.array(counted)[~np.eye(6, dtype=bool)]
    assert off_diagonal.min() > 100
    assert off_diagonal.max() < 155
    angle = np.pi * (np.arange(32) + 0.5) / 32
    wave = np.cos(3 * angle)[:, np.newaxis] * np.cos(5 * angle)
    bits = np.unpackbits(
        perceptual_hashes((128 + 90 * wave)[np.newaxis, ..., np.newaxis] * np.ones(3))
    )
    assert np.flatnonzero(bits).tolist() == [3 * 16 + 5 - 1]


def test_single_coloured_images_match_only_each_other():
    flat = np.stack([np.full((32, 32, 3), value) for value in (0, 1, 77, 255)])
    assert not perceptual_hashes(flat).any()


def test_block_size_and_pair_limit_change_only_the_list(scenes, monkeypatch):
    for number in range(9):
        copy = scenes / "b" / f"x{number}.jpg"
        copy.write_bytes(encoded(Image.open(scenes / "a" / "00.jpg"), "JPEG", quality=20 + number))
    data = tlkit.load_folder(scenes, image_size=8, splits=(1, 0, 0))
    whole = find_near_duplicates(data)
    assert whole.num_pairs == 45
    monkeypatch.setattr(near_duplicates, "_BLOCK", 7)
    assert find_near_duplicates(data) == whole
    monkeypatch.setattr(near_duplicates, "MAX_PAIRS", 10)
    part = find_near_duplicates(data)
    assert part.pairs == whole.pairs[:10]
    assert part.num_pairs == 45
    assert part.groups == whole.groups
    assert part.notes == ("Only the first 10 pairs are listed.",)
    assert "... and 16 more" in str(whole)


def test_the_html_escapes_names():
    pair = NearDuplicate(("<i>.jpg", "b.jpg"), 3, ("train", "test"), ("<b>", ""))
    report = NearDuplicateReport((pair,), 1, 2, 64)
    page = report._repr_html_()
    assert "&lt;i&gt;.jpg<br>train, &lt;b&gt;" in page
    assert "LEAKS" in page
    assert "<td>3</td>" in page
    assert "0 near-duplicate pairs" in NearDuplicateReport((), 0, 9, 64)._repr_html_()


@pytest.mark.parametrize("bound", [-1, 128, 2.5, True, "64"])
def test_the_bound_is_checked(photos, bound):
    data = tlkit.load_folder(photos, image_size=8)
    with pytest.raises(ArgumentError, match="`max_differing` must be a whole number from 0 to 127"):
        find_near_duplicates(data, max_differing=bound)


def test_other_objects_than_loaded_data_raise(photos):
    with pytest.raises(
        ArgumentError, match=r"`data` must be the result of load_folder.*of type str"
    ):
        find_near_duplicates(str(photos))


def test_an_image_that_has_gone_is_named(scenes):
    gone = scenes / "a" / "02.jpg"
    gone.write_bytes(encoded(scene(4711), "JPEG"))  # its pixels are not cached yet
    data = tlkit.load_folder(scenes, image_size=8)
    gone.unlink()
    with pytest.raises(DataError, match=r"must not change.*02.jpg"):
        find_near_duplicates(data)


@pytest.mark.shared_data
def test_real_images_give_no_false_pairs_and_their_copies_are_found(shared, tmp_path):
    """The figures of the README and of `MAX_DIFFERING`, on a part of the images."""
    images = sorted((shared / "data" / "flowers").rglob("*.jpg"))[::10]
    images += sorted((shared / "data" / "hymenoptera").rglob("*.jpg"))[::10]
    for number, path in enumerate(images):
        folder = tmp_path / "photos" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / f"{number:03d}.jpg")
        image = Image.open(path).convert("RGB")
        for name in ("saved worse", "half", "grey", "cropped"):
            (folder / f"{number:03d}-{name}.jpg").write_bytes(CHANGES[name](image))
    data = tlkit.load_folder(tmp_path / "photos", image_size=8, splits=(1, 0, 0))
    report = find_near_duplicates(data)
    numbers = [[path.split("/")[-1][:3] for path in pair.paths] for pair in report.pairs]
    assert all(first == second for first, second in numbers)
    assert len(numbers) >= 0.98 * 10 * len(images)  # all pairs of five versions
    wider = find_near_duplicates(data, max_differing=NUM_BITS // 2 - 30)
    assert wider.num_pairs >= report.num_pairs


def test_a_report_is_frozen():
    report = NearDuplicateReport((), 0, 0, 64)
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.num_pairs = 1
