"""The same task, written for several libraries; measured by `flowers.py` and `peers.py`.

Each recipe is a generator. At the end of a phase, it yields the name of the phase and a function
that evaluates the accuracy on the test images. The code between two yields is the cost of the
phase, and its lines are those that a user has to write. This module does not import any of the
libraries: each recipe only needs its own.

A recipe takes a folder with `train/CLASS`, `validation/CLASS` and `test/CLASS`, and a function that
builds the backbone without a head and without its preprocessing to -1...1.
"""

import inspect
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Phases = Iterator[tuple[str, Callable[[], float] | None]]
EPOCHS = 10
BUILT, FROZEN, TUNED = "built", "frozen", "tuned"


def plain_keras(folder: Path, build_base: Callable[[], Any], epochs: int = EPOCHS) -> Phases:
    """Plain Keras as in its guide.

    Random flips and rotations of 0.1, ten epochs with a frozen base with Adam at 1e-3, then ten
    epochs of all layers at 1e-5: https://keras.io/guides/transfer_learning/
    """
    import keras

    base = build_base()
    train, validation, test = (
        keras.utils.image_dataset_from_directory(
            folder / name, image_size=base.input_shape[1:3], batch_size=32, verbose=False
        )
        for name in ("train", "validation", "test")
    )
    num_classes = len(train.class_names)
    train, validation, test = (one.prefetch(2) for one in (train, validation, test))
    inputs = keras.Input(base.input_shape[1:])
    x = keras.layers.RandomFlip("horizontal")(inputs)
    x = keras.layers.RandomRotation(0.1)(x)
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(x)
    base.trainable = False
    x = keras.layers.GlobalAveragePooling2D()(base(x, training=False))
    x = keras.layers.Dropout(0.2)(x)
    model = keras.Model(inputs, keras.layers.Dense(num_classes)(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    yield BUILT, None
    model.fit(train, validation_data=validation, epochs=epochs, verbose=0)
    yield FROZEN, lambda: model.evaluate(test, verbose=0)[1]
    base.trainable = True
    model.compile(keras.optimizers.Adam(1e-5), loss, metrics=["accuracy"])
    model.fit(train, validation_data=validation, epochs=epochs, verbose=0)
    yield TUNED, lambda: model.evaluate(test, verbose=0)[1]


def keras_hub(folder: Path, build_base: Callable[[], Any], epochs: int = EPOCHS) -> Phases:
    """KerasHub's `ImageClassifier` with the same backbone.

    Ten epochs with a frozen backbone at the learning rate of Keras's guide, then ten epochs of all
    layers with the default optimizer of the class (Adam at 5e-5): https://keras.io/keras_hub/api/base_classes/
    """
    import keras
    import keras_hub

    backbone = build_base()
    image_size = backbone.input_shape[1:3]
    train, validation, test = (
        keras.utils.image_dataset_from_directory(
            folder / name, image_size=image_size, batch_size=32, verbose=False
        )
        for name in ("train", "validation", "test")
    )
    classifier = keras_hub.models.ImageClassifier(
        backbone=backbone,
        num_classes=len(train.class_names),
        preprocessor=keras_hub.models.ImageClassifierPreprocessor(
            keras_hub.layers.ImageConverter(image_size=image_size, scale=1 / 127.5, offset=-1)
        ),
        dropout=0.2,
    )
    classifier.backbone.trainable = False
    classifier.compile(optimizer=keras.optimizers.Adam(1e-3))
    yield BUILT, None
    classifier.fit(train, validation_data=validation, epochs=epochs, verbose=0)
    yield FROZEN, lambda: classifier.evaluate(test, verbose=0)[1]
    classifier.backbone.trainable = True
    classifier.compile()
    classifier.fit(train, validation_data=validation, epochs=epochs, verbose=0)
    yield TUNED, lambda: classifier.evaluate(test, verbose=0)[1]


def with_tlkit(folder: Path, backbone: str, weights: str) -> Phases:
    """The defaults of tlkit: solve the head on stored features, then fine-tune the last groups."""
    import tlkit

    data = tlkit.load_folder(folder)
    model = tlkit.build_classifier(backbone, data.class_names, weights=weights)
    yield BUILT, None
    tlkit.train_head(model, data)
    yield FROZEN, lambda: tlkit.evaluate(model, data.test).accuracy
    tlkit.fine_tune(model, data)
    yield TUNED, lambda: tlkit.evaluate(model, data.test).accuracy


def lines_of(recipe: Callable[..., Phases]) -> dict[str, int]:
    """Returns the number of lines that a user writes up to each phase, without the yields."""
    body = inspect.getsource(recipe).rpartition('"""')[2].splitlines()
    lines: dict[str, int] = {}
    written = 0
    for line in body:
        code = line.strip()
        if code.startswith("yield "):
            name = code.removeprefix("yield ").partition(",")[0]
            lines[globals()[name]] = written
        elif code:
            written += 1
    return lines


def lay_out(data: Any, folder: Path) -> None:
    """Copies loaded images into folders `train`, `validation` and `test`, in the same split."""
    for split in (data.train, data.validation, data.test):
        for path, label in zip(split.paths, split.labels, strict=True):
            target = folder / split.name / data.class_names[label] / Path(path).name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
