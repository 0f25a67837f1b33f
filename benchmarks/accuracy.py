"""Compares the accuracy of tlkit's recipes with plain Keras, on thousands of images.

    python benchmarks/accuracy.py --flowers PHOTOS --cifar CIFAR100_TAR --weights FILE --out RESULTS

Every run is a separate process with an empty cache; its figures are one line of RESULTS, and a run
that has a line is not repeated, so that the command can be stopped and started again. At the end a
table for each set of images is printed: means over the seeds with standard errors, differences
paired by seed against plain Keras, seconds, and the peak resident memory.

The sets:

- `flowers`: a tenth of the images is for validation, another tenth for test, and the others for
  training, or `--per-class` of each class of them;
- `cifar`: the first twenty classes of CIFAR-100, enlarged to 96 pixels: `--per-class` images of
  each class, of which a tenth is for validation (tlkit only); tested on the test images and on 50
  images of each class that are left.

The recipes start from the same MobileNet-0.25 weights:

- `guide`: plain Keras as in its transfer-learning guide: ten epochs with a frozen base, ten epochs
  of all layers at 1e-5, random flips and rotations;
- `better`: what a careful user writes in plain Keras: the head is solved by scikit-learn, then all
  layers are trained for 60 epochs with AdamW at 5e-4 (warm-up and cosine), weight decay 0.1, label
  smoothing 0.1, dropout 0.2, and new crops (35 to 100 % of the area) and flips in each epoch, batch
  normalisation in inference mode; the last weights are kept;
- `linear`, `closed-form`, `head`: `train_head` with that form of the head, "auto" for the last;
- `fine_tune`: `fine_tune` with its defaults;
- `all images`: the same without validation images, on as many training images as plain Keras gets.

Each trained network is tested in several ways: as it is, with the mean over both flips, on larger
images (`candidate_sizes`), and both.

Neither the images of `test` nor their accuracy are used for any decision.
"""

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from peak import peak_bytes
from PIL import Image
from sklearn.linear_model import LogisticRegressionCV
from sklearn.preprocessing import StandardScaler

import tlkit
from tlkit.advice.choosing import candidate_sizes
from tlkit.data.images import ImageSplit

WIDTH, BACKBONE = 0.25, "mobilenet_025"
SIZES = {"flowers": 224, "cifar": 96}
NUM_CIFAR_CLASSES, NUM_LEFT = 20, 50
BATCH_SIZE = 32


@dataclass(frozen=True)
class Job:
    """One run: a recipe on one draw of training images.

    Attributes:
        images: "flowers" or "cifar".
        per_class: Number of training images of each class; 0 for all.
        seed: Seed of the draw and of the training.
        recipe: Name of the recipe.
    """

    images: str
    per_class: int
    seed: int
    recipe: str


@dataclass(frozen=True)
class Task:
    """Images `(n, size, size, 3)`, uint8, and labels, for training, validation and test.

    Attributes:
        test: The test images and labels; the images are a function of their size.
    """

    train: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    test: tuple[Callable[[int], np.ndarray], np.ndarray]
    num_classes: int

    @property
    def size(self) -> int:
        """Height and width of the images in pixels."""
        return int(self.train[0].shape[1])


def drawn(labels: np.ndarray, number: int, generator: np.random.Generator) -> np.ndarray:
    """Returns the positions of `number` images of each class; of all images for 0."""
    positions = generator.permutation(len(labels))
    if not number:
        return positions
    return np.concatenate([positions[labels[positions] == c][:number] for c in np.unique(labels)])


def flowers(folder: str, job: Job) -> Task:
    """Returns a split of a folder of images."""
    data = tlkit.load_folder(folder, image_size=SIZES["flowers"], seed=job.seed)
    images, labels = read_split(data.train)
    train = drawn(labels, job.per_class, np.random.default_rng(job.seed))
    return Task(
        train=(images[train], labels[train]),
        validation=read_split(data.validation),
        test=(lambda size: read_split(data.at_size(size).test)[0], data.test.labels),
        num_classes=data.num_classes,
    )


