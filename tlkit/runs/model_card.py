"""The model card of a run: the model, its data, its metrics and its limits on one page."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tlkit.continual.growth_report import EXACT
from tlkit.data.class_weighting import ClassWeighting
from tlkit.data.settings import CROP, PAD, RESIZES, STRETCH
from tlkit.displays.activity import duration
from tlkit.evaluation.intervals import wilson_interval
from tlkit.runs.any_config import Config
from tlkit.runs.config import RunConfig
from tlkit.runs.directory import STATISTICS_FILE
from tlkit.runs.hub_header import MAX_IN_NAME, hub_header, last_part
from tlkit.runs.record import RunRecord
from tlkit.runs.results import SHIPPED
from tlkit.utils.files import written_aside
from tlkit.utils.formatting import fraction_text, interval, percent
from tlkit.utils.text_repr import visible

MAX_LISTED = 50
MAX_CONFUSIONS = 5
FEW_IMAGES = 30
"""With fewer images of a class, its metrics are too uncertain."""

_SOLVED = "solved "
"""How a stage's note begins that says how its weights were solved."""

_SPECIAL = re.compile(r"[\\`*_\[\]<>#|~&$]|^[-+]")

_METRICS = (
    ("accuracy", "interval", "accuracy"),
    ("balanced_accuracy", "balanced_interval", "balanced accuracy"),
    ("top_k_accuracy", "top_k_interval", "top-{top_k} accuracy"),
    ("roc_auc", "roc_auc_interval", "ROC-AUC"),
    ("mean_average_precision", "mean_average_precision_interval", "mAP"),
    ("f1_micro", "f1_micro_interval", "F1 micro"),
    ("f1_macro", "f1_macro_interval", "F1 macro"),
)
"""Key of a metric and of its interval in `metrics.json`, and its name in the card."""


def write_model_card(
    path: Path,
    *,
    class_names: Sequence[str],
    metrics: Mapping[str, Any],
    record: RunRecord,
    counts: Mapping[str, Mapping[str, int]] | None = None,
    packages: Sequence[str] = (),
    has_statistics: bool = False,
) -> None:
    """Writes the model card of a run as Markdown, atomically.

    Args:
        path: The file, such as `RUN/model_card.md`.
        class_names: The classes, in output order.
        metrics: Content of `metrics.json`.
        record: Content of `run.json`.
        counts: Number of images of each class in each split, as in `DataReport.counts`.
        packages: What `model.keras` needs besides Keras, see `needed_packages`.
        has_statistics: Whether the run keeps statistics of its head.
    """
    card = model_card(
        class_names=class_names,
        metrics=metrics,
        record=record,
        counts=counts,
        packages=packages,
        has_statistics=has_statistics,
    )
    with written_aside(path) as aside:
        aside.write_text(card, encoding="utf-8")


def model_card(
    *,
    class_names: Sequence[str],
    metrics: Mapping[str, Any],
    record: RunRecord,
    counts: Mapping[str, Mapping[str, int]] | None = None,
    packages: Sequence[str] = (),
    has_statistics: bool = False,
) -> str:
    """Returns the model card of a run as Markdown, with the header of a model hub.

    Each metric has its 95 % confidence interval and number of images; metrics without an interval,
    such as the loss, are in `metrics.json` only. Class names are untrusted and therefore escaped.
    Files and folders are given by name, without their location.

    Args:
        class_names: The classes, in output order.
        metrics: Content of `metrics.json`.
        record: Content of `run.json`.
        counts: Number of images of each class in each split, as in `DataReport.counts`.
        packages: What `model.keras` needs besides Keras, see `needed_packages`.
        has_statistics: Whether the run keeps statistics of its head.

    Example:
        >>> import tlkit
        >>> from tlkit.runs.model_card import model_card
        >>> run = tlkit.load_run("run")                                          # doctest: +SKIP
        >>> print(model_card(class_names=run.class_names, metrics=run.metrics,
        ...     record=run.record))                                              # doctest: +SKIP

    Reference:
        Mitchell et al., Model Cards for Model Reporting, https://arxiv.org/abs/1810.03993; the
        header is that of https://huggingface.co/docs/hub/model-cards.
    """
    measured = {name: metrics[name] for name in ("test", "validation") if metrics.get(name)}
    folds = metrics.get("cross_validation")
    rejects_unknown = bool(metrics.get("rejection"))
    sections = (
        hub_header(class_names, measured, record),
        _introduction(class_names, record),
        _metrics({**measured, "cross-validation": folds} if folds else measured),
        _classes(measured),
        _data(class_names, record, counts),
        _training(record, metrics, has_statistics=has_statistics),
        _use(record, packages, rejects_unknown=rejects_unknown),
        _limits(class_names, measured, rejects_unknown=rejects_unknown, resize=record.resize),
        _licence(record),
        _versions(record),
    )
    card = "\n\n".join("\n".join(lines) for lines in map(list, sections) if lines) + "\n"
    return visible(card)


