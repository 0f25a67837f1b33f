"""Split CIFAR-100 on frozen features: ten tasks of ten classes, in three scenarios.

    python benchmarks/split_cifar100.py --cifar100 CIFAR100_TAR --features FILE --out RESULTS

The protocol follows van de Ven, Tuytelaars and Tolias (2022), Three types of incremental learning,
https://doi.org/10.1038/s42256-022-00568-3, table 3, whose results are printed for comparison:
convolutions that were trained on CIFAR-10 are frozen, and two hidden layers follow, which learn one
task after the other. Ours has a quarter of the images (200 training and 50 test images of each
class), another network (the 96 pooled features of `resnet20`, 400 hidden units instead of 2,000),
and fewer steps; so the order of methods and the sign and rough size of the gaps compare, not the
figures. In the domain-incremental scenario the label is the class's position in its task.

    none        plain training, one task after the other
    joint       training on all tasks together
    ewc, si     anchors weighted by the Fisher information, or by synaptic importance
    lwf         distillation of the old outputs on the new images
    er          replay of 100 images of each class
    icarl       class-incremental only: nearest means of learned features, 100 images of each class
    exact       the head in closed form from sums, on the frozen features; no image is kept

Strengths of anchors are the best of a grid on a seed of its own. Each run is
a process of its own with one line in RESULTS, and is not repeated.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from accuracy import read_cifar, with_error
from jobs import run_jobs
from split_mnist import dense

import tlkit
from tlkit.continual.exemplars import choose_exemplars
from tlkit.continual.head_statistics import DescribedImages, empty_statistics
from tlkit.training.step import StepHook, hooked

NUM_TASKS, PER_TASK = 10, 10
HIDDEN, RATE, BATCH_SIZE, STEPS, STEPS_AT_ONCE = 400, 5e-4, 128, 1000, 50
PER_CLASS, TEMPERATURE, NUM_FISHER, WIDTH = 100, 2.0, 500, 2000
TASK, DOMAIN, CLASS = SCENARIOS = ("task-incremental", "domain-incremental", "class-incremental")
METHODS = ("none", "joint", "ewc", "si", "lwf", "er", "icarl", "exact")
GRID = {"ewc": (1.0, 10.0, 100.0, 1000.0, 1e4), "si": (1.0, 10.0, 100.0, 1000.0, 1e4)}
GRID_SEED = 100
PUBLISHED = {  # %
    "none": (61.4, 18.4, 7.7),
    "joint": (78.8, 46.9, 49.8),
    "ewc": (76.3, 21.7, 8.2),
    "si": (74.8, 22.6, 8.1),
    "lwf": (78.6, 29.5, 25.6),
    "er": (76.4, 39.0, 37.6),
    "icarl": (None, None, 37.8),
}
Images = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        scenario: One of `SCENARIOS`.
        method: One of `METHODS`.
        seed: Seed of the order of classes, the initial weights and the batches.
        strength: Strength of the anchors; 0 for other methods.
    """

    scenario: str
    method: str
    seed: int
    strength: float = 0.0


def cross_entropy(scenario: str, labels, logits, num_seen: int):
    """Returns the loss of each image among its possible classes; labels number all of them."""
    labels = tf.cast(tf.reshape(labels, [-1]), tf.int32)
    if scenario == TASK:
        logits = tf.reshape(logits, (-1, NUM_TASKS, PER_TASK))
        logits = tf.gather(logits, labels // PER_TASK, axis=1, batch_dims=1)
    if scenario == CLASS:
        logits = logits[:, :num_seen]
    else:
        labels %= PER_TASK
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)


@keras.saving.register_keras_serializable("benchmarks")
class AmongPossible(keras.losses.Loss):
    """The weighted cross-entropy among the possible classes of each image."""

    def __init__(self, scenario: str, num_seen: int, weight: float) -> None:
        super().__init__()
        self.scenario, self.num_seen, self.weight = scenario, num_seen, weight

    def call(self, y_true, y_pred):
        """Returns the loss of each image."""
        return self.weight * cross_entropy(self.scenario, y_true, y_pred, self.num_seen)


class Replayed(StepHook):
    """Adds the loss on as many kept images as a batch has."""

    def __init__(self, learner: "Learner", kept: Images, num_seen: int, weight: float) -> None:
        self._learner, self._num_seen, self._weight = learner, num_seen, weight
        self._rows, self._labels = (tf.constant(one) for one in kept)
        self.metrics = ()

    def loss(self, images, outputs, loss):
        """Returns the weighted loss on a random batch of the kept images."""
        chosen = tf.random.uniform([BATCH_SIZE], 0, len(self._labels), tf.int32)
        logits = self._learner.model(tf.gather(self._rows, chosen), training=True)
        labels = tf.gather(self._labels, chosen)
        each = cross_entropy(self._learner.scenario, labels, logits, self._num_seen)
        return self._weight * tf.reduce_mean(each)


