"""Which of several backbones to take, once they are measured."""

from dataclasses import dataclass

from tlkit.advice.backbones import BackboneComparison, BackboneScore
from tlkit.advice.candidates import RANDOM
from tlkit.utils.formatting import percent
from tlkit.utils.text_repr import ShownAsText, html_paragraphs


@dataclass(frozen=True)
class BackboneChoice(ShownAsText):
    """The backbone that is taken, and why.

    Attributes:
        score: What was measured of it.
        reason: Why it is taken, with the figures.
        comparison: What it was chosen from.
    """

    score: BackboneScore
    reason: str
    comparison: BackboneComparison

    @property
    def arguments(self) -> dict[str, object]:
        """What `build_classifier` takes: `backbone`, `weights` and `image_size`, a number."""
        weights = None if self.score.weights == RANDOM else self.score.weights
        return {
            "backbone": self.score.name,
            "weights": weights,
            "image_size": self.score.image_size[0],
        }

    def __str__(self) -> str:
        return f"takes {self.score.label}: {self.reason}"

    def _repr_html_(self) -> str:
        return html_paragraphs([str(self)]) + self.comparison._repr_html_()


def choose_backbone(comparison: BackboneComparison) -> BackboneChoice:
    """Takes the most accurate backbone, or where others are too close to it to call the cheapest.

    What counts as cost are the multiply-adds of an image: they are the same on every machine and
    whatever else it is doing. With too few images for intervals nothing can be called, and the
    first of the ranking is taken.

    Args:
        comparison: What `compare_backbones` returned, all at one square image size each.

    Raises:
        ArgumentError: None could be measured.

    Example:
        >>> import numpy as np, tlkit
        >>> from tlkit.advice.choosing import choose_backbone
        >>> labels = np.arange(60) % 2
        >>> images = np.random.default_rng(0).integers(0, 99, (60, 32, 32, 3), "uint8")
        >>> images[labels == 1, :, :, 0] += 100
        >>> data = tlkit.load_arrays(images, labels, ["grey", "red"])
        >>> comparison = tlkit.compare_backbones(data, "resnet20,resnet20=none")
        >>> print(choose_backbone(comparison))
        takes resnet20...: the cheapest (73 million multiply-adds an image) of 2 too close to call,
        100.0 % by a linear head
    """
    best, others = comparison.best, comparison.scores[1:]
    how = "by a linear head"
    if comparison.class_weight is not None:
        how = f"{comparison.metric} {how}"
    accuracy = f"{percent(best.accuracy)} {how}"
    if not others:
        return BackboneChoice(best, f"the only one that could be measured, {accuracy}", comparison)
    if best.interval is None:
        reason = f"the first of the ranking, {accuracy}; too few images to say how sure that is"
        return BackboneChoice(best, reason, comparison)
    close = (best, *comparison.close)
    chosen = min(close, key=lambda score: score.multiply_adds)
    if len(close) == 1:
        reason = f"the best, {accuracy}, beyond the intervals of the others"
    else:
        reason = (
            f"the cheapest ({chosen.multiply_adds / 1e6:,.0f} million multiply-adds an image) of "
            f"{len(close)} too close to call, {percent(chosen.accuracy)} {how}"
        )
        if chosen is not best:
            reason += f" against {percent(best.accuracy)} of {best.label}"
    return BackboneChoice(chosen, reason, comparison)
