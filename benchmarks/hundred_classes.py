"""From ten classes to a hundred: what each way of extending a network learns, keeps and stores.

    python benchmarks/hundred_classes.py --cifar10 CIFAR10_TAR --cifar100 CIFAR100_TAR --out RESULTS
    python benchmarks/hundred_classes.py ... --differences

`resnet20`, which is trained on CIFAR-10, has a head for its ten classes, solved on 200 images of
each; it is linear for all methods but `exact`. Ninety classes of CIFAR-100, 200 images of each,
are added in one step and in nine steps of ten. Accuracy is among all classes so far: on 10,000 test
images of the ten, on 4,500 of the ninety, and over all hundred with the same weight for each class.
Each run is a process of its own with one line in RESULTS, and is not repeated.

    exact       statistics of the head, without any old image
    replay      20 stored features of each old class; old logits stay bit-identical
    isolated    nothing of the old classes; old logits stay bit-identical
    expand      `tlkit.expand`: units next to the old ones, old logits stay bit-identical
    fine-tune   all layers, on the images of each step
    anchor      the same, with an anchor at the weights before the step
    joint       the exact head, the linear head and all layers, on the images of all hundred classes

`--differences` prints how far the logits of heads from steps in random orders and batches are from
those of one step, on 20,000 images of a hundred classes, and the same after a third of the classes
has been added and forgotten again; it also prints the seconds of adding ten classes to ninety.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import keras
import numpy as np
from accuracy import drawn, read_cifar, with_error
from jobs import run_jobs

import tlkit
from tlkit.continual.adding_classes import Replay, learn_classes
from tlkit.continual.exact import train_exact_head
from tlkit.continual.head_statistics import DescribedImages, HeadStatistics, empty_statistics
from tlkit.continual.statistics_file import size_of
from tlkit.models.surgery import add_classes
from tlkit.training.features import extract_features
from tlkit.training.frozen import FrozenPart

METHODS = ("exact", "replay", "isolated", "expand", "fine-tune", "anchor")
JOINT = ("joint, exact head", "joint, linear head", "joint, all layers")
NUM_OLD, NUM_NEW, PER_CLASS, EPOCHS = 10, 90, 200, 10
EXEMPLARS, ANCHOR, WIDTH = 20, 0.01, 2000
NEEDS_VALIDATION = 0.1
"""Fraction of the new images by which `expand` decides whether the network grows."""
Images = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        method: One of `METHODS` or `JOINT`.
        num_steps: Number of steps in which the ninety classes come; 1 for `JOINT`.
        seed: Seed of the draw of images and of the order of classes.
    """

    method: str
    num_steps: int
    seed: int


@dataclass(frozen=True, eq=False)
class Task:
    """The images of a run; labels number all hundred classes, the ten first.

    Attributes:
        train: Training images and labels.
        test: Test images and labels.
        names: The classes.
        seed: The seed of the run.
    """

    train: Images
    test: Images
    names: list[str]
    seed: int

    def data(
        self, first: int, last: int, names: Sequence[str], validation: float = 0.0
    ) -> "tlkit.data.images.ImageData":
        """Returns the training images of some classes, whose labels number `names`.

        A fraction of them is for validation.
        """
        images, labels = self.train
        rows = np.flatnonzero((labels >= first) & (labels < last))
        shift = first if len(names) == last - first else 0
        splits = (1 - validation, validation, 0)
        return tlkit.load_arrays(
            images[rows], labels[rows] - shift, names, splits=splits, seed=self.seed
        )


