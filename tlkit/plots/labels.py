"""Names beside points, pushed apart where points lie close."""

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

from tlkit.plots.fonts import dress

_GAP = 7  # points between a mark and its label
_FURTHEST = 12  # lines of text that a label may lie above or below its mark
_FAR = 0.3  # better over the bar of another than 60 points away; over a text never
_ASIDE = (1, 4, 8)  # gaps that it may lie beside it


def label_points(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    *,
    spans: Sequence[tuple[float, float]] = (),
) -> None:
    """Writes a text beside each point, none of them over another, over a mark or out of the panel.

    Each stands to the right of its point or to the left, as little above or below as there is room
    for; one that had to move further is joined to its point by a thin line. Where there is no room
    at all, it stands where it covers least. To be called last: what is drawn later, other limits
    or a legend beside the panel are not reckoned with.

    Args:
        axes: Where the points are drawn.
        points: In the units of the data.
        texts: One for each.
        spans: Lower and upper end of the bar through each point, where there are bars.

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
        label.set_in_layout(False)  # the panel keeps its size, whatever stands beside points
        label.set_path_effects([withStroke(linewidth=2, foreground="white")])
    figure.draw_without_rendering()  # settles where the panel lies
    pixels = figure.dpi / 72  # in a point
    marks = axes.transData.transform(points)
    taken = [Bbox.from_bounds(x, y, 0, 0).padded(4 * pixels) for x, y in marks]
    for (x, _), ends in zip(points, spans, strict=False):
        (left, low), (_, high) = axes.transData.transform([(x, end) for end in ends])
        taken.append(Bbox.from_extents(left - 1, low, left + 1, high))
    for label, (x, y) in sorted(
        zip(labels, marks, strict=True), key=lambda pair: (-pair[1][1], pair[1][0])
    ):
        size = label.get_window_extent().size
        places = [
            (place, Bbox.from_bounds(x + place[0], y + place[1], *size))
            for place in _places(size, _GAP * pixels)
        ]
        inside = [one for one in places if _contains(axes.bbox, one[1])] or places
        (across, up), box = min(
            inside, key=lambda one: _covered(one[1], taken) + _FAR * pixels * np.hypot(*one[0])
        )
        taken.append(box)
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


def _places(size: tuple[float, float], gap: float) -> Iterator[tuple[float, float]]:
    """Where the lower left corner may lie from the point, the nearest first."""
    width, height = size
    line = 1.1 * height
    for step in range(2 * _FURTHEST):
        up = (step + 1) // 2 * line * (1 if step % 2 else -1) - height / 2
        for times in _ASIDE:
            yield times * gap, up
            yield -times * gap - width, up


def _contains(outer: Bbox, inner: Bbox) -> bool:
    return bool(
        outer.x0 <= inner.x0
        and inner.x1 <= outer.x1
        and outer.y0 <= inner.y0
        and inner.y1 <= outer.y1
    )


def _covered(box: Bbox, taken: Sequence[Bbox]) -> float:
    """The area that a box shares with others."""
    shared = [Bbox.intersection(box, other) for other in taken]
    return sum(one.width * one.height for one in shared if one is not None)
