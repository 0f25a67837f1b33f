"""Split MNIST with anchors, elastic weight consolidation and synaptic intelligence.

    python benchmarks/split_mnist.py MNIST_NPZ --seeds 5 --jobs 2

MNIST_NPZ has `x_train` (60000, 28, 28), `y_train`, `x_test` and `y_test`. Five consecutive tasks of
two digits each, in three scenarios. The protocol is that of Hsu et al. (2018),
https://arxiv.org/abs/1810.12488, table 2, whose results are printed for comparison: images padded
to 32x32, two hidden layers of 400 units whose initial weights and biases are uniform within 1 /
sqrt(inputs) (the effect of an anchor depends on their size), Adam at 1e-3 that is never reset,
batches of 128, four epochs per task, and a penalty strength * sum(importance * (w - w*)**2) without
1/2. Their Fisher information uses the class predicted by the model as the label, one sample at a
time.

With `--choose`, strengths chosen by `search_strength` are compared with the best of a grid, twice:
chosen by the new task alone, and with 1,000 images of each earlier task kept for the choice.
"""

import argparse
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import tlkit
from tlkit.continual.importance import normalize_importance
from tlkit.continual.strength_reports import StrengthTrial
from tlkit.continual.strength_search import StrengthRule, search_strength
from tlkit.training.step import hooked

NUM_TASKS = 5
EPOCHS = 4
BATCH_SIZE = 128
HIDDEN = 400
DAMPING = 0.1
NUM_VALIDATION = 1000
NUM_FISHER = 2000
STEPS_AT_ONCE = 30

SCENARIOS = ("task-incremental", "domain-incremental", "class-incremental")
METHODS = ("adam", "l2", "ewc", "online_ewc", "si", "joint")
STRENGTHS = {
    "l2": (0.01, 0.5, 100.0),
    "ewc": (100.0, 100.0, 600.0),
    "online_ewc": (400.0, 700.0, 100.0),
    "si": (300.0, 3000.0, 600.0),
}
PUBLISHED = {  # mean and standard deviation of ten runs, %
    "adam": ((93.46, 2.01), (55.16, 1.38), (19.71, 0.08)),
    "l2": ((98.18, 0.96), (66.00, 3.73), (22.52, 1.08)),
    "ewc": ((97.70, 0.81), (58.85, 2.59), (19.80, 0.05)),
    "online_ewc": ((98.04, 1.10), (57.33, 1.44), (19.77, 0.04)),
    "si": ((98.56, 0.49), (64.76, 3.09), (19.67, 0.09)),
    "joint": ((99.52, 0.0), (98.59, 0.0), (97.53, 0.0)),
}
NEAR = 2.5
GRIDS = {"l2": np.logspace(-2, 1, 7), "online_ewc": np.logspace(1, 4, 7)}
"""Grids of strengths, for methods with a single anchor at the weights of the last task."""


class Learner:
    """A network and its optimizer, trained on the tasks of one scenario."""

    def __init__(self, scenario: str, seed: int) -> None:
        keras.utils.set_random_seed(seed)
        self.scenario = scenario
        images = keras.Input((32, 32))
        x = keras.layers.Flatten()(images)
        for name in ("first", "second"):
            x = dense(HIDDEN, x, name=name, activation="relu")
        if scenario == "task-incremental":
            outputs = [dense(2, x, name=f"task{i}") for i in range(NUM_TASKS)]
        else:
            num_outputs = 2 if scenario == "domain-incremental" else 2 * NUM_TASKS
            outputs = [dense(num_outputs, x, name="logits")] * NUM_TASKS
        self.models = [keras.Model(images, output) for output in outputs]
        variables = {id(v): v for model in self.models for v in model.trainable_variables}
        self.variables = list(variables.values())
        self.optimizer = keras.optimizers.Adam(1e-3, epsilon=1e-8)
        self.optimizer.build(self.variables)

    def state(self) -> list[np.ndarray]:
        """Returns everything that training changes."""
        return [v.numpy() for v in (*self.variables, *self.optimizer.variables)]

    def restore(self, state: list[np.ndarray]) -> None:
        """Restores what `state` returned."""
        for v, value in zip((*self.variables, *self.optimizer.variables), state, strict=True):
            v.assign(value)

    def targets(self, labels: np.ndarray, task: int) -> np.ndarray:
        """Returns the labels as indices of a task's outputs."""
        if self.scenario == "class-incremental":
            return labels
        return labels - 2 * task if self.scenario == "task-incremental" else labels % 2

    def loss(self, task: int) -> keras.losses.Loss:
        """Returns the cross-entropy over the classes that are possible."""
        num_classes = 2 * (task + 1) if self.scenario == "class-incremental" else 2
        return Among(num_classes)

    def train(self, task, images, labels, *, epochs=EPOCHS, hooks=()) -> None:
        """Trains one task."""
        model = hooked(self.models[task], hooks)
        model.compile(
            optimizer=self.optimizer,
            loss=self.loss(task),
            jit_compile=False,
            steps_per_execution=STEPS_AT_ONCE,
        )
        batches = tf.data.Dataset.from_tensor_slices((images, self.targets(labels, task)))
        batches = batches.shuffle(len(images)).batch(BATCH_SIZE).prefetch(4)
        model.fit(batches, epochs=epochs, shuffle=False, verbose=0)

    def logits(self, task: int, images: np.ndarray) -> np.ndarray:
        """Returns the outputs for a task's images."""
        return np.concatenate(
            [self.models[task](some).numpy() for some in np.array_split(images, 8)]
        )

    def accuracy(self, task: int, images: np.ndarray, labels: np.ndarray) -> float:
        """Returns the accuracy on a task's images, among the possible classes."""
        logits = self.logits(task, images)
        return float((logits.argmax(axis=1) == self.targets(labels, task)).mean())


