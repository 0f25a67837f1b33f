"""What to train, drawn from how many images there are and how near they are."""

from dataclasses import dataclass

from tlkit.advice.similarity import SimilarityReport
from tlkit.data.images import ImageData
from tlkit.errors import ArgumentError
from tlkit.training.stages import DEFAULT_GROUPS
from tlkit.utils.formatting import percent
from tlkit.utils.text_repr import ShownAsText

FEW, MANY = 20, 500
"""Training images of a class below which the head alone is solved, and from which all may train."""

ANCHORS = {"strong": 0.01, "weak": 0.001, "none": 0.0}
"""Strengths to begin with, for `anchor_weights`; `choose_anchor` finds one by trying."""


@dataclass(frozen=True)
class Recommendation(ShownAsText):
    """What to train.

    Attributes:
        mode: "head" (`train_head`) or "fine-tune" (`fine_tune`).
        unfreeze: What is to train, as `fine_tune` takes it: "head", a number of groups, or "all".
        anchor: "strong", "weak" or "none": how firmly to hold the weights to where they were.
        reasons: Why, with the figures it follows from.
    """

    mode: str
    unfreeze: str | int
    anchor: str
    reasons: tuple[str, ...]

    @property
    def anchor_strength(self) -> float:
        """A strength to begin with, for `anchor_weights`; 0 for none."""
        return ANCHORS[self.anchor]

    @property
    def arguments(self) -> dict[str, object]:
        """What `train_run` takes: `mode` and, with fine-tuning, `unfreeze`."""
        if self.mode == "head":
            return {"mode": self.mode}
        return {"mode": self.mode, "unfreeze": self.unfreeze}

    def __str__(self) -> str:
        if self.mode == "head":
            what = "solve the head alone"
        else:
            trained = "everything" if self.unfreeze == "all" else f"the last {self.unfreeze} groups"
            held = "no anchor" if self.anchor == "none" else f"a {self.anchor} anchor"
            what = f"fine-tune {trained}, {held}"
        return "\n".join([what, *(f"  {reason}" for reason in self.reasons)])


def recommend(data: ImageData, similarity: SimilarityReport) -> Recommendation:
    """Says what to train, from the number of images and their similarity.

    | training images of a class | near or between | far, or the weights do not help |
    | --- | --- | --- |
    | below 20 | the head | the head |
    | 20 to 499 | the last groups, a strong anchor | the last groups, a weak anchor |
    | 500 and more | everything, a weak anchor | everything, no anchor |

    Few images determine few weights, whatever they show. Where what the network knows fits, it
    is worth keeping: anchored the more, the fewer images there are. The head alone is always
    solved first, and `fine_tune` keeps it where nothing better comes.

    It is a rule of thumb with round numbers for limits; validation decides. With 8 to 112 training
    images of a class, of images and of CIFAR-10, what it says was the best of five choices or
    so near that five seeds do not tell them apart, see benchmarks/README.md. From 500 images of a
    class on nothing was measured.

    Args:
        data: What the training images are counted in.
        similarity: What `measure_similarity` returned for them.

    Raises:
        ArgumentError: An argument is of another kind.

    Example:
        >>> import numpy as np, tlkit
        >>> from tlkit.advice.recommendation import recommend
        >>> from tlkit.advice.similarity import SimilarityReport
        >>> images = np.random.default_rng(0).integers(0, 255, (20, 8, 8, 3), "uint8")
        >>> data = tlkit.load_arrays(images, np.arange(20) % 2, ["a", "b"], splits=(1, 0, 0))
        >>> near = SimilarityReport(0.9, (0.8, 0.95), 0.5, (0.4, 0.6), {"conv5": 0.1}, 0.1, 20, 2)
        >>> print(recommend(data, near))
        solve the head alone
          10.0 training images of a class, below 20: too few to train more than the head

    Reference:
        The quarters of size and similarity: https://cs231n.github.io/transfer-learning/
    """
    if not isinstance(similarity, SimilarityReport):
        raise ArgumentError(
            "`similarity` must be what measure_similarity returned. Received: similarity of type "
            f"{type(similarity).__name__}."
        )
    if (by_number := recommend_by_number(data)) is not None:
        return by_number
    is_of_use = similarity.level != "far" and similarity.knows_more_than_chance
    return _by_size(data, is_of_use, _fit(similarity))


def recommend_unmeasured(data: ImageData, reason: str) -> Recommendation:
    """Returns what `recommend` says where the similarity cannot be measured, as if it were far.

    Args:
        data: What the training images are counted in.
        reason: Why it was not measured.

    Raises:
        ArgumentError: `data` is of another kind.
    """
    return recommend_by_number(data) or _by_size(data, False, reason)


def _by_size(data: ImageData, is_of_use: bool, reason: str) -> Recommendation:
    """What enough images for more than the head are enough for."""
    per_class = _images_of_a_class(data)
    number = f"{per_class:,.1f} training images of a class"
    if per_class < MANY:
        reasons = (f"{number}, {FEW} to {MANY - 1}: enough for the last groups", reason)
        anchor = "strong" if is_of_use else "weak"
        return Recommendation("fine-tune", DEFAULT_GROUPS, anchor, reasons)
    reasons = (f"{number}, {MANY} or more: enough for everything", reason)
    return Recommendation("fine-tune", "all", "weak" if is_of_use else "none", reasons)


def recommend_by_number(data: ImageData) -> Recommendation | None:
    """Returns what `recommend` says whatever the similarity is; `None` where that counts too.

    So nothing need be measured where the images are too few to train more than the head.

    Args:
        data: What the training images are counted in.

    Raises:
        ArgumentError: `data` is of another kind.

    Example:
        >>> import numpy as np, tlkit
        >>> from tlkit.advice.recommendation import recommend_by_number
        >>> images = np.random.default_rng(0).integers(0, 255, (20, 8, 8, 3), "uint8")
        >>> data = tlkit.load_arrays(images, np.arange(20) % 2, ["a", "b"], splits=(1, 0, 0))
        >>> recommend_by_number(data).mode
        'head'
    """
    if not isinstance(data, ImageData):
        raise ArgumentError(
            "`data` must be what load_folder returned. Received: data of type "
            f"{type(data).__name__}."
        )
    per_class = _images_of_a_class(data)
    if per_class >= FEW:
        return None
    reason = (
        f"{per_class:,.1f} training images of a class, below {FEW}: too few to train more than "
        "the head"
    )
    return Recommendation("head", "head", "none", (reason,))


def _images_of_a_class(data: ImageData) -> float:
    """Different training images of a class, on average."""
    return len(set(data.train.digests)) / data.num_classes


def _fit(similarity: SimilarityReport) -> str:
    """Why to hold on to what the network knows, or not."""
    against = (
        f"{percent(similarity.accuracy)} with its weights, "
        f"{percent(similarity.random_accuracy)} with random ones"
    )
    if not similarity.knows_more_than_chance:
        return f"what the network knows does not show to help ({against}): little holds it"
    if similarity.level == "far":
        return f"the images are far from what it knows (distance {similarity.distance:.2f})"
    return f"what the network knows helps ({against}): worth keeping"
