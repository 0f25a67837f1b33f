"""Predictions for a folder of images: images a second, and peak memory.

    python benchmarks/predicting.py RUN PHOTOS [--counts 2000,20000]

The images are links to those in PHOTOS. For each number of images, `predict_run` writes a table,
and a plain loop calls the same SavedModel with batches of 32 files and keeps the labels. Each is
run in a process of its own; loading TensorFlow and the model is not counted.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from peak import peak_bytes

BATCH_SIZE = 32


def link_images(photos: Path, folder: Path, count: int) -> None:
    """Makes `count` links to the images of a folder."""
    files = sorted(path.resolve() for path in photos.rglob("*.jpg"))
    for number in range(count):
        (folder / f"{number:06d}.jpg").symlink_to(files[number % len(files)])


def plain_loop(run: str, folder: str) -> float:
    """Returns the seconds of a loop over batches of files."""
    import tensorflow as tf

    predict = tf.saved_model.load(f"{run}/saved_model").signatures["serving_default"]
    files = sorted(Path(folder).iterdir())
    started = time.perf_counter()
    labels = []
    for first in range(0, len(files), BATCH_SIZE):
        contents = [file.read_bytes() for file in files[first : first + BATCH_SIZE]]
        labels += predict(image_bytes=tf.constant(contents))["label"].numpy().tolist()
    return time.perf_counter() - started


def with_tlkit(run: str, folder: str) -> float:
    """Returns the seconds of `predict_run`."""
    import tlkit

    with tempfile.TemporaryDirectory() as out:
        return tlkit.predict_run(run, folder, csv=f"{out}/table.csv").seconds


WAYS = {"plain loop": plain_loop, "predict_run": with_tlkit}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("photos", type=Path)
    parser.add_argument("--counts", default="2000,20000")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        seconds = WAYS[arguments.way](arguments.run, str(arguments.photos))
        print(json.dumps({"seconds": seconds, "peak": peak_bytes()}))
        return
    print("| images | | images a second | peak memory |")
    print("| --- | --- | --- | --- |")
    for count in map(int, arguments.counts.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            link_images(arguments.photos, Path(folder), count)
            for way in WAYS:
                command = [sys.executable, __file__, arguments.run, folder, "--way", way]
                output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                found = json.loads(output.stdout.splitlines()[-1])
                rate, peak = count / found["seconds"], found["peak"] / 1e6
                print(f"| {count:,} | {way} | {rate:.0f} | {peak:,.0f} MB |", flush=True)


if __name__ == "__main__":
    main()
