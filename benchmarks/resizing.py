"""Compares ways of resizing and image sizes by the accuracy of a linear head.

    python benchmarks/resizing.py FOLDER --weights FILE [--backbone NAME] [--sizes 224 256]

Accuracy is cross-validated over all images of FOLDER, mean over five seeds of the folds.
Differences from the first size, stretched, are paired by image and have one standard error. Besides
the ways of `load_folder`, the usual evaluation crop is measured, which keeps 0.875 of the shorter
side.
"""

import argparse
import os
from dataclasses import replace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

import tlkit
from tlkit.advice.probe import probe
from tlkit.data.decoding import decoder
from tlkit.data.images import ImageData
from tlkit.data.limits import MAX_PIXELS
from tlkit.data.reading import read_image
from tlkit.data.settings import CROP, RESIZES
from tlkit.models.flattening import below
from tlkit.models.heads import feature_cut
from tlkit.training.features import extract_features
from tlkit.training.frozen import FrozenPart

SEEDS = range(5)
CROP_FRACTION = 0.875


def with_resize(data: ImageData, resize: str) -> ImageData:
    return replace(data, resize=resize, train=replace(data.train, resize=resize))


def evaluation_crops(data: ImageData, size: int) -> ImageData:
    """Returns the images scaled so that a square of the size keeps 0.875 of the shorter side."""
    whole = round(size / CROP_FRACTION)
    decode, start = decoder((whole, whole), MAX_PIXELS, CROP), (whole - size) // 2
    kept = slice(start, start + size)
    images = [decode(tf.constant(read_image(path))).numpy() for path in data.train.paths]
    pixels = np.stack([image[kept, kept] for image in images])
    train = replace(
        data.train,
        image_size=(size, size),
        digests=tuple(f"{digest}-{CROP_FRACTION}" for digest in data.train.digests),
        _pixels=pixels,
    )
    return replace(data, train=train, image_size=(size, size))


def is_correct(data: ImageData, backbone: str, weights: str) -> np.ndarray:
    """Returns for each image the fraction of the seeds with which it is correct."""
    model = tlkit.build_classifier(
        backbone, data.class_names, image_size=data.image_size, weights=weights
    )
    part = FrozenPart(below(model, feature_cut(model)))
    rows = extract_features(part, data.train, exact=True).labelled()
    return np.mean([probe(rows, seed=seed).is_correct for seed in SEEDS], axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--weights", default="pretrained")
    parser.add_argument("--backbone", default="mobilenet_025")
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 256, 288])
    given = parser.parse_args()
    data = tlkit.load_folder(given.folder, splits=(1, 0, 0))
    print(data)
    first = None
    for size in given.sizes:
        sized = data.at_size(size)
        ways = {resize: with_resize(sized, resize) for resize in RESIZES}
        ways[f"crop {CROP_FRACTION}"] = evaluation_crops(data, size)
        for name, resized in ways.items():
            correct = is_correct(resized, given.backbone, given.weights)
            first = correct if first is None else first
            gains = 100 * (correct - first)
            error = gains.std(ddof=1) / np.sqrt(len(gains))
            print(
                f"{size} {name}: {100 * correct.mean():.2f} %, {gains.mean():+.2f} ± {error:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
