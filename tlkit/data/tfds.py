"""Loads image data sets of TensorFlow Datasets."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from tlkit.data.folders import load_listing
from tlkit.data.images import ImageData
from tlkit.data.limits import MAX_PIXELS
from tlkit.data.listing import FoundFile, Listing
from tlkit.data.reading import content_digest
from tlkit.data.settings import RGB, STRETCH, check_settings
from tlkit.errors import ArgumentError, DataError
from tlkit.utils.cache import cache_folder
from tlkit.utils.files import written_aside

SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
NOTES = "notes.json"


def load_tfds(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int | tuple[int, int] = 224,
    resize: str = STRETCH,
    channels: int = RGB,
    batch_size: int = 32,
    splits: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    download: bool = True,
    max_pixels: int = MAX_PIXELS,
    cache: str | os.PathLike[str] | None = None,
) -> ImageData:
    """Loads an image classification set of TensorFlow Datasets, installed by the extra `tfds`.

    Its original image files are written into the cache once; from then on they are loaded as by
    `load_folder`. Its splits "train", "validation" (or "val") and "test" are kept; others are left
    out with a note.

    Args:
        name: The set's name, such as "tf_flowers" or "tf_flowers:3.0.1".
        data_dir: The folder of prepared sets; TensorFlow Datasets' default folder by default.
        image_size: Height and width that images are resized to; one number for a square.
        resize: "stretch", "crop" or "pad", see `load_folder`.
        channels: 3 for RGB or 1 for grey images, see `load_folder`.
        batch_size: Images per batch.
        splits: Fractions of training, validation and test, used if the set has no such splits.
        seed: Seed of the split, the order and the augmentation.
        download: Whether to download a set that is not prepared.
        max_pixels: Maximum number of pixels of an image.
        cache: The cache's folder, as `cache_folder` takes it.

    Raises:
        ArgumentError: tensorflow-datasets is not installed or does not know `name`; the set does
            not consist of images with one label each; or another argument is invalid.
        DataError: The set is not prepared, and `download` is false; it has no "train" split; or it
            has too few images.

    Example:
        >>> import tlkit
        >>> data = tlkit.load_tfds("tf_flowers", image_size=224)  # doctest: +SKIP
    """
    settings = check_settings(
        image_size,
        batch_size,
        splits,
        seed,
        max_pixels=max_pixels,
        cache=cache,
        resize=resize,
        channels=channels,
    )
    builder = _builder(name, data_dir)
    image_key, label_key = _check_features(name, builder)
    if not builder.is_prepared() and not download:
        raise DataError(
            f"`name` must be a prepared data set. Received: name={name!r}, download=False, and "
            f"nothing in {builder.data_dir}. Set `data_dir`, or pass download=True."
        )
    builder.download_and_prepare()
    if "train" not in builder.info.splits:
        raise DataError(
            f"`name` must be a data set with a split 'train'. Received: name={name!r} with "
            f"{', '.join(map(repr, builder.info.splits))}. Choose another."
        )
    folder = _export_files(builder, image_key, label_key, cache)
    class_names = builder.info.features[label_key].names
    listing = _listing(folder, class_names)
    present = {file.class_name for file in listing.files}
    order = tuple(class_name for class_name in class_names if class_name in present)
    return load_listing(listing, replace(settings, class_names=order))


def _builder(name: str, data_dir: str | os.PathLike[str] | None) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ArgumentError(
            "`load_tfds` needs the package tensorflow-datasets. Received: it is not "
            'installed. Install it with: pip install "tlkit[tfds]".'
        ) from error
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        raise ArgumentError(
            "`name` must be a data set that TensorFlow Datasets knows, or one prepared in "
            f"`data_dir`. Received: name={name!r}, data_dir={data_dir!r}. Check the spelling."
        ) from error


def _check_features(name: str, builder: Any) -> tuple[str, str]:
    """Returns the names of the features that hold the image and the label."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    keys = builder.info.supervised_keys or ("image", "label")
    kinds = (tfds.features.Image, tfds.features.ClassLabel)
    if len(keys) != 2 or not all(
        key in features and isinstance(features[key], kind)
        for key, kind in zip(keys, kinds, strict=True)
    ):
        raise ArgumentError(
            "`name` must be a data set of images with one label each. "
            f"Received: name={name!r} with the features {', '.join(features)}. Choose another."
        )
    return keys[0], keys[1]


def _export_files(
    builder: Any, image_key: str, label_key: str, cache: str | os.PathLike[str] | None
) -> Path:
    """Returns the folder with the set's images, `SPLIT/LABEL/NUMBER`, and writes it if missing."""
    import tensorflow_datasets as tfds

    sizes = {
        name: (split.num_examples, split.num_bytes) for name, split in builder.info.splits.items()
    }
    key = content_digest(repr((str(builder.data_dir), sorted(sizes.items()))).encode())
    folder = cache_folder("tfds", cache) / f"{builder.name}-{key}"
    if folder.is_dir():
        return folder
    notes = []
    with written_aside(folder) as aside:
        for split in builder.info.splits:
            if split not in SPLITS:
                notes.append(f"The data set's split {split!r} is left out.")
                continue
            decoders = {image_key: tfds.decode.SkipDecoding()}
            dataset = builder.as_dataset(split=split, decoders=decoders, shuffle_files=False)
            num_unlabelled = 0
            for number, example in enumerate(dataset.as_numpy_iterator()):
                if example[label_key] < 0:
                    num_unlabelled += 1
                    continue
                target = aside / split / str(example[label_key])
                target.mkdir(parents=True, exist_ok=True)
                (target / f"{number:07d}").write_bytes(example[image_key])
            if num_unlabelled:
                notes.append(f"{num_unlabelled} images of {split!r} without a label: left out.")
        (aside / NOTES).write_text(json.dumps(notes))
    return folder


def _listing(folder: Path, class_names: list[str]) -> Listing:
    listing = Listing(notes=json.loads((folder / NOTES).read_text()))
    for split in sorted(path for path in folder.iterdir() if path.is_dir()):
        names = listing.classes.setdefault(SPLITS[split.name], [])
        for labelled in sorted(split.iterdir(), key=lambda path: int(path.name)):
            names.append(class_names[int(labelled.name)])
            files = sorted(map(str, labelled.iterdir()))
            listing.files += [FoundFile(file, names[-1], SPLITS[split.name]) for file in files]
    return listing