def read_task(job: Job, arguments: argparse.Namespace) -> Task:
    """Returns the images of a run."""
    generator = np.random.default_rng(job.seed)
    ten, hundred = read_cifar(arguments.cifar10), read_cifar(arguments.cifar100)
    order = generator.permutation(100)[:NUM_NEW]
    number_of = np.full(100, -1)
    number_of[order] = NUM_OLD + np.arange(NUM_NEW)
    parts = {}
    for part in ("train", "test"):
        images, labels = ten[part]
        if part == "train":
            rows = drawn(labels, PER_CLASS, generator)
            images, labels = images[rows], labels[rows]
        more, of_hundred = hundred[part]
        rows = np.flatnonzero(number_of[of_hundred] >= 0)
        parts[part] = (
            np.concatenate([images, more[rows]]),
            np.concatenate([labels, number_of[of_hundred[rows]]]),
        )
    names = [f"class {number:02d}" for number in range(NUM_OLD + NUM_NEW)]
    return Task(parts["train"], parts["test"], names, job.seed)


def measure(model: keras.Model, task: Task, num_known: int) -> dict[str, float]:
    """Returns accuracies in % on the ten, the new and all classes so far."""
    images, labels = task.test
    rows = labels < num_known
    outputs = model.predict(images[rows].astype("float32"), batch_size=256, verbose=0)
    is_right = outputs.argmax(axis=1) == labels[rows]
    by_class = [is_right[labels[rows] == number].mean() for number in range(num_known)]
    return {
        "old": 100 * float(np.mean(by_class[:NUM_OLD])),
        "new": 100 * float(np.mean(by_class[NUM_OLD:])) if num_known > NUM_OLD else float("nan"),
        "all": 100 * float(np.mean(by_class)),
    }


class Learner:
    """A network that learns classes step by step with one method."""

    def __init__(self, method: str, task: Task) -> None:
        self._method, self._task = method, task
        self.num_known, self.stored = NUM_OLD, 0
        self._exemplars = self._statistics = None
        names = task.names[:NUM_OLD]
        self.model = tlkit.build_classifier("resnet20", names, seed=task.seed)
        self._old = task.data(0, NUM_OLD, names)
        head = "auto" if method == "exact" else "linear"
        tlkit.train_head(self.model, self._old, head=head, seed=task.seed)
        if method == "exact":
            self._statistics = tlkit.gather_statistics(
                self.model, self._old.train, names, num_landmarks=WIDTH, seed=task.seed
            )

    def learn(self, last: int) -> None:
        """Learns the classes up to `last`."""
        first, task = self.num_known, self._task
        new, known = task.names[first:last], task.names[:last]
        step = getattr(self, f"_{self._method.replace('-', '_')}")
        validation = NEEDS_VALIDATION if self._method == "expand" else 0.0
        step(task.data(first, last, new, validation), task.data(first, last, known), new)
        self.num_known = last

    def _exact(self, own, among_all, new) -> None:
        trained = train_exact_head(self.model, self._statistics, own.train, new)
        self.model, self._statistics = trained.model, trained.statistics
        self.stored = size_of(trained.statistics).bytes_of(WIDTH)

    def _replay(self, own, among_all, new) -> None:
        images = self._old.train if self._exemplars is None else None
        self._learn_rows(among_all, new, Replay(EXEMPLARS, images, self._exemplars))
        self.stored = sum(rows.nbytes for rows in self._exemplars.features.values())

    def _isolated(self, own, among_all, new) -> None:
        self._learn_rows(among_all, new, Replay(0))

    def _learn_rows(self, among_all, new, replay: Replay) -> None:
        names = self._task.names[: self.num_known]
        learned = learn_classes(
            self.model, among_all.train, new, names, replay=replay, seed=self._task.seed
        )
        self.model, self._exemplars = learned.model, learned.exemplars

    def _expand(self, own, among_all, new) -> None:
        names = self._task.names[: self.num_known]
        self.model, _ = tlkit.expand(
            self.model, own, class_names=names, epochs=EPOCHS, seed=self._task.seed
        )

    def _fine_tune(self, own, among_all, new) -> None:
        self._train_all(among_all, new, None)

    def _anchor(self, own, among_all, new) -> None:
        self._train_all(among_all, new, ANCHOR)

    def _train_all(self, among_all, new, strength: float | None) -> None:
        self.model = add_classes(self.model, new, self._task.names[: self.num_known])
        anchor = None
        if strength is not None:
            anchor = tlkit.anchor_weights(self.model, strength, groups="all")
        tlkit.fine_tune(self.model, among_all, unfreeze="all", epochs=EPOCHS, anchor=anchor, seed=0)
        if anchor is not None:
            anchor.release()
        self.model = tlkit.consolidate(self.model)


