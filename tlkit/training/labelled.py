"""Features with what is known of each of their rows."""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, eq=False)
class LabelledFeatures:
    """Features of images, and what a linear head is solved or measured by.

    Attributes:
        features: One row an image (or a view of it), `(n, num_features)`.
        labels: Whole numbers `(n,)`; or rows of 0/1, `(n, num_labels)`.
        groups: Whole numbers `(n,)`; rows of one group (views or copies of one image, images of
            one patient) come into one fold. `None` where each row stands alone.
        weights: How much each row counts, `(n,)`; `None` where all count the same.

    Example:
        >>> import numpy as np
        >>> from tlkit.training.labelled import LabelledFeatures
        >>> rows = LabelledFeatures(np.eye(4), np.array([0, 1, 0, 1]))
        >>> rows[np.array([1, 3])].labels, rows.own_groups
        (array([1, 1]), array([0, 1, 2, 3]))
    """

    features: np.ndarray
    labels: np.ndarray
    groups: np.ndarray | None = None
    weights: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: np.ndarray) -> "LabelledFeatures":
        return LabelledFeatures(
            self.features[rows],
            self.labels[rows],
            None if self.groups is None else self.groups[rows],
            None if self.weights is None else self.weights[rows],
        )

    @property
    def own_groups(self) -> np.ndarray:
        """The group of each row, `(n,)`: a number of its own where it stands alone."""
        return np.arange(len(self)) if self.groups is None else self.groups

    def seen_as(self, features: np.ndarray) -> "LabelledFeatures":
        """Returns the same rows with other features, such as what a layer makes of them."""
        return replace(self, features=features)
