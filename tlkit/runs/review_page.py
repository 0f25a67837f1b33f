"""The page of a review: one HTML file on which images are kept, moved or set aside."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import jinja2

from tlkit.data.decisions import COLUMNS, DECISIONS
from tlkit.data.reading import read_image
from tlkit.errors import ArgumentError
from tlkit.runs.review_report import KINDS, Doubt, ReviewReport, ToLabel
from tlkit.utils.files import FORMULA, written_aside
from tlkit.utils.progress import bar
from tlkit.utils.text_repr import in_line

SUFFIX = ".html"
MARK = "<!-- page of tlkit review -->"
"""First line of a page, by which an earlier one is recognised."""

MAX_SIDE = 384
"""Largest side of an image on the page, in pixels."""

TO_LABEL = "unlabelled"


def check_page(path: Path) -> None:
    """Raises `ArgumentError` unless a page can be written to a path: a new one, or in its place."""
    problem = ""
    if path.suffix.lower() != SUFFIX:
        problem = f"does not end in {SUFFIX}"
    elif path.is_dir():
        problem = "is a folder"
    elif path.exists():
        with path.open("rb") as file:
            if file.read(len(MARK)) != MARK.encode():
                problem = "is another file"
    if problem:
        raise ArgumentError(
            f"`out` must be a new {SUFFIX} file, or an earlier page of a review. Received: "
            f"out={str(path)!r}, which {problem}. Name another file."
        )


def write_page(path: Path, report: ReviewReport, *, title: str, max_shown: int) -> None:
    """Writes the page of a review as one HTML file with its images, atomically.

    Names of classes and files are untrusted: the page holds them as JSON, its script writes them as
    text only, and no other script and no request is allowed.

    Args:
        path: The file.
        report: The report of the review.
        title: The page's heading.
        max_shown: Number of doubts, and of images to label, on the page.
    """
    shown: Sequence[Doubt | ToLabel] = (
        *report.doubts[:max_shown],
        *report.to_label[:max_shown],
    )
    with bar("images of the page", len(shown), "images") as advance:
        items = []
        for one in shown:
            items.append(_item(one, report))
            advance(1)
    content = {
        "id": _identity(items),
        "title": in_line(title),
        "summary": str(report).splitlines()[0],
        "columns": COLUMNS,
        "decisions": DECISIONS,
        "formula": FORMULA.pattern,
        "kinds": {**KINDS, TO_LABEL: "images to label"},
        "classes": report.class_names,
        "items": items,
        "earlier": [[getattr(one, name) for name in COLUMNS] for one in report.decisions],
    }
    folder = resources.files("tlkit").joinpath("runs")
    script = folder.joinpath("review.js").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(folder.joinpath("review.html.jinja").read_text("utf-8"))
    html = template.render(
        title=in_line(title),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        content=_as_json(content),
    )
    with written_aside(path) as aside:
        aside.write_text(f"{MARK}\n{html}\n", encoding="utf-8")


def _item(one: Doubt | ToLabel, report: ReviewReport) -> dict[str, object]:
    """Returns what the page shows of an image."""
    item: dict[str, object] = {
        "file": one.file,
        "digest": one.digest,
        "image": _image_url(one.path, one.digest),
        "probabilities": list(one.probabilities.items()),
    }
    if isinstance(one, ToLabel):
        reasons = [f"the two most probable classes are {100 * one.margin:.0f} points apart"]
        reasons += ["it is unlike the labelled images"] if one.is_outlier else []
        suggested = next(iter(one.probabilities))
        return {
            **item,
            "label": "",
            "suggested": suggested,
            "kinds": [TO_LABEL],
            "reasons": reasons,
            "others": [],
        }
    return {
        **item,
        "label": one.label,
        "suggested": one.suggested,
        "kinds": one.kinds,
        "reasons": [in_line(reason) for reason in one.reasons],
        "others": _others(one.others),
    }


def _others(others: Mapping[str, str]) -> list[dict[str, str]]:
    """Returns the first of an image's copies and near-duplicates under other labels."""
    return [
        {"file": Path(path).name, "label": label, "image": _image_url(path)}
        for path, label in list(others.items())[:2]
    ]


def _image_url(path: str, digest: str = "") -> str:
    from tlkit.plots.thumbnails import jpeg_url, thumbnail

    return jpeg_url(thumbnail(read_image(path, digest), MAX_SIDE))


def _identity(items: Sequence[Mapping[str, object]]) -> str:
    """Returns what names the page's images, under which a browser stores the decisions."""
    text = json.dumps([[one["file"], one["digest"], one["label"]] for one in items])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _as_json(content: object) -> str:
    """Returns JSON that can stand in an HTML element of a script, whatever names are in it."""
    text = json.dumps(content)
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text
