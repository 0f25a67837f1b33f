"""How near images are to what a network was trained on, without that network's own images."""

import os
import random
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tlkit.advice.probe import NO_INTERVALS, ProbeScore, probe
from tlkit.advice.sampling import check_no_lone_class, sample_rows
from tlkit.data.images import ImageData, ImageSplit
from tlkit.errors import ArgumentError, check_count, check_seed
from tlkit.evaluation.intervals import Interval
from tlkit.models.flattening import below, flat
from tlkit.models.graph import sorted_nodes
from tlkit.models.groups import group_layers, layer_groups
from tlkit.models.heads import feature_cut
from tlkit.training.features import extract_features
from tlkit.training.frozen import FrozenPart
from tlkit.training.sources import source_of
from tlkit.utils.formatting import interval, percent
from tlkit.utils.text_repr import ShownAsText

NEAR, FAR = 0.15, 0.25
"""Distances below which images count as near, and above which as far.

Guesses from two networks. MobileNet-0.25 (ImageNet): flowers 0.12, insects 0.12, digits 0.29,
flowers with shuffled pixels 0.45; the small ResNet-20 (CIFAR-10): 0.07, 0.07, 0.16 and 0.39.
"""

_BATCH_SIZE = 32


@dataclass(frozen=True)
class SimilarityReport(ShownAsText):
    """How near images are to what a network was trained on.

    Attributes:
        accuracy: Of a linear head on the network's features, cross-validated, 0...1.
        interval: Its 95 % interval, `None` with too few images.
        random_accuracy: The same with random weights: what the images give away to anyone.
        random_interval: Its 95 % interval.
        distances: For each group with batch normalisation how far the images' statistics are
            from the stored ones, 0...1, input side first.
        distance: That of the last such group, next to what the head reads; `None` where the
            network has no batch normalisation.
        num_images: Training images that were looked at.
        num_classes: How many classes they have.
    """

    accuracy: float
    interval: Interval | None
    random_accuracy: float
    random_interval: Interval | None
    distances: dict[str, float]
    distance: float | None
    num_images: int
    num_classes: int

    @property
    def gain(self) -> float:
        """What the network's weights add to what random ones give: 0 nothing, 1 all there is."""
        return (self.accuracy - self.random_accuracy) / max(1 - self.random_accuracy, 1e-9)

    @property
    def knows_more_than_chance(self) -> bool:
        """Whether the interval of its accuracy lies above that of random weights."""
        if self.interval is None or self.random_interval is None:
            return False
        return self.interval[0] > self.random_interval[1]

    @property
    def level(self) -> str:
        """One of "near", "between" or "far"; "unknown" where there is no distance."""
        if self.distance is None:
            return "unknown"
        return "near" if self.distance < NEAR else "far" if self.distance > FAR else "between"

    @property
    def verdict(self) -> str:
        """The same in plain words."""
        how = {
            "near": "The images look to the network much like those it was trained on",
            "between": "The images look to the network somewhat unlike those it was trained on",
            "far": "The images look to the network unlike those it was trained on",
            "unknown": "How the images look to the network cannot be said: it stores no "
            "statistics (it has no batch normalisation)",
        }[self.level]
        if self.knows_more_than_chance:
            what = (
                f"what it knows helps: {percent(self.accuracy)} against "
                f"{percent(self.random_accuracy)} with random weights"
            )
        else:
            what = (
                f"that what it knows helps does not show: {percent(self.accuracy)} against "
                f"{percent(self.random_accuracy)} with random weights"
            )
        return f"{how}; {what}."

    def __str__(self) -> str:
        lines = [self.verdict]
        if self.distance is not None:
            groups = ", ".join(f"{name} {value:.2f}" for name, value in self.distances.items())
            lines.append(f"distance of the statistics {self.distance:.2f} ({groups})")
        for name, ends in (
            ("its weights", self.interval),
            ("random weights", self.random_interval),
        ):
            if ends is not None:
                lines.append(f"95 % interval with {name}: {interval(ends)}")
        if self.interval is None or self.random_interval is None:
            lines.append(NO_INTERVALS)
        lines.append(f"{self.num_images:,} training images, {self.num_classes} classes")
        return "\n".join(lines)


