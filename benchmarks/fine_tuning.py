"""The time of an epoch of fine-tuning, compared with plain Keras with the same layers frozen.

    python benchmarks/fine_tuning.py PHOTOS [--photos-used 192]

First with only the last block trainable: plain Keras runs the whole graph in every epoch, tlkit
only the part above the cut, on stored activations. The complete call, which also stores them, is
timed, too. Then a training step of all layers: `fit` with Keras's AdamW, compared with the training
step of `fine_tune` on the same batches. Weights are random, which does not affect the time. Both
use the same decoded batches.
"""

import argparse
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import tlkit
from tlkit.training.rates import LayerwiseAdamW, layer_multipliers
from tlkit.training.step import hooked

LAST_STAGE = {"vgg16": "block5", "resnet50": "conv5", "mobilenet_v2": 2}
ALL_LAYERS = ("mobilenet_025", "resnet50")
EPOCHS, ROUNDS, STEPS = 4, 5, 6


class EpochSeconds(keras.callbacks.Callback):
    """Records the seconds of each epoch."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        """Records the start of the epoch."""
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """Records its duration."""
        self.seconds.append(time.perf_counter() - self.started)


def compiled(model: keras.Model, optimizer=None) -> keras.Model:
    """Compiles a model as in plain Keras."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = optimizer or keras.optimizers.AdamW(1e-4)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)
    return model


def last_stage(name: str, data) -> None:
    """Prints the fastest epoch of plain Keras and of tlkit."""
    model = tlkit.build_classifier(name, data.class_names, weights=None)
    tlkit.set_trainable(model, LAST_STAGE[name])
    plain = EpochSeconds()
    batches = data.train.dataset(shuffle=True)
    compiled(model).fit(batches, epochs=2, callbacks=[plain], shuffle=False, verbose=0)
    model = tlkit.build_classifier(name, data.class_names, weights=None)
    model.get_layer("logits").bias.assign([0.1] * data.num_classes)  # counts as trained
    stored = EpochSeconds()
    with tempfile.TemporaryDirectory() as cache:
        started = time.perf_counter()
        report = tlkit.fine_tune(
            model,
            data,
            unfreeze=LAST_STAGE[name],
            epochs=EPOCHS,
            augment="none",
            callbacks=[stored],
            cache=cache,
        )
        whole = time.perf_counter() - started
    assert report.stages[-1].num_forward_passes == data.train.num_images
    print(
        f"{name} from {LAST_STAGE[name]}: plain Keras {min(plain.seconds):.2f} s per epoch, tlkit "
        f"{min(stored.seconds):.2f} s ({min(plain.seconds) / min(stored.seconds):.1f}x); the "
        f"complete call with {EPOCHS} epochs {whole:.1f} s",
        flush=True,
    )


def whole_step(name: str, data) -> None:
    """Prints the median ratio of alternating rounds."""
    model = tlkit.build_classifier(name, data.class_names, weights=None)
    tlkit.set_trainable(model, "all")
    images, labels = next(iter(data.train.dataset(batch_size=32)))
    batches = tf.data.Dataset.from_tensors((images, labels)).repeat(STEPS)
    plain = compiled(keras.Model(model.input, model.output))
    multipliers = layer_multipliers(model, 0.9)
    own = compiled(hooked(model), LayerwiseAdamW(1e-4, multipliers=multipliers))
    seconds = {"plain": [], "own": []}
    for _ in range(ROUNDS + 1):
        for key, trained in (("plain", plain), ("own", own)):
            started = time.perf_counter()
            trained.fit(batches, verbose=0, shuffle=False)
            seconds[key].append((time.perf_counter() - started) / STEPS)
    ratios = np.array(seconds["own"][1:]) / np.array(seconds["plain"][1:])
    print(
        f"{name}, all layers: plain step {1000 * min(seconds['plain']):.0f} ms, tlkit's "
        f"{1000 * min(seconds['own']):.0f} ms; ratio {np.median(ratios):.3f} "
        f"({ratios.min():.3f} to {ratios.max():.3f})",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--photos-used", type=int, default=192)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        files = sorted(path for path in arguments.photos.glob("*/*.jpg") if path.is_file())
        step = max(1, len(files) // arguments.photos_used)
        for path in files[::step][: arguments.photos_used]:
            target = Path(temporary) / path.parent.name / path.name
            target.parent.mkdir(exist_ok=True)
            target.symlink_to(path.resolve())
        data = tlkit.load_folder(temporary, splits=(1.0, 0.0, 0.0))
        for name in LAST_STAGE:
            last_stage(name, data)
        for name in ALL_LAYERS:
            whole_step(name, data)


if __name__ == "__main__":
    main()
