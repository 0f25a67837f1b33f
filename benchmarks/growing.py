"""Growth compared with fine-tuning, an anchor and joint training: accuracy and cost.

    python benchmarks/growing.py tasks CIFAR10_FOLDER_OR_MNIST_NPZ [--epochs 10] [--limit N]
    python benchmarks/growing.py classes CIFAR10_FOLDER [--epochs 20] [--limit N] [--work DIR]

`tasks`: five consecutive tasks of two classes each, with a small network of three convolutions that
is first trained on the first two classes.

    expand      tlkit.expand with isolate=True; after each task, old logits must be bit-identical
    fine-tune   the whole network is trained on each task, with separate outputs for it
    anchor      the same, with an anchor at the weights after the previous task
    joint       joint training on all tasks; batches contain images of all of them

Accuracy is task-incremental: among the two classes of each image's task, on test images.

`classes`: resnet20 is trained on five classes of CIFAR-10 from random weights, then
`tlkit add-classes` adds the other five, with 0, 20 and 100 exemplars per class. It is compared with
plain fine-tuning on the new five, and with joint training on all ten. Accuracy is among all ten
classes.

CIFAR10_FOLDER has train/CLASS and test/CLASS with images of 32x32 pixels; MNIST_NPZ has `x_train`,
`y_train`, `x_test` and `y_test`. `--limit` sets the number of images of each class and split.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

import tlkit
from tlkit.continual.adding_classes import old_and_new_accuracy
from tlkit.continual.expansion import expand
from tlkit.continual.expansion_steps import task_model
from tlkit.models.multiply_adds import count_multiply_adds
from tlkit.models.surgery import add_classes
from tlkit.runs.add_classes import add_classes_run

NUM_TASKS = 5
BATCH_SIZE = 64
RATE = 1e-3
ANCHOR = 0.01
EXEMPLARS = (0, 20, 100)
METHODS = ("expand", "fine-tune", "anchor", "joint")
Split = tuple[np.ndarray, np.ndarray]


@dataclass
class Outcome:
    """The results of one method on all tasks.

    Attributes:
        matrix: Accuracy on each task after each task.
        parameters: Number of values in all weights after each task.
        multiply_adds: Of a forward pass after each task.
        seconds: Time of each task's training.
        is_same: Whether the old logits were bit-identical after each task but the first.
    """

    matrix: tlkit.ForgettingMatrix
    parameters: list[int] = field(default_factory=list)
    multiply_adds: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    is_same: list[bool] = field(default_factory=list)

    def note(self, model: keras.Model, seconds: float) -> None:
        """Records the network's size and the seconds after a task."""
        self.parameters.append(model.count_params())
        self.multiply_adds.append(count_multiply_adds(model))
        self.seconds.append(seconds)


def load(path: Path, limit: int | None) -> tuple[Split, Split, list[str]]:
    """Returns training images, test images and the names of the ten classes."""
    if path.suffix == ".npz":
        arrays = np.load(path)
        splits = []
        for part in ("train", "test"):
            images = np.repeat(arrays[f"x_{part}"][..., np.newaxis], 3, axis=-1)
            splits.append(limited(images, arrays[f"y_{part}"].astype("int64"), limit))
        return splits[0], splits[1], [str(digit) for digit in range(10)]
    names = sorted(folder.name for folder in (path / "train").iterdir())
    splits = []
    for part in ("train", "test"):
        images, labels = [], []
        for label, name in enumerate(names):
            files = sorted((path / part / name).iterdir())[:limit]
            images += [np.asarray(Image.open(file).convert("RGB")) for file in files]
            labels += [label] * len(files)
        splits.append((np.stack(images), np.array(labels)))
    return splits[0], splits[1], names


def limited(images: np.ndarray, labels: np.ndarray, limit: int | None) -> Split:
    rows = np.concatenate([np.flatnonzero(labels == label)[:limit] for label in range(10)])
    return images[rows], labels[rows]


def network(size: int, num_classes: int) -> keras.Model:
    """Returns a network of three convolutions, each of which can be expanded."""
    x = keras.Input((size, size, 3))
    y = keras.layers.Rescaling(1 / 127.5, -1)(x)
    for number, filters in enumerate((16, 32, 64), start=1):
        y = keras.layers.Conv2D(filters, 3, padding="same", name=f"conv{number}")(y)
        y = keras.layers.ReLU()(y)
        if number < 3:
            y = keras.layers.MaxPooling2D()(y)
    y = keras.layers.GlobalAveragePooling2D(name="head_pool")(y)
    return keras.Model(x, keras.layers.Dense(num_classes, name="logits")(y))