def _introduction(class_names: Sequence[str], record: RunRecord) -> Iterator[str]:
    shown = ", ".join(escaped(name) for name in class_names[:MAX_IN_NAME])
    rest = ", …" if len(class_names) > MAX_IN_NAME else ""
    height, width = record.image_size
    yield f"# {shown}{rest}"
    yield ""
    yield (
        f"{_task(class_names, record)} {_origin(record.resolved)} It takes "
        f"images of {width} × {height} pixels, 0…255; preprocessing is part of the model."
    )
    if state := record.state:
        yield ""
        yield f"**{state.capitalize()}.**"


def _origin(config: Config) -> str:
    if config.from_run:
        return f"Warm-started from the model of the run {escaped(last_part(config.from_run))}."
    weights = config.weights
    if weights is None:
        origin = "random weights"
    elif weights in ("pretrained", "imagenet"):
        origin = "its pretrained weights"
    else:
        origin = f"the weights {escaped(last_part(weights))}"
    return f"The backbone is {escaped(last_part(str(config.backbone)))}, trained from {origin}."


def _task(class_names: Sequence[str], record: RunRecord) -> str:
    if record.thresholds is None:
        return f"Classifies images into {len(class_names)} classes."
    return f"Assigns any number of {len(class_names)} labels to an image."


def _as_sentence(text: str) -> str:
    """Returns a report of several lines as one sentence."""
    line = escaped("; ".join(text.splitlines()))
    return line[:1].upper() + line[1:]


def _metrics(measured: Mapping[str, Any]) -> Iterator[str]:
    yield "## Metrics"
    yield ""
    if not measured:
        yield "None: there were neither validation nor test images."
        return
    rows = []
    for split, given in measured.items():
        scores = {**given, **(given.get("labels") or {})}
        for key, interval_key, name in _METRICS:
            ends = scores.get(interval_key)
            if ends is not None and scores.get(key) is not None:
                label = name.format(top_k=scores.get("top_k"))
                if key == "accuracy" and scores["kind"] == "multi_label":
                    label = "accuracy of label decisions"
                num_images = f"{scores['num_images']:,}"
                rows.append((split, label, percent(scores[key]), interval(ends), num_images))
    yield from _table(("split", "metric", "value", "95 % CI", "images"), rows)
    yield ""
    if "test" in measured:
        yield "The test images were used neither for training nor for selection."
    else:
        yield (
            "**There were no test images.** The validation images were also used to stop training "
            "and for selection, so these metrics are optimistically biased."
        )


def _classes(measured: Mapping[str, Any]) -> Iterator[str]:
    """Yields the metrics of each class on the most important split, and the most confused ones."""
    for split, report in list(measured.items())[:1]:
        if labels := report.get("labels"):
            yield from _labels(split, report["per_class"], labels)
            return
        yield f"## Classes, on {split} images"
        yield ""
        scores = report["per_class"]
        confusion = report["confusion"]
        predicted = [sum(column) for column in zip(*confusion, strict=True)] if confusion else []
        weakest = sorted(range(len(scores)), key=lambda index: scores[index]["recall"])
        rows = []
        for index in sorted(weakest[:MAX_LISTED]):
            score = scores[index]
            row = [escaped(score["name"]), *_fraction_cells(score["recall"], score["num_images"])]
            if confusion:
                row += _fraction_cells(score["precision"], predicted[index])
            rows.append(row)
        columns = ["class", "recall", "95 % CI", "support"]
        if confusion:
            columns += ["precision", "95 % CI", "predicted"]
        yield from _table(columns, rows)
        yield ""
        yield "Support is the number of images of the class" + (
            ", predicted the number of images predicted as it." if confusion else "."
        )
        if len(scores) > MAX_LISTED:
            yield f"Listed are the {MAX_LISTED} of {len(scores)} classes with the lowest recall."
        yield from _confusions(scores, confusion)


