"""The review of labels: which are likely wrong, which images are odd, and what to label next."""

import dataclasses
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tlkit.data.class_checks import check_classes
from tlkit.data.decisions import Decision, apply_decisions, file_key
from tlkit.data.file_checks import check_files
from tlkit.data.folders import split_of
from tlkit.data.images import ImageData, ImageSplit
from tlkit.data.inspection import build_report, readable_images
from tlkit.data.limits import MAX_PIXELS
from tlkit.data.listing import FoundFile, Listing, list_all_below
from tlkit.data.manifests import list_images
from tlkit.data.settings import KEEP, RGB, STRETCH, Settings, check_settings
from tlkit.data.splits import Division, ImageRecord
from tlkit.errors import ArgumentError, DataError, check_count, check_path
from tlkit.evaluation.intervals import wilson_interval
from tlkit.runs.choices import initial_image_size
from tlkit.runs.config import AUTO, RunConfig
from tlkit.runs.directory import Run, check_outside_images, check_writable, load_run
from tlkit.runs.known_images import seen_by_network
from tlkit.runs.measuring import build_model
from tlkit.runs.review_page import SUFFIX, check_page, write_page
from tlkit.runs.review_report import (
    COPY,
    KINDS,
    NEAR_DUPLICATE,
    OUTLIER,
    WRONG_LABEL,
    Doubt,
    ReviewReport,
    ToLabel,
)
from tlkit.utils.tensorflow_logging import load_tensorflow_quietly

if TYPE_CHECKING:
    from tlkit.advice.confident_learning import LabelNoise
    from tlkit.advice.outliers import Neighbourhood
    from tlkit.training.labelled import LabelledFeatures

MAX_SHOWN = 200
"""Default number of doubts, and of images to label, on the page."""

_NUM_PROBABILITIES = 9
"""Number of classes with their probabilities in the report: as many as there are keys for them."""

_DECIDED_BY_RUN = {
    "backbone": None,
    "weights": "pretrained",
    "image_size": None,
    "resize": None,
}
_MIN_FOR_INTERVAL = 20