def learn_jointly(method: str, task: Task) -> keras.Model:
    """Returns a network with a head for the images of all hundred classes together."""
    model = tlkit.build_classifier("resnet20", task.names, seed=task.seed)
    data = task.data(0, len(task.names), task.names)
    if method == "joint, all layers":
        tlkit.fine_tune(model, data, epochs=EPOCHS, seed=task.seed)
    elif method == "joint, linear head":
        tlkit.train_head(model, data, head="linear", seed=task.seed)
    else:
        statistics = tlkit.gather_statistics(
            model, data.train, task.names, num_landmarks=WIDTH, seed=task.seed
        )
        model, _ = tlkit.with_exact_head(model, statistics, data.train, task.names)
    return model


def run(job: Job, arguments: argparse.Namespace) -> dict[str, object]:
    """Runs a job in this process; returns its figures after each step."""
    task = read_task(job, arguments)
    num_all = NUM_OLD + NUM_NEW
    if job.method in JOINT:
        started = time.perf_counter()
        model, stored, before = learn_jointly(job.method, task), 0, None
        seconds = time.perf_counter() - started
        steps = [measure(model, task, num_all)]
    else:
        learner = Learner(job.method, task)
        before = measure(learner.model, task, NUM_OLD)["old"]
        steps, seconds = [], 0.0
        for last in np.linspace(NUM_OLD, num_all, job.num_steps + 1, dtype=int)[1:].tolist():
            started = time.perf_counter()
            learner.learn(last)
            seconds += time.perf_counter() - started
            steps.append(measure(learner.model, task, last))
        model, stored = learner.model, learner.stored
    return {
        **asdict(job),
        "before": before,
        "steps": steps,
        "seconds": seconds,
        "parameters": model.count_params(),
        "stored": stored,
    }


def print_tables(rows: list[dict]) -> None:
    """Prints one table, a line for each method and number of steps."""
    print(
        "\n| | steps | on the ten | on the ninety | all hundred | parameters | stored | seconds |"
    )
    print(f"|{' --- |' * 8}")
    for method, num_steps in dict.fromkeys((row["method"], row["num_steps"]) for row in rows):
        own = [row for row in rows if (row["method"], row["num_steps"]) == (method, num_steps)]
        shares = (
            f"{with_error([row['steps'][-1][part] for row in own])} %"
            for part in ("old", "new", "all")
        )
        stored = f"{own[0]['stored'] / 1e6:.1f} MB" if own[0]["stored"] else "-"
        print(
            f"| {method} | {num_steps} | {' | '.join(shares)} | {own[0]['parameters']:,} | "
            f"{stored} | {np.mean([row['seconds'] for row in own]):.0f} |"
        )
    before = [row["before"] for row in rows if row["before"] is not None]
    print(f"\nOn the ten before, among the ten: {with_error(before)} %, over all runs")


def described(arguments: argparse.Namespace) -> DescribedImages:
    """Returns features of 20,000 images of CIFAR-100, on `resnet20`."""
    images, labels = read_cifar(arguments.cifar100)["train"]
    names = [str(number) for number in range(100)]
    model = tlkit.build_classifier("resnet20", names)
    data = tlkit.load_arrays(images, labels, names, splits=(1, 0, 0))
    part = FrozenPart(keras.Model(model.inputs, model.layers[-1].input))
    with tempfile.TemporaryDirectory() as cache:
        extracted = extract_features(part, data.train, exact=True, cache=cache)
        return DescribedImages(extracted.load().copy(), data.train.labels, data.train.digests)


def some_of(images: DescribedImages, rows: np.ndarray, label_of: np.ndarray) -> DescribedImages:
    return DescribedImages(
        images.features[rows],
        label_of[images.labels[rows]],
        [images.digests[row] for row in rows],
    )