def _labels(
    split: str, scores: Sequence[Mapping[str, Any]], labels: Mapping[str, Any]
) -> Iterator[str]:
    """Yields the metrics of each label, those with the lowest F1 if there are many."""
    yield f"## Labels, on {split} images"
    yield ""
    lowest = sorted(range(len(scores)), key=lambda index: scores[index]["f1"])[:MAX_LISTED]
    rows = []
    for index in sorted(lowest):
        score, average = scores[index], labels["average_precisions"][index]
        (negative, false_positive), (false_negative, positive) = labels["counts"][index]
        rows.append(
            (
                escaped(score["name"]),
                f"{labels['thresholds'][index]:.3f}",
                *(percent(score[name]) for name in ("precision", "recall", "f1")),
                "none" if average is None else percent(average),
                *(f"{one:,}" for one in (score["num_images"], positive, false_positive)),
                *(f"{one:,}" for one in (false_negative, negative)),
            )
        )
    columns = ("label", "threshold", "precision", "recall", "F1", "average precision")
    yield from _table((*columns, "support", "TP", "FP", "FN", "TN"), rows)
    yield ""
    yield (
        "An image is assigned every label whose probability is at least its threshold. Support is "
        "the number of images with the label; TP and FN are those of them that are assigned it and "
        "that are not, FP and TN the same of the other images."
    )
    if len(scores) > MAX_LISTED:
        yield f"Listed are the {MAX_LISTED} of {len(scores)} labels with the lowest F1."


def _confusions(
    scores: Sequence[Mapping[str, Any]], confusion: Sequence[Sequence[int]] | None
) -> Iterator[str]:
    pairs = [
        (number, truth, predicted)
        for truth, row in enumerate(confusion or ())
        for predicted, number in enumerate(row)
        if truth != predicted and number
    ]
    if not pairs:
        return
    yield ""
    yield "Most confused classes:"
    yield ""
    for number, truth, predicted in sorted(pairs, key=lambda pair: -pair[0])[:MAX_CONFUSIONS]:
        total = scores[truth]["num_images"]
        rate = number / total
        yield (
            f"- {escaped(scores[truth]['name'])} predicted as "
            f"{escaped(scores[predicted]['name'])}: {number} of {total} images "
            f"({percent(rate)}, 95 % CI {interval(wilson_interval(rate, total))})"
        )


def _data(
    class_names: Sequence[str],
    record: RunRecord,
    counts: Mapping[str, Mapping[str, int]] | None,
) -> Iterator[str]:
    yield "## Data"
    yield ""
    numbers = record.data.num_images
    yield (
        f"Images from {_sources(record)}: "
        + ", ".join(f"{number:,} for {split}" for split, number in numbers.items())
        + ". Unless the folder was already split, an image's content, its class and the seed "
        f"({record.seed}) determine its split. Copies across splits, images under two labels "
        "and files that cannot be decoded were left out. Fingerprint of the images: "
        f"`{record.data.fingerprint}`."
    )
    yield ""
    if counts is None:
        yield f"Classes: {', '.join(escaped(name) for name in class_names)}."
        return
    splits = [split for split, number in numbers.items() if number]
    rows = [
        (escaped(name), *(counts.get(name, {}).get(split, 0) for split in splits))
        for name in class_names
    ]
    yield from _table(("class", *splits), rows)
    if growth := record.growth:
        yield ""
        yield (
            f"The old classes, {', '.join(map(escaped, growth['old_names']))}, were trained in the "
            f"run {escaped(last_part(str(record.config.from_run)))} or an earlier one; "
            f"{_use_of_old_images(growth)}."
        )


