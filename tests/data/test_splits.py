import numpy as np
import pytest

from tlkit.data.class_checks import check_classes
from tlkit.data.splits import ImageRecord, class_weights, divide, place
from tlkit.errors import DataError

SHARES = (0.6, 0.2, 0.2)


def images(class_name, digests, split=""):
    return [
        ImageRecord(f"{split}/{class_name}/{digest}", class_name, digest, split)
        for digest in digests
    ]


def many(count, class_name="cat", prefix="d"):
    return images(class_name, [f"{prefix}{number}" for number in range(count)])


def paths(division, found):
    return {
        name: {found[position].path for position in positions}
        for name, positions in division.splits.items()
    }


def test_a_place_depends_only_on_content_class_and_seed():
    found = many(300) + many(300, "dog", "e")
    before = paths(divide(found, SHARES, 0), found)
    reordered = found[::-1]
    assert paths(divide(reordered, SHARES, 0), reordered) == before
    more = many(500) + many(300, "dog", "e") + many(50, "bird", "f")
    after = paths(divide(more, SHARES, 0), more)
    assert all(before[name] <= after[name] for name in before)
    assert paths(divide(found, SHARES, 1), found) != before


def test_fractions_hold_approximately_in_each_class():
    found = many(1000)
    counts = {name: len(rows) for name, rows in divide(found, SHARES, 0).splits.items()}
    assert abs(counts["train"] - 600) < 60
    assert abs(counts["validation"] - 200) < 50
    assert sum(counts.values()) == 1000


def test_places_fill_the_unit_interval_evenly():
    numbers = np.array([place(str(number), "cat", 0) for number in range(2000)])
    assert 0 <= numbers.min() < 0.01
    assert 0.99 < numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.03


@pytest.mark.parametrize(
    ("count", "expected"), [(2, [1, 1, 0]), (3, [1, 1, 1]), (4, [2, 1, 1]), (1, [1, 0, 0])]
)
def test_a_small_class_fills_training_then_validation_then_test(count, expected):
    found = many(count) + many(300, "dog", "e")
    division = divide(found, (0.98, 0.01, 0.01), 0)
    counts = [
        sum(found[row].class_name == "cat" for row in division.splits[name])
        for name in ("train", "validation", "test")
    ]
    assert counts == expected
    assert any("'cat'" in note for note in division.notes) == (count > 1)  # one image does not move


def test_only_the_nearest_images_move_to_fill_a_split():
    found = many(6)
    ranked = sorted(found, key=lambda image: place(image.digest, "cat", 0))
    division = divide(found, (0.999, 0.0005, 0.0005), 0)
    assert paths(division, found) == {
        "train": {image.path for image in ranked[:4]},
        "validation": {ranked[4].path},
        "test": {ranked[5].path},
    }


def test_a_fraction_of_zero_gives_no_split():
    assert list(divide(many(30), (0.5, 0.0, 0.5), 0).splits) == ["train", "test"]
    assert list(divide(many(30), (1.0, 0.0, 0.0), 0).splits) == ["train"]


def test_copies_stay_together_and_only_training_keeps_them():
    found = many(40) + [ImageRecord(f"copy{number}", "cat", f"d{number}") for number in range(40)]
    division = divide(found, SHARES, 0)
    contents = {name: [found[row].digest for row in rows] for name, rows in division.splits.items()}
    assert len(contents["train"]) == 2 * len(set(contents["train"]))
    assert len(contents["validation"]) == len(set(contents["validation"]))
    assert len(contents["test"]) == len(set(contents["test"]))
    assert sum(len(set(digests)) for digests in contents.values()) == 40
    assert len(division.duplicates) == 40
    assert not division.leaks


def test_copies_in_two_classes_are_in_no_split():
    found = [*many(20), *many(20, "dog", "e"), ImageRecord("wrong", "dog", "d3")]
    division = divide(found, SHARES, 0)
    assert division.conflicts == [("/cat/d3", "wrong")]
    used = {found[row].digest for rows in division.splits.values() for row in rows}
    assert "d3" not in used
    assert len(used) == 39


def test_copies_with_different_label_sets_conflict():
    found = [ImageRecord("a", "", "d", labels=("x",)), ImageRecord("b", "", "d", labels=("x", "y"))]
    assert divide(found, SHARES, 0).conflicts == [("a", "b")]


def test_a_users_split_is_kept_and_leaks_are_left_out():
    found = [
        *images("cat", ["a", "b", "a2"], "train"),
        *images("cat", ["c", "a"], "validation"),
        *images("cat", ["e", "b", "c"], "test"),
    ]
    division = divide(found, SHARES, 0)
    assert paths(division, found) == {
        "train": {"train/cat/a", "train/cat/b", "train/cat/a2"},
        "validation": {"validation/cat/c"},
        "test": {"test/cat/e"},
    }
    assert {(leak.kept, leak.left_out) for leak in division.leaks} == {
        ("train/cat/a", "validation/cat/a"),
        ("train/cat/b", "test/cat/b"),
        ("validation/cat/c", "test/cat/c"),
    }
    assert any("leaks: 3" in note for note in division.notes)


def test_validation_without_test_leaves_no_test():
    found = images("cat", "abcd", "train") + images("cat", "ef", "validation")
    assert list(divide(found, SHARES, 0).splits) == ["train", "validation"]


def test_validation_is_taken_from_training_beside_a_users_test():
    found = images("cat", [f"d{n}" for n in range(100)], "train") + images("cat", "ef", "test")
    division = divide(found, (0.8, 0.1, 0.1), 0)
    assert len(division.splits["test"]) == 2
    assert 3 <= len(division.splits["validation"]) <= 25
    assert len(division.splits["train"]) + len(division.splits["validation"]) == 100
    assert any("taken from `train`" in note for note in division.notes)


def test_a_lone_training_folder_is_split():
    found = images("cat", [f"d{n}" for n in range(100)], "train")
    unsplit = many(100)
    assert divide(found, SHARES, 0).splits == divide(unsplit, SHARES, 0).splits


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([], "at least two classes. Received: classes=none"),
        (many(9), "at least two classes. Received: classes='cat'"),
        (many(9) + many(1, "dog", "e"), "a single image of 'dog'"),
        (many(9) + images("dog", ["x", "x"]), "a single image of 'dog'"),
        (
            images("cat", "abc", "train") + images("dog", "de", "test"),
            "images in `train`. Received: no training images of 'dog'",
        ),
        (
            images("cat", "abc", "train") + images("cat", "a", "validation"),
            "The validation split must have images that earlier splits do not have",
        ),
        (many(9) + many(9, "two\nlines", "e"), r"single-line name. Received: 'two\\nlines'"),
    ],
)
def test_untrainable_classes_raise(found, message):
    with pytest.raises(DataError, match=message):
        check_classes(found, divide(found, SHARES, 0))


def test_balanced_weights_give_classes_equal_total_weight():
    labels = np.array([0] * 6 + [1] * 3 + [3] * 1)
    weights = class_weights(labels, 4)
    totals = np.bincount(labels, weights=weights[labels], minlength=4)
    assert np.allclose(totals[[0, 1, 3]], 10 / 4)
    assert weights[2] == 0
