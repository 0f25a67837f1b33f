"""Measures recall and false positives of the search for near-duplicates.

    python benchmarks/near_duplicates.py FOLDER [FOLDER ...]

Each FOLDER has one subfolder of images per class. All pairs of different images in a folder are
compared: the closest pairs are listed for inspection, and counted for several thresholds. Modified
copies of every fourth image are made in a temporary folder; the recall for each modification and
threshold is printed.
"""

import argparse
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from tlkit.data.file_checks import check_files
from tlkit.data.images import ImageSplit
from tlkit.data.inspection import inspect_and_divide
from tlkit.data.limits import MAX_PIXELS
from tlkit.data.listing import list_folder
from tlkit.data.perceptual import hash_images, num_differing

BOUNDS = (16, 32, 48, 64, 72, 80)
NUM_LISTED = 8


def saved(image: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def scaled(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)))


def cropped(
    image: Image.Image, left: float, top: float, right: float, bottom: float
) -> Image.Image:
    """Removes these fractions of the width and of the height."""
    width, height = image.size
    sides = (left * width, top * height, width - right * width, height - bottom * height)
    return image.crop(tuple(map(round, sides)))


CHANGES: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG quality 50": lambda image: saved(image, 50),
    "JPEG quality 20": lambda image: saved(image, 20),
    "half the size": lambda image: saved(scaled(image, 0.5)),
    "twice the size": lambda image: saved(scaled(image, 2)),
    "brightness × 1.3": lambda image: saved(ImageEnhance.Brightness(image).enhance(1.3)),
    "contrast × 1.4": lambda image: saved(ImageEnhance.Contrast(image).enhance(1.4)),
    "greyscale": lambda image: saved(image.convert("L")),
    "all sides cropped by 1.5 %": lambda image: saved(cropped(image, *[0.015] * 4)),
    "all sides cropped by 2.5 %": lambda image: saved(cropped(image, *[0.025] * 4)),
    "all sides cropped by 5 %": lambda image: saved(cropped(image, *[0.05] * 4)),
    "left side cropped by 5 %": lambda image: saved(cropped(image, 0.05, 0, 0, 0)),
    "bottom cropped by 10 %": lambda image: saved(cropped(image, 0, 0, 0, 0.1)),
    "mirrored": lambda image: saved(ImageOps.mirror(image)),
}


def hashes_of(paths: list[str], digests: list[str], cache: str) -> np.ndarray:
    labels = np.zeros(len(paths), np.int64)
    split = ImageSplit("all", tuple(paths), labels, tuple(digests), (32, 32), 32, 0)
    return hash_images([split], cache=cache, notes=[])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    given = parser.parse_args()
    differing: dict[str, list[np.ndarray]] = {name: [] for name in CHANGES}
    apart = []
    with tempfile.TemporaryDirectory() as cache:
        for folder in given.folders:
            _, images, _ = inspect_and_divide(
                list_folder(folder), max_pixels=MAX_PIXELS, cache=cache
            )
            different = list({image.digest: image for image in images}.values())
            paths = [image.path for image in different]
            hashes = hashes_of(paths, [image.digest for image in different], cache)
            rows, columns = np.triu_indices(len(paths), 1)
            apart.append(num_differing(hashes, hashes)[rows, columns])
            print(f"{folder}: {len(paths)} different images, {len(rows)} pairs; the closest:")
            for pair in np.argsort(apart[-1], kind="stable")[:NUM_LISTED]:
                both = f"{paths[rows[pair]]}  {paths[columns[pair]]}"
                print(f"  {apart[-1][pair]:3d} bits  {both}")
            for name, change in CHANGES.items():
                copies = Path(cache, "copies", name.replace(" ", "-"), folder.name)
                copies.mkdir(parents=True)
                written = []
                for number, path in enumerate(paths[::4]):
                    written.append(str(copies / f"{number}.jpg"))
                    Path(written[-1]).write_bytes(change(Image.open(path).convert("RGB")))
                verdicts = check_files(written, max_pixels=MAX_PIXELS, root=cache)
                found = hashes_of(written, [verdict.digest for verdict in verdicts], cache)
                differing[name].append(np.diagonal(num_differing(found, hashes[::4])))
    print(f"{'threshold':32}" + "".join(f"{bound:>8}" for bound in BOUNDS))
    every = np.concatenate(apart)
    counts = "".join(f"{int((every <= bound).sum()):>8}" for bound in BOUNDS)
    print(f"{f'pairs, of {len(every):,}':32}{counts}")
    for name, found in differing.items():
        values = np.concatenate(found)
        recalls = "".join(f"{100 * (values <= bound).mean():>6.1f} %" for bound in BOUNDS)
        print(f"{name:32}{recalls}")


if __name__ == "__main__":
    main()