def review_labels(
    photos: str | os.PathLike[str],
    *,
    run: str | os.PathLike[str] | None = None,
    backbone: str | os.PathLike[str] | None = None,
    weights: str | None = "pretrained",
    image_size: int | None = None,
    resize: str | None = None,
    unlabelled: str | os.PathLike[str] | None = None,
    decisions: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    max_shown: int = MAX_SHOWN,
    max_pixels: int = MAX_PIXELS,
    damaged: str = KEEP,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
) -> ReviewReport:
    """Finds doubtful labels and images, and writes a page on which they are decided.

    The frozen backbone computes the features of every image once; they are stored where training
    looks for them. Heads on these features, each solved on four fifths of the images, predict the
    others. From these probabilities confident learning estimates how many labels are wrong, and
    which. Doubtful are also copies and near-duplicates under two labels, and images that are unlike
    all others. The images of all splits are reviewed.

    On the page, doubts come first that are most certain. Each image is kept, moved to another class
    or set aside, by a key or a click; decisions can be undone, and downloaded as a CSV file. Images
    are never changed: `load_folder`, `load_manifest`, `train_run`, `add_classes_run`,
    `inspect_folder` and this function read that file (`decisions`).

    Args:
        photos: A folder as for `load_folder`, or a CSV file as for `load_manifest`.
        run: A finished run whose network computes the features, from images as it takes them. Its
            head is not used, as it was trained on the labels. A network that was fine-tuned on
            these images doubts their labels less; the report says so.
        backbone: Without a run: see `train_run`; "mobilenet_v2" by default.
        weights: Without a run: see `build_classifier`.
        image_size: Without a run: height and width of the images; the backbone's by default.
        resize: Without a run: "stretch" (the default), "crop" or "pad", see `load_folder`.
        unlabelled: Folder of images without labels, which are ranked by what a label would teach:
            the images with the smallest difference of the two highest probabilities first. With
            decisions about them, `train_run` learns from them, too.
        decisions: CSV file of earlier decisions. They are applied first; what was decided is not
            doubted again, and the page's file includes them.
        out: The page to write, a new `.html` file or an earlier such page; none by default.
        max_shown: Number of doubts, and of images to label, on the page.
        max_pixels: Images with more pixels are left out.
        damaged: "keep" or "skip", see `load_folder`.
        seed: Seed of the folds.
        cache: Folder of the stores; tlkit's cache by default.

    Raises:
        ArgumentError: An argument is invalid, or decided by the run.
        DataError: There are fewer than two classes, or a class has fewer than two different images;
            a folder cannot be read; a decision names a file that is not there, whose content or
            label has changed, or an unknown class.
        RunError: There is no finished run at `run`, or `out` cannot be written.
        WeightsError: The weights are not available or do not fit.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import numpy as np
        >>> from PIL import Image
        >>> import tlkit
        >>> with TemporaryDirectory() as folder:
        ...     for number in range(40):
        ...         noise = np.random.default_rng(number).integers(0, 99, (32, 32, 3), np.uint8)
        ...         label = "light" if number % 2 and number != 7 else "dark"
        ...         path = Path(folder, label, f"{number}.png")
        ...         path.parent.mkdir(exist_ok=True)
        ...         Image.fromarray(noise + np.uint8(150 * (number % 2))).save(path)
        ...     report = tlkit.review_labels(folder, backbone="resnet20")
        >>> report.doubts[0].file, report.doubts[0].suggested
        ('dark/7.png', 'light')

    Reference:
        Northcutt, Jiang and Chuang (2021), Confident Learning, https://arxiv.org/abs/1911.00068.
    """
    check_count("max_shown", max_shown)
    given = {"backbone": backbone, "weights": weights, "image_size": image_size, "resize": resize}
    _check_left_to_run(run, given)
    config = RunConfig(
        photos=os.fspath(photos),
        backbone=None if backbone is None else os.fspath(backbone),
        weights=weights,
        image_size=image_size,
        resize=resize,
        mode="head",
        seed=seed,
        max_pixels=max_pixels,
        damaged=damaged,
    )
    page = None if out is None else Path(out)
    if page is not None:
        check_page(page)
        check_outside_images(page.absolute(), photos)
        check_writable(page.absolute().parent, "out")
    parent = None if run is None else load_run(run)
    listing = list_images(photos, argument="photos", needs_train=False)
    known = parent.class_names if parent else ()
    decided: tuple[Decision, ...] = ()
    if decisions is not None:
        decided = apply_decisions(listing, decisions, class_names=known)
    new = Listing() if unlabelled is None else _list_unlabelled(unlabelled)
    load_tensorflow_quietly()
    settings = _settings(config, parent, cache)
    images, data = _load(listing, settings)
    reviewed = _Reviewed(os.fspath(photos), images, data, decided)
    return _review(reviewed, new, config, parent, settings, page=page, max_shown=max_shown)


def default_page(photos: str | os.PathLike[str]) -> Path:
    """Returns the page of images called NAME: `NAME-review.html` in the current folder."""
    path = Path(photos).resolve()
    return Path(f"{(path.name if path.is_dir() else path.stem) or 'photos'}-review{SUFFIX}")


@dataclass(frozen=True, eq=False)
class _Reviewed:
    """The images under review.

    Attributes:
        photos: Their folder or CSV file.
        images: The readable images, in the order of the rows of `data.train`.
        data: All of them as training images.
        decisions: The decisions that were applied to them.
    """

    photos: str
    images: Sequence[ImageRecord]
    data: ImageData
    decisions: tuple[Decision, ...]

    @property
    def is_decided(self) -> np.ndarray:
        """Whether each image was decided before, `(n,)`."""
        files = {os.path.normpath(one.file) for one in self.decisions}
        return np.array(
            [os.path.normpath(file_key(one.path, self.photos)) in files for one in self.images]
        )


@dataclass(frozen=True, eq=False)
class _Found:
    """What was found about the images, by row.

    Attributes:
        probabilities: Out-of-fold probabilities, `(n, num_classes)`, or NaN.
        noise: The label noise of the rows in `measured`.
        measured: Rows with probabilities.
        neighbourhood: The outliers.
        others: Paths of copies and near-duplicates under other labels with these labels.
        alike: Number of differing bits of the nearest near-duplicate under another label.
        copied: Rows with a copy under another label.
    """

    probabilities: np.ndarray
    noise: "LabelNoise"
    measured: np.ndarray
    neighbourhood: "Neighbourhood"
    others: Mapping[int, Mapping[str, str]]
    alike: Mapping[int, int]
    copied: frozenset[int]


