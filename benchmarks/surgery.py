"""Grows every backbone of the catalogue, with random weights, and checks that it computes the same.

    python benchmarks/surgery.py [NAME...]

Prints one row for each backbone: how many of its layers can be widened, the one in their middle
that was, seconds for widening it, adding two classes and consolidating, and the checks that failed:

    widen        a quarter more units: the same outputs bit for bit, called as it is and traced
    classes      two further classes: the same old logits bit for bit
    groups       the grown model still has a head of its own and as many groups of layers
    consolidate  after random changes to all weights: within 1e-5 of the grown model's outputs,
                 relative to the largest of them, in as many layers as the backbone had
    reload       saved and loaded by plain Keras: the same outputs bit for bit, and widened further
                 it still computes the same

Everything is computed at a small image size. Where random weights turn a rounding of the pixels
into more than the tolerance, the scales of batch normalisation are halved first, and the row says
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
    """One backbone, widened and with further classes, and the seconds that each step took."""

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
        """Whether both compute the same, called as they are and traced."""
        traced = np.array_equal(forward_of(one)(self.images), forward_of(other)(self.images))
        return traced and np.array_equal(one(self.images), other(self.images))

    def has_the_same_logits(self) -> bool:
        """Whether further classes leave the old logits alone."""
        old = self.model(self.images)
        return np.array_equal(self.grown(self.images)[:, : old.shape[1]], old)

    def has_groups(self) -> bool:
        """Whether groups of layers are found as before."""
        before, after = layer_groups(self.model), layer_groups(self.grown)
        return after[-1].name == "head" and len(before) == len(after)

    def reloads(self) -> bool:
        """Whether it survives being saved, and grows further then."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.keras")
            self.grown.save(path)
            loaded = keras.models.load_model(path)
        again = wider(loaded, self.layer)
        expected = self.grown(self.images)
        return all(np.array_equal(model(self.images), expected) for model in (loaded, again))

    def consolidates(self) -> bool:
        """Whether plain layers compute what the composed ones do."""
        randomly_changed(self.grown)
        plain, self.seconds_to_consolidate = timed(lambda: consolidate(self.grown))
        expected, found = self.grown(self.images).numpy(), plain(self.images).numpy()
        difference = np.abs(found - expected).max() / np.abs(expected).max()
        return difference <= TOLERANCE and len(plain.layers) == len(self.model.layers)


def condition(model: keras.Model, images: np.ndarray) -> int:
    """Halves the scales of batch normalisation until outputs tell more than rounding does.

    With random weights the deepest networks turn one rounding of the pixels into most of the
    outputs, and sums in another order with it: nothing could be compared.
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
    """What one rounding of the pixels changes, relative to the largest output."""
    outputs = model(images).numpy()
    rounded = model(np.nextafter(images, np.float32(np.inf))).numpy()
    return float(np.abs(rounded - outputs).max() / np.abs(outputs).max())


def wider(model: keras.Model, name: str) -> keras.Model:
    """Returns the model with a quarter more units in one layer, at least one."""
    now = count_units(model, name)
    return widen_layer(model, name, now + max(1, now // 4))


def randomly_changed(model: keras.Model) -> None:
    """Moves every weight by a tenth of its layer's scale, so that no part is zero any more."""
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
    parser.add_argument("names", nargs="*", help="backbones; all without any")
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
