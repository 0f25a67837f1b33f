"""Compares the accuracy of tlkit's recipes with plain Keras, on thousands of images.

    python benchmarks/accuracy.py --flowers PHOTOS --hymenoptera PHOTOS --cifar CIFAR100_TAR \
        --weights FILE --out RESULTS

Every run is a separate process with an empty cache; its figures are one line of RESULTS, and a run
that has a line is not repeated, so that the command can be stopped and started again. At the end a
table for each set of images is printed: means over the seeds with standard errors, differences
paired by seed against plain Keras on the same test images, seconds, and the peak resident memory.

The sets:

- `flowers` and `hymenoptera`: five folds, one for each seed, are the test images; the others, or
  `--per-class` of each class of them, are the training images. Recipes with validation images get
  half of the fold for that, and are tested on the other half;
- `cifar`: the first twenty classes of CIFAR-100, enlarged to 96 pixels: `--per-class` images of
  each class, of which a tenth is for validation (tlkit only); tested on the test images and on 50
  images of each class that are left.

The recipes start from the same weights of `--backbone`:

- `guide`: plain Keras as in its transfer-learning guide: ten epochs with a frozen base, ten epochs
  of all layers at 1e-5, random flips and rotations;
- `keras_hub`: KerasHub's `ImageClassifier` on the same base: ten epochs with a frozen base and Adam
  at 1e-3, ten epochs of all layers with the default optimizer of the class; needs `keras-hub`;
- `better`: what a careful user writes in plain Keras: the head is solved by scikit-learn, then all
  layers are trained for 60 epochs with AdamW at 5e-4 (warm-up and cosine), weight decay 0.1, label
  smoothing 0.1, dropout 0.2, and new crops (35 to 100 % of the area) and flips in each epoch, batch
  normalisation in inference mode; the last weights are kept;
- `linear`, `closed-form`, `head`: `train_head` with that form of the head, "auto" for the last;
- `fine_tune`: `fine_tune` with its defaults;
- `enlarging`: the same with the crops of `better`, which make objects larger and never smaller;
- `all images`: `fine_tune` without validation images, on as many training images as plain Keras
  gets.

`--epochs` replaces the number of epochs of `better` and of the last three recipes.

Each trained network is tested in several ways: as it is, with the mean over both flips, on larger
images (`candidate_sizes`), and both. Processor seconds are those of all threads together; unlike
seconds, they depend little on what else the machine does.

Neither the images of `test` nor their accuracy are used for any decision.
"""

import argparse
import base64
import io
import json
import tarfile
import tempfile
import time
import zlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from jobs import run_jobs
from peak import peak_bytes
from PIL import Image
from sklearn.linear_model import LogisticRegressionCV
from sklearn.preprocessing import StandardScaler

import tlkit
from tlkit.advice.choosing import candidate_sizes
from tlkit.data.folds import folds_of_images
from tlkit.data.images import ImageSplit
from tlkit.data.random_views import RandomCropAndFlip

BACKBONES = {
    "mobilenet_025": (keras.applications.MobileNet, 0.25),
    "mobilenet": (keras.applications.MobileNet, 1.0),
    "mobilenet_v2": (keras.applications.MobileNetV2, 1.0),
}
"""Keras's function and its width; all take pixels scaled to -1...1."""
BACKBONE = "mobilenet_025"
SIZES = {"flowers": 224, "hymenoptera": 224, "cifar": 96}
NUM_FOLDS = 5
NUM_CIFAR_CLASSES, NUM_LEFT = 20, 50
BATCH_SIZE = 32


@dataclass(frozen=True)
class Job:
    """One run: a recipe on one draw of training images.

    Attributes:
        images: A set of `SIZES`.
        per_class: Number of training images of each class; 0 for all.
        seed: Seed of the draw and of the training, and number of the fold.
        recipe: Name of the recipe.
        backbone: One of `BACKBONES`.
        epochs: Number of epochs; 0 for the recipe's own.
    """

    images: str
    per_class: int
    seed: int
    recipe: str
    backbone: str
    epochs: int

    @property
    def is_validated(self) -> bool:
        """Whether the recipe sets images aside for validation."""
        return self.recipe in VALIDATED


@dataclass(frozen=True)
class Task:
    """Images `(n, size, size, 3)`, uint8, and labels, for training, validation and test.

    Attributes:
        validation: `None` for recipes without validation images.
        test: The test images and labels; the images are a function of their size.
        is_tested: Which of the test images are not validation images, bool.
        num_classes: The number of classes.
        weights: File of the backbone's weights.
    """

    train: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray] | None
    test: tuple[Callable[[int], np.ndarray], np.ndarray]
    is_tested: np.ndarray
    num_classes: int
    weights: str

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


