"""Does an anchor prevent overfitting when there are few images?

    python benchmarks/anchors_few_images.py --flowers PHOTOS --hymenoptera PHOTOS --weights FOLDER \
        --out RESULTS

The claim is that of L2-SP (Li, Grandvalet and Davoine 2018, https://arxiv.org/abs/1802.01483): a
penalty on the distance from pretrained weights is better than one on the distance from zero. All
layers are fine-tuned from a solved head, 160 steps or 60 epochs, whichever is fewer, on 5 to 150
images of each class of flowers, or of ants and bees; all other images are test images.

    head            the solved head, without fine-tuning
    plain           no constraint; the last weights
    decay           weight decay of 0.1, the default
    l2sp            anchors of all layers
    fisher          the same, weighted by the Fisher information on the training images
    distillation    distillation of the solved head's outputs
    chosen          anchors whose strength `choose_anchor` chooses by rule "new", with 30 % of the
                    training images for validation; then trained on all of them (a part of its own)
    default         `fine_tune` as it is: decay, and three quarters of the weight change

Strengths of l2sp, fisher and distillation are the best of a grid on a draw of its own, with 20
images of each class. Each draw is a process of its own with one line in RESULTS, and is not
repeated. Differences are paired by draw, with a 95 % interval of Student's t over draws.
"""

import argparse
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import keras
import numpy as np
from accuracy import drawn, read_split, with_error
from jobs import packed, run_jobs, unpacked
from scipy.stats import t as student

import tlkit
from tlkit.continual.anchors import Anchor
from tlkit.continual.importance import normalize_importance

WEIGHTS = {
    "mobilenet_025": "mobilenet_2_5_224_tf_no_top.h5",
    "mobilenet_v2": "mobilenet_v2_imagenet_folded.weights.h5",
}
SETS, PER_CLASS = ("flowers", "hymenoptera"), (5, 10, 20, 50, 150)
IMAGE_SIZE, BATCH_SIZE, STEPS, MAX_EPOCHS = 96, 32, 160, 60
GRID = {
    "l2sp": (0.001, 0.01, 0.1, 1.0),
    "fisher": (0.001, 0.01, 0.1, 1.0),
    "distillation": (0.1, 0.3, 1.0, 3.0),
}
GRID_SEED, GRID_PER_CLASS = 100, 20
METHODS = ("plain", "decay", *GRID, "chosen", "default")
PARTS = {"fixed": ("plain", "decay", *GRID, "default"), "chosen": ("chosen",)}
"""What is trained in one process."""


@dataclass(frozen=True)
class Job:
    """The methods of a part on one draw of training images.

    Attributes:
        part: One of `PARTS`.
        network: A name of `WEIGHTS`.
        images: One of `SETS`.
        per_class: Number of training images of each class.
        seed: Seed of the draw; `GRID_SEED` compares strengths.
        l2sp: Strength of the anchors.
        fisher: Strength of the weighted anchors.
        distillation: Weight of the distillation.
    """

    part: str
    network: str
    images: str
    per_class: int
    seed: int
    l2sp: float
    fisher: float
    distillation: float


def constraint(method: str, model: keras.Model, data, job: Job):
    """Returns the anchor or distillation of a method, or `None`."""
    if method == "l2sp":
        return tlkit.anchor_weights(model, job.l2sp, groups="all")
    if method == "fisher":
        importance = tlkit.estimate_importance(model, data.train)
        importance = normalize_importance(importance, [*importance])
        return tlkit.anchor_weights(model, job.fisher, importance, groups="all")
    if method == "distillation":
        return tlkit.distill_from(model, weight=job.distillation)
    return None


def strength_by_rule(model: keras.Model, images, labels, job: Job, epochs: int) -> float:
    """Returns the strength that `choose_anchor` chooses on the training images alone."""
    names = [str(number) for number in range(labels.max() + 1)]
    split = tlkit.load_arrays(images, labels, names, splits=(0.7, 0.3, 0), seed=job.seed)
    tlkit.train_head(model, split, head="linear", seed=job.seed)  # without the validation images
    anchor = tlkit.choose_anchor(
        model,
        split,
        rule="new",
        groups="all",
        unfreeze="all",
        augment="default",
        epochs=epochs,
        weight_decay=0.0,
        kept_fraction=1.0,
        seed=job.seed,
    )
    anchor.release()
    return anchor.strength


