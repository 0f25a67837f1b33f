"""A run: from a folder of photographs to a run directory, in one call.

Bad input is found before the run directory is made; what it then holds appears file by file, each
whole or not at all, and `run.json` says last that the run is finished.
"""

import dataclasses
import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlkit.data.folders import load_folder, load_listing
from tlkit.data.images import ImageData
from tlkit.data.limits import MAX_PIXELS
from tlkit.data.listing import list_folder
from tlkit.data.lost_pictures import lost_pictures_named
from tlkit.data.settings import Settings, check_settings
from tlkit.errors import DataError
from tlkit.files import write_json
from tlkit.quiet import load_tensorflow_quietly
from tlkit.run_arguments import SPLITS, checked
from tlkit.run_directory import (
    Run,
    clear_results,
    load_run,
    refuse_other_pictures,
    seen_by,
    state_of,
    unseen,
    write_results,
)
from tlkit.run_parts import evaluate_splits, export_into, record_of, timed, write_card, write_page
from tlkit.team import Team

if TYPE_CHECKING:
    import keras

    from tlkit.continual.going_on import ForgettingReport, OldTask
    from tlkit.training.reports import TrainingReport

_CHOSEN = "anchor.json"
_NUM_VIEWS = 4


def train_run(
    photos: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    from_run: str | os.PathLike[str] | None = None,
    backbone: str | None = None,
    weights: str | None = "pretrained",
    image_size: int | None = None,
    mode: str = "fine-tune",
    unfreeze: str | int | None = None,
    epochs: int | None = None,
    learning_rate: float | None = None,
    layer_decay: float | None = None,
    anchor: float | str | None = None,
    importance: str | None = None,
    old_photos: str | os.PathLike[str] | None = None,
    augment: str | None = None,
    class_weight: str | None = None,
    batch_size: int = 32,
    seed: int = 0,
    max_pixels: int = MAX_PIXELS,
    resume: bool = True,
    distribute: str | None = None,
    say: Callable[[str], None] | None = None,
) -> Run:
    """Trains a classifier on a folder of photographs and leaves everything in a run directory.

    The directory holds `model.keras`, `saved_model/`, `class_names.json`, `metrics.json`,
    `history.csv`, `report.html` and `run.json`. A directory that holds the same run, unfinished,
    is continued; the same run, finished, is returned as it is.

    Args:
        photos: A folder as `load_folder` takes it.
        out: The run directory.
        from_run: A finished run to go on from: its model, on new pictures of the same classes.
        backbone: A name of `list_backbones()`; "mobilenet_v2" by default.
        weights: See `build_classifier`: "pretrained", `None` for random ones, or a file.
        image_size: Side of the images in pixels; the backbone's own by default.
        mode: "head" (feature extraction) or "fine-tune" (the head, then `unfreeze` too).
        unfreeze: See `fine_tune`.
        epochs: See `fine_tune`; the head alone is solved and has none.
        learning_rate: See `fine_tune`.
        layer_decay: See `fine_tune`.
        anchor: With `from_run`: how strongly the weights are held near those of that run, a number
            or "auto", see `tlkit.continual.going_on.anchor_to_itself`.
        importance: With `anchor`: a method of `estimate_importance` that tells weights apart.
        old_photos: With `from_run`: pictures of what that run learned, to measure what is
            forgotten and to estimate importance; those it was trained on by default, where they
            still are.
        augment: See `fine_tune`; with mode="head", the features of four augmented versions of each
            training image are stored.
        class_weight: "balanced" or `None`.
        batch_size: Images per step.
        seed: Of the split, the initial weights, orders and augmentation; 0 to 2**32 - 1.
        max_pixels: Pictures with more pixels are left out.
        resume: Whether a directory that exists may be continued.
        distribute: "auto", "mirrored" or "multi-worker", see `distribution_strategy`; one device by
            default. Several machines make the same call; the chief alone writes, and may continue
            with others what was begun without.
        say: Is told, in words, what is done.

    Returns:
        The finished run; on every worker, though its files are with the chief.

    Raises:
        ArgumentError: An argument breaks its rule.
        DataError: The pictures cannot be used.
        WeightsError: The weights cannot be had, or do not fit.
        RunError: `out` cannot be continued, or `from_run` cannot be gone on from.

    Example:
        >>> import tlkit
        >>> run = tlkit.train_run("photos", out="run", backbone="resnet50")  # doctest: +SKIP
        >>> tlkit.predict(run.load_model(), "new.jpg", run.class_names)      # doctest: +SKIP
    """
    arguments = checked(dict(locals()))
    out = Path(out)
    team = Team(distribute)
    say = team.chiefs(say)
    finished = team.told(state_of(out, arguments, resume) if team.is_chief else None)
    if finished is not None:
        say(f"{out} is finished already and left as it is.")
        return finished
    parent = load_run(from_run, "from_run") if from_run is not None else None
    listing = list_folder(photos, argument="photos")
    load_tensorflow_quietly()
    from tlkit.training.resume import FILE_NAME

    seconds: dict[str, float] = {}
    with timed(seconds, "data"):
        data = load_listing(
            listing,
            _settings(arguments, parent),
            class_names=parent.class_names if parent else None,
            max_pixels=max_pixels,
            cache=None,
        )
    if parent:
        data = _without_seen(data, parent)
    with timed(seconds, "old photographs"):
        old = _old_task(arguments, parent, say)
    say(str(data.report))
    with timed(seconds, "model"), team.scope():
        model = _model(arguments, parent, data)
    record = record_of(arguments, data)
    if team.is_chief:
        refuse_other_pictures(out, record)
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "run.json", record)
        clear_results(out)
    with lost_pictures_named((data.train, data.validation, data.test)):
        with timed(seconds, "training"), team.scope():
            training, forgotten = _train(model, data, arguments, out, old, is_chief=team.is_chief)
        say(str(training))
        if forgotten is not None:
            say(str(forgotten))
        with timed(seconds, "evaluation"):
            evaluations = evaluate_splits(model, data)
        if not team.is_chief:
            return team.end(None)
        with timed(seconds, "export"):
            export_into(team.on_one_device(model), data, out, max_pixels)
    record["seconds"] = {name: round(value, 3) for name, value in seconds.items()}
    write_results(out, data, training, evaluations, forgotten=forgotten, parent=parent)
    write_card(out, data, record)
    write_page(out, data, training, evaluations, record=record, forgotten=forgotten)
    write_json(out / "run.json", {**record, "finished": True})
    for name in (FILE_NAME, _CHOSEN):
        (out / name).unlink(missing_ok=True)
    return team.end(load_run(out))


