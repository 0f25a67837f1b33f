"""Trains heads for several labels per image on mosaics of flowers and insects, and prints figures.

    python benchmarks/several_labels.py FLOWERS HYMENOPTERA --weights FILE

Each image is a mosaic of two by two images of one to three of seven classes (five flowers, ants and
bees), and its labels are the classes that it shows. Classes are drawn with different frequencies:
the rarest is in about a ninth as many mosaics as the most frequent one. An image of the two sets
is used in the mosaics of one split only. Mosaics and runs are written to a temporary folder, and
the command line's own function makes the runs: a head on `mobilenet_025`, solved with and without
balanced weights of the labels, each with thresholds of 0.5 and with thresholds chosen on validation
images. Figures are those of the test mosaics.
"""

import argparse
import csv
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

import tlkit
from tlkit.evaluation.label_scores import LabelScores
from tlkit.runs.inference import evaluate_run

BACKBONE = "mobilenet_025"
TILE = 112
FRACTIONS = {"train": 0.6, "val": 0.2, "test": 0.2}
SLOPE = 0.66
"""Ratio of the frequencies of a class and the one before it."""


def sources(folders: list[Path], seed: int) -> dict[str, dict[str, list[Path]]]:
    """Returns the images of each class in each split, by split and class."""
    classes: dict[str, list[Path]] = {}
    for folder in folders:
        inner = [folder / name for name in ("train", "val") if (folder / name).is_dir()]
        for place in inner or [folder]:
            for one in sorted(path for path in place.iterdir() if path.is_dir()):
                classes.setdefault(one.name, []).extend(sorted(one.iterdir()))
    generator = np.random.default_rng(seed)
    ends = np.cumsum(list(FRACTIONS.values()))[:-1]
    found: dict[str, dict[str, list[Path]]] = {split: {} for split in FRACTIONS}
    for name, files in sorted(classes.items()):
        order = generator.permutation(len(files))
        parts = np.split(order, np.rint(ends * len(files)).astype(int))
        for split, rows in zip(FRACTIONS, parts, strict=True):
            found[split][name] = [files[row] for row in rows]
    return found


def mosaics(
    images: dict[str, list[Path]], number: int, generator: np.random.Generator
) -> Iterator[tuple[Image.Image, list[str]]]:
    """Yields mosaics with the classes that they show."""
    names = sorted(images)
    frequencies = SLOPE ** np.arange(len(names))
    for _ in range(number):
        size = generator.integers(1, 4)
        shown = generator.choice(
            len(names), size, replace=False, p=frequencies / frequencies.sum()
        ).tolist()
        tiles = generator.permutation([*shown, *generator.choice(shown, 4 - size)])
        canvas = Image.new("RGB", (2 * TILE, 2 * TILE))
        for place, tile in enumerate(tiles):
            files = images[names[tile]]
            with Image.open(files[generator.integers(len(files))]) as opened:
                small = opened.convert("RGB").resize((TILE, TILE), Image.Resampling.BILINEAR)
            canvas.paste(small, (TILE * (place % 2), TILE * (place // 2)))
        yield canvas, [names[one] for one in sorted(shown)]


def write_mosaics(folder: Path, photos: list[Path], number: int, seed: int) -> Path:
    """Writes mosaics and their manifest to a folder, and returns the manifest."""
    manifest = folder / "mosaics.csv"
    with manifest.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "label", "split"))
        for place, (split, images) in enumerate(sources(photos, seed).items()):
            generator = np.random.default_rng((seed, place))
            drawn = mosaics(images, round(number * FRACTIONS[split]), generator)
            for index, (mosaic, labels) in enumerate(drawn):
                name = f"{split}_{index}.jpg"
                mosaic.save(folder / name, quality=90)
                writer.writerow((name, "|".join(labels), split))
    return manifest


def row_of(name: str, scores: LabelScores) -> str:
    """Returns a row of the table."""
    pairs = (
        (scores.mean_average_precision, scores.mean_average_precision_interval),
        (scores.f1_micro, scores.f1_micro_interval),
        (scores.f1_macro, scores.f1_macro_interval),
    )
    cells = [
        f"{100 * (value or 0):.1f} ({100 * ends[0]:.1f}-{100 * ends[1]:.1f})" if ends else "none"
        for value, ends in pairs
    ]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Makes the mosaics, trains the heads, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", nargs="+", type=Path, help="folders of images by class")
    parser.add_argument("--weights", help="weights of mobilenet_025; by default its own")
    parser.add_argument("--number", type=int, default=2000, help="number of mosaics")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        manifest = write_mosaics(Path(place), given.photos, given.number, given.seed)
        rows = []
        for weight in (None, "balanced"):
            for threshold in (0.5, "auto"):
                run = tlkit.train_run(
                    manifest,
                    out=Path(place, f"run {weight} {threshold}"),
                    multi_label=True,
                    threshold=threshold,
                    backbone=BACKBONE,
                    weights=given.weights or "pretrained",
                    mode="head",
                    class_weight=weight,
                    seed=given.seed,
                )
                report = evaluate_run(run.path, manifest)
                if report.labels is None:
                    raise RuntimeError("the run has one class per image")
                name = f"{weight or 'none'} | {threshold}"
                rows.append(row_of(name, report.labels))
                print(report)
        print(f"n = {report.num_images} test mosaics, intervals of 95 %")
        print("| class weights | thresholds | mAP | F1 micro | F1 macro |")
        print("| --- | --- | --- | --- | --- |")
        print("\n".join(rows))


if __name__ == "__main__":
    main()
