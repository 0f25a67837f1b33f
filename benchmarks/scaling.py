"""The speed-up of a second worker, and the traffic of each step, over loopback.

    python benchmarks/scaling.py [--steps 20]

Each worker is a process on its own CPU, with one thread. With "larger batches", each worker gets as
many images as one worker alone; with "same batches", the batch of one worker is divided among them.
Efficiency is the number of images per second of two workers, divided by twice that of one. Bytes
are counted on the loopback device during training, so nothing else should use it. They are compared
with the traffic of a ring all-reduce: each of n workers sends 2 (n - 1) / n times the gradients.

To estimate other cases: a step takes as long as the largest shard of its batch takes alone, plus
the bytes that a worker sends divided by the bandwidth of its network, plus the time until the
slowest worker arrives. The gradients of all trainable weights are sent, in float32, regardless of
the batch size; frozen weights are not.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODELS = {"resnet20": ("all", 32, 64), "mobilenet_025": ("all", 128, 16)}
"""Trainable groups, image size, and batch size of one worker."""

WARM_UP = 5
SECONDS = 300


def received() -> int:
    """Returns the number of bytes received over loopback."""
    lines = Path("/proc/net/dev").read_text(encoding="utf-8").splitlines()
    (counts,) = (line.split(":")[1].split() for line in lines if line.strip().startswith("lo:"))
    return int(counts[0])


def work(index: int, num_workers: int, batches: float, steps: int, out: Path) -> None:
    """Trains each model, and writes the measurements."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[index]})
    os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    import numpy as np

    import tlkit

    class Clock(keras.callbacks.Callback):
        """Records the time and the received bytes after each step."""

        def __init__(self) -> None:
            super().__init__()
            self.seen: list[tuple[float, int]] = []

        def on_train_batch_end(self, batch, logs=None) -> None:
            """Records them."""
            self.seen.append((time.perf_counter(), received()))

    strategy = tlkit.distribution_strategy("multi-worker" if num_workers > 1 else "auto")
    measured = {}
    for name, (groups, size, images_alone) in MODELS.items():
        batch_size = int(batches * images_alone)
        generator = np.random.default_rng(0)
        num_images = batch_size * (WARM_UP + steps)
        images = generator.integers(0, 255, (num_images, size, size, 3), "uint8")
        data = tlkit.load_arrays(
            images, np.arange(num_images) % 2, ["a", "b"], batch_size=batch_size, splits=(1, 0, 0)
        )
        clock = Clock()
        with strategy.scope():
            model = tlkit.build_classifier(name, data.class_names, image_size=size, weights=None)
            model.get_layer("logits").bias.assign([0.1, 0.2])  # so that the head counts as trained
            tlkit.fine_tune(
                model, data, unfreeze=groups, epochs=1, augment="none", views=0, callbacks=[clock]
            )
        (started, before), (ended, after) = clock.seen[WARM_UP - 1], clock.seen[-1]
        measured[name] = {
            "seconds": (ended - started) / steps,
            "sent": (after - before) / steps / num_workers,
            "gradients": 4 * sum(int(np.prod(v.shape)) for v in model.trainable_variables),
            "batch_size": batch_size,
        }
    out.write_text(json.dumps(measured), encoding="utf-8")


def measure(num_workers: int, batches: float, steps: int) -> dict[str, dict[str, float]]:
    """Runs the workers; returns the measurements of the chief."""
    with tempfile.TemporaryDirectory() as folder:
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(num_workers)]
        addresses = [f"localhost:{one.getsockname()[1]}" for one in sockets]
        for one in sockets:
            one.close()
        processes = []
        try:
            for index in range(num_workers):
                environment = {**os.environ, "TLKIT_CACHE": f"{folder}/cache-{index}"}
                if num_workers > 1:
                    task = {"type": "worker", "index": index}
                    cluster = {"cluster": {"worker": addresses}, "task": task}
                    environment["TF_CONFIG"] = json.dumps(cluster)
                settings = [str(index), str(num_workers), str(batches), str(steps)]
                command = [
                    sys.executable,
                    __file__,
                    "--worker",
                    *settings,
                    f"{folder}/{index}.json",
                ]
                processes.append(subprocess.Popen(command, env=environment))
            for process in processes:
                if process.wait(SECONDS):
                    raise SystemExit("a worker has failed")
        finally:
            for process in processes:
                process.kill()
        return json.loads(Path(folder, "0.json").read_text(encoding="utf-8"))


def main() -> None:
    """Prints a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        index, num_workers, batches, steps, out = arguments.worker
        work(int(index), int(num_workers), float(batches), int(steps), Path(out))
        return
    alone = measure(1, 1, arguments.steps)
    larger = measure(2, 2, arguments.steps)
    same = measure(2, 1, arguments.steps)
    for name, one in alone.items():
        speed = one["batch_size"] / one["seconds"]
        print(
            f"{name}, {one['gradients'] / 1e6:.2f} MB of gradients: one worker, batches of "
            f"{one['batch_size']}: {1000 * one['seconds']:.0f} ms per step, {speed:.1f} images/s"
        )
        for words, two in (("larger batches", larger[name]), ("same batches", same[name])):
            both = two["batch_size"] / two["seconds"]
            print(
                f"  two workers, {words} ({two['batch_size']}): {1000 * two['seconds']:.0f} ms "
                f"per step, {both:.1f} images/s, efficiency {both / speed / 2:.2f}; each sends "
                f"{two['sent'] / 1e6:.2f} MB per step (ring: {two['gradients'] / 1e6:.2f} MB)"
            )


if __name__ == "__main__":
    main()
