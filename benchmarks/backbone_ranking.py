"""Compares the ranking of `compare_backbones` with the accuracy after fine-tuning.

    python benchmarks/backbone_ranking.py --flowers PHOTOS --hymenoptera PHOTOS \
        --cifar CIFAR100_TAR --weights FOLDER --out RESULTS

Candidates: six networks with the published weights in FOLDER (`FILES`), and two with random ones.
Images: 80 training images of each class of flowers and 100 of ants and of bees, at 160 pixels, and
50 of each of the first twenty classes of CIFAR-100, enlarged to 96; all other images are test
images. Each run, a process of its own with one line in RESULTS, is either a comparison of all
candidates on the training images or the fine-tuning of one of them in 312 to 320 steps, and is not
repeated.

Printed first is the correlation of means over the seeds, on which the noise of a single draw, some
points for so few images, weighs less.

Printed are, for each set and seed, Spearman's rank correlation of the scores (the accuracy of a
linear head in cross-validation, and LogME) with the accuracy after fine-tuning; mean accuracies;
and the paired difference on ants and bees between the same network pretrained on insects and on
ImageNet, with its 95 % interval over the test images of all seeds.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np
from accuracy import drawn, enlarged, read_cifar, read_split, with_error
from jobs import packed, run_jobs, unpacked
from scipy.stats import spearmanr

import tlkit
from tlkit.advice.backbones import BackboneComparison, BackboneScore

FILES = {
    "MobileNet-0.25": ("mobilenet_025", "mobilenet_2_5_224_tf_no_top.h5"),
    "MobileNet": ("mobilenet", "mobilenet_imagenet_folded.weights.h5"),
    "MobileNetV2": ("mobilenet_v2", "mobilenet_v2_imagenet_folded.weights.h5"),
    "MobileNetV2, insects": ("mobilenet_v2", "mobilenet_v2_insects_folded.weights.h5"),
    "MobileNetV2, birds": ("mobilenet_v2", "mobilenet_v2_birds_folded.weights.h5"),
    "EfficientNet-Lite0": ("efficientnet_lite0_no_top.keras", ""),
    "MobileNet-0.25, random": ("mobilenet_025", "none"),
    "MobileNetV2, random": ("mobilenet_v2", "none"),
}
"""From the name of a candidate to its network and weights, or its `.keras` file and ""."""
PREPROCESSING = "127:128"
SETS = ("flowers", "hymenoptera", "cifar")
NUM_CLASSES = 20
SIZE = {"flowers": 160, "hymenoptera": 160, "cifar": 96}
PER_CLASS = {"flowers": 80, "hymenoptera": 100, "cifar": 50}
EPOCHS = {"flowers": 24, "hymenoptera": 45, "cifar": 10}
"""Epochs of fine-tuning: 312 to 320 steps."""
COMPARISON = "compare"


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        images: One of `SETS`.
        candidate: A name of `FILES`, or `COMPARISON` for all of them.
        seed: Seed of the draw of training images, and of the training.
        epochs: Number of epochs of fine-tuning.
    """

    images: str
    candidate: str
    seed: int
    epochs: int


def entry_of(candidate: str, weights: Path) -> str:
    """Returns the candidate as `compare_backbones` takes it."""
    network, file = FILES[candidate]
    if not file:
        return f"{weights / network}:{PREPROCESSING}"
    return f"{network}={file if file == 'none' else weights / file}"


def build(candidate: str, names: list[str], weights: Path, *, size: int, seed: int) -> keras.Model:
    """Returns a classifier on a candidate."""
    network, file = FILES[candidate]
    given = {"image_size": size, "seed": seed}
    if not file:
        return tlkit.build_classifier(entry_of(candidate, weights), names, **given)
    path = None if file == "none" else weights / file
    return tlkit.build_classifier(network, names, weights=path, **given)


