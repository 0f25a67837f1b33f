import numpy as np
import pytest

import tlkit
from tlkit.errors import ArgumentError, DataError


def noise(count, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def read(split):
    return np.concatenate([batch for batch, _ in split.dataset(shuffle=False).as_numpy_iterator()])


@pytest.mark.parametrize("shape", [(8, 9), (8, 9, 1), (8, 9, 3)])
def test_grey_and_coloured_arrays_become_three_channels(shape):
    images = noise(10, *shape)
    data = tlkit.load_arrays(images, np.arange(10) % 2, splits=(1, 0, 0))
    assert data.image_size == (8, 9)
    expected = np.broadcast_to(images.reshape(10, 8, 9, -1), (10, 8, 9, 3))
    assert np.array_equal(read(data.train), expected)
    assert data.train.paths[7] == "images[7]"


def test_arrays_are_resized_as_files_are():
    data = tlkit.load_arrays(noise(4, 40, 40, 3), [0, 1, 0, 1], image_size=(6, 8), splits=(1, 0, 0))
    assert read(data.train).shape == (4, 6, 8, 3)


def test_arrays_are_split_by_content():
    images, labels = noise(200, 4, 4), np.arange(200) % 3
    data = tlkit.load_arrays(images, labels)
    order = np.random.default_rng(1).permutation(200)
    shuffled = tlkit.load_arrays(images[order], labels[order])
    for name in ("train", "validation", "test"):
        assert set(getattr(data, name).digests) == set(getattr(shuffled, name).digests)
    counts = [sum(row.values()) for row in data.report.counts.values()]
    assert counts == [67, 67, 66]


def test_a_users_arrays_keep_their_split_and_leaks_are_left_out():
    images = noise(10, 4, 4)
    data = tlkit.load_arrays(
        images,
        np.arange(10) % 2,
        validation=(np.concatenate([images[:1], noise(4, 4, 4, seed=1)]), [0, 0, 1, 0, 1]),
    )
    assert data.train.num_images == 10
    assert data.test is None
    assert data.validation.paths == tuple(f"validation[{row}]" for row in (1, 2, 3, 4))
    assert [(leak.kept, leak.left_out) for leak in data.report.leaks] == [
        ("images[0]", "validation[0]")
    ]


def test_multi_label_arrays():
    labels = np.random.default_rng(0).integers(0, 2, (60, 3))
    data = tlkit.load_arrays(noise(60, 4, 4), labels, ["sun", "sea", "snow"])
    assert data.is_multi_label
    assert data.num_classes == 3
    assert data.train.labels.dtype == np.float32
    assert data.train.labels.shape == (data.train.num_images, 3)
    assert [sum(row.values()) for row in data.report.counts.values()] == labels.sum(0).tolist()
    assert data.validation.num_images > 0
    _, batch = next(iter(data.train.dataset(shuffle=False)))
    assert batch.dtype == "float32"


def test_conflicts_and_copies_are_found():
    images = noise(12, 4, 4)
    images[1], images[3] = images[0], images[2]
    labels = np.array([0, 0, 0, 1] + [0, 1] * 4)
    data = tlkit.load_arrays(images, labels, splits=(1, 0, 0))
    assert data.report.duplicates == (("images[0]", "images[1]"),)
    assert data.report.conflicts == (("images[2]", "images[3]"),)
    assert data.train.num_images == 10


def test_integers_of_any_type_and_column_labels_are_accepted():
    images = noise(6, 4, 4).astype("float32")
    data = tlkit.load_arrays(images, np.array([[0], [1]] * 3), splits=(1, 0, 0))
    assert np.array_equal(read(data.train)[..., 0], images)
    assert data.train.labels.shape == (6,)


@pytest.mark.parametrize(
    ("images", "labels", "names", "message"),
    [
        (noise(4, 4, 4) / 255, [0, 1, 0, 1], None, "values in 0...255.*Multiply by 255"),
        (noise(4, 4, 4) + 0.5, [0, 1, 0, 1], None, "integers in 0...255"),
        (noise(4, 4, 4) * 2.0, [0, 1, 0, 1], None, "integers in 0...255"),
        (noise(4, 4, 4) - 9.0, [0, 1, 0, 1], None, "integers in 0...255"),
        (np.full((4, 4, 4), np.nan), [0, 1, 0, 1], None, "integers in 0...255"),
        (noise(4, 3, 80, 80), [0, 1, 0, 1], None, "`images` must be images of one size"),
        (noise(4, 4), [0, 1, 0, 1], None, "`images` must be images of one size"),
        (noise(0, 4, 4), [], None, "`images` must be images of one size"),
        (noise(4, 4, 4), [0, 1], None, "4 images and 2 labels"),
        (noise(4, 4, 4), [0, 1, -1, 0], None, "`labels` must be whole numbers"),
        (noise(4, 4, 4), [0.5, 1, 1, 0], None, "`labels` must be whole numbers"),
        (noise(4, 4, 4), np.full((4, 2), 2), None, "`labels` must be whole numbers"),
        (noise(4, 4, 4), [0, 1, 0, 1], ["a"], "`class_names` must be 2 different names"),
        (noise(4, 4, 4), [0, 1, 0, 1], ["a", "a"], "`class_names` must be 2 different names"),
    ],
)
def test_invalid_arrays_raise(images, labels, names, message):
    with pytest.raises(ArgumentError, match=message):
        tlkit.load_arrays(images, labels, names)


def test_validation_and_test_are_pairs_of_arrays():
    images = noise(4, 4, 4)
    with pytest.raises(ArgumentError, match=r"`test` must be two arrays, \(images, labels\)"):
        tlkit.load_arrays(images, [0, 1, 0, 1], test=(images,))


def test_labels_of_different_kinds_raise():
    images = noise(4, 4, 4)
    with pytest.raises(ArgumentError, match="of one kind in every split"):
        tlkit.load_arrays(images, [0, 1, 0, 1], test=(images, np.eye(2)[[0, 1, 0, 1]]))


def test_too_few_images_raise():
    with pytest.raises(DataError, match="a single image of '1'"):
        tlkit.load_arrays(noise(3, 4, 4), [0, 0, 1])
    with pytest.raises(DataError, match="There must be at least two labels"):
        tlkit.load_arrays(noise(4, 4, 4), np.zeros((4, 3)))
    with pytest.raises(DataError, match="at least two different images"):
        tlkit.load_arrays(noise(1, 4, 4), [[0, 1]])


def test_groups_stay_in_one_split():
    images = noise(60, 8, 8, 3)
    images[7] = images[0]  # a copy joins its group with the original's
    groups = [row % 12 for row in range(60)]
    groups[59] = None
    data = tlkit.load_arrays(images, np.arange(60) % 2, groups=groups)
    places = {}
    for split in (data.train, data.validation, data.test):
        assert split.num_images
        for path in split.paths:
            row = int(path[7:-1])
            if groups[row] is not None:
                places.setdefault(groups[row], set()).add(split.name)
    assert all(len(found) == 1 for found in places.values())
    assert places[0] == places[7]
    assert data.report.num_groups == 11
    assert any("Groups joined, as they share an image: 0 = 7" in note for note in data.report.notes)
    assert data.train.groups


@pytest.mark.parametrize(
    ("groups", "others", "message"),
    [
        ([1, 2], {}, "`groups` must be as many as the images. Received: 20 images and 2 groups"),
        ([1.5] * 20, {}, r"`groups` must be text or a whole number.*1\.5 for 'images\[0\]'"),
        (["a"] * 20, {"test": True}, "`groups` must be left out where `validation` or `test`"),
    ],
)
def test_invalid_groups_raise(groups, others, message):
    images = noise(20, 8, 8, 3)
    labels = np.arange(20) % 2
    given = dict.fromkeys(others, (images[:4], labels[:4]))
    with pytest.raises(ArgumentError, match=message):
        tlkit.load_arrays(images, labels, groups=groups, **given)


def test_too_few_groups_raise():
    images = noise(20, 8, 8, 3)
    with pytest.raises(DataError, match="none of which can be moved"):
        tlkit.load_arrays(images, np.arange(20) % 2, groups=["a", "b"] * 10)
