"""Labels inside model files."""

import keras
import numpy as np

from tests.export.models import NAMES, random_images, small_model
from tlkit.export.labels import add_labels, read_labels


def test_labels_do_not_change_how_keras_loads_a_file(tmp_path):
    model, file = small_model(), tmp_path / "model.keras"
    model.save(file)
    add_labels(file, NAMES, {"threshold": 0.5})
    assert read_labels(file) == (NAMES, {"threshold": 0.5})
    loaded = keras.saving.load_model(file)
    images = random_images().astype(np.float32)
    np.testing.assert_array_equal(loaded.predict(images), model.predict(images))
