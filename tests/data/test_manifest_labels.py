"""Multi-label manifests: loading, training, evaluation and prediction."""

import numpy as np
import pytest
from PIL import Image

import tlkit
from tests.data.test_manifests import splits_of, write_manifest
from tlkit.errors import DataError

COLOURS = ("blue", "green", "red")


@pytest.fixture
def paintings(tmp_path):
    """A manifest of 80 noisy images, each brighter in the colours of its labels."""
    rows = []
    for number in range(80):
        generator = np.random.default_rng(number)
        has = (number >> np.arange(3)) & 1
        pixels = generator.uniform(0, 60, (32, 32, 3)) + 180 * has[::-1]
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{number:02d}.png")
        labels = [name for name, is_there in zip(COLOURS, has, strict=True) if is_there]
        rows.append((f"{number:02d}.png", "|".join(labels[::-1])))
    return write_manifest(tmp_path / "paintings.csv", rows)


def test_labels_become_multi_hot_rows(paintings):
    data = tlkit.load_manifest(paintings, multi_label=True, image_size=32, splits=(0.6, 0.2, 0.2))
    assert data.is_multi_label
    assert data.class_names == COLOURS
    for split in splits_of(data):
        assert split.labels.dtype == np.float32
        for path, labels in zip(split.paths, split.labels, strict=True):
            number = int(path[-6:-4])
            assert labels.tolist() == [(number >> bit) & 1 for bit in range(3)]
    assert sum(data.report.counts["red"].values()) == 40
    assert "10 images have no label." in data.report.notes
    (_, labels), *_ = data.train.dataset(shuffle=False)
    assert labels.dtype == "float32"
    assert labels.shape[1] == 3


def test_the_same_images_as_arrays_give_the_same_kind_of_splits(paintings):
    data = tlkit.load_manifest(paintings, multi_label=True, image_size=32, splits=(1, 0, 0))
    images = np.concatenate(
        [batch for batch, _ in data.train.dataset(shuffle=False).as_numpy_iterator()]
    )
    arrays = tlkit.load_arrays(images, data.train.labels, data.class_names, splits=(1, 0, 0))
    assert arrays.train.labels.tolist() == data.train.labels.tolist()
    assert arrays.report.counts == data.report.counts


def test_the_separator_and_the_order_of_classes_can_be_set(paintings):
    rows = [tuple(line.replace("|", "; ").split(",")) for line in paintings.read_text().split()[1:]]
    write_manifest(paintings, rows)
    order = ("red", "blue", "green")
    data = tlkit.load_manifest(
        paintings, multi_label=True, separator=";", class_names=order, image_size=8
    )
    assert data.class_names == order
    number = int(data.train.paths[0][-6:-4])
    assert data.train.labels[0].tolist() == [number >> 2 & 1, number & 1, number >> 1 & 1]


def test_images_in_groups_may_have_several_labels(paintings):
    rows = [(*line.split(","), str(n // 4)) for n, line in enumerate(paintings.read_text().split())]
    write_manifest(paintings, rows[1:], ("path", "label", "group"))
    data = tlkit.load_manifest(paintings, multi_label=True, image_size=8, splits=(0.6, 0.2, 0.2))
    found = [set(split.groups) for split in splits_of(data)]
    assert sum(map(len, found)) == len(set.union(*found)) == 21


def test_contradicting_labels_conflict_and_missing_ones_are_noted(paintings):
    folder = paintings.parent
    (folder / "copy.png").write_bytes((folder / "07.png").read_bytes())
    rows = [tuple(line.split(",")) for line in paintings.read_text().split()[1:]]
    rows = [(*row, "train" if n < 70 else "val") for n, row in enumerate(rows)]
    rows[3] = (rows[3][0], "red|grey", "train")
    write_manifest(paintings, [*rows, ("copy.png", "red", "train")], ("path", "label", "split"))
    report = tlkit.load_manifest(paintings, multi_label=True, image_size=8).report
    assert report.conflicts == ((str(folder / "07.png"), str(folder / "copy.png")),)
    assert "Labels without images in validation: 'grey'." in report.notes


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a|", "b"], r"a label on both sides of each '\|'.*'a\|' in line 2"),
        (["a|a", "a"], "at least two labels. Received: labels='a'"),
        (["", ""], "at least two labels. Received: labels=none"),
    ],
)
def test_insufficient_labels_raise(paintings, labels, message):
    rows = [(f"0{number}.png", label) for number, label in enumerate(labels)]
    write_manifest(paintings, rows)
    with pytest.raises(DataError, match=message):
        tlkit.load_manifest(paintings, multi_label=True)


def test_a_single_image_raises(paintings):
    write_manifest(paintings, [("01.png", "a|b")])
    with pytest.raises(DataError, match=r"two different images. Received: 1 images"):
        tlkit.load_manifest(paintings, multi_label=True)


@pytest.mark.slow
def test_a_multi_label_model_is_trained_evaluated_and_applied(paintings):
    data = tlkit.load_manifest(paintings, multi_label=True, image_size=32, splits=(0.7, 0.15, 0.15))
    model = tlkit.build_classifier("resnet20", data.class_names, multi_label=True)
    tlkit.train_head(model, data)
    before = tlkit.evaluate(model, data.test, data.class_names)
    assert before.kind == "multi_label"
    assert before.accuracy > 0.9
    report = tlkit.fine_tune(model, data, unfreeze="head", epochs=1, learning_rate=1e-5)
    after = tlkit.evaluate(model, data.validation, data.class_names)
    assert report.accuracy_after == pytest.approx(after.accuracy)
    asked = tlkit.predict(model, str(paintings.parent / "05.png"), data.class_names)
    assert set(asked[0].labels) == {"blue", "red"}
