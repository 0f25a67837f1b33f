"""Sums over features: any order gives the head of all images together."""

import dataclasses
import functools
import operator
import re
import shutil
import types

import numpy as np
import pytest
from scipy.linalg import solve
from scipy.special import log_softmax

from tlkit.continual import head_statistics
from tlkit.continual.head_statistics import (
    NUM_FOLDS,
    DescribedImages,
    empty_statistics,
)
from tlkit.continual.statistics_file import (
    StatisticsSize,
    default_width,
    load_statistics,
    save_statistics,
    size_of,
)
from tlkit.errors import ArgumentError, DataError, RunError
from tlkit.training.closed_form import PENALTIES, penalty_matrix

NAMES = ("a", "b", "c", "d", "e", "f")
NOTHING = DescribedImages(np.zeros((0, 12), "f4"), np.zeros(0, np.int64), ())


def clusters(num_images=600, num_features=12, seed=0):
    """Images of six classes that overlap, the first class most frequent."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(6, num_features))
    labels = np.minimum(random.integers(0, 8, num_images) % 7, 5)
    features = centres[labels] + 0.8 * random.normal(size=(num_images, num_features))
    digests = [f"{seed:016x}{number:016x}" for number in range(num_images)]
    return DescribedImages(features.astype("f4"), labels, digests)


def rows_of(images, rows):
    rows = np.asarray(rows)
    chosen = [images.digests[row] for row in rows]
    return DescribedImages(images.features[rows], images.labels[rows], chosen)


def empty(images, names=NAMES, num_landmarks=40):
    return empty_statistics(
        images.features, names, "signature", num_landmarks=num_landmarks, seed=0
    )


@pytest.fixture(scope="module")
def images():
    return clusters()


@pytest.fixture(scope="module")
def joint(images):
    return empty(images).added(images)


def logits(head, features):
    return head.kernel_map.values(features) @ head.kernel + head.bias


def assert_same(first, second, images):
    """The logits of both heads agree, class by class."""
    one, other = (
        logits(some.solve(images), images.features)[
            :, [some.class_names.index(name) for name in sorted(some.class_names)]
        ]
        for some in (first, second)
    )
    np.testing.assert_allclose(one, other, rtol=0, atol=2e-4 * np.abs(one).max())


@pytest.mark.parametrize("seed", range(3))
def test_steps_of_classes_in_any_order_give_the_joint_head(images, joint, seed):
    random = np.random.default_rng(seed)
    order = random.permutation(6)
    first, rest = order[:2], order[2:]
    grown = empty(images, [NAMES[label] for label in first])
    step = random.integers(1, 90)
    for labels in (first, *np.array_split(rest, random.integers(1, 5))):
        if new := [NAMES[k] for k in labels if NAMES[k] not in grown.class_names]:
            grown = grown.with_classes(new)
        rows = random.permutation(np.flatnonzero(np.isin(images.labels, labels)))
        for start in range(0, len(rows), step):
            some = rows_of(images, rows[start : start + step])
            own = np.array([grown.class_names.index(NAMES[label]) for label in some.labels])
            grown = grown.added(dataclasses.replace(some, labels=own))
    assert dict(zip(grown.class_names, grown.counts, strict=True)) == dict(
        zip(NAMES, joint.counts, strict=True)
    )
    relabelled = np.array([grown.class_names.index(NAMES[label]) for label in images.labels])
    one = logits(joint.solve(images), images.features)
    own = dataclasses.replace(images, labels=relabelled)
    other = logits(grown.solve(own), images.features)
    other = other[:, [grown.class_names.index(name) for name in NAMES]]
    np.testing.assert_allclose(one, other, rtol=0, atol=2e-4 * np.abs(one).max())


def test_removed_images_might_never_have_been_there(images, joint):
    gone = np.flatnonzero(images.labels % 3 == 0)
    kept = np.flatnonzero(images.labels % 3)
    never = empty(images).added(rows_of(images, kept))
    removed = joint.removed(rows_of(images, gone))
    assert removed.images == never.images
    removed, never = (some.without_classes(["a", "d"]) for some in (removed, never))
    assert removed.class_names == ("b", "c", "e", "f")
    some = rows_of(images, kept)
    some = dataclasses.replace(some, labels=np.array([0, 0, 1, 0, 2, 3])[some.labels])
    assert_same(removed, never, some)


def test_the_head_is_ridge_regression_on_kernel_values(images, joint):
    head = joint.solve(NOTHING)
    penalty = float(head.note.split("penalty ")[1].split(",")[0])
    values = joint.kernel_map.values(images.features)
    values = np.concatenate([values, np.ones((len(values), 1))], axis=1)
    matrix = values.T @ values + penalty * penalty_matrix(joint.kernel_map)
    expected = solve(matrix, values.T @ np.eye(6)[images.labels])
    np.testing.assert_allclose(
        np.vstack([head.kernel, head.bias]) / joint.factor, expected, rtol=1e-2, atol=1e-3
    )


def test_the_factor_has_the_lowest_cross_entropy_on_new_images(images, joint):
    others = clusters(3000, seed=0)
    test = rows_of(others, np.arange(600, 3000))  # the same centres
    head = joint.solve(images)
    scores = logits(head, test.features)

    def loss(factor):
        return -log_softmax(factor * scores, axis=1)[np.arange(len(scores)), test.labels].mean()

    factors = np.exp(np.linspace(-2, 2, 81))
    assert loss(1.0) < min(map(loss, factors)) + 0.01
    assert head.statistics.factor != joint.factor
    # with the images of two classes only, it is nearly the same
    few = joint.solve(rows_of(images, np.flatnonzero(images.labels < 2)))
    assert few.statistics.factor == pytest.approx(head.statistics.factor, rel=0.3)
    assert joint.solve(NOTHING).statistics.factor == joint.factor


def test_balanced_scores_favour_rare_classes(images, joint):
    rare = int(np.argmin(joint.counts))
    plain, balanced = (
        logits(joint.solve(images, weight), images.features).argmax(axis=1)
        for weight in (None, "balanced")
    )
    assert np.sum(balanced == rare) > np.sum(plain == rare)


def test_balanced_heads_choose_by_balanced_errors(images, joint, monkeypatch):
    """The error of each class is that of its scores, and counts by its weight."""
    found = []

    class Kept(head_statistics._CrossValidation):
        def __init__(self, statistics, total, width, class_weights):
            super().__init__(statistics, total, width, class_weights)
            found.append((self, class_weights))

    monkeypatch.setattr(head_statistics, "_CrossValidation", Kept)
    joint.solve(images, "balanced")
    one, weights = found[0]
    frequencies = joint.counts / joint.counts.sum()
    np.testing.assert_allclose(weights, 1 / (len(frequencies) * frequencies))
    errors = np.square(one.scores(images) - np.eye(len(weights))[images.labels]).sum(axis=0)
    np.testing.assert_allclose(one.error, weights @ errors, rtol=1e-6)
    joint.solve(images)
    plain, weights = found[len(found) // 2]
    assert set(weights) == {1.0}
    np.testing.assert_allclose(
        plain.error,
        np.square(plain.scores(images) - np.eye(len(weights))[images.labels]).sum(),
        rtol=1e-6,
    )


def test_an_image_counts_once_and_for_one_class(images, joint):
    again = joint.added(rows_of(images, np.arange(50)))
    assert again.images == joint.images
    assert all(
        np.array_equal(a.gram, b.gram) for a, b in zip(again.folds, joint.folds, strict=True)
    )
    twice = rows_of(images, [3, 3])
    assert empty(images).added(twice).counts.sum() == 1
    wrong = dataclasses.replace(twice, labels=(twice.labels + 1) % 6)
    with pytest.raises(DataError, match=r"`images` must have one class each\. .*counted as"):
        joint.added(wrong)
    with pytest.raises(DataError, match="`images` must be counted, with the same class"):
        joint.removed(wrong)
    with pytest.raises(DataError, match="`images` must be counted, with the same class"):
        empty(images).removed(twice)
    assert joint.removed(twice).counts.sum() == joint.counts.sum() - 1


def test_what_cannot_be_solved_or_left_out_is_named(images, joint):
    with pytest.raises(DataError, match=r"Every class must have images.*'g'"):
        joint.with_classes(["g"]).solve(NOTHING)
    with pytest.raises(ArgumentError, match=r"`new_names` must be new.*'a'"):
        joint.with_classes(["a"])
    with pytest.raises(ArgumentError, match=r"`names` must be classes of the statistics.*'x'"):
        joint.without_classes(["x"])
    with pytest.raises(ArgumentError, match=r"whose images have been removed.*'a'"):
        joint.without_classes(["a"])
    with pytest.raises(ArgumentError, match="`class_weight`"):
        joint.solve(NOTHING, "heavy")
    two = empty(images, ("a", "b"))
    with pytest.raises(ArgumentError, match="must leave two classes or more"):
        two.without_classes(["a"])


def test_few_images_have_the_default_penalty(images):
    head = empty(images).added(rows_of(images, np.unique(images.labels, return_index=True)[1]))
    assert "default: too few images" in head.solve(NOTHING).note


def test_a_file_holds_all_of_it(images, joint, tmp_path):
    path = tmp_path / "statistics.npz"
    head = joint.solve(images)
    save_statistics(head.statistics, path)
    read = load_statistics(path, "signature")
    assert read.images == joint.images
    assert read.factor == head.statistics.factor
    again = read.solve(NOTHING)
    assert np.array_equal(again.kernel, head.kernel)
    assert path.stat().st_size == pytest.approx(size_of(joint).bytes_of(40), rel=0.1)
    assert len(joint.folds) == NUM_FOLDS


def test_a_damaged_file_or_one_of_another_network_is_refused(joint, tmp_path):
    path = tmp_path / "statistics.npz"
    save_statistics(joint, path)
    with pytest.raises(RunError, match="of another network, or of another image size"):
        load_statistics(path, "another")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match="It is damaged"):
        load_statistics(path, "signature")
    first = next(iter(joint.images))
    fewer = {key: value for key, value in joint.images.items() if key != first}
    save_statistics(dataclasses.replace(joint, images=fewer), path)
    with pytest.raises(RunError, match="It is damaged"):
        load_statistics(path, "signature")


@pytest.mark.parametrize("name", ["grams", "factor", "mean", "landmarks"])
def test_a_file_with_numbers_of_no_statistics_is_refused(joint, tmp_path, name):
    path = tmp_path / "statistics.npz"
    save_statistics(joint, path)
    with np.load(path) as file:
        arrays = dict(file)
    changed = {
        "grams": np.full_like(arrays["grams"], np.nan),
        "factor": np.array(-1.0),
        "mean": arrays["mean"][:-1],
        "landmarks": arrays["landmarks"][:, :-1],
    }
    np.savez(path, **{**arrays, name: changed[name]})
    with pytest.raises(RunError, match="It is damaged"):
        load_statistics(path, "signature")


def test_a_file_of_other_classes_is_refused(joint, tmp_path):
    path = tmp_path / "statistics.npz"
    save_statistics(joint, path)
    load_statistics(path, "signature", joint.class_names)
    with pytest.raises(RunError, match="It is of other classes"):
        load_statistics(path, "signature", joint.class_names[:-1])


def test_the_width_with_the_lowest_error_is_used(images):
    """The error of each width is computed from statistics of that width alone."""
    random = np.random.default_rng(0)
    features = random.normal(size=(400, 12)).astype("f4")
    labels = (np.sin(3 * features[:, 0]) + features[:, 1] * features[:, 2] > 0).astype(np.int64)
    digests = [f"{number:032x}" for number in range(400)]
    errors = {}
    given = DescribedImages(features, labels, digests)
    whole = empty_statistics(features, ["a", "b"], "", num_landmarks=80, seed=0).added(given)
    head = whole.solve(NOTHING)
    for width in (20, 40, 80):
        kernel_map = dataclasses.replace(
            whole.kernel_map, landmarks=whole.kernel_map.landmarks[:width]
        )
        narrow = dataclasses.replace(
            empty_statistics(features, ["a", "b"], "", num_landmarks=width, seed=0),
            kernel_map=kernel_map,
        ).added(given)
        folds, total = narrow.folds, functools.reduce(operator.add, narrow.folds)
        matrix = penalty_matrix(kernel_map)
        errors[width] = min(
            sum(fold.error((total - fold).solve(penalty * matrix)) for fold in folds)
            for penalty in PENALTIES
        )
    best = min(errors, key=errors.get)
    assert len(head.kernel_map.landmarks) == len(head.kernel) == best
    assert f"{best} landmarks" in head.note


def test_statistics_without_room_say_what_fits(images, tmp_path, monkeypatch):
    size = StatisticsSize(num_features=1280, num_classes=10, num_images=100)
    assert [default_width(number) for number in (0, 300, 10**6)] == [500, 1200, 2000]
    assert not size.why_no_room(2000, tmp_path / "new" / "run")
    told = size.why_no_room(1_000_000, tmp_path)
    assert re.search(r"1,000,000 landmarks take 20,01.* GB on the disk, where .*; \d.* fit", told)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=20))
    assert "fit" not in size.why_no_room(2000, tmp_path)
