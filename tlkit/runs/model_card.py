"""What a model is, was made of, can do and cannot, on one page that goes with it."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from tlkit.evaluation.intervals import wilson_interval
from tlkit.runs.add_classes_config import Config
from tlkit.runs.hub_header import MAX_IN_NAME, hub_header
from tlkit.runs.record import RunRecord
from tlkit.utils.files import written_aside
from tlkit.utils.formatting import percent
from tlkit.utils.text_repr import visible

MAX_LISTED = 50
MAX_CONFUSIONS = 5
FEW_IMAGES = 30
"""Below so many images of a class, a figure of it says little."""

_SPECIAL = re.compile(r"[\\`*_\[\]<>#|~&$]|^[-+]")

_FIGURES = (
    ("accuracy", "interval", "accuracy"),
    ("balanced_accuracy", "balanced_interval", "balanced accuracy"),
    ("top_k_accuracy", "top_k_interval", "among the {top_k} most probable"),
    ("roc_auc", "roc_auc_interval", "ROC-AUC"),
)


def write_model_card(
    path: Path,
    *,
    class_names: Sequence[str],
    metrics: Mapping[str, Any],
    record: RunRecord,
    counts: Mapping[str, Mapping[str, int]] | None = None,
) -> None:
    """Writes the model card of a run as Markdown; it appears whole.

    Args:
        path: The file, such as `RUN/model_card.md`.
        class_names: The classes, in output order.
        metrics: Content of `metrics.json`.
        record: What `run.json` holds.
        counts: Images of each class in each split, as `DataReport.counts` holds them.
    """
    card = model_card(class_names=class_names, metrics=metrics, record=record, counts=counts)
    with written_aside(path) as aside:
        aside.write_text(card, encoding="utf-8")


def model_card(
    *,
    class_names: Sequence[str],
    metrics: Mapping[str, Any],
    record: RunRecord,
    counts: Mapping[str, Mapping[str, int]] | None = None,
) -> str:
    """Returns the model card of a run as Markdown, with the header of a model hub.

    Every share in it stands beside its 95 % interval and the number of images behind it; what has
    no interval (the loss) is left to `metrics.json`. Class names come from strangers and are
    escaped. Of files and folders it tells the names and not where they lie.

    Args:
        class_names: The classes, in output order.
        metrics: Content of `metrics.json`.
        record: What `run.json` holds.
        counts: Images of each class in each split, as `DataReport.counts` holds them.

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
    sections = (
        hub_header(class_names, measured, record),
        _head(class_names, record),
        _figures(measured),
        _classes(measured),
        _data(class_names, record, counts),
        _training(record, metrics),
        _use(record, knows_unknown=bool(metrics.get("rejection"))),
        _limits(class_names, measured, knows_unknown=bool(metrics.get("rejection"))),
        _licence(record),
        _versions(record),
    )
    card = "\n\n".join("\n".join(lines) for lines in map(list, sections) if lines) + "\n"
    return visible(card)


def _head(class_names: Sequence[str], record: RunRecord) -> Iterator[str]:
    shown = ", ".join(escaped(name) for name in class_names[:MAX_IN_NAME])
    rest = ", …" if len(class_names) > MAX_IN_NAME else ""
    height, width = record.image_size
    yield f"# {shown}{rest}"
    yield ""
    yield (
        f"Says which of {len(class_names)} classes an image shows. {_origin(record.resolved)} "
        f"It takes images of {width} × {height} pixels, 0…255, and holds its own preprocessing."
    )


def _origin(config: Config) -> str:
    if config.from_run:
        return f"Goes on from the model of the run {escaped(_last_part(config.from_run))}."
    weights = config.weights
    if weights is None:
        origin = "from random weights"
    elif weights in ("pretrained", "imagenet"):
        origin = "from its pretrained weights"
    else:
        origin = f"from the weights {escaped(_last_part(weights))}"
    return f"The network is {escaped(str(config.backbone))}, {origin}."


