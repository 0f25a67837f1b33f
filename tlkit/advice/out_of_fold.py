"""Probabilities of images by heads on stored features that were not solved on these images."""

from dataclasses import dataclass

import numpy as np

from tlkit.errors import DataError
from tlkit.training.closed_form import MAX_FEATURES
from tlkit.training.head_forms import CLOSED_FORM, LINEAR
from tlkit.training.head_solution import HeadProblem, HeadSolution, solve_on_features
from tlkit.training.labelled import LabelledFeatures
from tlkit.training.linear import folds_of
from tlkit.utils.progress import bar

NUM_DRAWS = 3
"""Number of divisions into folds, over which probabilities are averaged; see
benchmarks/README.md."""

MAX_FOR_DRAWS = 5000
"""With more images there is one division."""


@dataclass(frozen=True, eq=False)
class ClassHead:
    """A head that was solved on features.

    Attributes:
        solution: The head; its outputs are logits of `classes`.
        classes: The labels of its outputs.
        num_classes: Number of all classes.
    """

    solution: HeadSolution
    classes: np.ndarray
    num_classes: int

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Returns the probabilities of images with the given features, `(n, num_classes)`."""
        logits = self.solution.logits(features).astype(np.float64)
        values = np.exp(logits - logits.max(axis=1, keepdims=True))
        result = np.zeros((len(features), self.num_classes))
        result[:, self.classes] = values / values.sum(axis=1, keepdims=True)
        return result


def solve_class_head(rows: LabelledFeatures, num_classes: int, *, seed: int = 0) -> ClassHead:
    """Solves a head in closed form, or a linear one on more than `MAX_FEATURES` features.

    Args:
        rows: Features `(n, num_features)` and labels, `(n,)`, of at least two classes; they are not
            modified.
        num_classes: Number of classes; some may have no rows.
        seed: Seed of folds and landmarks.

    Example:
        >>> import numpy as np
        >>> from tlkit.advice.out_of_fold import solve_class_head
        >>> from tlkit.training.labelled import LabelledFeatures
        >>> labels = np.arange(40) % 2
        >>> features = np.random.default_rng(0).normal(size=(40, 5)) + 9 * labels[:, np.newaxis]
        >>> head = solve_class_head(LabelledFeatures(features.astype("float32"), labels), 3)
        >>> head.probabilities(features[:2].astype("float32")).round().tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """
    classes, positions = np.unique(rows.labels, return_inverse=True)
    form = CLOSED_FORM if rows.features.shape[1] <= MAX_FEATURES else LINEAR
    # a linear solution standardises the features in place
    features = rows.features if form == CLOSED_FORM else rows.features.copy()
    problem = HeadProblem(
        LabelledFeatures(features, positions, rows.groups),
        rows.own_groups,
        "softmax",
        len(classes),
        form,
        seed=seed,
    )
    return ClassHead(solve_on_features(problem), classes, num_classes)


def out_of_fold_probabilities(
    rows: LabelledFeatures, num_classes: int, *, seed: int = 0
) -> np.ndarray:
    """Returns the probabilities of each image by heads that were not solved on it or its group.

    The images are divided into five folds, or as many as the smallest class has groups, and each
    fold is predicted by a head solved on the others; all choices about that head are made on these,
    too. With at most `MAX_FOR_DRAWS` images, probabilities are the mean over `NUM_DRAWS` divisions.

    Args:
        rows: Features `(n, num_features)`, labels `(n,)` and groups.
        num_classes: Number of classes; some may have no rows.
        seed: Seed of folds and landmarks.

    Returns:
        `(n, num_classes)`; NaN for images in no fold, see `tlkit.training.linear.folds_of`.

    Raises:
        DataError: There are fewer than two classes, or a class has fewer than two groups.

    Example:
        >>> import numpy as np
        >>> from tlkit.advice.out_of_fold import out_of_fold_probabilities
        >>> from tlkit.training.labelled import LabelledFeatures
        >>> labels = np.arange(40) % 2
        >>> features = np.random.default_rng(0).normal(size=(40, 5)) + 9 * labels[:, np.newaxis]
        >>> rows = LabelledFeatures(features.astype("float32"), labels)
        >>> out_of_fold_probabilities(rows, 2).argmax(axis=1)[:4].tolist()
        [0, 1, 0, 1]
    """
    num_draws = NUM_DRAWS if len(rows) <= MAX_FOR_DRAWS else 1
    is_enough = len(np.unique(rows.labels)) > 1
    draws = [folds_of(rows, seed + draw) for draw in range(num_draws)] if is_enough else [[]]
    if not all(draws):
        raise DataError(
            "`photos` must contain at least two classes with two different images each (of "
            "different groups, if there are any) to predict each image from the others. Received: "
            f"{len(rows)} images. Add images, or remove classes with a single one."
        )
    total = np.zeros((len(rows), num_classes))
    counts = np.zeros((len(rows), 1))
    with bar("predicting each fold from the others", sum(map(len, draws)), "folds") as advance:
        for draw, folds in enumerate(draws):
            for train, test in folds:
                head = solve_class_head(rows[train], num_classes, seed=seed + draw)
                total[test] += head.probabilities(rows.features[test])
                counts[test] += 1
                advance(1)
    return np.where(counts > 0, total / np.maximum(counts, 1), np.nan)
