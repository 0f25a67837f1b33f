"""Going on from a trained model without losing it: what is anchored, and what was forgotten."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np

from tlkit.continual.anchors import Anchor, anchor_weights, anchorable
from tlkit.continual.forgetting import DOMAIN_INCREMENTAL
from tlkit.continual.importance import estimate_importance, normalize_importance
from tlkit.continual.strength import choose_anchor
from tlkit.data.images import ImageData, ImageSplit
from tlkit.evaluation.metrics import evaluate
from tlkit.showing import ShownAsText

AUTO = "auto"


@dataclass(frozen=True)
class OldTask:
    """Pictures of what a model learned before.

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

    def as_dict(self) -> dict[str, Any]:
        """Returns what JSON can hold."""
        return {**asdict(self), "forgotten": self.forgotten}

    def __str__(self) -> str:
        held = "" if self.strength is None else f", anchored with strength {self.strength:.3g}"
        return (
            f"old task ({self.scenario}): {100 * self.before:.1f} % before, "
            f"{100 * self.after:.1f} % after, of {self.num_images} images{held}"
        )


def anchor_to_itself(
    model: keras.Model,
    data: ImageData,
    *,
    strength: float | str,
    importance: str | None = None,
    old: OldTask | None = None,
    **fine_tuning: Any,
) -> Anchor:
    """Anchors a model to what it knows before it goes on.

    Importance is scaled to a mean of 1 over the anchored weights, so that a strength means the same
    with any of them.

    Args:
        model: What goes on; changed as `anchor_weights` says.
        data: The new pictures.
        strength: A number, or "auto" (`choose_anchor`).
        importance: A method of `estimate_importance`; all weights alike by default.
        old: Old pictures; without them importance is estimated on the new ones.
        **fine_tuning: What the training to come is given, for the trials of "auto", which have
            fewer epochs of their own and no augmentation.

    Raises:
        ArgumentError: An argument breaks its rule.
    """
    values: Mapping[str, np.ndarray] | None = None
    if importance is not None:
        images = data.train if old is None else old.learned
        found = estimate_importance(model, images, method=importance)
        held = [v.path for some in anchorable(model).values() for v in some]
        values = normalize_importance(found, held)
    if strength == AUTO:
        old_data = old.decided_on if old is not None else None
        return choose_anchor(model, data, importance=values, old_data=old_data, **fine_tuning)
    return anchor_weights(model, float(strength), values)


def forgetting_of(
    model: keras.Model,
    old: OldTask | None,
    before: float,
    anchor: Anchor | None = None,
    importance: str | None = None,
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
        strength=anchor.strength if anchor is not None else None,
        importance=importance,
        trials=_told(anchor),
    )


def _told(anchor: Anchor | None) -> tuple[str, ...]:
    if anchor is None or anchor.report is None:
        return ()
    return tuple(str(anchor.report).splitlines())


def measure_old_task(model: keras.Model, old: OldTask | None) -> float:
    """Returns the accuracy on the old task's images, NaN where there are none."""
    if old is None or old.measured is None or not old.measured.num_images:
        return math.nan
    return evaluate(model, old.measured).accuracy
