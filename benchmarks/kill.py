"""Kills a short fine-tuning repeatedly, and compares its weights with an uninterrupted one.

    python benchmarks/kill.py --kills 20 [--views 2] [--small]
    python benchmarks/kill.py --kills 30 --from-run [--importance fisher] [--small]

The training has dropout, augmentation, layer decay, two stages, a penalty on the distance from the
initial weights, and validation. Here it saves its state many times per second. At random moments
its process receives SIGKILL, and the same command is started again. With deterministic operations,
the final weights must be bit-identical to those of the uninterrupted training. With `--views`, the
first stage trains on stored activations, and the process is also killed while it stores them. The
network is resnet20; with `--small` it is one of three convolutions, which starts faster.

With `--from-run`, a complete run that warm-starts from an earlier one is killed, during the trials
for the strength of its anchor, the training, the export, or the writing of its report. Runs are
killed a few times each and then completed, until there were enough kills. The model, the strength
and the metrics of each must be the same as in the uninterrupted run, and no partially written file
may be left.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

SAVE_SECONDS = 0.1
PAUSE = 0.02
"""Seconds to wait after each step, so that there is time for a kill."""
KILLS_A_RUN = 5
"""The most kills of a complete run before it may end."""
LEARNING_RATE = 3e-3
"""Learning rate of a warm-started run: high enough for four epochs to change the weights, so that
there is a strength to search for."""


def small_backbone(input_tensor, weights=None):
    """Builds three convolutions, one for each group of resnet20."""
    import keras
    from keras import layers

    x = layers.Rescaling(1 / 127.5, offset=-1, name="stage1_rescaling")(input_tensor)
    for stage in (1, 2, 3):
        x = layers.Conv2D(
            8 * stage, 3, strides=2, padding="same", use_bias=False, name=f"stage{stage}_conv"
        )(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"stage{stage}_bn")(x)
        x = layers.ReLU(name=f"stage{stage}_relu")(x)
    return keras.Model(keras.utils.get_source_inputs(input_tensor)[0], x)


def small_network(num_classes: int):
    """Builds a classifier with this backbone."""
    import keras
    from keras import layers

    inputs = keras.Input((32, 32, 3))
    x = small_backbone(inputs).output
    x = layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(num_classes, name="logits")(x))


def train(folder: Path, views: int, is_small: bool) -> None:
    """Runs the training; prints "step" after each step, and after storing each batch."""
    import keras
    import numpy as np
    import tensorflow as tf

    import tlkit
    from tlkit.training import resume
    from tlkit.training.store import FeatureStore

    tf.config.experimental.enable_op_determinism()
    resume.SAVE_SECONDS = SAVE_SECONDS
    generator = np.random.default_rng(0)
    labels = np.arange(80) % 4
    images = generator.integers(0, 120, (80, 32, 32, 3), "uint8") + 30 * labels[:, None, None, None]
    data = tlkit.load_arrays(
        images.astype("uint8"), labels, list("abcd"), batch_size=8, splits=(0.8, 0.2, 0), seed=0
    )
    keras.utils.set_random_seed(0)
    if is_small:
        model = small_network(data.num_classes)
    else:
        model = tlkit.build_classifier("resnet20", data.class_names, weights=None, dropout=0.3)
    tlkit.set_trainable(model, "all")

    class Anchor(keras.regularizers.Regularizer):
        def __init__(self, variable):
            self.reference = tf.Variable(variable.numpy())

        def __call__(self, x):
            return 1e-3 * keras.ops.sum(keras.ops.square(x - self.reference))

    for variable in model.trainable_variables:
        variable.regularizer = Anchor(variable)

    def log() -> None:
        print("step", flush=True)
        time.sleep(PAUSE)

    class Log(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            log()

    append = FeatureStore.append

    def appended(store, keys, rows):
        append(store, keys, rows)
        log()

    FeatureStore.append = appended

    tlkit.fine_tune(
        model,
        data,
        stages=[tlkit.Stage("stage3", epochs=4), tlkit.Stage("all", epochs=4)],
        learning_rate=1e-3,
        layer_decay=0.7,
        augment="strong",
        views=views,
        callbacks=[Log()],
        run_directory=folder,
        cache=folder / "features",
    )
    np.savez(folder / "weights.npz", *model.get_weights())


def write_photos(folder: Path, seed: int) -> None:
    """Writes two classes of noise images of different brightness."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(seed)
    for label, name in enumerate("ab"):
        (folder / name).mkdir(parents=True)
        for number in range(40):
            brightness = 12 * label + generator.integers(0, 24) + 20 * seed  # classes overlap
            pixels = generator.integers(0, 120, (32, 32, 3)) + brightness
            image = Image.fromarray(pixels.astype("uint8"))
            image.save(folder / name / f"{number}.png")