def fit(model: keras.Model, images: np.ndarray, labels: np.ndarray, loss, epochs: int) -> None:
    model.compile(keras.optimizers.Adam(RATE), loss, jit_compile=False)
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(len(images))
    batches = batches.batch(BATCH_SIZE).map(lambda x, y: (tf.cast(x, tf.float32), y)).prefetch(4)
    model.fit(batches, epochs=epochs, verbose=0, shuffle=False)


def cross_entropy() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@keras.saving.register_keras_serializable("benchmarks")
class WithinTask(keras.losses.Loss):
    """Cross-entropy among the two classes of each image's task."""

    def call(self, y_true, y_pred):
        """Returns the loss of each image."""
        labels = keras.ops.cast(keras.ops.reshape(y_true, [-1]), "int32")
        by_task = keras.ops.reshape(y_pred, (-1, NUM_TASKS, 2))
        own = keras.ops.sum(
            by_task * keras.ops.one_hot(labels // 2, NUM_TASKS)[..., np.newaxis], axis=1
        )
        return keras.losses.sparse_categorical_crossentropy(labels % 2, own, from_logits=True)


def logits_of(model: keras.Model, images: np.ndarray) -> np.ndarray:
    batches = np.array_split(images.astype("float32"), max(1, len(images) // 256))
    return np.concatenate([model(batch, training=False).numpy() for batch in batches])


def accuracies(model: keras.Model, test: Split) -> list[float]:
    """Returns the accuracy on each task; 0.5 (chance) if the model has no outputs for it."""
    images, labels = test
    logits = logits_of(model, images)
    found = []
    for task in range(NUM_TASKS):
        rows, own = labels // 2 == task, slice(2 * task, 2 * task + 2)
        if 2 * task >= logits.shape[1]:
            found.append(0.5)
            continue
        found.append(float((logits[rows, own].argmax(axis=1) == labels[rows] % 2).mean()))
    return found


def run_tasks(method: str, train: Split, test: Split, names: list[str], epochs: int) -> Outcome:
    """Runs one method on the five tasks."""
    keras.utils.set_random_seed(0)
    images, labels = train
    pairs = [names[2 * task : 2 * task + 2] for task in range(NUM_TASKS)]
    outcome = Outcome(
        tlkit.ForgettingMatrix([", ".join(pair) for pair in pairs], scenario="task-incremental")
    )
    size = images.shape[1]
    if method == "joint":
        model = network(size, 2 * NUM_TASKS)
        started = time.perf_counter()
        fit(model, images, labels, WithinTask(), epochs)
        outcome.note(model, time.perf_counter() - started)
        for _ in range(NUM_TASKS + 1):
            outcome.matrix.record(accuracies(model, test))
        return outcome
    model = network(size, 2)
    outcome.matrix.record(accuracies(model, test))
    for task, pair in enumerate(pairs):
        rows = labels // 2 == task
        before = logits_of(model, test[0])
        started = time.perf_counter()
        own = images[rows], labels[rows] % 2
        if task == 0:
            fit(model, *own, cross_entropy(), epochs)
        else:
            model = learn(method, model, own, pair, epochs=epochs)
        outcome.note(model, time.perf_counter() - started)
        outcome.matrix.record(accuracies(model, test))
        if task:
            after = logits_of(model, test[0])[:, : before.shape[1]]
            outcome.is_same.append(bool(np.array_equal(after, before)))
    return outcome


def learn(
    method: str, model: keras.Model, train: Split, pair: list[str], *, epochs: int
) -> keras.Model:
    """Trains the network on one more task and returns it."""
    images, labels = train
    if method == "expand":
        data = tlkit.load_arrays(images, labels, pair, batch_size=BATCH_SIZE, splits=(0.9, 0.1, 0))
        grown, report = expand(model, data, epochs=epochs, learning_rate=RATE)
        print(f"\n{', '.join(pair)}\n{report}", flush=True)
        return grown
    model = add_classes(model, pair)
    own = task_model(model)
    for layer in model.layers:
        layer.trainable = True
    anchor = tlkit.anchor_weights(own, ANCHOR, groups="all") if method == "anchor" else None
    fit(own, images, labels, cross_entropy(), epochs)
    if anchor is not None:
        anchor.release()
    return model


def tasks(path: Path, epochs: int, limit: int | None) -> None:
    """Prints the table of the five tasks."""
    train, test, names = load(path, limit)
    outcomes = {method: run_tasks(method, train, test, names, epochs) for method in METHODS}
    print(
        "\n| | accuracy | forgetting | parameters after each task | multiply-adds at the end | "
        "old logits bit-identical | seconds |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for method, outcome in outcomes.items():
        same = "-" if not outcome.is_same else "yes" if all(outcome.is_same) else "no"
        matrix = outcome.matrix
        forgetting = "-" if method == "joint" else f"{100 * matrix.forgetting:.1f}"
        print(
            f"| {method} | {100 * matrix.average_accuracy:.1f} % | {forgetting} | "
            f"{' '.join(f'{n:,}' for n in outcome.parameters)} | {outcome.multiply_adds[-1]:,} | "
            f"{same} | {sum(outcome.seconds):.0f} |",
            flush=True,
        )
    print(outcomes["expand"].matrix)


def linked(path: Path, to: Path, names: Sequence[str], limit: int | None) -> Path:
    """Makes a folder with some classes of another one, as symbolic links."""
    for part in ("train", "test"):
        for name in names:
            folder = to / part / name
            folder.mkdir(parents=True)
            for file in sorted((path / part / name).iterdir())[:limit]:
                (folder / file.name).symlink_to(file.resolve())
    return to


def classes(path: Path, epochs: int, limit: int | None, work: Path) -> None:
    """Prints the table of five classes, then five more."""
    names = sorted(folder.name for folder in (path / "train").iterdir())
    old = linked(path, work / "old", names[:5], limit)
    new = linked(path, work / "new", names[5:], limit)
    everything = linked(path, work / "all", names, limit)
    given = {"backbone": "resnet20", "weights": None, "unfreeze": "all", "epochs": epochs}
    given |= {"learning_rate": 3e-3, "augment": "light", "batch_size": BATCH_SIZE}
    first = tlkit.train_run(old, out=work / "run", **given)
    data = tlkit.load_folder(everything, image_size=32, batch_size=BATCH_SIZE)
    print("| | old classes | new classes | all | parameters | seconds |")
    print("| --- | --- | --- | --- | --- | --- |")
    print(f"| before (among five) | {100 * first.metrics['test']['accuracy']:.1f} % | | | | |")

    def row(name: str, model: keras.Model, seconds: float) -> float:
        report = tlkit.evaluate(model, data.test, names)
        old_share, new_share = old_and_new_accuracy(report, 5)
        print(
            f"| {name} | {100 * old_share:.1f} % | {100 * new_share:.1f} % | "
            f"{100 * report.accuracy:.1f} % | {model.count_params():,} | {seconds:.0f} |",
            flush=True,
        )
        return report.accuracy

    reached = {}
    for exemplars in EXEMPLARS:
        out = work / f"run-{exemplars}"
        started = time.perf_counter()
        run = add_classes_run(first.path, new, out=out, exemplars=exemplars)
        seconds = time.perf_counter() - started
        reached[exemplars] = row(f"add-classes, {exemplars} exemplars", run.load_model(), seconds)
    started = time.perf_counter()
    plain = add_classes(first.load_model(), names[5:], names[:5])
    (images, labels), _, _ = load(everything, None)
    for layer in plain.layers:  # the flag of the model is already set, and setting it has no effect
        layer.trainable = True
    fit(plain, images[labels >= 5], labels[labels >= 5], cross_entropy(), epochs)
    row("plain fine-tuning on the new five", plain, time.perf_counter() - started)
    started = time.perf_counter()
    joint = tlkit.train_run(everything, out=work / "joint", **given)
    best = row("joint training of all ten", joint.load_model(), time.perf_counter() - started)
    for exemplars, accuracy in reached.items():
        print(f"{exemplars} exemplars: {100 * accuracy / best:.0f} % of joint training's accuracy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["tasks", "classes"])
    parser.add_argument("path", type=Path)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--limit", type=int, help="number of images of each class and split")
    parser.add_argument("--work", type=Path, help="folder for the runs, which must be empty")
    given = parser.parse_args()
    if given.what == "tasks":
        tasks(given.path, given.epochs or 10, given.limit)
        return
    if given.work is not None:
        classes(given.path, given.epochs or 20, given.limit, given.work)
        return
    with tempfile.TemporaryDirectory() as work:
        classes(given.path, given.epochs or 20, given.limit, Path(work))


if __name__ == "__main__":
    main()
