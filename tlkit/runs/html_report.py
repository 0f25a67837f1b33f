"""A run as one page that needs nothing else: no network, no script, no other file."""

import io
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure

from tlkit.advice.backbones import BackboneComparison
from tlkit.continual.warm_start import ForgettingReport
from tlkit.data.reading import read_image
from tlkit.data.reports import DataReport
from tlkit.evaluation.comparison import ComparisonReport
from tlkit.evaluation.explanation import Explanation
from tlkit.evaluation.reports import EvaluationReport, Mistake
from tlkit.plots.backbones import plot_backbones
from tlkit.plots.drawing import MAX_IMAGES
from tlkit.plots.evaluation import MAX_CLASSES_IN_MATRIX, most_confused, plot_reliability
from tlkit.plots.figure import apart_from_pyplot
from tlkit.plots.thumbnails import inside, jpeg_address, thumbnail
from tlkit.plots.training import plot_drift, plot_training
from tlkit.runs.config import Choice
from tlkit.training.reports import TrainingReport
from tlkit.utils.files import written_aside
from tlkit.utils.formatting import megabytes, percent
from tlkit.utils.text_repr import visible

MAX_LISTED = 50

_TITLES = {
    "confusion": "What is taken for what",
    "mistakes": "The worst mistakes",
    "calibration": "How sure the model is",
    "choices": "What was chosen, and why",
    "training": "What trained",
    "probe": "Does fine-tuning beat a linear probe?",
    "forgetting": "Gain and forgetting",
    "data": "The images",
    "cost": "What it cost",
    "use": "Use the model",
    "run": "This run",
}
"""Headings of the page's sections in their order, by anchor."""


@dataclass(frozen=True)
class Page:
    """What the page of a run shows.

    Attributes:
        title: Its heading.
        folder: The run directory, as the user named it; holds `saved_model/` and `model.keras`.
        data: What was found in the images.
        training: What was trained.
        evaluations: The exported model on each split that it did not train on, "validation" and
            "test"; `None` for a split that there is not. The last one there is stands on top.
        seconds: Time that each part of the run took.
        facts: More to tell, by name: the backbone, the image size, versions.
        forgotten: What going on cost the task before, where there was one.
        choices: What the run chose by itself, by name.
        cost: What training was projected to cost, what `CostReport.as_dict` returned; `None` where
            that was not projected.
        calibration: What became of the probabilities, in words.
        is_calibrated: Whether a temperature was put into the model.
        against_probe: A linear probe (first) and the model (second) on the split on top; `None`
            where there is no such comparison.
        rejection: When an image is unknown and how often that is wrong, in words.
        maps: What speaks for the wrong class in a mistake, by the mistake's index.
        training_images: Some images as training saw them, uint8 `(height, width, 3)`, each with
            the name of its class.
        augmentation: How they were augmented, by name.
        summary: What stands beside the result at the top, by name: what ran, on what, the
            "command", the date, the machine.
    """

    title: str
    folder: str
    data: DataReport
    training: TrainingReport
    evaluations: Mapping[str, EvaluationReport | None]
    seconds: Mapping[str, float]
    facts: Mapping[str, str]
    forgotten: ForgettingReport | None = None
    choices: Mapping[str, Choice] = field(default_factory=dict)
    cost: Mapping[str, Any] | None = None
    calibration: str = ""
    is_calibrated: bool = False
    against_probe: ComparisonReport | None = None
    rejection: Sequence[str] = ()
    maps: Mapping[int, Explanation] = field(default_factory=dict)
    training_images: Sequence[tuple[np.ndarray, str]] = ()
    augmentation: str = "none"
    summary: Mapping[str, str] = field(default_factory=dict)


