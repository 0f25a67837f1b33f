"""The report of a run: one self-contained HTML page without scripts or network requests."""

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
from tlkit.advice.learning_curve import LearningCurveReport
from tlkit.continual.warm_start import ForgettingReport
from tlkit.data.reading import read_image
from tlkit.data.reports import DataReport
from tlkit.displays.activity import duration
from tlkit.evaluation.comparison import ComparisonReport
from tlkit.evaluation.explanation import Explanation
from tlkit.evaluation.reports import EvaluationReport, Mistake
from tlkit.plots.backbones import plot_backbones
from tlkit.plots.drawing import MAX_IMAGES
from tlkit.plots.evaluation import MAX_CLASSES_IN_MATRIX, most_confused, plot_reliability
from tlkit.plots.figure import without_pyplot
from tlkit.plots.learning_curve import plot_learning_curve
from tlkit.plots.thumbnails import data_url, jpeg_url, thumbnail
from tlkit.plots.training import plot_drift, plot_training
from tlkit.runs.config import Choice
from tlkit.training.reports import TrainingReport
from tlkit.utils.files import written_aside
from tlkit.utils.formatting import interval, megabytes, percent, relative_change, sample_text
from tlkit.utils.text_repr import visible

MAX_LISTED = 50

_TITLES = {
    "confusion": "Confusion matrix",
    "labels": "Labels",
    "mistakes": "Worst mistakes",
    "calibration": "Calibration",
    "choices": "Choices of the run",
    "training": "Training",
    "probe": "Comparison with the head alone",
    "more": "More training images",
    "forgetting": "Forgetting",
    "data": "Data",
    "cost": "Cost",
    "use": "Using the model",
    "run": "Settings and versions",
}
"""Headings of the page's sections in order, by anchor."""


