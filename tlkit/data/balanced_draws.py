"""Epochs in which each class is drawn equally often, in an order that any epoch can start with."""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

_SHUFFLE = 1
"""Folded into an epoch's seed for the order of what was drawn."""


@dataclass(frozen=True, eq=False)
class BalancedDraws:
    """Draws from the images of each class without replacement, as often as it has to be repeated.

    An epoch has as many positions as there are images, and as many of each class, to within one.
    A class with fewer images has each of them several times (as often as all others, to within
    one); a larger one has some of them, and others in the next epoch.

    Attributes:
        positions: The position of an image for each of the drawable copies, class by class.
        copies: Which copy of its image each is, from 0.
        blocks: The number of each copy's block: all images of one class once, in ascending order.
        is_kept: Whether the place, in the order of draws, belongs to the epoch.
    """

    positions: np.ndarray
    copies: np.ndarray
    blocks: np.ndarray
    is_kept: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray) -> "BalancedDraws":
        """Returns the draws for images with the given classes, whole numbers `(n,)`.

        Example:
            >>> import numpy as np
            >>> from tlkit.data.balanced_draws import BalancedDraws
            >>> labels = np.array([0, 0, 0, 0, 0, 1])
            >>> drawn, copies = BalancedDraws.of(labels).epoch(seed=0, number=0)
            >>> np.bincount(labels[drawn.numpy()]).tolist(), sorted(copies.numpy().tolist())
            ([3, 3], [0, 0, 0, 0, 1, 2])
        """
        classes = np.unique(labels)
        wanted, extra = divmod(len(labels), len(classes))
        positions, copies, is_kept = [], [], []
        for number, label in enumerate(classes):
            members = np.flatnonzero(labels == label)
            num_drawn = wanted + (number < extra)
            num_copies = -(-num_drawn // len(members))
            positions.append(np.tile(members, num_copies))
            copies.append(np.repeat(np.arange(num_copies), len(members)))
            is_kept.append(np.arange(num_copies * len(members)) < num_drawn)
        every = np.concatenate(copies)
        first = np.concatenate([np.arange(len(one)) == 0 for one in copies])
        blocks = np.cumsum(first | (np.diff(every, prepend=0) != 0)) - 1
        return cls(np.concatenate(positions), every, blocks, np.concatenate(is_kept))

    def epoch(self, seed: tf.Tensor | int, number: tf.Tensor | int) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the positions in an epoch, and which copy of its image each is, int64 `(n,)`.

        They depend only on the seed and the number of the epoch.
        """
        both = tf.cast(tf.stack([seed, number]), tf.int64)
        # blocks come one after the other, each of them in an order of its own
        places = tf.random.stateless_uniform([len(self.positions)], both, dtype=tf.float64)
        places += tf.constant(self.blocks, tf.float64)
        order = tf.boolean_mask(tf.argsort(places), self.is_kept)
        order = tf.random.experimental.stateless_shuffle(order, tf.random.fold_in(both, _SHUFFLE))
        return (
            tf.gather(tf.constant(self.positions, tf.int64), order),
            tf.gather(tf.constant(self.copies, tf.int64), order),
        )
