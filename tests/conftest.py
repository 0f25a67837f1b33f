"""Fixtures and helpers for all tests."""

import csv
import gc
import importlib
import json
import os
import shutil
import sys
import types
from importlib.util import find_spec
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
from tests import networks, quick
from tlkit.advice import cost, timing
from tlkit.training import features, frozen

SHARED = Path(__file__).resolve().parents[2] / "shared"

LONG = (
    "test_docs",
    "test_notebooks",
    "test_two_workers",
    "test_parity",
    "test_strategies",
    "test_resume",
    "test_cli",
    "test_warm_start",
    "test_choices",
    "test_inference_size",
    "test_transformers",
)
"""Files with tests of half a minute and more, which must not run last."""

BROWSERS = ("chromium", "chromium-browser", "google-chrome")

collect_ignore = ["typed_client.py"]
"""Files for type checkers only."""

networks.register()
quick.project_costs_untimed()
quick.trace_without_stacks()

# Imported modules stay, and TensorFlow's traces are many objects: collecting them repeatedly took
# 7.5 of 197 seconds of tests.
gc.freeze()
gc.set_threshold(50_000, 20, 20)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest tests first; all others keep their order."""
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture
def shared():
    """The folder with real images and weights that may be beside the checkout."""
    if not (SHARED / "data").is_dir():
        pytest.skip("there are no real images and weights beside this checkout")
    return SHARED


@pytest.fixture(scope="module")
def browser():
    """A real browser; skipped without one, or failing if TLKIT_BROWSER_REQUIRED is set."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None or find_spec("playwright") is None:
        end = pytest.fail if os.environ.get("TLKIT_BROWSER_REQUIRED") else pytest.skip
        end(f"needs playwright and one of {', '.join(BROWSERS)}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=os.path.realpath(program))
        yield chromium
        chromium.close()


@pytest.fixture(autouse=True)
def seed():
    """Makes initial weights and orders independent of the tests before in this process.

    Tests must pass with any seed; `TLKIT_TEST_SEED=1`, for example, sets another.
    """
    set_seeds(int(os.environ.get("TLKIT_TEST_SEED", "0")))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A new cache for each test."""
    folder = tmp_path / "tlkit-cache"
    monkeypatch.setenv("TLKIT_CACHE", str(folder))
    return folder


@pytest.fixture
def photos(tmp_path):
    """A folder of 60 small images in two classes that differ in colour."""
    return write_photos(tmp_path / "photos", {"green": 30, "red": 30})


@pytest.fixture
def data():
    """The images of `photos` at 32 pixels, in memory, in batches of 16."""
    labels = np.arange(60) // 30
    images = [noise(label, number, 32) for number, label in enumerate(labels)]
    return tlkit.load_arrays(np.stack(images), labels, ["green", "red"], batch_size=16)


@pytest.fixture
def columns_of(monkeypatch):
    """Returns the columns of a record's data frame; without pandas, a frame is a dictionary."""

    def columns_of(record):
        with monkeypatch.context() as patch:
            try:
                importlib.import_module("pandas")
            except ImportError:  # scikit-learn looks at the module, too: it is here for this call
                stand_in = types.ModuleType("pandas")
                stand_in.DataFrame = dict
                patch.setitem(sys.modules, "pandas", stand_in)
                return record.to_dataframe()
        return record.to_dataframe().to_dict("list")

    return columns_of


@pytest.fixture
def timed_costs(monkeypatch):
    """Lets `estimate_cost` measure durations, as it does in use."""
    monkeypatch.setattr(cost, "time_calls", timing.time_calls)


def set_seeds(seed: int) -> None:
    """Does the same as `keras.utils.set_random_seed`, except for TensorFlow's own seed.

    Keras uses its own seeds, and with each new seed TensorFlow drops its kernels, so that decoding
    the next image takes half a second.
    """
    with mock.patch.object(tf.random, "set_seed"):
        keras.utils.set_random_seed(seed)


def bfloat16_differs_by(monkeypatch, difference: float) -> None:
    """Makes bfloat16 features differ from float32 ones by this relative norm, on any processor.

    bfloat16 is used however little work there is.
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
    """The loss of each epoch in the history of a finished run."""
    with (run / "history.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == list(range(1, len(rows) + 1))
    return [float(row["loss"]) for row in rows]


def saved_history(run):
    """The history of epochs in the checkpoint of an unfinished run."""
    with np.load(run / "training.npz") as file:
        return json.loads(file["record"].tobytes())["record"]["fit"]["history"]