class Distilled(StepHook):
    """Adds the distillation of the old outputs on the new images.

    Outputs of each task are distilled by themselves; in the class-incremental scenario those of all
    classes so far are, where the new ones have the target 0.
    """

    needs_images = True

    def __init__(self, learner: "Learner", num_seen: int, weight: float) -> None:
        self._scenario, self._num_seen, self._weight = learner.scenario, num_seen, weight
        self._teacher = keras.models.clone_model(learner.model)
        self._teacher.set_weights(learner.model.get_weights())
        self.metrics = ()

    def loss(self, images, outputs, loss):
        """Returns weight * T² * cross-entropy of the softened outputs."""
        old = self._teacher(images, training=False) / TEMPERATURE
        new = outputs / TEMPERATURE
        num_old = self._num_seen - PER_TASK
        if self._scenario == TASK:
            old, new = (tf.reshape(one[:, :num_old], (-1, PER_TASK)) for one in (old, new))
        targets = tf.nn.softmax(old)
        if self._scenario == CLASS:
            new = new[:, : self._num_seen]
            targets = tf.pad(tf.nn.softmax(old[:, :num_old]), ((0, 0), (0, PER_TASK)))
        each = tf.nn.softmax_cross_entropy_with_logits(targets, new)
        return self._weight * TEMPERATURE**2 * tf.reduce_mean(each)


