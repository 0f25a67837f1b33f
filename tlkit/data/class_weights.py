"""Weights that make up for classes of different size."""

import numpy as np


def class_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the "balanced" weight of each class: num_images / (num_classes × count).

    Weighted by them, all classes together count as much as before, and each as much as any other.
    A class without a picture weighs 0.

    Args:
        labels: `(num_images,)`, whole numbers from 0 to `num_classes - 1`.
        num_classes: How many classes there are.

    Returns:
        float64, `(num_classes,)`.

    Example:
        >>> import numpy as np
        >>> from tlkit.data.class_weights import class_weights
        >>> class_weights(np.array([0, 0, 0, 1]), 2).round(3).tolist()
        [0.667, 2.0]

    Reference:
        King and Zeng, Logistic Regression in Rare Events Data, 2001, in the form that
        https://scikit-learn.org/stable/modules/generated/sklearn.utils.class_weight.compute_class_weight.html
        gives it.
    """
    counts = np.bincount(labels, minlength=num_classes)
    return np.where(counts > 0, len(labels) / (num_classes * np.maximum(counts, 1)), 0.0)