def _check_left_to_run(run: str | os.PathLike[str] | None, given: Mapping[str, object]) -> None:
    for name, default in _DECIDED_BY_RUN.items():
        if run is not None and given[name] != default:
            raise ArgumentError(
                f"`{name}` must be left out with `run`, whose model decides it. Received: "
                f"{name}={given[name]!r}, run={os.fspath(run)!r}. Leave one of them out."
            )
        if given[name] == AUTO:
            raise ArgumentError(
                f"`{name}` must be given for a review, or left out. Received: {name}='auto'. Leave "
                "it out, or name it."
            )


def _list_unlabelled(path: str | os.PathLike[str]) -> Listing:
    check_path("unlabelled", path)
    if not os.path.isdir(path):
        problem = "is a file" if os.path.exists(path) else "does not exist"
        raise DataError(
            f"`unlabelled` must be a folder of images. Received: unlabelled={os.fspath(path)!r}, "
            f"which {problem}. Give the folder that holds them."
        )
    listing = list_all_below(path)
    if not listing.files:
        raise DataError(
            f"`unlabelled` must be a folder of images. Received: unlabelled={os.fspath(path)!r}, "
            "which holds no file. Give the folder that holds them."
        )
    return listing


def _settings(
    config: RunConfig, parent: Run | None, cache: str | os.PathLike[str] | None
) -> Settings:
    return check_settings(
        parent.image_size if parent else initial_image_size(config),
        config.batch_size,
        (1, 0, 0),
        config.seed,
        max_pixels=config.max_pixels,
        damaged=config.damaged,
        resize=parent.resize if parent else config.resize or STRETCH,
        channels=parent.channels if parent else config.channels or RGB,
        cache=cache,
    )


def _load(listing: Listing, settings: Settings) -> tuple[list[ImageRecord], ImageData]:
    """Returns all readable images, whatever their split, in the order of the training images."""
    images, formats = readable_images(
        listing, max_pixels=settings.max_pixels, cache=settings.cache, damaged=settings.damaged
    )
    images.sort(key=lambda one: (one.class_name, one.path))
    everything = Division({"train": [*range(len(images))]})
    names = check_classes([dataclasses.replace(one, split="") for one in images], everything)
    data = ImageData(
        split_of("train", images, names, settings),
        None,
        None,
        names,
        build_report(images, everything, listing, formats),
        settings.image_size,
        settings.batch_size,
        settings.seed,
        settings.resize,
        settings.channels,
    )
    return images, data


def _review(
    reviewed: _Reviewed,
    new: Listing,
    config: RunConfig,
    parent: Run | None,
    settings: Settings,
    *,
    page: Path | None,
    max_shown: int,
) -> ReviewReport:
    from tlkit.models.flattening import below
    from tlkit.models.heads import feature_cut
    from tlkit.training.features import extract_features
    from tlkit.training.frozen import FrozenPart
    from tlkit.training.labelled import LabelledFeatures

    data = reviewed.data
    model = build_model(config, parent, data)
    part = FrozenPart(below(model, feature_cut(model)))

    def features_of(split: ImageSplit) -> LabelledFeatures:
        rows = extract_features(part, split, exact=False, cache=settings.cache).labelled()
        return LabelledFeatures(rows.features.reshape(len(rows), -1), rows.labels, rows.groups)

    rows = features_of(data.train)
    found = _find(reviewed, rows, settings)
    doubts = _doubts(reviewed, found)
    to_label: tuple[ToLabel, ...] = ()
    notes = [*data.report.notes, *_notes(found, parent, data)]
    if new.files:
        records, note = _usable_unlabelled(new, reviewed, settings)
        notes.append(note)
        if records:
            split = split_of("unlabelled", records, data.class_names, settings)
            to_label = _to_label(reviewed, rows, features_of(split).features, split, found)
    correct = found.probabilities[found.measured].argmax(axis=1) == rows.labels[found.measured]
    accuracy, num_groups = float(correct.mean()), len(np.unique(rows.own_groups))
    report = ReviewReport(
        doubts=doubts,
        to_label=to_label,
        class_names=data.class_names,
        num_images=len(reviewed.images),
        num_decided=int(reviewed.is_decided.sum()),
        num_errors=found.noise.num_errors,
        estimated={
            label: dict(zip(data.class_names, counts, strict=True))
            for label, counts in zip(data.class_names, found.noise.estimated.tolist(), strict=True)
        },
        accuracy=accuracy,
        interval=wilson_interval(accuracy, num_groups) if num_groups >= _MIN_FOR_INTERVAL else None,
        decisions=reviewed.decisions,
        notes=tuple(notes),
    )
    if page is None:
        return report
    number = min(max_shown, len(doubts)) + min(max_shown, len(to_label))
    report = dataclasses.replace(report, page=str(page), num_shown=number)
    write_page(page, report, title=f"Labels of {Path(reviewed.photos).name}", max_shown=max_shown)
    return report


