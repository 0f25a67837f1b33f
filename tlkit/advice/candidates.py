"""Parses backbones given as NAME or NAME=WEIGHTS_FILE.

Importing this module loads neither Keras nor TensorFlow, so that names are checked quickly.
"""

from collections.abc import Sequence
from pathlib import Path

from tlkit.errors import ArgumentError, as_tuple, check_positive
from tlkit.models.catalogue import find_backbone

DEFAULT_BACKBONES = ("resnet20", "mobilenet_025", "mobilenet_v2", "efficientnet_b0", "resnet50")
RANDOM = "none"
"""Denotes random weights."""

_PUBLISHED = ("pretrained", "imagenet")


def parse_candidates(
    names: str | Sequence[str], *, argument: str = "names"
) -> dict[str, tuple[str, str]]:
    """Returns the name and weights of each backbone, by its entry in `names`.

    Args:
        names: "NAME" has its published weights, "NAME=WEIGHTS_FILE" those of the file, "NAME=none"
            random ones. A list, or one string with commas between them.
        argument: The name of `names` in errors.

    Raises:
        ArgumentError: There are no names, two are the same, or a name is not in the catalogue.

    Example:
        >>> from tlkit.advice.candidates import parse_candidates
        >>> parse_candidates("resnet20,mobilenet_025=mine.h5")
        {'resnet20': ('resnet20', 'pretrained'), 'mobilenet_025=mine.h5': ('mobilenet_025',
        'mine.h5')}
    """
    listed = names.split(",") if isinstance(names, str) else list(as_tuple(names))
    if not listed or not all(isinstance(name, str) and name.strip() for name in listed):
        raise ArgumentError(
            f"`{argument}` must be one or more backbones, NAME or NAME=WEIGHTS_FILE. "
            f"Received: {argument}={names!r}. Example: {argument}=['resnet20', 'mobilenet_v2']."
        )
    entries: dict[str, tuple[str, str]] = {}
    entry_of: dict[tuple[str, str], str] = {}
    for entry in map(str.strip, listed):
        name, _, weights = entry.partition("=")
        find_backbone(name)
        first_entry = entry_of.setdefault(
            (name, _normalise_weights(weights or "pretrained")), entry
        )
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
        entries[entry] = (name, weights or "pretrained")
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


def with_absolute_paths(entries: dict[str, tuple[str, str]]) -> list[str]:
    """Returns the entries with absolute paths of weights files, valid in any working directory.

    Example:
        >>> from tlkit.advice.candidates import parse_candidates, with_absolute_paths
        >>> with_absolute_paths(parse_candidates("resnet20,resnet20=none,resnet20=/a/../b.h5"))
        ['resnet20', 'resnet20=none', 'resnet20=/b.h5']
    """
    return [
        entry_of if weights in (*_PUBLISHED, RANDOM) else f"{name}={Path(weights).resolve()}"
        for entry_of, (name, weights) in entries.items()
    ]


def _normalise_weights(weights: str) -> str:
    """Returns a unique spelling of weights: "pretrained", "none" or an absolute path."""
    if weights in _PUBLISHED:
        return _PUBLISHED[0]
    return weights if weights == RANDOM else str(Path(weights).resolve())
