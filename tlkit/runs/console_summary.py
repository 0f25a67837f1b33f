"""The summary of a finished run on the console: at most fifteen lines, the result first."""

from collections.abc import Iterator, Mapping
from typing import Any

from tlkit.continual.growth_report import METHODS
from tlkit.displays.activity import duration
from tlkit.errors import some_of
from tlkit.runs.config import RunConfig
from tlkit.runs.directory import LOG_FILE, Run, accuracy_of
from tlkit.runs.results import SHIPPED
from tlkit.utils.formatting import confidence_interval, percent

MAX_LINES = 15
_SHOWN_NAMES = 6
_CHOSEN = "chosen: "


def summarize_run(run: Run) -> str:
    """Returns a summary of a finished run; the report and the log have the details."""
    lines = [
        *_exported(run),
        *_accuracies(run.metrics),
        *_test_time_views(run.metrics),
        *_refit(run.metrics),
        *_old_classes(run),
        *_against_head(run.metrics),
        *_learning_curve(run.metrics),
        *_calibration(run.metrics),
        *_rejection(run.metrics),
        *_further_exports(run.metrics),
        *_training(run),
        *_data(run),
    ]
    seconds = sum(run.run_record.seconds.values())
    lines += [
        f"time: {duration(seconds)}",
        f"run: {run.path} (report.html: the report; saved_model: the model to deploy; {LOG_FILE}: "
        "the log)",
    ]
    if len(lines) > MAX_LINES:
        lines = [*lines[: MAX_LINES - 1], lines[-1]]
    return "\n".join(" ".join(line.split()) for line in lines)


def _exported(run: Run) -> Iterator[str]:
    if state := run.run_record.state:
        yield state
    elif shipped := run.metrics.get("shipped"):
        yield f"exported: {SHIPPED[shipped['model']]}; {shipped['reason']}"


def _accuracies(metrics: Mapping[str, Any]) -> Iterator[str]:
    for split in ("test", "validation"):
        if scores := metrics[split]:
            if labels := scores.get("labels"):
                yield f"{split}: {_scores_of_labels(labels)}"
            what = "accuracy of label decisions" if labels else "accuracy"
            yield f"{split} {what} {accuracy_of(scores)}"
    if scores := metrics.get("cross_validation"):
        yield f"cross-validated accuracy {accuracy_of(scores)}"


def _test_time_views(metrics: Mapping[str, Any]) -> Iterator[str]:
    if views := metrics.get("test_time_views"):
        before, after = views["milliseconds"]
        gain = "their gain was not measured, there are no validation images"
        if comparison := views["comparison"]:
            one, both = map(percent, comparison["accuracies"])
            gain = f"validation accuracy {both}, with one view {one}"
        yield (
            f"test-time views ({views['name']}): {gain}; {after:.1f} ms for an image instead of "
            f"{before:.1f}"
        )


def _scores_of_labels(labels: Mapping[str, Any]) -> str:
    names = {"mean_average_precision": "mAP", "f1_micro": "F1 micro", "f1_macro": "F1 macro"}
    return ", ".join(
        f"{name} {percent(labels[key])} ({confidence_interval(labels[f'{key}_interval'])})"
        for key, name in names.items()
        if labels[key] is not None
    )


def _refit(metrics: Mapping[str, Any]) -> Iterator[str]:
    if refitted := metrics.get("refit"):
        yield (
            f"trained once more on all {refitted['num_images']:,} images; the accuracies are of "
            f"the model before, trained on {refitted['num_before']:,}"
        )


def _old_classes(run: Run) -> Iterator[str]:
    growth = run.run_record.growth
    if growth is not None:
        if "method" in growth:  # absent in runs of earlier versions
            yield f"classes added by the method {growth['method']}: {METHODS[growth['method']]}"
        for which in ("old", "new"):
            before, after = growth[f"{which}_before"], growth[f"{which}_after"]
            if before is not None and after is not None:
                yield _before_and_after(f"accuracy on {which} classes", before, after)
    removal = run.run_record.removal
    if removal is not None:
        yield (
            f"{removal['num_images']:,} images forgotten; the head is solved from the other "
            f"{removal['num_left']:,}"
        )
        if removal["before"] is not None and removal["after"] is not None:
            yield _before_and_after(
                "accuracy on the remaining classes", removal["before"], removal["after"]
            )
        if removal["num_seen"]:
            yield (
                f"not covered: the network below the head was trained on {removal['num_seen']:,} "
                "of them"
            )
    forgotten = run.metrics.get("old_task")
    if forgotten is not None and forgotten.get("before") is not None:
        yield _before_and_after(
            "accuracy on images of the earlier run", forgotten["before"], forgotten["after"]
        )


