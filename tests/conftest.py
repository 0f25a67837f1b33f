"""What every test may use."""

import csv
import gc
import json
import os
from pathlib import Path
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tlkit
from tests import networks
from tlkit.training import features, frozen

SHARED = Path(__file__).resolve().parents[2] / "shared"

LONG = (
    "test_notebooks",
    "test_two_workers",
    "test_parity",
    "test_strategies",
    "test_resume",
    "test_cli",
    "test_warm_start",
    "test_choices",
)
"""Files with tests of half a minute and more: such a test must not be the last one that runs."""

collect_ignore = ["typed_client.py"]
"""What type checkers judge, and nobody runs."""

networks.register()

# What is imported stays, and what TensorFlow traces is many objects: looking through all of them
# again and again took 7.5 of 197 seconds of tests.
gc.freeze()
gc.set_threshold(50_000, 20, 20)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest tests first; all others stay in their order."""
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture
def shared():
    """The folder with real images and weights that may lie beside the checkout."""
    if not (SHARED / "data").is_dir():
        pytest.skip("no real images and weights lie beside this checkout")
    return SHARED


@pytest.fixture(autouse=True)
def seed():
    """The same first weights and orders whichever tests ran before in this process.

    Every test holds with other ones too: `TLKIT_TEST_SEED=1`, say, tries them.
    """
    set_seeds(int(os.environ.get("TLKIT_TEST_SEED", "0")))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own for each test, so that nothing is remembered from elsewhere."""
    folder = tmp_path / "tlkit-cache"
    monkeypatch.setenv("TLKIT_CACHE", str(folder))
    return folder


@pytest.fixture
def photos(tmp_path):
    """A folder of 60 small images in two classes that differ in colour."""
    return write_photos(tmp_path / "photos", {"green": 30, "red": 30})


@pytest.fixture
def data():
    """What `photos` shows at 32 pixels, in memory, in batches of 16: nothing has to be decoded."""
    labels = np.arange(60) // 30
    images = [noise(label, number, 32) for number, label in enumerate(labels)]
    return tlkit.load_arrays(np.stack(images), labels, ["green", "red"], batch_size=16)


def set_seeds(seed: int) -> None:
    """Does what `keras.utils.set_random_seed` does, but for TensorFlow's own seed.

    Keras draws by its own seeds, and with every new one of its own TensorFlow drops the kernels it
    has made: the first image decoded after that took half a second.
    """
    with mock.patch.object(tf.random, "set_seed"):
        keras.utils.set_random_seed(seed)


def bfloat16_differs_by(monkeypatch, difference: float) -> None:
    """Makes bfloat16 features, on any processor, differ from float32 ones by this much.

    The difference is relative, in norm; bfloat16 is used however little there is to do.
    """
    monkeypatch.setattr(features, "MIN_BFLOAT16_WORK", 0)
    monkeypatch.setattr(features, "has_bfloat16", lambda: True)

    def bfloat16(part):
        return lambda images: part.float32(images) * (1 + difference)

    monkeypatch.setattr(frozen.FrozenPart, "bfloat16", property(bfloat16))


def write_photos(folder: Path, counts: dict[str, int], size: int = 40, seed: int = 0) -> Path:
    """Writes `CLASS/NUMBER.jpg`, noise around one colour for each class.

    Higher counts, written to the same folder, add images and change none.
    """
    for index, (name, count) in enumerate(sorted(counts.items())):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            image = Image.fromarray(noise(index, number, size, seed))
            image.save(folder / name / f"{number:03d}.jpg", quality=90)
    return folder


def noise(index: int, number: int, size: int, seed: int = 0) -> np.ndarray:
    """Returns one image, noise around the colour of a class."""
    colour = np.zeros(3)
    colour[index % 3] = 150
    pixels = np.random.default_rng((seed, index, number)).uniform(0, 100, (size, size, 3)) + colour
    return pixels.clip(0, 255).astype(np.uint8)


def written_losses(run):
    """The loss of each epoch that a finished run has written down."""
    with (run / "history.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == list(range(1, len(rows) + 1))
    return [float(row["loss"]) for row in rows]


def saved_history(run):
    """What an unfinished run has written down of its epochs."""
    with np.load(run / "training.npz") as file:
        return json.loads(file["record"].tobytes())["record"]["fit"]["history"]
