"""Chooses a backbone by a comparison."""

from dataclasses import dataclass

from tlkit.advice.backbones import BackboneComparison, BackboneScore
from tlkit.advice.candidates import RANDOM
from tlkit.utils.formatting import percent
from tlkit.utils.text_repr import ShownAsText, html_paragraphs


@dataclass(frozen=True)
class BackboneChoice(ShownAsText):
    """The chosen backbone, and why.

    Attributes:
        score: The score of the chosen backbone.
        reason: Why it was chosen, with the figures.
        comparison: The comparison that it was chosen from.
    """

    score: BackboneScore
    reason: str
    comparison: BackboneComparison

    @property
    def arguments(self) -> dict[str, object]:
        """The arguments of `build_classifier`: `backbone`, `weights` and `image_size`, a number."""
        weights = None if self.score.weights == RANDOM else self.score.weights
        return {
            "backbone": self.score.name,
            "weights": weights,
            "image_size": self.score.image_size[0],
        }

    def __str__(self) -> str:
        return f"chosen: {self.score.label}, {self.reason}"

    def _repr_html_(self) -> str:
        return html_paragraphs([str(self)]) + self.comparison._repr_html_()


def choose_backbone(comparison: BackboneComparison) -> BackboneChoice:
    """Chooses the most accurate backbone, or the cheapest of those too close to it to call.

    The cost is the number of multiply-adds per image, which does not depend on the machine or its
    load. With too few images for intervals the first of the ranking is chosen.

    Args:
        comparison: The result of `compare_backbones`, with square image sizes.

    Raises:
        ArgumentError: No backbone could be measured.

    Example:
        >>> import numpy as np, tlkit
        >>> from tlkit.advice.choosing import choose_backbone
        >>> labels = np.arange(60) % 2
        >>> images = np.random.default_rng(0).integers(0, 99, (60, 32, 32, 3), "uint8")
        >>> images[labels == 1, :, :, 0] += 100
        >>> data = tlkit.load_arrays(images, labels, ["grey", "red"])
        >>> comparison = tlkit.compare_backbones(data, "resnet20,resnet20=none")
        >>> print(choose_backbone(comparison))
        chosen: resnet20..., the cheapest (73 million multiply-adds per image) of 2 too close to
        call, accuracy 100.0 % with a linear head
    """
    best, others = comparison.best, comparison.scores[1:]
    accuracy = f"{comparison.metric} {percent(best.accuracy)} with a linear head"
    if not others:
        return BackboneChoice(best, f"the only one that could be measured, {accuracy}", comparison)
    if best.interval is None:
        reason = f"the first of the ranking, {accuracy}; too few images for intervals"
        return BackboneChoice(best, reason, comparison)
    close = (best, *comparison.close)
    chosen = min(close, key=lambda score: score.multiply_adds)
    if len(close) == 1:
        reason = f"the best, {accuracy}, whose interval overlaps no other"
    else:
        reason = (
            f"the cheapest ({chosen.multiply_adds / 1e6:,.0f} million multiply-adds per image) of "
            f"{len(close)} too close to call, {comparison.metric} {percent(chosen.accuracy)} with "
            "a linear head"
        )
        if chosen is not best:
            reason += f", compared with {percent(best.accuracy)} of {best.label}"
    return BackboneChoice(chosen, reason, comparison)
