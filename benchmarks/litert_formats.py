"""Measures the LiteRT formats: accuracies, and whether MediaPipe Tasks predicts the same classes.

    python benchmarks/litert_formats.py PHOTOS --environments FOLDER [--backbone B] [--weights FILE]

Trains the head of a backbone on the images and exports the model to every LiteRT format. The
exports are run on the same decoded test images (validation images without them) in a process that
has only LiteRT, and by MediaPipe's `ImageClassifier`, in a virtual environment of its own, on the
files, which it decodes and resizes itself; its classes are compared with those of `tlkit.predict`.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from environments import python_with, versions_in

import tlkit
from tlkit.evaluation.comparison import compare_outcomes
from tlkit.export.formats import EXPORT_FORMATS
from tlkit.export.parity import run_in_fresh_process

PACKAGES = ("mediapipe",)
CLASSIFY = """
import json, sys
import mediapipe as mp
model, answers, *files = sys.argv[1:]
tasks = mp.tasks
options = tasks.vision.ImageClassifierOptions(
    base_options=tasks.BaseOptions(model_asset_path=model), max_results=1)
with tasks.vision.ImageClassifier.create_from_options(options) as classifier:
    labels = [
        classifier.classify(mp.Image.create_from_file(file)).classifications[0].categories[0]
        .category_name for file in files]
with open(answers, "w", encoding="utf-8") as file:
    json.dump(labels, file)
"""


def main() -> None:
    """Exports the model and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("photos")
    parser.add_argument("--environments", type=Path, required=True)
    parser.add_argument("--backbone", default="mobilenet_025")
    parser.add_argument("--weights", default="pretrained")
    given = parser.parse_args()
    data = tlkit.load_folder(given.photos)
    model = tlkit.build_classifier(given.backbone, data.class_names, weights=given.weights)
    tlkit.train_head(model, data)
    test = data.test or data.validation
    pixels = [images.numpy().astype(np.uint8) for images, _ in test.dataset(shuffle=False)]
    images, labels = np.concatenate(pixels), test.labels
    own = [one.label for one in tlkit.predict(model, test.paths, data.class_names)]
    is_correct = np.array([data.class_names[label] for label in labels]) == own
    python, reason = python_with(PACKAGES, given.environments.resolve() / "mediapipe")
    print(f"{test.name}: {len(labels)} images; {reason or versions_in(python, PACKAGES)}")
    print("| format | bytes | accuracy | difference from memory | MediaPipe, as tlkit |")
    print("| --- " * 5 + "|")
    formats = [name for name, one in EXPORT_FORMATS.items() if one.runtime == "ai_edge_litert"]
    with tempfile.TemporaryDirectory() as work:
        exported = Path(work) / "exported"
        report = tlkit.export_model(
            model,
            exported,
            data.class_names,
            formats=formats,
            samples=test.paths[:8],
            calibrate=data.train,
            test=test,
        )
        for one in report.formats:
            outputs = run_in_fresh_process(one.name, one.path, images).outputs
            compared = compare_outcomes(is_correct, outputs.argmax(axis=1) == labels)
            low, high = (100 * end for end in compared.interval)
            there = reason
            if python is not None:
                found = mediapipe_labels(python, one.path, test.paths, Path(work) / "labels.json")
                same = sum(a == b for a, b in zip(found, own, strict=True))
                there = f"{same} of {len(own)}"
            print(
                f"| {one.name} | {one.num_bytes:,} | {100 * compared.accuracies[1]:.1f} % | "
                f"{100 * compared.difference:+.1f} points ({low:+.1f} to {high:+.1f}) | {there} |",
                flush=True,
            )
        print(f"in memory: {100 * compared.accuracies[0]:.1f} %")


def mediapipe_labels(python: Path, model: Path, files: tuple[str, ...], answers: Path) -> list[str]:
    """Returns the most probable class of each file by MediaPipe."""
    command = [python, "-P", "-c", CLASSIFY, model, answers, *files]
    subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    labels: list[str] = json.loads(answers.read_text(encoding="utf-8"))
    return labels


if __name__ == "__main__":
    main()