def _use_of_old_images(growth: Mapping[str, Any]) -> str:
    if growth.get("method") == EXACT:
        return (
            f"the head was solved from sums over the features of {growth['num_counted']:,} images "
            "of all classes"
        )
    return f"{growth['num_replayed']:,} stored features of their images were replayed in training"


def _sources(record: RunRecord) -> str:
    """Returns the names of the sources of the images."""
    photos = escaped(last_part(record.config.photos))
    if record.growth is None:
        return photos
    parent = escaped(last_part(str(record.config.from_run)))
    return f"{photos} and, to measure the old classes, from the evaluation of {parent}"


def _training(
    record: RunRecord, metrics: Mapping[str, Any], *, has_statistics: bool
) -> Iterator[str]:
    yield "## Training"
    yield ""
    stages = metrics["stages"]
    rows = [
        (
            escaped(stage["name"]),
            f"{stage['num_trainable']:,}",
            ", ".join(escaped(group) for group, change in stage["weight_change"].items() if change)
            or "none",
            duration(stage["seconds"]),
        )
        for stage in stages
    ]
    yield from _table(("stage", "trainable parameters", "changed groups", "time"), rows)
    arguments = {
        name: last_part(value) if isinstance(value, str) else value
        for name, value in record.config.to_json().items()
        if value is not None
        and name not in ("photos", "from_run", "weights", "backbone", "backbones")
    }
    listed = ", ".join(f"`{name}={value!r}`" for name, value in arguments.items())
    yield ""
    yield f"Arguments: {listed}."
    yield from _decisions(record)
    for name, choice in record.choices.items():
        yield ""
        title = name.capitalize().replace("_", " ")
        yield f"{title}, chosen by measurement: {escaped('; '.join(choice.reasons))}."
    for stage in stages:
        for note in stage["notes"]:
            if note.startswith(_SOLVED):
                yield ""
                yield f"The weights of the stage {escaped(stage['name'])} were {escaped(note)}."
    if has_statistics:
        yield ""
        yield (
            f"`{STATISTICS_FILE}` holds sums over the features of the training images, from which "
            "classes and images are added and forgotten exactly. It holds no image, but tells "
            "whether a given file was among them: publish the model without it if that must not "
            "be known."
        )
    if shipped := metrics.get("shipped"):
        yield ""
        yield f"Exported is {SHIPPED[shipped['model']]}: {escaped(shipped['reason'])}."
    if refitted := metrics.get("refit"):
        yield ""
        yield (
            f"**The exported model was trained once more, on all {refitted['num_images']:,} "
            "images**, test images included. The metrics are those of the model before, which was "
            f"trained on {refitted['num_before']:,} of them in the same way."
        )
    if removal := record.removal:
        yield ""
        yield (
            f"{removal['num_images']:,} training images were forgotten; the head is solved from "
            f"the other {removal['num_left']:,}."
        )
    temperature = (metrics.get("calibration") or {}).get("temperature", 1.0)
    if temperature != 1:
        yield ""
        yield (
            f"The logits are divided by a temperature of {temperature:.3f}, chosen on validation "
            "images, which calibrates the probabilities and does not change the predicted classes."
        )
    if rejection := metrics.get("rejection"):
        yield ""
        yield (
            "An image counts as unknown (out-of-distribution) if its OOD score is above "
            f"{rejection['threshold']:.4f}, a threshold chosen on {rejection['num_images']:,} "
            f"validation images to keep {100 * rejection['keep']:g} % of images of known classes."
        )
        if tested := rejection["test"]:
            rate = fraction_text(tested["rate"], tested["num_images"], tested["interval"])
            yield f"It rejects {rate} of the test images, whose classes are all known."


def _decisions(record: RunRecord) -> Iterator[str]:
    """Yields how classes count, and from which probability a label is assigned."""
    if isinstance(record.config, RunConfig) and record.config.weighting != ClassWeighting():
        yield ""
        yield f"How classes count in training: {escaped(str(record.config.weighting))}."
    if record.thresholds is not None:
        yield ""
        yield f"{_as_sentence(str(record.thresholds))}."


