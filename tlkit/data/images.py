"""The images of one split, and the splits of a data set."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from tlkit.data.augmentation import Augmentation, AugmentLike, augmentation_of, check_by_image
from tlkit.data.image_source import ImageSource
from tlkit.data.limits import MAX_PIXELS
from tlkit.data.settings import NO_CHANNELS, RGB, STRETCH
from tlkit.errors import ArgumentError, check_count, check_image_size, some_of
from tlkit.utils.renamed import renamed_argument, renamed_attribute
from tlkit.utils.text_repr import ShownAsText

if TYPE_CHECKING:
    import tensorflow as tf

    from tlkit.data.reports import DataReport


MAX_NAMED = 10
"""Maximum number of class names in the text representation."""


@dataclass(frozen=True, eq=False)
class ImageSplit(ShownAsText):
    """The images of one split, with their labels; pixels are read when a dataset is iterated.

    The splits that loaders return can be passed to Keras directly, `model.fit(data.train,
    validation_data=data.validation)`: Keras gets batches of images and labels without augmentation,
    those of the training split in a new order in each epoch, whatever `shuffle` is. This holds for
    `predict`, too: pass it `dataset(shuffle=False)` if the order matters.

    Attributes:
        name: "train", "validation" or "test".
        paths: The path of each image; for images in memory, a name such as "images[17]".
        labels: int64 `(n,)`; for multi-label images 0 and 1 as float32 `(n, num_classes)`.
        digests: A hash of each image's content.
        image_size: Height and width that images are resized to; (0, 0) for inputs of another kind,
            see `load_examples`.
        batch_size: Images per batch.
        seed: Seed of the order and the augmentation.
        groups: The key of each image's group, "" for an image without one; empty if no image has a
            group.
        resize: "stretch", "crop" or "pad", see `load_folder`.
        channels: Number of channels; 0 for inputs of another kind.
    """

    name: str
    paths: tuple[str, ...] = field(repr=False)
    labels: np.ndarray = field(repr=False)
    digests: tuple[str, ...] = field(repr=False)
    image_size: tuple[int, int]
    batch_size: int
    seed: int
    _max_pixels: int = field(default=MAX_PIXELS, repr=False)
    _pixels: np.ndarray | None = field(default=None, repr=False)
    groups: tuple[str, ...] = field(default=(), repr=False)
    _checksums: tuple[int, ...] = field(default=(), repr=False)
    resize: str = STRETCH
    channels: int = RGB

    _left_out = ("paths", "labels", "digests", "groups")
    _derived = ("num_images",)

    def __len__(self) -> int:
        return self.num_images

    def __str__(self) -> str:
        images = "image" if self.num_images == 1 else "images"
        if self.labels.ndim == 2:
            what = f"with up to {self.labels.shape[1]} labels each"
        else:
            num_classes = len(np.unique(self.labels))
            what = f"of {num_classes} class{'' if num_classes == 1 else 'es'}"
        if not self.has_images:
            return (
                f"{self.name}: {self.num_images:,} {self.example_kind} {what}, in batches of "
                f"{self.batch_size}"
            )
        height, width = self.image_size
        resize = "" if self.resize == STRETCH else f" ({self.resize})"
        channels = "" if self.channels == RGB else f" × {self.channels} channels"
        return (
            f"{self.name}: {self.num_images:,} {images} {what}, "
            f"{height} × {width} pixels{channels}{resize}, in batches of {self.batch_size}"
        )

    @property
    def num_images(self) -> int:
        """Number of images, copies included."""
        return len(self.paths)

    @property
    def has_images(self) -> bool:
        """Whether these are images, and not inputs of another kind, see `load_examples`."""
        return self.channels != NO_CHANNELS

    @property
    def example_shape(self) -> tuple[int, ...]:
        """The shape of one example: height, width and channels of an image; () for a text."""
        if self.has_images or self._pixels is None:
            return (*self.image_size, self.channels)
        return self._pixels.shape[1:]

    @property
    def example_dtype(self) -> str:
        """The type of the values in batches: "float32" for images, "string" for texts."""
        if self.has_images or self._pixels is None:
            return "float32"
        return "string" if self._pixels.dtype == object else self._pixels.dtype.name

    @property
    def example_kind(self) -> str:
        """What the examples are, in the plural, for messages: "images", "texts"..."""
        if self.has_images:
            return "images"
        shape = " × ".join(map(str, self.example_shape))
        if self.example_dtype == "string":
            return f"rows of {shape} texts" if shape else "texts"
        return (
            f"arrays of {shape} {self.example_dtype}" if shape else f"{self.example_dtype} values"
        )

    @property
    def is_in_memory(self) -> bool:
        """Whether the images are arrays instead of files."""
        return self._pixels is not None

    @cached_property
    def source(self) -> ImageSource:
        """Paths, labels and pixels, for the code that reads images."""
        return ImageSource(
            self.paths,
            self.labels,
            self.digests,
            self._checksums,
            self._pixels,
            self.image_size,
            self._max_pixels,
            self.seed,
            self.resize,
            self.channels,
        )

    @property
    def group_keys(self) -> tuple[str, ...]:
        """For each image the key of what must stay together: its group, or else its digest."""
        groups = self.groups or ("",) * self.num_images
        return tuple(
            f"group {group}" if group else digest
            for group, digest in zip(groups, self.digests, strict=True)
        )

    units = renamed_attribute("units", "group_keys")

    @property
    def independent(self) -> str:
        """What is independent of each other: "groups of images", or "different images"."""
        return "groups of images" if self.groups else "different images"

    def independent_counts(self, num_classes: int) -> list[int]:
        """Returns the number of images of each class that are independent of each other.

        Copies of an image count once, and so do the images of a group. An image of several classes
        counts for each of them.

        Args:
            num_classes: The number of classes.

        Example:
            >>> import numpy as np, tlkit
            >>> images = np.random.default_rng(0).integers(0, 255, (8, 8, 8, 3), "uint8")
            >>> images[1] = images[0]
            >>> data = tlkit.load_arrays(images, [0] * 5 + [1] * 3, ["a", "b"], splits=(1, 0, 0))
            >>> data.train.independent_counts(2)
            [4, 3]
        """
        keys, labels = np.array(self.group_keys), self.labels
        of_classes = (
            labels.T == 1 if labels.ndim == 2 else labels == np.arange(num_classes)[:, None]
        )
        return [len(np.unique(keys[of_class])) for of_class in of_classes]

    @renamed_argument("share", "shard")
    def dataset(
        self,
        shuffle: bool | None = None,
        augment: AugmentLike = "none",
        *,
        epochs: range | None = None,
        indices: np.ndarray | None = None,
        batch_size: int | None = None,
        first_batch: int = 0,
        shard: tuple[int, int] = (0, 1),
        keep: bool = True,
        is_balanced: bool = False,
    ) -> tf.data.Dataset:
        """Returns batches of `(images, labels)`.

        Images are float32 `(batch, height, width, channels)`, 0...255, and inputs of another kind
        have the type that they were loaded with; labels are int64 `(batch,)`, or for multi-label
        images float32 `(batch, num_classes)`. The last batch of an epoch may be
        smaller.

        Order and augmentation depend only on the split's seed, the epoch's number and the image's
        content, not on an iterator's state: `epochs=range(7, 10)` gives the same epochs 7, 8 and 9
        as `range(10)`. With `epochs=None` every iteration is one epoch with new random numbers,
        which are the same in every program that iterates equally often.

        Args:
            shuffle: Whether the whole split is shuffled anew in each epoch. By default only the
                training split is, since its images are sorted by class; validation, test and rows
                selected by `indices` keep their order.
            augment: A preset of `augmentation_layers`, or Keras layers, which get each image by
                itself, `(1, height, width, channels)`, and all their random numbers from the
                split's seed, the epoch and the image; only for the training split.
            epochs: The epochs to iterate through, or `None` for one epoch per iteration.
            indices: The rows to use, in this order; all rows by default.
            batch_size: Images per batch; the split's own by default.
            first_batch: Number of batches of the first epoch to skip, without decoding them.
            shard: (index, number) selects from each batch every `number`-th image, beginning with
                `index`, and decodes no others: the shard of one of several devices. It may be
                empty.
            keep: Whether to decode small splits (at most 1,024 images and 32 MiB of pixels) at once
                and keep their pixels in memory for later passes. Otherwise, and always in shards
                and for larger splits, files are read when they are needed.
            is_balanced: Whether an epoch has equally many images of each class, to within one, and
                as many in all as otherwise: those of small classes several times, with other random
                numbers, and some of large ones. Shuffled, and not for several labels.

        Raises:
            ArgumentError: `augment` is neither a preset nor layers that return images of their
                input's shape, or is not "none" for a split other than training; `epochs` is empty;
                a row does not exist; `batch_size` is not a positive whole number.

        Example:
            >>> import numpy as np
            >>> import tlkit
            >>> images = np.arange(10 * 8 * 8 * 3).reshape(10, 8, 8, 3) % 251
            >>> data = tlkit.load_arrays(images, [0, 1] * 5, splits=(1, 0, 0))
            >>> for batch, labels in data.train.dataset(shuffle=False, batch_size=4):
            ...     print(batch.shape, labels.numpy())
            (4, 8, 8, 3) [0 1 0 1]
            (4, 8, 8, 3) [0 1 0 1]
            (2, 8, 8, 3) [0 1]
        """
        augmentation = augmentation_of(augment)
        check_takes_augmentation(augmentation, self)
        if not augmentation.is_none and self.name != "train":
            raise ArgumentError(
                "`augment` must be 'none' for validation and test. "
                f"Received: {str(augmentation)!r} for the split {self.name!r}. Leave it out."
            )
        check_by_image(augmentation, "a dataset, whose images have one label each")
        if epochs is not None and (len(epochs) == 0 or min(epochs) < 0):
            raise ArgumentError(
                "`epochs` must be a range with at least one epoch, from 0 on. "
                f"Received: epochs={epochs!r}. Leave it out for one epoch."
            )
        batch_size = self.batch_size if batch_size is None else batch_size
        check_count("batch_size", batch_size)
        check_count("first_batch", first_batch, minimum=0)
        if not 0 <= shard[0] < shard[1]:
            raise ArgumentError(
                "`shard` must be (index, number) with 0 <= index < number. "
                f"Received: shard={shard!r}. Leave it out for complete batches."
            )
        if is_balanced and self.labels.ndim == 2:
            raise ArgumentError(
                "`is_balanced` must be False with several labels per image, which cannot be drawn "
                "one by one. Received: is_balanced=True. Leave it out."
            )
        if shuffle is None:
            shuffle = self.name == "train" and indices is None
        from tlkit.data.pipeline import image_batches

        return image_batches(
            self.source,
            self._rows(indices),
            shuffle,
            augmentation,
            epochs=epochs,
            batch_size=batch_size,
            first_batch=first_batch,
            shard=shard,
            keep=keep,
            is_balanced=is_balanced,
        )

    def subset(self, indices: np.ndarray) -> ImageSplit:
        """Returns a split with only these rows, in this order.

        Raises:
            ArgumentError: A row does not exist.
        """
        rows = self._rows(indices)
        return dataclasses.replace(
            self,
            paths=tuple(self.paths[row] for row in rows),
            labels=self.labels[rows],
            digests=tuple(self.digests[row] for row in rows),
            _pixels=None if self._pixels is None else self._pixels[rows],
            groups=tuple(self.groups[row] for row in rows) if self.groups else (),
            _checksums=tuple(self._checksums[row] for row in rows) if self._checksums else (),
        )

    def _rows(self, indices: np.ndarray | None) -> np.ndarray:
        if indices is None:
            return np.arange(self.num_images)
        rows = np.asarray(indices)
        is_integer = rows.ndim == 1 and (rows.size == 0 or np.issubdtype(rows.dtype, np.integer))
        if not is_integer or np.any((rows < 0) | (rows >= self.num_images)):
            raise ArgumentError(
                f"`indices` must be whole numbers from 0 to {self.num_images - 1}. "
                f"Received: indices={indices!r}. Select existing images."
            )
        return rows.astype(np.int64)


@dataclass(frozen=True, eq=False)
class ImageData(ShownAsText):
    """Images in up to three splits, with their class names and a report on the data.

    Attributes:
        train: The training split.
        validation: The split for decisions such as early stopping; `None` if there is none.
        test: The split for one final measurement; `None` if there is none.
        class_names: The class names in the order of the labels.
        report: Counts, and everything that was skipped, with the reason.
        image_size: Height and width that images are resized to; (0, 0) for inputs of another kind,
            see `load_examples`.
        batch_size: Images per batch.
        seed: Seed of the split, the order and the augmentation.
        resize: "stretch", "crop" or "pad", see `load_folder`.
        channels: Number of channels; 0 for inputs of another kind.
    """

    train: ImageSplit
    validation: ImageSplit | None
    test: ImageSplit | None
    class_names: tuple[str, ...]
    report: DataReport = field(repr=False)
    image_size: tuple[int, int]
    batch_size: int
    seed: int
    resize: str = STRETCH
    channels: int = RGB

    _derived = ("num_classes",)

    def __str__(self) -> str:
        splits = [one for one in (self.train, self.validation, self.test) if one is not None]
        names = some_of(self.class_names, MAX_NAMED)
        return "\n".join([*map(str, splits), f"{self.num_classes} classes: {names}"])

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def has_images(self) -> bool:
        """Whether these are images, and not inputs of another kind, see `load_examples`."""
        return self.train.has_images

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have several labels at once."""
        return self.train.labels.ndim == 2

    def at_size(self, image_size: int | tuple[int, int]) -> ImageData:
        """Returns the same images in the same splits, resized to another height and width.

        `resize` stays the same.

        Args:
            image_size: In pixels, one number for a square or (height, width).

        Raises:
            ArgumentError: A side is not a positive whole number, or these are no images.

        Example:
            >>> import numpy as np
            >>> import tlkit
            >>> images = np.random.default_rng(0).integers(0, 255, (30, 8, 8, 3), "uint8")
            >>> data = tlkit.load_arrays(images, [0, 1, 2] * 10)
            >>> next(iter(data.at_size((4, 6)).train.dataset()))[0].shape[1:]
            TensorShape([4, 6, 3])
        """
        sides = check_image_size(image_size)
        check_has_images("data", self)
        resized = {
            name: dataclasses.replace(split, image_size=sides)
            for name in ("train", "validation", "test")
            if (split := getattr(self, name)) is not None
        }
        return dataclasses.replace(self, image_size=sides, **resized)

    def merged(self) -> ImageData:
        """Returns all images, of every split, as training images.

        For a last training on everything, after all decisions and measurements: no images are left
        to measure it on.

        Example:
            >>> import numpy as np
            >>> import tlkit
            >>> images = np.random.default_rng(0).integers(0, 255, (30, 8, 8, 3), "uint8")
            >>> data = tlkit.load_arrays(images, [0, 1, 2] * 10)
            >>> data.train.num_images, data.merged().train.num_images
            (22, 30)
        """
        splits = [one for one in (self.train, self.validation, self.test) if one is not None]
        has_groups = any(one.groups for one in splits)
        groups = [one.groups or ("",) * one.num_images for one in splits if has_groups]
        pixels = [one._pixels for one in splits if one._pixels is not None]
        train = dataclasses.replace(
            self.train,
            paths=tuple(path for one in splits for path in one.paths),
            labels=np.concatenate([one.labels for one in splits]),
            digests=tuple(digest for one in splits for digest in one.digests),
            _pixels=np.concatenate(pixels) if pixels else None,
            groups=tuple(group for some in groups for group in some),
            _checksums=tuple(one for split in splits for one in split._checksums),
        )
        return dataclasses.replace(self, train=train, validation=None, test=None)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the class names and of each split's digests, labels and groups, in order."""
        content = hashlib.blake2b(repr(self.class_names).encode(), digest_size=16)
        for split in (self.train, self.validation, self.test):
            if split is not None:
                content.update(f"{split.name} {split.digests} {split.labels.tolist()}".encode())
                content.update(repr(split.groups).encode() if split.groups else b"")
        return content.hexdigest()


def check_has_images(argument: str, data: ImageData | ImageSplit) -> None:
    """Raises `ArgumentError` if a data set or a split holds inputs that are no images.

    Args:
        argument: Its name in the error.
        data: The data set or the split.
    """
    if data.has_images:
        return
    split = data.train if isinstance(data, ImageData) else data
    raise ArgumentError(
        f"`{argument}` must contain images. Received: {split.example_kind}, as load_examples "
        "returned them. This function works on images only."
    )


def check_takes_augmentation(augmentation: Augmentation, split: ImageSplit) -> None:
    """Raises `ArgumentError` if inputs that are no images are to be augmented."""
    if augmentation.is_none or split.has_images:
        return
    raise ArgumentError(
        "`augment` must be left out for inputs that are no images. "
        f"Received: augment={str(augmentation)!r} for {split.example_kind}. Augment the arrays "
        "before load_examples, or pass a tf.data.Dataset that does."
    )
