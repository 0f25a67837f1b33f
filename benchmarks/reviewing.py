"""Measures how many replaced labels a review shows, and what choosing images to label brings.

    python benchmarks/reviewing.py FLOWERS --backbone mobilenet_025 --weights FILE

For each seed, a tenth of the labels is replaced at random by another class, in a folder of links to
the images. Precision is the fraction of the first hundred doubts whose label was replaced, recall
the fraction of the replaced labels among them. Images that the folder itself has under two labels
are left out.

Then, without replaced labels, a head is solved on a few images; fifty others get their label, drawn
at random or by a rule; and the head is solved again and tested on the rest.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

import tlkit
from tlkit.advice.labelling import rank_to_label
from tlkit.advice.out_of_fold import solve_class_head
from tlkit.models.flattening import below
from tlkit.models.heads import feature_cut
from tlkit.training.features import extract_features
from tlkit.training.frozen import FrozenPart
from tlkit.training.labelled import LabelledFeatures

NUM_SHOWN = 100
NUM_NEW = 50
NUM_LABELLED = (50, 200)
NUM_POOL = 700
DRAWS = 8


def replaced_labels(labels: np.ndarray, num_classes: int, seed: int) -> np.ndarray:
    """Returns labels of which a tenth is replaced by another class."""
    generator = np.random.default_rng(seed)
    chosen = generator.permutation(len(labels))[: round(0.1 * len(labels))]
    replaced = labels.copy()
    replaced[chosen] += generator.integers(1, num_classes, len(chosen))
    return replaced % num_classes


def review(data, seed: int, given: argparse.Namespace) -> dict[str, float]:
    """Returns precision and recall of the first doubts, and the estimated number of errors."""
    split = data.train
    labels = replaced_labels(split.labels, data.num_classes, seed)
    with tempfile.TemporaryDirectory() as folder:
        for number, (path, label) in enumerate(zip(split.paths, labels, strict=True)):
            link = Path(folder, data.class_names[label], f"{number}{Path(path).suffix}")
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(Path(path).resolve())
        started = time.process_time()
        report = tlkit.review_labels(
            folder, backbone=given.backbone, weights=given.weights, cache=given.cache, seed=seed
        )
        seconds = time.process_time() - started
    is_replaced = labels != split.labels
    numbers = np.array([int(Path(doubt.path).stem) for doubt in report.doubts])
    likely = np.array([int(Path(d.path).stem) for d in report.doubts if "label" in d.kinds])
    return {
        "precision of the first 100": is_replaced[numbers[:NUM_SHOWN]].mean(),
        "recall of the first 100": is_replaced[numbers[:NUM_SHOWN]].sum() / is_replaced.sum(),
        "likely wrong": len(likely),
        "precision of all likely wrong": is_replaced[likely].mean(),
        "recall of all likely wrong": is_replaced[likely].sum() / is_replaced.sum(),
        "estimated errors": report.num_errors,
        "processor seconds": seconds,
    }


def spread(candidates: np.ndarray, units: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """Returns `NUM_NEW` of the candidates, each the farthest from the labelled and the chosen."""
    distances = (1 - units[candidates] @ labelled.T).min(axis=1)
    chosen = []
    for _ in range(NUM_NEW):
        farthest = int(distances.argmax())
        chosen.append(candidates[farthest])
        nearer = 1 - units[candidates] @ units[candidates[farthest]]
        distances = np.minimum(distances, nearer)
        distances[farthest] = -1
    return np.array(chosen)


def label_more(rows: LabelledFeatures, num_classes: int, num_labelled: int, seed: int):
    """Returns the accuracy after labelling more images, by the rule they were chosen with."""
    order = np.random.default_rng(seed).permutation(len(rows))
    labelled, pool, test = np.split(order, [num_labelled, NUM_POOL])
    units = rows.features / np.linalg.norm(rows.features, axis=1, keepdims=True)
    first = solve_class_head(rows[labelled], num_classes)
    ranked = pool[rank_to_label(first.probabilities(rows.features[pool]))]
    rules = {
        "none": pool[:0],
        "at random": pool[:NUM_NEW],
        "smallest margin": ranked[:NUM_NEW],
        "spread over the features": spread(pool, units, units[labelled]),
        "spread over the 150 smallest margins": spread(
            ranked[: 3 * NUM_NEW], units, units[labelled]
        ),
    }
    figures = {}
    for name, chosen in rules.items():
        head = solve_class_head(rows[np.concatenate([labelled, chosen])], num_classes)
        predicted = head.probabilities(rows.features[test]).argmax(axis=1)
        figures[f"{num_labelled} labelled, {name}"] = (predicted == rows.labels[test]).mean()
    return figures


def show(figures: list[dict[str, float]]) -> None:
    for name in figures[0]:
        values = np.array([one[name] for one in figures])
        print(f"  {name}: {values.mean():.3f} ± {values.std(ddof=1):.3f} (standard deviation)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos")
    parser.add_argument("--backbone", default="mobilenet_025")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", help="folder of the stores, to use their features again")
    given = parser.parse_args()
    data = tlkit.load_folder(given.photos, cache=given.cache).merged()
    print(f"{given.backbone}, {data.train.num_images} images, {given.seeds} seeds")
    show([review(data, seed, given) for seed in range(given.seeds)])
    model = tlkit.build_classifier(given.backbone, data.class_names, weights=given.weights)
    part = FrozenPart(below(model, feature_cut(model)))
    rows = extract_features(part, data.train, exact=False, cache=given.cache).labelled()
    print(f"accuracy with {NUM_NEW} more labels, {DRAWS} draws")
    for num_labelled in NUM_LABELLED:
        show([label_more(rows, data.num_classes, num_labelled, seed) for seed in range(DRAWS)])


if __name__ == "__main__":
    main()
