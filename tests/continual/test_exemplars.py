"""Herding, and the file of exemplars."""

import numpy as np
import pytest

import tlkit
from tlkit.continual.exemplars import Exemplars, choose_exemplars, choose_exemplars_by_class


@pytest.fixture
def rows():
    return np.random.default_rng(0).gamma(1.0, size=(60, 8))


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_the_first_exemplar_is_the_row_nearest_to_the_mean(rows):
    distances = np.linalg.norm(unit(rows) - unit(rows).mean(axis=0), axis=1)
    assert choose_exemplars(rows, 1).tolist() == [distances.argmin()]


def test_fewer_exemplars_are_the_first_of_more(rows):
    assert choose_exemplars(rows, 5).tolist() == choose_exemplars(rows, 20)[:5].tolist()


def test_the_mean_of_exemplars_is_closer_to_the_class_mean_than_that_of_random_rows(rows):
    mean = unit(rows).mean(axis=0)
    herded = np.linalg.norm(unit(rows)[choose_exemplars(rows, 10)].mean(axis=0) - mean)
    random = [
        np.linalg.norm(
            unit(rows)[np.random.default_rng(n).permutation(60)[:10]].mean(axis=0) - mean
        )
        for n in range(20)
    ]
    assert herded < min(random)


def test_each_row_is_chosen_at_most_once(rows):
    chosen = choose_exemplars(rows, 100)
    assert sorted(chosen.tolist()) == list(range(60))
    assert choose_exemplars(np.ones((3, 2)), 3).tolist() == [0, 1, 2]
    assert choose_exemplars(np.zeros((2, 2)), 1).tolist() == [0]
    assert choose_exemplars(rows, 0).tolist() == []


@pytest.mark.parametrize("wrong", [np.ones(3), np.full((2, 2), np.nan)])
def test_invalid_features_are_refused(wrong):
    with pytest.raises(tlkit.ArgumentError, match="`features` must be finite, one row for each"):
        choose_exemplars(wrong, 1)


def test_each_class_has_its_own_exemplars(rows):
    labels = np.repeat([0, 2], 30)
    found = choose_exemplars_by_class(rows, labels, ["a", "b", "c"], 4)
    assert list(found) == ["a", "c"]
    assert np.array_equal(found["c"], rows[30:][choose_exemplars(rows[30:], 4)].astype("float32"))
    assert choose_exemplars_by_class(rows, labels, ["a", "b", "c"], 0) == {}


def test_exemplars_are_loaded_as_saved(tmp_path, rows):
    path = tmp_path / "exemplars.npz"
    Exemplars({"größe": rows[:3], "b": rows[:0]}, "abc").save(path)
    loaded = Exemplars.load(path, "abc")
    assert list(loaded.features) == ["größe", "b"]
    assert np.array_equal(loaded.features["größe"], rows[:3])
    with pytest.raises(tlkit.RunError, match=r"whose exemplars\.npz is from another network"):
        Exemplars.load(path, "abd")
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"junk"):
        path.write_bytes(damaged)
        with pytest.raises(tlkit.RunError, match=r"exemplars\.npz is damaged.*Remove the file"):
            Exemplars.load(path, "abc")
