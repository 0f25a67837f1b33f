"""Interpolation between the weights of two models, to keep both tasks without training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from tlkit.continual.forgetting import CLASS_INCREMENTAL, DOMAIN_INCREMENTAL
from tlkit.data.images import ImageSplit
from tlkit.errors import ArgumentError, check_unit
from tlkit.evaluation.data_checks import check_images
from tlkit.evaluation.metrics import evaluate
from tlkit.models.graph import check_model
from tlkit.models.variable_names import variable_names
from tlkit.models.vocabularies import with_same_vocabularies
from tlkit.utils.formatting import percent
from tlkit.utils.text_repr import ShownAsText

DEFAULT_ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_NUM_LISTED = 5


@dataclass(frozen=True)
class InterpolationReport(ShownAsText):
    """Accuracies of the models between two.

    Attributes:
        alphas: Fractions of the new model, 0...1.
        accuracies: For each named split the accuracy at each alpha, 0...1.
        num_images: For each split its number of images.
        scenario: How the tasks relate, see `ForgettingMatrix`: class-incremental if the splits
            have different classes, because all outputs are considered.
    """

    alphas: tuple[float, ...]
    accuracies: dict[str, tuple[float, ...]]
    num_images: dict[str, int]
    scenario: str

    @property
    def best_alpha(self) -> float:
        """The alpha with the highest mean accuracy over the splits; the smallest among ties."""
        means = np.mean(list(self.accuracies.values()), axis=0)
        return self.alphas[int(means.argmax())]

    def __str__(self) -> str:
        names = [f"{name} ({self.num_images[name]})" for name in self.accuracies]
        lines = ["alpha  " + "  ".join(names)]
        for i, alpha in enumerate(self.alphas):
            row = [
                percent(values[i]).rjust(len(name))
                for name, values in zip(names, self.accuracies.values(), strict=True)
            ]
            lines.append(f"{alpha:5.2f}  " + "  ".join(row))
        best = f"best mean accuracy at alpha={self.best_alpha:g} ({self.scenario})"
        return "\n".join([*lines, best])


def interpolate_weights(old: keras.Model, new: keras.Model, alpha: float) -> keras.Model:
    """Returns a model of the same graph with the weights (1 - alpha) * old + alpha * new.

    Between a model and its version fine-tuned in small steps there is often a model that is almost
    as accurate as each on its task. Moving averages of batch normalisation are interpolated too.

    Args:
        old: A model; not changed.
        new: A model with weights of the same names and shapes; not changed.
        alpha: Fraction of the new model, 0...1.

    Raises:
        ArgumentError: `alpha` is out of range, or the weights do not correspond.

    Example:
        >>> import numpy as np, tlkit
        >>> old, new = (
        ...     tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None, seed=i)
        ...     for i in (0, 1)
        ... )
        >>> half = tlkit.interpolate_weights(old, new, 0.5)
        >>> kernels = [model.get_layer("logits").kernel.numpy() for model in (old, new, half)]
        >>> bool(np.allclose((kernels[0] + kernels[1]) / 2, kernels[2]))
        True

    Reference:
        Wortsman et al. (2022), https://arxiv.org/abs/2109.01903, equation 1.
    """
    check_unit("alpha", alpha)
    ends = _same_weights(old, new)
    between = with_same_vocabularies(new)
    _set_between(between, *ends, alpha)
    return between


def sweep_interpolation(
    old: keras.Model,
    new: keras.Model,
    splits: Mapping[str, ImageSplit],
    *,
    alphas: Sequence[float] = DEFAULT_ALPHAS,
) -> InterpolationReport:
    """Evaluates the models between two on several sets of images, without training.

    Args:
        old: A model.
        new: The model after further training.
        splits: From names, such as "old" and "new", to images. The accuracy that alpha was chosen
            by is optimistically biased: report it on other images.
        alphas: Fractions of the new model.

    Raises:
        ArgumentError: An alpha is out of range, there is none, the weights do not correspond, or
            images do not fit the models.
        DataError: The models do not have a label.

    Example:
        >>> import numpy as np, tlkit
        >>> images = np.random.default_rng(0).integers(0, 255, (20, 32, 32, 3), "uint8")
        >>> data = tlkit.load_arrays(images, np.arange(20) % 2, ["even", "odd"])
        >>> model = tlkit.build_classifier("resnet20", data.class_names, weights=None)
        >>> tlkit.sweep_interpolation(model, model, {"train": data.train}, alphas=[0, 1]).alphas
        (0.0, 1.0)
    """
    if not len(alphas) or not splits:
        raise ArgumentError(
            "`alphas` and `splits` must not be empty. "
            f"Received: alphas={list(alphas)}, splits={list(splits)}. Give at least one of each."
        )
    for alpha in alphas:
        check_unit("alphas", alpha)
    ends = _same_weights(old, new)
    for name, split in splits.items():
        check_images(f"splits[{name!r}]", split, new)
    between = with_same_vocabularies(new)
    accuracies: dict[str, list[float]] = {name: [] for name in splits}
    for alpha in alphas:
        _set_between(between, *ends, alpha)
        for name, split in splits.items():
            accuracies[name].append(evaluate(between, split).accuracy)
    return InterpolationReport(
        alphas=tuple(float(alpha) for alpha in alphas),
        accuracies={name: tuple(values) for name, values in accuracies.items()},
        num_images={name: split.num_images for name, split in splits.items()},
        scenario=_scenario_of(splits),
    )


def _scenario_of(splits: Mapping[str, ImageSplit]) -> str:
    classes = {frozenset(np.unique(split.labels).tolist()) for split in splits.values()}
    return DOMAIN_INCREMENTAL if len(classes) == 1 else CLASS_INCREMENTAL


def _set_between(
    model: keras.Model, old: list[np.ndarray], new: list[np.ndarray], alpha: float
) -> None:
    model.set_weights([_between(a, b, alpha) for a, b in zip(old, new, strict=True)])


def _between(old: np.ndarray, new: np.ndarray, alpha: float) -> np.ndarray:
    if alpha in (0, 1) or not np.issubdtype(old.dtype, np.floating):
        return new if alpha == 1 else old
    return ((1 - alpha) * old.astype(np.float64) + alpha * new.astype(np.float64)).astype(old.dtype)


def _same_weights(old: keras.Model, new: keras.Model) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns the values of both models' weights, in the same order by name.

    Raises:
        ArgumentError: The weights do not correspond.
    """
    for name, model in (("old", old), ("new", new)):
        check_model(name, model)
    here, there = _weights_by_name(old), _weights_by_name(new)
    differing = [
        f"{name} {_shape(here.get(name))} and {_shape(there.get(name))}"
        for name in {**here, **there}
        if _shape(here.get(name)) != _shape(there.get(name))
    ]
    if differing:
        more = f" and {len(differing) - _NUM_LISTED} more" if len(differing) > _NUM_LISTED else ""
        raise ArgumentError(
            "`old` and `new` must have weights of the same names and shapes. Received: "
            f"{'; '.join(differing[:_NUM_LISTED])}{more}. Interpolate between a model and a "
            "fine-tuned copy of it."
        )
    return [here[name].numpy() for name in there], [there[name].numpy() for name in there]


def _weights_by_name(model: keras.Model) -> dict[str, keras.Variable]:
    names = variable_names(model)
    return {names[id(weight)]: weight for weight in model.weights}


def _shape(weight: keras.Variable | None) -> str:
    return "missing" if weight is None else str(tuple(weight.shape))
