"""The speed of feature extraction, compared with a Keras model in a `tf.function`.

    python benchmarks/features.py PHOTOS [--backbones resnet50,vgg16]

Weights are random. This does not affect the time of a forward pass, but heads take longer to solve,
because features are nearly linearly dependent. For each backbone: images per second of the forward
pass by each engine that is there; then the time of `train_head` on a folder, again with stored
features, and with one tenth of new images (not with --passes-only).
"""

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import tlkit
from tlkit.models.heads import feature_cut
from tlkit.training.engines import ENGINES, forward_by
from tlkit.training.frozen import Forward, FrozenPart, has_bfloat16, relative_difference

BATCH_SIZE, BATCHES, ROUNDS = 32, 3, 3


def images_per_second(forwards: dict[str, Forward], images: tf.Tensor) -> dict[str, float]:
    """Returns the best of several alternating rounds, so that other load affects all alike."""
    best = dict.fromkeys(forwards, 0.0)
    for forward in forwards.values():
        forward(images)
    for _ in range(ROUNDS):
        for name, forward in forwards.items():
            started = time.perf_counter()
            for _ in range(BATCHES):
                np.asarray(forward(images))
            seconds = time.perf_counter() - started
            best[name] = max(best[name], BATCHES * BATCH_SIZE / seconds)
    return best


def forward_pass(model: keras.Model, photos: str) -> None:
    """Prints the speed of each engine on this machine, and how far its features differ."""
    prefix = keras.Model(model.input, feature_cut(model))
    data = tlkit.load_folder(photos, image_size=model.input_shape[1:3])
    images = next(iter(data.train.dataset(batch_size=BATCH_SIZE)))[0]
    part = FrozenPart(prefix)
    forwards = {"tf.function": tf.function(lambda x: prefix(x, training=False))}
    seconds = {}
    for engine, precision in itertools.product(ENGINES, ("float32", "bfloat16")):
        if precision == "bfloat16" and not has_bfloat16():
            continue
        started = time.perf_counter()
        forward = forward_by(part, engine, precision)
        if forward is not None:
            forwards[f"{ENGINES[engine]} {precision}"] = forward
            seconds[f"{ENGINES[engine]} {precision}"] = time.perf_counter() - started
    exact = part.float32(images).numpy()
    speeds = images_per_second(forwards, images)
    for name, speed in speeds.items():
        difference = relative_difference(forwards[name](images).numpy(), exact)
        prepared = f", prepared in {seconds[name]:.1f} s" if name in seconds else ""
        print(
            f"  {name}: {speed:.1f} images/s ({speed / speeds['tf.function']:.2f}x), features "
            f"differ by {difference:.1e}{prepared}"
        )


def whole_calls(backbone: str, photos: str) -> None:
    """Times `train_head` on nine tenths of the images, on the same again, and on all."""
    with tempfile.TemporaryDirectory() as temporary:
        part = Path(temporary) / "part"
        files = sorted(path for path in Path(photos).glob("*/*") if path.is_file())
        late = set(files[::10])
        seconds = []
        for step in ("first", "second", "with new images"):
            for path in files:
                target = part / path.parent.name / path.name
                if (path not in late or step == "with new images") and not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.symlink_to(path.resolve())
            data = tlkit.load_folder(part, cache=temporary)
            model = tlkit.build_classifier(backbone, data.class_names, weights=None)
            started = time.perf_counter()
            report = tlkit.train_head(model, data, cache=Path(temporary) / "features")
            seconds.append(time.perf_counter() - started)
            print(
                f"  {step}: {seconds[-1]:.1f} s ({100 * seconds[-1] / seconds[0]:.0f} %), "
                f"{report.stages[0].num_forward_passes} forward passes for "
                f"{data.train.num_images + data.validation.num_images} images"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos")
    parser.add_argument("--backbones", default="resnet50,vgg16")
    parser.add_argument("--passes-only", action="store_true")
    arguments = parser.parse_args()
    for backbone in arguments.backbones.split(","):
        print(backbone)
        forward_pass(tlkit.build_classifier(backbone, ["a", "b"], weights=None), arguments.photos)
        if not arguments.passes_only:
            whole_calls(backbone, arguments.photos)


if __name__ == "__main__":
    main()
