"""Warm starts: training a trained model further, anchored, with its forgetting measured."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tlkit.continual.anchors import Anchor, anchor_weights, anchorable
from tlkit.continual.forgetting import DOMAIN_INCREMENTAL
from tlkit.continual.importance import estimate_importance, normalize_importance
from tlkit.continual.strength import choose_anchor
from tlkit.continual.strength_reports import StrengthReport
from tlkit.data.images import ImageData, ImageSplit
from tlkit.evaluation.metrics import evaluate
from tlkit.models.variable_names import variable_names
from tlkit.utils.formatting import percent
from tlkit.utils.text_repr import ShownAsText


@dataclass(frozen=True)
class OldTask:
    """Images of the task that a model was trained on before.

    Attributes:
        train: The images to estimate importance on.
        validation: The images to choose a strength by, or `None`.
        test: The images to measure forgetting on, used in no training and no decision; or `None`.
    """

    train: ImageSplit
    validation: ImageSplit | None
    test: ImageSplit | None


@dataclass(frozen=True)
class AnchorPlan:
    """The plan of an anchor for a model that is trained further.

    Attributes:
        strength: See `anchor_weights`.
        method: The method that importance was estimated by; `None` if all weights have the same.
        importance: The importance by path of each weight; empty if all have the same.
        trials: The report lines on how the strength was chosen; empty if it was given.
    """

    strength: float
    method: str | None
    importance: Mapping[str, np.ndarray]
    trials: tuple[str, ...]

    def anchor(self, model: keras.Model) -> Anchor:
        """Anchors a model to its current weights."""
        return anchor_weights(model, self.strength, self.importance or None)


@dataclass(frozen=True)
class ForgettingReport(ShownAsText):
    """The forgetting of the old task in a warm-started training.

    Attributes:
        scenario: How the tasks relate, see `ForgettingMatrix`: they have the same classes.
        before: Accuracy on the old task's images before the training, 0...1.
        after: Accuracy on them after the training.
        num_images: Number of these images.
        strength: Strength of the anchor; `None` without one.
        importance: The method that importance was estimated by; `None` if all weights have the
            same.
        trials: The report lines on how the strength was chosen; empty if it was given.
    """

    _derived = ("forgotten",)

    scenario: str
    before: float
    after: float
    num_images: int
    strength: float | None = None
    importance: str | None = None
    trials: tuple[str, ...] = ()

    @property
    def forgotten(self) -> float:
        """Accuracy lost, -1...1."""
        return self.before - self.after

    def __str__(self) -> str:
        anchor = "" if self.strength is None else f", anchored with strength {self.strength:.3g}"
        return (
            f"old task ({self.scenario}): accuracy {percent(self.before)} before, "
            f"{percent(self.after)} after (n = {self.num_images}){anchor}"
        )


def estimate_old_importance(
    model: keras.Model, data: ImageData, method: str, old: OldTask | None = None
) -> dict[str, np.ndarray]:
    """Returns the importance of each weight for the old task, with a mean of 1.

    Args:
        model: The model that is trained further; not changed.
        data: The new images.
        method: See `estimate_importance`.
        old: The old images; without them importance is estimated on the new ones.

    Raises:
        ArgumentError: The importance is zero everywhere.
    """
    images = data.train if old is None else old.train
    names = variable_names(model)
    return normalize_importance(
        estimate_importance(model, images, method=method),
        [names[id(v)] for some in anchorable(model).values() for v in some],
    )


def choose_strength(
    model: keras.Model,
    data: ImageData,
    importance: Mapping[str, np.ndarray],
    old: OldTask | None = None,
    **fine_tuning: Any,
) -> StrengthReport:
    """Returns the report of `choose_anchor`, with the anchor released.

    Args:
        model: The model that is trained further.
        data: The new images.
        importance: See `AnchorPlan`.
        old: The old images; their validation images take part in the choice.
        **fine_tuning: The arguments of the later training, for the trials, which have fewer epochs
            and no augmentation.

    Raises:
        ArgumentError: See `choose_anchor`.
    """
    old_data = old.validation if old is not None else None
    anchor = choose_anchor(
        model, data, importance=importance or None, old_data=old_data, **fine_tuning
    )
    anchor.release()
    report: StrengthReport = anchor.report
    return report


def report_forgetting(
    model: keras.Model, old: OldTask | None, before: float, plan: AnchorPlan | None = None
) -> ForgettingReport | None:
    """Returns the report on forgetting; `None` without test images of the old task."""
    after = measure_old_task(model, old)
    if old is None or old.test is None or math.isnan(after):
        return None
    return ForgettingReport(
        scenario=DOMAIN_INCREMENTAL,
        before=before,
        after=after,
        num_images=old.test.num_images,
        strength=plan.strength if plan is not None else None,
        importance=plan.method if plan is not None else None,
        trials=plan.trials if plan is not None else (),
    )


def measure_old_task(model: keras.Model, old: OldTask | None) -> float:
    """Returns the accuracy on the old task's test images; NaN if there are none."""
    if old is None or old.test is None or not old.test.num_images:
        return math.nan
    return evaluate(model, old.test).accuracy
