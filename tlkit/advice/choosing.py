"""Chooses a backbone, or its image size, by a comparison."""

from dataclasses import dataclass

from tlkit.advice.backbones import BackboneComparison, BackboneScore
from tlkit.advice.candidates import RANDOM
from tlkit.utils.formatting import percent
from tlkit.utils.text_repr import ShownAsText, html_paragraphs

_STEP, _SMALL_STEP, _SMALL = 32, 4, 64


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


def candidate_sizes(image_size: int) -> tuple[int, ...]:
    """Returns a backbone's own image size and larger ones to compare it with, ascending.

    They are 8/7 and 9/7 of it, rounded to multiples of 32 pixels, the usual reduction of a backbone
    (of 4 for sizes below 64, which are those of small backbones). At other sizes, strided
    convolutions with asymmetric padding see the image shifted, and accuracy falls.

    Example:
        >>> from tlkit.advice.choosing import candidate_sizes
        >>> candidate_sizes(224), candidate_sizes(96), candidate_sizes(32)
        ((224, 256, 288), (96, 128), (32, 36, 40))
    """
    step = _STEP if image_size >= _SMALL else _SMALL_STEP
    sizes = {step * round(image_size * sevenths / 7 / step) for sevenths in (8, 9)}
    return (image_size, *sorted(size for size in sizes if size > image_size))


def choose_image_size(comparison: BackboneComparison) -> BackboneChoice:
    """Chooses the image size of one backbone that was compared at several sizes.

    From the smallest size upwards, a larger one is taken if its accuracy is higher than that of the
    size taken so far by more than one standard error of the difference, paired by image. The
    confidence intervals of the accuracies, which `choose_backbone` compares, are several times as
    wide and would hardly ever tell two sizes of one backbone apart.

    Args:
        comparison: The result of `compare_backbones` for "NAME@PIXELS" with several sizes.

    Raises:
        ArgumentError: No size could be measured.

    Example:
        >>> import numpy as np, tlkit
        >>> from tlkit.advice.choosing import choose_image_size
        >>> labels = np.arange(60) % 2
        >>> images = np.random.default_rng(0).integers(0, 99, (60, 32, 32, 3), "uint8")
        >>> images[labels == 1, :, :, 0] += 100
        >>> data = tlkit.load_arrays(images, labels, ["grey", "red"])
        >>> comparison = tlkit.compare_backbones(data, "resnet20@32,resnet20@40")
        >>> print(choose_image_size(comparison))
        chosen: resnet20@32, accuracy 100.0 % with a linear head, ... ms per image; not better by
        more than a standard error: 40 pixels (+0.0 points, standard error 0.0, ... ms)
    """
    _ = comparison.best  # raises with the reasons if there is none
    places = sorted(
        range(len(comparison.scores)), key=lambda place: comparison.scores[place].image_size
    )
    chosen, taken_over = places[0], None
    rejected: list[int] = []
    for place in places[1:]:
        gain = comparison.scores[place].accuracy - comparison.scores[chosen].accuracy
        if gain > comparison.errors[place][chosen]:
            chosen, taken_over = place, chosen
            rejected = []
        else:
            rejected.append(place)

    def against(place: int, other: int) -> str:
        score = comparison.scores[place]
        gain = score.accuracy - comparison.scores[other].accuracy
        return (
            f"{score.image_size[0]} pixels ({100 * gain:+.1f} points, standard error "
            f"{100 * comparison.errors[place][other]:.1f}, {score.milliseconds_in_batches:.1f} ms)"
        )

    score = comparison.scores[chosen]
    reason = (
        f"{comparison.metric} {percent(score.accuracy)} with a linear head, "
        f"{score.milliseconds_in_batches:.1f} ms per image"
    )
    if taken_over is not None:
        reason += f"; worse by more than a standard error: {against(taken_over, chosen)}"
    if rejected:
        listed = ", ".join(against(place, chosen) for place in rejected)
        reason += f"; not better by more than a standard error: {listed}"
    if len(places) == 1:
        reason += "; the only size that could be measured"
    return BackboneChoice(score, reason, comparison)
