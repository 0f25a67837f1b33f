"""Parses backbones given as NAME, NAME@PIXELS, NAME=WEIGHTS_FILE or FILE.keras.

Importing this module loads neither Keras nor TensorFlow, so that names are checked quickly.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tlkit.errors import ArgumentError, as_tuple, check_positive
from tlkit.models.backbone_files import with_absolute_path
from tlkit.models.catalogue import find_backbone, list_backbones

DEFAULT_BACKBONES = ("resnet20", "mobilenet_025", "mobilenet_v2", "efficientnet_b0", "resnet50")
RANDOM = "none"
"""Denotes random weights."""

_PUBLISHED = ("pretrained", "imagenet")
_NAMED, _FILE = (
    re.compile(rf"(?P<name>{name})(?:@(?P<size>[^=]*))?(?:=(?P<weights>.*))?", re.DOTALL)
    for name in (r"[^@=]*", r".*?\.keras(?![^:@=])[^@=]*")
)
"""Entries with a name of the catalogue, and with a path, which may contain any character."""


@dataclass(frozen=True)
class Candidate:
    """A backbone to compare.

    Attributes:
        name: The name in the catalogue, or the path of a `.keras` file; with ":PREPROCESSING" if
            given, see `tlkit.models.backbone_files.split_name`.
        weights: "pretrained" or "imagenet", "none" (random), or a weights file.
        image_size: Height and width in pixels; `None` for the size of the comparison.
    """

    name: str
    weights: str = "pretrained"
    image_size: int | None = None


def parse_candidates(
    names: str | Sequence[str], *, argument: str = "names"
) -> dict[str, Candidate]:
    """Returns the candidates by their entries in `names`.

    Args:
        names: "NAME" has its published weights, "NAME=WEIGHTS_FILE" those of the file, "NAME=none"
            random ones; "NAME@PIXELS" and "NAME@PIXELS=WEIGHTS_FILE" have a size of their own.
            NAME may be a `.keras` file, and NAME:PREPROCESSING sets the preprocessing, for example
            "own.keras:127:128". A list, or one string with commas between them.
        argument: The name of `names` in errors.

    Raises:
        ArgumentError: There are no names, two are the same, a name is not in the catalogue, or a
            size is not a positive whole number.

    Example:
        >>> from tlkit.advice.candidates import parse_candidates
        >>> entries = parse_candidates("resnet20,mobilenet_025@256=mine.h5")
        >>> entries["resnet20"]
        Candidate(name='resnet20', weights='pretrained', image_size=None)
        >>> entries["mobilenet_025@256=mine.h5"]
        Candidate(name='mobilenet_025', weights='mine.h5', image_size=256)
    """
    listed = names.split(",") if isinstance(names, str) else list(as_tuple(names))
    if not listed or not all(isinstance(name, str) and name.strip() for name in listed):
        raise ArgumentError(
            f"`{argument}` must be one or more backbones, NAME, NAME@PIXELS or NAME=WEIGHTS_FILE. "
            f"Received: {argument}={names!r}. Example: {argument}=['resnet20', 'mobilenet_v2']."
        )
    entries: dict[str, Candidate] = {}
    entry_of: dict[Candidate, str] = {}
    for entry in map(str.strip, listed):
        name, size, weights = _parts_of(entry)
        find_backbone(name)
        if size is not None and not (size.isdecimal() and int(size)):
            raise ArgumentError(
                f"`{argument}` must have sizes that are positive whole numbers, NAME@PIXELS. "
                f"Received: {entry!r}. Example: {argument}=['{name}@224', '{name}@256']."
            )
        candidate = Candidate(name, weights or "pretrained", None if size is None else int(size))
        normalised = replace(
            candidate,
            name=with_absolute_path(name),
            weights=_normalise_weights(candidate.weights),
        )
        first_entry = entry_of.setdefault(normalised, entry)
        if entry in entries or first_entry != entry:
            problem = (
                " more than once"
                if first_entry == entry
                else f", which is the same as {first_entry!r}"
            )
            raise ArgumentError(
                f"`{argument}` must not have duplicates. "
                f"Received: {entry!r}{problem}. Leave one out."
            )
        entries[entry] = candidate
    return entries


def check_limits(
    *, max_milliseconds: float | None, max_megabytes: float | None, budget: float | None = None
) -> None:
    """Raises `ArgumentError` unless the limits of a comparison are positive or `None`."""
    for name, value in (
        ("max_milliseconds", max_milliseconds),
        ("max_megabytes", max_megabytes),
        ("budget", budget),
    ):
        if value is not None:
            check_positive(name, value)


def with_absolute_paths(entries: dict[str, Candidate]) -> list[str]:
    """Returns the entries with absolute paths of files, valid in any working directory.

    Example:
        >>> from tlkit.advice.candidates import parse_candidates, with_absolute_paths
        >>> with_absolute_paths(parse_candidates("resnet20,resnet20=none,resnet20=/a/../b.h5"))
        ['resnet20', 'resnet20=none', 'resnet20=/b.h5']
    """
    whole = []
    for entry in entries:
        name, size, weights = _parts_of(entry)
        if weights and weights not in (*_PUBLISHED, RANDOM):
            weights = str(Path(weights).resolve())
        parts = ("" if size is None else f"@{size}", f"={weights}" if weights else "")
        whole.append("".join((with_absolute_path(name), *parts)))
    return whole


def _parts_of(entry: str) -> tuple[str, str | None, str | None]:
    """Returns name, size and weights of an entry."""
    known = {spec.name for spec in list_backbones()}
    found = _NAMED.fullmatch(entry)
    if found is None or found["name"].partition(":")[0] not in known:
        found = _FILE.fullmatch(entry) or found
    return (found["name"], found["size"], found["weights"]) if found else (entry, None, None)


def _normalise_weights(weights: str) -> str:
    """Returns a unique spelling of weights: "pretrained", "none" or an absolute path."""
    if weights in _PUBLISHED:
        return _PUBLISHED[0]
    return weights if weights == RANDOM else str(Path(weights).resolve())
