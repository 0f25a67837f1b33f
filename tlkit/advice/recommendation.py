"""Recommends what to train, by the number of images and their similarity."""

from dataclasses import dataclass

from tlkit.advice.similarity import SimilarityReport
from tlkit.data.images import ImageData
from tlkit.errors import ArgumentError
from tlkit.utils.formatting import percent
from tlkit.utils.text_repr import ShownAsText

FEW = 5
"""Training images per class below which only the head is solved."""


@dataclass(frozen=True)
class Recommendation(ShownAsText):
    """A recommendation of what to train.

    Attributes:
        mode: "head" (`train_head`) or "fine-tune" (`fine_tune`).
        unfreeze: What to train, as `fine_tune` takes it: "head", a number of groups, or "all".
        reasons: The reasons, with figures.
    """

    mode: str
    unfreeze: str | int
    reasons: tuple[str, ...]

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
            text = f"fine-tune {trained}"
        return "\n".join([text, *(f"  {reason}" for reason in self.reasons)])


def recommend(data: ImageData, similarity: SimilarityReport) -> Recommendation:
    """Recommends what to train: the head below 5 training images per class, else everything.

    Very few images determine only few weights. The head is always solved first, and `fine_tune`
    keeps it if further training brings no improvement. The similarity to the pretraining data does
    not change the recommendation; it tells what the pretrained weights are worth, and whether
    another backbone should be tried.

    It is a rule of thumb with a round limit; validation decides. With 5, 10 and 50 training images
    per class of CIFAR-100 (one, three and two seeds), training everything was better than the head
    alone by 4 to 7 points, see benchmarks/README.md. No anchor is recommended: with 5 to 150 images
    per class, none was better than fine-tuning without a constraint by more than chance. Use
    `choose_anchor` to preserve an earlier task.

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
    return _recommend_everything(data, _similarity_reason(similarity))


def recommend_unmeasured(data: ImageData, reason: str) -> Recommendation:
    """Returns the recommendation without a similarity.

    Args:
        data: The data with the training images.
        reason: Why the similarity was not measured.

    Raises:
        ArgumentError: `data` has another type.
    """
    return recommend_by_number(data) or _recommend_everything(data, reason)


def _recommend_everything(data: ImageData, reason: str) -> Recommendation:
    """Returns the recommendation for enough images to train more than the head."""
    count = f"{_images_per_class(data):,.1f} training images per class"
    return Recommendation(
        "fine-tune", "all", (f"{count}, {FEW} or more: enough for everything", reason)
    )


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
    return Recommendation("head", "head", (reason,))


def _images_per_class(data: ImageData) -> float:
    """Returns the mean number of different training images per class."""
    return len(set(data.train.digests)) / data.num_classes


def _similarity_reason(similarity: SimilarityReport) -> str:
    """Returns what the pretrained weights are worth for these images."""
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
    return f"the pretrained weights help ({accuracies})"
