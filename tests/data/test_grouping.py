import numpy as np
import pytest

import tlkit
from tests.conftest import write_photos
from tests.data.test_manifests import rows_of, splits_of, write_manifest
from tlkit.data.class_checks import check_classes
from tlkit.data.grouping import SplitGroup, assign_groups, join_groups, place_groups
from tlkit.data.listing import FoundFile, Listing, list_folder
from tlkit.data.merging import load_joined
from tlkit.data.settings import check_settings
from tlkit.data.splits import ImageRecord, divide, place_of_group
from tlkit.errors import ArgumentError, DataError

SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}


def patients(count, each=3, class_of=lambda number: "ab"[number % 2], split=""):
    """Images of `count` patients, `each` images per patient."""
    return [
        ImageRecord(f"{split}/{n}-{k}", class_of(n), f"{split}{n}-{k}", split, group=f"p{n}")
        for n in range(count)
        for k in range(each)
    ]


def division_of(found, fractions=SHARES, seed=0):
    division = divide(found, tuple(fractions.values()), seed)
    of_group = {}
    for name, rows in division.splits.items():
        for row in rows:
            of_group.setdefault(found[row].group, set()).add(name)
    return division, of_group


def test_a_groups_split_depends_only_on_its_key_and_the_seed():
    found = patients(200)
    division, of_group = division_of(found)
    assert all(len(splits) == 1 for splits in of_group.values())
    assert not division.notes
    ends = np.cumsum(list(SHARES.values()))
    for group, (split,) in of_group.items():
        expected = list(SHARES)[int(np.searchsorted(ends, place_of_group(group, 0), "right"))]
        assert split == expected
    counts = {name: len(rows) for name, rows in division.splits.items()}
    assert abs(counts["train"] - 360) < 60
    assert abs(counts["validation"] - 120) < 50
    assert division_of(found, seed=1)[1] != of_group


def test_adding_images_and_groups_moves_no_group():
    few, many = patients(100, each=1), patients(150, each=4, class_of=lambda n: "abc"[n % 3])
    before, after = division_of(few)[1], division_of(many[::-1])[1]
    assert all(after[group] == splits for group, splits in before.items())


def test_images_without_a_group_keep_the_split_of_their_content():
    alone = [ImageRecord(f"x{n}", "a", f"x{n}") for n in range(200)]
    grouped = divide([*alone, *patients(50)], tuple(SHARES.values()), 0)
    ungrouped = divide(alone, tuple(SHARES.values()), 0)
    for name, rows in ungrouped.splits.items():
        assert set(rows) == {row for row in grouped.splits[name] if row < len(alone)}


def units(*described):
    return {
        key: SplitGroup(place, frozenset(classes), tuple(range(10 * n, 10 * n + 10)))
        for n, (key, place, classes) in enumerate(described)
    }


def test_a_missing_class_gets_the_nearest_movable_group():
    placed, notes = place_groups(
        units(
            ("1", 0.1, "a"),
            ("2", 0.5, "a"),
            ("3", 0.59, "ab"),  # the last group of class b in its split
            ("4", 0.7, "b"),
            ("5", 0.9, "ab"),
        ),
        SHARES,
    )
    assert placed == {
        "1": "train", "2": "validation", "3": "train", "4": "validation", "5": "test",
    }  # fmt: skip
    assert notes[0] == ("Classes with few groups, of which one was moved to fill a split: 'a'.")


def test_training_always_gets_each_class():
    placed, notes = place_groups(
        units(("1", 0.1, "a"), ("2", 0.7, "ab"), ("3", 0.75, "a"), ("4", 0.9, "a")), SHARES
    )
    assert placed == {"1": "train", "2": "train", "3": "validation", "4": "test"}
    assert "Classes with too few groups to be in validation: 'b'." in notes
    assert "Classes with too few groups to be in test: 'b'." in notes


def test_two_groups_of_a_class_fill_training_and_validation():
    placed, _ = place_groups(
        units(("1", 0.1, "a"), ("2", 0.95, "a"), *((str(n), n / 9, "b") for n in range(3, 9))),
        SHARES,
    )
    assert (placed["1"], placed["2"]) == ("train", "validation")


@pytest.mark.parametrize(
    ("described", "fractions", "message"),
    [
        ([("1", 0.1, "ab")], {"train": 0.8, "validation": 0.2}, "1 groups.*to validation"),
        ([("1", 0.1, "ab"), ("2", 0.2, "ab")], SHARES, "2 groups.*moved to test"),
        ([("1", 0.1, "a"), ("2", 0.9, "b")], {"train": 0.8, "validation": 0.2}, "fraction of 0"),
    ],
)
def test_groups_that_leave_a_split_empty_raise(described, fractions, message):
    with pytest.raises(DataError, match=message):
        place_groups(units(*described), fractions)


def test_uneven_groups_are_noted():
    found = [*patients(1, each=400), *patients(40, each=1)[1:]]
    division, _ = division_of(found)
    assert any("so few or uneven" in note for note in division.notes)


