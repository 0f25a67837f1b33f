"""Going on from a trained model without losing it: what is anchored, and what was forgotten."""

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
    """Images of what a model learned before.

    Attributes:
        learned: To estimate importance on.
        decided_on: To choose a strength by; `None` where there are none.
        measured: To measure forgetting on; no training has seen them, and no decision is made on
            them. `None` where there are none.
    """

    learned: ImageSplit
    decided_on: ImageSplit | None
    measured: ImageSplit | None


@dataclass(frozen=True)
class AnchorPlan:
    """How a model is to be held near what it knows while it goes on.

    Attributes:
        strength: See `anchor_weights`.
        method: How importance was estimated; `None` where all weights count the same.
        importance: By the path of each weight; empty where all count the same.
        trials: How a strength that was not given came about, line by line.
    """

    strength: float
    method: str | None
    importance: Mapping[str, np.ndarray]
    trials: tuple[str, ...]

    def anchor(self, model: keras.Model) -> Anchor:
        """Anchors a model to the weights that it has."""
        return anchor_weights(model, self.strength, self.importance or None)


@dataclass(frozen=True)
class ForgettingReport(ShownAsText):
    """What going on cost the old task.

    Attributes:
        scenario: How the tasks relate, see `ForgettingMatrix`: the classes are the same.
        before: Accuracy on the old task's images before, 0...1.
        after: And after.
        num_images: Their number.
        strength: Of the anchor; `None` without one.
        importance: How its weights were told apart; `None` where all count the same.
        trials: How a strength that was not given came about.
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
        held = "" if self.strength is None else f", anchored with strength {self.strength:.3g}"
        return (
            f"old task ({self.scenario}): {percent(self.before)} before, "
            f"{percent(self.after)} after, of {self.num_images} images{held}"
        )


def importance_of_old(
    model: keras.Model, data: ImageData, method: str, old: OldTask | None = None
) -> dict[str, np.ndarray]:
    """Returns how much each weight matters to what a model knows, with a mean of 1 over them.

    Args:
        model: What goes on; not changed.
        data: The new images.
        method: See `estimate_importance`.
        old: Old images; without them importance is estimated on the new ones.

    Raises:
        ArgumentError: All of it is zero.
    """
    images = data.train if old is None else old.learned
    found = estimate_importance(model, images, method=method)
    names = variable_names(model)
    return normalize_importance(
        found, [names[id(v)] for some in anchorable(model).values() for v in some]
    )


def choose_strength(
    model: keras.Model,
    data: ImageData,
    importance: Mapping[str, np.ndarray],
    old: OldTask | None = None,
    **fine_tuning: Any,
) -> StrengthReport:
    """Returns what `choose_anchor` found, which leaves the model held by nothing here.

    Args:
        model: What goes on.
        data: The new images.
        importance: See `AnchorPlan`.
        old: Old images; where some of them may be decided on, they are.
        **fine_tuning: What the training to come is given, for the trials, which have fewer epochs
            of their own and no augmentation.

    Raises:
        ArgumentError: See `choose_anchor`.
    """
    old_data = old.decided_on if old is not None else None
    anchor = choose_anchor(
        model, data, importance=importance or None, old_data=old_data, **fine_tuning
    )
    anchor.release()
    report: StrengthReport = anchor.report
    return report


def forgetting_of(
    model: keras.Model, old: OldTask | None, before: float, plan: AnchorPlan | None = None
) -> ForgettingReport | None:
    """Returns what training cost the old task, `None` where that cannot be measured."""
    after = measure_old_task(model, old)
    if old is None or old.measured is None or math.isnan(after):
        return None
    return ForgettingReport(
        scenario=DOMAIN_INCREMENTAL,
        before=before,
        after=after,
        num_images=old.measured.num_images,
        strength=plan.strength if plan is not None else None,
        importance=plan.method if plan is not None else None,
        trials=plan.trials if plan is not None else (),
    )


def measure_old_task(model: keras.Model, old: OldTask | None) -> float:
    """Returns the accuracy on the old task's images, NaN where there are none."""
    if old is None or old.measured is None or not old.measured.num_images:
        return math.nan
    return evaluate(model, old.measured).accuracy
