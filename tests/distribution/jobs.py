"""The jobs of the tests' workers: `python -m tests.distribution.jobs JOB FOLDER INDEX`."""

import dataclasses
import functools
import json
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
import tensorflow as tf

import tlkit
from tests import networks, quick
from tlkit import cli
from tlkit.continual import warm_start
from tlkit.distribution import strategies
from tlkit.distribution.workers import Workers
from tlkit.runs.inference import evaluate_run
from tlkit.training.step import StepHook

KINDS = ("plain", "anchored", "layer decay")
KINDS_MIRRORED = ("proximal", "distilled")
"""Kinds for two devices of one machine; two workers train `KINDS`."""
NUM_IMAGES = 80
BATCH_SIZE = 16
COMMAND_EPOCHS = 5
RESNET8 = ("--backbone", "tiny_resnet", "--weights", "none")


def random_images():
    """Images of two classes that differ in colour; the last batch of each split has one image."""
    images = np.random.default_rng(0).integers(0, 150, (NUM_IMAGES, 32, 32, 3), "uint8")
    labels = np.arange(NUM_IMAGES) % 2
    images[labels == 1, :, :, 0] += 100
    data = tlkit.load_arrays(
        images, labels, ["grey", "red"], batch_size=BATCH_SIZE, splits=(0.6, 0.4, 0.0)
    )
    return dataclasses.replace(
        data,
        train=data.train.subset(np.arange(2 * BATCH_SIZE + 1)),
        validation=data.validation.subset(np.arange(BATCH_SIZE + 1)),
    )


def classifier(data, **arguments):
    """A small model without dropout, whose head counts as trained."""
    settings = {"weights": None, "dropout": 0.0, "seed": 0} | arguments
    model = tlkit.build_classifier("tiny_resnet", data.class_names, **settings)
    model.get_layer("logits").bias.assign([0.1] * data.num_classes)
    return model


class GradientNorm(StepHook):
    """Logs the norm of the gradients of the whole batch."""

    works_on_replicas = True

    def __init__(self):
        self.norm = keras.metrics.Mean(name="gradient_norm")
        self.metrics = (self.norm,)

    def before_update(self, gradients, variables):
        """Records the norm."""
        self.norm.update_state(tf.linalg.global_norm(gradients))


class FirstStep(keras.callbacks.Callback):
    """Keeps the gradients of the first step, ten times AdamW's first moments."""

    gradients = None

    def on_train_batch_end(self, batch, logs=None):
        """Reads the optimizer once."""
        if self.gradients is None:
            moments = self.model.optimizer._momentums
            self.gradients = [10 * moment.numpy() for moment in moments]


def one_epoch(kind, strategy):
    """Trains one epoch; returns the model, its first gradients and what was logged."""
    with strategy.scope():
        data = random_images()
        model = classifier(data)
        given = {"anchor": GradientNorm()}
        if kind == "anchored":
            given["anchor"] = tlkit.anchor_weights(model, 0.05, groups="all")
            for weight in model.trainable_variables:  # away from the anchor
                weight.assign(weight.numpy() + 0.02)
        if kind == "proximal":
            given["anchor"] = tlkit.anchor_weights(model, 5.0, mode="proximal")
        if kind == "distilled":
            given["anchor"] = tlkit.distill_from(model)
        if kind == "layer decay":
            given["layer_decay"] = 0.5
        first = FirstStep()
        report = tlkit.fine_tune(
            model,
            data,
            unfreeze="all",
            epochs=1,
            augment="none",
            views=0,
            callbacks=[first],
            learning_rate=1e-3,
            kept_fraction=1.0,
            **given,
        )
    return model, first.gradients, report


def save(path, arrays):
    """Writes a list of arrays."""
    np.savez(path, **{str(i): array for i, array in enumerate(arrays)})


def load(path):
    """Reads a list of arrays."""
    with np.load(path) as file:
        return [file[str(i)] for i in range(len(file.files))]


@functools.cache
def alone(kind):
    """Trains one epoch in one process with the same batches."""
    return one_epoch(kind, tf.distribute.get_strategy())


def assert_same_figures(logged, expected):
    """Compares the logs of two epochs."""
    tolerances = {"anchor_share": 0.05}  # each shard computes it with its own part of the loss
    for name, value in expected.items():
        assert logged[name] == pytest.approx(value, rel=tolerances.get(name, 1e-3)), name
    assert set(logged) == set(expected)


