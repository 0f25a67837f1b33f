"""Compares tlkit with the recipe of Keras's guide on a folder of images, for several seeds.

    python benchmarks/flowers.py PHOTOS --backbone mobilenet_025 --weights FILE --seeds 5

For each seed, the folder is split again, and these are trained on the split, with an empty cache:

- plain Keras as in its transfer-learning guide: random flips and rotations of 0.1, ten epochs with
  a frozen base with Adam at 1e-3, then ten epochs of all layers at 1e-5;
- `tlkit.train_head`, twice: the second call uses the stored features;
- `tlkit.fine_tune` with its defaults.

Times include reading the folder; those of a "call" (or "fit") start when data and model are ready.

Accuracies are on the test split, which was not used for any decision.
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
    """Runs the recipe of Keras's guide; returns test accuracies and seconds of both phases."""
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
    """Builds the backbone as in plain Keras; its preprocessing must be of the "tf" kind."""
    if spec.preprocessing != "tf":
        raise SystemExit("the plain recipe only supports preprocessing to -1...1")
    base = spec.build(keras.Input((*image_size, 3)), None)
    base.load_weights(weights)
    return base


def with_tlkit(arguments: argparse.Namespace, seed: int) -> dict[str, float]:
    """Trains the head, the head again, and fine-tunes, each from a new model."""
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
    """Returns the data and an untrained classifier."""
    data = tlkit.load_folder(arguments.photos, seed=seed, cache=cache)
    model = tlkit.build_classifier(
        arguments.backbone, data.class_names, weights=arguments.weights, seed=seed
    )
    return data, model


def standard_error(values: list[float]) -> float:
    """Returns the standard error of the mean; NaN for a single value."""
    return np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos")
    parser.add_argument("--backbone", default="mobilenet_025")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--plain-seeds", type=int, help="number of seeds for plain Keras")
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
    print(f"head training: {ratio:.1f} times as fast as ten epochs with a frozen base")
    ratio = mean["frozen seconds"] / mean["head seconds"]
    print(f"head training including loading and building the model: {ratio:.1f} times as fast")
    gain = [row["fine-tune accuracy"] - row["head accuracy"] for row in rows]
    print(f"fine-tuning minus head, paired: {np.mean(gain):+.3f} ± {standard_error(gain):.3f}")
    ratio = mean["fine-tune seconds"] / mean["tuned seconds"]
    print(f"fine-tuning: {ratio:.2f} of the time of the guide's recipe")


if __name__ == "__main__":
    main()