def in_steps(images: DescribedImages, start: HeadStatistics, generator) -> HeadStatistics:
    """Adds all images in a random order of classes, with random steps and batches."""
    order = generator.permutation(100)
    num_steps = int(generator.integers(2, 20))
    statistics, known = replace(start, class_names=()), np.full(100, -1)
    for classes in np.array_split(order, num_steps):
        known[classes] = len(statistics.class_names) + np.arange(len(classes))
        statistics = statistics.with_classes([str(number) for number in classes])
        rows = generator.permutation(np.flatnonzero(np.isin(images.labels, classes)))
        size = int(generator.integers(50, 3000))
        for first in range(0, len(rows), size):
            statistics = statistics.added(some_of(images, rows[first : first + size], known))
    return statistics


def print_differences(arguments: argparse.Namespace) -> None:
    """Prints the largest differences of logits, and the seconds of a step."""
    images = described(arguments)
    names = [str(number) for number in range(100)]
    own = np.arange(100)
    empty = empty_statistics(images.features, names, "", num_landmarks=WIDTH, seed=0)
    nothing = replace(empty, folds=tuple(replace(f, cross=f.cross[:, :0]) for f in empty.folds))
    joint = empty.added(images)
    tested = images.features[::10]

    def logits(statistics: HeadStatistics) -> np.ndarray:
        head = statistics.solve(DescribedImages(tested[:0], own[:0], ()))
        found = head.kernel_map.values(tested) @ head.kernel + head.bias
        return found[
            :,
            [
                statistics.class_names.index(name)
                for name in names
                if name in statistics.class_names
            ],
        ]

    expected = logits(joint)
    print(f"largest logit: {np.abs(expected).max():.1f}")
    for seed in range(3):
        grown = in_steps(images, nothing, np.random.default_rng(seed))
        print(f"seed {seed}: largest difference {np.abs(logits(grown) - expected).max():.1e}")
    gone = np.flatnonzero(images.labels % 3 == 0)
    kept = np.flatnonzero(images.labels % 3)
    left = [name for name in names if int(name) % 3]
    smaller = joint.removed(some_of(images, gone, own)).without_classes(
        [name for name in names if name not in left]
    )
    never = empty.added(some_of(images, kept, own)).without_classes(
        [name for name in names if name not in left]
    )
    difference = np.abs(logits(smaller) - logits(never)).max()
    print(f"a third of the classes forgotten: largest difference {difference:.1e}")
    ninety = np.flatnonzero(images.labels < 90)
    ten = np.flatnonzero(images.labels >= 90)
    before = empty.added(some_of(images, ninety, own))
    started = time.perf_counter()
    after = before.added(some_of(images, ten, own))
    added = time.perf_counter() - started
    after.solve(some_of(images, ten, own))
    solved = time.perf_counter() - started - added
    started = time.perf_counter()
    empty.added(images).solve(images)
    everything = time.perf_counter() - started
    print(
        f"ten classes to ninety: {added:.2f} s to add {len(ten):,} images, {solved:.2f} s to "
        f"choose and solve; everything anew {everything:.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cifar10", required=True, help="archive of CIFAR-10")
    parser.add_argument("--cifar100", required=True, help="archive of CIFAR-100")
    parser.add_argument("--out", type=Path, help="file of results, added to")
    parser.add_argument("--methods", nargs="*", default=[*METHODS, *JOINT])
    parser.add_argument("--steps", nargs="*", type=int, default=[1, 9])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--differences", action="store_true")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        print(json.dumps(run(Job(**json.loads(arguments.job)), arguments)))
        return
    if arguments.differences:
        print_differences(arguments)
        return
    jobs = [
        Job(method, num_steps, seed)
        for seed in range(arguments.seeds)
        for method in arguments.methods
        for num_steps in ([1] if method in JOINT else arguments.steps)
    ]
    print_tables(run_jobs(jobs, Job, arguments.out))


if __name__ == "__main__":
    main()
