"""Backbones to choose from, as they are named: NAME, or NAME=WEIGHTS_FILE.

Importing this module loads neither Keras nor TensorFlow, so that names can be checked first.
"""

from collections.abc import Sequence
from pathlib import Path

from tlkit.errors import ArgumentError, as_tuple, check_positive
from tlkit.models.catalogue import find_backbone

DEFAULT_BACKBONES = ("resnet20", "mobilenet_025", "mobilenet_v2", "efficientnet_b0", "resnet50")
RANDOM = "none"
"""What stands for random weights."""

_PUBLISHED = ("pretrained", "imagenet")


def parse_candidates(
    names: str | Sequence[str], *, argument: str = "names"
) -> dict[str, tuple[str, str]]:
    """Returns name and weights of each backbone, by what it was called.

    Args:
        names: "NAME" has its published weights, "NAME=WEIGHTS_FILE" those of the file, "NAME=none"
            random ones. A list, or one string with commas between them.
        argument: What errors call `names`.

    Raises:
        ArgumentError: There is none, two are the same, or a name is not in the catalogue.

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
            f"Received: {argument}={names!r}. Write {argument}=['resnet20', 'mobilenet_v2'], say."
        )
    entries: dict[str, tuple[str, str]] = {}
    called: dict[tuple[str, str], str] = {}
    for entry in map(str.strip, listed):
        name, _, weights = entry.partition("=")
        find_backbone(name)
        same = called.setdefault((name, _in_full(weights or "pretrained")), entry)
        if entry in entries or same != entry:
            twice = " more than once" if same == entry else f", which is the same as {same!r}"
            raise ArgumentError(
                f"`{argument}` must be different from each other. "
                f"Received: {entry!r}{twice}. Leave one out."
            )
        entries[entry] = (name, weights or "pretrained")
    return entries


def check_limits(
    *, max_milliseconds: float | None, max_megabytes: float | None, budget: float | None = None
) -> None:
    """Raises `ArgumentError` unless what limits a comparison is positive, or left out."""
    for name, value in (
        ("max_milliseconds", max_milliseconds),
        ("max_megabytes", max_megabytes),
        ("budget", budget),
    ):
        if value is not None:
            check_positive(name, value)


def with_whole_paths(entries: dict[str, tuple[str, str]]) -> list[str]:
    """Returns the backbones as they are called from any folder: paths of weights from the root.

    Example:
        >>> from tlkit.advice.candidates import parse_candidates, with_whole_paths
        >>> with_whole_paths(parse_candidates("resnet20,resnet20=none,resnet20=/a/../b.h5"))
        ['resnet20', 'resnet20=none', 'resnet20=/b.h5']
    """
    return [
        called if weights in (*_PUBLISHED, RANDOM) else f"{name}={Path(weights).resolve()}"
        for called, (name, weights) in entries.items()
    ]


def _in_full(weights: str) -> str:
    """One spelling for what may be spelt in several ways."""
    if weights in _PUBLISHED:
        return _PUBLISHED[0]
    return weights if weights == RANDOM else str(Path(weights).resolve())