def test_groups_that_share_an_image_are_joined():
    members = [("x", "b"), ("y", "b"), ("y", "c"), ("z", "c"), ("w", "a"), ("y", ""), ("v", "")]
    of_content, joined = join_groups(members)
    assert of_content == {"x": "b", "y": "b", "z": "b", "w": "a"}
    assert joined == [("b", "c")]
    assert join_groups([("x", ""), ("y", "")]) == ({}, [])


def test_group_keys_differ_in_every_character():
    keys = ["a", "a\0", "é", "e", "10", "9"]
    of_content, joined = join_groups(zip("uvwxyz", keys, strict=True))
    assert (list(of_content.values()), joined) == (keys, [])
    chain = [(str(number), str(number + step)) for number in range(8) for step in (0, 1)]
    assert set(join_groups(chain)[0].values()) == {"0"}


def test_images_of_groups_of_earlier_splits_are_left_out():
    found = [
        *patients(3, split="train"),
        *[ImageRecord("v1", "a", "v1", "validation", group="p1")],
        *[ImageRecord("v2", "a", "v2", "validation", group="p7")],
        *[ImageRecord("t1", "b", "t1", "test", group="p7"), ImageRecord("t2", "b", "t2", "test")],
        *[ImageRecord("t3", "a", "train0-0", "test", group="p0")],
    ]
    division = divide(found, tuple(SHARES.values()), 0)
    kept = {name: [found[row].path for row in rows] for name, rows in division.splits.items()}
    assert kept["validation"] == ["v2"]
    assert kept["test"] == ["t2"]
    assert [(leak.kept, leak.left_out) for leak in division.group_leaks] == [
        ("train/1-0", "v1"),
        ("v2", "t1"),
    ]
    assert [(leak.kept, leak.left_out) for leak in division.leaks] == [("train/0-0", "t3")]
    assert any("divides groups: 2 images" in note for note in division.notes)


def test_a_split_with_only_groups_of_earlier_splits_raises():
    found = [*patients(4, split="train"), ImageRecord("v", "a", "v", "validation", group="p0")]
    with pytest.raises(
        DataError,
        match=r"validation split must have images that earlier splits do not have.*"
        "1 images of earlier groups",
    ):
        check_classes(found, divide(found, tuple(SHARES.values()), 0))


def test_validation_is_taken_by_groups_beside_a_users_test():
    found = [*patients(40, split="train"), ImageRecord("t", "a", "t", "test", group="q")]
    division, of_group = division_of(found)
    assert of_group["q"] == {"test"}
    assert all(len(splits) == 1 for splits in of_group.values())
    assert list(division.splits) == ["train", "validation", "test"]


@pytest.mark.parametrize("key", [1.5, True, ("a",)])
def test_group_keys_are_text_or_integers(key):
    listing = Listing(files=[FoundFile("a.jpg", "a", "")])
    with pytest.raises(
        ArgumentError, match=r"`groups` must be text or a whole.*for 'a.jpg'. Convert it with str"
    ):
        assign_groups(listing, lambda path: key)
    with pytest.raises(ArgumentError, match=r"`groups` must be a function.*groups='a'"):
        assign_groups(listing, "a")


def test_integers_of_any_type_are_keys():
    listing = Listing(files=[FoundFile(f"{name}.jpg", "a", "") for name in "abc"])
    keys = iter([np.int64(7), None, " x "])
    assign_groups(listing, lambda path: next(keys))
    assert [file.group for file in listing.files] == ["7", "", "x"]


def scene(path):
    """The group key of a path: ten scenes with three images each, of both classes."""
    return int(path.stem) // 3


def test_a_folder_is_split_by_a_function_of_the_path(photos):
    data = tlkit.load_folder(photos, image_size=8, groups=scene, splits=(0.6, 0.2, 0.2))
    found = [set(split.groups) for split in splits_of(data)]
    assert sum(map(len, found)) == len(set.union(*found)) == 10
    assert data.report.num_groups == 10
    assert "groups: 10" in str(data.report)
    for split in splits_of(data):
        assert [scene(path) for path in map(type(photos), split.paths)] == [
            int(group) for group in split.groups
        ]
        assert set(split.group_keys) == {f"group {group}" for group in split.groups}
        assert split.subset(np.array([1, 0])).groups == split.groups[1::-1]
    plain = tlkit.load_folder(photos, image_size=8, splits=(0.6, 0.2, 0.2))
    assert plain.train.groups == ()
    assert plain.train.group_keys == plain.train.digests
    assert plain.report.num_groups == 0


def test_the_column_group_gives_the_same_split(photos):
    header = ("path", "label", "group")
    manifest = write_manifest(photos.parent / "m.csv", [], header)
    rows = [(str(photos / path), *more) for path, *more in rows_of(photos, scene)]
    listed = tlkit.load_manifest(write_manifest(manifest, rows, header), image_size=8)
    found = tlkit.load_folder(photos, image_size=8, groups=scene)
    assert listed.fingerprint == found.fingerprint
    assert listed.fingerprint != tlkit.load_folder(photos, image_size=8).fingerprint


