"""Figures of images and their classes."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tlkit.errors import ArgumentError
from tlkit.plots.drawing import (
    BLUE,
    COLUMNS_UNDER_IMAGE,
    GREEN,
    MAX_IMAGES,
    ORANGE,
    axes_for,
    check_shown,
    figure_of,
    grid,
    legend_for,
    message,
    read_file,
    without_frame,
)
from tlkit.plots.fonts import dress, printable

MAX_CLASSES_IN_BARS = 100
_UNSPLIT = "all"
_SPLITS = {
    _UNSPLIT: (BLUE, ""),
    "train": (BLUE, ""),
    "validation": (ORANGE, "////"),
    "test": (GREEN, "...."),
}


class HasPairs(Protocol):
    """The attributes of an audit that `plot_near_duplicates` reads."""

    @property
    def pairs(self) -> tuple[Any, ...]:
        """Pairs with `paths`, `num_differing`, `splits` and `classes`, most important first."""


class HasCounts(Protocol):
    """The attributes of a data report that `plot_class_counts` reads."""

    @property
    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """Number of images of each class in each split."""


def plot_class_counts(report: HasCounts, *, ax: Axes | None = None) -> Figure:
    """Draws the number of images of each class, by split if they are split.

    Of more than 100 classes the 50 largest and the 50 smallest are shown, and the title says so.

    Args:
        report: A `DataReport`.
        ax: The axes to draw in; a new figure by default.
    """
    check_shown("report", report, "counts", "a result of inspect_folder, or data.report")
    totals = {name: sum(counts.values()) for name, counts in report.counts.items()}
    if not totals:
        return message("no classes", ax)
    names = list(totals)
    if len(names) > MAX_CLASSES_IN_BARS:
        by_size = sorted(names, key=lambda name: -totals[name])
        names = by_size[: MAX_CLASSES_IN_BARS // 2] + by_size[-MAX_CLASSES_IN_BARS // 2 :]
    title = f"Images per class: {sum(totals.values()):,} in {len(totals)} classes"
    if len(names) < len(totals):
        half = MAX_CLASSES_IN_BARS // 2
        shown = f"the {half} largest and {half} smallest of {len(totals)} classes"
        title = f"Images per class,\n{shown}"
    axes = axes_for(ax, (6.4, 1.3 + 0.24 * len(names)), title=title)
    positions = np.arange(len(names))
    left = np.zeros(len(names))
    for split, (colour, hatch) in _SPLITS.items():
        widths = np.array([report.counts[name].get(split, 0) for name in names])
        if widths.any():
            bars = axes.barh(positions, widths, left=left, height=0.72, label=split, color=colour)
            for bar in bars:
                bar.set(hatch=hatch, edgecolor="white", linewidth=0.4)
            left += widths
    for position, name in enumerate(names):
        axes.annotate(
            f"{totals[name]:,}",
            (left[position], position),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(positions, [printable(name) for name in names], fontsize=9)
    dress(*axes.get_yticklabels())
    axes.set(xlabel="images", ylim=(len(names) - 0.4, -0.6))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.margins(x=0.1)
    axes.tick_params(axis="y", length=0)
    splits = {container.get_label() for container in axes.containers}
    if splits - {_UNSPLIT}:
        legend_for(axes, ax, "outside lower center", ncols=3)
    without_frame(axes)
    return figure_of(axes)


def plot_batch(
    images: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    ax: Axes | None = None,
) -> Figure:
    """Draws the first images of a batch, at most 24, with the names of their classes.

    Args:
        images: `(batch, height, width, 3)`, 0...255.
        labels: Class numbers `(batch,)`, or rows of 0/1 `(batch, num_classes)`.
        class_names: Class names in the order of the labels.
        ax: The axes to draw in; a new figure by default.

    Raises:
        ArgumentError: There are no images, their number is not that of the labels, or a label has
            no name.
    """
    _check_batch(images, labels, class_names)
    texts = []
    for label in np.asarray(labels)[:MAX_IMAGES]:
        classes = [int(label)] if label.ndim == 0 else np.flatnonzero(label).tolist()
        name = ", ".join(class_names[index] for index in classes)
        texts.append(printable(name or "no label", COLUMNS_UNDER_IMAGE))
    title = f"{len(texts)} of {len(images)} images" if len(texts) < len(images) else "One batch"
    return grid(list(np.asarray(images)[:MAX_IMAGES]), texts, title=title, ax=ax)


def _check_batch(images: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> None:
    shape, numbers = np.shape(images), np.asarray(labels)
    if len(shape) != 4 or not shape[0] or len(numbers) != shape[0]:
        raise ArgumentError(
            "`images` and `labels` must be a batch, (n, height, width, 3), and as many labels. "
            f"Received: images of shape {shape} and labels of shape {numbers.shape}. Give "
            "next(iter(data.train.dataset())), for example."
        )
    num_classes = numbers.shape[1] if numbers.ndim == 2 else int(numbers.max()) + 1
    if num_classes > len(class_names):
        raise ArgumentError(
            f"`class_names` must name every label. Received: {len(class_names)} names and labels "
            f"of {num_classes} classes. Give data.class_names."
        )


def plot_near_duplicates(
    report: HasPairs,
    read_image: Callable[[str], np.ndarray] | None = None,
    *,
    ax: Axes | None = None,
) -> Figure:
    r"""Draws pairs of near-duplicates side by side, at most 12.

    Above each image are the number of its pair, its split, its class, and its file's name.

    Args:
        report: A `NearDuplicateReport`.
        read_image: Returns the pixels 0...255, `(height, width, 3)`, of a path; reads the file by
            default.
        ax: The axes to draw in; a new figure by default.

    Raises:
        ArgumentError: An image has no file, and `read_image` is not given.

    Example:
        >>> import numpy as np
        >>> from tlkit.data.near_duplicate_reports import NearDuplicate, NearDuplicateReport
        >>> from tlkit.plots.data import plot_near_duplicates
        >>> pair = NearDuplicate(("a.jpg", "b.jpg"), 5, ("train", "test"), ("cat", "dog"))
        >>> report = NearDuplicateReport((pair,), 1, 20, 64)
        >>> figure = plot_near_duplicates(report, lambda path: np.zeros((8, 8, 3)))
        >>> [axes.get_title() for axes in figure.axes]
        ['1: train\ncat\na.jpg', '1: test\ndog\nb.jpg']
    """
    check_shown("report", report, "pairs", "a result of find_near_duplicates")
    pairs = report.pairs[: MAX_IMAGES // 2]
    if not pairs:
        return message("no near-duplicates", ax)
    read_image = read_image or read_file
    images = [read_image(path) for pair in pairs for path in pair.paths]
    texts = [
        f"{number}: {printable(split, COLUMNS_UNDER_IMAGE - 4)}\n"
        f"{printable(label or 'no label', COLUMNS_UNDER_IMAGE)}\n"
        f"{printable(Path(path).name, COLUMNS_UNDER_IMAGE)}"
        for number, pair in enumerate(pairs, start=1)
        for path, split, label in zip(pair.paths, pair.splits, pair.classes, strict=True)
    ]
    title = f"Near-duplicates: {len(pairs)} of {len(report.pairs)} pairs"
    return grid(images, texts, title=title, ax=ax)