def _use(record: RunRecord, packages: Sequence[str], *, rejects_unknown: bool) -> Iterator[str]:
    height, width = record.image_size
    yield from (
        "## Use",
        "",
        "For sorting images like those above into these classes, where a person or a later step "
        "can handle mistakes at the rates above. Not intended for other kinds of images, nor for "
        "decisions about people.",
        "",
        "```python",
        "import tensorflow as tf",
        "",
        'serve = tf.saved_model.load("saved_model").signatures["serving_default"]',
        'answers = serve(image_bytes=tf.constant([open("photo.jpg", "rb").read()]))',
        'print(answers["label"].numpy()[0].decode(), answers["probabilities"].numpy()[0])',
        *(['print(answers["known"].numpy()[0])'] if rejects_unknown else []),
        "```",
        "",
        f"`model.keras` takes pixels 0…255, `(batch, {height}, {width}, {record.channels})`, and "
        "outputs logits. "
        f"Its images must be {RESIZES[record.resize]}, as the SavedModel does itself. "
        + (f"Import {', '.join(packages)} before it is loaded. " if packages else "")
        + f"It needs Keras{' and that' if packages else ' alone'}; SavedModel, LiteRT and ONNX "
        "files do not.",
    )


def _limits(
    class_names: Sequence[str],
    measured: Mapping[str, Any],
    *,
    rejects_unknown: bool,
    resize: str,
) -> Iterator[str]:
    yield "## Limits"
    yield ""
    kinds = {scores["kind"] for scores in measured.values()}
    if "multi_label" not in kinds:
        remark = "; the SavedModel reports such images by `known`, other formats do not"
        yield (
            f"- Every image gets one of the {len(class_names)} classes, even if it shows none of "
            f"them{remark if rejects_unknown else ''}."
        )
    yield (
        "- The metrics hold for images taken under the same conditions. Other cameras, places, "
        "light or seasons may lower them; the confidence intervals do not cover that."
    )
    losses = {
        STRETCH: "objects in elongated images are distorted",
        CROP: "what lies near the edges of elongated images is not seen",
        PAD: "elongated images are small",
    }
    yield (
        f"- Images are {RESIZES[resize]}; small objects in large images are lost, and "
        f"{losses[resize]}."
    )
    for split, report in list(measured.items())[:1]:
        few = [
            f"{escaped(score['name'])} ({score['num_images']})"
            for score in report["per_class"]
            if score["num_images"] < FEW_IMAGES
        ]
        if few:
            rest = f" and {len(few) - MAX_LISTED} more" if len(few) > MAX_LISTED else ""
            yield (
                f"- Classes with fewer than {FEW_IMAGES} {split} images, whose metrics are "
                f"uncertain: {', '.join(few[:MAX_LISTED])}{rest}."
            )


def _licence(record: RunRecord) -> Iterator[str]:
    yield "## Licence"
    yield ""
    yield (
        "None was chosen. Whoever publishes this model chooses one and enters it in the header "
        f"above; the licences of the images ({_sources(record)}) and of the initial weights must "
        "allow it."
    )


def _versions(record: RunRecord) -> Iterator[str]:
    yield "## Versions"
    yield ""
    yield ", ".join(f"{name} {version}" for name, version in record.versions.items()) + "."


def escaped(text: str) -> str:
    r"""Returns text on one line that Markdown shows verbatim.

    Example:
        >>> print(escaped("a|b <i>"))
        a\|b \<i\>
    """
    return _SPECIAL.sub(r"\\\g<0>", " ".join(text.split()))


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|{' --- |' * len(columns)}"
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"


def _fraction_cells(fraction: float, num_trials: int) -> list[str]:
    """Returns a fraction, its interval and the number of trials as cells; "none" without trials."""
    if not num_trials:
        return ["none", "none", "0"]
    ends = wilson_interval(fraction, num_trials)
    return [percent(fraction), interval(ends), f"{num_trials:,}"]