def _figures(measured: Mapping[str, Any]) -> Iterator[str]:
    yield "## Figures"
    yield ""
    if not measured:
        yield "None: there were neither validation nor test images."
        return
    rows = []
    for split, figures in measured.items():
        for key, interval, name in _FIGURES:
            if (ends := figures.get(interval)) is not None and figures.get(key) is not None:
                label = name.format(top_k=figures.get("top_k"))
                if key == "accuracy" and figures["kind"] == "multi_label":
                    label = "label decisions right"
                rows.append((split, label, *_share(figures[key], ends), figures["num_images"]))
    yield from _table(("split", "figure", "share", "95 % interval", "images"), rows)
    yield ""
    if "test" in measured:
        yield "The test images had no part in training or in choosing anything."
    else:
        yield (
            "**There were no test images.** Training was stopped and chosen by the validation "
            "images, so expect less on new ones."
        )


def _classes(measured: Mapping[str, Any]) -> Iterator[str]:
    """How each class fares in the split that counts most, and what is taken for what."""
    for split, figures in list(measured.items())[:1]:
        yield f"## Classes, on {split} images"
        yield ""
        scores = figures["per_class"]
        confusion = figures["confusion"]
        called = [sum(column) for column in zip(*confusion, strict=True)] if confusion else []
        weakest = sorted(range(len(scores)), key=lambda index: scores[index]["recall"])
        rows = []
        for index in sorted(weakest[:MAX_LISTED]):
            score = scores[index]
            row = [escaped(score["name"]), *_trials(score["recall"], score["num_images"])]
            if confusion:
                row += _trials(score["precision"], called[index])
            rows.append(row)
        columns = ["class", "found", "95 % interval", "images"]
        if confusion:
            columns += ["right when named", "95 % interval", "named"]
        yield from _table(columns, rows)
        if len(scores) > MAX_LISTED:
            yield ""
            yield f"The {MAX_LISTED} of {len(scores)} classes that are found least."
        yield from _confusions(scores, confusion)


def _confusions(
    scores: Sequence[Mapping[str, Any]], confusion: Sequence[Sequence[int]] | None
) -> Iterator[str]:
    pairs = [
        (number, truth, said)
        for truth, row in enumerate(confusion or ())
        for said, number in enumerate(row)
        if truth != said and number
    ]
    if not pairs:
        return
    yield ""
    yield "Taken for each other most:"
    yield ""
    for number, truth, said in sorted(pairs, key=lambda pair: -pair[0])[:MAX_CONFUSIONS]:
        total = scores[truth]["num_images"]
        low, high = wilson_interval(number / total, total)
        yield (
            f"- {escaped(scores[truth]['name'])} for {escaped(scores[said]['name'])}: "
            f"{number} of {total} images (95 % interval {percent(low)} to {percent(high)})"
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
        + ". Where a folder is not split by its owner, an image's content, its class and the seed "
        f"({record.seed}) decide its split. Copies across splits, images under two labels "
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
            f"The classes that were there before, {', '.join(map(escaped, growth['old_names']))}, "
            f"were trained in the run {escaped(_last_part(str(record.config.from_run)))} or "
            f"one before it; {growth['num_replayed']:,} features that were stored of them took "
            "part in training here."
        )


def _sources(record: RunRecord) -> str:
    """Where the images come from, by name."""
    photos = escaped(_last_part(record.config.photos))
    if record.growth is None:
        return photos
    parent = escaped(_last_part(str(record.config.from_run)))
    return f"{photos} and, to measure the old classes, those that {parent} was measured on"


def _training(record: RunRecord, metrics: Mapping[str, Any]) -> Iterator[str]:
    yield "## Training"
    yield ""
    stages = metrics["stages"]
    rows = [
        (
            escaped(stage["name"]),
            f"{stage['num_trainable']:,}",
            ", ".join(escaped(group) for group, change in stage["weight_change"].items() if change)
            or "none",
            f"{stage['seconds']:.1f} s",
        )
        for stage in stages
    ]
    yield from _table(("stage", "trainable parameters", "groups that changed", "time"), rows)
    given = {
        name: _last_part(value) if isinstance(value, str) else value
        for name, value in record.config.to_json().items()
        if value is not None
        and name not in ("photos", "from_run", "weights", "backbone", "backbones")
    }
    yield ""
    yield "Arguments: " + ", ".join(f"`{name}={value!r}`" for name, value in given.items()) + "."
    for name, choice in record.choices.items():
        yield ""
        yield f"Chosen by measurement, {name}: {escaped('; '.join(choice.reasons))}."
    temperature = (metrics.get("calibration") or {}).get("temperature", 1.0)
    if temperature != 1:
        yield ""
        yield (
            f"Logits are divided by a temperature of {temperature:.3f}, chosen on validation "
            "images, so that probabilities mean what they say; it changes no answer."
        )
    if rejection := metrics.get("rejection"):
        yield ""
        yield (
            f"An image counts as unknown above a novelty of {rejection['threshold']:.4f}, chosen "
            f"on {rejection['num_images']:,} validation images to keep "
            f"{100 * rejection['keep']:g} % of known ones."
        )
        if tested := rejection["test"]:
            low, high = tested["interval"]
            yield (
                f"Of {tested['num_images']:,} test images, whose classes are known, "
                f"{100 * tested['rate']:.1f} % are called unknown (95 % interval "
                f"{percent(low)} to {percent(high)})."
            )


