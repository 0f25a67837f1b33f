"""Extends every backbone of the catalogue, with random weights, and checks its outputs.

    python benchmarks/surgery.py [NAME...]

Prints one row for each backbone: the number of layers that can be widened, the name of the middle
one, which is widened, seconds for widening it, adding two classes and consolidating, and the checks
that failed:

    widen        with a quarter more units, outputs are bit-identical, called eagerly and traced
    classes      with two additional classes, old logits are bit-identical
    groups       the extended model has a separate head and the same number of groups
    consolidate  after random changes to all weights, outputs are within 1e-5 of those of the
                 extended model, relative to the largest one, and the number of layers is that of
                 the backbone
    reload       after saving and loading with plain Keras, outputs are bit-identical, also after
                 widening the loaded model further

Everything is computed at a small image size. If random weights amplify a rounding error of the
pixels beyond the tolerance, the scales of batch normalisation are halved first, and the row says
so. The largest networks need about 8 GB of memory.
Ends with status 1 if any check failed.
"""

import argparse
import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np

from tlkit.evaluation.forward import forward_of
from tlkit.models.assembly import build_classifier
from tlkit.models.catalogue import find_backbone, list_backbones
from tlkit.models.groups import layer_groups
from tlkit.models.surgery import (
    add_classes,
    consolidate,
    count_units,
    widen_layer,
    widenable_layers,
)

COLUMNS = "{:24} {:>8} {:44} {:>8} {:>8} {:>12}  {} {}"
IMAGE_SIZE = 96
CLASS_NAMES = ["a", "b", "c"]
TOLERANCE = 1e-5


class Grown:
    """One backbone, widened and with additional classes, and the seconds of each step."""

    def __init__(self, name: str) -> None:
        spec = find_backbone(name)
        size = max(IMAGE_SIZE, spec.minimum_image_size)
        self.model = build_classifier(name, CLASS_NAMES, image_size=size, weights=None)
        images = np.random.default_rng(0).uniform(0, 255, (2, size, size, 3))
        self.images = images.astype("float32")
        self.num_halvings = condition(self.model, self.images)
        names = widenable_layers(self.model)
        self.num_widenable = len(names)
        self.layer = names[len(names) // 2]
        self.wider, self.seconds_to_widen = timed(lambda: wider(self.model, self.layer))
        self.grown, self.seconds_to_add = timed(lambda: add_classes(self.wider, ["d", "e"]))
        self.seconds_to_consolidate = 0.0

    def failures(self) -> Iterator[str]:
        """Yields the names of the checks that fail."""
        checks: dict[str, Callable[[], bool]] = {
            "widen": lambda: self.is_same(self.wider, self.model),
            "classes": self.has_the_same_logits,
            "groups": self.has_groups,
            "reload": self.reloads,
            "consolidate": self.consolidates,
        }
        for name, check in checks.items():
            if not check():
                yield name

    def is_same(self, one: keras.Model, other: keras.Model) -> bool:
        """Whether outputs of both are bit-identical, called eagerly and traced."""
        traced = np.array_equal(forward_of(one)(self.images), forward_of(other)(self.images))
        return traced and np.array_equal(one(self.images), other(self.images))

    def has_the_same_logits(self) -> bool:
        """Whether old logits are bit-identical after adding classes."""
        old = self.model(self.images)
        return np.array_equal(self.grown(self.images)[:, : old.shape[1]], old)

    def has_groups(self) -> bool:
        """Whether there is still a head, and the same number of groups."""
        before, after = layer_groups(self.model), layer_groups(self.grown)
        return after[-1].name == "head" and len(before) == len(after)

    def reloads(self) -> bool:
        """Whether the saved and loaded model computes the same, also after widening it further."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.keras")
            self.grown.save(path)
            loaded = keras.models.load_model(path)
        again = wider(loaded, self.layer)
        expected = self.grown(self.images)
        return all(np.array_equal(model(self.images), expected) for model in (loaded, again))

    def consolidates(self) -> bool:
        """Whether the consolidated layers compute the same as the composed ones."""
        randomly_changed(self.grown)
        plain, self.seconds_to_consolidate = timed(lambda: consolidate(self.grown))
        expected, found = self.grown(self.images).numpy(), plain(self.images).numpy()
        difference = np.abs(found - expected).max() / np.abs(expected).max()
        return difference <= TOLERANCE and len(plain.layers) == len(self.model.layers)


def condition(model: keras.Model, images: np.ndarray) -> int:
    """Halves the scales of batch normalisation until rounding errors are within the tolerance.

    With random weights, the deepest networks amplify a rounding error of the pixels to the size of
    their outputs. Sums in a different order would do the same, and outputs could not be compared.
    """
    scales = [
        layer.gamma for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)
    ]
    number = 0
    while scales and amplification(model, images) > TOLERANCE:
        for scale in scales:
            scale.assign(scale / 2)
        number += 1
    return number


def amplification(model: keras.Model, images: np.ndarray) -> float:
    """Returns the change of outputs by a rounding error of the pixels, relative to the largest."""
    outputs = model(images).numpy()
    rounded = model(np.nextafter(images, np.float32(np.inf))).numpy()
    return float(np.abs(rounded - outputs).max() / np.abs(outputs).max())


def wider(model: keras.Model, name: str) -> keras.Model:
    """Returns the model with a quarter more units in one layer, at least one."""
    now = count_units(model, name)
    return widen_layer(model, name, now + max(1, now // 4))


def randomly_changed(model: keras.Model) -> None:
    """Changes every weight by about a tenth of its variable's scale, so that no part stays zero."""
    random = np.random.default_rng(1)
    for variable in model.trainable_variables:
        value = variable.numpy()
        scale = 0.1 * (np.abs(value).mean() or 0.1)
        variable.assign(value + scale * random.standard_normal(value.shape))


def timed(function: Callable[[], keras.Model]) -> tuple[keras.Model, float]:
    started = time.perf_counter()
    return function(), time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="backbones; default: all")
    names = parser.parse_args().names or [spec.name for spec in list_backbones()]
    titles = ("backbone", "widenable", "widened", "widen", "classes", "consolidate")
    print(COLUMNS.format(*titles, "checks failed", ""))
    has_failed = False
    for name in names:
        keras.backend.clear_session()
        gc.collect()
        grown = Grown(name)
        failed = list(grown.failures())
        has_failed |= bool(failed)
        seconds = (grown.seconds_to_widen, grown.seconds_to_add, grown.seconds_to_consolidate)
        print(
            COLUMNS.format(
                name,
                grown.num_widenable,
                grown.layer,
                *(f"{n:.1f} s" for n in seconds),
                ", ".join(failed) or "none",
                f"(scales halved {grown.num_halvings} times)" if grown.num_halvings else "",
            ),
            flush=True,
        )
        del grown
    raise SystemExit(has_failed)


if __name__ == "__main__":
    main()
