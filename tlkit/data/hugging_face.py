"""Loads image data sets of Hugging Face's `datasets`."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from tlkit.data.folder_names import split_of_name
from tlkit.data.folders import load_listing
from tlkit.data.images import ImageData
from tlkit.data.limits import MAX_PIXELS
from tlkit.data.listing import FoundFile, Listing
from tlkit.data.reading import DIGEST_BYTES
from tlkit.data.reports import SkippedFile
from tlkit.data.settings import KEEP, RGB, STRETCH, check_settings
from tlkit.data.unpacking import check_space, is_plain, publish
from tlkit.errors import ArgumentError, DataError, did_you_mean, quoted
from tlkit.utils.cache import cache_folder
from tlkit.utils.files import staging_beside, storage_named, sweep_asides
from tlkit.utils.formatting import counted
from tlkit.utils.progress import track

if TYPE_CHECKING:
    from datasets import Dataset

DATASETS_FOLDER = "datasets"
_NUMBERS = ("int", "uint")
_FILES = ("string", "binary")
"""Types of columns with the paths or the bytes of image files."""
_UNLABELLED = -1
"""The number of a class label that is not known."""
_MAX_NAME, _MAX_SUFFIX = 200, 10
"""Bytes of names of folders and of suffixes; longer ones are replaced or left out."""


@dataclass(frozen=True)
class _Row:
    """An image of a data set.

    Attributes:
        number: Its row in its part of the set.
        split: "train", "validation" or "test"; empty without a user's split.
        labels: The names of its classes; one, unless it may have several.
        content: The bytes of its file; empty if there are none.
        path: The path of its file; empty if there is none.
    """

    number: int
    split: str
    labels: tuple[str, ...]
    content: bytes
    path: str


@dataclass(frozen=True)
class _Columns:
    """How the columns of a data set are read.

    Attributes:
        image: The name of the column with images.
        label: The name of the column with labels.
        class_names: The names of labels that are numbers; `None` if each is its own name.
        is_multi_label: Whether an image may have several labels at once.
    """

    image: str
    label: str
    class_names: tuple[str, ...] | None
    is_multi_label: bool


def load_dataset(
    dataset: Any,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    image_size: int | tuple[int, int] = 224,
    resize: str = STRETCH,
    channels: int = RGB,
    batch_size: int = 32,
    splits: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    max_pixels: int = MAX_PIXELS,
    damaged: str = KEEP,
    cache: str | os.PathLike[str] | None = None,
) -> ImageData:
    """Loads a data set of the package `datasets`, which is installed by the extra `hf`.

    The files of its images are written to the cache once for each content, and from then on loaded
    as by `load_folder`; images that lie in files of their own stay there. Images without a label,
    or with the label -1, are left out with a note.

    The splits of a `DatasetDict` are kept: "train", "validation" and "test", also under their other
    common names; others are left out with a note. What is missing, or all splits of a single
    `Dataset`, is made as by `load_folder`.

    Args:
        dataset: A `datasets.Dataset` or `datasets.DatasetDict`, not a streamed one.
        image_column: The column with the images: of the type `Image`, or bytes or paths of image
            files. By default the only column of the type `Image`.
        label_column: The column with the labels: class labels, whole numbers or strings; or lists
            of these, if an image may have several labels. By default the only column of the type
            `ClassLabel`, else "label".
        image_size: Height and width that images are resized to; one number for a square.
        resize: "stretch", "crop" or "pad", see `load_folder`.
        channels: 3 for RGB or 1 for grey images, see `load_folder`.
        batch_size: Images per batch.
        splits: Fractions of training, validation and test, used if the set has no such splits.
        seed: Seed of the split, the order and the augmentation.
        max_pixels: Maximum number of pixels of an image.
        damaged: "keep" or "skip", see `load_folder`.
        cache: The cache's folder, as `cache_folder` takes it.

    Returns:
        The images. The classes are in the order of the class labels, else sorted.

    Raises:
        ArgumentError: The package is not installed, `dataset` is something else, a column does not
            exist or has another type, or another argument is invalid.
        DataError: There is no split "train", or there are too few images, as for `load_folder`.
        StorageError: The images do not fit on the cache's disk.

    Example:
        >>> import datasets                                       # doctest: +SKIP
        >>> import tlkit
        >>> flowers = datasets.load_dataset("imagefolder", data_dir="flowers")  # doctest: +SKIP
        >>> data = tlkit.load_dataset(flowers, image_size=224)    # doctest: +SKIP
    """
    settings = check_settings(
        image_size,
        batch_size,
        splits,
        seed,
        max_pixels=max_pixels,
        damaged=damaged,
        cache=cache,
        resize=resize,
        channels=channels,
    )
    notes: list[str] = []
    parts = _parts_of(dataset, notes)
    columns = _columns_of(next(iter(parts.values())), image_column, label_column)
    for part in parts.values():
        _columns_of(part, columns.image, columns.label)
    listing = Listing(str(type(dataset).__name__), "dataset", notes=notes)
    listing.is_multi_label = columns.is_multi_label
    _list_rows(parts, columns, listing, cache)
    present = {label for file in listing.files for label in file.labels or (file.class_name,)}
    order = sorted(present, key=lambda name: (_number_of(name), name))
    if columns.class_names is not None:
        order = [name for name in columns.class_names if name in present]
    return load_listing(listing, replace(settings, class_names=tuple(order)))


def _parts_of(dataset: Any, notes: list[str]) -> dict[str, "Dataset"]:
    """Returns the parts of a data set by their split, "" for a part that is not split."""
    try:
        import datasets
    except ImportError as error:
        raise ArgumentError(
            "`load_dataset` needs the package datasets. Received: it is not installed. Install it "
            "with: pip install 'tlkit[hf]'."
        ) from error
    if isinstance(dataset, datasets.Dataset):
        return {"": dataset}
    if not isinstance(dataset, datasets.DatasetDict):
        streamed = datasets.IterableDataset, datasets.IterableDatasetDict
        remedy = "Load one, with datasets.load_dataset for example."
        if isinstance(dataset, streamed):
            remedy = "Load it without streaming=True."
        raise ArgumentError(
            "`dataset` must be a Dataset or a DatasetDict of the package datasets. Received: a "
            f"{type(dataset).__name__}. {remedy}"
        )
    parts: dict[str, Dataset] = {}
    for name, part in dataset.items():
        split = split_of_name(name)
        if not split or split in parts:
            notes.append(f"The data set's split {name!r} is left out.")
        else:
            parts[split] = part
    if "train" not in parts:
        raise DataError(
            "`dataset` must have a split 'train'. Received: a DatasetDict with "
            f"{quoted(dataset) or 'no split'}. Rename one, or give a Dataset."
        )
    return parts


def _columns_of(part: Any, image_column: str | None, label_column: str | None) -> _Columns:
    """Returns the columns of a part, of which those of the types Image and ClassLabel are found."""
    import datasets

    features = part.features

    def column(given: str | None, kind: type, argument: str, usual: str) -> str:
        found = [name for name, feature in features.items() if isinstance(feature, kind)]
        name = given if given is not None else found[0] if len(found) == 1 else usual
        if name not in features:
            what = f"columns of this type: {quoted(found)}" if found else "none of this type"
            raise ArgumentError(
                f"`{argument}` must be the name of a column. Received: {argument}={given!r}, and "
                f"the columns {quoted(features)}; {what}.{did_you_mean(name, features)}"
            )
        return str(name)

    image = column(image_column, datasets.Image, "image_column", "image")
    label = column(label_column, datasets.ClassLabel, "label_column", "label")
    feature = features[image]
    is_image = isinstance(feature, datasets.Image) or (
        isinstance(feature, datasets.Value) and feature.dtype.removeprefix("large_") in _FILES
    )
    if not is_image:
        raise ArgumentError(
            "`image_column` must be a column of images, or of bytes or paths of image files. "
            f"Received: image_column={image!r} of the type {feature}. Choose one of "
            f"{quoted(features)}, or cast it with cast_column({image!r}, datasets.Image())."
        )
    feature = features[label]
    inner = getattr(feature, "feature", feature[0] if isinstance(feature, list) else None)
    kind = feature if inner is None else inner
    is_label = isinstance(kind, datasets.ClassLabel) or (
        isinstance(kind, datasets.Value)
        and (kind.dtype.startswith(_NUMBERS) or kind.dtype.removeprefix("large_") == "string")
    )
    if not is_label:
        raise ArgumentError(
            "`label_column` must be a column of class labels, whole numbers or strings, or of "
            f"lists of these. Received: label_column={label!r} of the type {feature}. Choose one "
            f"of {quoted(features)}."
        )
    names = tuple(kind.names) if isinstance(kind, datasets.ClassLabel) else None
    return _Columns(image, label, names, inner is not None)


def _rows(parts: Mapping[str, Any], columns: _Columns, listing: Listing) -> Iterator[_Row]:
    """Yields the labelled images of all parts; the other ones are added to the listing."""
    import datasets

    for split, part in parts.items():
        used = part.select_columns([columns.image, columns.label])
        if isinstance(part.features[columns.image], datasets.Image):
            used = used.cast_column(columns.image, datasets.Image(decode=False))
        num_unlabelled = 0
        for number, row in enumerate(used.with_format(None)):
            labels = _labels_of(row[columns.label], columns)
            if labels is None:
                num_unlabelled += 1
                continue
            content, path = _file_of(row[columns.image])
            if not content and not path:
                name = f"{split or 'dataset'}[{number}]"
                listing.skipped.append(SkippedFile(name, ", ".join(labels), "no image"))
                continue
            yield _Row(number, split, labels, content, path)
        if num_unlabelled:
            what = f" of {split!r}" if split else ""
            listing.notes.append(
                f"{counted(num_unlabelled, 'image')}{what} without a label: left out."
            )


def _labels_of(value: Any, columns: _Columns) -> tuple[str, ...] | None:
    """Returns the names of an image's labels; `None` if it is not labelled."""
    values = value if columns.is_multi_label else [value]
    names = columns.class_names
    missing = (None,) if names is None else (None, _UNLABELLED)
    if values is None or any(one in missing for one in values):
        return None
    return tuple(str(one) if names is None else names[one] for one in values)


