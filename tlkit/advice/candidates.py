"""Parses backbones given as NAME, NAME@PIXELS or NAME=WEIGHTS_FILE.

Importing this module loads neither Keras nor TensorFlow, so that names are checked quickly.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tlkit.errors import ArgumentError, as_tuple, check_positive
from tlkit.models.catalogue import find_backbone

DEFAULT_BACKBONES = ("resnet20", "mobilenet_025", "mobilenet_v2", "efficientnet_b0", "resnet50")
RANDOM = "none"
"""Denotes random weights."""

_PUBLISHED = ("pretrained", "imagenet")


@dataclass(frozen=True)
class Candidate:
    """A backbone to compare.

    Attributes:
        name: The name in the catalogue.
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
            random ones; "NAME@PIXELS" and "NAME@PIXELS=WEIGHTS_FILE" have a size of their own. A
            list, or one string with commas between them.
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
        sized_name, _, weights = entry.partition("=")
        name, at, size = sized_name.partition("@")
        find_backbone(name)
        if at and not (size.isdecimal() and int(size)):
            raise ArgumentError(
                f"`{argument}` must have sizes that are positive whole numbers, NAME@PIXELS. "
                f"Received: {entry!r}. Example: {argument}=['{name}@224', '{name}@256']."
            )
        candidate = Candidate(name, weights or "pretrained", int(size) if at else None)
        normalised = replace(candidate, weights=_normalise_weights(candidate.weights))
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
    """Returns the entries with absolute paths of weights files, valid in any working directory.

    Example:
        >>> from tlkit.advice.candidates import parse_candidates, with_absolute_paths
        >>> with_absolute_paths(parse_candidates("resnet20,resnet20=none,resnet20=/a/../b.h5"))
        ['resnet20', 'resnet20=none', 'resnet20=/b.h5']
    """
    return [
        entry
        if one.weights in (*_PUBLISHED, RANDOM)
        else f"{entry.partition('=')[0]}={Path(one.weights).resolve()}"
        for entry, one in entries.items()
    ]


def _normalise_weights(weights: str) -> str:
    """Returns a unique spelling of weights: "pretrained", "none" or an absolute path."""
    if weights in _PUBLISHED:
        return _PUBLISHED[0]
    return weights if weights == RANDOM else str(Path(weights).resolve())