@dataclass(frozen=True)
class Page:
    """The content of a run's page.

    Attributes:
        title: The page's heading.
        folder: The run directory, as the user wrote it; holds `saved_model/` and `model.keras`.
        data: Report of the images.
        training: Report of the training.
        evaluations: Evaluation of the exported model on "validation" and "test"; `None` for a
            split without images. The last one that exists is shown at the top.
        seconds: Seconds of each part of the run.
        facts: Settings and versions, by name.
        forgotten: Forgetting of an earlier task; `None` if there is none.
        choices: The choices that the run made itself, by name.
        cost: The projected cost, as returned by `CostReport.as_dict`; `None` if there is none.
        calibration: Description of the calibration.
        is_calibrated: Whether a temperature was put into the model.
        shipped: Which of the fine-tuned model and the head alone was exported, and why; "" if there
            was one of them only.
        cross_validation: Out-of-fold evaluation of the whole recipe on all images; `None` without
            folds.
        refit: Description of the last training on all images; "" without it.
        against_probe: Comparison of the head alone (first) with the fine-tuned model (second) on
            the split at the top; `None` if it was not made.
        learning_curve: What twice as many training images would bring; `None` if it was not asked.
        rejection: Lines that describe the rejection of out-of-distribution images.
        maps: Grad-CAM map of the predicted class for a mistake, by the mistake's index.
        training_images: Some training images after augmentation, uint8 `(height, width, 3)`, each
            with the name of its class.
        augmentation: Name of their augmentation.
        summary: Entries below the result at the top, by name: task, data, "command", date, machine.
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
    shipped: str = ""
    cross_validation: EvaluationReport | None = None
    refit: str = ""
    against_probe: ComparisonReport | None = None
    learning_curve: LearningCurveReport | None = None
    rejection: Sequence[str] = ()
    maps: Mapping[int, Explanation] = field(default_factory=dict)
    training_images: Sequence[tuple[np.ndarray, str]] = ()
    augmentation: str = "none"
    summary: Mapping[str, str] = field(default_factory=dict)


@without_pyplot()
def write_report(path: Path, page: Page) -> None:
    """Writes the page as one HTML file, atomically.

    Class names and file names are untrusted: all of them are escaped, and the page forbids scripts
    and requests. Images of the worst mistakes are read from their files again; a mistake whose
    file is gone is shown without its image.

    Args:
        path: The file.
        page: The content.
    """
    measured = {name: report for name, report in page.evaluations.items() if report is not None}
    split = list(measured)[-1] if measured else None
    evaluation = measured[split] if split else None
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "percent": lambda fraction: _without_breaks(percent(fraction)),
        "duration": lambda seconds: _without_breaks(duration(seconds)),
        "megabytes": lambda num_bytes: _without_breaks(megabytes(num_bytes)),
        "change": lambda change: _without_breaks(relative_change(change)),
        "thousands": lambda number: f"{number:,}",
        "sentence": _sentence,
    }
    environment.globals |= {"sample_text": sample_text, "interval": interval}
    template = environment.from_string(
        resources.files("tlkit").joinpath("runs/report.html.jinja").read_text("utf-8")
    )
    comparisons = _comparisons(page.choices)
    html = template.render(
        page=page,
        split=split,
        evaluation=evaluation,
        sections=_sections(page, evaluation),
        others={name: report for name, report in measured.items() if name != split},
        curves=_plot_curves(page.training),
        drift=_svg(plot_drift(page.training))
        if any(stage.weight_change for stage in page.training.stages)
        else None,
        classes=_class_rows(page.data, evaluation),
        matrix=_confusion_matrix(evaluation),
        label_rows=[] if evaluation is None else evaluation.label_rows(),
        mistakes=_load_mistakes(evaluation, page.maps),
        comparisons=comparisons,
        comparison_plots={
            name: _svg(plot_backbones(one)) for name, one in comparisons.items() if one.scores
        },
        verdict=_verdict(page.against_probe),
        learning_curve=_svg(plot_learning_curve(page.learning_curve))
        if page.learning_curve and page.learning_curve.measured
        else None,
        reliability=None if evaluation is None else _svg(plot_reliability(evaluation.reliability)),
        training_images=[(jpeg_url(pixels), name) for pixels, name in page.training_images],
        has_auc=evaluation is not None and evaluation.roc_auc is not None,
        max_listed=MAX_LISTED,
        max_images=MAX_IMAGES,
        usage=_usage(Path(page.folder), rejects_unknown=bool(page.rejection)),
    )
    with written_aside(path) as aside:
        aside.write_text(visible(html), encoding="utf-8")


def _sections(page: Page, evaluation: EvaluationReport | None) -> dict[str, str]:
    """Returns the headings of the sections that the page has, by anchor."""
    is_included = {
        "confusion": evaluation is not None and evaluation.confusion is not None,
        "labels": evaluation is not None and evaluation.labels is not None,
        "mistakes": evaluation is not None,
        "calibration": evaluation is not None,
        "choices": bool(page.choices),
        "probe": page.against_probe is not None,
        "more": page.learning_curve is not None,
        "forgetting": page.forgotten is not None,
    }
    return {name: title for name, title in _TITLES.items() if is_included.get(name, True)}


def _plot_curves(report: TrainingReport) -> str | None:
    """Returns the training curves as an SVG data URL; `None` without epochs."""
    if not any(stage.history for stage in report.stages):
        return None
    return _svg(plot_training(report))


def _svg(figure: Figure) -> str:
    svg = io.StringIO()
    figure.savefig(svg, format="svg", metadata={"Date": None})
    return data_url("image/svg+xml", svg.getvalue().encode())


def _comparisons(choices: Mapping[str, Choice]) -> dict[str, BackboneComparison]:
    """Returns the comparisons of backbones and of image sizes, by the name of the choice."""
    return {
        name: BackboneComparison.from_dict(choice.comparison)
        for name, choice in choices.items()
        if choice.comparison is not None
    }


def _class_rows(data: DataReport, evaluation: EvaluationReport | None) -> list[dict[str, object]]:
    """Returns a row for each class: images in each split, and the scores."""
    scores = {score.name: score for score in evaluation.per_class} if evaluation else {}
    largest = max((sum(counts.values()) for counts in data.counts.values()), default=0)
    return [
        {
            "name": name,
            "counts": counts,
            "fraction": sum(counts.values()) / max(largest, 1),
            "score": scores.get(name),
        }
        for name, counts in data.counts.items()
    ]


def _confusion_matrix(evaluation: EvaluationReport | None) -> dict[str, object] | None:
    if evaluation is None or evaluation.confusion is None:
        return None
    confusion = evaluation.confusion
    shown = most_confused(confusion, MAX_CLASSES_IN_MATRIX)
    counts = confusion[np.ix_(shown, shown)]
    fractions = counts / np.maximum(confusion.sum(axis=1), 1)[shown, None]
    return {
        "names": [evaluation.class_names[index] for index in shown],
        "num_left_out": len(confusion) - len(shown),
        "rows": [
            list(zip(*row, strict=True))
            for row in zip(counts.tolist(), fractions.tolist(), strict=True)
        ],
    }


def _load_mistakes(
    evaluation: EvaluationReport | None, maps: Mapping[int, Explanation]
) -> Iterator[tuple[Mistake, str | None, str | None]]:
    """Yields each mistake, its image and its map; `None` for an image or map that is missing."""
    for mistake in evaluation.mistakes[:MAX_IMAGES] if evaluation else ():
        file = Path(mistake.path) if mistake.path is not None else None
        if file is None or not file.is_file():
            yield mistake, None, None
            continue
        pixels = thumbnail(read_image(file))
        explanation = maps.get(mistake.index)
        overlay = None if explanation is None else jpeg_url(explanation.over(pixels))
        yield mistake, jpeg_url(pixels), overlay


def _verdict(against_probe: ComparisonReport | None) -> str:
    if against_probe is None:
        return ""
    if not against_probe.is_beyond_noise:
        return (
            "The difference is too small to call: chance alone would often show one like it. The "
            "head alone, which is solved without epochs, may be as good."
        )
    better, worse = "The head alone", "the fine-tuned model"
    if against_probe.verdict == "the second is better":
        better, worse = "The fine-tuned model", "the head alone"
    return (
        f"{better} has a significantly higher {against_probe.metric} than {worse} on the same "
        "images."
    )


def _usage(folder: Path, *, rejects_unknown: bool) -> dict[str, str]:
    saved_model, keras_file = str(folder / "saved_model"), str(folder / "model.keras")
    run, known = shlex.quote(str(folder)), ', answers["known"].numpy()[0]' * rejects_unknown
    return {
        "In a shell": f"tlkit predict {run} photo.jpg",
        "With tlkit's own server": (
            f"tlkit serve {run} --port 8000  # localhost:8000 in a browser classifies dropped "
            "images\ncurl --data-binary @photo.jpg localhost:8000/predict"
        ),
        "With TensorFlow Serving": (
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


def _without_breaks(text: str) -> str:
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _sentence(text: str) -> str:
    """Returns text as a sentence: with a capital first letter and a full stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
