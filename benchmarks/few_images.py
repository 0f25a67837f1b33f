"""Measures the accuracy that 1 to 50 images of each class bring, for each form of the head.

    python benchmarks/few_images.py --flowers PHOTOS --hymenoptera PHOTOS --cifar CIFAR100_TAR \
        --weights FILE --features FOLDER --out RESULTS

Features are extracted once and kept in FOLDER. Each result is one line of RESULTS and is not
measured again, so that the command can be stopped and started again. At the end a table for each
set is printed: mean accuracy and standard error over the draws, and the difference of `head` (the
choice of `train_head`) and the best other row, paired by draw.

The images that are not drawn are the test images. `cifar` are the first twenty classes of
CIFAR-100, at 96 pixels; `cifar_others`, draws of twenty of its other classes, are for choosing
parameters.

- `class_means`: the class with the nearest mean of features scaled to length 1;
- `linear`, `closed-form`, `head`: the heads that `train_head` solves, "auto" for the last;
- `fine_tune` (only if asked for): `fine_tune` with its defaults, on the same images.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np
from accuracy import BACKBONE, drawn, with_error
from feature_sets import FeatureSet, add_arguments, load_feature_sets, load_images

import tlkit
from tlkit.training.head_solution import HeadProblem, solve_on_features
from tlkit.training.labelled import LabelledFeatures

NUMBERS = (1, 2, 5, 10, 20, 50)
FORMS = {"linear": "linear", "closed-form": "closed-form", "head": "auto"}
RECIPES = ("class_means", *FORMS, "fine_tune")
NUM_OTHERS = 20


@dataclass(frozen=True)
class Job:
    """One measurement.

    Attributes:
        images: Name of the set.
        per_class: Number of training images of each class.
        seed: Seed of the draw.
        recipe: One of `RECIPES`.
    """

    images: str
    per_class: int
    seed: int
    recipe: str


def class_means(train: LabelledFeatures, features: np.ndarray) -> np.ndarray:
    """Returns the class with the nearest mean for each row, on features of length 1."""

    def scaled(rows: np.ndarray) -> np.ndarray:
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)

    rows = scaled(train.features)
    means = scaled(
        np.stack([rows[train.labels == c].mean(axis=0) for c in np.unique(train.labels)])
    )
    return (scaled(features) @ means.T).argmax(axis=1)


def solved(train: LabelledFeatures, features: np.ndarray, job: Job) -> tuple[np.ndarray, str]:
    """Returns the predictions of a solved head, and how it was chosen."""
    problem = HeadProblem(
        train[np.arange(len(train))],  # a copy, as its features are standardised in place
        np.arange(len(train)),
        "softmax",
        len(np.unique(train.labels)),
        FORMS[job.recipe],
        seed=job.seed,
    )
    solution = solve_on_features(problem)
    return solution.logits(features).argmax(axis=1), solution.note


def fine_tuned(arguments: argparse.Namespace, job: Job, train: np.ndarray) -> float:
    """Returns the accuracy of a fine-tuned model on the images that were not drawn."""
    images, labels = load_images(arguments, job.images)
    names = [str(number) for number in range(labels.max() + 1)]
    size = images.shape[1]
    keras.utils.set_random_seed(job.seed)
    data = tlkit.load_arrays(images[train], labels[train], names, splits=(1, 0, 0), seed=job.seed)
    model = tlkit.build_classifier(
        BACKBONE, names, image_size=size, weights=arguments.weights, seed=job.seed
    )
    tlkit.fine_tune(model, data, seed=job.seed)
    test = np.setdiff1d(np.arange(len(labels)), train)
    found = model.predict(images[test].astype("float32"), verbose=0).argmax(axis=1)
    return float(np.mean(found == labels[test]))


def run(job: Job, images: FeatureSet, arguments: argparse.Namespace) -> dict[str, object]:
    """Runs a job; returns its figures."""
    features, labels = images.features, images.labels
    generator = np.random.default_rng(job.seed)
    if job.images == "cifar_others":
        chosen = np.sort(generator.permutation(images.num_classes)[:NUM_OTHERS])
        kept = np.isin(labels, chosen)
        features, labels = features[kept], np.searchsorted(chosen, labels[kept])
    train = drawn(labels, job.per_class, generator)
    test = np.setdiff1d(np.arange(len(labels)), train)
    rows, note = LabelledFeatures(features[train], labels[train]), ""
    if job.recipe == "fine_tune":
        accuracy = fine_tuned(arguments, job, train)
    elif job.recipe == "class_means":
        accuracy = float(np.mean(class_means(rows, features[test]) == labels[test]))
    else:
        predicted, note = solved(rows, features[test], job)
        accuracy = float(np.mean(predicted == labels[test]))
    return {**asdict(job), "accuracy": accuracy, "num_test": len(test), "note": note}


def print_tables(rows: list[dict]) -> None:
    """Prints one table for each set."""
    for images in dict.fromkeys(row["images"] for row in rows):
        own = [row for row in rows if row["images"] == images]
        recipes = [recipe for recipe in RECIPES if any(row["recipe"] == recipe for row in own)]
        print(f"\n{images}\n")
        print(f"| images per class | {' | '.join(recipes)} | `head` - best other | draws, test |")
        print("| --- " * (len(recipes) + 3) + "|")
        for number in sorted({row["per_class"] for row in own}):
            by_recipe = {
                recipe: {
                    row["seed"]: 100 * row["accuracy"]
                    for row in own
                    if (row["recipe"], row["per_class"]) == (recipe, number)
                }
                for recipe in recipes
            }
            cells = [with_error(np.array([*found.values()])) for found in by_recipe.values()]
            others = [name for name in recipes if name not in ("head", "fine_tune")]
            best = max(others, key=lambda name: np.mean([*by_recipe[name].values()]))
            head, best_found = by_recipe["head"], by_recipe[best]
            gains = [head[seed] - best_found[seed] for seed in head.keys() & best_found.keys()]
            tested = sum(
                row["num_test"]
                for row in own
                if (row["recipe"], row["per_class"]) == ("head", number)
            )
            print(
                f"| {number} | {' | '.join(cells)} | {with_error(gains, '+')} ({best}) | "
                f"{len(head)}, {tested:,} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--out", required=True, type=Path, help="file of results, added to")
    parser.add_argument("--sets", nargs="*", default=["flowers", "hymenoptera", "cifar"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--per-class", type=int, nargs="*", default=[*NUMBERS])
    parser.add_argument("--recipes", nargs="*", choices=RECIPES, default=[*RECIPES[:-1]])
    arguments = parser.parse_args()
    rows = []
    if arguments.out.exists():
        rows = [json.loads(line) for line in arguments.out.read_text().splitlines()]
    done = {tuple(row[name] for name in asdict(Job("", 0, 0, ""))) for row in rows}
    for images in load_feature_sets(arguments):
        if images.name not in arguments.sets:
            continue
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            for per_class in arguments.per_class:
                for recipe in arguments.recipes:
                    job = Job(images.name, per_class, seed, recipe)
                    if tuple(asdict(job).values()) in done:
                        continue
                    rows.append(run(job, images, arguments))
                    with arguments.out.open("a") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
    print_tables(rows)


if __name__ == "__main__":
    main()
