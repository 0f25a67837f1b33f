"""Images that look alike although their files differ: saved anew, resized, cropped a little."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tlkit.data.folders import split_of
from tlkit.data.images import ImageData, ImageSplit
from tlkit.data.inspection import look_through
from tlkit.data.limits import MAX_PIXELS
from tlkit.data.listing import Listing
from tlkit.data.near_duplicate_reports import NearDuplicate, NearDuplicateReport
from tlkit.data.perceptual import NUM_BITS, hash_images, num_differing
from tlkit.data.reports import DataReport
from tlkit.data.settings import KEEP, check_settings
from tlkit.errors import ArgumentError
from tlkit.utils.progress import bar

MAX_DIFFERING = 64
"""In how many of 255 bits near-duplicates differ at most, by default.

Of the 577,504 pairs among 1,397 images of flowers, ants and bees one is the same image
twice, in other colours (30 bits); all others differ in at least 85. See `benchmarks/README.md` for
the share of changed copies that is found.
"""

MAX_PAIRS = 10_000
"""So many pairs are listed, those that matter most."""

_BLOCK = 2048


def find_near_duplicates(
    data: ImageData,
    *,
    max_differing: int = MAX_DIFFERING,
    cache: str | os.PathLike[str] | None = None,
) -> NearDuplicateReport:
    """Finds pairs of images that look alike, above all across splits and under other labels.

    Exact copies are known from `data.report`. This finds those that were saved anew, resized,
    made brighter or grey, or cropped by a few percent: each image becomes 255 bits, see
    `tlkit.data.perceptual.perceptual_hashes`, and every two are compared. Bits are remembered by
    content, so a second audit decodes nothing. Mirrored and turned copies are not found. Where all
    images are laid out alike, as digits or X-ray images are, pass a lower `max_differing`.

    Memory is bounded, apart from 32 bytes and the paths for each image; the time to compare
    grows with the square of their number (for 100,000 images about a minute).

    Args:
        data: What `load_folder`, `load_manifest`, `load_arrays` or `load_tfds` returned.
        max_differing: In how many of 255 bits near-duplicates differ at most. More finds copies
            that were cropped further, and pairs that are none: two different images differ in
            127 on average.
        cache: The cache's folder, as `cache_folder` takes it.

    Returns:
        The pairs. Its `group_of` is what `load_folder` and `load_manifest` take as `groups`, to
        keep them in one split.

    Raises:
        ArgumentError: `data` is nothing that was loaded, or `max_differing` is no whole number
            from 0 to 127.
        DataError: Images have gone or changed since they were loaded.

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
            "`data` must be what load_folder, load_manifest, load_arrays or load_tfds returned. "
            f"Received: data of type {type(data).__name__}."
        )
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
    """Does what `inspect_listing` and `find_near_duplicates` do, with files that are listed.

    What the user has not split is in one split here, which is called "all".
    """
    _check_bound(max_differing)
    report, images, division = look_through(
        listing, max_pixels=max_pixels, damaged=damaged, cache=cache
    )
    names = tuple(report.counts)
    # neither resized nor batched so
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
            f"Received: max_differing={max_differing!r}. Give {MAX_DIFFERING}, say."
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
    rows = np.sort(np.unique(digests, return_index=True)[1])  # each content once
    paths = np.array([path for split in splits for path in split.paths], object)[rows]
    places = np.repeat([split.name for split in splits], [split.num_images for split in splits])
    places = places[rows]
    labels = np.array([text for split in splits for text in _labels(split, class_names)], object)
    labels = labels[rows]
    found = _Found(len(rows), places, labels)
    for first, second, differing in _close_pairs(hashes[rows], bound):
        found.add(first, second, differing)
    pairs = tuple(
        NearDuplicate(
            (paths[first], paths[second]),
            int(differing),
            (str(places[first]), str(places[second])),
            (labels[first], labels[second]),
        )
        for first, second, differing in found.most_telling()
    )
    if found.num_pairs > len(pairs):
        notes.append(f"The {len(pairs):,} pairs that matter most are listed.")
    sizes = Counter(found.clusters.tolist())
    keys: dict[int, str] = {}
    for cluster, digest in zip(found.clusters.tolist(), digests[rows].tolist(), strict=True):
        keys[cluster] = min(keys.get(cluster, digest), digest)
    return NearDuplicateReport(
        pairs=pairs,
        num_pairs=found.num_pairs,
        num_images=len(rows),
        max_differing=bound,
        groups={
            path: keys[cluster]
            for path, cluster in zip(paths, found.clusters.tolist(), strict=True)
            if sizes[cluster] > 1
        },
        notes=tuple(notes),
        is_in_memory=any(split.is_in_memory for split in splits),
    )


def _labels(split: ImageSplit, class_names: Sequence[str]) -> list[str]:
    """The class of each image, or all its labels."""
    if split.labels.ndim == 1:
        return [class_names[label] for label in split.labels.tolist()]
    return [
        ", ".join(class_names[one] for one in np.flatnonzero(row).tolist()) for row in split.labels
    ]


Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Positions of the first and of the second of each pair, and in how many bits they differ."""


def _close_pairs(hashes: np.ndarray, bound: int) -> Iterator[Pairs]:
    """Yields the pairs within each two blocks, so that memory is bounded."""
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


class _Found:
    """The pairs that matter most, and which images hang together by all of them.

    Attributes:
        num_pairs: All pairs.
        clusters: A number for each image, `(n,)`; images that hang together share it.
    """

    def __init__(self, num_images: int, places: np.ndarray, labels: np.ndarray) -> None:
        self.num_pairs = 0
        self.clusters = np.arange(num_images)
        self._places, self._labels = places, labels
        self._kept: Pairs = (np.zeros(0, int), np.zeros(0, int), np.zeros(0, np.int16))

    def add(self, first: np.ndarray, second: np.ndarray, differing: np.ndarray) -> None:
        """Takes further pairs."""
        self.num_pairs += len(first)
        ends = self.clusters[first], self.clusters[second]
        graph = coo_array((np.ones(len(first), bool), ends), shape=(len(self.clusters),) * 2)
        self.clusters = connected_components(graph, directed=False)[1][self.clusters]
        new = zip(self._kept, (first, second, differing), strict=True)
        self._keep(*(np.concatenate(both) for both in new))

    def _keep(self, first: np.ndarray, second: np.ndarray, differing: np.ndarray) -> None:
        is_inside = self._places[first] == self._places[second]
        is_alike = self._labels[first] == self._labels[second]
        order = np.lexsort((second, first, differing, is_alike, is_inside))[:MAX_PAIRS]
        self._kept = (first[order], second[order], differing[order])

    def most_telling(self) -> Iterator[tuple[int, int, int]]:
        """Yields the pairs across splits first, then those under other labels, nearest first."""
        return zip(*(column.tolist() for column in self._kept), strict=True)
