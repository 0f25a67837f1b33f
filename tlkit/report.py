"""A run as one page that needs nothing else: no network, no script, no other file."""

import base64
import io
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import tensorflow as tf

from tlkit.continual.going_on import ForgettingReport
from tlkit.data.decoding import decode_image
from tlkit.data.exif import read_orientation, swaps_sides
from tlkit.data.headers import is_jpeg, jpeg_size, other_size
from tlkit.data.reports import DataReport
from tlkit.evaluation.reports import EvaluationReport, Mistake
from tlkit.files import written_aside
from tlkit.plots import MAX_CLASSES_IN_MATRIX, MAX_IMAGES, most_confused, training
from tlkit.training.reports import TrainingReport

MAX_LISTED = 50
THUMBNAIL_PIXELS = 192


@dataclass(frozen=True)
class Page:
    """What the page of a run shows.

    Attributes:
        title: Its heading.
        folder: The run directory, as the user named it; holds `saved_model/` and `model.keras`.
        data: What was found in the photographs.
        training: What was trained.
        evaluations: The exported model on each split that it did not train on, "validation" and
            "test"; `None` for a split that there is not. The last one there is stands on top.
        seconds: Time that each part of the run took.
        facts: More to tell, by name: the backbone, the image size, versions.
        forgotten: What going on cost the task before, where there was one.
    """

    title: str
    folder: str
    data: DataReport
    training: TrainingReport
    evaluations: Mapping[str, EvaluationReport | None]
    seconds: Mapping[str, float]
    facts: Mapping[str, str]
    forgotten: ForgettingReport | None = None


def write_report(path: Path, page: Page) -> None:
    """Writes the page as one HTML file, which appears whole.

    Class names and file names come from strangers: all of them are escaped, and the page forbids
    scripts and requests. The worst mistakes are read from their files once more; one that has
    gone is shown without its picture.

    Args:
        path: The file.
        page: What it shows.
    """
    measured = {name: one for name, one in page.evaluations.items() if one is not None}
    split = list(measured)[-1] if measured else None
    evaluation = measured[split] if split else None
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": _percent, "duration": _duration, "parameters": _parameters}
    template = environment.from_string(
        resources.files("tlkit").joinpath("report.html.jinja").read_text("utf-8")
    )
    html = template.render(
        page=page,
        split=split,
        evaluation=evaluation,
        others={name: one for name, one in measured.items() if name != split},
        curves=_curves(page.training),
        classes=_classes(page.data, evaluation),
        matrix=_matrix(evaluation),
        mistakes=_pictured(evaluation),
        max_listed=MAX_LISTED,
        max_images=MAX_IMAGES,
        usage=_usage(Path(page.folder)),
    )
    with written_aside(path) as aside:
        aside.write_text(html, encoding="utf-8")


def _curves(report: TrainingReport) -> str | None:
    """The curves of all epochs as the address of an SVG picture inside the page."""
    if not any(stage.history for stage in report.stages):
        return None
    svg = io.StringIO()
    training(report).savefig(svg, format="svg", metadata={"Date": None})
    return _inside("image/svg+xml", svg.getvalue().encode())


def _classes(data: DataReport, evaluation: EvaluationReport | None) -> list[dict[str, Any]]:
    """One row for each class: images in each split, and the scores."""
    scores = {score.name: score for score in evaluation.per_class} if evaluation else {}
    largest = max((sum(counts.values()) for counts in data.counts.values()), default=0)
    return [
        {
            "name": name,
            "counts": counts,
            "share": sum(counts.values()) / max(largest, 1),
            "score": scores.get(name),
        }
        for name, counts in data.counts.items()
    ]


def _matrix(evaluation: EvaluationReport | None) -> dict[str, Any] | None:
    if evaluation is None or evaluation.confusion is None:
        return None
    confusion = evaluation.confusion
    chosen = most_confused(confusion, MAX_CLASSES_IN_MATRIX)
    totals = np.maximum(confusion.sum(axis=1), 1)
    return {
        "names": [evaluation.class_names[index] for index in chosen],
        "num_left_out": len(confusion) - len(chosen),
        "rows": [
            [
                (int(confusion[truth, said]), float(confusion[truth, said] / totals[truth]))
                for said in chosen
            ]
            for truth in chosen
        ],
    }


def _pictured(evaluation: EvaluationReport | None) -> Iterator[tuple[Mistake, str | None]]:
    for mistake in evaluation.mistakes[:MAX_IMAGES] if evaluation else ():
        file = Path(mistake.path) if mistake.path is not None else None
        is_there = file is not None and file.is_file()
        yield mistake, _thumbnail(file.read_bytes()) if file and is_there else None


def _thumbnail(image_bytes: bytes) -> str:
    """The picture, upright and in its proportions, as the address of a JPEG inside the page."""
    content = tf.constant(image_bytes)
    measure = jpeg_size if is_jpeg(content) else other_size
    height, width, num_pixels = (int(number) for number in measure(content))
    if is_jpeg(content) and swaps_sides(read_orientation(content)):
        height, width = width, height
    scale = min(1.0, THUMBNAIL_PIXELS / max(height, width))
    sides = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = decode_image(content, sides, max_pixels=num_pixels)
    return _inside("image/jpeg", tf.io.encode_jpeg(small, quality=82).numpy())


def _inside(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _usage(folder: Path) -> dict[str, str]:
    saved_model, keras_file = str(folder / "saved_model"), str(folder / "model.keras")
    return {
        "In a shell": f"tlkit predict {shlex.quote(str(folder))} photo.jpg",
        "In Python, without tlkit": (
            "import tensorflow as tf\n\n"
            f"model = tf.saved_model.load({saved_model!r})\n"
            'serve = model.signatures["serving_default"]\n'
            'answers = serve(image_bytes=tf.constant([open("photo.jpg", "rb").read()]))\n'
            'print(answers["label"].numpy()[0].decode(), answers["probabilities"].numpy()[0])'
        ),
        "In Python, to train further": (
            "import keras\n\n"
            f"model = keras.saving.load_model({keras_file!r})  # pixels 0...255 in, logits out"
        ),
    }


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f}\N{NO-BREAK SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}\N{NO-BREAK SPACE}min {rest:02d}\N{NO-BREAK SPACE}s"


def _parameters(number: int) -> str:
    return f"{number:,}"
