"""The outcome of a run in at most fifteen lines, the result first."""

from collections.abc import Iterator, Mapping
from typing import Any

from tlkit.displays.activity import duration
from tlkit.errors import some_of
from tlkit.runs.directory import LOG_FILE, Run
from tlkit.utils.formatting import accuracy_text

MAX_LINES = 15
_SHOWN_NAMES = 6
_CHOSEN = "chosen: "


def outcome_of(run: Run) -> str:
    """Returns a summary of a finished run; all else stands in its report and its log."""
    lines = [
        *_accuracies(run.metrics),
        *_old_classes(run),
        *_against_probe(run.metrics),
        *_calibration(run.metrics),
        *_rejection(run.metrics),
        *_training(run),
        *_data(run),
    ]
    seconds = sum(run.run_record.seconds.values())
    lines += [
        f"time: {duration(seconds)}",
        f"run: {run.path}: look at report.html, give away saved_model; details in {LOG_FILE}",
    ]
    shown = lines if len(lines) <= MAX_LINES else [*lines[: MAX_LINES - 1], lines[-1]]
    return "\n".join(" ".join(line.split()) for line in shown)


def _accuracies(metrics: Mapping[str, Any]) -> Iterator[str]:
    for split in ("test", "validation"):
        if figures := metrics[split]:
            accuracy = accuracy_text(
                figures["accuracy"], figures["num_images"], figures.get("interval")
            )
            yield f"{split} accuracy {accuracy}"


def _old_classes(run: Run) -> Iterator[str]:
    growth = run.run_record.growth
    if growth is not None:
        for what in ("old", "new"):
            before, after = growth[f"{what}_before"], growth[f"{what}_after"]
            if before is not None and after is not None:
                yield f"{what} classes: {100 * before:.1f} % before, {100 * after:.1f} % after"
    forgotten = run.metrics.get("old_task")
    if forgotten is not None and forgotten.get("before") is not None:
        yield (
            f"earlier images: {100 * forgotten['before']:.1f} % before, "
            f"{100 * forgotten['after']:.1f} % after"
        )


def _against_probe(metrics: Mapping[str, Any]) -> Iterator[str]:
    compared = metrics.get("against_probe")
    if compared is not None:
        first, second = (100 * accuracy for accuracy in compared["accuracies"])
        yield (
            f"against a linear probe: {compared['verdict']} (the probe {first:.1f} %, this model "
            f"{second:.1f} % of {compared['num_images']} images, p = {compared['p_value']:.2g})"
        )


def _calibration(metrics: Mapping[str, Any]) -> Iterator[str]:
    calibration = metrics.get("calibration")
    if calibration is None:
        return
    if calibration["temperature"] != 1 or not calibration.get("notes"):
        yield f"probabilities: calibrated with the temperature {calibration['temperature']:.3g}"
    else:
        yield str(calibration["notes"][0])


def _rejection(metrics: Mapping[str, Any]) -> Iterator[str]:
    rejection = metrics.get("rejection")
    if rejection is not None:
        yield "unknown images: the SavedModel may answer that an image is of no class"


def _training(run: Run) -> Iterator[str]:
    config = run.run_record.resolved
    name = config.backbone or f"the model of {config.from_run}"
    stages = ", then ".join(
        f"{stage['name']} ({stage['num_trainable']:,} parameters, {duration(stage['seconds'])})"
        for stage in run.metrics["stages"]
    )
    yield f"model: {name}; trained: {stages}"
    for name, choice in run.run_record.choices.items():
        reasons = choice.reasons  # trials come before what was chosen by them
        decided = [reason for reason in reasons if reason.startswith(_CHOSEN)]
        yield f"chosen {name}: {(decided or reasons)[0].removeprefix(_CHOSEN)}"


def _data(run: Run) -> Iterator[str]:
    counts = run.run_record.data.num_images
    parts = ", ".join(f"{count:,} for {split}" for split, count in counts.items() if count)
    names = some_of(run.class_names, _SHOWN_NAMES)
    yield f"data: {parts}; {len(run.class_names)} classes: {names}"
