"""Figures as text: fractions in per cent, their intervals and numbers of images, and sizes.

Durations are formatted by `tlkit.displays.activity.duration`. Also errors as parts of sentences.
"""

import math
import re
import textwrap
from collections.abc import Sequence

MEGABYTE, GIGABYTE = 10**6, 10**9


def percent(fraction: float, digits: int = 1) -> str:
    """Returns a fraction, 0...1, in per cent.

    Args:
        fraction: The fraction.
        digits: Number of decimals.

    Example:
        >>> from tlkit.utils.formatting import percent
        >>> percent(0.8604), percent(0.8604, 0)
        ('86.0 %', '86 %')
    """
    return f"{100 * fraction:.{digits}f} %"


def relative_change(change: float) -> str:
    """Returns a relative change, such as the weight change of a group, in per cent.

    Args:
        change: |after - before| / |before|; infinite if it was zero before.

    Example:
        >>> from tlkit.utils.formatting import relative_change
        >>> relative_change(0.00408), relative_change(75.5), relative_change(float("inf"))
        ('0.408 %', '7,550 %', 'from zero')
    """
    if math.isinf(change):
        return "from zero"
    per_cent = 100 * change
    return f"{per_cent:,.0f} %" if per_cent >= 99.5 else f"{per_cent:.3g} %"


def interval(ends: Sequence[float]) -> str:
    """Returns an interval of a fraction in per cent.

    Args:
        ends: Its lower and upper end, 0...1.

    Example:
        >>> from tlkit.utils.formatting import interval
        >>> interval((0.779, 0.915))
        '77.9-91.5 %'
    """
    low, high = ends
    return f"{100 * low:.1f}-{percent(high)}"


def fraction_text(fraction: float, num_images: int, ends: Sequence[float] | None = None) -> str:
    """Returns a measured fraction, such as an accuracy, with its number of images and interval.

    Args:
        fraction: The fraction, 0...1.
        num_images: Number of images that it was measured on.
        ends: Ends of the interval, 0...1; `None` if there is none.

    Example:
        >>> from tlkit.utils.formatting import fraction_text
        >>> fraction_text(0.86, 100, (0.779, 0.915))
        '86.0 % (n = 100, 95 % CI 77.9-91.5)'
    """
    return f"{percent(fraction)} ({sample_text(num_images, ends)})"


def sample_text(num_images: int, ends: Sequence[float] | None = None) -> str:
    """Returns the number of images and the 95 % interval of a fraction.

    Args:
        num_images: Number of images that the fraction was measured on.
        ends: Ends of the interval, 0...1; `None` if there is none.

    Example:
        >>> from tlkit.utils.formatting import sample_text
        >>> sample_text(1500, (0.779, 0.915))
        'n = 1,500, 95 % CI 77.9-91.5'
    """
    text = f"n = {num_images:,}"
    return text if ends is None else f"{text}, {confidence_interval(ends)}"


def confidence_interval(ends: Sequence[float]) -> str:
    """Returns the 95 % interval of a fraction, in per cent.

    Args:
        ends: Ends of the interval, 0...1.

    Example:
        >>> from tlkit.utils.formatting import confidence_interval
        >>> confidence_interval((0.779, 0.915))
        '95 % CI 77.9-91.5'
    """
    return f"95 % CI {100 * ends[0]:.1f}-{100 * ends[1]:.1f}"


def counted(number: int, noun: str) -> str:
    """Returns a number of things.

    Example:
        >>> from tlkit.utils.formatting import counted
        >>> counted(1, "kernel"), counted(1200, "kernel")
        ('1 kernel', '1,200 kernels')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def reason_of(error: BaseException, width: int = 200) -> str:
    """Returns the beginning of an error's text in one line, without Keras's colours.

    Args:
        error: The error.
        width: Number of characters after which the text ends, between two words.

    Example:
        >>> from tlkit.utils.formatting import reason_of
        >>> reason_of(ValueError("no such layer in this file"), width=20)
        'no such layer in ...'
    """
    text = " ".join(re.sub(r"\x1b\[\d*m", "", str(error)).split())
    short = textwrap.shorten(text, width, placeholder=" ...", break_on_hyphens=False)
    return short if short != "..." else f"{text[: width - 4]} ..."


def megabytes(num_bytes: float) -> str:
    """Returns a size in megabytes (10⁶ bytes), or in gigabytes (10⁹ bytes) from one on.

    Example:
        >>> from tlkit.utils.formatting import megabytes
        >>> megabytes(83_400_000), megabytes(2.5e9)
        ('83.4 MB', '2.5 GB')
    """
    if num_bytes < GIGABYTE:
        return f"{num_bytes / MEGABYTE:,.1f} MB"
    return f"{num_bytes / GIGABYTE:,.1f} GB"
