"""The choice between a linear and a closed-form head, on images that neither was solved on."""

from dataclasses import dataclass

import numpy as np

from tlkit.evaluation.intervals import mean_with_error
from tlkit.evaluation.outputs import image_accuracies
from tlkit.training.labelled import LabelledFeatures
from tlkit.utils.formatting import percent

_NUM_ERRORS = 2
_ROUNDING = 1e-9


@dataclass(frozen=True)
class HeadComparison:
    """The accuracies of two heads on the same images.

    Attributes:
        linear: Accuracy of the linear head, 0...1.
        closed_form: Accuracy of the closed-form head.
        error: Standard error of the difference, from the images' paired differences.
        num_images: Number of images; views of one image count once.
        images: The images in words.
    """

    linear: float
    closed_form: float
    error: float
    num_images: int
    images: str

    @property
    def prefers_linear(self) -> bool:
        """Whether the linear head is better by two standard errors, or neither head is ever wrong.

        With one standard error, and the linear head for all ties, it was often taken by chance: on
        classes of CIFAR-100 that cost 0.1 to 0.9 points, see benchmarks/README.md.
        """
        gain = self.linear - self.closed_form
        is_perfect = min(self.linear, self.closed_form) >= 1 - _ROUNDING
        return is_perfect or gain > _NUM_ERRORS * self.error

    def __str__(self) -> str:
        return (
            f"accuracy {percent(self.closed_form)} in closed form, {percent(self.linear)} linear "
            f"(standard error of the difference {percent(self.error)}), on {self.num_images:,} "
            f"{self.images}"
        )


def compare_heads(
    linear: np.ndarray,
    closed_form: np.ndarray,
    rows: LabelledFeatures,
    *,
    kind: str,
    image_of: np.ndarray,
    images: str,
) -> HeadComparison:
    """Compares two heads by their logits for the same rows.

    Args:
        linear: Logits `(n, num_outputs)`; NaN for rows that are left out.
        closed_form: The same of the other head.
        rows: The labels and weights of the rows.
        kind: The kind of head: "softmax", "binary" or "multi_label".
        image_of: The number of each row's image; the rows of one image count as one.
        images: The images in words.
    """
    used = np.flatnonzero(np.isfinite(linear).all(axis=1) & np.isfinite(closed_form).all(axis=1))
    labels = rows.labels[used]
    _, image_of = np.unique(image_of[used], return_inverse=True)
    weights = np.ones(len(used)) if rows.weights is None else rows.weights[used]
    of_image = np.maximum(np.bincount(image_of, weights), 1e-12)
    first, second = (
        np.bincount(image_of, weights * image_accuracies(logits[used], labels, kind, True))
        / of_image
        for logits in (linear, closed_form)
    )
    return HeadComparison(
        linear=mean_with_error(first, of_image)[0],
        closed_form=mean_with_error(second, of_image)[0],
        error=mean_with_error(second - first, of_image)[1],
        num_images=len(of_image),
        images=images,
    )