def read_split(split: ImageSplit) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images of a split, uint8, and their labels."""
    batches = list(split.dataset(shuffle=False))
    images = np.concatenate([np.asarray(images) for images, _ in batches])
    return images.round().astype(np.uint8), split.labels


def read_cifar(archive: str, num_classes: int | None = None) -> dict[str, list[np.ndarray]]:
    """Returns the images and labels of "train" and "test", of the first classes or of all."""
    found: dict[str, list[tuple[np.ndarray, str]]] = defaultdict(list)
    with tarfile.open(archive) as tar:
        for member in tar:
            part, _, rest = member.name.partition("/")
            name, _, file = rest.partition("/")
            if member.isfile() and file:
                pixels = Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGB")
                found[part].append((np.asarray(pixels), name))
    names = sorted({name for _, name in found["train"]})[:num_classes]
    numbers = {name: number for number, name in enumerate(names)}
    arrays = {}
    for part, some in found.items():
        kept = [(pixels, numbers[name]) for pixels, name in some if name in numbers]
        arrays[part] = [*map(np.array, zip(*kept, strict=True))]
    return arrays


def cifar(archive: str, job: Job) -> Task:
    """Returns a draw of images of CIFAR-100's first classes, enlarged."""
    arrays = read_cifar(archive, NUM_CIFAR_CLASSES)
    generator = np.random.default_rng(job.seed)
    images, labels = arrays["train"]
    chosen = drawn(labels, job.per_class, generator)
    left = np.setdiff1d(np.arange(len(labels)), chosen)
    left = left[drawn(labels[left], NUM_LEFT, generator)] if len(left) else left
    held_out = chosen[drawn(labels[chosen], max(job.per_class // 10, 1), generator)]
    train = np.setdiff1d(chosen, held_out) if job.recipe in VALIDATED else chosen
    tested = np.concatenate([arrays["test"][0], images[left]])
    return Task(
        train=(enlarged(images[train]), labels[train]),
        validation=(enlarged(images[held_out]), labels[held_out]),
        test=(
            lambda size: enlarged(tested, size),
            np.concatenate([arrays["test"][1], labels[left]]),
        ),
        num_classes=NUM_CIFAR_CLASSES,
    )


def enlarged(images: np.ndarray, size: int = SIZES["cifar"]) -> np.ndarray:
    """Returns images resized bilinearly, to the size of the set `cifar` by default."""
    parts = [
        tf.image.resize(images[start : start + 100], (size, size)).numpy().round().astype(np.uint8)
        for start in range(0, len(images), 100)
    ]
    return np.concatenate(parts)


def plain_model(task: Task, weights: str) -> tuple[keras.Model, keras.Model]:
    """Returns the base, from pixels to features, and the classifier on it, in plain Keras."""
    shape = (task.size, task.size, 3)
    base = keras.applications.MobileNet(shape, WIDTH, include_top=False, weights=None)
    base.load_weights(weights)
    inputs = keras.Input((task.size, task.size, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    features = keras.layers.GlobalAveragePooling2D()(base(x, training=False))
    dropped = keras.layers.Dropout(0.2)(features)
    outputs = keras.layers.Dense(task.num_classes, name="logits")(dropped)
    return keras.Model(inputs, features), keras.Model(inputs, outputs)


def batches(task: Task, change: Callable) -> tf.data.Dataset:
    """Returns the training images in a new order in each epoch, changed."""
    return (
        tf.data.Dataset.from_tensor_slices(task.train)
        .shuffle(len(task.train[1]))
        .batch(BATCH_SIZE)
        .map(change, num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(2)
    )


def guide(task: Task, weights: str, seed: int) -> keras.Model:
    """Trains as https://keras.io/guides/transfer_learning/ does."""
    base, model = plain_model(task, weights)
    layers = [keras.layers.RandomFlip("horizontal"), keras.layers.RandomRotation(0.1)]

    def change(images, labels):
        for layer in layers:
            images = layer(images, training=True)
        return images, labels

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for trainable, rate in ((False, 1e-3), (True, 1e-5)):
        base.trainable = trainable
        model.compile(keras.optimizers.Adam(rate), loss)
        model.fit(batches(task, change), epochs=10, verbose=0)
    return model


def better(task: Task, weights: str, seed: int, epochs: int = 60) -> keras.Model:
    """Trains all layers from a solved head, each epoch on new crops and flips."""
    base, model = plain_model(task, weights)
    images, labels = task.train
    scaler = StandardScaler()
    features = scaler.fit_transform(base.predict(images.astype("float32"), verbose=0))
    folds = min(5, np.bincount(labels).min())
    solver = LogisticRegressionCV(Cs=np.logspace(-4, 0, 9), cv=folds, scoring="neg_log_loss")
    solver.fit(features, labels)
    kernel = solver.coef_ / scaler.scale_
    bias = solver.intercept_ - kernel @ scaler.mean_
    model.get_layer("logits").set_weights([kernel.T, bias])

    def change(images, labels):
        number = tf.shape(images)[0]
        area = tf.random.uniform([number], 0.35, 1.0)
        ratio = tf.exp(tf.random.uniform([number], -np.log(4 / 3), np.log(4 / 3)) / 2)
        height = tf.minimum(tf.sqrt(area) / ratio, 1.0)
        width = tf.minimum(tf.sqrt(area) * ratio, 1.0)
        top = tf.random.uniform([number]) * (1 - height)
        left = tf.random.uniform([number]) * (1 - width)
        flips = tf.random.uniform([number]) < 0.5
        edges = tf.where(flips, left + width, left), tf.where(flips, left, left + width)
        boxes = tf.stack([top, edges[0], top + height, edges[1]], axis=1)
        images = tf.cast(images, tf.float32)
        images = tf.image.crop_and_resize(images, boxes, tf.range(number), (task.size,) * 2)
        return images, tf.one_hot(labels, task.num_classes)

    steps = epochs * -(-len(labels) // BATCH_SIZE)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - steps // 10, warmup_target=5e-4, warmup_steps=steps // 10
    )
    optimizer = keras.optimizers.AdamW(rate, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    model.compile(optimizer, loss)
    model.fit(batches(task, change), epochs=epochs, verbose=0)
    return model


def with_tlkit(
    task: Task, weights: str, seed: int, *, form: str = "", is_validated: bool = True
) -> keras.Model:
    """Trains with tlkit: the head in one form, or everything by `fine_tune`."""
    names = [str(number) for number in range(task.num_classes)]
    given = {"validation": task.validation} if is_validated else {"splits": (1, 0, 0)}
    data = tlkit.load_arrays(*task.train, names, seed=seed, **given)
    with tempfile.TemporaryDirectory() as cache:
        model = tlkit.build_classifier(
            BACKBONE, names, image_size=task.size, weights=weights, seed=seed
        )
        if form:
            tlkit.train_head(model, data, head=form, seed=seed, cache=cache)
        else:
            tlkit.fine_tune(model, data, seed=seed, cache=cache)
    return model


PLAIN = {"guide": guide, "better": better}
RECIPES: dict[str, Callable] = {
    **PLAIN,
    "linear": lambda *given: with_tlkit(*given, form="linear"),
    "closed-form": lambda *given: with_tlkit(*given, form="closed-form"),
    "head": lambda *given: with_tlkit(*given, form="auto"),
    "fine_tune": with_tlkit,
    "all images": lambda *given: with_tlkit(*given, is_validated=False),
}
VALIDATED = ("linear", "closed-form", "head", "fine_tune")
"""Recipes that set images aside for validation."""


def run(job: Job, arguments: argparse.Namespace) -> dict[str, object]:
    """Runs a job in this process; returns its figures."""
    keras.utils.set_random_seed(job.seed)
    load = flowers if job.images == "flowers" else cifar
    task = load(getattr(arguments, job.images), job)
    started = time.perf_counter()
    model = RECIPES[job.recipe](task, arguments.weights, job.seed)
    seconds, peak = time.perf_counter() - started, peak_bytes()
    return {
        **asdict(job),
        "accuracy": accuracies(model, task),
        "num_test": len(task.test[1]),
        "seconds": seconds,
        "mebibytes": peak / 2**20,
    }


def accuracies(model: keras.Model, task: Task) -> dict[str, float]:
    """Returns the accuracy on test images in each way of using the model."""
    images, labels = task.test
    found = {}
    for size in candidate_sizes(task.size):
        name = "" if size == task.size else f"{size} pixels"
        pixels = images(size).astype("float32")
        resized = tlkit.at_image_size(model, size) if name else model
        plain, mirrored = (
            resized.predict(some, verbose=0) for some in (pixels, pixels[:, :, ::-1])
        )
        for flips, outputs in (("", plain), ("flips", plain + mirrored)):
            way = ", ".join(filter(None, (name, flips)))
            found[way] = float(np.mean(outputs.argmax(axis=1) == labels))
    return found


def print_tables(rows: list[dict]) -> None:
    """Prints one table for each set of images and number of training images."""
    for images, per_class in sorted({(row["images"], row["per_class"]) for row in rows}):
        own = [row for row in rows if (row["images"], row["per_class"]) == (images, per_class)]
        ways = [*own[0]["accuracy"]]
        by_recipe = {
            recipe: {row["seed"]: row for row in own if row["recipe"] == recipe}
            for recipe in RECIPES
        }
        print(f"\n{images}, {per_class or 'all'} training images of each class\n")
        columns = ["", "accuracy", "against `better`, paired", *ways[1:]]
        columns += ["seeds, test images", "seconds", "memory"]
        print(f"| {' | '.join(columns)} |")
        print(f"|{' --- |' * len(columns)}")
        for recipe, found in by_recipe.items():
            if not found:
                continue
            one, *others = (
                f"{with_error([100 * row['accuracy'][way] for row in found.values()])} %"
                for way in ways
            )
            shared = sorted(found.keys() & by_recipe["better"].keys())
            gains = [
                100 * (found[seed]["accuracy"][""] - by_recipe["better"][seed]["accuracy"][""])
                for seed in shared
            ]
            tested = sum(row["num_test"] for row in found.values())
            seconds = np.mean([row["seconds"] for row in found.values()])
            memory = np.max([row["mebibytes"] for row in found.values()])
            print(
                f"| `{recipe}` | {one} | {with_error(gains, '+')} | {' | '.join(others)} | "
                f"{len(found)}, {tested:,} | {seconds:,.0f} | {memory:,.0f} MiB |"
            )


def with_error(values: "np.ndarray | list[float]", sign: str = "") -> str:
    """Returns a mean with its standard error."""
    if not len(values):
        return ""
    error = f" ± {np.std(values, ddof=1) / np.sqrt(len(values)):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):{sign}.1f}{error}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flowers", help="folder of images")
    parser.add_argument("--cifar", help="archive of CIFAR-100: train/CLASS/*.png, test/CLASS/*.png")
    parser.add_argument("--weights", required=True, help="weights of MobileNet-0.25")
    parser.add_argument("--out", required=True, type=Path, help="file of results, added to")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--per-class", type=int, nargs="*", default=[0, 10, 50, 200])
    parser.add_argument("--recipes", nargs="*", choices=RECIPES, default=[*RECIPES])
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        print(json.dumps(run(Job(**json.loads(arguments.job)), arguments)))
        return
    rows = []
    if arguments.out.exists():
        rows = [json.loads(line) for line in arguments.out.read_text().splitlines()]
    done = {tuple(row[name] for name in asdict(Job("", 0, 0, ""))) for row in rows}
    sets = [name for name in SIZES if getattr(arguments, name)]
    for seed in range(arguments.seeds):
        for images in sets:
            for per_class in arguments.per_class:
                if images == "cifar" and not per_class:
                    continue
                for recipe in arguments.recipes:
                    job = Job(images, per_class, seed, recipe)
                    if tuple(asdict(job).values()) in done:
                        continue
                    command = [sys.executable, *sys.argv, "--job", json.dumps(asdict(job))]
                    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                    line = output.stdout.splitlines()[-1]
                    with arguments.out.open("a") as file:
                        file.write(line + "\n")
                    rows.append(json.loads(line))
                    print(line, flush=True)
    print_tables(rows)


if __name__ == "__main__":
    main()
