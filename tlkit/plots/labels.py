"""Labels beside points that do not overlap where points are close to each other."""

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

from tlkit.plots.fonts import dress

_GAP = 7  # points between a marker and its label
_MAX_LINES = 12  # largest vertical distance of a label from its marker, in lines of text
_DISTANCE_COST = 0.3  # overlapping a bar is better than 60 points of distance; a text, never
_SIDE_GAPS = (1, 4, 8)  # horizontal distances of a label from its marker, in gaps


def label_points(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    *,
    spans: Sequence[tuple[float, float]] = (),
) -> None:
    """Writes a label beside each point that overlaps no other label and no marker.

    A label is placed to the right or left of its point, as close as possible; a label that is
    further away is connected to its point by a thin line. If there is no free space, it is placed
    where it covers least. Call it last: later drawings, changed limits, or a legend beside the axes
    are not taken into account.

    Args:
        axes: The axes of the points.
        points: Points in data coordinates.
        texts: A text for each point.
        spans: Lower and upper end of the bar through each point, if there are bars.

    Example:
        >>> from tlkit.plots.figure import Figure
        >>> from tlkit.plots.labels import label_points
        >>> axes = Figure().subplots()
        >>> _ = axes.plot([1, 1], [2, 2], "o")
        >>> label_points(axes, [(1, 2), (1, 2)], ["ant", "bee"])
        >>> first, second = (text.get_window_extent() for text in axes.texts)
        >>> bool(first.overlaps(second))
        False
    """
    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    labels = [
        axes.annotate(text, point, xytext=(0, 0), textcoords="offset points", fontsize=8)
        for point, text in zip(points, texts, strict=True)
    ]
    dress(*labels)
    for label in labels:
        label.set_in_layout(False)  # labels do not change the size of the axes
        label.set_path_effects([withStroke(linewidth=2, foreground="white")])
    figure.draw_without_rendering()  # fixes the position of the axes
    pixels = figure.dpi / 72  # per point
    markers = axes.transData.transform(points)
    occupied = [Bbox.from_bounds(x, y, 0, 0).padded(4 * pixels) for x, y in markers]
    for (x, _), ends in zip(points, spans, strict=False):
        (left, low), (_, high) = axes.transData.transform([(x, end) for end in ends])
        occupied.append(Bbox.from_extents(left - 1, low, left + 1, high))
    for label, (x, y) in sorted(
        zip(labels, markers, strict=True), key=lambda pair: (-pair[1][1], pair[1][0])
    ):
        size = label.get_window_extent().size
        candidates = [
            (offset, Bbox.from_bounds(x + offset[0], y + offset[1], *size))
            for offset in _offsets(size, _GAP * pixels)
        ]
        inside = [pair for pair in candidates if _contains(axes.bbox, pair[1])] or candidates
        costs = [
            _covered_area(box, occupied) + _DISTANCE_COST * pixels * np.hypot(*offset)
            for offset, box in inside
        ]
        (across, up), box = inside[int(np.argmin(costs))]
        occupied.append(box)
        label.set_position((across / pixels, up / pixels))
        is_far = across > 2 * _GAP * pixels or across + size[0] < -2 * _GAP * pixels
        if is_far or abs(up + size[1] / 2) > 1.6 * size[1]:
            end = (x + across + (size[0] if across < 0 else 0), y + up + size[1] / 2)
            axes.plot(
                *axes.transData.inverted().transform([(x, y), end]).T,
                color="#999999",
                linewidth=0.6,
                zorder=0,
                scalex=False,
                scaley=False,
            )


def _offsets(size: tuple[float, float], gap: float) -> Iterator[tuple[float, float]]:
    """Yields possible offsets of a label's lower left corner from its point, nearest first."""
    width, height = size
    line = 1.1 * height
    for step in range(2 * _MAX_LINES):
        up = (step + 1) // 2 * line * (1 if step % 2 else -1) - height / 2
        for num_gaps in _SIDE_GAPS:
            yield num_gaps * gap, up
            yield -num_gaps * gap - width, up


def _contains(outer: Bbox, inner: Bbox) -> bool:
    return bool(
        outer.x0 <= inner.x0
        and inner.x1 <= outer.x1
        and outer.y0 <= inner.y0
        and inner.y1 <= outer.y1
    )


def _covered_area(box: Bbox, occupied: Sequence[Bbox]) -> float:
    """Returns the area that a box has in common with others."""
    common = [Bbox.intersection(box, other) for other in occupied]
    return sum(one.width * one.height for one in common if one is not None)
