"""Compares plain Keras's guide recipe, KerasHub's `ImageClassifier` and tlkit on one task.

    python benchmarks/peers.py PHOTOS --weights FILE --environments FOLDER [--seeds 2]

For each seed, the folder is split once, by tlkit, into folders for training, validation and test.
Every library starts from the same MobileNet weights at 224 pixels and uses the same files. Each run
is a separate process in a virtual environment that contains only what users of the library would
install, with TensorFlow and Keras in the versions of this environment. Environments are created in
FOLDER when needed, or given: `--python KerasHub=/path/to/python`. If a library cannot be installed,
the reason is printed.

The recipes are in `recipes.py`; "lines" are the lines that a user has to write, where building the
backbone counts as one. Times include reading the images, but not imports and evaluation on test
images. Memory is the peak resident memory of the process, including imports. Accuracy is on test
images, which are not used for any decision.
"""

import argparse
import dataclasses
import importlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import recipes
from environments import python_with, versions_in
from peak import peak_bytes

WIDTH, BACKBONE, IMAGE_SIZE = 0.25, "mobilenet_025", 224
PACKAGES = {
    "plain Keras": ("keras", "tensorflow"),
    "KerasHub": ("keras", "tensorflow", "keras-hub"),
    "tlkit": ("keras", "tensorflow", "tlkit"),
}
PHASES = {
    "plain Keras": {recipes.FROZEN: "frozen base", recipes.TUNED: "complete recipe of its guide"},
    "KerasHub": {recipes.FROZEN: "frozen backbone", recipes.TUNED: "then all layers"},
    "tlkit": {recipes.FROZEN: "`train_head`", recipes.TUNED: "then `fine_tune`, defaults"},
}


@dataclass(frozen=True)
class Figures:
    """The results of a recipe at the end of a phase.

    Attributes:
        phase: One of the phases in `recipes`.
        accuracy: On the test images, 0...1.
        seconds: Since the start of the recipe.
        mebibytes: Peak resident memory so far.
        lines: Lines that a user writes up to this phase.
    """

    phase: str
    accuracy: float
    seconds: float
    mebibytes: float
    lines: int


def run_recipe(peer: str, folder: Path, weights: str, epochs: int, seed: int) -> list[Figures]:
    """Runs a recipe in this process."""
    import keras

    importlib.import_module({"KerasHub": "keras_hub", "tlkit": "tlkit"}.get(peer, "tensorflow"))
    keras.utils.set_random_seed(seed)

    def build_base() -> keras.Model:
        size = (IMAGE_SIZE, IMAGE_SIZE, 3)
        return keras.applications.MobileNet(size, WIDTH, include_top=False, weights=weights)

    if peer == "tlkit":
        recipe = recipes.with_tlkit
        phases = recipe(folder, BACKBONE, weights)
    else:
        recipe = {"plain Keras": recipes.plain_keras, "KerasHub": recipes.keras_hub}[peer]
        phases = recipe(folder, build_base, epochs)
    lines = recipes.lines_of(recipe)
    return [
        Figures(phase, accuracy(), seconds, peak_bytes() / 2**20, lines[phase])
        for phase, accuracy, seconds in timed(phases)
        if accuracy is not None
    ]


def timed(phases: recipes.Phases) -> Iterator[tuple[str, Callable[[], float] | None, float]]:
    """Adds to each phase the seconds since the start, without the time spent by the caller."""
    seconds, started = 0.0, time.perf_counter()
    for phase, accuracy in phases:
        seconds += time.perf_counter() - started
        yield phase, accuracy, seconds
        started = time.perf_counter()


def lay_out(photos: str, folder: Path, seed: int, limit: int | None) -> int:
    """Splits the images, `limit` of each class and split; returns the number of test images."""
    import tlkit

    data = tlkit.load_folder(photos, seed=seed)
    if limit is not None:
        splits = {name: getattr(data, name) for name in ("train", "validation", "test")}
        data = dataclasses.replace(
            data,
            **{
                name: split.subset(
                    np.concatenate(
                        [np.flatnonzero(split.labels == k)[:limit] for k in range(data.num_classes)]
                    )
                )
                for name, split in splits.items()
            },
        )
    recipes.lay_out(data, folder)
    return data.test.num_images