def check_run(
    photos: str | os.PathLike[str], *, out: str | os.PathLike[str], **others: Any
) -> None:
    """Raises what `train_run` with these arguments would raise before it looks at `photos`.

    For whoever makes the photographs first.

    Raises:
        ArgumentError: An argument breaks its rule.
        RunError: `out` cannot be continued or written to.
    """
    bound = inspect.signature(train_run).bind(photos, out=out, **others)
    bound.apply_defaults()
    resume = bound.arguments["resume"]
    state_of(Path(out), checked(dict(bound.arguments)), resume)


def _settings(arguments: dict[str, Any], parent: Run | None) -> Settings:
    image_size = parent.image_size if parent else arguments["image_size"]
    return check_settings(image_size, arguments["batch_size"], SPLITS, arguments["seed"])


def _model(arguments: dict[str, Any], parent: Run | None, data: ImageData) -> "keras.Model":
    from tlkit.models.assembly import build_classifier
    from tlkit.models.groups import resolve_group

    if parent is not None:
        model = parent.load_model()
    else:
        model = build_classifier(
            arguments["backbone"],
            data.class_names,
            image_size=arguments["image_size"],
            weights=arguments["weights"],
            seed=arguments["seed"],
        )
    if arguments["unfreeze"] is not None:
        resolve_group(model, arguments["unfreeze"])
    return model


def _without_seen(data: ImageData, parent: Run) -> ImageData:
    """Keeps out of validation and test what an earlier run has seen: another seed splits anew."""
    seen = seen_by(parent)
    validation, test = (
        unseen(split, seen) if split is not None else None for split in (data.validation, data.test)
    )
    if validation is not None and not validation.num_images:
        raise DataError(
            "`photos` must hold pictures that the earlier run has not seen, to measure on. "
            f"Received: pictures whose whole validation split was seen by {str(parent.path)!r}. "
            "Add new pictures."
        )
    if test is not None and not test.num_images:
        test = None
    return dataclasses.replace(data, validation=validation, test=test)


def _old_task(
    arguments: dict[str, Any], parent: Run | None, say: Callable[[str], None]
) -> "OldTask | None":
    """The pictures of what a run to go on from has learned, where they are."""
    from tlkit.continual.going_on import OldTask

    if parent is None:
        return None
    folder = arguments["old_photos"] or parent.record["arguments"]["photos"]
    is_given = arguments["old_photos"] is not None
    if not is_given and ("growth" in parent.record or not Path(folder).is_dir()):
        say(
            "Forgetting is not measured: the pictures of all old classes are not where the earlier "
            "run found them. Name their folder (--old-photos DIR)."
        )
        return None
    old = load_folder(
        folder,
        image_size=parent.image_size,
        batch_size=arguments["batch_size"],
        seed=parent.record["seed"],
        class_names=parent.class_names,
        max_pixels=arguments["max_pixels"],
    )
    seen = seen_by(parent)
    kept = [unseen(split, seen) for split in (old.test, old.validation) if split is not None]
    measured = next((split for split in kept if split.num_images), None)
    return OldTask(old.train, measured)


def _train(
    model: "keras.Model",
    data: ImageData,
    arguments: dict[str, Any],
    out: Path,
    old: "OldTask | None",
    *,
    is_chief: bool,
) -> "tuple[TrainingReport, ForgettingReport | None]":
    from tlkit.continual.going_on import anchor_to_itself, forgetting_of, measure_old_task
    from tlkit.training.fine_tuning import fine_tune
    from tlkit.training.head import train_head

    before = measure_old_task(model, old)

    given = {
        name: arguments[name]
        for name in ("epochs", "learning_rate", "augment", "class_weight", "seed")
        if arguments[name] is not None
    }
    if arguments["mode"] == "head":
        views = 1 if given.get("augment", "none") == "none" else _NUM_VIEWS
        report = train_head(model, data, views=views, **given)
        return report, forgetting_of(model, old, before)
    for name in ("unfreeze", "layer_decay"):
        if arguments[name] is not None:
            given[name] = arguments[name]
    anchor = None
    if arguments["anchor"] is not None:
        chosen = _chosen_before(out)
        anchor = anchor_to_itself(
            model,
            data,
            strength=arguments["anchor"] if chosen is None else chosen,
            importance=arguments["importance"],
            old=old,
            unfreeze=given.get("unfreeze"),
            seed=arguments["seed"],
        )
        if is_chief:
            write_json(out / _CHOSEN, {"strength": anchor.strength})
    report = fine_tune(model, data, run_directory=out, anchor=anchor, **given)
    return report, forgetting_of(model, old, before, anchor, arguments["importance"])


def _chosen_before(out: Path) -> float | None:
    """The strength that an interrupted start of this run chose: it must be the same again."""
    file = out / _CHOSEN
    return json.loads(file.read_text(encoding="utf-8"))["strength"] if file.is_file() else None