def dense(units: int, x: keras.KerasTensor, **given) -> keras.KerasTensor:
    """Returns a layer initialised as in the paper: kernel and bias within 1 / sqrt(inputs)."""
    limit = x.shape[-1] ** -0.5
    first = keras.initializers.RandomUniform(-limit, limit)
    again = keras.initializers.RandomUniform(-limit, limit)
    layer = keras.layers.Dense(units, kernel_initializer=first, bias_initializer=again, **given)
    return layer(x)


@keras.saving.register_keras_serializable("benchmarks")
class Among(keras.losses.Loss):
    """Cross-entropy over the first outputs only."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def call(self, y_true, y_pred):
        """Returns the loss of each image."""
        return keras.losses.sparse_categorical_crossentropy(
            y_true, y_pred[:, : self.num_classes], from_logits=True
        )


class Penalty:
    """The penalty that a method adds to the loss after each task."""

    def __init__(self, method: str, strength: float) -> None:
        self.method, self.strength = method, strength
        self.anchors: list = []
        self.importance: dict[str, np.ndarray] | None = None
        self.path = None

    def hooks(self, learner: Learner, task: int) -> list:
        """Returns the hooks of the training steps of a task."""
        if self.method != "si":
            return []
        self.path = tlkit.SynapticPath(learner.models[task], damping=DAMPING)
        return [self.path]

    def learned(self, learner: Learner, task: int, images: np.ndarray) -> None:
        """Anchors the network at its weights after a task."""
        model = learner.models[task]
        if self.method in ("adam", "joint"):
            return
        if self.method in ("ewc", "online_ewc"):
            own = learner.logits(task, images).argmax(axis=1)
            answers = tf.data.Dataset.from_tensor_slices((images, own)).batch(BATCH_SIZE)
            found = tlkit.estimate_importance(
                model, answers, method="empirical_fisher", num_samples=NUM_FISHER
            )
        elif self.method == "si":
            found = tlkit.estimate_importance(model, self.path, method="synaptic")
        else:
            found = None
        if self.method != "ewc":  # one anchor, at the last task's weights
            for anchor in self.anchors:
                anchor.release()
            if found is not None and self.importance is not None:
                found = tlkit.accumulate_importance(self.importance, found)
        self.importance = found
        self.anchors.append(tlkit.anchor_weights(model, self.strength, found, groups="all"))


def split(mnist: dict, part: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns images and labels of each task, padded and normalised as in the paper's code."""
    images = np.pad(mnist[f"x_{part}"], ((0, 0), (2, 2), (2, 2))).astype("float32") / 255
    images, labels = (images - 0.1) / 0.2752, mnist[f"y_{part}"].astype("int64")
    order = np.random.default_rng(0).permutation(len(labels))  # the file is sorted by class
    images, labels = images[order], labels[order]
    chosen = [labels // 2 == task for task in range(NUM_TASKS)]
    return [(images[some], labels[some]) for some in chosen]


def run(job: tuple) -> dict:
    """Runs one method in one scenario with one seed."""
    path, scenario, method, seed, strength = job
    tf.config.threading.set_intra_op_parallelism_threads(1)
    mnist = np.load(path)
    train, test = split(mnist, "train"), split(mnist, "test")
    started = time.perf_counter()
    learner = Learner(scenario, seed)
    matrix = tlkit.ForgettingMatrix([f"{2 * i}, {2 * i + 1}" for i in range(5)], scenario=scenario)
    matrix.record([learner.accuracy(i, *test[i]) for i in range(NUM_TASKS)])
    if method == "joint":
        train_together(learner, train)
        accuracies = [learner.accuracy(i, *test[i]) for i in range(NUM_TASKS)]
        result = {"accuracy": float(np.mean(accuracies)), "accuracies": accuracies}
    else:
        if strength is None and method in STRENGTHS:
            strength = STRENGTHS[method][SCENARIOS.index(scenario)]
        penalty = Penalty(method, strength)
        for task, (images, labels) in enumerate(train):
            learner.train(task, images, labels, hooks=penalty.hooks(learner, task))
            penalty.learned(learner, task, images)
            matrix.record([learner.accuracy(i, *test[i]) for i in range(NUM_TASKS)])
        result = {"accuracy": matrix.average_accuracy, "forgetting": matrix.forgetting}
    seconds = time.perf_counter() - started
    given = {"scenario": scenario, "method": method, "seed": seed, "strength": strength}
    return {**given, **result, "seconds": seconds}


def train_together(learner: Learner, train: list) -> None:
    """Trains on all tasks jointly; if each has its own outputs, the loss uses those of its task."""
    if learner.scenario != "task-incremental":
        images = np.concatenate([images for images, _ in train])
        labels = np.concatenate([learner.targets(labels, i) for i, (_, labels) in enumerate(train)])
        batches = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(len(images))
        model = learner.models[-1]
        loss = learner.loss(NUM_TASKS - 1)
        model.compile(learner.optimizer, loss, jit_compile=False, steps_per_execution=STEPS_AT_ONCE)
        model.fit(batches.batch(BATCH_SIZE), epochs=EPOCHS, shuffle=False, verbose=0)
        return
    together = keras.Model(learner.models[0].input, [model.output for model in learner.models])
    images = np.concatenate([images for images, _ in train])
    labels = np.concatenate([labels for _, labels in train])

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            logits = tf.stack(together(x), axis=1)  # (batch, tasks, 2)
            own = tf.gather(logits, y // 2, axis=1, batch_dims=1)
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y % 2, logits=own)
            )
        variables = together.trainable_variables
        learner.optimizer.apply(tape.gradient(loss, variables), variables)

    batches = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(len(images))
    for _ in range(EPOCHS):
        for x, y in batches.batch(BATCH_SIZE, drop_remainder=True):
            step(x, y)


