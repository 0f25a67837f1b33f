"""Compares the decoding speed of tlkit with that of Keras's loader, in one run.

    python benchmarks/decoding.py PHOTOS

PHOTOS is a folder with one subfolder per class. Three sets are made from its first images in a
temporary folder: of 12 megapixels, of 500x375 pixels, and of 500x375 pixels with EXIF data. Each
set is read at 224x224 by `keras.utils.image_dataset_from_directory`, by the same pipeline with
`antialias=True` (Keras's loader has no option for it), and by tlkit. Images per second are measured
in alternating rounds after the pipelines have warmed up; a ratio above 1 means that tlkit is
faster. The time until the first batch is printed, too. The last lines are images per second for
each augmentation preset, including decoding.
"""

import argparse
import os
import tempfile
import time
from itertools import islice
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

import tlkit
from tlkit.data.augmentation import AUGMENTATIONS

IMAGE_SIZE = (224, 224)
BATCH_SIZE = 16
ROUNDS = 5


def write_set(sources: list[Path], folder: Path, size: tuple[int, int], with_exif: bool) -> None:
    """Writes the images at one size, in two classes."""
    exif = Image.Exif()
    if with_exif:
        exif[0x010F], exif[0x0112] = "maker", 1
    for number, source in enumerate(sources):
        target = folder / f"class{number % 2}" / f"{number:04d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.array(Image.open(source).convert("RGB").resize(size, Image.Resampling.BICUBIC))
        image = Image.fromarray(pixels)  # without the metadata of the source
        image.save(target, quality=90, **({"exif": exif} if with_exif else {}))


def pipelines(folder: Path) -> dict[str, tf.data.Dataset]:
    """Returns infinite data sets of the same images, read in three ways."""
    by_keras = keras.utils.image_dataset_from_directory(
        folder, image_size=IMAGE_SIZE, batch_size=None, shuffle=False, verbose=False
    )

    def read_antialiased(path: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)
        return tf.ensure_shape(tf.image.resize(image, IMAGE_SIZE, antialias=True), (*IMAGE_SIZE, 3))

    files = tf.data.Dataset.from_tensor_slices(by_keras.file_paths)
    antialiased = files.map(read_antialiased, num_parallel_calls=tf.data.AUTOTUNE)
    data = tlkit.load_folder(folder, image_size=IMAGE_SIZE, batch_size=BATCH_SIZE, splits=(1, 0, 0))
    return {
        "keras": by_keras.repeat().batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE),
        "keras, antialiased": antialiased.repeat().batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE),
        "tlkit": data.train.dataset(shuffle=False, epochs=range(10_000), keep=False),
    }


def measure(
    datasets: dict[str, tf.data.Dataset], num_batches: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Returns the best images per second of each, and its seconds until the first batch."""
    speeds, starts = dict.fromkeys(datasets, 0.0), {}
    for _ in range(ROUNDS):
        for name, dataset in datasets.items():
            started = time.perf_counter()
            batches = iter(dataset)
            next(batches)
            starts[name] = time.perf_counter() - started
            for _ in islice(batches, num_batches):  # until autotuning has settled
                pass
            started = time.perf_counter()
            for _ in islice(batches, num_batches):
                pass
            seconds = time.perf_counter() - started
            speeds[name] = max(speeds[name], num_batches * BATCH_SIZE / seconds)
            del batches
    return speeds, starts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, metavar="PHOTOS")
    arguments = parser.parse_args()
    images = sorted(arguments.photos.rglob("*.jpg"))
    if not images:
        parser.error(f"there is no .jpg file in {arguments.photos}")
    with tempfile.TemporaryDirectory() as root:
        os.environ["TLKIT_CACHE"] = str(Path(root) / "cache")
        sets = [
            ("12 megapixels", (4000, 3000), 24, False, 3),
            ("500x375", (500, 375), 256, False, 30),
            ("500x375 with EXIF data", (500, 375), 256, True, 30),
        ]
        for title, size, count, with_exif, num_batches in sets:
            folder = Path(root) / title
            write_set(images[:count], folder, size, with_exif)
            speeds, starts = measure(pipelines(folder), num_batches)
            print(title)
            for name, speed in speeds.items():
                print(f"  {name}: {speed:.0f} images/s, first batch after {starts[name]:.2f} s")
            for name in ("keras", "keras, antialiased"):
                print(f"  tlkit / {name}: {speeds['tlkit'] / speeds[name]:.2f}")
        data = tlkit.load_folder(folder, image_size=IMAGE_SIZE, batch_size=BATCH_SIZE)
        datasets = {
            name: data.train.dataset(True, name, epochs=range(10_000), keep=False)
            for name in AUGMENTATIONS
        }
        speeds, _ = measure(datasets, 30)
        print("augmentation, including decoding")
        for name, speed in speeds.items():
            print(f"  {name}: {speed:.0f} images/s")


if __name__ == "__main__":
    main()
