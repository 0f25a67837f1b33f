"""Kills one short fine-tuning over and over, and compares its weights with an undisturbed one's.

    python benchmarks/kill.py --kills 20 [--views 2] [--small]

The run has dropout, augmentation, layer decay, two stages, a penalty that pulls towards the first
weights, and validation. It saves itself many times a second here; at random moments its
process gets SIGKILL, and the same command starts it again. Under TF_DETERMINISTIC_OPS the weights
at the end must be those of the undisturbed run, bit by bit. With `--views` the first stage trains
on stored activations, and the process is killed while it stores them, too. The network is resnet20;
with `--small` one of three convolutions, which starts sooner.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SAVE_SECONDS = 0.1
PAUSE = 0.02
"""After each step, so that there is time to be killed in."""


def small_network(num_classes: int):
    """Three convolutions, one for each of resnet20's stages."""
    import keras
    from keras import layers

    x = inputs = keras.Input((32, 32, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1, name="stage1_rescaling")(x)
    for stage in (1, 2, 3):
        x = layers.Conv2D(
            8 * stage, 3, strides=2, padding="same", use_bias=False, name=f"stage{stage}_conv"
        )(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"stage{stage}_bn")(x)
        x = layers.ReLU(name=f"stage{stage}_relu")(x)
    x = layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(num_classes, name="logits")(x))


def train(folder: Path, views: int, is_small: bool) -> None:
    """The run itself; says "step" after each of its steps, and after storing each batch."""
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

    def say() -> None:
        print("step", flush=True)
        time.sleep(PAUSE)

    class Say(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            say()

    append = FeatureStore.append

    def appended(store, keys, rows):
        append(store, keys, rows)
        say()

    FeatureStore.append = appended

    tlkit.fine_tune(
        model,
        data,
        stages=[tlkit.Stage("stage3", epochs=4), tlkit.Stage("all", epochs=4)],
        learning_rate=1e-3,
        layer_decay=0.7,
        augment="strong",
        views=views,
        callbacks=[Say()],
        run_directory=folder,
        cache=folder / "features",
    )
    np.savez(folder / "weights.npz", *model.get_weights())


def run_until_done(folder: Path, kills: int, seed: int, options: list[str]) -> int:
    """Starts the run until it ends; kills it at random moments; returns how often it did."""
    generator = random.Random(seed)
    done = 0
    while True:
        child = subprocess.Popen(
            [sys.executable, __file__, "--child", str(folder), *options],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        with child:
            for _ in range(generator.randint(1, 4) if done < kills else 0):
                child.stdout.readline()
            if done < kills:
                time.sleep(generator.uniform(0, 4 * PAUSE))
                if child.poll() is None:
                    child.send_signal(signal.SIGKILL)
                    done += 1
            child.stdout.read()
        if child.returncode == 0:
            return done
        if child.returncode != -signal.SIGKILL:
            raise SystemExit(f"the run ended with status {child.returncode}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--views", type=int, default=0)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        train(arguments.child, arguments.views, arguments.small)
        return
    import numpy as np

    options = ["--views", str(arguments.views), *["--small"] * arguments.small]
    with tempfile.TemporaryDirectory() as root:
        weights = []
        for name, kills in (("undisturbed", 0), ("killed", arguments.kills)):
            folder = Path(root) / name
            folder.mkdir()
            started = time.perf_counter()
            done = run_until_done(folder, kills, arguments.seed, options)
            print(f"{name}: {done} kills, {time.perf_counter() - started:.0f} s", flush=True)
            with np.load(folder / "weights.npz") as file:
                weights.append([file[key] for key in file.files])
            left = sorted(path.name for path in folder.iterdir() if path.name.startswith("."))
            if left:
                raise SystemExit(f"left half-written: {left}")
    differing = sum(not np.array_equal(a, b) for a, b in zip(*weights, strict=True))
    print(f"{differing} of {len(weights[0])} weights differ")
    if differing or done < arguments.kills:
        raise SystemExit("the killed run is not the undisturbed one, or ended before its kills")


if __name__ == "__main__":
    main()