class Learner:
    """Two hidden layers that learn one task after the other."""

    def __init__(self, job: Job, num_features: int) -> None:
        keras.utils.set_random_seed(job.seed)
        self.scenario, self._job = job.scenario, job
        inputs = keras.Input((num_features,))
        x = inputs
        for name in ("first", "second"):
            x = dense(HIDDEN, x, name=name, activation="relu")
        self.hidden = keras.Model(inputs, x)
        num_outputs = PER_TASK if job.scenario == DOMAIN else NUM_TASKS * PER_TASK
        self.model = keras.Model(inputs, dense(num_outputs, x, name="logits"))
        self._optimizer = keras.optimizers.Adam(RATE)
        self._optimizer.build(self.model.trainable_variables)
        self._anchors: list = []
        self._kept: Images | None = None

    def learn(self, task: int, images: np.ndarray, labels: np.ndarray) -> None:
        """Learns one task; labels number all classes."""
        method, num_seen = self._job.method, PER_TASK * (task + 1)
        share, hooks = 1 / (task + 1), []
        if method == "er" and task:
            hooks.append(Replayed(self, self._kept, num_seen, 1 - share))
        elif method == "lwf" and task:
            hooks.append(Distilled(self, num_seen, 1 - share))
        path = tlkit.SynapticPath(self.model) if method == "si" else None
        weight = share if hooks else 1.0
        self.fit(images, labels, num_seen, [*hooks, path] if path else hooks, weight=weight)
        if method in ("ewc", "si"):
            self._anchor(task, images, path)
        if method == "er":
            self._keep(images, labels)

    def fit(self, images, labels, num_seen, hooks=(), *, weight=1.0, num_steps=STEPS) -> None:
        """Trains on some images."""
        model = hooked(self.model, hooks)
        model.compile(
            self._optimizer,
            AmongPossible(self.scenario, num_seen, weight),
            jit_compile=False,
            steps_per_execution=STEPS_AT_ONCE,
        )
        batches = tf.data.Dataset.from_tensor_slices((images, labels)).cache()
        batches = batches.shuffle(len(images), seed=self._job.seed).repeat().batch(BATCH_SIZE)
        model.fit(batches.prefetch(4), epochs=1, steps_per_epoch=num_steps, verbose=0)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Returns all outputs."""
        return self.model.predict(images, batch_size=1000, verbose=0)

    def _anchor(self, task: int, images: np.ndarray, path) -> None:
        if path is not None:
            found = tlkit.estimate_importance(self.model, path, method="synaptic")
        else:
            logits = self.model.output
            if self.scenario == TASK:
                logits = logits[:, PER_TASK * task : PER_TASK * (task + 1)]
            elif self.scenario == CLASS:
                logits = logits[:, : PER_TASK * (task + 1)]
            among = keras.Model(self.model.input, logits)
            own = among.predict(images, batch_size=1000, verbose=0).argmax(axis=1)
            answers = tf.data.Dataset.from_tensor_slices((images, own)).batch(BATCH_SIZE)
            found = tlkit.estimate_importance(
                among, answers, method="empirical_fisher", num_samples=NUM_FISHER
            )
        self._anchors.append(
            tlkit.anchor_weights(self.model, self._job.strength, found, groups="all")
        )

    def _keep(self, images: np.ndarray, labels: np.ndarray) -> None:
        rows = np.concatenate(
            [np.flatnonzero(labels == label)[:PER_CLASS] for label in np.unique(labels)]
        )
        kept = images[rows], labels[rows]
        if self._kept is not None:
            kept = tuple(np.concatenate(pair) for pair in zip(self._kept, kept, strict=True))
        self._kept = kept


def accuracy(scenario: str, logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the accuracy in % among the possible classes of each image."""
    if scenario == TASK:
        logits = logits.reshape(-1, NUM_TASKS, PER_TASK)[np.arange(len(labels)), labels // PER_TASK]
    wanted = labels if scenario == CLASS else labels % PER_TASK
    return 100 * float(np.mean(logits.argmax(axis=1) == wanted))


def learn_icarl(job: Job, tasks: list[Images], test: Images) -> float:
    """Returns the accuracy of iCaRL: Rebuffi et al. (2017), https://arxiv.org/abs/1611.07725."""
    learner = Learner(job, tasks[0][0].shape[1])
    optimizer = keras.optimizers.Adam(RATE)
    exemplars: dict[int, np.ndarray] = {}
    for task, (images, labels) in enumerate(tasks):
        num_old, num_seen = PER_TASK * task, PER_TASK * (task + 1)
        rows = np.concatenate([images, *exemplars.values()])
        numbers = np.concatenate(
            [labels, *(np.full(len(own), label) for label, own in exemplars.items())]
        )
        targets = np.eye(NUM_TASKS * PER_TASK, dtype="float32")[numbers][:, :num_seen]
        if num_old:
            targets[:, :num_old] = tf.sigmoid(learner.logits(rows)[:, :num_old])
        among = keras.Model(learner.model.input, learner.model.output[:, :num_seen])
        among.compile(
            optimizer if not task else keras.optimizers.Adam(RATE),
            keras.losses.BinaryCrossentropy(from_logits=True),
            jit_compile=False,
            steps_per_execution=STEPS_AT_ONCE,
        )
        batches = tf.data.Dataset.from_tensor_slices((rows, targets)).cache()
        batches = batches.shuffle(len(rows), seed=job.seed).repeat().batch(BATCH_SIZE)
        among.fit(batches.prefetch(4), epochs=1, steps_per_epoch=STEPS, verbose=0)
        for label in np.unique(labels):
            own = images[labels == label]
            chosen = choose_exemplars(hidden_units(learner, own), PER_CLASS)
            exemplars[int(label)] = own[chosen]
    means = np.stack(
        [hidden_units(learner, exemplars[label]).mean(axis=0) for label in sorted(exemplars)]
    )
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return accuracy(CLASS, hidden_units(learner, test[0]) @ means.T, test[1])


def hidden_units(learner: Learner, images: np.ndarray) -> np.ndarray:
    """Returns the last hidden layer, each row of length 1."""
    found = learner.hidden.predict(images, batch_size=1000, verbose=0)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)


def learn_exactly(job: Job, tasks: list[Images], test: Images) -> float:
    """Returns the accuracy of the head in closed form, whose classes come task by task."""
    num = PER_TASK if job.scenario == DOMAIN else NUM_TASKS * PER_TASK
    names = [str(number) for number in range(num)]
    statistics = empty_statistics(tasks[0][0], names, "", num_landmarks=WIDTH, seed=job.seed)
    for task, (images, labels) in enumerate(tasks):
        digests = [f"{task:04x}{row:08x}" for row in range(len(labels))]
        statistics = statistics.added(DescribedImages(images, labels % num, digests))
    head = statistics.solve(DescribedImages(images[:0], labels[:0], ()))
    logits = head.kernel_map.values(test[0]) @ head.kernel + head.bias
    return accuracy(job.scenario, logits, test[1])


