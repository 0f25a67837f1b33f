"""Features of the benchmarks' images, extracted once and kept in a folder.

All are those of MobileNet-0.25 with ImageNet weights: of flowers and hymenoptera at 224 pixels, of
CIFAR-100's images enlarged to 96.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from accuracy import BACKBONE, NUM_CIFAR_CLASSES, SIZES, enlarged, read_cifar

import tlkit
from tlkit.models.flattening import below
from tlkit.models.heads import feature_cut
from tlkit.training.frozen import FrozenPart

_BATCH_SIZE = 100


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """All images of a set.

    Attributes:
        name: Its name.
        features: `(n, num_features)`, float32.
        labels: `(n,)`, from 0.
    """

    name: str
    features: np.ndarray
    labels: np.ndarray

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return int(self.labels.max()) + 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say where images, weights and features are."""
    parser.add_argument("--flowers", help="folder of images")
    parser.add_argument("--hymenoptera", help="folder of images, divided into train and val")
    parser.add_argument("--cifar", help="archive of CIFAR-100: train/CLASS/*.png, test/CLASS/*.png")
    parser.add_argument("--weights", required=True, help="weights of MobileNet-0.25")
    parser.add_argument("--features", required=True, type=Path, help="folder that keeps features")


def load_feature_sets(arguments: argparse.Namespace) -> list[FeatureSet]:
    """Returns the sets whose images are given; CIFAR-100 is two: its first classes, the others."""
    names = [name for name in ("flowers", "hymenoptera", "cifar") if getattr(arguments, name)]
    sets = []
    for name in names:
        kept = _kept(arguments, name)
        if name == "cifar":
            first = kept.labels < NUM_CIFAR_CLASSES
            others = kept.labels[~first] - NUM_CIFAR_CLASSES
            sets.append(FeatureSet(name, kept.features[first], kept.labels[first]))
            sets.append(FeatureSet(f"{name}_others", kept.features[~first], others))
        else:
            sets.append(kept)
    return sets


def load_images(arguments: argparse.Namespace, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images of a set, uint8, and their labels, in the order of its features."""
    if name != "cifar":
        return _of_folder(getattr(arguments, name))
    images, labels = _of_cifar(arguments.cifar, NUM_CIFAR_CLASSES)
    return images, labels


def _kept(arguments: argparse.Namespace, name: str) -> FeatureSet:
    """Returns the kept features of a set, or computes and keeps them."""
    path = arguments.features / f"{name}.npz"
    if not path.exists():
        given = getattr(arguments, name)
        images, labels = _of_cifar(given) if name == "cifar" else _of_folder(given)
        model = tlkit.build_classifier(
            BACKBONE, ["a", "b"], image_size=images.shape[1], weights=arguments.weights
        )
        part = FrozenPart(below(model, feature_cut(model)))
        features = [
            part.float32(tf.constant(images[start : start + _BATCH_SIZE], "float32")).numpy()
            for start in range(0, len(images), _BATCH_SIZE)
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, features=np.concatenate(features), labels=labels)
    with np.load(path) as kept:
        return FeatureSet(name, kept["features"], kept["labels"])


def _of_folder(folder: str) -> tuple[np.ndarray, np.ndarray]:
    data = tlkit.load_folder(folder, image_size=SIZES["flowers"])
    parts = [
        (images.numpy().round().astype(np.uint8), labels.numpy())
        for split in (data.train, data.validation, data.test)
        if split is not None
        for images, labels in split.dataset(shuffle=False)
    ]
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def _of_cifar(archive: str, num_classes: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    parts = read_cifar(archive, num_classes).values()
    images, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    return enlarged(images), labels