def train(strategy, folder, index, kinds=KINDS):
    """Trains one epoch of each kind."""
    for kind in kinds:
        model, gradients, report = one_epoch(kind, strategy)
        save(folder / f"gradients-{kind}-{index}.npz", gradients)
        save(folder / f"weights-{kind}-{index}.npz", model.get_weights())
        note(folder / f"report-{kind}-{index}.json", report)


def note(path, report):
    """Writes the log and the notes of the last stage."""
    stage = report.stages[-1]
    content = {"history": stage.history, "notes": stage.notes, "after": report.accuracy_after}
    path.write_text(json.dumps(content), encoding="utf-8")


@contextmanager
def rows_computed():
    """Lists the numbers of feature rows that this worker computed for the others (nonzero rows)."""
    merge, counts = Workers.merge, []

    def counted(workers, rows):
        if rows.ndim == 2 and rows.shape[1] > 2:  # arrays with two columns are model outputs
            counts.append(int(rows.any(axis=1).sum()))
        return merge(workers, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workers, "merge", counted)
        yield counts


def measure(strategy, folder, index):
    """Head, evaluation and stored activations; and whether plain Keras supports this yet."""
    with strategy.scope():
        data = random_images()
        model = tlkit.build_classifier("resnet20", data.class_names)
        with rows_computed() as computed:
            head = tlkit.train_head(model, data)
        with rows_computed() as computed_again:
            again = tlkit.train_head(model, data)
        report = tlkit.evaluate(model, data.train, data.class_names)
        deeper = classifier(data, hidden=(8,))
        tuned = tlkit.fine_tune(
            deeper,
            data,
            stages=[tlkit.Stage("head", epochs=1), tlkit.Stage("stage3", epochs=2)],
            views=1,
            augment="none",
            class_weight="balanced",
        )
    content = {
        "passes": [one.stages[0].num_forward_passes for one in (head, again)],
        "own_passes": [sum(computed), sum(computed_again)],
        "notes": head.stages[0].notes,
        "accuracy": head.accuracy_after,
        "train": [report.accuracy, report.loss, report.num_images],
        "tuned": tuned.stages[-1].notes,
        "history": [stage.history for stage in tuned.stages],
    }
    (folder / f"measured-{index}.json").write_text(json.dumps(content), encoding="utf-8")
    save(folder / f"weights-measured-{index}.npz", deeper.get_weights())
    dataset = tf.data.Dataset.from_tensors((np.zeros((2, 32, 32, 3), "float32"), np.zeros(2)))
    path = tlkit.SynapticPath(model)
    refused = refusals(
        strategy,
        {
            "dataset": lambda: tlkit.evaluate(model, dataset),
            "float16": lambda: tlkit.fine_tune(model, data, epochs=1, precision="mixed_float16"),
            "statistics": lambda: tlkit.fine_tune(model, data, epochs=1, batch_norm="train"),
            "seed": lambda: tlkit.fine_tune(model, data, epochs=1, seed=index),
            "path": lambda: tlkit.fine_tune(model, data, epochs=1, anchor=path),
            "images": lambda: tlkit.evaluate(model, data.train.subset(np.arange(4) + index)),
        },
    )
    (folder / f"refused-{index}.json").write_text(json.dumps(refused), encoding="utf-8")
    try:
        plain_keras(strategy)
    except ValueError as error:
        (folder / f"keras-{index}.txt").write_text(str(error), encoding="utf-8")


def refusals(strategy, calls):
    """Returns the error message of each call."""
    refused = {}
    for name, call in calls.items():
        try:
            with strategy.scope():
                call()
        except tlkit.ArgumentError as error:
            refused[name] = str(error)
    return refused


def work(kind, folder, index):
    """All jobs that succeed: first runs of the command line, then the functions."""
    made = []

    def noted(kind, argument):
        made.append(strategy_for(kind, argument))
        return made[-1]

    strategy_for = strategies.strategy_for
    strategies.strategy_for = noted
    by_command_line(kind, folder, index, *RESNET8, "--unfreeze", "head", "--epochs", "1")
    strategies.strategy_for = lambda *_: made[0]  # a process can only have one
    given = ["--from", str(folder / "run-0"), "--unfreeze", "stage3", "--epochs", "1"]
    anchor = ["--anchor", "auto", "--importance", "mas"]
    warm_start.choose_anchor = functools.partial(tlkit.choose_anchor, epochs=1, max_trials=1)
    by_command_line(kind, folder, index, *given, *anchor, photos="more", run="anchored")
    report = evaluate_run(folder / "run-0", folder / "photos", distribute=kind)
    content = [report.accuracy, report.loss, report.num_images]
    (folder / f"evaluated-{index}.json").write_text(json.dumps(content), encoding="utf-8")
    train(made[0], folder, index)
    measure(made[0], folder, index)