def _find(reviewed: _Reviewed, rows: "LabelledFeatures", settings: Settings) -> _Found:
    from tlkit.advice.confident_learning import find_label_errors
    from tlkit.advice.out_of_fold import out_of_fold_probabilities
    from tlkit.advice.outliers import find_outliers
    from tlkit.data.near_duplicates import find_near_duplicates

    data = reviewed.data
    probabilities = out_of_fold_probabilities(rows, data.num_classes, seed=settings.seed)
    measured = np.flatnonzero(np.isfinite(probabilities).all(axis=1))
    if not len(measured):
        raise DataError(
            "`photos` must contain images of groups from which the other groups can be predicted. "
            f"Received: {len(rows)} images in {len(np.unique(rows.own_groups))} groups. Add groups."
        )
    others: dict[int, dict[str, str]] = defaultdict(dict)
    alike: dict[int, int] = {}
    by_digest: dict[str, list[int]] = defaultdict(list)
    for row, image in enumerate(reviewed.images):
        by_digest[image.digest].append(row)
    for same in by_digest.values():
        for row in same:
            for other in same:
                _add_other(others[row], reviewed.images[row], reviewed.images[other])
    copied = frozenset(row for row, found in others.items() if found)
    near = find_near_duplicates(data, cache=settings.cache)
    row_of = {image.path: row for row, image in enumerate(reviewed.images)}
    for pair in near.across_classes:
        first, second = (row_of[path] for path in pair.paths)
        for row, other in ((first, second), (second, first)):
            alike[row] = min(pair.num_differing, alike.get(row, pair.num_differing))
            _add_other(others[row], reviewed.images[row], reviewed.images[other])
    return _Found(
        probabilities,
        find_label_errors(probabilities[measured], rows.labels[measured]),
        measured,
        find_outliers(rows.features, seed=settings.seed),
        others,
        alike,
        copied,
    )


def _add_other(others: dict[str, str], image: ImageRecord, other: ImageRecord) -> None:
    if image.class_name != other.class_name:
        others[other.path] = other.class_name


def _doubts(reviewed: _Reviewed, found: _Found) -> tuple[Doubt, ...]:
    """Returns the doubts about images that were not decided, in the order of the report."""
    wrong = found.measured[found.noise.is_likely_wrong]
    scores = found.neighbourhood.scores
    rows = {
        COPY: sorted(found.copied, key=lambda row: (reviewed.images[row].digest, row)),
        WRONG_LABEL: _sorted_by(
            wrong, found.probabilities[wrong, reviewed.data.train.labels[wrong]]
        ),
        NEAR_DUPLICATE: sorted(
            found.alike,
            key=lambda row: (
                found.alike[row],
                min([reviewed.images[row].path, *found.others[row]]),
            ),
        ),
        OUTLIER: _sorted_by(
            outliers := np.flatnonzero(scores > found.neighbourhood.threshold), -scores[outliers]
        ),
    }
    kinds: dict[int, list[str]] = defaultdict(list)
    for kind in KINDS:
        for row in rows[kind]:
            kinds[row].append(kind)
    is_decided = reviewed.is_decided
    return tuple(
        _doubt(row, tuple(some), reviewed, found)
        for row, some in kinds.items()
        if not is_decided[row]
    )


