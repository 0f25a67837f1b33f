"""Importance: how much each weight matters to a model's outputs."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tlkit.continual.anchors import anchorable
from tlkit.continual.methods import METHODS
from tlkit.continual.per_sample import Scalars, sum_over_samples
from tlkit.continual.synaptic import SynapticPath
from tlkit.data.images import ImageData, ImageSplit
from tlkit.data.missing_files import missing_files_named
from tlkit.distribution.strategies import check_one_device
from tlkit.errors import ArgumentError, check_choice, check_count, check_seed, check_unit
from tlkit.evaluation.data_checks import Images, Labels, check_images
from tlkit.models.heads import head_kind, outputs_logits
from tlkit.models.variable_names import variable_names
from tlkit.training.objective import targets_of
from tlkit.utils.text_repr import ShownAsText

DEFAULT_NUM_SAMPLES = 500
_SMALLEST = 1e-7


@dataclass(frozen=True, eq=False)
class Importance(ShownAsText, Mapping[str, np.ndarray]):
    """The importance of every weight: a mapping from a variable's path to an array of its shape.

    If layers of several nested models have the same paths, the names of those models are prefixed
    (`left/conv/kernel`), see `tlkit.models.variable_names`.

    Attributes:
        values_by_path: The arrays, float32, 0 or more.
        method: The method of estimation.
        num_samples: Number of samples; for "synaptic" the number of steps.
        notes: Notes on what was substituted.
    """

    values_by_path: dict[str, np.ndarray] = field(repr=False)
    method: str
    num_samples: int
    notes: tuple[str, ...] = ()

    def __getitem__(self, path: str) -> np.ndarray:
        return self.values_by_path[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_by_path)

    def __len__(self) -> int:
        return len(self.values_by_path)

    def __str__(self) -> str:
        total = sum(float(array.sum(dtype=np.float64)) for array in self.values())
        count = sum(array.size for array in self.values())
        lines = [
            f"{self.method} importance of {count:,} values in {len(self)} weights from "
            f"{self.num_samples:,} samples, mean {total / max(count, 1):.3g}"
        ]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def estimate_importance(
    model: keras.Model,
    dataset: ImageData | ImageSplit | tf.data.Dataset | SynapticPath,
    *,
    method: str = "fisher",
    num_samples: int = DEFAULT_NUM_SAMPLES,
    seed: int = 0,
) -> Importance:
    """Estimates how much each weight matters to a model's outputs on some data.

    Gradients are computed per sample in inference mode, and their squares or absolute values are
    averaged over samples; a mean gradient is never squared.

    With `TF_DETERMINISTIC_OPS=1` the result is bit-identical in every process with the same number
    of threads per operation (`TF_NUM_INTRAOP_THREADS`; by default the number of processors of the
    process). Another number divides sums differently, which changes the last digits if samples of
    convolutions are processed one by one.

    Args:
        model: A functional classifier; not changed.
        dataset: The data it was trained on: the result of `load_folder` (its training split is
            used), a split, or batches of images and labels. For "synaptic" the `SynapticPath` that
            was passed to `fine_tune`.
        method: For each weight w, with p(y) the model's own prediction for an image:
            "fisher": the exact expectation of (d log p(y) / dw)**2 over y, with one backward
            pass per class. "fisher_sampled": the same with one y sampled for each image.
            "empirical_fisher": the same with the label as y. "mas": the mean of
            |d (sum of squared outputs) / dw|. "synaptic": see `SynapticPath`.
        num_samples: Maximum number of images, drawn at random; the first ones of a
            `tf.data.Dataset`, which should be shuffled.
        seed: Seed of the choice of images and of the sampled labels.

    Returns:
        A mapping from the path of each weight that can be trainable to its importance, for
        `anchor_weights`.

    Raises:
        ArgumentError: The method does not exist, or the data do not fit the model's inputs or
            lack the labels that the method needs.
        DataError: There is no image, or the model does not have a label.

    Example:
        >>> import numpy as np, tlkit
        >>> images = np.random.default_rng(0).integers(0, 255, (20, 32, 32, 3), "uint8")
        >>> data = tlkit.load_arrays(images, np.arange(20) % 2, ["even", "odd"])
        >>> model = tlkit.build_classifier("resnet20", data.class_names, weights=None)
        >>> importance = tlkit.estimate_importance(model, data, method="mas", num_samples=4)
        >>> importance["logits/kernel"].shape == model.get_layer("logits").kernel.shape
        True

    Reference:
        Fisher: Kirkpatrick et al. (2017), https://arxiv.org/abs/1612.00796; exact, sampled and
        empirical: Kunstner et al. (2019), https://arxiv.org/abs/1905.12558, section 3. Memory
        aware synapses: Aljundi et al. (2018), https://arxiv.org/abs/1711.09601, equation 3, on the
        squared norm of the outputs, before softmax if the model returns logits.
    """
    check_choice("method", method, METHODS)
    check_count("num_samples", num_samples)
    check_seed(seed)
    check_one_device(model, "estimate_importance")
    if method == "synaptic" or isinstance(dataset, SynapticPath):
        return _synaptic(dataset, method)
    variables = [v for some in anchorable(model, "all").values() for v in some]
    labels: Labels = "soft" if method == "empirical_fisher" else "any"
    images = dataset.train if isinstance(dataset, ImageData) else dataset
    images = check_images("dataset", images, model, labels=labels)
    samples = _samples(model, images, method, num_samples, seed)
    scalars, measure, num_scalars = _scalars_and_measure(model, method)
    with missing_files_named([images]):
        sums = sum_over_samples(
            model, variables, samples, scalars, measure, num_scalars=num_scalars
        )
    if not sums.num_samples:
        raise ArgumentError(
            "`dataset` must contain at least one image. Received: none. Give the images that the "
            "model was trained on."
        )
    names = variable_names(model)
    notes: tuple[str, ...] = ()
    if sums.not_vectorized:
        notes = (f"samples processed one by one in a compiled loop: {sums.not_vectorized}",)
    return Importance(
        {
            names[id(variable)]: (total / sums.num_samples).numpy()
            for variable, total in zip(variables, sums.totals, strict=True)
        },
        method=method,
        num_samples=sums.num_samples,
        notes=notes,
    )


def accumulate_importance(
    old: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray], decay: float = 1.0
) -> Importance:
    """Returns decay * old + new: the accumulated importance of several tasks.

    Weights that one of them lacks, such as those of classes added later, count as 0 in it.

    Args:
        old: The importance of all previous tasks.
        new: The importance of the last task.
        decay: From 0, which drops the previous tasks, to 1.

    Raises:
        ArgumentError: `decay` is out of range, the shapes of a weight differ, or a value is
            negative or not finite.

    Example:
        >>> import numpy as np
        >>> from tlkit.continual.importance import accumulate_importance
        >>> accumulate_importance({"w": np.ones(1)}, {"w": np.ones(1)}, decay=0.5)["w"]
        array([1.5], dtype=float32)

    Reference:
        Online EWC: Schwarz et al. (2018), https://arxiv.org/abs/1805.06370, equation 9.
    """
    check_unit("decay", decay)
    differing = [
        f"{p} {old[p].shape}, {new[p].shape}"
        for p in old
        if p in new and old[p].shape != new[p].shape
    ]
    if differing:
        raise ArgumentError(
            "`old` and `new` must be importances of the same model. Received: different shapes for "
            f"{'; '.join(differing)}. Estimate both on the same network."
        )
    values = {
        path: np.asarray(array, np.float32) * np.float32(decay) for path, array in old.items()
    }
    for path, array in new.items():
        values[path] = values.get(path, np.float32(0)) + np.asarray(array, np.float32)
    wrong = [path for path, array in values.items() if not np.all((array >= 0) & (array < np.inf))]
    if wrong:
        raise ArgumentError(
            "`old` and `new` must be finite and at least 0 everywhere. Received: invalid values "
            f"for {', '.join(wrong)}. Estimate them again (tlkit.estimate_importance)."
        )
    methods = dict.fromkeys(getattr(one, "method", "given") for one in (old, new))
    return Importance(
        values,
        method=" and ".join(methods),
        num_samples=sum(getattr(one, "num_samples", 0) for one in (old, new)),
        notes=tuple(dict.fromkeys(n for one in (old, new) for n in getattr(one, "notes", ()))),
    )


def normalize_importance(
    importance: Mapping[str, np.ndarray], paths: list[str]
) -> dict[str, np.ndarray]:
    """Scales importance so that its mean over all values of the weights at `paths` is 1.

    Strengths are then comparable between methods: with equal importance of all weights, the
    strength is that of the plain anchor.

    Raises:
        ArgumentError: The importance is zero everywhere.
    """
    total = sum(float(importance[path].sum(dtype=np.float64)) for path in paths)
    count = sum(importance[path].size for path in paths)
    if total <= 0:
        raise ArgumentError(
            "`importance` must be above zero for some anchored weight. Received: zero for all "
            f"{len(paths)} weights. Estimate it on images that the model classifies with less "
            "confidence, or leave it out."
        )
    return {path: importance[path] * np.float32(count / total) for path in paths}


def _synaptic(path: Any, method: str) -> Importance:
    if method != "synaptic" or not isinstance(path, SynapticPath):
        raise ArgumentError(
            "`dataset` must be a SynapticPath with method='synaptic', and only with it, as it is "
            f"recorded during training. Received: {type(path).__name__} with method={method!r}. "
            "Call path = tlkit.SynapticPath(model), fine_tune(model, data, anchor=path), then "
            "estimate_importance(model, path, method='synaptic')."
        )
    return Importance(path.importance(), method=method, num_samples=path.num_steps)


def _samples(
    model: keras.Model, dataset: Images, method: str, num_samples: int, seed: int
) -> tf.data.Dataset:
    """Returns single images, paired with the labels or random numbers that the method needs."""
    if isinstance(dataset, ImageSplit):
        order = np.random.default_rng(seed).permutation(dataset.num_images)[:num_samples]
        dataset = dataset.subset(np.sort(order)).dataset(shuffle=False)
    plain = tf.autograph.experimental.do_not_convert
    labelled = isinstance(dataset.element_spec, tuple) and len(dataset.element_spec) > 1
    if method == "empirical_fisher":
        return (
            dataset.map(plain(lambda images, labels, *_: (images, targets_of(labels, model))))
            .unbatch()
            .take(num_samples)
        )
    images = dataset.map(plain(lambda images, *_: images)) if labelled else dataset
    width = model.output_shape[-1]
    draws = np.random.default_rng(seed).random((num_samples, width), np.float32)
    return tf.data.Dataset.zip(
        images.unbatch().take(num_samples), tf.data.Dataset.from_tensor_slices(draws)
    )


def _scalars_and_measure(
    model: keras.Model, method: str
) -> tuple[Scalars, Callable[[tf.Tensor], tf.Tensor], int]:
    """Returns the scalars to differentiate, the measure of the gradients, and their number."""
    width = model.output_shape[-1]
    kind = head_kind(model)
    if method == "mas":
        return lambda outputs, _: (tf.reduce_sum(outputs**2)[None], tf.ones(1)), tf.abs, 1
    logs = _log_probabilities(kind, from_logits=outputs_logits(model))
    if method == "fisher":
        num_scalars = width if kind == "softmax" else 2 * width

        def expectation(outputs: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            values = tf.reshape(logs(outputs), [-1])
            return values, tf.stop_gradient(tf.exp(values))

        return expectation, tf.square, num_scalars

    def at_one_label(outputs: tf.Tensor, target: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        values = logs(outputs)  # one per class, or one per label and value (0 and 1)
        if method == "empirical_fisher":
            label = tf.cast(target, tf.int32)
        elif kind == "softmax":
            passed = tf.cumsum(tf.exp(values)) < target[0]
            label = tf.minimum(tf.reduce_sum(tf.cast(passed, tf.int32)), width - 1)
        else:
            label = tf.cast(target < tf.exp(values[1]), tf.int32)
        chosen = tf.one_hot(label, width) if kind == "softmax" else tf.stack([1 - label, label])
        return tf.reduce_sum(values * tf.cast(chosen, tf.float32))[None], tf.ones(1)

    return at_one_label, tf.square, 1


def _log_probabilities(kind: str, *, from_logits: bool) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a function from outputs `(n,)` to log p: `(n,)` for softmax, else `(2, n)`."""
    if kind == "softmax":
        return (
            tf.nn.log_softmax
            if from_logits
            else lambda outputs: tf.math.log(tf.maximum(outputs, _SMALLEST))
        )

    def of_each_value(outputs: tf.Tensor) -> tf.Tensor:
        if from_logits:
            return tf.stack([tf.math.log_sigmoid(-outputs), tf.math.log_sigmoid(outputs)])
        both = tf.stack([1.0 - outputs, outputs])
        return tf.math.log(tf.maximum(both, _SMALLEST))

    return of_each_value
