"""How a run that adds classes learns them: exactly, with replay, or isolated."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from tlkit.continual.growth_report import EXACT, GrowthReport
from tlkit.data.merging import Joined
from tlkit.errors import DataError
from tlkit.runs.add_classes_config import AddClassesConfig
from tlkit.runs.directory import EXEMPLARS_FILE, STATISTICS_FILE, Run
from tlkit.runs.kept_statistics import load_run_statistics
from tlkit.runs.known_images import weighting_of_run

if TYPE_CHECKING:
    import keras

    from tlkit.continual.exemplars import Exemplars
    from tlkit.continual.head_statistics import HeadStatistics
    from tlkit.training.reports import StageReport

Accuracies: TypeAlias = tuple[float | None, float | None]
"""On images of old and of new classes; `None` without images."""


@dataclass(frozen=True, eq=False)
class Learned:
    """A model that has learned new classes.

    Attributes:
        model: The model.
        stage: The report of the training.
        growth: The report on the classes, without accuracies.
        exemplars: Features of old and new classes, for a later run; `None` if none are stored.
        statistics: Statistics of its head; `None` if none are kept.
    """

    model: "keras.Model"
    stage: "StageReport"
    growth: GrowthReport
    exemplars: "Exemplars | None"
    statistics: "HeadStatistics | None"


@dataclass(frozen=True, eq=False)
class OldImages:
    """The earlier run, its model, and which of its training images are still there.

    Attributes:
        run: The earlier run.
        model: Its model; it is left unchanged.
        trained: The digests of its training images.
    """

    run: Run
    model: "keras.Model"
    trained: Collection[str]

    def missing_from(self, joined: Joined) -> set[str]:
        """Returns the digests of the training images that are in neither folder."""
        return {*self.trained} - {*joined.replayed.digests} - {*joined.data.train.digests}


def prepare_learning(
    config: AddClassesConfig, old: OldImages, joined: Joined
) -> Callable[[], Learned]:
    """Checks whether the new classes can be learned, and returns the function that learns them.

    Args:
        config: The config of the run.
        old: The earlier run and its model.
        joined: The new images, and the old ones that are still there.

    Raises:
        ArgumentError: The model's head takes no new classes.
        DataError: Old images are missing that the method needs; see `add_classes_run`.
        RunError: The earlier run's statistics or exemplars are damaged, or of another network.
    """
    if config.method == EXACT:
        return _prepare_exact(old, joined)
    return _prepare_replay(config, old, joined)


def joint_accuracy(
    old: OldImages,
    joined: Joined,
    evaluate: "Callable[[keras.Model], Accuracies]",
) -> Accuracies | None:
    """Returns what `evaluate` returns for the exact head of all images together.

    It is `None` unless all old training images are still there.
    """
    from tlkit.continual.exact import train_exact_head

    if old.missing_from(joined):
        return None
    data = joined.data
    trained = train_exact_head(
        old.model,
        _gathered(old, joined),
        data.train,
        data.class_names,
        class_weight=weighting_of_run(old.run, data.class_names),
    )
    return evaluate(trained.model)


def _prepare_exact(old: OldImages, joined: Joined) -> Callable[[], Learned]:
    from tlkit.continual.adding_classes import check_new_images
    from tlkit.continual.exact import train_exact_head

    data, names = joined.data, old.run.class_names
    check_new_images(data.train, joined.new_names, names)
    statistics = load_run_statistics(old.run, old.model)
    if statistics is None and (missing := old.missing_from(joined)):
        raise DataError(
            "`method` must be 'replay' or 'isolated' for a run that keeps no statistics of its "
            f"head, and whose images are not all there. Received: method='exact', and "
            f"{len(missing):,} of the {len(old.trained):,} training images of "
            f"{str(old.run.path)!r} are missing. Restore them, or use another method."
        )

    def learn() -> Learned:
        earlier = _gathered(old, joined) if statistics is None else statistics
        trained = train_exact_head(
            old.model,
            earlier,
            data.train,
            data.class_names,
            class_weight=weighting_of_run(old.run, data.class_names),
        )
        growth = GrowthReport(
            names,
            joined.new_names,
            method=EXACT,
            num_counted=len(trained.statistics.images),
            num_further=int(np.sum(data.train.labels < len(names))),
        )
        return Learned(trained.model, trained.stage, growth, None, trained.statistics)

    return learn


def _gathered(old: OldImages, joined: Joined) -> "HeadStatistics":
    """Returns statistics of the old training images that are not in the new folder."""
    from tlkit.continual.exact import gather_statistics
    from tlkit.continual.statistics_file import default_width

    images, data = joined.replayed, joined.data
    width = default_width(images.num_images + data.train.num_images)
    if not images.num_images:  # all of them are in the new folder
        images = data.train
    return gather_statistics(
        old.model, images, data.class_names, num_landmarks=width, seed=data.seed
    )


def _prepare_replay(
    config: AddClassesConfig, old: OldImages, joined: Joined
) -> Callable[[], Learned]:
    from tlkit.continual.adding_classes import Replay, check_can_learn, learn_classes

    data = joined.data
    names = old.run.class_names
    replay = Replay(config.exemplars, joined.replayed, _load_exemplars(old, config.exemplars))
    check_can_learn(old.model, data.train, joined.new_names, names, replay=replay)
    earlier = load_run_statistics(old.run, old.model)

    def learn() -> Learned:
        learned = learn_classes(
            old.model, data.train, joined.new_names, names, replay=replay, seed=data.seed
        )
        growth = GrowthReport(
            names,
            joined.new_names,
            method=config.method,
            exemplars=config.exemplars,
            num_replayed=learned.num_replayed,
            num_further=learned.num_further,
            from_stored=learned.from_stored,
        )
        exemplars = learned.exemplars if learned.exemplars.features else None
        statistics, stage = _carried(earlier, learned.model, joined), learned.stage
        if earlier is not None and statistics is None:
            note = f"{STATISTICS_FILE} is not carried over: the head reads other features now"
            stage = replace(stage, notes=(*stage.notes, note))
        return Learned(learned.model, stage, growth, exemplars, statistics)

    return learn


def _carried(
    statistics: "HeadStatistics | None", grown: "keras.Model", joined: Joined
) -> "HeadStatistics | None":
    """Returns statistics with the new images, if they are of the grown model's features."""
    from tlkit.continual.adding_classes import signature_of_features
    from tlkit.continual.exact import add_to_statistics

    if statistics is None or statistics.signature != signature_of_features(grown):
        return None
    return add_to_statistics(statistics, grown, joined.data.train, joined.data.class_names)


def _load_exemplars(old: OldImages, exemplars: int) -> "Exemplars | None":
    from tlkit.continual.adding_classes import signature_of_features
    from tlkit.continual.exemplars import Exemplars

    path = old.run.path / EXEMPLARS_FILE
    if not exemplars or not path.is_file():
        return None
    return Exemplars.load(path, signature_of_features(old.model))