def run_chosen(job: tuple) -> dict:
    """Does the same with a strength that is chosen before each task, by trials of one epoch."""
    path, scenario, method, seed, with_old = job
    tf.config.threading.set_intra_op_parallelism_threads(1)
    mnist = np.load(path)
    train, test = split(mnist, "train"), split(mnist, "test")
    started = time.perf_counter()
    learner = Learner(scenario, seed)
    penalty = Penalty(method, 0.0)
    strengths, epochs, old = [], 0, []
    for task, (images, labels) in enumerate(train):
        order = np.random.default_rng(seed).permutation(len(images))
        held_out, some = order[:NUM_VALIDATION], order[NUM_VALIDATION:]
        if task:
            parts = (images[some], labels[some]), (images[held_out], labels[held_out])
            anchored, trained = choose(learner, penalty, task, *parts, old if with_old else [])
            strengths.append(anchored)
            epochs += trained
        learner.train(task, images, labels)
        epochs += EPOCHS
        penalty.learned(learner, task, images)
        old.append((images[held_out], labels[held_out]))
    accuracy = float(np.mean([learner.accuracy(i, *test[i]) for i in range(NUM_TASKS)]))
    return {
        "scenario": scenario,
        "method": method,
        "seed": seed,
        "accuracy": accuracy,
        "strengths": strengths,
        "cost": epochs / (EPOCHS * NUM_TASKS),
        "seconds": time.perf_counter() - started,
    }