def _file_of(value: Any) -> tuple[bytes, str]:
    """Returns the bytes and the path of an image's file, each empty if it is missing."""
    if isinstance(value, Mapping):
        return value["bytes"] or b"", value["path"] or ""
    return (value, "") if isinstance(value, bytes) else (b"", value or "")


def _list_rows(
    parts: Mapping[str, Any],
    columns: _Columns,
    listing: Listing,
    cache: str | os.PathLike[str] | None,
) -> None:
    """Adds the images to the listing; those without a file are written to the cache."""
    total = sum(part.num_rows for part in parts.values())
    hashed, num_bytes = hashlib.blake2b(digest_size=DIGEST_BYTES), 0
    names: list[tuple[_Row, str]] = []
    for row in track(_rows(parts, columns, listing), "reading the data set", total, "images"):
        place = "" if not row.content else _place_of(row)
        hashed.update(repr((place, row.path, len(row.content))).encode() + row.content)
        num_bytes += len(row.content)
        names.append((replace(row, content=b""), place))
    folder = cache_folder(DATASETS_FOLDER, cache) / hashed.hexdigest()
    if num_bytes and not folder.is_dir():
        check_space(num_bytes, folder.parent, "a data set with images", "dataset")
        sweep_asides(folder.parent, [folder.name])
        with storage_named(folder), staging_beside(folder) as staging:
            rows = _rows(parts, columns, Listing())
            for row in track(rows, "writing the data set", total, "images"):
                if row.content:
                    target = staging / folder.name / _place_of(row)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(row.content)
            publish(staging / folder.name, folder)
    if num_bytes:
        os.utime(folder)  # used now, see `CacheEntry`
    for row, place in names:
        classes = listing.classes.setdefault(row.split, [])
        classes += [label for label in row.labels if label not in classes]
        path = str(folder / place) if place else row.path
        if columns.is_multi_label:
            listing.files.append(FoundFile(path, "", row.split, row.labels))
        else:
            listing.files.append(FoundFile(path, row.labels[0], row.split))


def _place_of(row: _Row) -> str:
    """Returns the path of an image's file in the cache: `SPLIT/CLASS/NUMBER.SUFFIX`."""
    label, file = "+".join(row.labels) or "no label", f"{row.number:07d}"
    if not is_plain((label,)) or len(label.encode()) > _MAX_NAME or label.startswith("."):
        label = f"class-{hashlib.blake2b(label.encode(), digest_size=4).hexdigest()}"
    suffix = PurePath(row.path).suffix
    if is_plain((file + suffix,)) and len(suffix.encode()) <= _MAX_SUFFIX:
        file += suffix
    return f"{row.split or 'dataset'}/{label}/{file}"


def _number_of(name: str) -> int:
    """Returns a class name that is a number as one, to sort by it; 0 for other names."""
    return int(name) if name.lstrip("-").isdecimal() else 0
