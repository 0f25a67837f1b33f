"""Three classes, then two more: what is learned and forgotten with each constraint.

    python benchmarks/forgetting.py PHOTOS --backbone mobilenet_025 --weights FILE --seeds 3

A classifier of the first three classes is fine-tuned. Then two outputs are added, and the network
is trained only on images of the other two classes. Accuracies are on test images, which are not
used for any decision, in two scenarios: task-incremental (the task is known, so only its classes
are possible) and class-incremental (all five classes are possible). Strengths and interpolation
fractions are chosen on validation images.
"""

import argparse
import dataclasses
import warnings
from collections.abc import Callable

import keras
import numpy as np

import tlkit

NUM_OLD = 3
HEAD_RATE = 1e-2
"""New rows are small at first; at the default learning rate they would hardly change."""
ALPHAS = tuple(np.round(np.linspace(0, 1, 11), 2))


def of_classes(data, wanted: list[int], class_names: tuple[str, ...]):
    """Returns the images of some classes, with unchanged labels."""
    splits = {
        name: split.subset(np.flatnonzero(np.isin(split.labels, wanted)))
        for name in ("train", "validation", "test")
        if (split := getattr(data, name)) is not None
    }
    return dataclasses.replace(data, class_names=class_names, **splits)


def accuracies(model: keras.Model, split, classes: range) -> tuple[float, float]:
    """Returns the accuracy among the classes of the task, and among all classes."""
    logits = np.concatenate([model(x, training=False).numpy() for x, _ in split.dataset()])
    own = logits[:, classes.start : classes.stop].argmax(axis=1) + classes.start
    return float((own == split.labels).mean()), float(
        (logits.argmax(axis=1) == split.labels).mean()
    )


def ways(old_model: keras.Model, old, new) -> dict[str, Callable[[keras.Model], object]]:
    """Returns for each method's name a function that trains the extended network with it."""

    def tuned(model, anchor=None, **arguments):
        tlkit.fine_tune(model, new, anchor=anchor, unfreeze="all", epochs=10, **arguments)
        return model

    def held(model, importance):
        with warnings.catch_warnings(action="ignore"):
            anchor = tlkit.choose_anchor(
                model, new, importance=importance, groups="all", unfreeze="all", epochs=5
            )
        tuned(model, anchor)
        print(f"    strength {anchor.strength:.3g}", flush=True)
        anchor.release()
        return model

    def between(model):
        start = keras.models.clone_model(model)
        start.set_weights(model.get_weights())
        tuned(model)
        report = tlkit.sweep_interpolation(
            start, model, {"old": old.validation, "new": new.validation}, alphas=ALPHAS
        )
        print(f"    fraction of the new model {report.best_alpha:g}", flush=True)
        return tlkit.interpolate_weights(start, model, report.best_alpha)

    def head_alone(model):
        tlkit.fine_tune(model, new, unfreeze="head", epochs=40, learning_rate=HEAD_RATE)
        return model

    fisher = tlkit.estimate_importance(old_model, old, method="fisher", num_samples=300)
    alike = {path: np.ones_like(values) for path, values in fisher.items()}
    return {
        "plain fine-tuning": tuned,
        "anchor (auto)": lambda model: held(model, alike),
        "EWC (auto)": lambda model: held(model, fisher),
        "distillation": lambda model: tuned(model, tlkit.distill_from(old_model)),
        "interpolation": between,
        "head alone": head_alone,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos")
    parser.add_argument("--backbone", default="mobilenet_025")
    parser.add_argument("--weights", default="pretrained")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", help="names of methods to run")
    given = parser.parse_args()
    results: dict[str, list[tuple[float, ...]]] = {}
    for seed in range(given.seeds):
        data = tlkit.load_folder(given.photos, seed=seed)
        names = data.class_names
        classes = range(NUM_OLD), range(NUM_OLD, len(names))
        old = of_classes(data, list(classes[0]), names[:NUM_OLD])
        new = of_classes(data, list(classes[1]), names)
        old_model = tlkit.build_classifier(given.backbone, old.class_names, weights=given.weights)
        tlkit.fine_tune(old_model, old, epochs=10)
        before = accuracies(old_model, old.test, classes[0])[0]
        for name, train in ways(old_model, old, new).items():
            if given.ways and name not in given.ways:
                continue
            print(f"seed {seed}, {name}", flush=True)
            keras.utils.set_random_seed(seed)
            grown = tlkit.add_classes(old_model, names[NUM_OLD:], old.class_names, seed=seed)
            grown = train(grown)
            after = accuracies(grown, old.test, classes[0])
            gained = accuracies(grown, new.test, classes[1])
            results.setdefault(name, []).append((before, *after, *gained))
    counts = f"{old.test.num_images} old and {new.test.num_images} new test images in the last seed"
    print(f"| method | old before | old after | new | old, among all | new, among all | ({counts})")
    for name, rows in results.items():
        before, old_own, old_all, new_own, new_all = 100 * np.mean(rows, axis=0)
        print(
            f"| {name} | {before:.1f} | {old_own:.1f} | {new_own:.1f} | {old_all:.1f} | "
            f"{new_all:.1f} |"
        )


if __name__ == "__main__":
    main()
