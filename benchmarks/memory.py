"""Peak memory of training a head, with few and with many images.

    python benchmarks/memory.py PHOTOS [--counts 1000,10000]

The images are copies of those in PHOTOS with a few bytes appended, so that each counts as a
different image. Each number of images is run in a separate process; peak resident memory minus rows
x features x 4 bytes is compared.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from peak import peak_bytes


def write_copies(photos: Path, folder: Path, count: int) -> None:
    """Writes `count` images with different bytes: bytes after the end of a JPEG are ignored."""
    files = sorted(path for path in photos.glob("*/*.jpg") if path.is_file())
    for number in range(count):
        source = files[number % len(files)]
        target = folder / source.parent.name / f"{number:06d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes() + b"\0" * (1 + number // len(files)))


def measure(folder: str, cache: str) -> None:
    import tlkit

    data = tlkit.load_folder(folder, cache=cache)
    model = tlkit.build_classifier("mobilenet_025", data.class_names, weights=None)
    report = tlkit.train_head(model, data, cache=Path(cache) / "features")
    rows = data.train.num_images + data.validation.num_images
    peak = peak_bytes()
    features = rows * 256 * 4
    print(
        json.dumps(
            {
                "rows": rows,
                "peak": peak,
                "beyond": peak - features,
                "passes": report.stages[0].num_forward_passes,
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos")
    parser.add_argument("--counts", default="1000,10000")
    parser.add_argument("--cache")
    arguments = parser.parse_args()
    if arguments.cache:
        measure(arguments.photos, arguments.cache)
        return
    beyond = []
    for count in map(int, arguments.counts.split(",")):
        with tempfile.TemporaryDirectory() as temporary:
            write_copies(Path(arguments.photos), Path(temporary) / "photos", count)
            command = [sys.executable, __file__, f"{temporary}/photos", "--cache", temporary]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
        figures = json.loads(done.stdout.splitlines()[-1])
        beyond.append(figures["beyond"])
        print(
            f"{count} images: peak {figures['peak'] / 2**20:.0f} MiB, "
            f"{figures['beyond'] / 2**20:.0f} MiB without its {figures['rows']} rows"
        )
    print(f"without the rows: {beyond[-1] / beyond[0]:.3f} times as much")


if __name__ == "__main__":
    main()
