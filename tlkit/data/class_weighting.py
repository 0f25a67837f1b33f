"""How the classes of imbalanced images count; importing this module loads no TensorFlow."""

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real

import numpy as np

from tlkit.errors import (
    ArgumentError,
    check_choice,
    check_fraction,
    check_not_negative,
    did_you_mean,
    quoted,
)

NONE, BALANCED, EFFECTIVE, NAMED = "none", "balanced", "effective", "named"
KINDS = (NONE, BALANCED, EFFECTIVE, NAMED)
SHUFFLED = "shuffled"
SAMPLINGS = (SHUFFLED, BALANCED)
CROSS_ENTROPY, FOCAL = "cross-entropy", "focal"
LOSSES = (CROSS_ENTROPY, FOCAL)
DEFAULT_BETA, DEFAULT_GAMMA = 0.999, 2.0

_EFFECTIVE_TEXT = re.compile(r"effective:(?P<beta>[0-9.eE+-]+)")
_FOCAL_TEXT = re.compile(r"focal:(?P<gamma>[0-9.eE+-]+)")
_HOW = (
    "Write class_weight='balanced', 'effective', or the weights of some classes: "
    "'rose=3,tulip=0.5'."
)


@dataclass(frozen=True)
class ClassWeighting:
    """How classes count in training, and in the choice of what is kept.

    With n_c images of class c among n of K classes, the weight of an image of class c is
    n / (K n_c) if "balanced"; proportional to (1 - beta) / (1 - beta^n_c) if "effective", scaled so
    that all weights sum to n; and as given if "named", where classes without a weight have 1.
    "effective" is nearly "balanced" for classes of far fewer than 1 / (1 - beta) images, and gives
    all larger ones the same weight. With several labels per image, each label has two classes, the
    images with it and those without, and a named weight is that of the images with it.

    Epochs can be drawn from the classes instead: with `sampling="balanced"` an epoch has as many
    images as otherwise, but equally many (to within one) of each class, some of them several times.
    A head that is solved uses balanced weights in its place, which have the same expected loss.

    The focal loss multiplies the cross-entropy -log p of a class by (1 - p)^gamma, so that images
    that are already correct count less. Heads that are solved minimise another loss.

    Args:
        kind: "none", "balanced", "effective" or "named".
        weights: With "named": pairs of a class, by name or by number, and its weight above 0.
        beta: With "effective": 0 (no weights) to less than 1 (balanced weights).
        sampling: "shuffled", each image once in an epoch, or "balanced".
        loss: "cross-entropy" or "focal".
        gamma: Exponent of the focal loss, at least 0.

    Raises:
        ArgumentError: A value is invalid, or corrects the imbalance twice: balanced sampling
            together with weights by the number of images.

    Example:
        >>> import tlkit
        >>> weighting = tlkit.ClassWeighting("effective", beta=0.9, loss="focal")
        >>> print(weighting)
        weights by the effective number of images (beta 0.9), focal loss (gamma 2)
        >>> weighting.factors([90, 10]).round(3).tolist()
        [0.949, 1.457]

    Reference:
        Cui et al. (2019), https://arxiv.org/abs/1901.05555, equation 2 and section 4 (there the
        weights sum to K over the classes, not to n over the images); Lin et al. (2017),
        https://arxiv.org/abs/1708.02002, equations 4 and 5 (alpha is the class's weight).
    """

    kind: str = NONE
    weights: tuple[tuple[str | int, float], ...] = ()
    beta: float = DEFAULT_BETA
    sampling: str = SHUFFLED
    loss: str = CROSS_ENTROPY
    gamma: float = DEFAULT_GAMMA

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, KINDS)
        check_choice("sampling", self.sampling, SAMPLINGS)
        check_choice("loss", self.loss, LOSSES)
        check_fraction("beta", self.beta, DEFAULT_BETA)
        check_not_negative("gamma", self.gamma)
        object.__setattr__(self, "weights", tuple(_checked_weights(self.weights)))
        if (self.kind == NAMED) != bool(self.weights):
            raise ArgumentError(
                "`class_weight` must name classes if, and only if, its kind is 'named'. Received: "
                f"kind={self.kind!r} and weights of {len(self.weights)} classes. {_HOW}"
            )
        if self.sampling == BALANCED and self.kind in (BALANCED, EFFECTIVE):
            raise ArgumentError(
                "`class_weight` must be left out, or name classes, with sampling='balanced', which "
                f"already gives all classes the same number of images. Received: {self.kind!r}. "
                "Use one of the two."
            )

    def __str__(self) -> str:
        parts = []
        if self.kind == BALANCED:
            parts.append("balanced weights")
        elif self.kind == EFFECTIVE:
            parts.append(f"weights by the effective number of images (beta {self.beta:g})")
        elif self.kind == NAMED:
            shown = ", ".join(f"{name} {weight:g}" for name, weight in self.weights)
            parts.append(f"weights as given ({shown}; others 1)")
        if self.sampling == BALANCED:
            parts.append("each class drawn equally often")
        if self.is_focal:
            parts.append(f"focal loss (gamma {self.gamma:g})")
        return ", ".join(parts) or "all images count the same"

    @property
    def is_plain(self) -> bool:
        """Whether no class counts more than by its number of images."""
        return self.kind == NONE and self.sampling == SHUFFLED

    @property
    def is_balanced(self) -> bool:
        """Whether all classes have the same total weight."""
        return self.kind == BALANCED or (self.kind == NONE and self.sampling == BALANCED)

    @property
    def is_focal(self) -> bool:
        """Whether the focal loss is minimised in place of the cross-entropy."""
        return self.loss == FOCAL

    @property
    def criterion(self) -> str:
        """The name of the accuracy that decides."""
        if self.is_plain:
            return "accuracy"
        return "balanced accuracy" if self.is_balanced else "weighted accuracy"

    def for_classes(
        self, class_names: Sequence[str], *, only_known: bool = False
    ) -> "ClassWeighting":
        """Returns the weighting with numbers in place of names, by the order of the classes.

        Args:
            class_names: The classes or labels.
            only_known: Whether weights of other classes are left out, as after they were removed.

        Raises:
            ArgumentError: A name is not among the classes.
        """
        numbers = {name: number for number, name in enumerate(class_names)}
        weights = []
        for name, weight in self.weights:
            number = numbers.get(name) if isinstance(name, str) else name
            if number is None or number >= len(class_names):
                if only_known:
                    continue
                raise ArgumentError(
                    "`class_weight` must name classes of the images. Received: "
                    f"{name!r}, and the classes are {quoted(class_names)}."
                    f"{did_you_mean(name, class_names)} Name one of them."
                )
            weights.append((number, weight))
        if self.kind == NAMED and not weights:
            return replace(self, kind=NONE, weights=())
        return replace(self, weights=tuple(weights))

    def with_names(self, class_names: Sequence[str]) -> "ClassWeighting":
        """Returns the weighting with names in place of numbers."""
        weights = [
            (one if isinstance(one, str) else class_names[one], weight)
            for one, weight in self.weights
        ]
        return replace(self, weights=tuple(weights))

    def in_loss(self) -> "ClassWeighting":
        """Returns the weights of the loss in training: the order of images may do the rest."""
        return replace(self, sampling=SHUFFLED)

    def for_solving(self) -> "ClassWeighting":
        """Returns the weighting of a head that is solved, which has no focal loss."""
        return replace(self, loss=CROSS_ENTROPY, gamma=DEFAULT_GAMMA)

    def of_label(self, number: int) -> "ClassWeighting":
        """Returns the weighting of the two classes of a label: 0 without it, 1 with it."""
        if self.kind != NAMED:
            return self
        weight = dict(self.weights).get(number, 1.0)
        return replace(self, weights=((1, weight),))

    def factors(self, counts: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns the weight of an image of each class, float64 `(num_classes,)`; 0 without images.

        Args:
            counts: Number of images of each class.
        """
        return self._factors(np.asarray(counts), np.arange(len(counts)))

    def label_factors(self, labels: np.ndarray) -> np.ndarray:
        """Returns the weights of images without and with each label, `(num_labels, 2)`.

        Args:
            labels: Rows of 0/1, `(n, num_labels)`.
        """
        present = labels.astype(bool).sum(axis=0)
        counts = np.stack([len(labels) - present, present], axis=1)
        return np.stack([self.of_label(i).factors(counts[i]) for i in range(len(counts))])

    def decision_weights(self, labels: np.ndarray) -> np.ndarray:
        """Returns the weight of each decision among some images, in the shape of their labels.

        Args:
            labels: Whole numbers `(n,)`, of which only those that occur count as classes; or rows
                of 0/1, `(n, num_labels)`.
        """
        if labels.ndim == 2:
            factors = self.label_factors(labels)
            return np.where(labels.astype(bool), factors[:, 1], factors[:, 0])
        classes, positions, counts = np.unique(labels, return_inverse=True, return_counts=True)
        return self._factors(counts, classes)[positions]

    def _factors(self, counts: np.ndarray, classes: np.ndarray) -> np.ndarray:
        factors = np.ones(len(counts))
        if self.kind == EFFECTIVE:
            factors = (1 - self.beta) / (1 - np.power(self.beta, np.maximum(counts, 1.0)))
            factors = factors * (counts.sum() / (factors * counts).sum())
        elif BALANCED in (self.kind, self.sampling):
            factors = balanced_factors(counts)
        named = dict(self.weights)
        factors = (
            factors * [named.get(int(number), 1.0) for number in classes] if named else factors
        )
        return np.where(counts > 0, factors, 0.0)

    def identity(self) -> object:
        """Returns a plain value that identifies the weighting; as earlier versions wrote it."""
        if self == ClassWeighting():
            return None
        if self == ClassWeighting(BALANCED):
            return BALANCED
        return {**vars(self), "weights": [list(pair) for pair in self.weights]}

    def texts(self) -> tuple[str | None, str | None, str | None]:
        """Returns `class_weight`, `sampling` and `loss` as `weighting_of` reads them."""
        kind: str | None = self.kind
        if self.kind == NONE:
            kind = None
        elif self.kind == EFFECTIVE and self.beta != DEFAULT_BETA:
            kind = f"{EFFECTIVE}:{self.beta!r}"
        elif self.kind == NAMED:
            written = io.StringIO()
            pairs = [f"{name}={weight!r}" for name, weight in self.weights]
            csv.writer(written, lineterminator="").writerow(pairs)
            kind = written.getvalue()
        loss = None
        if self.is_focal:
            loss = FOCAL if self.gamma == DEFAULT_GAMMA else f"{FOCAL}:{self.gamma!r}"
        return kind, None if self.sampling == SHUFFLED else self.sampling, loss


ClassWeightLike = ClassWeighting | Mapping[str, float] | Mapping[int, float] | str | None
"""What an argument `class_weight` may be, see `weighting_of`."""


def balanced_factors(counts: np.ndarray) -> np.ndarray:
    """Returns n / (num_classes × count) for each class; 0 without images."""
    balanced = counts.sum() / (len(counts) * np.maximum(counts, 1))
    return np.asarray(np.where(counts > 0, balanced, 0.0))


def weighting_of(
    class_weight: ClassWeightLike,
    *,
    sampling: str | None = None,
    loss: str | None = None,
) -> ClassWeighting:
    """Returns the weighting that the arguments `class_weight`, `sampling` and `loss` stand for.

    Args:
        class_weight: A `ClassWeighting`; "balanced"; "effective" or "effective:BETA"; weights by
            class, as a mapping or as a text "NAME=W,..." with names that contain commas or equal
            signs in double quotes; or `None`.
        sampling: "shuffled" or "balanced"; `None` for that of `class_weight`.
        loss: "cross-entropy", "focal" or "focal:GAMMA"; `None` for that of `class_weight`.

    Raises:
        ArgumentError: One of them is none of these.

    Example:
        >>> from tlkit.data.class_weighting import weighting_of
        >>> print(weighting_of("rose=3,tulip=0.5", loss="focal:1"))
        weights as given (rose 3, tulip 0.5; others 1), focal loss (gamma 1)
    """
    weighting = class_weight
    if not isinstance(weighting, ClassWeighting):
        weighting = _weights_of(class_weight)
    if sampling is not None:
        check_choice("sampling", sampling, SAMPLINGS)
        weighting = replace(weighting, sampling=sampling)
    if loss is None:
        return weighting
    found = _FOCAL_TEXT.fullmatch(loss) if isinstance(loss, str) else None
    if found is None:
        if loss not in LOSSES:
            raise ArgumentError(
                "`loss` must be 'cross-entropy', 'focal' or 'focal:GAMMA'; for fine_tune also a "
                f"keras.losses.Loss. Received: loss={loss!r}.{did_you_mean(loss, LOSSES)} Give one "
                "of them."
            )
        return replace(weighting, loss=loss)
    return replace(weighting, loss=FOCAL, gamma=_number("loss", loss, found["gamma"]))


def check_weighting(
    weighting: ClassWeighting, class_names: Sequence[str] | None, *, is_multi_label: bool
) -> ClassWeighting:
    """Returns the weighting by numbers of classes.

    Args:
        weighting: The weighting.
        class_names: The classes; `None` if the images do not have names.
        is_multi_label: Whether an image may have several labels.

    Raises:
        ArgumentError: A name is not a class, or the weighting is not possible.
    """
    if is_multi_label and weighting.sampling == BALANCED:
        raise ArgumentError(
            "`sampling` must be 'shuffled' with several labels per image, which cannot be drawn "
            "one by one. Received: sampling='balanced'. Use class_weight='balanced'."
        )
    if class_names is not None:
        return weighting.for_classes(class_names)
    if names := [name for name, _ in weighting.weights if isinstance(name, str)]:
        raise ArgumentError(
            "`class_weight` must have numbers of classes as keys for images without names of "
            f"classes, such as a tf.data.Dataset. Received: {quoted(names)}. Write for example "
            "class_weight={0: 1.0, 1: 3.0}."
        )
    return weighting


def _weights_of(value: object) -> ClassWeighting:
    if value is None:
        return ClassWeighting()
    if isinstance(value, Mapping):
        return ClassWeighting(NAMED, tuple(value.items()))
    if value in (BALANCED, EFFECTIVE):
        return ClassWeighting(str(value))
    if isinstance(value, str):
        if found := _EFFECTIVE_TEXT.fullmatch(value):
            beta = _number("class_weight", value, found["beta"])
            return ClassWeighting(EFFECTIVE, beta=beta)
        if "=" in value:
            return ClassWeighting(NAMED, tuple(_pairs(value)))
    raise ArgumentError(
        "`class_weight` must be 'balanced', 'effective', 'effective:BETA', weights of classes "
        f"such as 'rose=3,tulip=0.5', or left out. Received: class_weight={value!r}. {_HOW}"
    )


def _pairs(text: str) -> list[tuple[str | int, float]]:
    """Reads NAME=W,...; a part with a comma in its name is in double quotes."""
    pairs: list[tuple[str | int, float]] = []
    for part in next(csv.reader([text], skipinitialspace=True)):
        name, _, weight = part.rpartition("=")
        if not name:
            raise ArgumentError(
                "`class_weight` must be a list of NAME=WEIGHT with commas. "
                f"Received: {part!r} in class_weight={text!r}. {_HOW}"
            )
        pairs.append((name.strip(), _number("class_weight", text, weight)))
    return pairs


def _number(argument: str, text: str, number: str) -> float:
    try:
        return float(number)
    except ValueError:
        raise ArgumentError(
            f"`{argument}` must have numbers as weights and parameters. Received: {number!r} in "
            f"{argument}={text!r}. Write 2 or 0.5, for example."
        ) from None


def _checked_weights(pairs: object) -> list[tuple[str | int, float]]:
    checked: dict[str | int, float] = {}
    for name, weight in pairs if isinstance(pairs, Sequence) else ():
        is_number = isinstance(weight, Real) and not isinstance(weight, bool)
        if not is_number or not math.isfinite(weight) or weight <= 0:
            raise ArgumentError(
                "`class_weight` must have finite weights above 0. "
                f"Received: {weight!r} for {name!r}. {_HOW}"
            )
        is_class = isinstance(name, str) or (isinstance(name, Integral) and int(name) >= 0)
        if not is_class or isinstance(name, bool):
            raise ArgumentError(
                "`class_weight` must have names or numbers of classes as keys. "
                f"Received: {name!r}. {_HOW}"
            )
        if name in checked:
            raise ArgumentError(
                f"`class_weight` must name each class once. Received: {name!r} twice. {_HOW}"
            )
        checked[name if isinstance(name, str) else int(name)] = float(weight)
    return list(checked.items())
