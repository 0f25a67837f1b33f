r"""Checks the recommendations: similarity, what to train, backbones, calibration, rejection.

    python benchmarks/advice.py PART --weights FILE --flowers F --hymenoptera H --cifar10 C \
        --mnist M

FILE has weights of MobileNet-0.25; F and H are folders of images with one subfolder per class; C
has test/CLASS with images of 32x32 pixels; M is an `.npz` file of digits. PART is one of

    similarity  how similar flowers, ants and bees, digits, and flowers with shuffled pixels are to
                the pretraining data
    recommend   the mode that `recommend` chooses, compared with all others, over several seeds
    trust       calibration error on test images before and after `calibrate`; fractions of known
                test images and of images of other data sets that `fit_rejection` rejects
    cost        the time of `compare_backbones` for three backbones, compared with that of their
                feature extraction alone

Test images are not used for any decision. `recommend` prints each result as a line of JSON as soon
as it is available; to resume a killed benchmark, pass a file of these lines as `--done FILE`.
"""

import argparse
import csv
import itertools
import json
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from scipy.stats import t as students_t

import tlkit
from tlkit.data.images import ImageData
from tlkit.models.heads import feature_cut
from tlkit.training.features import extract_features
from tlkit.training.frozen import FrozenPart
from tlkit.training.stages import DEFAULT_GROUPS

BACKBONE = "mobilenet_025"
MODES = {  # `unfreeze` and strength of the anchor; all modes solve the head first
    "head": (None, 0.0),
    "groups": (DEFAULT_GROUPS, 0.0),
    "groups, strong anchor": (DEFAULT_GROUPS, 0.01),
    "all": ("all", 0.0),
    "all, weak anchor": ("all", 0.001),
}
CASES = {  # number of images for training and validation (one fifth), and image size
    "flowers": (("flowers", 50, 224), ("flowers", 200, 224), ("flowers", 700, 224)),
    "hymenoptera": (("hymenoptera", 240, 224),),
    "cifar10": (("cifar10", 200, 96), ("cifar10", 1000, 96)),
}
MOST_TEST = 500
SEEDS = 5
SHUFFLED = 300


def files_by_class(folder: Path) -> dict[str, list[Path]]:
    """Returns the images of each class, from all splits."""
    classes: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*.jpg")):
        classes.setdefault(file.parent.name, []).append(file)
    return classes