def warm_start(folder: Path, importance: str | None, is_small: bool) -> None:
    """Runs `base` if it is missing, then a run that warm-starts from it; prints "step" at times."""
    import tensorflow as tf

    import tlkit
    from tlkit.training import resume
    from tlkit.training.best import KeepBest

    tf.config.experimental.enable_op_determinism()
    resume.SAVE_SECONDS = SAVE_SECONDS
    backbone = "resnet20"
    if is_small:
        backbone = "three"
        tlkit.register_backbone(
            backbone, small_backbone, "tf", default_image_size=32, minimum_image_size=8
        )
    base = folder.parent / "base"
    if not (base / "run.json").is_file():
        for seed in (0, 1):
            write_photos(folder.parent / f"photos{seed}", seed)
        tlkit.train_run(
            folder.parent / "photos0",
            out=base,
            backbone=backbone,
            weights=None,
            mode="head",
        )

    def log(text: str = "") -> None:
        print("step", flush=True)
        time.sleep(PAUSE)

    epoch_end = KeepBest.on_epoch_end

    def kept(callback, epoch, logs=None):
        epoch_end(callback, epoch, logs)
        log()

    KeepBest.on_epoch_end = kept
    tlkit.train_run(
        folder.parent / "photos1",
        out=folder / "run",
        from_run=base,
        mode="fine-tune",
        unfreeze="all",
        epochs=4,
        learning_rate=LEARNING_RATE,
        anchor="auto",
        importance=importance,
        log=log,
    )


def run_until_done(folder: Path, moments: Iterator[tuple[int, float]], options: list[str]) -> int:
    """Restarts the run until it ends, killing it at these moments; returns the number of kills."""
    done = 0
    while True:
        child = subprocess.Popen(
            [sys.executable, __file__, "--child", str(folder), *options],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        with child:
            if moment := next(moments, None):
                steps, seconds = moment
                for _ in range(steps):
                    child.stdout.readline()
                with suppress(subprocess.TimeoutExpired):
                    child.wait(seconds)
                if child.poll() is None:
                    child.send_signal(signal.SIGKILL)
            child.stdout.read()
        if child.returncode == 0:
            return done
        if child.returncode != -signal.SIGKILL:
            raise SystemExit(f"the run ended with status {child.returncode}")
        done += 1


def outcome_of(folder: Path) -> list:
    """Returns the final weights, and for a complete run also its strength and metrics."""
    import numpy as np

    left = sorted(path.name for path in folder.rglob(".*"))
    if left:
        raise SystemExit(f"partially written files are left: {left}")
    if (folder / "weights.npz").is_file():
        with np.load(folder / "weights.npz") as file:
            return [file[key] for key in file.files]
    import json

    import tlkit

    run = tlkit.load_run(folder / "run")
    print("  " + "; ".join(run.record["choices"]["anchor"]["reasons"])[:200], flush=True)
    figures = {name: run.metrics[name] for name in ("validation", "test", "old_task")}
    figures["old_task"] = {**figures["old_task"], "trials": ()}  # they contain times
    return [
        *run.load_model().get_weights(),
        np.array(run.record["choices"]["anchor"]["arguments"]["anchor"]),
        np.array(json.dumps(figures)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--views", type=int, default=0)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--from-run", action="store_true")
    parser.add_argument("--importance")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child and arguments.from_run:
        warm_start(arguments.child, arguments.importance, arguments.small)
        return
    if arguments.child:
        train(arguments.child, arguments.views, arguments.small)
        return
    import numpy as np

    options = ["--views", str(arguments.views), *["--small"] * arguments.small]
    if arguments.from_run:
        options += ["--from-run"]
        options += ["--importance", arguments.importance] if arguments.importance else []
    generator = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as root:
        os.environ["TLKIT_CACHE"] = str(Path(root) / "cache")
        expected, lasted, done = [], 0.0, 0
        for number in range(1 + arguments.kills):
            name = f"killed-{number}" if number else "uninterrupted"
            folder = Path(root) / name
            folder.mkdir()
            started = time.perf_counter()
            at_most = KILLS_A_RUN if arguments.from_run else arguments.kills
            num_kills = min(at_most, arguments.kills - done) if number else 0
            if arguments.from_run:  # any time in the duration of the uninterrupted run
                moments = [(0, lasted * generator.uniform(0.1, 1)) for _ in range(num_kills)]
            else:
                moments = [
                    (generator.randint(1, 4), generator.uniform(0, 4 * PAUSE))
                    for _ in range(num_kills)
                ]
            killed = run_until_done(folder, iter(moments), options)
            done += killed
            seconds = time.perf_counter() - started
            print(f"{name}: {killed} kills, {seconds:.0f} s", flush=True)
            found = outcome_of(folder)
            if not number:
                expected, lasted = found, seconds
                continue
            # the first one includes the earlier run
            lasted = lasted if killed else min(lasted, seconds)
            differing = sum(not np.array_equal(a, b) for a, b in zip(expected, found, strict=True))
            print(f"{differing} of {len(expected)} weights differ", flush=True)
            if differing:
                raise SystemExit("the killed run differs from the uninterrupted one")
            if done >= arguments.kills:
                break
    print(f"killed: {done} kills", flush=True)
    if done < arguments.kills:
        raise SystemExit("the runs ended before they could be killed")


if __name__ == "__main__":
    main()
