"""Whether a model that is exported today answers where tlkit has never been installed.

    python benchmarks/fresh_environments.py PHOTOS --environments FOLDER

Trains `resnet20`'s head on the images, exports it to every format, and asks each file in a
virtual environment of its own that holds the format's runtime and what that needs, at this
environment's versions. Environments are made in FOLDER the first time. What is said there about
test images is held to the format's bounds, as at every export, with the labels; the SavedModel
is asked about files too, by its signature for encoded images, and how often it names the class
that tlkit names is printed.
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
from tlkit.export.parity import ask_in_fresh_process, compare_answers
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
    """Reads the command line."""
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
    print("| format | installed | difference | accuracy lower by | images | loads in | an image |")
    print("| --- " * 7 + "|")
    files = "the SavedModel was not asked"
    with tempfile.TemporaryDirectory() as work:
        exported = Path(work) / "exported"
        tlkit.export_model(model, exported, data.class_names, formats=tuple(EXPORT_FORMATS))
        for name, one in EXPORT_FORMATS.items():
            packages = PACKAGES[one.runtime]
            python, reason = python_with(packages, given.environments.resolve() / one.runtime)
            if python is None:
                print(f"{name}: {reason}")
                continue
            path = exported / one.place
            answers = ask_in_fresh_process(name, path, images, python=python)
            found = answers.outputs
            if name == "keras":  # it gives logits
                found = np.asarray(probabilities(found, model))
            difference, drop = compare_answers(name, found, expected, kind="softmax", labels=labels)
            print(
                f"| {name} | {versions_in(python, packages)} | {difference:.1g} | "
                f"{100 * drop:.1f} points | {len(images)} | {answers.load_seconds:.2f} s | "
                f"{answers.milliseconds_per_image:.1f} ms |",
                flush=True,
            )
            if name == "saved_model":
                said = labels_of_files(python, path, data.test.paths)
                own = [one.label for one in tlkit.predict(model, data.test.paths, data.class_names)]
                same = sum(a == b for a, b in zip(said, own, strict=True))
                files = f"of {len(own)} files the SavedModel names the same class for {same}"
    print(files)


def labels_of_files(python: Path, folder: Path, files: tuple[str, ...]) -> list[str]:
    """What a SavedModel says of files, where there is no tlkit."""
    command = [python, "-P", "-c", ASK_FILES, folder, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    said: list[str] = json.loads(done.stdout)
    return said


if __name__ == "__main__":
    main()