def test_a_copy_in_another_group_joins_both_groups(tmp_path):
    photos = write_photos(tmp_path / "photos", {"a": 40, "b": 40}, size=12)
    (photos / "a" / "999.jpg").write_bytes((photos / "a" / "000.jpg").read_bytes())
    header = ("path", "label", "group")
    rows = rows_of(photos, lambda file: file.stem[1:])
    manifest = write_manifest(photos / "m.csv", rows, header)
    data = tlkit.load_manifest(manifest, image_size=8)
    assert "Groups joined, as they share an image: 00 = 99." in data.report.notes
    assert "99" not in {group for split in splits_of(data) for group in split.groups}


def test_new_images_go_into_the_known_split_of_their_group(tmp_path):
    photos = write_photos(tmp_path / "photos", {"a": 20, "b": 20}, size=12)
    found = tlkit.load_folder(photos, image_size=8, splits=(1, 0, 0)).train
    listing = list_folder(photos)
    assign_groups(listing, lambda path: int(path.stem) // 2)
    known = {"000": "test", "002": "validation", "003": "train", "005": "train"}
    places = {
        digest: ("a", known[path[-7:-4]])
        for path, digest in zip(found.paths, found.digests, strict=True)
        if "/a/" in path and path[-7:-4] in known
    }
    elsewhere = ImageRecord("old.jpg", "a", "of an old image", "test", group="9")
    places[elsewhere.digest] = ("a", "test")
    joined = load_joined(
        listing,
        check_settings(8, 8, (0.6, 0.2, 0.2), 0, max_pixels=1000),
        class_names=("a",),
        known=[elsewhere],
        known_images=places,
    )
    of_group = {group: split.name for split in splits_of(joined.data) for group in split.groups}
    assert of_group["0"] == of_group["9"] == "test"
    assert of_group["2"] == "train"
    divided = [path for path in joined.data.validation.paths if path[-7:-4] in ("002", "003")]
    assert divided == [str(photos / "a" / "002.jpg")]  # it was torn before: what is new learns


def test_a_new_class_that_looks_like_an_old_one_is_refused(tmp_path):
    listing = list_folder(write_photos(tmp_path / "photos", {"Cat": 4, "dog": 4}, size=12))
    settings = check_settings(8, 8, (1, 0, 0), 0, max_pixels=1000)
    with pytest.raises(DataError, match=r"invisible characters.*'Cat' and 'cat'"):
        load_joined(listing, settings, class_names=("cat",), known=[], known_images={})
    load_joined(listing, settings, class_names=("cow",), known=[], known_images={})


def test_cross_validation_folds_keep_groups_together(photos):
    from tlkit.data.augmentation import Augmentation
    from tlkit.training.features import extract_features
    from tlkit.training.frozen import FrozenPart
    from tlkit.training.views import ViewPolicy

    data = tlkit.load_folder(photos, image_size=32, groups=scene, splits=(1, 0, 0))
    model = tlkit.build_classifier("tiny_resnet", data.class_names, weights=None)
    from tlkit.models.heads import feature_cut

    part = FrozenPart(type(model)(model.inputs[0], feature_cut(model)))
    features = extract_features(
        part, data.train, exact=True, views=ViewPolicy(Augmentation("light"), 2)
    )
    assert len(features.groups) == 120
    assert len(np.unique(features.groups)) == 10
    assert len(np.unique(features.images)) == 60
    numbers = dict(zip(data.train.groups * 2, features.groups.tolist(), strict=True))
    assert [numbers[group] for group in data.train.groups * 2] == features.groups.tolist()
    report = tlkit.train_head(model, data)
    assert "cross-validation" in str(report)


def test_a_group_function_without_keys_is_noted(photos):
    data = tlkit.load_folder(photos, image_size=8, groups=lambda path: None)
    assert data.report.num_groups == 0
    assert any(
        "`groups` returned no key for any image, such as '" in note for note in data.report.notes
    )
    data = tlkit.load_folder(photos, image_size=8, groups=lambda path: path.stem[:2])
    assert not any("returned no key for any image" in note for note in data.report.notes)


def test_a_manifest_without_groups_accepts_a_group_function(photos):
    def key(path):
        return path.stem[:2]

    rows = rows_of(photos, lambda file: "")
    manifest = write_manifest(photos / "m.csv", rows, ("path", "label", "group"))
    listed = tlkit.load_manifest(manifest, image_size=8, groups=key)
    assert listed.fingerprint == tlkit.load_folder(photos, image_size=8, groups=key).fingerprint
    assert listed.report.num_groups == 3
    rows[0] = (*rows[0][:2], "one patient")
    write_manifest(photos / "m.csv", rows, ("path", "label", "group"))
    with pytest.raises(ArgumentError, match="`groups` must be left out if the manifest has"):
        tlkit.load_manifest(manifest, image_size=8, groups=key)