def drawn(folder: Path, number: int, size: int, seed: int, work: Path) -> ImageData:
    """Draws `number` images evenly from the classes for training, and others for testing."""
    classes = files_by_class(folder)
    generator = np.random.default_rng(seed)
    most = min(MOST_TEST, sum(map(len, classes.values())) - number)
    manifest = work / f"{folder.name}-{number}-{seed}.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "split"])
        for name, files in classes.items():
            order = generator.permutation(len(files))
            own = round(number / len(classes))
            held_out = max(1, own // 5)
            for place, index in enumerate(order[: own + most // len(classes)]):
                split = "validation" if place < held_out else "train" if place < own else "test"
                rows.writerow([files[index].resolve(), name, split])
    return tlkit.load_manifest(manifest, image_size=size, seed=seed)


def classifier(
    data: ImageData, weights: str | None, size: int, backbone: str = BACKBONE
) -> keras.Model:
    return tlkit.build_classifier(backbone, data.class_names, image_size=size, weights=weights)


def tested(model: keras.Model, data: ImageData) -> tuple[float, int]:
    report = tlkit.evaluate(model, data.test, data.class_names)
    return report.accuracy, report.num_images


def similarity(given: argparse.Namespace, work: Path) -> None:
    """Prints distance and probes of each data set."""
    digits = np.load(given.mnist)
    order = np.random.default_rng(0).permutation(len(digits["y_test"]))[:1000]
    images = np.repeat(digits["x_test"][order][..., None], 3, axis=-1)
    flowers = drawn(given.flowers, 700, 224, 0, work)
    rows = np.random.default_rng(0).permutation(flowers.train.num_images)[:SHUFFLED]
    noise = np.stack([shuffled(flowers.train.paths[row]) for row in rows])
    sets = {
        "flowers": flowers,
        "ants and bees": drawn(given.hymenoptera, 240, 224, 0, work),
        "digits": tlkit.load_arrays(
            images, digits["y_test"][order], [str(i) for i in range(10)], image_size=224
        ),
        "shuffled pixels": tlkit.load_arrays(
            noise, flowers.train.labels[rows], flowers.class_names, image_size=224
        ),
    }
    for name, data in sets.items():
        report = tlkit.measure_similarity(classifier(data, given.weights, 224), data)
        print(
            f"| {name} | {report.distance:.3f} | {report.level} | {100 * report.accuracy:.1f} % | "
            f"{100 * report.random_accuracy:.1f} % | {report.num_images} |",
            flush=True,
        )


def shuffled(path: str) -> np.ndarray:
    """Returns an image at 224 pixels with its pixels in random order."""
    image = np.asarray(keras.utils.load_img(path, target_size=(224, 224)), "uint8")
    pixels = image.reshape(-1, 3)
    return np.random.default_rng(0).permutation(pixels).reshape(image.shape)


def recommend(given: argparse.Namespace, work: Path) -> None:
    """Prints the results of every case and seed as JSON, then the table."""
    lines = []
    if given.done:
        lines = [
            json.loads(line) for line in given.done.read_text().splitlines() if line[:1] == "{"
        ]
    known = {(one["set"], one["number"], one["seed"]) for one in lines}
    cases = [(name, number) for name, number, _ in itertools.chain(*CASES.values())]
    for name, number, size in itertools.chain(*CASES.values()):
        for seed in range(given.seeds):
            if (name, number, seed) in known:
                continue
            data = drawn(getattr(given, name), number, size, seed, work)
            line = {"set": name, "number": number, "seed": seed}
            line |= of_all_modes(data, given.weights, size, seed)
            lines.append(line)
            print(json.dumps(line), flush=True)
    lines.sort(key=lambda one: (cases.index((one["set"], one["number"])), one["seed"]))
    print(
        "\n| images | recommended | test images | " + " | ".join(MODES) + " | difference to best |"
    )
    for (name, number), own in itertools.groupby(lines, lambda one: (one["set"], one["number"])):
        print(row(f"{number} of {name}", list(own)), flush=True)


def of_all_modes(data: ImageData, weights: str, size: int, seed: int) -> dict:
    """Returns the recommended mode, and the test accuracy of each mode."""
    model = classifier(data, weights, size)
    advice = tlkit.recommend(data, tlkit.measure_similarity(model, data, seed=seed))
    chosen = "head" if advice.mode == "head" else "all" if advice.unfreeze == "all" else "groups"
    accuracies, seconds = {}, {}
    for mode, (unfreeze, strength) in MODES.items():
        model = classifier(data, weights, size)
        started = time.perf_counter()
        tlkit.train_head(model, data, seed=seed)
        if unfreeze is not None:
            anchor = tlkit.anchor_weights(model, strength) if strength else None
            tlkit.fine_tune(model, data, unfreeze=unfreeze, anchor=anchor, seed=seed)
        seconds[mode] = round(time.perf_counter() - started, 1)
        accuracies[mode], num_test = tested(model, data)
    return {
        "recommended": chosen,
        "accuracies": accuracies,
        "seconds": seconds,
        "num_test": num_test,
    }


def row(title: str, lines: list[dict]) -> str:
    """Returns means over the seeds, and the difference between recommended and best mode.

    The difference is paired and has a 95 % interval by Student's t.
    """
    advised = max(
        {one["recommended"] for one in lines}, key=[o["recommended"] for o in lines].count
    )
    table = np.array([[one["accuracies"][mode] for mode in MODES] for one in lines])
    means, best = table.mean(axis=0), list(MODES)[table.mean(axis=0).argmax()]
    lost = np.array(
        [
            one["accuracies"].get(one["recommended"], np.nan) - one["accuracies"][best]
            for one in lines
        ]
    )
    error = lost.std(ddof=1) / np.sqrt(len(lost)) if len(lost) > 1 else np.nan
    half = students_t.ppf(0.975, max(len(lost) - 1, 1)) * error
    cells = " | ".join(f"{100 * mean:.1f}" for mean in means)
    return (
        f"| {title} | {advised} | {lines[0]['num_test']} x {len(lines)} | {cells} | "
        f"{100 * lost.mean():+.1f} ± {100 * half:.1f} ({best}) |"
    )


def trust(given: argparse.Namespace, work: Path) -> None:
    """Prints calibration error and loss on test images, and fractions of rejected images."""
    out_of_distribution = {
        "CIFAR-10": some_of(given.cifar10, 300),
        "ants and bees": some_of(given.hymenoptera, 300),
        "digits": np.repeat(np.load(given.mnist)["x_test"][::33][..., None], 3, axis=-1)[:300],
    }
    for seed in range(given.seeds):
        data = drawn(given.flowers, 700, 224, seed, work)
        for mode in ("head", "fine-tuned"):
            model = classifier(data, given.weights, 224)
            tlkit.train_head(model, data, seed=seed)
            if mode != "head":
                tlkit.fine_tune(model, data, seed=seed, epochs=given.epochs, label_smoothing=0.0)
            before = tlkit.evaluate(model, data.test, data.class_names)
            report = tlkit.calibrate(model, data.validation)
            after = tlkit.evaluate(model, data.test, data.class_names)
            rejection = tlkit.fit_rejection(model, data, seed=seed)
            rejected = {"flowers": tlkit.measure_rejection(model, data.test, rejection).rate}
            for name, images in out_of_distribution.items():
                batches = as_batches(images)
                rejected[name] = tlkit.measure_rejection(model, batches, rejection).rate
            print(
                f"| {seed} | {mode} | {report.temperature:.2f} | "
                f"{100 * before.reliability.error:.1f} % | {100 * after.reliability.error:.1f} % | "
                f"{before.loss:.3f} | {after.loss:.3f} | {before.num_images} | "
                + " | ".join(f"{100 * rate:.1f} %" for rate in rejected.values())
                + " |",
                flush=True,
            )


def some_of(folder: Path, number: int) -> np.ndarray:
    """Returns randomly drawn images of all classes, resized to 224 pixels."""
    files = [file for some in files_by_class(folder).values() for file in some]
    chosen = np.random.default_rng(0).permutation(len(files))[:number]
    return np.stack(
        [
            np.asarray(keras.utils.load_img(files[i], target_size=(224, 224)), "uint8")
            for i in chosen
        ]
    )


def as_batches(images: np.ndarray) -> tf.data.Dataset:
    """Returns a data set of batches at 224 pixels, with dummy labels."""
    dataset = tf.data.Dataset.from_tensor_slices((images, np.zeros(len(images), "int64"))).batch(32)
    return dataset.map(lambda x, y: (tf.image.resize(tf.cast(x, tf.float32), (224, 224)), y))


def cost(given: argparse.Namespace, work: Path) -> None:
    """Prints the overhead of a comparison over its feature extraction alone, at one size."""
    names = [f"{BACKBONE}={given.weights}", "mobilenet_v2_035=none", "resnet20"]
    passes = 0.0
    data = drawn(given.flowers, 700, 224, 0, work)
    for name in names:
        backbone, _, weights = name.partition("=")
        weights = None if weights == "none" else weights or "pretrained"
        model = classifier(data, weights, 224, backbone)
        started = time.perf_counter()
        part = FrozenPart(keras.Model(model.inputs[0], feature_cut(model)))
        extract_features(part, data.train, exact=False, cache=work / "alone")
        passes += time.perf_counter() - started
    started = time.perf_counter()
    print(tlkit.compare_backbones(data, names, cache=work / "compared"))
    whole = time.perf_counter() - started
    print(
        f"{data.train.num_images} images: compared in {whole:.1f} s, the three feature extractions "
        f"alone {passes:.1f} s, overhead {whole - passes:.1f} s"
    )


PARTS = {
    "similarity": similarity,
    "recommend": recommend,
    "trust": trust,
    "cost": cost,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=list(PARTS))
    for name in ("flowers", "hymenoptera", "cifar10", "mnist"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--epochs", type=int, help="epochs of fine-tuning in `trust`")
    parser.add_argument("--done", type=Path, help="file with existing lines of `recommend`")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        PARTS[given.part](given, Path(work))


if __name__ == "__main__":
    main()