def run(job: Job, arguments: argparse.Namespace) -> dict[str, object]:
    """Runs a job in this process; returns its figures."""
    folder = getattr(arguments, job.images)
    images, labels = read_split(tlkit.load_folder(folder, image_size=IMAGE_SIZE).merged().train)
    chosen = drawn(labels, job.per_class, np.random.default_rng(job.seed))
    tested = np.setdiff1d(np.arange(len(labels)), chosen)
    names = [str(number) for number in range(labels.max() + 1)]
    images_used, labels_used = images[chosen], labels[chosen]
    data = tlkit.load_arrays(images_used, labels_used, names, splits=(1, 0, 0), seed=job.seed)
    model = tlkit.build_classifier(
        job.network,
        names,
        image_size=IMAGE_SIZE,
        weights=arguments.weights / WEIGHTS[job.network],
        seed=job.seed,
    )
    tlkit.train_head(model, data, head="linear", seed=job.seed)
    initial = model.get_weights()
    epochs = min(MAX_EPOCHS, round(STEPS / np.ceil(len(chosen) / BATCH_SIZE)))

    def correct() -> str:
        outputs = model.predict(images[tested].astype("float32"), verbose=0)
        return packed(outputs.argmax(axis=1) == labels[tested])

    found = {"head": correct()}
    strength = None
    for method in GRID if job.seed == GRID_SEED else PARTS[job.part]:
        if method == "chosen":
            strength = strength_by_rule(model, images_used, labels_used, job, epochs)
            model.set_weights(initial)
            anchor = tlkit.anchor_weights(model, strength, groups="all") if strength else None
        else:
            anchor = constraint(method, model, data, job)
        has_decay = method in ("decay", "default")
        tlkit.fine_tune(
            model,
            data,
            unfreeze="all",
            epochs=epochs,
            anchor=anchor,
            weight_decay=None if has_decay else 0.0,
            kept_fraction=None if method == "default" else 1.0,
            seed=job.seed,
        )
        found[method] = correct()
        if isinstance(anchor, Anchor):
            anchor.release()
        model.set_weights(initial)
    return {**asdict(job), "correct": found, "num_test": len(tested), "chosen": strength}


def accuracies(row: dict) -> dict[str, float]:
    """Returns the accuracy of each method, in %."""
    return {
        method: 100 * float(unpacked(text, row["num_test"]).mean())
        for method, text in row["correct"].items()
    }


def merged(rows: list[dict]) -> list[dict]:
    """Returns one row for each draw, with the methods of all its parts."""
    by_draw: dict[tuple, dict] = {}
    for row in sorted(rows, key=lambda row: row["part"], reverse=True):
        draw = tuple(row[name] for name in ("network", "images", "per_class", "seed"))
        if row["seed"] == GRID_SEED:
            draw += tuple(row[name] for name in GRID)
        own = by_draw.setdefault(draw, row)
        own["correct"] = {**own["correct"], **row["correct"]}
    return [*by_draw.values()]


def with_best_strengths(job: Job, rows: list[dict]) -> Job:
    """Returns the job with the best strengths of the grid."""
    own = [row for row in rows if (row["network"], row["images"]) == (job.network, job.images)]
    grid = [row for row in own if row["seed"] == GRID_SEED]
    best = {method: max(grid, key=lambda row: accuracies(row)[method])[method] for method in GRID}
    return replace(job, **best)


def difference(own: list[dict], method: str, other: str) -> str:
    """Returns the mean paired difference with its 95 % interval."""
    gains = np.array([accuracies(row)[method] - accuracies(row)[other] for row in own])
    if len(gains) < 2:
        return f"{gains.mean():+.1f}"
    half = student.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / np.sqrt(len(gains))
    return f"{gains.mean():+.1f} ({gains.mean() - half:+.1f} to {gains.mean() + half:+.1f})"


def print_tables(rows: list[dict]) -> None:
    """Prints, for each network and set, accuracies and the differences from plain training."""
    rows = merged(rows)
    for network in WEIGHTS:
        for images in SETS:
            own = [
                row
                for row in rows
                if (row["network"], row["images"]) == (network, images) and row["seed"] != GRID_SEED
            ]
            if not own:
                continue
            numbers = sorted({row["per_class"] for row in own})
            strengths = ", ".join(f"{name} {own[0][name]:g}" for name in GRID)
            print(f"\n{network}, {images}: strengths {strengths}\n")
            print(f"| | {' | '.join(f'{number} a class' for number in numbers)} |")
            print(f"|{' --- |' * (len(numbers) + 1)}")
            parts = {n: [row for row in own if row["per_class"] == n] for n in numbers}
            measured = [name for name in METHODS if all(name in row["correct"] for row in own)]
            for method in ("head", *measured):
                cells = [with_error([accuracies(row)[method] for row in parts[n]]) for n in numbers]
                print(f"| {method}, % | {' | '.join(cells)} |")
            for method in measured[1:]:
                cells = [difference(parts[n], method, "plain") for n in numbers]
                print(f"| {method} − plain | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flowers", required=True, help="folder of images")
    parser.add_argument("--hymenoptera", required=True, help="folder of images")
    parser.add_argument("--weights", required=True, type=Path, help="folder of weights")
    parser.add_argument("--out", required=True, type=Path, help="file of results, added to")
    parser.add_argument("--networks", nargs="*", choices=WEIGHTS, default=[*WEIGHTS])
    parser.add_argument("--sets", nargs="*", choices=SETS, default=[*SETS])
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=[*PARTS])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        print(json.dumps(run(Job(**json.loads(arguments.job)), arguments)))
        return
    pairs = [(network, images) for network in arguments.networks for images in arguments.sets]
    grid = [
        Job("fixed", *pair, GRID_PER_CLASS, GRID_SEED, *strengths)
        for pair in pairs
        for strengths in zip(*GRID.values(), strict=True)
    ]
    rows = run_jobs(grid, Job, arguments.out)
    jobs = [
        with_best_strengths(Job(part, *pair, number, seed, 0, 0, 0), rows)
        for seed in range(arguments.seeds)
        for part in arguments.parts
        for pair in pairs
        for number in PER_CLASS
    ]
    print_tables(run_jobs(jobs, Job, arguments.out))


if __name__ == "__main__":
    main()
