"""Verifies what `learning_curve` predicts: how often is the true gain in its interval?

    python benchmarks/learning_curve.py --flowers PHOTOS --hymenoptera PHOTOS --cifar CIFAR100_TAR \
        --weights FILE --features FOLDER --out RESULTS

Some images of each class are drawn, and the gain of twice as many is predicted from them alone.
Then as many others are added, three times anew, and the head is solved with and without them: its
true gain is the difference on all images that were neither drawn at first nor added, averaged over
the three times. Nothing else sees these images.

Features are extracted once and kept in FOLDER. Each result is one line of RESULTS and is not
measured again, so that the command can be stopped and started again. At the end a table is printed.
`cifar_others`, draws of some of CIFAR-100's classes from the twenty-first on, are for choosing
parameters; the other sets are for reporting.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from accuracy import drawn
from feature_sets import FeatureSet, add_arguments, load_feature_sets

from tlkit.advice.learning_curve import curve_of_features
from tlkit.advice.subset_heads import MAX_LANDMARKS, CurveTask, measure_subsets
from tlkit.advice.subsets import NestedRows
from tlkit.training.head_solution import HeadProblem, solve_on_features
from tlkit.training.labelled import LabelledFeatures

NUM_ADDED = 3


@dataclass(frozen=True)
class Job:
    """One prediction.

    Attributes:
        images: Name of the set.
        num_classes: Number of classes drawn.
        per_class: Number of training images of each class.
        seed: Seed of the draw.
    """

    images: str
    num_classes: int
    per_class: int
    seed: int


CHOSEN_ON = [
    ("cifar_others", classes, number)
    for classes, number in ((5, 20), (5, 50), (5, 100), (10, 50), (20, 25))
]
REPORTED = [
    ("flowers", 5, 20),
    ("flowers", 5, 40),
    ("flowers", 5, 80),
    ("hymenoptera", 2, 30),
    ("hymenoptera", 2, 60),
    ("cifar", 5, 50),
    ("cifar", 5, 100),
    ("cifar", 20, 25),
    ("cifar", 20, 50),
]


def correct(
    images: LabelledFeatures, train: np.ndarray, added: np.ndarray, test: np.ndarray
) -> np.ndarray:
    """Returns whether each test image is correct, by heads solved without and with `added`.

    The head is that of the learning curve, which has at most `MAX_LANDMARKS` landmarks; with more
    images it is that of `train_head`.
    """
    if len(train) + len(added) <= MAX_LANDMARKS:
        ends = np.array([len(train), len(train) + len(added)])
        fold = NestedRows(np.concatenate([train, added]), ends, test)
        return measure_subsets(CurveTask(images, [[fold]], ends)).accuracies[0]
    found = []
    for some in (train, np.concatenate([train, added])):
        rows, num_classes = images[some], images.labels.max() + 1
        problem = HeadProblem(rows, np.arange(len(rows)), "softmax", num_classes, "closed-form")
        logits = solve_on_features(problem).logits(images.features[test])
        found.append(logits.argmax(axis=1) == images.labels[test])
    return np.stack(found)


def run(job: Job, images: FeatureSet) -> dict[str, object]:
    """Runs a job; returns its figures."""
    generator = np.random.default_rng((job.seed, job.per_class, job.num_classes))
    classes = np.sort(generator.permutation(images.num_classes)[: job.num_classes])
    kept = np.isin(images.labels, classes)
    labels = np.searchsorted(classes, images.labels[kept])
    rows = LabelledFeatures(images.features[kept], labels)
    train = drawn(labels, job.per_class, generator)
    others = np.setdiff1d(np.arange(len(labels)), train)
    report = curve_of_features(rows[train], seed=job.seed)
    accuracies = []
    for _ in range(NUM_ADDED):
        added = others[drawn(labels[others], job.per_class, generator)]
        test = np.setdiff1d(others, added)
        accuracies.append(correct(rows, train, added, test).mean(axis=1))
    before, after = np.mean(accuracies, axis=0).tolist()
    return {
        **asdict(job),
        "num_test": len(test),
        "before": before,
        "after": after,
        "gain": after - before,
        "predicted": report.gain,
        "interval": report.gain_interval,
        "report": report.as_dict(),
    }


def print_table(rows: list[dict]) -> None:
    """Prints the coverage of the intervals, and the errors of the predicted gains."""
    print("| set | images | gain, points | predicted | mean error | in interval | its width |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    settings = [(row["images"], row["num_classes"], row["per_class"]) for row in rows]
    for setting in dict.fromkeys(settings):
        own = [row for row, one in zip(rows, settings, strict=True) if one == setting]
        true, predicted = (100 * np.array([row[k] for row in own]) for k in ("gain", "predicted"))
        low, high = 100 * np.array([row["interval"] for row in own]).T
        inside = (low <= true) & (true <= high)
        error = np.abs(true - predicted).mean()
        name, classes, number = setting
        print(
            f"| {name}, {classes} classes | {number} to {2 * number} a class | "
            f"{true.mean():+.1f} | {predicted.mean():+.1f} | {error:.1f} | "
            f"{inside.sum()} of {len(own)} | {np.mean(high - low):.1f} |"
        )
    for names in (("cifar_others",), ("cifar", "flowers", "hymenoptera")):
        own = [row for row in rows if row["images"] in names]
        inside = [row["interval"][0] <= row["gain"] <= row["interval"][1] for row in own]
        if own:
            print(f"\n{', '.join(names)}: {sum(inside)} of {len(own)} in the interval")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--out", required=True, type=Path, help="file of results, added to")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--choosing", action="store_true", help="only the sets for choosing")
    arguments = parser.parse_args()
    rows = []
    if arguments.out.exists():
        rows = [json.loads(line) for line in arguments.out.read_text().splitlines()]
    done = {tuple(row[name] for name in asdict(Job("", 0, 0, 0))) for row in rows}
    sets = {images.name: images for images in load_feature_sets(arguments)}
    for seed in range(arguments.seeds):
        for setting in CHOSEN_ON if arguments.choosing else REPORTED:
            job = Job(*setting, seed)
            if job.images not in sets or tuple(asdict(job).values()) in done:
                continue
            rows.append(run(job, sets[job.images]))
            with arguments.out.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    print_table(rows)


if __name__ == "__main__":
    main()