def _use(record: RunRecord, *, knows_unknown: bool) -> Iterator[str]:
    height, width = record.image_size
    yield from (
        "## Use",
        "",
        "For sorting images like those above into these classes, where a person or a later "
        "step bears the mistakes that the figures foretell. Not made for any other kind of "
        "image, nor for decisions about people.",
        "",
        "```python",
        "import tensorflow as tf",
        "",
        'serve = tf.saved_model.load("saved_model").signatures["serving_default"]',
        'answers = serve(image_bytes=tf.constant([open("photo.jpg", "rb").read()]))',
        'print(answers["label"].numpy()[0].decode(), answers["probabilities"].numpy()[0])',
        *(['print(answers["known"].numpy()[0])'] if knows_unknown else []),
        "```",
        "",
        f"`model.keras` takes pixels 0…255, `(batch, {height}, {width}, 3)`, and gives logits.",
    )


def _limits(
    class_names: Sequence[str], measured: Mapping[str, Any], *, knows_unknown: bool
) -> Iterator[str]:
    yield "## Limits"
    yield ""
    kinds = {figures["kind"] for figures in measured.values()}
    if "multi_label" not in kinds:
        beside = (
            "; `known` of the SavedModel says which images it does not know, other formats do not"
        )
        yield (
            f"- Every image gets one of the {len(class_names)} classes, also one that shows none "
            f"of them{beside if knows_unknown else ''}."
        )
    yield (
        "- The figures hold for images taken as these were: other cameras, places, light or "
        "seasons may lower them. The intervals say how sure they are, not how far that goes."
    )
    yield "- Images are stretched to the model's size; small things in large images are lost."
    for split, figures in list(measured.items())[:1]:
        few = [
            f"{escaped(score['name'])} ({score['num_images']})"
            for score in figures["per_class"]
            if score["num_images"] < FEW_IMAGES
        ]
        if few:
            rest = f" and {len(few) - MAX_LISTED} more" if len(few) > MAX_LISTED else ""
            yield (
                f"- Measured on fewer than {FEW_IMAGES} {split} images: "
                f"{', '.join(few[:MAX_LISTED])}{rest}."
            )


def _licence(record: RunRecord) -> Iterator[str]:
    yield "## Licence"
    yield ""
    yield (
        "None was chosen. Who publishes this model chooses one, and puts it into the header above, "
        f"as the licences of the images ({_sources(record)}) and of the weights that training "
        "began with allow."
    )


def _versions(record: RunRecord) -> Iterator[str]:
    yield "## Made with"
    yield ""
    yield ", ".join(f"{name} {version}" for name, version in record.versions.items()) + "."


def escaped(text: str) -> str:
    r"""Returns the text so that Markdown shows it as it is, on one line.

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


def _trials(share: float, num_trials: int) -> list[str]:
    """A share, its interval and its trials; without trials there is no share."""
    if not num_trials:
        return ["none", "none", "0"]
    return [*_share(share, wilson_interval(share, num_trials)), f"{num_trials:,}"]


def _share(share: float, ends: Sequence[float]) -> tuple[str, str]:
    return percent(share), f"{percent(ends[0])} to {percent(ends[1])}"


def _last_part(path: str) -> str:
    """The name of a file or folder, whatever system the path is of."""
    return PureWindowsPath(path).name or path
