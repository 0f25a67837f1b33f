"""The images that a run and the runs before it have used, and where they are."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tlkit.data.class_weighting import ClassWeighting
from tlkit.data.settings import Settings, check_settings
from tlkit.data.splits import SPLITS
from tlkit.runs.config import SPLITS as SPLIT_FRACTIONS
from tlkit.runs.config import RunConfig
from tlkit.runs.directory import Run, load_run, split_rows_of
from tlkit.runs.follow_up_config import FollowUpConfig
from tlkit.runs.record import damaged_run_error
from tlkit.utils.run_lock import RECORD_FILE


def places_of(run: Run) -> dict[str, tuple[str, str]]:
    """Returns class and split of each image that a run or an earlier one has used, by its digest.

    An image that was ever trained on counts as a training image, whatever its split in later runs.
    """
    places: dict[str, tuple[str, str]] = {}
    for row in split_rows_of(run):
        class_name, split = row.class_name, row.split
        if class_name not in run.class_names or split not in SPLITS:
            raise damaged_run_error(run.path, "split.csv", f"damaged ({split!r} of {class_name!r})")
        _, earlier = places.get(row.digest, (class_name, split))
        places[row.digest] = (class_name, min(split, earlier, key=SPLITS.index))
    return places


def ancestors(run: Run) -> Iterator[Run]:
    """Yields a run, the run that it was made from, and so on, as far back as these exist."""
    ancestor: Run | None = run
    while ancestor is not None:
        yield ancestor
        parent, ancestor = ancestor.run_record.config.from_run, None
        if parent is not None and (Path(parent) / RECORD_FILE).is_file():
            ancestor = load_run(parent, "from_run")


def image_folders(run: Run) -> Iterator[str]:
    """Yields the folders of images of a run and of its ancestors, as far back as these exist."""
    for ancestor in ancestors(run):
        yield ancestor.run_record.config.photos


def weighting_of_run(run: Run, class_names: Sequence[str]) -> ClassWeighting:
    """Returns how classes counted for a run's head, or that of its ancestor.

    Args:
        run: The run.
        class_names: The classes of a head that is made from it; weights of others are left out.
    """
    for ancestor in ancestors(run):
        if isinstance(config := ancestor.run_record.config, RunConfig):
            weighting = config.weighting_for(ancestor.class_names).for_solving()
            named = weighting.with_names(ancestor.class_names)
            return named.for_classes(class_names, only_known=True)
    return ClassWeighting()


def seen_by_network(run: Run) -> frozenset[str]:
    """Returns digests of the images on which the network below a run's head was trained."""
    seen: set[str] = set()
    for ancestor in ancestors(run):
        config, shipped = ancestor.run_record.resolved, ancestor.metrics.get("shipped")
        is_head = shipped is not None and shipped["model"] == "head"
        if isinstance(config, RunConfig) and config.mode != "head" and not is_head:
            seen |= {row.digest for row in split_rows_of(ancestor) if row.split == "train"}
    return frozenset(seen)


def settings_of(run: Run, config: FollowUpConfig) -> Settings:
    """Returns the settings of the images of a run that is made from another one."""
    return check_settings(
        run.image_size,
        config.batch_size,
        SPLIT_FRACTIONS,
        run.run_record.seed,
        max_pixels=config.max_pixels,
        damaged=config.damaged,
        resize=run.resize,
        channels=run.channels,
    )