def measure_similarity(
    model: keras.Model,
    data: ImageData,
    *,
    max_images: int = 1000,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
) -> SimilarityReport:
    """Says how near the training images are to what the model's backbone was trained on.

    Two things are measured, neither of which needs the backbone's own images. What a linear head
    reads off its features is compared with what one reads off a network of the same structure with
    random weights. And the mean and variance that each batch normalisation has stored for each of
    its channels are compared with those that the images bring.

    A channel's distance is Hellinger's between two normal distributions of these means and
    variances, from 0 (the same) to 1 (no overlap); its square is
    1 - sqrt(2 s t / (s² + t²)) exp(-(m - n)² / (4 (s² + t²))). A group's is the mean over all
    channels of its layers. What counts in the end is the last group's: lower ones tell colours and
    edges apart, which drawings and digits shift without being any harder to tell apart.

    Args:
        model: A classifier whose backbone is pretrained, before it is fine-tuned. It stays as it
            is.
        data: What `load_folder`, `load_arrays` or `load_tfds` returned.
        max_images: No more training images than these are looked at, but two of each class at
            least, each class by its share.
        seed: Of the random weights, the choice of images and the folds.
        cache: Folder of the feature stores; tlkit's cache by default.

    Raises:
        ArgumentError: An argument breaks its rule, or data and model do not fit.
        DataError: A class has fewer than two different training images, or groups of them.

    Example:
        >>> import numpy as np, tlkit
        >>> from tlkit.advice.similarity import measure_similarity
        >>> labels = np.arange(60) % 2
        >>> images = np.random.default_rng(0).integers(0, 99, (60, 32, 32, 3), "uint8")
        >>> images[labels == 1, :, :, 0] += 100
        >>> data = tlkit.load_arrays(images, labels, ["grey", "red"])
        >>> model = tlkit.build_classifier("resnet20", data.class_names)
        >>> report = measure_similarity(model, data)
        >>> report.level, list(report.distances)
        ('far', ['stage1', 'stage2', 'stage3'])
    """
    if not isinstance(data, ImageData):
        raise ArgumentError(
            "`data` must be what load_folder, load_arrays or load_tfds returned. "
            f"Received: data of type {type(data).__name__}."
        )
    check_count("max_images", max_images, minimum=2)
    check_seed(seed)
    source_of(model, data, None)
    check_no_lone_class(data, "data", "leave the class out")
    split = data.train
    if split.num_images > max_images:
        split = split.subset(sample_rows(split, max_images, seed=seed))
    known = _probe(model, split, seed, cache)
    chance = _probe(_with_random_weights(model, seed), split, seed, cache)
    distances = statistic_distances(model, split)
    return SimilarityReport(
        accuracy=known.accuracy,
        interval=known.interval,
        random_accuracy=chance.accuracy,
        random_interval=chance.interval,
        distances=distances,
        distance=list(distances.values())[-1] if distances else None,
        num_images=split.num_images,
        num_classes=data.num_classes,
    )


def statistic_distances(model: keras.Model, split: ImageSplit) -> dict[str, float]:
    """Returns the distance of each group with batch normalisation, see `measure_similarity`."""
    group_of = {
        id(layer): group.name
        for group, layers in zip(layer_groups(model), group_layers(model), strict=True)
        for layer in layers
    }
    nodes = [
        node
        for node in sorted_nodes(flat(model).output)
        if isinstance(node.operation, keras.layers.BatchNormalization)
    ]
    if not nodes:
        return {}
    found: dict[str, list[np.ndarray]] = {}
    for node, (mean, variance) in zip(nodes, _moments(model, nodes, split), strict=True):
        layer = node.operation
        stored = [
            keras.ops.convert_to_numpy(value).astype(np.float64)
            for value in (layer.moving_mean, layer.moving_variance)
        ]
        distance = _hellinger(mean, variance, stored[0], stored[1], layer.epsilon)
        found.setdefault(group_of[id(layer)], []).append(distance)
    return {name: float(np.concatenate(values).mean()) for name, values in found.items()}


def _moments(
    model: keras.Model, nodes: list[Any], split: ImageSplit
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Mean and variance of each channel that each node reads, over all images and positions."""
    inputs = below(model, [node.input_tensors[0] for node in nodes])
    axes = [node.operation.axis for node in nodes]

    dtype = model.inputs[0].dtype
    pixels = tf.TensorSpec((None, *model.input_shape[1:]), dtype)

    @tf.function(input_signature=[pixels], autograph=False)
    def sums(images: tf.Tensor) -> list[tuple[tf.Tensor, tf.Tensor]]:
        values = inputs(images, training=False)
        values = values if isinstance(values, list | tuple) else [values]
        out = []
        for value, axis in zip(values, axes, strict=True):
            channel = axis % len(value.shape)
            others = [i for i in range(len(value.shape)) if i != channel]
            precise = tf.cast(value, tf.float32)
            mean = tf.reduce_mean(precise, axis=others)
            out.append((mean, tf.reduce_mean(tf.square(precise), axis=others)))
        return out

    totals: list[list[np.ndarray]] = [[np.zeros(()), np.zeros(())] for _ in nodes]
    traced = sums.get_concrete_function()
    for images, _ in split.dataset(shuffle=False, batch_size=_BATCH_SIZE):
        share = len(images) / split.num_images
        for total, (first, second) in zip(totals, traced(tf.cast(images, dtype)), strict=True):
            total[0] = total[0] + share * first.numpy().astype(np.float64)
            total[1] = total[1] + share * second.numpy().astype(np.float64)
    return [(mean, np.maximum(square - mean**2, 0.0)) for mean, square in totals]


def _hellinger(
    mean: np.ndarray,
    variance: np.ndarray,
    stored_mean: np.ndarray,
    stored_variance: np.ndarray,
    epsilon: float,
) -> np.ndarray:
    """Hellinger's distance of each channel; epsilon is what the layer itself adds to a variance."""
    first, second = variance + epsilon, stored_variance + epsilon
    both = first + second
    overlap = np.sqrt(2 * np.sqrt(first * second) / both)
    overlap *= np.exp(-((mean - stored_mean) ** 2) / (4 * both))
    return np.sqrt(np.maximum(1 - overlap, 0.0))


def _probe(
    model: keras.Model, split: ImageSplit, seed: int, cache: str | os.PathLike[str] | None
) -> ProbeScore:
    part = FrozenPart(below(model, feature_cut(model)))
    features = extract_features(part, split, exact=False, cache=cache)
    return probe(features.labelled(), seed=seed)


def _with_random_weights(model: keras.Model, seed: int) -> keras.Model:
    """The same network as its initializers make it; they draw their seeds from this generator."""
    state = random.getstate()
    random.seed(seed)
    try:
        return keras.models.clone_model(model)
    finally:
        random.setstate(state)
