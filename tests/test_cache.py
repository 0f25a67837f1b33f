import pytest

import tlkit
from tlkit.cache import cache_folder, cache_note, clear_cache
from tlkit.training.store import FEATURES_FOLDER


@pytest.fixture
def unusable_cache(tmp_path, monkeypatch):
    """A cache that not even root can write to: a file stands where its folder would be."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path / "file"))
    return tmp_path / "file"


def test_the_environment_moves_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TLKIT_CACHE", str(tmp_path))
    assert cache_folder("features") == tmp_path / "features"
    assert cache_note("features") == ""


def test_clearing_says_how_much_it_removed(tmp_path):
    (cache_folder("features", tmp_path) / "rows").write_bytes(bytes(100))
    assert clear_cache(tmp_path) == 100
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_to_is_replaced_and_named(unusable_cache):
    folder = cache_folder("features")
    assert unusable_cache not in folder.parents
    assert folder.is_dir()
    assert str(unusable_cache) in cache_note("features")


def test_reports_name_a_cache_that_cannot_be_written_to(unusable_cache, photos):
    data = tlkit.load_folder(photos, image_size=32)
    assert str(unusable_cache) in str(data.report)
    model = tlkit.build_classifier("resnet20", data.class_names, weights=None)
    (stage,) = tlkit.train_head(model, data).stages
    assert any(f"{unusable_cache / FEATURES_FOLDER} cannot be written" in n for n in stage.notes)