def _before_and_after(what: str, before: float, after: float) -> str:
    return f"{what}: {percent(before)} before, {percent(after)} after"


def _against_head(metrics: Mapping[str, Any]) -> Iterator[str]:
    comparison = metrics.get("against_probe")
    if comparison is not None:
        head, tuned = map(percent, comparison["accuracies"])
        verdict = comparison["verdict"]
        meaning = {
            "the first is better": "the head alone is better",
            "the second is better": "fine-tuning is better",
        }
        yield (
            f"head alone and fine-tuned: {meaning.get(verdict, verdict)} (accuracy: {head} and "
            f"{tuned}; n = {comparison['num_images']}, p = {comparison['p_value']:.2g})"
        )


def _learning_curve(metrics: Mapping[str, Any]) -> Iterator[str]:
    curve = metrics.get("learning_curve")
    if curve is not None and curve["gain"] is not None:
        low, high = (100 * end for end in curve["gain_interval"])
        yield (
            f"twice as many training images: about {100 * curve['gain']:+.1f} points of "
            f"{curve['metric']} (80 % interval {low:.1f} to {high:.1f}, estimated with a head on "
            "the features of the backbone)"
        )


def _calibration(metrics: Mapping[str, Any]) -> Iterator[str]:
    calibration = metrics.get("calibration")
    if calibration is None:
        return
    if calibration["temperature"] != 1 or not calibration.get("notes"):
        yield f"probabilities: calibrated with temperature {calibration['temperature']:.3g}"
    else:
        yield str(calibration["notes"][0])


def _rejection(metrics: Mapping[str, Any]) -> Iterator[str]:
    rejection = metrics.get("rejection")
    if rejection is not None:
        yield "unknown images: the SavedModel reports images that are none of the classes"


def _further_exports(metrics: Mapping[str, Any]) -> Iterator[str]:
    exports = metrics.get("exports", ())
    for export in exports:
        if not export["file"]:
            yield f"{export['name']} was not written: {export['report']}"
    if files := [_with_accuracies(export) for export in exports if export["file"]]:
        yield f"also exported: {', '.join(files)}"


def _with_accuracies(export: Mapping[str, Any]) -> str:
    comparison = export["comparison"]
    if comparison is None:
        return str(export["file"])
    before, after = map(percent, comparison["accuracies"])
    return (
        f"{export['file']} (accuracy {after}, in memory {before}; n = {comparison['num_images']:,})"
    )


def _training(run: Run) -> Iterator[str]:
    config = run.run_record.resolved
    name = config.backbone or f"the model of {config.from_run}"
    stages = ", then ".join(
        f"{stage['name']} ({stage['num_trainable']:,} parameters, {duration(stage['seconds'])})"
        for stage in run.metrics["stages"]
    )
    yield f"model: {name}; trained: {stages}"
    choices = run.run_record.choices
    is_head = isinstance(config, RunConfig) and config.mode == "head" and "budget" in choices
    for name, choice in choices.items():
        if name == "mode" and is_head:  # the minutes do not allow what was chosen
            continue
        reasons = choice.reasons  # of a strength, the trials come before the choice
        decisions = [reason for reason in reasons if reason.startswith(_CHOSEN)]
        yield f"chosen {name.replace('_', ' ')}: {(decisions or reasons)[0].removeprefix(_CHOSEN)}"


def _data(run: Run) -> Iterator[str]:
    counts = run.run_record.data.num_images
    parts = ", ".join(f"{count:,} for {split}" for split, count in counts.items() if count)
    names = some_of(run.class_names, _SHOWN_NAMES)
    yield f"data: {parts}; {len(run.class_names)} classes: {names}"
