"""The images with which a run's model is exported in integers: to calibrate, and to measure."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from tlkit.data.file_checks import check_files
from tlkit.data.folders import split_of
from tlkit.data.given_images import find_images
from tlkit.data.images import ImageSplit
from tlkit.data.merging import KnownImages, find_known_images
from tlkit.data.settings import check_settings
from tlkit.data.splits import ImageRecord
from tlkit.errors import DataError, check_path
from tlkit.runs.config import SPLITS
from tlkit.runs.directory import Run
from tlkit.runs.known_images import image_folders, places_of

TRAIN, VALIDATION, TEST = "train", "validation", "test"
NUM_SAMPLES = 64
"""Largest number of images for comparisons without labels."""


@dataclass(frozen=True, eq=False)
class ExportImages:
    """Images for an export in integers, at the model's size.

    Attributes:
        calibrate: Images from which the range of each activation is taken; their labels mean
            nothing.
        test: Test images of the run, or validation images without them, on which accuracies are
            compared; `None` if none of them exist any longer.
    """

    calibrate: ImageSplit
    test: ImageSplit | None

    @property
    def samples(self) -> tuple[str, ...]:
        """Some of the images, for comparisons without labels."""
        paths = (self.test or self.calibrate).paths
        return paths[:: -(-len(paths) // NUM_SAMPLES)]


def find_export_images(run: Run, folder: str | os.PathLike[str] | None = None) -> ExportImages:
    """Returns the images for an export of a run in integers.

    Images of the run are recognised by their content, wherever they are now in the folders of the
    run and of those that it builds on, or in `folder`.

    Args:
        run: The run.
        folder: A folder with images to calibrate, of any layout, labelled or not. Test and
            validation images of the run are not among those that are used. By default, the
            training images of the run.

    Raises:
        DataError: There are no images to calibrate.
        RunError: `split.csv` is missing or damaged.
    """
    places = places_of(run)
    known = find_known_images(image_folders(run), places, max_pixels=run.max_pixels)
    training = [image for image in known if image.split == TRAIN]
    if folder is not None:
        given = _images_in(folder, run, places)
        training = [image for image in given if image.split == TRAIN]
        known += [image for image in given if image.digest in places]
        if not training:
            raise DataError(
                "`calibrate` must be a folder of images that the run did not use for validation or "
                f"test. Received: {os.fspath(folder)!r}, which has none. Name another folder."
            )
    if not training:
        raise DataError(
            "`calibrate` must be given for a run whose training images no longer exist. Received: "
            f"calibrate=None, and {', '.join(map(repr, image_folders(run)))} without them. Name a "
            "folder of such images (--calibrate FOLDER)."
        )
    held_out = {
        name: {image.digest: image for image in known if image.split == name}
        for name in (TEST, VALIDATION)
    }
    test = [*(held_out[TEST] or held_out[VALIDATION]).values()]
    return ExportImages(_split(TRAIN, training, run), _split(TEST, test, run) if test else None)


def check_image_folder(folder: str | os.PathLike[str], argument: str) -> None:
    """Raises `DataError` unless a path is that of a folder.

    Args:
        folder: The path.
        argument: Name of the argument in the message.

    Example:
        >>> from tlkit.runs.export_images import check_image_folder
        >>> check_image_folder(".", "calibrate")
    """
    check_path(argument, folder)
    if not os.path.isdir(folder):
        problem = "is a file" if os.path.exists(folder) else "does not exist"
        raise DataError(
            f"`{argument}` must be a folder of images. Received: {os.fspath(folder)!r}, which "
            f"{problem}. Name the folder that holds training images."
        )


def _images_in(
    folder: str | os.PathLike[str], run: Run, places: KnownImages
) -> Sequence[ImageRecord]:
    """Returns the readable images in a folder; those that the run does not know are for training.

    They get some class of the run.
    """
    paths = [image.path for image in find_images([folder], "calibrate") if not image.archive]
    checks = check_files(paths, max_pixels=run.max_pixels)
    unknown = (run.class_names[0], TRAIN)
    return [
        ImageRecord(path, class_name, one.digest, split, checksum=one.checksum)
        for path, one in zip(paths, checks, strict=True)
        if not one.reason
        for class_name, split in [places.get(one.digest, unknown)]
    ]


def _split(name: str, images: Sequence[ImageRecord], run: Run) -> ImageSplit:
    settings = check_settings(
        run.image_size,
        batch_size=32,
        splits=SPLITS,
        seed=run.run_record.seed,
        max_pixels=run.max_pixels,
        resize=run.resize,
        channels=run.channels,
    )
    return split_of(name, images, run.class_names, settings)
