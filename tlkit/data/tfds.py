"""Sets of TensorFlow Datasets, as folders of photographs."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tlkit.cache import cache_folder
from tlkit.data.folders import load_folder
from tlkit.data.images import ImageData
from tlkit.data.inspection import DEFAULT_SPLITS
from tlkit.errors import ArgumentError, DataError
from tlkit.files import written_aside
from tlkit.progress import bar

_ENDINGS = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png"}


def load_tfds(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    image_size: int | tuple[int, int] = 224,
    batch_size: int = 32,
    splits: Sequence[float] = DEFAULT_SPLITS,
    seed: int = 0,
    download: bool = True,
    cache: str | os.PathLike[str] | None = None,
) -> ImageData:
    """Loads a classification set of TensorFlow Datasets.

    Its pictures are written out once, as they are encoded, into one folder per split and class in
    tlkit's cache; from there on it is a folder like any other, see `load_folder`. The set's own
    splits "train", "validation" and "test" stay as they are; a set that has only "train" is split.

    Args:
        name: Such as "tf_flowers", with a version or configuration as TFDS takes them.
        data_dir: Where TFDS keeps its sets.
        image_size: As in `load_folder`.
        batch_size: As in `load_folder`.
        splits: As in `load_folder`, for a set that has only "train".
        seed: As in `load_folder`.
        download: Whether a set that is not there may be fetched.
        cache: tlkit's cache.

    Raises:
        ArgumentError: `tensorflow-datasets` is not installed, or there is no such set.
        DataError: The set has no pictures with one label each.

    Example:
        >>> import tlkit
        >>> data = tlkit.load_tfds("tf_flowers", image_size=160)  # doctest: +SKIP
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ArgumentError(
            "`load_tfds` must have the package tensorflow-datasets. Install it with "
            "pip install 'tlkit[tfds]'."
        ) from error
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise ArgumentError(
            f"`name` must be a set that TensorFlow Datasets knows. Received: name={name!r}. "
            f"{str(error).splitlines()[0]}"
        ) from error
    image, label = _keys(builder)
    folder = cache_folder("tfds", cache) / re.sub(r"[^\w.-]", "-", builder.info.full_name)
    if not folder.is_dir():
        if download:
            builder.download_and_prepare()
        elif not builder.info.splits:
            raise DataError(
                f"`name` must be a set that is there, with download=False. Received: name={name!r} "
                f"and data_dir={data_dir!r}."
            )
        with written_aside(folder) as aside:
            _write_out(builder, image, label, aside)
    return load_folder(
        folder,
        image_size=image_size,
        batch_size=batch_size,
        splits=splits,
        seed=seed,
        cache=cache,
    )


def _keys(builder: Any) -> tuple[str, str]:
    """Returns the names of the picture's and the label's feature."""
    import tensorflow_datasets as tfds

    features = dict(builder.info.features.items())
    images = [key for key, one in features.items() if isinstance(one, tfds.features.Image)]
    labels = [key for key, one in features.items() if isinstance(one, tfds.features.ClassLabel)]
    if len(images) != 1 or not labels:
        raise DataError(
            "`name` must be a set of pictures with one label each. Received: "
            f"name={builder.info.full_name!r} with the features {', '.join(features)}."
        )
    return images[0], "label" if "label" in labels else labels[0]


def _write_out(builder: Any, image: str, label: str, folder: Path) -> None:
    import tensorflow_datasets as tfds

    names = builder.info.features[label].names
    own = [split for split in ("train", "validation", "test") if split in builder.info.splits]
    if "train" not in own:
        raise DataError(
            "`name` must be a set with a train split. Received: "
            f"name={builder.info.full_name!r} with {', '.join(builder.info.splits)}."
        )
    total = sum(builder.info.splits[split].num_examples for split in own)
    with bar("writing pictures", total) as advance:
        for split in own:
            place = folder / split if len(own) > 1 else folder
            for class_name in names:
                (place / class_name.replace("/", "-")).mkdir(parents=True, exist_ok=True)
            dataset = builder.as_dataset(
                split=split, decoders={image: tfds.decode.SkipDecoding()}, shuffle_files=False
            )
            for number, example in enumerate(dataset):
                content = example[image].numpy()
                ending = next((e for m, e in _ENDINGS.items() if content.startswith(m)), ".img")
                class_name = names[int(example[label])].replace("/", "-")
                (place / class_name / f"{number:07d}{ending}").write_bytes(content)
                advance(1)
