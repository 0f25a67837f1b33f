"""Checks that exported models work in environments without tlkit.

    python benchmarks/fresh_environments.py PHOTOS --environments FOLDER

Trains the head of `resnet20` on the images, exports the model to every format, and runs each export
in a separate virtual environment with the format's runtime and its dependencies, in the versions of
this environment. Environments are created in FOLDER when needed. Predictions for test images are
compared with those of the model in memory, with the tolerances of each format, as in every export.
The SavedModel is also run on encoded files, and the number of files for which it predicts the same
class as tlkit is printed.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from environments import python_with, versions_in

import tlkit
from tlkit.export.formats import EXPORT_FORMATS
from tlkit.export.parity import compare_probabilities, run_in_fresh_process
from tlkit.models.heads import probabilities

PACKAGES = {
    "tensorflow": ("tensorflow",),
    "keras": ("keras", "tensorflow"),
    "ai_edge_litert": ("ai-edge-litert",),
    "onnxruntime": ("onnxruntime",),
}
ASK_FILES = """
import importlib.util, json, sys
import tensorflow as tf
assert importlib.util.find_spec("tlkit") is None
folder, *files = sys.argv[1:]
ask = tf.saved_model.load(folder).signatures["serving_default"]
answers = ask(image_bytes=tf.constant([open(file, "rb").read() for file in files]))
print(json.dumps([label.decode() for label in answers["label"].numpy()]))
"""


def main() -> None:
    """Exports the model and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("photos")
    parser.add_argument("--environments", type=Path, required=True)
    given = parser.parse_args()
    data = tlkit.load_folder(given.photos, image_size=32)
    model = tlkit.build_classifier("resnet20", data.class_names)
    tlkit.train_head(model, data)
    batches = list(data.test.dataset())
    images = np.concatenate([images.numpy() for images, _ in batches]).astype(np.uint8)
    labels = np.concatenate([labels.numpy() for _, labels in batches])
    expected = np.asarray(probabilities(model(images.astype("float32"), training=False), model))
    print("| format | installed | difference | loss of accuracy | images | loading | per image |")
    print("| --- " * 7 + "|")
    files = "the SavedModel was not run"
    with tempfile.TemporaryDirectory() as work:
        exported = Path(work) / "exported"
        formats = tuple(EXPORT_FORMATS)
        tlkit.export_model(model, exported, data.class_names, formats=formats, calibrate=data.train)
        for name, one in EXPORT_FORMATS.items():
            packages = PACKAGES[one.runtime]
            python, reason = python_with(packages, given.environments.resolve() / one.runtime)
            if python is None:
                print(f"{name}: {reason}")
                continue
            path = exported / one.path
            answers = run_in_fresh_process(name, path, images, python=python)
            found = answers.outputs
            if name == "keras":  # returns logits
                found = np.asarray(probabilities(found, model))
            difference, drop = compare_probabilities(
                name, found, expected, kind="softmax", labels=labels
            )
            print(
                f"| {name} | {versions_in(python, packages)} | {difference:.1g} | "
                f"{100 * drop:.1f} points | {len(images)} | {answers.load_seconds:.2f} s | "
                f"{answers.milliseconds_per_image:.1f} ms |",
                flush=True,
            )
            if name == "saved_model":
                labels_there = labels_of_files(python, path, data.test.paths)
                own = [one.label for one in tlkit.predict(model, data.test.paths, data.class_names)]
                same = sum(a == b for a, b in zip(labels_there, own, strict=True))
                files = f"the SavedModel predicts the same class for {same} of {len(own)} files"
    print(files)


def labels_of_files(python: Path, folder: Path, files: tuple[str, ...]) -> list[str]:
    """Returns the predictions of a SavedModel for files, in an environment without tlkit."""
    command = [python, "-P", "-c", ASK_FILES, folder, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    labels: list[str] = json.loads(done.stdout)
    return labels


if __name__ == "__main__":
    main()