def by_command_line(kind, folder, index, *more, photos="photos", run="run"):
    """Runs `tlkit train`; exits if it fails."""
    sys.argv = ["tlkit", "train", str(folder / photos), "--out", str(folder / f"{run}-{index}")]
    sys.argv += ["--batch-size", "16", "--distribute", kind, *more]
    try:
        cli.main()
    except SystemExit as ended:
        if ended.code:
            raise


def command(kind, folder, index):
    """A run of several epochs, which the test interrupts."""
    given = ["--unfreeze", "all", "--epochs", str(COMMAND_EPOCHS)]
    by_command_line(kind, folder, index, *RESNET8, *given)


def plain_keras(strategy):
    """Trains a plain Keras model, as in Keras's guide for several workers."""
    with strategy.scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        model.compile("sgd", "mse", jit_compile=False)
    model.fit(np.ones((8, 4), "float32"), np.ones((8, 2), "float32"), batch_size=4, verbose=0)


class Slow(keras.callbacks.Callback):
    """Writes the position of training to a file, and slows it down."""

    def __init__(self, path):
        super().__init__()
        self.path, self.epoch = path, 0

    def on_epoch_begin(self, epoch, logs=None):
        """Stores the epoch."""
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        """Writes the position."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{self.epoch} {batch}\n")
        time.sleep(0.1)


def resume(strategy, folder, index):
    """A training of several epochs, which the test interrupts."""
    with strategy.scope():
        data = random_images()
        model = classifier(data)
        report = tlkit.fine_tune(
            model,
            data,
            unfreeze="stage3",
            epochs=4,
            augment="none",
            views=0,
            run_directory=folder / f"run-{index}",
            callbacks=[Slow(folder / f"steps-{index}.txt")],
        )
    save(folder / f"weights-{index}.npz", model.get_weights())
    note(folder / f"report-{index}.json", report)


def mirrored(strategy, folder, index):
    """The jobs of two workers on two devices of one machine, and plain datasets too."""
    train(strategy, folder, index, KINDS_MIRRORED)
    with strategy.scope():
        data = random_images()
        model = classifier(data)
        batches = data.train.dataset(shuffle=False)
        tlkit.fine_tune(model, batches, validation=data.validation.dataset(), epochs=1)
    report = tlkit.evaluate(model, batches)
    alone = tlkit.evaluate(copy_of(model), batches)
    content = [[one.accuracy, one.loss, one.num_images] for one in (report, alone)]
    (folder / "evaluated.json").write_text(json.dumps(content), encoding="utf-8")
    metric = keras.metrics.SparseCategoricalAccuracy("outside")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    few = dataclasses.replace(data, train=dataclasses.replace(data.train, batch_size=1))
    refused = refusals(
        strategy,
        {
            "metrics": lambda: tlkit.fine_tune(model, data, epochs=1, metrics=[metric]),
            "loss": lambda: tlkit.fine_tune(model, data, epochs=1, loss=loss),
            "batch_size": lambda: tlkit.fine_tune(model, few, epochs=1),
            "rate": lambda: tlkit.find_learning_rate(model, data),
            "cost": lambda: tlkit.estimate_cost(model, data),
            "importance": lambda: tlkit.estimate_importance(model, data.train),
            "expand": lambda: tlkit.expand(model, data),
        },
    )
    (folder / "refused.json").write_text(json.dumps(refused), encoding="utf-8")


def copy_of(model):
    """Returns the same model, created under no strategy."""
    alone = keras.models.clone_model(model)
    alone.set_weights(model.get_weights())
    return alone


def main():
    """Runs one job."""
    job, folder, index = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    networks.register()
    quick.trace_without_stacks()
    if job == "mirrored":
        (processor,) = tf.config.list_physical_devices("CPU")
        logical = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(processor, logical)
    kind = "mirrored" if job == "mirrored" else "multi-worker"
    if job in ("work", "command"):  # these create their strategy themselves
        globals()[job](kind, folder, index)
    else:
        globals()[job](tlkit.distribution_strategy(kind), folder, index)


if __name__ == "__main__":
    main()
