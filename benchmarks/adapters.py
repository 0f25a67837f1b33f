"""Compares low-rank adapters with full fine-tuning: accuracy, parameters, memory, checkpoints.

    python benchmarks/adapters.py --cifar CIFAR100_TAR --cifar10 CIFAR10_TAR --weights FILE \
        --work FOLDER --out RESULTS

Networks: MobileNetV2 (1.0) with the ImageNet weights of `--weights`, at 96 pixels; and a small
vision transformer of KerasHub, at 32 pixels, which is trained on CIFAR-10 first, for a few epochs,
and saved as a preset in `--work`. Both learn the first twenty classes of CIFAR-100 from 50 images
of each class, and are tested on 4,000 other images; the default learning rates of adapters, biases
and normalisation were chosen on seed 0. Each run is a process of its own with one line in RESULTS,
and is not repeated.

Printed are means over the seeds with standard errors: the accuracy, the difference to full
fine-tuning paired by seed, the trainable parameters, the bytes of a checkpoint while a training
runs (that of its last run in the file, for which `--epochs 2` is enough), the seconds and the peak
resident memory.
"""

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np
from accuracy import drawn, enlarged, read_cifar, with_error
from jobs import run_jobs
from peak import peak_bytes

import tlkit

METHODS = {
    "all layers": {},
    "lora:8": {"adapters": "lora:8"},
    "biases": {"train": "bias"},
    "normalisation": {"train": "norm"},
}
SIZES = {"mobilenet_v2": 96, "vit": 32}
EPOCHS = {"mobilenet_v2": 10, "vit": 30}
NUM_CLASSES, PER_CLASS = 20, 50
PRETRAINING_EPOCHS = 6


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        network: A name of `SIZES`.
        method: "head", or a name of `METHODS`.
        seed: Seed of the draw of training images, and of the training.
        learning_rate: Of `fine_tune`; 0 for its default.
        epochs: Number of epochs; 0 for those of `EPOCHS`.
    """

    network: str
    method: str
    seed: int
    learning_rate: float = 0.0
    epochs: int = 0


def pretrain_vit(folder: Path, archive: str) -> None:
    """Trains a vision transformer on CIFAR-10, and saves it as a preset."""
    import keras_hub

    keras.utils.set_random_seed(0)
    backbone = keras_hub.models.ViTBackbone(
        image_shape=(32, 32, 3),
        patch_size=4,
        num_layers=6,
        num_heads=4,
        hidden_dim=96,
        mlp_dim=192,
    )
    arrays = read_cifar(archive)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.RandomFlip("horizontal")(inputs)
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(x)
    model = keras.Model(inputs, keras.layers.Dense(10)(backbone(x)[:, 0]))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    steps = PRETRAINING_EPOCHS * len(arrays["train"][1]) // 128
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps, alpha=0.01, warmup_target=1e-3, warmup_steps=300
    )
    model.compile(keras.optimizers.AdamW(rate), loss, metrics=["accuracy"])
    model.fit(*arrays["train"], batch_size=128, epochs=PRETRAINING_EPOCHS, verbose=2)
    print("CIFAR-10, test images:", model.evaluate(*arrays["test"], verbose=0))
    backbone.save_to_preset(str(folder))
    converter = keras_hub.layers.ViTImageConverter(
        image_size=(32, 32), scale=1 / 127.5, offset=-1.0
    )
    converter.save_to_preset(str(folder))


def run(job: Job, arguments: argparse.Namespace) -> dict[str, object]:
    """Runs a job in this process; returns its figures."""
    arrays = read_cifar(arguments.cifar, NUM_CLASSES)
    generator = np.random.default_rng(job.seed)
    images, labels = arrays["train"]
    chosen = drawn(labels, PER_CLASS, generator)
    left = np.setdiff1d(np.arange(len(labels)), chosen)
    test = np.concatenate([arrays["test"][0], images[left]])
    test_labels = np.concatenate([arrays["test"][1], labels[left]])
    size = SIZES[job.network]
    names = [str(number) for number in range(NUM_CLASSES)]
    data = tlkit.load_arrays(
        enlarged(images[chosen], size), labels[chosen], names, splits=(1, 0, 0), seed=job.seed
    )
    if job.network == "vit":
        model = tlkit.build_classifier(f"keras_hub:{arguments.work / 'vit'}", names, seed=job.seed)
    else:
        model = tlkit.build_classifier(
            job.network, names, image_size=size, weights=arguments.weights, seed=job.seed
        )
    started = time.perf_counter()
    num_trainable, sizes = 0, [0]
    with tempfile.TemporaryDirectory() as folder:
        given = {"seed": job.seed, "cache": f"{folder}/cache"}
        if job.method == "head":
            report = tlkit.train_head(model, data, head="linear", **given)
        else:
            report = tlkit.fine_tune(
                model,
                data,
                epochs=job.epochs or EPOCHS[job.network],
                learning_rate=job.learning_rate or None,
                run_directory=f"{folder}/run",
                callbacks=[
                    keras.callbacks.LambdaCallback(
                        on_epoch_begin=lambda epoch, logs: sizes.append(largest_file(folder))
                    )
                ],
                **METHODS[job.method],
                **given,
            )
        num_trainable = report.stages[-1].trainable.num_trainable
    seconds, peak = time.perf_counter() - started, peak_bytes()
    outputs = model.predict(enlarged(test, size).astype("float32"), verbose=0)
    return {
        **asdict(job),
        "accuracy": 100 * float(np.mean(outputs.argmax(axis=1) == test_labels)),
        "num_test": len(test_labels),
        "num_trainable": num_trainable,
        "checkpoint_bytes": max(sizes),
        "seconds": seconds,
        "mebibytes": peak / 2**20,
    }


def largest_file(folder: str) -> int:
    """Returns the size of the checkpoint in a run directory, in bytes."""
    files = [path for path in Path(folder, "run").rglob("*") if path.is_file()]
    return max((path.stat().st_size for path in files), default=0)


def print_tables(rows: list[dict]) -> None:
    """Prints one table for each network."""
    for network in SIZES:
        print(f"\n{network}, {EPOCHS[network]} epochs\n")
        print(
            "| | learning rate | accuracy | against all layers, paired | trainable parameters | "
            "checkpoint | seconds | memory | seeds |"
        )
        print(f"|{' --- |' * 9}")
        checkpoints = {
            row["method"]: row["checkpoint_bytes"] for row in rows if row["network"] == network
        }
        own = [row for row in rows if row["network"] == network and not row["epochs"]]
        whole = {row["seed"]: row for row in own if row["method"] == "all layers"}
        for method, rate in dict.fromkeys((row["method"], row["learning_rate"]) for row in own):
            some = [row for row in own if (row["method"], row["learning_rate"]) == (method, rate)]
            gains = [
                row["accuracy"] - whole[row["seed"]]["accuracy"]
                for row in some
                if row["seed"] in whole
            ]
            print(
                f"| {method} | {rate or 'default'} | "
                f"{with_error([row['accuracy'] for row in some])} % | "
                f"{with_error(gains, '+')} | {some[0]['num_trainable']:,} | "
                f"{checkpoints[method] / 2**20:.1f} MiB | "
                f"{np.mean([row['seconds'] for row in some]):.0f} | "
                f"{np.max([row['mebibytes'] for row in some]):,.0f} MiB | {len(some)} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cifar", required=True, help="archive of CIFAR-100")
    parser.add_argument("--cifar10", required=True, help="archive of CIFAR-10")
    parser.add_argument("--weights", required=True, help="weights of MobileNetV2")
    parser.add_argument("--work", required=True, type=Path, help="folder of the preset")
    parser.add_argument("--out", required=True, type=Path, help="file of results, added to")
    parser.add_argument("--networks", nargs="*", choices=SIZES, default=[*SIZES])
    parser.add_argument("--methods", nargs="*", default=["head", *METHODS])
    parser.add_argument("--learning-rate", type=float, default=0.0)
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        print(json.dumps(run(Job(**json.loads(arguments.job)), arguments)))
        return
    vit = arguments.work / "vit"
    if "vit" in arguments.networks and not (vit / "config.json").exists():
        pretrain_vit(vit, arguments.cifar10)
    jobs = [
        Job(network, method, seed, arguments.learning_rate, arguments.epochs)
        for seed in range(arguments.seeds)
        for network in arguments.networks
        for method in arguments.methods
    ]
    print_tables(run_jobs(jobs, Job, arguments.out))


if __name__ == "__main__":
    main()
