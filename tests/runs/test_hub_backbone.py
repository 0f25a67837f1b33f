"""Runs with a backbone of KerasHub."""

import json

import keras
import pytest

import tlkit
from tests.conftest import write_photos

pytest.importorskip("keras_hub", reason="KerasHub is not installed: pip install 'tlkit[hub]'")

from tests.models.hub import save_preset


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Images, and the folder of a preset."""
    folder = tmp_path_factory.mktemp("hub")
    photos = write_photos(folder / "photos", {"green": 20, "red": 20})
    save_preset("vit", folder / "own_vit")
    return photos, folder / "own_vit"


def test_a_run_takes_a_preset_and_needs_neither_it_nor_keras_hub_afterwards(
    files, tmp_path, monkeypatch
):
    photos, path = files
    monkeypatch.chdir(path.parent)
    run = tlkit.train_run(photos, out=tmp_path / "run", backbone="keras_hub:own_vit", mode="head")
    arguments = json.loads((run.path / "run.json").read_text())["arguments"]
    assert arguments["backbone"] == f"keras_hub:{path}"  # valid in any working directory
    card = (run.path / "model_card.md").read_text()
    assert "The backbone is own\\_vit, trained from its pretrained weights." in card
    assert "It needs Keras alone" in card
    assert str(path.parent) not in card
    model = keras.saving.load_model(run.path / "model.keras")
    assert model.input_shape == (None, 32, 32, 3)
    image = sorted(photos.rglob("*.jpg"))[0]
    (found,) = tlkit.predict(run.load_model(), [image], run.class_names)
    assert set(found.probabilities) == {"green", "red"}


def test_candidates_may_be_presets(files):
    photos, path = files
    data = tlkit.load_folder(photos, image_size=32)
    preset = f"keras_hub:{path}"
    comparison = tlkit.compare_backbones(data, ["resnet20", preset, f"{preset}:tf@64"])
    assert sorted(score.label for score in comparison.scores) == [
        "own_vit",
        "own_vit:tf@64",
        "resnet20",
    ]