@apart_from_pyplot()
def write_report(path: Path, page: Page) -> None:
    """Writes the page as one HTML file, which appears whole.

    Class names and file names come from strangers: all of them are escaped, and the page forbids
    scripts and requests. The worst mistakes are read from their files once more; one that has
    gone is shown without its image.

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
    environment.filters |= {
        "percent": _percent,
        "duration": _duration,
        "parameters": _parameters,
        "megabytes": _megabytes,
        "sentence": _sentence,
    }
    template = environment.from_string(
        resources.files("tlkit").joinpath("runs/report.html.jinja").read_text("utf-8")
    )
    candidates = _candidates(page.choices)
    html = template.render(
        page=page,
        split=split,
        evaluation=evaluation,
        sections=_sections(page, evaluation),
        others={name: one for name, one in measured.items() if name != split},
        curves=_curves(page.training),
        drift=_svg(plot_drift(page.training))
        if any(one.weight_change for one in page.training.stages)
        else None,
        classes=_classes(page.data, evaluation),
        matrix=_matrix(evaluation),
        mistakes=_mistake_images(evaluation, page.maps),
        candidates=candidates,
        backbones=_svg(plot_backbones(candidates)) if candidates and candidates.scores else None,
        verdict=_verdict(page.against_probe),
        reliability=_reliability(evaluation),
        training_images=[(jpeg_address(pixels), name) for pixels, name in page.training_images],
        has_auc=evaluation is not None and evaluation.roc_auc is not None,
        max_listed=MAX_LISTED,
        max_images=MAX_IMAGES,
        usage=_usage(Path(page.folder), knows_unknown=bool(page.rejection)),
    )
    with written_aside(path) as aside:
        aside.write_text(visible(html), encoding="utf-8")


def _sections(page: Page, evaluation: EvaluationReport | None) -> dict[str, str]:
    """The headings of the sections that the page has, by their anchors."""
    there = {
        "confusion": evaluation is not None and evaluation.confusion is not None,
        "mistakes": evaluation is not None,
        "calibration": evaluation is not None,
        "choices": bool(page.choices),
        "probe": page.against_probe is not None,
        "forgetting": page.forgotten is not None,
    }
    return {name: title for name, title in _TITLES.items() if there.get(name, True)}


def _curves(report: TrainingReport) -> str | None:
    """The curves of all epochs as the address of an SVG image inside the page."""
    if not any(stage.history for stage in report.stages):
        return None
    return _svg(plot_training(report))


def _svg(figure: Figure) -> str:
    svg = io.StringIO()
    figure.savefig(svg, format="svg", metadata={"Date": None})
    return inside("image/svg+xml", svg.getvalue().encode())


def _reliability(evaluation: EvaluationReport | None) -> str | None:
    return None if evaluation is None else _svg(plot_reliability(evaluation.reliability))


def _candidates(choices: Mapping[str, Choice]) -> BackboneComparison | None:
    """What a backbone was chosen from, where it was chosen."""
    choice = choices.get("backbone")
    if choice is None or choice.comparison is None:
        return None
    return BackboneComparison.from_dict(choice.comparison)


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


def _mistake_images(
    evaluation: EvaluationReport | None, maps: Mapping[int, Explanation]
) -> Iterator[tuple[Mistake, str | None, str | None]]:
    """Each mistake with its image, where that is still there, and its map, where there is one."""
    for mistake in evaluation.mistakes[:MAX_IMAGES] if evaluation else ():
        file = Path(mistake.path) if mistake.path is not None else None
        if file is None or not file.is_file():
            yield mistake, None, None
            continue
        pixels = thumbnail(read_image(file))
        explanation = maps.get(mistake.index)
        overlay = None if explanation is None else jpeg_address(explanation.over(pixels))
        yield mistake, jpeg_address(pixels), overlay


def _verdict(against_probe: ComparisonReport | None) -> str:
    if against_probe is None:
        return ""
    if not against_probe.is_beyond_noise:
        return (
            "Too close to call: chance alone would show a difference like this often enough. The "
            "head alone, which takes no training in epochs, may do as well."
        )
    is_balanced = against_probe.balanced_accuracies is not None
    if against_probe.verdict == "the second is better":
        what = (
            "its balanced accuracy is higher than that of"
            if is_balanced
            else ("it is right more often than")
        )
        return f"Yes, beyond noise: {what} the head alone, on the same images."
    what = "has the higher balanced accuracy" if is_balanced else "is right more often"
    return f"No: beyond noise, the head alone {what}, on the same images."


def _usage(folder: Path, *, knows_unknown: bool) -> dict[str, str]:
    saved_model, keras_file = str(folder / "saved_model"), str(folder / "model.keras")
    run, known = shlex.quote(str(folder)), ', answers["known"].numpy()[0]' * knows_unknown
    return {
        "In a shell": f"tlkit predict {run} photo.jpg",
        "As a server, for this machine": (
            f"tlkit serve {run} --port 8000  # a page to drop images on at "
            "localhost:8000\ncurl --data-binary @photo.jpg localhost:8000/predict"
        ),
        "As a server, with TensorFlow Serving": (
            f"tlkit export {run} --to serving --format saved_model --version 1\n"
            'docker run -p 8501:8501 -v "$PWD/serving:/models/photos" -e MODEL_NAME=photos '
            "tensorflow/serving\n"
            """echo '{"instances": [{"image_bytes": {"b64": "'$(base64 -w0 photo.jpg)'"}}]}' |\n"""
            "    curl -d @- localhost:8501/v1/models/photos:predict"
        ),
        "In Python, without tlkit": (
            "import tensorflow as tf\n\n"
            f"model = tf.saved_model.load({saved_model!r})\n"
            'serve = model.signatures["serving_default"]\n'
            'answers = serve(image_bytes=tf.constant([open("photo.jpg", "rb").read()]))\n'
            'print(answers["label"].numpy()[0].decode(), answers["probabilities"].numpy()[0]'
            f"{known})"
        ),
        "In Python, to train further": (
            "import keras\n\n"
            f"model = keras.saving.load_model({keras_file!r})  # pixels 0...255 in, logits out"
        ),
    }


def _percent(fraction: float) -> str:
    return _unbroken(percent(fraction))


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f}\N{NO-BREAK SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}\N{NO-BREAK SPACE}min {rest:02d}\N{NO-BREAK SPACE}s"


def _parameters(number: int) -> str:
    return f"{number:,}"


def _megabytes(num_bytes: float) -> str:
    return _unbroken(megabytes(num_bytes))


def _unbroken(text: str) -> str:
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _sentence(text: str) -> str:
    """With a capital letter and a full stop; names within stay as they are."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
