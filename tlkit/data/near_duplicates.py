"""Finds near-duplicates: images that were saved again, resized or slightly cropped."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tlkit.data.folders import split_of
from tlkit.data.images import ImageData, ImageSplit, check_has_images
from tlkit.data.inspection import inspect_and_divide
from tlkit.data.limits import MAX_PIXELS
from tlkit.data.listing import Listing
from tlkit.data.near_duplicate_reports import NearDuplicate, NearDuplicateReport
from tlkit.data.perceptual import NUM_BITS, hash_images, num_differing
from tlkit.data.reports import DataReport
from tlkit.data.settings import KEEP, check_settings
from tlkit.errors import ArgumentError
from tlkit.utils.progress import bar

MAX_DIFFERING = 64
"""Default maximum number of differing bits of near-duplicates, of 255.

Of the 577,504 pairs among 1,397 images of flowers, ants and bees one is the same image in other
colours (30 bits); all others differ in at least 85. See `benchmarks/README.md` for the fraction of
changed copies that is found.
"""

MAX_PAIRS = 10_000
"""Maximum number of pairs in the report."""

_BLOCK = 2048


def find_near_duplicates(
    data: ImageData,
    *,
    max_differing: int = MAX_DIFFERING,
    cache: str | os.PathLike[str] | None = None,
) -> NearDuplicateReport:
    """Finds pairs of images that look alike, across splits and labels in particular.

    Exact copies are listed in `data.report`. This function finds copies that were saved again,
    resized, made brighter or grey, or cropped by a few per cent: each image is hashed to 255 bits,
    see `tlkit.data.perceptual.perceptual_hashes`, and all pairs are compared. Hashes are cached by
    content, so a second search decodes nothing. Mirrored and rotated copies are not found. If all
    images have a similar layout, as digits or X-ray images do, pass a lower `max_differing`.

    Memory use is bounded, apart from 32 bytes and the path of each image; the time for the
    comparison grows with the square of the number of images (100,000 images take about a minute).

    Args:
        data: The result of `load_folder`, `load_manifest`, `load_arrays` or `load_tfds`.
        max_differing: Maximum number of differing bits of near-duplicates, of 255. A higher value
            finds more strongly cropped copies, but also false pairs: two different images differ in
            127 bits on average.
        cache: The cache's folder, as `cache_folder` takes it.

    Returns:
        The report. Its method `group_of` can be passed to `load_folder` and `load_manifest` as
        `groups`, to put near-duplicates into one split.

    Raises:
        ArgumentError: `data` is not the result of a loader, or `max_differing` is not a whole
            number from 0 to 127.
        DataError: Images are missing or have changed since they were loaded.

    Example:
        >>> import numpy as np
        >>> import tlkit
        >>> images = np.random.default_rng(0).integers(0, 200, (20, 32, 32, 3), np.uint8)
        >>> images[7] = images[4] // 2 + 60
        >>> data = tlkit.load_arrays(images, [0, 1] * 10, splits=(1, 0, 0))
        >>> [pair] = tlkit.find_near_duplicates(data).pairs
        >>> pair.paths, pair.classes
        (('images[4]', 'images[7]'), ('0', '1'))
    """
    if not isinstance(data, ImageData):
        raise ArgumentError(
            "`data` must be the result of load_folder, load_manifest, load_arrays or load_tfds. "
            f"Received: data of type {type(data).__name__}. Load the images first."
        )
    check_has_images("data", data)
    _check_bound(max_differing)
    splits = [split for split in (data.train, data.validation, data.test) if split is not None]
    return _audit(splits, data.class_names, max_differing, cache)


def audit_listing(
    listing: Listing,
    *,
    max_differing: int = MAX_DIFFERING,
    max_pixels: int = MAX_PIXELS,
    damaged: str = KEEP,
    cache: str | os.PathLike[str] | None = None,
) -> tuple[DataReport, NearDuplicateReport]:
    """Returns the reports of `inspect_listing` and `find_near_duplicates` on listed files.

    Without a user's split, all images are in one split "all".
    """
    _check_bound(max_differing)
    report, images, division = inspect_and_divide(
        listing, max_pixels=max_pixels, damaged=damaged, cache=cache
    )
    names = tuple(report.counts)
    # image size and batch size are not used
    settings = check_settings(1, 1, (1, 0, 0), 0, max_pixels=max_pixels)
    splits = [
        split_of(
            name,
            [images[row] for row in rows],
            names,
            settings,
            is_multi_label=listing.is_multi_label,
        )
        for name, rows in division.splits.items()
    ]
    return report, _audit(splits, names, max_differing, cache)


def _check_bound(max_differing: int) -> None:
    is_whole = isinstance(max_differing, int) and not isinstance(max_differing, bool)
    if not is_whole or not 0 <= max_differing <= NUM_BITS // 2:
        raise ArgumentError(
            f"`max_differing` must be a whole number from 0 to {NUM_BITS // 2}. "
            f"Received: max_differing={max_differing!r}. The default is {MAX_DIFFERING}."
        )


def _audit(
    splits: Sequence[ImageSplit],
    class_names: Sequence[str],
    bound: int,
    cache: str | os.PathLike[str] | None,
) -> NearDuplicateReport:
    notes: list[str] = []
    hashes = hash_images(splits, cache=cache, notes=notes)
    digests = np.array([digest for split in splits for digest in split.digests])
    rows = np.sort(np.unique(digests, return_index=True)[1])  # one of each copy
    paths = np.array([path for split in splits for path in split.paths], object)[rows]
    split_names = np.repeat(
        [split.name for split in splits], [split.num_images for split in splits]
    )
    split_names = split_names[rows]
    labels = np.array([text for split in splits for text in _labels(split, class_names)], object)
    labels = labels[rows]
    collector = _PairCollector(len(rows), split_names, labels)
    for first, second, differing in _close_pairs(hashes[rows], bound):
        collector.add(first, second, differing)
    pairs = tuple(
        NearDuplicate(
            (paths[first], paths[second]),
            int(differing),
            (str(split_names[first]), str(split_names[second])),
            (labels[first], labels[second]),
        )
        for first, second, differing in collector.ranked()
    )
    if collector.num_pairs > len(pairs):
        notes.append(f"Only the first {len(pairs):,} pairs are listed.")
    sizes = Counter(collector.clusters.tolist())
    keys: dict[int, str] = {}
    for cluster, digest in zip(collector.clusters.tolist(), digests[rows].tolist(), strict=True):
        keys[cluster] = min(keys.get(cluster, digest), digest)
    return NearDuplicateReport(
        pairs=pairs,
        num_pairs=collector.num_pairs,
        num_images=len(rows),
        max_differing=bound,
        groups={
            path: keys[cluster]
            for path, cluster in zip(paths, collector.clusters.tolist(), strict=True)
            if sizes[cluster] > 1
        },
        notes=tuple(notes),
        is_in_memory=any(split.is_in_memory for split in splits),
    )


def _labels(split: ImageSplit, class_names: Sequence[str]) -> list[str]:
    """Returns the class of each image, or all its labels."""
    if split.labels.ndim == 1:
        return [class_names[label] for label in split.labels.tolist()]
    return [
        ", ".join(class_names[one] for one in np.flatnonzero(row).tolist()) for row in split.labels
    ]


Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Positions of the first and second image of each pair, and their number of differing bits."""