def photographs(folder: str, job: Job, weights: str) -> Task:
    """Returns a fold of a folder of images."""
    loaded = tlkit.load_folder(folder, image_size=SIZES[job.images], seed=job.seed // NUM_FOLDS)
    data, _ = [*folds_of_images(loaded.merged(), NUM_FOLDS)][job.seed % NUM_FOLDS]
    images, labels = read_split(data.train)
    train = drawn(labels, job.per_class, np.random.default_rng(job.seed))
    tested, is_tested = data.test.labels, np.ones(data.test.num_images, bool)
    validation = None
    if job.is_validated:
        is_tested[np.argsort(tested, kind="stable")[::2]] = False
        validation = tuple(some[~is_tested] for some in read_split(data.test))
    return Task(
        train=(images[train], labels[train]),
        validation=validation,
        test=(lambda size: read_split(data.at_size(size).test)[0], tested),
        is_tested=is_tested,
        num_classes=data.num_classes,
        weights=weights,
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


def cifar(archive: str, job: Job, weights: str) -> Task:
    """Returns a draw of images of CIFAR-100's first classes, enlarged."""
    arrays = read_cifar(archive, NUM_CIFAR_CLASSES)
    generator = np.random.default_rng(job.seed)
    images, labels = arrays["train"]
    chosen = drawn(labels, job.per_class, generator)
    left = np.setdiff1d(np.arange(len(labels)), chosen)
    left = left[drawn(labels[left], NUM_LEFT, generator)] if len(left) else left
    tested = np.concatenate([arrays["test"][0], images[left]])
    tested_labels = np.concatenate([arrays["test"][1], labels[left]])
    held_out = chosen[drawn(labels[chosen], max(job.per_class // 10, 1), generator)]
    validation = (enlarged(images[held_out]), labels[held_out]) if job.is_validated else None
    train = np.setdiff1d(chosen, held_out) if job.is_validated else chosen
    return Task(
        train=(enlarged(images[train]), labels[train]),
        validation=validation,
        test=(lambda size: enlarged(tested, size), tested_labels),
        is_tested=np.ones(len(tested), bool),
        num_classes=NUM_CIFAR_CLASSES,
        weights=weights,
    )


def enlarged(images: np.ndarray, size: int = SIZES["cifar"]) -> np.ndarray:
    """Returns images resized bilinearly, to the size of the set `cifar` by default."""
    parts = [
        tf.image.resize(images[start : start + 100], (size, size)).numpy().round().astype(np.uint8)
        for start in range(0, len(images), 100)
    ]
    return np.concatenate(parts)


@dataclass(frozen=True)
class PlainModel:
    """A classifier in plain Keras, and its parts.

    Attributes:
        base: The pretrained network, from scaled images to feature maps.
        features: From pixels to the means of the feature maps.
        classifier: From pixels to logits.
    """

    base: keras.Model
    features: keras.Model
    classifier: keras.Model


def plain_model(task: Task, job: Job) -> PlainModel:
    """Returns a classifier with pretrained weights, in plain Keras."""
    shape = (task.size, task.size, 3)
    build, width = BACKBONES[job.backbone]
    base = build(shape, width, include_top=False, weights=None)
    base.load_weights(task.weights)
    inputs = keras.Input((task.size, task.size, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    features = keras.layers.GlobalAveragePooling2D()(base(x, training=False))
    dropped = keras.layers.Dropout(0.2)(features)
    outputs = keras.layers.Dense(task.num_classes, name="logits")(dropped)
    return PlainModel(base, keras.Model(inputs, features), keras.Model(inputs, outputs))


def batches(task: Task, change: Callable) -> tf.data.Dataset:
    """Returns the training images in a new order in each epoch, changed."""
    return (
        tf.data.Dataset.from_tensor_slices(task.train)
        .shuffle(len(task.train[1]))
        .batch(BATCH_SIZE)
        .map(change, num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(2)
    )


def guide(task: Task, job: Job) -> keras.Model:
    """Trains as https://keras.io/guides/transfer_learning/ does."""
    plain = plain_model(task, job)
    base, model = plain.base, plain.classifier
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


def keras_hub(task: Task, job: Job) -> keras.Model:
    """Trains KerasHub's `ImageClassifier`, with its own default optimizer in the second phase."""
    from keras_hub.layers import ImageConverter
    from keras_hub.models import ImageClassifier, ImageClassifierPreprocessor

    base = plain_model(task, job).base
    size = (task.size, task.size)
    converter = ImageConverter(image_size=size, scale=1 / 127.5, offset=-1)
    classifier = ImageClassifier(
        backbone=base,
        num_classes=task.num_classes,
        preprocessor=ImageClassifierPreprocessor(converter),
        dropout=0.2,
    )
    data = batches(task, lambda images, labels: (images, labels))
    base.trainable = False
    classifier.compile(optimizer=keras.optimizers.Adam(1e-3))
    classifier.fit(data, epochs=10, verbose=0)
    base.trainable = True
    classifier.compile()
    classifier.fit(data, epochs=10, verbose=0)
    inputs = keras.Input((*size, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    outputs = classifier.output_dense(classifier.pooler(base(x, training=False)))
    return keras.Model(inputs, outputs)


def better(task: Task, job: Job) -> keras.Model:
    """Trains all layers from a solved head, each epoch on new crops and flips.

    Batch normalisation is frozen layer by layer: `fit` calls all layers with `training=True`, and
    Keras 3 (3.15) passes that on also to a model that was called with `training=False`.
    """
    plain = plain_model(task, job)
    model = plain.classifier
    frozen = [one for one in plain.base.layers if isinstance(one, keras.layers.BatchNormalization)]
    for layer in frozen:
        layer.trainable = False
    before = [value.numpy() for layer in frozen for value in layer.variables]
    epochs = job.epochs or 60
    images, labels = task.train
    scaler = StandardScaler()
    features = scaler.fit_transform(plain.features.predict(images.astype("float32"), verbose=0))
    folds = min(5, np.bincount(labels).min())
    solver = LogisticRegressionCV(Cs=np.logspace(-4, 0, 9), cv=folds, scoring="neg_log_loss")
    solver.fit(features, labels)
    kernel = solver.coef_ / scaler.scale_
    bias = solver.intercept_ - kernel @ scaler.mean_
    if len(bias) == 1:  # of two classes scikit-learn gives the difference
        kernel, bias = (np.concatenate([-some, some]) / 2 for some in (kernel, bias))
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
    after = [value.numpy() for layer in frozen for value in layer.variables]
    if not before or not all(map(np.array_equal, before, after)):
        raise RuntimeError("batch normalisation was not frozen")
    return model


def with_tlkit(task: Task, job: Job) -> keras.Model:
    """Trains with tlkit: the head in one form, or everything by `fine_tune`."""
    names = [str(number) for number in range(task.num_classes)]
    given = {"validation": task.validation} if job.is_validated else {"splits": (1, 0, 0)}
    data = tlkit.load_arrays(*task.train, names, seed=job.seed, **given)
    with tempfile.TemporaryDirectory() as cache:
        model = tlkit.build_classifier(
            job.backbone, names, image_size=task.size, weights=task.weights, seed=job.seed
        )
        if form := FORMS.get(job.recipe):
            tlkit.train_head(model, data, head=form, seed=job.seed, cache=cache)
        else:
            views = {"augment": [ENLARGING]} if job.recipe == "enlarging" else {}
            tlkit.fine_tune(
                model, data, epochs=job.epochs or None, seed=job.seed, cache=cache, **views
            )
    return model


ENLARGING = RandomCropAndFlip(area=(0.35, 1.0), stretch=1.33)
FORMS = {"linear": "linear", "closed-form": "closed-form", "head": "auto"}
RECIPES: dict[str, Callable[[Task, Job], keras.Model]] = {
    "guide": guide,
    "keras_hub": keras_hub,
    "better": better,
    **dict.fromkeys((*FORMS, "fine_tune", "enlarging", "all images"), with_tlkit),
}
VALIDATED = (*FORMS, "fine_tune", "enlarging")
"""Recipes that set images aside for validation."""


def run(job: Job, arguments: argparse.Namespace) -> dict[str, object]:
    """Runs a job in this process; returns its figures."""
    keras.utils.set_random_seed(job.seed)
    load = cifar if job.images == "cifar" else photographs
    task = load(getattr(arguments, job.images), job, arguments.weights)
    started, processor_started = time.perf_counter(), time.process_time()
    model = RECIPES[job.recipe](task, job)
    seconds, processor_seconds = (
        time.perf_counter() - started,
        time.process_time() - processor_started,
    )
    peak = peak_bytes()
    return {
        **asdict(job),
        "correct": {way: packed(marks) for way, marks in correct(model, task).items()},
        "seconds": seconds,
        "processor_seconds": processor_seconds,
        "mebibytes": peak / 2**20,
    }


def correct(model: keras.Model, task: Task) -> dict[str, str]:
    """Returns for each way of using the model one character for each test image.

    "1" for a correct prediction, "0" for a wrong one, "." for an image that is not tested.
    """
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
            is_correct = outputs.argmax(axis=1) == labels
            marks = np.where(task.is_tested, np.where(is_correct, "1", "0"), ".")
            found[way] = "".join(marks)
    return found


def packed(marks: str) -> str:
    """Returns a string in a tenth of its characters, for the file of results."""
    return base64.b64encode(zlib.compress(marks.encode(), 9)).decode()


def unpacked(text: str) -> str:
    """Returns the string that `packed` was given."""
    return zlib.decompress(base64.b64decode(text)).decode()


def accuracy(marks: str, others: str | None = None) -> float:
    """Returns the accuracy in % on the images that are tested, there and in others."""
    both = zip(marks, marks if others is None else others, strict=True)
    return 100 * float(np.mean([mark == "1" for mark, other in both if "." not in mark + other]))


def print_tables(rows: list[dict]) -> None:
    """Prints one table for each set of images, number of training images, backbone and epochs."""
    keys = ("backbone", "images", "per_class", "epochs")
    for key in sorted({tuple(row[name] for name in keys) for row in rows}):
        own = [
            row | {"correct": {way: unpacked(text) for way, text in row["correct"].items()}}
            for row in rows
            if tuple(row[name] for name in keys) == key
        ]
        backbone, images, per_class, epochs = key
        ways = [*own[0]["correct"]]
        by_recipe = {
            recipe: {row["seed"]: row for row in own if row["recipe"] == recipe}
            for recipe in RECIPES
        }
        given = f", {epochs} epochs" if epochs else ""
        print(
            f"\n{images}, {per_class or 'all'} training images of each class, {backbone}{given}\n"
        )
        columns = ["", "accuracy", "against `better`, paired", *ways[1:]]
        columns += ["seeds, test images", "seconds", "processor seconds", "memory"]
        print(f"| {' | '.join(columns)} |")
        print(f"|{' --- |' * len(columns)}")
        for recipe, found in by_recipe.items():
            if not found:
                continue
            one, *others = (
                f"{with_error([accuracy(row['correct'][way]) for row in found.values()])} %"
                for way in ways
            )
            shared = sorted(found.keys() & by_recipe["better"].keys())
            pairs = [(found[seed], by_recipe["better"][seed]) for seed in shared]
            marks = [(one["correct"][""], other["correct"][""]) for one, other in pairs]
            gains = [accuracy(one, other) - accuracy(other, one) for one, other in marks]
            tested = sum(len(row["correct"][""].replace(".", "")) for row in found.values())
            seconds, processor_seconds = (
                np.mean([row[name] for row in found.values()])
                for name in ("seconds", "processor_seconds")
            )
            memory = np.max([row["mebibytes"] for row in found.values()])
            print(
                f"| `{recipe}` | {one} | {with_error(gains, '+')} | {' | '.join(others)} | "
                f"{len(found)}, {tested:,} | {seconds:,.0f} | {processor_seconds:,.0f} | "
                f"{memory:,.0f} MiB |"
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
    parser.add_argument("--hymenoptera", help="folder of images, divided into train and val")
    parser.add_argument("--cifar", help="archive of CIFAR-100: train/CLASS/*.png, test/CLASS/*.png")
    parser.add_argument("--weights", required=True, help="weights of the backbone")
    parser.add_argument("--backbone", choices=BACKBONES, default=BACKBONE)
    parser.add_argument("--epochs", type=int, default=0, help="instead of the recipe's own")
    parser.add_argument("--out", required=True, type=Path, help="file of results, added to")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--per-class", type=int, nargs="*", default=[0, 10, 50, 200])
    usual = [recipe for recipe in RECIPES if recipe != "keras_hub"]
    parser.add_argument("--recipes", nargs="*", choices=RECIPES, default=usual)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        print(json.dumps(run(Job(**json.loads(arguments.job)), arguments)))
        return
    sets = [name for name in SIZES if getattr(arguments, name)]
    jobs = [
        Job(images, per_class, seed, recipe, arguments.backbone, arguments.epochs)
        for seed in range(arguments.seeds)
        for images in sets
        for per_class in arguments.per_class
        if images != "cifar" or per_class
        for recipe in arguments.recipes
    ]
    print_tables(run_jobs(jobs, Job, arguments.out))


if __name__ == "__main__":
    main()
