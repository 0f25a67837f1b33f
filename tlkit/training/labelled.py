"""Features with the label, group and weight of each row."""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, eq=False)
class LabelledFeatures:
    """Features of images with labels, to solve or evaluate a linear head on.

    Attributes:
        features: One row for each image (or view of it), `(n, num_features)`.
        labels: Integers `(n,)`; or rows of 0/1, `(n, num_labels)`.
        groups: Integers `(n,)`; rows of one group (views or copies of one image, images of one
            patient) are put into the same fold. `None` if each row is a group of its own.
        weights: The weight of each row, `(n,)`; `None` if all have the same.

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
        """The group of each row, `(n,)`; without `groups` each row has its own."""
        return np.arange(len(self)) if self.groups is None else self.groups

    def with_features(self, features: np.ndarray) -> "LabelledFeatures":
        """Returns the same rows with other features, such as a layer's outputs for them."""
        return replace(self, features=features)
