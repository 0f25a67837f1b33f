"""How figures stand in texts: fractions in per cent, their intervals, and sizes."""

from collections.abc import Sequence

MEGABYTE, GIGABYTE = 10**6, 10**9


def percent(fraction: float, digits: int = 1) -> str:
    """Returns a fraction, 0...1, in per cent.

    Args:
        fraction: What part of the whole.
        digits: After the point.

    Example:
        >>> from tlkit.utils.formatting import percent
        >>> percent(0.8604), percent(0.8604, 0)
        ('86.0 %', '86 %')
    """
    return f"{100 * fraction:.{digits}f} %"


def interval(ends: Sequence[float]) -> str:
    """Returns the two ends of an interval of a fraction, in per cent.

    Args:
        ends: The lower and the upper one, 0...1.

    Example:
        >>> from tlkit.utils.formatting import interval
        >>> interval((0.779, 0.915))
        '77.9 to 91.5 %'
    """
    low, high = ends
    return f"{100 * low:.1f} to {percent(high)}"


def accuracy_text(accuracy: float, num_images: int, ends: Sequence[float] | None = None) -> str:
    """Returns an accuracy with the number of images behind it and its 95 % interval.

    Args:
        accuracy: 0...1.
        num_images: How many images it was measured on.
        ends: Of the interval, 0...1; `None` where there is none.

    Example:
        >>> from tlkit.utils.formatting import accuracy_text
        >>> accuracy_text(0.86, 100, (0.779, 0.915))
        '86.0 % (n = 100, 95 % CI 77.9 to 91.5 %)'
    """
    found = "" if ends is None else f", 95 % CI {interval(ends)}"
    return f"{percent(accuracy)} (n = {num_images}{found})"


def megabytes(num_bytes: float) -> str:
    """Returns a size in megabytes, 10⁶ bytes, or from 10⁹ bytes on in gigabytes.

    Example:
        >>> from tlkit.utils.formatting import megabytes
        >>> megabytes(83_400_000), megabytes(2.5e9)
        ('83.4 MB', '2.5 GB')
    """
    if num_bytes < GIGABYTE:
        return f"{num_bytes / MEGABYTE:,.1f} MB"
    return f"{num_bytes / GIGABYTE:,.1f} GB"