def all_images(job: Job, arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images of a set, uint8 `(n, size, size, 3)`, and their labels."""
    if job.images == "cifar":
        arrays = read_cifar(arguments.cifar, NUM_CLASSES)
        images = enlarged(np.concatenate([arrays["train"][0], arrays["test"][0]]), SIZE["cifar"])
        return images, np.concatenate([arrays["train"][1], arrays["test"][1]])
    folder = getattr(arguments, job.images)
    return read_split(tlkit.load_folder(folder, image_size=SIZE[job.images]).merged().train)


def run(job: Job, arguments: argparse.Namespace) -> dict[str, object]:
    """Runs a job in this process; returns its figures."""
    images, labels = all_images(job, arguments)
    chosen = drawn(labels, PER_CLASS[job.images], np.random.default_rng(job.seed))
    tested = np.setdiff1d(np.arange(len(labels)), chosen)
    names = [str(number) for number in range(labels.max() + 1)]
    data = tlkit.load_arrays(images[chosen], labels[chosen], names, splits=(1, 0, 0), seed=job.seed)
    started = time.perf_counter()
    if job.candidate == COMPARISON:
        entries = [entry_of(name, arguments.weights) for name in FILES]
        comparison = tlkit.compare_backbones(data, entries, seed=job.seed)
        found = {
            name: [100 * score.accuracy, score.log_evidence]
            for name, score in zip(FILES, in_order(comparison), strict=True)
        }
        return {**asdict(job), "scores": found, "seconds": time.perf_counter() - started}
    size = SIZE[job.images]
    model = build(job.candidate, names, arguments.weights, size=size, seed=job.seed)
    tlkit.fine_tune(model, data, epochs=job.epochs, seed=job.seed)
    seconds = time.perf_counter() - started
    outputs = model.predict(images[tested].astype("float32"), verbose=0)
    is_correct = outputs.argmax(axis=1) == labels[tested]
    return {
        **asdict(job),
        "accuracy": 100 * float(is_correct.mean()),
        "num_test": len(tested),
        "correct": packed(is_correct),
        "seconds": seconds,
    }


def in_order(comparison: BackboneComparison) -> list[BackboneScore]:
    """Returns the scores in the order of `FILES`."""
    found = {
        (Path(score.name.split(":")[0]).name, Path(score.weights).name): score
        for score in comparison.scores
    }
    return [found[network, file or "pretrained"] for network, file in FILES.values()]


def correct_of(row: dict) -> np.ndarray:
    """Returns for each test image whether the model was right."""
    return unpacked(row["correct"], row["num_test"])


def correlations(keys: list[tuple], tuned: dict, compared: dict) -> list[float]:
    """Returns the rank correlations of both scores with the accuracy, of means over some seeds."""
    after = [np.mean([tuned[*key, name]["accuracy"] for key in keys]) for name in FILES]
    return [
        spearmanr(
            [np.mean([compared[key][name][column] for key in keys]) for name in FILES], after
        ).statistic
        for column in (0, 1)
    ]


def print_tables(rows: list[dict]) -> None:
    """Prints correlations, accuracies and the paired difference."""
    tuned = {
        (row["images"], row["seed"], row["candidate"]): row for row in rows if "accuracy" in row
    }
    compared = {(row["images"], row["seed"]): row["scores"] for row in rows if "scores" in row}
    print("\n| images | seeds | rank correlation of the accuracy of heads | of LogME |")
    print("| --- | --- | --- | --- |")
    whole = [key for key in sorted(compared) if all((*key, name) in tuned for name in FILES)]
    for images in SETS:
        seeds = [seed for name, seed in whole if name == images]
        for some in (seeds, *([seed] for seed in seeds)):
            if some:
                found = correlations([(images, seed) for seed in some], tuned, compared)
                print(f"| {images} | {some} | {' | '.join(f'{one:.2f}' for one in found)} |")
    for images in SETS:
        print(f"\n{images}\n\n| candidate | head, cross-validated | fine-tuned | seeds |")
        print("| --- | --- | --- | --- |")
        for name in FILES:
            after = [row["accuracy"] for key, row in tuned.items() if key[::2] == (images, name)]
            before = [scores[name][0] for key, scores in compared.items() if key[0] == images]
            if after and before:
                print(f"| {name} | {with_error(before)} % | {with_error(after)} % | {len(after)} |")
    pairs = [
        correct_of(row) - correct_of(tuned["hymenoptera", seed, "MobileNetV2"])
        for (images, seed, name), row in tuned.items()
        if (images, name) == ("hymenoptera", "MobileNetV2, insects")
        and ("hymenoptera", seed, "MobileNetV2") in tuned
    ]
    if pairs:
        gain = 100 * np.concatenate(pairs)
        half = 1.96 * gain.std(ddof=1) / np.sqrt(len(gain))
        print(
            "\nAnts and bees, pretrained on insects instead of ImageNet: "
            f"{gain.mean():+.1f} points (95 % CI {gain.mean() - half:.1f} to "
            f"{gain.mean() + half:.1f}, n = {len(gain):,})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flowers", required=True, help="folder of images")
    parser.add_argument("--hymenoptera", required=True, help="folder of images")
    parser.add_argument("--cifar", required=True, help="archive of CIFAR-100")
    parser.add_argument("--weights", required=True, type=Path, help="folder of weights")
    parser.add_argument("--out", required=True, type=Path, help="file of results, added to")
    parser.add_argument("--sets", nargs="*", choices=SETS, default=[*SETS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        print(json.dumps(run(Job(**json.loads(arguments.job)), arguments)))
        return
    jobs = [
        Job(images, candidate, seed, EPOCHS[images])
        for seed in range(arguments.seeds)
        for images in arguments.sets
        for candidate in (COMPARISON, *FILES)
    ]
    print_tables(run_jobs(jobs, Job, arguments.out))


if __name__ == "__main__":
    main()
