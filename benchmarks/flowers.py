"""Compares tlkit with plain Keras's guide recipe on one folder of images, seed by seed.

    python benchmarks/flowers.py PHOTOS --backbone mobilenet_025 --weights FILE --seeds 5

For each seed the folder is split anew, and on that split are trained, from nothing that was
stored before:

- plain Keras as its transfer-learning guide has it: random flips and rotations of 0.1, ten epochs
  of a frozen base with Adam at 1e-3, then ten epochs of all layers at 1e-5;
- `tlkit.train_head`, twice: the second call finds all features stored;
- `tlkit.fine_tune` with its defaults.

Seconds begin before the folder is read; those of a "call" (of "fit") when data and model are there.

Accuracies are on the test split, which no decision was made on.
"""

import argparse
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import recipes
from recipes import BUILT, FROZEN, TUNED, lay_out

import tlkit
from tlkit.models.catalogue import find_backbone


def plain_keras(data, backbone: str, weights: str) -> dict[str, float]:
    """Keras's guide recipe; returns test accuracies and seconds of both phases."""
    spec = find_backbone(backbone)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        lay_out(data, Path(temporary))
        phases = recipes.plain_keras(
            Path(temporary), lambda: plain_base(spec, data.image_size, weights)
        )
        seconds: dict[str, float] = {}
        started = time.perf_counter()
        for name, accuracy in phases:
            seconds[name] = time.perf_counter() - started + sum(seconds.values())
            if accuracy is not None:
                figures[f"{name} accuracy"] = accuracy()
            started = time.perf_counter()
    return figures | {
        "frozen seconds": seconds[FROZEN],
        "frozen fit seconds": seconds[FROZEN] - seconds[BUILT],
        "tuned seconds": seconds[TUNED],
    }


def plain_base(spec, image_size: tuple[int, int], weights: str) -> keras.Model:
    """The backbone as a user of Keras builds it; its preprocessing must be the "tf" kind."""
    if spec.preprocessing != "tf":
        raise SystemExit("the plain recipe here is written for preprocessing to -1...1")
    base = spec.build(keras.Input((*image_size, 3)), None)
    base.load_weights(weights)
    return base


def with_tlkit(arguments: argparse.Namespace, seed: int) -> dict[str, float]:
    """Head, head again, and fine-tuning, each from its own start."""
    figures = {}
    with tempfile.TemporaryDirectory() as cache:
        for name in ("head", "head again"):
            started = time.perf_counter()
            data, model = load(arguments, seed, cache)
            training = time.perf_counter()
            report = tlkit.train_head(model, data, cache=Path(cache) / "features")
            figures[f"{name} seconds"] = time.perf_counter() - started
            figures[f"{name} call seconds"] = time.perf_counter() - training
            figures[f"{name} forward passes"] = report.stages[0].num_forward_passes
        figures["head accuracy"] = tlkit.evaluate(model, data.test).accuracy
    with tempfile.TemporaryDirectory() as cache:
        started = time.perf_counter()
        data, model = load(arguments, seed, cache)
        report = tlkit.fine_tune(model, data, cache=Path(cache) / "features")
        figures["fine-tune seconds"] = time.perf_counter() - started
        figures["fine-tune accuracy"] = tlkit.evaluate(model, data.test).accuracy
        figures["fine-tune validation"] = report.accuracy_after
        figures["epochs"] = len(report.stages[-1].history)
    return figures


def load(arguments: argparse.Namespace, seed: int, cache: str):
    """Data and an untrained classifier."""
    data = tlkit.load_folder(arguments.photos, seed=seed, cache=cache)
    model = tlkit.build_classifier(
        arguments.backbone, data.class_names, weights=arguments.weights, seed=seed
    )
    return data, model


def standard_error(values: list[float]) -> float:
    """Of the mean; not a number for a single value."""
    return np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos")
    parser.add_argument("--backbone", default="mobilenet_025")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--plain-seeds", type=int, help="how many of them for plain Keras")
    arguments = parser.parse_args()
    rows = []
    for seed in range(arguments.seeds):
        keras.utils.set_random_seed(seed)
        figures = with_tlkit(arguments, seed)
        data = tlkit.load_folder(arguments.photos, seed=seed)
        if arguments.plain_seeds is None or seed < arguments.plain_seeds:
            figures |= plain_keras(data, arguments.backbone, arguments.weights)
        figures["test images"] = data.test.num_images
        rows.append(figures)
        print(f"seed {seed}: " + ", ".join(f"{k} {v:.3f}" for k, v in figures.items()), flush=True)
    mean = {}
    print(f"\nmeans over the seeds (± standard error), {rows[0]['test images']} test images each")
    for name in rows[0]:
        values = [row[name] for row in rows if name in row]
        mean[name] = np.mean(values)
        print(f"  {name}: {mean[name]:.3f} ± {standard_error(values):.3f} ({len(values)} seeds)")
    ratio = mean["frozen fit seconds"] / mean["head call seconds"]
    print(f"head training: {ratio:.1f} times as fast as ten frozen epochs")
    ratio = mean["frozen seconds"] / mean["head seconds"]
    print(f"head training with checking the files and building the model: {ratio:.1f} times")
    gain = [row["fine-tune accuracy"] - row["head accuracy"] for row in rows]
    print(f"fine-tuning less head, paired: {np.mean(gain):+.3f} ± {standard_error(gain):.3f}")
    ratio = mean["fine-tune seconds"] / mean["tuned seconds"]
    print(f"fine-tuning: {ratio:.2f} of the time of the guide recipe")


if __name__ == "__main__":
    main()
