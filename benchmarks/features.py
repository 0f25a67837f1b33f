"""The speed of feature extraction, compared with a Keras model in a `tf.function`.

    python benchmarks/features.py PHOTOS [--backbones resnet50,vgg16]

Weights are random. This does not affect the time of a forward pass, but heads take longer to solve,
because features are nearly linearly dependent. For each backbone: images per second of the forward
pass in three implementations; then the time of `train_head` on a folder, again with stored
features, and with one tenth of new images.
"""

import argparse
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import tlkit
from tlkit.models.heads import feature_cut
from tlkit.training.frozen import FrozenPart, relative_difference

BATCH_SIZE, BATCHES, ROUNDS = 32, 3, 3


def images_per_second(forwards, images: tf.Tensor) -> list[float]:
    """Returns the best of several alternating rounds, so that other load affects all alike."""
    best = [0.0] * len(forwards)
    for forward in forwards:
        forward(images)
    for _ in range(ROUNDS):
        for i, forward in enumerate(forwards):
            started = time.perf_counter()
            for _ in range(BATCHES):
                np.asarray(forward(images))
            best[i] = max(best[i], BATCHES * BATCH_SIZE / (time.perf_counter() - started))
    return best


def forward_pass(model: keras.Model, photos: str) -> None:
    prefix = keras.Model(model.input, feature_cut(model))
    data = tlkit.load_folder(photos, image_size=model.input_shape[1:3])
    images = next(iter(data.train.dataset(batch_size=BATCH_SIZE)))[0]
    live = tf.function(lambda x: prefix(x, training=False))
    started = time.perf_counter()
    part = FrozenPart(prefix)
    exact, fast = part.float32, part.bfloat16
    print(f"  preparing both graphs took {time.perf_counter() - started:.1f} s")
    if fast is None:
        raise SystemExit("this processor has no bfloat16")
    difference = relative_difference(fast(images).numpy(), exact(images).numpy())
    speeds = images_per_second([live, exact, fast], images)
    print(
        f"  images/s: tf.function {speeds[0]:.1f}, frozen float32 {speeds[1]:.1f} "
        f"({speeds[1] / speeds[0]:.2f}x), bfloat16 {speeds[2]:.1f} ({speeds[2] / speeds[0]:.2f}x); "
        f"bfloat16 differs by {100 * difference:.2f} %"
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
    arguments = parser.parse_args()
    for backbone in arguments.backbones.split(","):
        print(backbone)
        forward_pass(tlkit.build_classifier(backbone, ["a", "b"], weights=None), arguments.photos)
        whole_calls(backbone, arguments.photos)


if __name__ == "__main__":
    main()