def read_tasks(path: Path, seed: int) -> tuple[list[Images], Images]:
    """Returns the features and labels of each task, and all test images, in a random order."""
    with np.load(path) as arrays:
        order = np.random.default_rng(seed).permutation(NUM_TASKS * PER_TASK)
        number_of = np.argsort(order)
        train = arrays["train"], number_of[arrays["train_labels"]].astype(np.int64)
        test = arrays["test"], number_of[arrays["test_labels"]].astype(np.int64)
    tasks = [tuple(one[train[1] // PER_TASK == task] for one in train) for task in range(NUM_TASKS)]
    mean, scale = tasks[0][0].mean(axis=0), tasks[0][0].std(axis=0) + 1e-6
    tasks = [((images - mean) / scale, labels) for images, labels in tasks]
    return tasks, ((test[0] - mean) / scale, test[1])


def run(job: Job, arguments: argparse.Namespace) -> dict[str, object]:
    """Runs a job in this process; returns its accuracy on all tasks after the last one."""
    tasks, test = read_tasks(arguments.features, job.seed)
    started = time.perf_counter()
    if job.method == "icarl":
        found = learn_icarl(job, tasks, test)
    elif job.method == "exact":
        found = learn_exactly(job, tasks, test)
    else:
        learner = Learner(job, tasks[0][0].shape[1])
        if job.method == "joint":
            everything = (np.concatenate(one) for one in zip(*tasks, strict=True))
            learner.fit(*everything, NUM_TASKS * PER_TASK, num_steps=NUM_TASKS * STEPS)
        else:
            for task, (images, labels) in enumerate(tasks):
                learner.learn(task, images, labels)
        found = accuracy(job.scenario, learner.logits(test[0]), test[1])
    return {**asdict(job), "accuracy": found, "seconds": time.perf_counter() - started}


def keep_features(archive: str, path: Path) -> None:
    """Computes the pooled features of `resnet20` once."""
    model = tlkit.build_classifier("resnet20", ["a", "b"])
    below = keras.Model(model.inputs, model.get_layer("logits").input)
    arrays = read_cifar(archive)
    kept = {part: below.predict(arrays[part][0].astype("float32"), verbose=0) for part in arrays}
    np.savez(path, **kept, **{f"{part}_labels": arrays[part][1] for part in arrays})


def best_strengths(rows: list[dict]) -> dict[tuple[str, str], float]:
    """Returns the best strength of the grid for each scenario and method."""
    found: dict[tuple[str, str], dict] = {}
    for row in rows:
        key = row["scenario"], row["method"]
        is_tried = row["seed"] == GRID_SEED and row["method"] in GRID
        if is_tried and row["accuracy"] > found.get(key, {"accuracy": 0})["accuracy"]:
            found[key] = row
    return {key: row["strength"] for key, row in found.items()}


def print_tables(rows: list[dict]) -> None:
    """Prints one table with the published accuracies beside ours."""
    strengths = best_strengths(rows)
    rows = [
        row
        for row in rows
        if row["seed"] != GRID_SEED
        and row["strength"] == strengths.get((row["scenario"], row["method"]), 0.0)
    ]
    print(f"\n| | {' | '.join(f'{name} | published' for name in SCENARIOS)} |")
    print(f"|{' --- |' * 7}")
    for method in METHODS:
        cells = []
        for number, scenario in enumerate(SCENARIOS):
            own = [
                row["accuracy"]
                for row in rows
                if (row["scenario"], row["method"]) == (scenario, method)
            ]
            published = PUBLISHED.get(method, (None,) * 3)[number]
            cells += [f"{with_error(own)} %" if own else "-"]
            cells += ["-" if published is None else f"{published} %"]
        print(f"| {method} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cifar100", required=True, help="archive of CIFAR-100")
    parser.add_argument("--features", required=True, type=Path, help="file that keeps features")
    parser.add_argument("--out", required=True, type=Path, help="file of results, added to")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=[*METHODS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        print(json.dumps(run(Job(**json.loads(arguments.job)), arguments)))
        return
    if not arguments.features.exists():
        keep_features(arguments.cifar100, arguments.features)
    tried = [
        Job(scenario, method, GRID_SEED, strength)
        for method, strengths in GRID.items()
        if method in arguments.methods
        for scenario in SCENARIOS
        for strength in strengths
    ]
    strengths = best_strengths(run_jobs(tried, Job, arguments.out))
    print("strengths:", strengths)
    jobs = [
        Job(scenario, method, seed, strengths.get((scenario, method), 0.0))
        for seed in range(arguments.seeds)
        for method in arguments.methods
        for scenario in (SCENARIOS if method != "icarl" else [CLASS])
    ]
    print_tables(run_jobs(jobs, Job, arguments.out))


if __name__ == "__main__":
    main()