def _sorted_by(rows: np.ndarray, values: np.ndarray) -> list[int]:
    ordered: list[int] = rows[np.argsort(values, kind="stable")].tolist()
    return ordered


def _doubt(row: int, kinds: tuple[str, ...], reviewed: _Reviewed, found: _Found) -> Doubt:
    image, names = reviewed.images[row], reviewed.data.class_names
    probabilities = found.probabilities[row]
    others = found.others.get(row, {})
    is_known = bool(np.isfinite(probabilities).all())
    suggested = names[int(probabilities.argmax())] if is_known else ""
    return Doubt(
        image.path,
        file_key(image.path, reviewed.photos),
        image.digest,
        image.class_name,
        kinds,
        "" if suggested == image.class_name else suggested,
        quality=float(probabilities[names.index(image.class_name)]),
        probabilities=_highest(probabilities, names) if is_known else {},
        ood_score=float(found.neighbourhood.scores[row]),
        others=dict(others),
        split=image.split,
    )


def _highest(probabilities: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Returns the highest probabilities by class, highest first."""
    order = np.argsort(-probabilities, kind="stable")[:_NUM_PROBABILITIES]
    return {names[label]: float(probabilities[label]) for label in order.tolist()}


def _usable_unlabelled(
    new: Listing, reviewed: _Reviewed, settings: Settings
) -> tuple[list[ImageRecord], str]:
    """Returns the unlabelled images, each once, and a note about those that are left out."""
    files: list[FoundFile] = new.files
    checks = check_files(
        [file.path for file in files],
        max_pixels=settings.max_pixels,
        root=settings.cache,
        notes=new.notes,
    )
    known = {image.digest for image in reviewed.images}
    known |= {one.digest for one in reviewed.decisions}
    records: dict[str, ImageRecord] = {}
    counts = {"cannot be used": len(new.skipped), "are labelled or decided": 0, "are copies": 0}
    label = reviewed.data.class_names[0]  # a split needs one; it is not used
    for file, checked in zip(files, checks, strict=True):
        if checked.reason:
            counts["cannot be used"] += 1
        elif checked.digest in known:
            counts["are labelled or decided"] += 1
        elif checked.digest in records:
            counts["are copies"] += 1
        else:
            records[checked.digest] = ImageRecord(
                file.path, label, checked.digest, checksum=checked.checksum
            )
    left_out = ", ".join(f"{number:,} {why}" for why, number in counts.items() if number)
    note = f"{len(records):,} of {len(files) + len(new.skipped):,} unlabelled files are ranked"
    return [*records.values()], note + (f"; {left_out}" if left_out else "")


def _to_label(
    reviewed: _Reviewed,
    rows: "LabelledFeatures",
    features: np.ndarray,
    split: ImageSplit,
    found: _Found,
) -> tuple[ToLabel, ...]:
    from tlkit.advice.labelling import rank_to_label
    from tlkit.advice.out_of_fold import solve_class_head

    names = reviewed.data.class_names
    probabilities = solve_class_head(rows, len(names), seed=split.seed).probabilities(features)
    scores = found.neighbourhood.scores_of(features)
    ranked = []
    for row in rank_to_label(probabilities).tolist():
        highest = _highest(probabilities[row], names)
        first, second = [*highest.values()][:2]
        ranked.append(
            ToLabel(
                split.paths[row],
                file_key(split.paths[row], reviewed.photos),
                split.digests[row],
                first - second,
                highest,
                float(scores[row]),
                bool(scores[row] > found.neighbourhood.threshold),
            )
        )
    return tuple(ranked)


def _notes(found: _Found, parent: Run | None, data: ImageData) -> list[str]:
    notes = []
    if missing := data.train.num_images - len(found.measured):
        notes.append(f"{missing:,} images are in no fold: their labels are not doubted")
    if parent is not None:
        seen = len(seen_by_network(parent) & {*data.train.digests})
        if seen:
            notes.append(
                f"the network of {parent.path} was trained on {seen:,} of these images and may "
                "have learned their wrong labels, which are doubted less then; a backbone that "
                "was not finds more (leave out --run)"
            )
    return notes