def choose(  # noqa: PLR0917 - has only one caller
    learner: Learner, penalty: Penalty, task: int, train_part, validation_part, old: list
) -> tuple[float, int]:
    """Chooses a strength for one task and anchors the network with it."""
    images, labels = train_part
    for anchor in penalty.anchors:
        anchor.release()
    model, before = learner.models[task], learner.models[task - 1]
    importance = penalty.importance
    if importance is not None:
        shared = [path for path in importance if any(v.path == path for v in model.variables)]
        importance = normalize_importance(importance, shared)
    start, trials = learner.state(), 0

    def measured(strength: float, drift: float) -> StrengthTrial:
        loss = learner.loss(task)(learner.targets(labels, task), learner.logits(task, images))
        accuracy = learner.accuracy(task, *validation_part)
        kept = [learner.accuracy(i, *part) for i, part in enumerate(old)]
        return StrengthTrial(
            strength,
            accuracy,
            float(loss),
            drift,
            old_accuracy=float(np.mean(kept)) if old else None,
        )

    def train(strength: float) -> StrengthTrial:
        nonlocal trials
        trials += 1
        learner.restore(start)
        anchor = tlkit.anchor_weights(before, strength, importance, groups="all")
        gauge = tlkit.anchor_weights(before, 1.0, importance, groups="all", mode="proximal")
        learner.train(task, images, labels, epochs=1)
        drift = sum(gauge.penalties().values())
        anchor.release()
        return measured(strength, drift)

    rule = StrengthRule(max_trials=10, num_old_tasks=max(len(old), 1))
    _, strength, _ = search_strength(train, measured(0.0, 0.0), rule)
    learner.restore(start)
    penalty.strength = strength
    penalty.anchors = [tlkit.anchor_weights(before, strength, importance, groups="all")]
    return strength, trials


def table(results: list[dict]) -> str:
    """Returns means and standard deviations next to the published ones."""
    lines = []
    for method in METHODS:
        for i, scenario in enumerate(SCENARIOS):
            found = [r for r in results if (r["method"], r["scenario"]) == (method, scenario)]
            if not found:
                continue
            values = 100 * np.array([r["accuracy"] for r in found])
            mean, deviation = PUBLISHED[method][i]
            near = abs(values.mean() - mean) <= max(2 * deviation, NEAR)
            seconds = np.mean([r["seconds"] for r in found])
            lines.append(
                f"| {method} | {scenario} | {values.mean():.2f} ± {values.std(ddof=1):.2f} | "
                f"{mean:.2f} ± {deviation:.2f} | {'yes' if near else 'NO'} | {seconds:.1f} s |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mnist", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--scenarios", nargs="+", default=list(SCENARIOS), choices=SCENARIOS)
    parser.add_argument(
        "--choose", action="store_true", help="compare chosen strengths with a grid"
    )
    parser.add_argument("--out", type=Path, help="file for the results of all runs, as JSON")
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(given.jobs, mp_context=context) as pool:
        if given.choose:
            compare_with_grid(pool, given)
            return
        jobs = [
            (str(given.mnist), scenario, method, seed, None)
            for method in given.methods
            for scenario in given.scenarios
            for seed in range(given.seeds)
        ]
        results = []
        for result in pool.map(run, jobs):
            results.append(result)
            print(json.dumps(result), flush=True)
    print(table(results))
    if given.out:
        given.out.write_text(json.dumps(results, indent=1), encoding="utf-8")


def compare_with_grid(pool: ProcessPoolExecutor, given: argparse.Namespace) -> None:
    """Prints the average accuracy of chosen strengths and of the best of a grid."""
    for scenario in [s for s in given.scenarios if s != "class-incremental"]:
        for method in [m for m in given.methods if m in GRIDS]:
            path = str(given.mnist)
            tried = {}
            for strength in GRIDS[method]:
                jobs = [(path, scenario, method, seed, strength) for seed in range(given.seeds)]
                tried[strength] = np.mean([r["accuracy"] for r in pool.map(run, jobs)])
            best = max(tried, key=tried.get)
            for with_old in (False, True):
                jobs = [(path, scenario, method, seed, with_old) for seed in range(given.seeds)]
                chosen = list(pool.map(run_chosen, jobs))
                accuracy = np.mean([r["accuracy"] for r in chosen])
                cost = np.mean([r["cost"] for r in chosen])
                print(
                    f"{scenario}, {method}, {'with' if with_old else 'without'} old images: chosen "
                    f"{100 * accuracy:.2f} %, best of the grid {100 * tried[best]:.2f} % at "
                    f"{best:.3g}, ratio {accuracy / tried[best]:.4f}; cost {cost:.2f} runs; "
                    f"strengths of seed 0: {chosen[0]['strengths']}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
