"""Recommends what to train, by the number of images and their similarity."""

from dataclasses import dataclass

from tlkit.advice.similarity import SimilarityReport
from tlkit.data.images import ImageData
from tlkit.errors import ArgumentError
from tlkit.utils.formatting import percent
from tlkit.utils.text_repr import ShownAsText

FEW, MANY = 5, 500
"""Training images per class below which only the head is solved, and from which the anchor is
weaker."""

ANCHORS = {"strong": 0.01, "weak": 0.001, "none": 0.0}
"""Initial strengths for `anchor_weights`; `choose_anchor` searches for the best."""


@dataclass(frozen=True)
class Recommendation(ShownAsText):
    """A recommendation of what to train.

    Attributes:
        mode: "head" (`train_head`) or "fine-tune" (`fine_tune`).
        unfreeze: What to train, as `fine_tune` takes it: "head", a number of groups, or "all".
        anchor: How strongly to penalise weight changes: "strong", "weak" or "none".
        reasons: The reasons, with figures.
    """

    mode: str
    unfreeze: str | int
    anchor: str
    reasons: tuple[str, ...]

    @property
    def anchor_strength(self) -> float:
        """An initial strength for `anchor_weights`; 0 for none."""
        return ANCHORS[self.anchor]

    @property
    def arguments(self) -> dict[str, object]:
        """The arguments of `train_run`: `mode` and, for fine-tuning, `unfreeze`."""
        if self.mode == "head":
            return {"mode": self.mode}
        return {"mode": self.mode, "unfreeze": self.unfreeze}

    def __str__(self) -> str:
        if self.mode == "head":
            text = "solve only the head"
        else:
            trained = "everything" if self.unfreeze == "all" else f"the last {self.unfreeze} groups"
            anchor = "no anchor" if self.anchor == "none" else f"a {self.anchor} anchor"
            text = f"fine-tune {trained}, {anchor}"
        return "\n".join([text, *(f"  {reason}" for reason in self.reasons)])


def recommend(data: ImageData, similarity: SimilarityReport) -> Recommendation:
    """Recommends what to train, by the number of images and their similarity to pretraining data.

    | training images per class | near or between | far, or no benefit of the weights |
    | --- | --- | --- |
    | below 5 | the head | the head |
    | 5 to 499 | everything, a strong anchor | everything, a weak anchor |
    | 500 and more | everything, a weak anchor | everything, no anchor |

    Very few images determine only few weights. If the pretrained features suit the images they are
    worth keeping, with a stronger anchor for fewer images. The head is always solved first, and
    `fine_tune` keeps it if further training brings no improvement.

    It is a rule of thumb with round limits; validation decides. With 5, 10 and 50 training images
    per class of CIFAR-100 (one, three and two seeds), training everything was better than the head
    alone by 4 to 7 points; with 50 and one seed the anchor changed nothing, see
    benchmarks/README.md. For 500 or more images per class nothing was measured.

    Args:
        data: The data with the training images.
        similarity: The result of `measure_similarity` for them.

    Raises:
        ArgumentError: An argument has another type.

    Example:
        >>> import numpy as np, tlkit
        >>> from tlkit.advice.recommendation import recommend
        >>> from tlkit.advice.similarity import SimilarityReport
        >>> images = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 3), "uint8")
        >>> data = tlkit.load_arrays(images, np.arange(4) % 2, ["a", "b"], splits=(1, 0, 0))
        >>> near = SimilarityReport(0.9, (0.8, 0.95), 0.5, (0.4, 0.6), {"conv5": 0.1}, 0.1, 20, 2)
        >>> print(recommend(data, near))
        solve only the head
          2.0 training images per class, below 5: too few to train more than the head

    Reference:
        The quarters of size and similarity: https://cs231n.github.io/transfer-learning/
    """
    if not isinstance(similarity, SimilarityReport):
        raise ArgumentError(
            "`similarity` must be the result of measure_similarity. Received: similarity of type "
            f"{type(similarity).__name__}. Call measure_similarity(model, data)."
        )
    if (recommendation := recommend_by_number(data)) is not None:
        return recommendation
    is_useful = similarity.level != "far" and similarity.knows_more_than_chance
    return _recommend_by_size(data, is_useful, _similarity_reason(similarity))


def recommend_unmeasured(data: ImageData, reason: str) -> Recommendation:
    """Returns the recommendation without a similarity, which is assumed to be low.

    Args:
        data: The data with the training images.
        reason: Why the similarity was not measured.

    Raises:
        ArgumentError: `data` has another type.
    """
    return recommend_by_number(data) or _recommend_by_size(data, False, reason)


def _recommend_by_size(data: ImageData, is_useful: bool, reason: str) -> Recommendation:
    """Returns the recommendation for enough images to train more than the head."""
    per_class = _images_per_class(data)
    count = f"{per_class:,.1f} training images per class"
    if per_class < MANY:
        reasons = (f"{count}, {FEW} to {MANY - 1}: enough for everything, anchored", reason)
        anchor = "strong" if is_useful else "weak"
        return Recommendation("fine-tune", "all", anchor, reasons)
    reasons = (f"{count}, {MANY} or more: enough for everything", reason)
    return Recommendation("fine-tune", "all", "weak" if is_useful else "none", reasons)


def recommend_by_number(data: ImageData) -> Recommendation | None:
    """Returns the recommendation if it does not depend on the similarity, else `None`.

    This avoids measuring the similarity if there are too few images to train more than the head.

    Args:
        data: The data with the training images.

    Raises:
        ArgumentError: `data` has another type.

    Example:
        >>> import numpy as np, tlkit
        >>> from tlkit.advice.recommendation import recommend_by_number
        >>> images = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 3), "uint8")
        >>> data = tlkit.load_arrays(images, np.arange(4) % 2, ["a", "b"], splits=(1, 0, 0))
        >>> recommend_by_number(data).mode
        'head'
    """
    if not isinstance(data, ImageData):
        raise ArgumentError(
            "`data` must be the result of load_folder. Received: data of type "
            f"{type(data).__name__}. Load the images first."
        )
    per_class = _images_per_class(data)
    if per_class >= FEW:
        return None
    reason = (
        f"{per_class:,.1f} training images per class, below {FEW}: too few to train more than the "
        "head"
    )
    return Recommendation("head", "head", "none", (reason,))


def _images_per_class(data: ImageData) -> float:
    """Returns the mean number of different training images per class."""
    return len(set(data.train.digests)) / data.num_classes


def _similarity_reason(similarity: SimilarityReport) -> str:
    """Returns the reason for or against keeping the pretrained weights."""
    accuracies = (
        f"accuracy {percent(similarity.accuracy)} with them, "
        f"{percent(similarity.random_accuracy)} with random weights"
    )
    if not similarity.knows_more_than_chance:
        return f"the pretrained weights bring no significant gain ({accuracies})"
    if similarity.level == "far":
        return (
            "the images differ from the pretraining data "
            f"(distance of statistics {similarity.distance:.2f})"
        )
    return f"the pretrained weights help ({accuracies}): worth keeping"
