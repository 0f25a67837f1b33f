"""Runs with several labels per image: their checks, and the thresholds of the labels."""

from typing import TYPE_CHECKING

import numpy as np

from tlkit.data.class_weighting import BALANCED
from tlkit.data.images import ImageData
from tlkit.errors import ArgumentError, DataError, quoted
from tlkit.evaluation.thresholds import LabelThresholds, check_can_choose, choose_thresholds
from tlkit.runs.config import AUTO, RunConfig
from tlkit.runs.directory import Run
from tlkit.training.head_forms import CLOSED_FORM

if TYPE_CHECKING:
    import keras


def has_several_labels(config: RunConfig, parent: Run | None) -> bool:
    """Whether the images of a run may have several labels each: an earlier run decides it.

    Raises:
        ArgumentError: Other arguments do not fit that.
    """
    is_multi_label = config.multi_label if parent is None else parent.is_multi_label
    if not is_multi_label:
        if config.threshold is not None:
            raise ArgumentError(
                "`threshold` must be left out without several labels per image: the most probable "
                f"class is predicted. Received: threshold={config.threshold!r}. Leave it out, or "
                "add multi_label=True (--multi-label)."
            )
        return False
    whys = {
        "folds": (config.folds is not None, "each fold's model would have other thresholds"),
        "keep_statistics": (bool(config.keep_statistics), "such sums tell classes, not labels"),
        "statistics_width": (config.statistics_width is not None, "no statistics are kept"),
        "sampling": (config.sampling == BALANCED, "labels cannot be drawn one by one"),
        "head": (
            config.head == CLOSED_FORM and config.class_weight is not None,
            "a head in closed form has one weight for each image, not for each label",
        ),
    }
    for name, (is_given, why) in whys.items():
        if is_given:
            raise ArgumentError(
                f"`{name}` must be left out with several labels per image, as {why}. "
                f"Received: {name}={getattr(config, name)!r}. Leave it out."
            )
    return True


def check_labels(data: ImageData, config: RunConfig) -> None:
    """Raises `DataError` unless every label can be learned, and its threshold chosen.

    Args:
        data: The images.
        config: The config of the run.
    """
    if not data.is_multi_label:
        return
    rows = data.train.labels
    absent = [name for name, one in zip(data.class_names, rows.T, strict=True) if not one.any()]
    if absent:
        raise DataError(
            "Every label must have training images. "
            f"Received: none of {quoted(absent)} among {len(rows):,}. Add some, or remove the "
            "label."
        )
    if config.threshold in (None, AUTO):
        labels = None if data.validation is None else data.validation.labels
        check_can_choose(labels, data.class_names)


def choose_run_thresholds(
    model: "keras.Model", data: ImageData, config: RunConfig
) -> LabelThresholds | None:
    """Returns the threshold of each label, as given or chosen on validation images.

    `None` with one class per image.

    Args:
        model: The calibrated model that predicts.
        data: The images at the model's size.
        config: The config of the run.
    """
    if not data.is_multi_label:
        return None
    if isinstance(config.threshold, float | int):
        values = (float(config.threshold),) * data.num_classes
        return LabelThresholds(tuple(data.class_names), values)
    if data.validation is None:
        raise RuntimeError("the thresholds of labels are chosen without validation images")
    from tlkit.evaluation.outputs import collect_outputs, probabilities_from
    from tlkit.models.heads import head_kind, outputs_logits

    (outputs,), _ = collect_outputs([model], data.validation)
    probabilities = probabilities_from(outputs, head_kind(model), outputs_logits(model))
    return choose_thresholds(probabilities, np.asarray(data.validation.labels), data.class_names)
