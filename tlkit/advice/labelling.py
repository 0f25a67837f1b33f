"""Which images to label next."""

import numpy as np


def rank_to_label(probabilities: np.ndarray) -> np.ndarray:
    """Returns the positions of unlabelled images, those that a label would teach most first.

    They are ranked by their margin: the difference of the two highest probabilities. On flowers a
    choice that also spreads over the features was worse, see `benchmarks/README.md`.

    Args:
        probabilities: By a head solved on the labelled images, `(n, num_classes)`.

    Example:
        >>> import numpy as np
        >>> from tlkit.advice.labelling import rank_to_label
        >>> rank_to_label(np.array([[0.9, 0.1], [0.5, 0.5], [0.3, 0.7]])).tolist()
        [1, 2, 0]

    Reference:
        Margin sampling: Scheffer, Decomain and Wrobel (2001), Active Hidden Markov Models for
        Information Extraction, https://doi.org/10.1007/3-540-44816-0_31.
    """
    highest = np.sort(probabilities, axis=1)[:, -2:]
    order: np.ndarray = np.argsort(highest[:, 1] - highest[:, 0], kind="stable")
    return order