def _close_pairs(hashes: np.ndarray, bound: int) -> Iterator[Pairs]:
    """Yields the pairs block by block, so that memory is bounded."""
    starts = range(0, len(hashes), _BLOCK)
    with bar(
        "comparing images", len(starts) * (len(starts) + 1) // 2, "blocks of pairs"
    ) as advance:
        for start in starts:
            block = hashes[start : start + _BLOCK]
            for other in range(start, len(hashes), _BLOCK):
                differing = num_differing(block, hashes[other : other + _BLOCK])
                rows, columns = np.nonzero(differing <= bound)
                is_once = rows + start < columns + other
                rows, columns = rows[is_once], columns[is_once]
                if len(rows):
                    yield rows + start, columns + other, differing[rows, columns]
                advance(1)


class _PairCollector:
    """Collects pairs: the highest-ranked ones, and the connected components by all of them.

    Attributes:
        num_pairs: Number of all pairs.
        clusters: The number of each image's connected component, `(n,)`.
    """

    def __init__(self, num_images: int, split_names: np.ndarray, labels: np.ndarray) -> None:
        self.num_pairs = 0
        self.clusters = np.arange(num_images)
        self._split_names, self._labels = split_names, labels
        self._ranked: Pairs = (np.zeros(0, int), np.zeros(0, int), np.zeros(0, np.int16))

    def add(self, first: np.ndarray, second: np.ndarray, differing: np.ndarray) -> None:
        """Adds pairs."""
        self.num_pairs += len(first)
        ends = self.clusters[first], self.clusters[second]
        graph = coo_array((np.ones(len(first), bool), ends), shape=(len(self.clusters),) * 2)
        self.clusters = connected_components(graph, directed=False)[1][self.clusters]
        new = zip(self._ranked, (first, second, differing), strict=True)
        self._rank(*(np.concatenate(both) for both in new))

    def _rank(self, first: np.ndarray, second: np.ndarray, differing: np.ndarray) -> None:
        is_inside = self._split_names[first] == self._split_names[second]
        is_alike = self._labels[first] == self._labels[second]
        order = np.lexsort((second, first, differing, is_alike, is_inside))[:MAX_PAIRS]
        self._ranked = (first[order], second[order], differing[order])

    def ranked(self) -> Iterator[tuple[int, int, int]]:
        """Yields pairs across splits first, then those with different labels, nearest first."""
        return zip(*(column.tolist() for column in self._ranked), strict=True)