def run_apart(
    peer: str, python: Path, folder: Path, given: argparse.Namespace, seed: int
) -> list[Figures]:
    """Runs a recipe in a separate process and environment, with an empty cache."""
    weights = str(Path(given.weights).resolve())
    command = [python, "-W", "ignore::UserWarning", __file__, folder]
    command += ["--weights", weights, "--recipe", peer]
    command += ["--seed", str(seed), "--epochs", str(given.epochs)]
    with tempfile.TemporaryDirectory() as cache:
        # only installed packages, not this working directory
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"TLKIT_CACHE": cache, "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, env=environment
        )
    return [Figures(**one) for one in json.loads(done.stdout.splitlines()[-1])]


def table(results: dict[str, list[list[Figures]]]) -> str:
    """Returns one row for each phase of each library: means over seeds, and their accuracies."""
    lines = ["| | test accuracy | each seed | seconds | peak memory | lines |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for peer, runs in results.items():
        for phases in zip(*runs, strict=True):
            each = ", ".join(f"{100 * one.accuracy:.1f}" for one in phases)
            accuracy, seconds, memory = (
                np.mean([getattr(one, name) for one in phases])
                for name in ("accuracy", "seconds", "mebibytes")
            )
            lines.append(
                f"| {peer}, {PHASES[peer][phases[0].phase]} | {100 * accuracy:.1f} % | {each} "
                f"| {seconds:.1f} | {memory:,.0f} MiB | {phases[0].lines} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos")
    parser.add_argument("--weights", required=True, help="MobileNet 0.25 at 224, without its top")
    parser.add_argument("--environments", type=Path, help="folder for the virtual environments")
    parser.add_argument("--python", action="append", default=[], metavar="PEER=FILE")
    parser.add_argument("--peers", nargs="+", choices=PACKAGES, default=list(PACKAGES))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument(
        "--epochs",
        type=int,
        default=recipes.EPOCHS,
        help="epochs of each phase of the other libraries",
    )
    parser.add_argument("--limit", type=int, help="number of images of each class and split")
    parser.add_argument("--recipe", choices=PACKAGES, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.recipe:
        folder = Path(given.photos)
        figures = run_recipe(given.recipe, folder, given.weights, given.epochs, given.seed)
        print(json.dumps([asdict(one) for one in figures]))
        return
    pythons = {peer: Path(file) for peer, _, file in (one.partition("=") for one in given.python)}
    if given.environments is None and set(given.peers) - set(pythons):
        parser.error("--environments must be given, or a --python for every peer")
    for peer in [peer for peer in given.peers if peer not in pythons]:
        place = given.environments.resolve() / peer.lower().replace(" ", "-")
        python, reason = python_with(PACKAGES[peer], place)
        if python is None:
            print(f"{peer}: {reason}", flush=True)
        else:
            pythons[peer] = python
    peers = [peer for peer in given.peers if peer in pythons]
    results: dict[str, list[list[Figures]]] = {peer: [] for peer in peers}
    num_test = []
    for seed in range(given.seeds):
        with tempfile.TemporaryDirectory() as temporary:
            num_test.append(lay_out(given.photos, Path(temporary), seed, given.limit))
            for peer in peers:
                figures = run_apart(peer, pythons[peer], Path(temporary), given, seed)
                results[peer].append(figures)
                results_of_run = "; ".join(
                    f"{one.phase} {100 * one.accuracy:.1f} % in {one.seconds:.1f} s"
                    for one in figures
                )
                print(f"seed {seed}, {peer}: {results_of_run}", flush=True)
    print(f"\n{given.seeds} seeds, {', '.join(map(str, num_test))} test images\n")
    print(table(results))
    for peer in peers:
        print(f"{peer}: {versions_in(pythons[peer], PACKAGES[peer])}")


if __name__ == "__main__":
    main()
