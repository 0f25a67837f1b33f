"""The statistics of a run's head, from which later runs add, update and forget exactly."""

from pathlib import Path
from typing import TYPE_CHECKING

from tlkit.data.images import ImageData, ImageSplit
from tlkit.errors import ArgumentError
from tlkit.runs.config import RunConfig
from tlkit.runs.context import RunContext
from tlkit.runs.directory import STATISTICS_FILE, Run
from tlkit.runs.measuring import Measured
from tlkit.training.head_forms import LINEAR
from tlkit.utils.formatting import megabytes
from tlkit.utils.progress import RunLog

if TYPE_CHECKING:
    import keras

    from tlkit.continual.head_statistics import HeadStatistics
    from tlkit.continual.statistics_file import StatisticsSize


def load_run_statistics(run: Run, model: "keras.Model") -> "HeadStatistics | None":
    """Returns the statistics of a run's head; `None` if it keeps none.

    Args:
        run: The run.
        model: Its model.

    Raises:
        RunError: The file is damaged, or is of other features or classes than those of the run.
    """
    from tlkit.continual.adding_classes import signature_of_features
    from tlkit.continual.statistics_file import load_statistics

    path = run.path / STATISTICS_FILE
    if not path.exists():
        return None
    return load_statistics(path, signature_of_features(model), run.class_names)


def updates_exactly(config: RunConfig, parent: Run | None) -> bool:
    """Whether a run adds its images to the statistics of an earlier one, which it starts from.

    Args:
        config: The config with the run's choices.
        parent: The earlier run; `None` if there is none.
    """
    if parent is None or config.mode != "head" or config.head == LINEAR:
        return False
    return config.keep_statistics is not False and (parent.path / STATISTICS_FILE).exists()


def statistics_to_update(
    config: RunConfig, parent: Run | None, model: "keras.Model"
) -> "HeadStatistics | None":
    """Returns the statistics from which a run updates the head of an earlier one exactly.

    Args:
        config: The config with the run's choices.
        parent: The earlier run; `None` if there is none.
        model: Its model.

    Returns:
        `None` if the head is trained in another way: more than the head is trained, the head is to
        be linear, or the earlier run keeps no statistics.

    Raises:
        ArgumentError: Training images are to be augmented, which no sum can undo later.
        RunError: See `load_run_statistics`.
    """
    if parent is None or not updates_exactly(config, parent):
        return None
    if config.augment not in (None, "none"):
        raise ArgumentError(
            "`augment` must be left out where statistics of the earlier run's head are updated, "
            f"which count each image once. Received: augment={config.augment!r}, and "
            f"{str(parent.path)!r} keeps statistics. Leave it out, or train the head on the new "
            "images alone (--no-statistics)."
        )
    return load_run_statistics(parent, model)


def check_update(config: RunConfig, context: RunContext, model: "keras.Model") -> None:
    """Checks that the statistics of an earlier run can be updated, before the run is written.

    Raises:
        ArgumentError: See `statistics_to_update`; or there are several devices.
        RunError: See `load_run_statistics`.
    """
    statistics = statistics_to_update(config, context.parent, model)
    if statistics is not None and context.team.is_distributed:
        raise ArgumentError(
            "`distribute` must be left out where the earlier run's head is updated, which takes "
            f"one device. Received: mode='head', and {str(context.parent)!r} keeps statistics. "
            "Leave it out, or train the head on the new images alone (--no-statistics)."
        )


def check_room(
    model: "keras.Model", data: ImageData, config: RunConfig, context: RunContext
) -> None:
    """Says before training how large the statistics may become, and whether there is room.

    Where they were not asked for, a lack of room is logged, and none are kept.

    Raises:
        ArgumentError: The run is to keep statistics, and there is no room for them.
    """
    from tlkit.continual.statistics_file import default_width

    if data.is_multi_label or config.keep_statistics is False:
        return
    if not (_is_asked(config) or _may_be_kernel_head(config)):
        return
    size = _size(model, data.train)
    width = config.statistics_width or default_width(size.num_images)
    why = size.why_no_room(width, context.out)
    if not why:
        kept = "are kept" if _is_asked(config) else "are kept if the head is in closed form"
        context.log(f"statistics of the head {kept}: {megabytes(size.bytes_of(width))}")
        return
    if _is_asked(config):
        raise ArgumentError(
            "`statistics_width` must be a number of landmarks for whose sums there is room. "
            f"Received: {width:,}, and {why}. Give less, or free some space."
        )
    context.log(f"no statistics of the head will be kept: {why}")


def keep_statistics(
    measured: Measured, images: ImageSplit, config: RunConfig, context: RunContext
) -> None:
    """Writes the statistics of an exported model's head, if the run keeps some.

    Args:
        measured: The exported model.
        images: The images that its head was trained on.
        config: The config with the run's choices.
        context: The context of the run.
    """
    from tlkit.continual.exact import gather_statistics, with_fitted_factor
    from tlkit.continual.statistics_file import default_width
    from tlkit.models.kernel_head import has_kernel_head

    if config.keep_statistics is False or images.labels.ndim == 2:
        return
    statistics = measured.statistics
    if statistics is None:
        if not (_is_asked(config) or has_kernel_head(measured.model)):
            return
        size = _size(measured.model, images)
        width = config.statistics_width or default_width(images.num_images)
        if not _is_asked(config) and size.why_no_room(width, context.out):
            return  # it was said before training
        names = measured.data.class_names
        statistics = gather_statistics(
            measured.model,
            images,
            names,
            num_landmarks=width,
            seed=measured.data.seed,
        )
        if statistics.counts.all():
            statistics = with_fitted_factor(statistics, measured.model, images, names)
        if context.parent is not None:
            context.log(
                f"the statistics of the head count the {images.num_images:,} images of this run "
                f"only, not those of {context.parent.path}"
            )
    write_statistics(statistics, context.out, context.log)


def write_statistics(statistics: "HeadStatistics", out: Path, log: RunLog) -> None:
    """Writes statistics to a run directory, after saying their size."""
    from tlkit.continual.statistics_file import save_statistics, size_of

    width = len(statistics.kernel_map.landmarks)
    log(
        f"{STATISTICS_FILE}: sums over {len(statistics.images):,} images, "
        f"{megabytes(size_of(statistics).bytes_of(width))}; it holds no image"
    )
    save_statistics(statistics, out / STATISTICS_FILE)


def _is_asked(config: RunConfig) -> bool:
    return bool(config.keep_statistics) or config.statistics_width is not None


def _may_be_kernel_head(config: RunConfig) -> bool:
    return config.head != LINEAR and config.from_run is None


def _size(model: "keras.Model", images: ImageSplit) -> "StatisticsSize":
    from tlkit.continual.head_features import below_head
    from tlkit.continual.statistics_file import StatisticsSize

    (num_features,) = below_head(model).output_shape[1:]
    return StatisticsSize(num_features, model.output_shape[-1], images.num_images)
