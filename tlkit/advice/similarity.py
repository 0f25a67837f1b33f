"""Similarity of images to a network's pretraining data, measured without these data."""

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
from tlkit.models.norm_statistics import has_statistics
from tlkit.models.vocabularies import with_same_vocabularies
from tlkit.training.features import extract_features
from tlkit.training.frozen import FrozenPart
from tlkit.training.sources import source_of
from tlkit.utils.formatting import interval, percent
from tlkit.utils.text_repr import ShownAsText

NEAR, FAR = 0.15, 0.25
"""Distances below which images count as near, and above which as far.

Estimated from two networks. MobileNet-0.25 (ImageNet): flowers 0.12, insects 0.12, digits 0.29,
flowers with shuffled pixels 0.45; the small ResNet-20 (CIFAR-10): 0.07, 0.07, 0.16 and 0.39.
"""

_BATCH_SIZE = 32


@dataclass(frozen=True)
class SimilarityReport(ShownAsText):
    """The similarity of images to a network's pretraining data.

    Attributes:
        accuracy: Cross-validated accuracy of a linear head on the network's features, 0...1.
        interval: 95 % confidence interval of the accuracy, `None` with too few images.
        random_accuracy: The same with random weights, as a baseline.
        random_interval: 95 % confidence interval of the random accuracy.
        distances: For each group with batch normalisation the distance between the images'
            statistics and the stored ones, 0...1, input side first.
        distance: The distance of the last such group, nearest to the head; `None` if the network
            has no batch normalisation with statistics.
        num_images: Number of training images used.
        num_classes: Number of classes.
        has_batch_norm: Whether the network has batch normalisation. If it has, and there is no
            distance, it was folded into the weights, or never trained.
    """

    accuracy: float
    interval: Interval | None
    random_accuracy: float
    random_interval: Interval | None
    distances: dict[str, float]
    distance: float | None
    num_images: int
    num_classes: int
    has_batch_norm: bool = False

    @property
    def gain(self) -> float:
        """The gain of the weights over random ones: 0 is none, 1 is a perfect accuracy."""
        return (self.accuracy - self.random_accuracy) / max(1 - self.random_accuracy, 1e-9)

    @property
    def knows_more_than_chance(self) -> bool:
        """Whether the interval of the accuracy is entirely above that of random weights."""
        if self.interval is None or self.random_interval is None:
            return False
        return self.interval[0] > self.random_interval[1]

    @property
    def level(self) -> str:
        """The level "near", "between" or "far"; "unknown" without a distance."""
        if self.distance is None:
            return "unknown"
        return "near" if self.distance < NEAR else "far" if self.distance > FAR else "between"

    @property
    def verdict(self) -> str:
        """The level and the benefit of the weights as a sentence."""
        why_unknown = (
            "its batch normalisation has no statistics, as where it is folded into the weights"
            if self.has_batch_norm
            else "the network has no batch normalisation"
        )
        distance_text = {
            "near": "The images are similar to the pretraining data",
            "between": "The images are moderately similar to the pretraining data",
            "far": "The images differ from the pretraining data",
            "unknown": f"The similarity to the pretraining data is unknown: {why_unknown}",
        }[self.level]
        if self.knows_more_than_chance:
            benefit = "the pretrained weights help"
        else:
            benefit = "the pretrained weights bring no significant gain"
        return (
            f"{distance_text}; {benefit}: accuracy {percent(self.accuracy)}, "
            f"{percent(self.random_accuracy)} with random weights."
        )

    def __str__(self) -> str:
        lines = [self.verdict]
        if self.distance is not None:
            groups = ", ".join(f"{name} {value:.2f}" for name, value in self.distances.items())
            lines.append(f"distance of statistics {self.distance:.2f} ({groups})")
        for name, ends in (
            ("pretrained weights", self.interval),
            ("random weights", self.random_interval),
        ):
            if ends is not None:
                lines.append(f"95 % CI with {name}: {interval(ends)}")
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
    """Measures the similarity of the training images to the backbone's pretraining data.

    Two things are measured, without the pretraining data. The accuracy of a linear head on the
    backbone's features is compared with that on the features of the same network with random
    weights. And the mean and variance that each batch normalisation has stored for each channel are
    compared with those of the images. If batch normalisation is folded into the weights, there are
    no statistics to compare, and only the heads count.

    A channel's distance is Hellinger's between two normal distributions of these means and
    variances, from 0 (the same) to 1 (no overlap); its square is
    1 - sqrt(2 s t / (s² + t²)) exp(-(m - n)² / (4 (s² + t²))). A group's distance is the mean over
    all channels of its layers. The level depends on the last group only: earlier groups detect
    colours and edges, whose statistics differ for drawings and digits although these are no harder
    to classify.

    Args:
        model: A classifier with a pretrained backbone, before fine-tuning. It is not changed.
        data: The result of `load_folder`, `load_arrays` or `load_tfds`.
        max_images: Maximum number of training images; larger sets are sampled, stratified by class
            with at least two images each.
        seed: Seed of the random weights, the sample and the folds.
        cache: Folder of the feature stores; tlkit's cache by default.

    Raises:
        ArgumentError: An argument is invalid, or data and model do not fit.
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
            "`data` must be the result of load_folder, load_arrays or load_tfds. "
            f"Received: data of type {type(data).__name__}. Load the images first."
        )
    check_count("max_images", max_images, minimum=2)
    check_seed(seed)
    source_of(model, data, None)
    check_no_lone_class(data, "data", "leave the class out")
    split = data.train
    if split.num_images > max_images:
        split = split.subset(sample_rows(split, max_images, seed=seed))
    pretrained = _probe(model, split, seed, cache)
    random_weights = _probe(_with_random_weights(model, seed), split, seed, cache)
    distances = statistic_distances(model, split)
    return SimilarityReport(
        accuracy=pretrained.accuracy,
        interval=pretrained.interval,
        random_accuracy=random_weights.accuracy,
        random_interval=random_weights.interval,
        distances=distances,
        distance=list(distances.values())[-1] if distances else None,
        num_images=split.num_images,
        num_classes=data.num_classes,
        has_batch_norm=bool(_norm_nodes(model)),
    )


def statistic_distances(model: keras.Model, split: ImageSplit) -> dict[str, float]:
    """Returns the distance of each group with batch normalisation, see `measure_similarity`.

    Layers without statistics are left out.
    """
    group_of = {
        id(layer): group.name
        for group, layers in zip(layer_groups(model), group_layers(model), strict=True)
        for layer in layers
    }
    nodes = [node for node in _norm_nodes(model) if has_statistics(node.operation)]
    if not nodes:
        return {}
    distances_of_group: dict[str, list[np.ndarray]] = {}
    for node, (mean, variance) in zip(nodes, _moments(model, nodes, split), strict=True):
        layer = node.operation
        stored = [
            keras.ops.convert_to_numpy(value).astype(np.float64)
            for value in (layer.moving_mean, layer.moving_variance)
        ]
        distance = _hellinger(mean, variance, stored[0], stored[1], layer.epsilon)
        distances_of_group.setdefault(group_of[id(layer)], []).append(distance)
    return {
        name: float(np.concatenate(values).mean()) for name, values in distances_of_group.items()
    }


def _norm_nodes(model: keras.Model) -> list[Any]:
    return [
        node
        for node in sorted_nodes(flat(model).output)
        if isinstance(node.operation, keras.layers.BatchNormalization)
    ]


def _moments(
    model: keras.Model, nodes: list[Any], split: ImageSplit
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns mean and variance of each node's input channels, over all images and positions."""
    inputs = below(model, [node.input_tensors[0] for node in nodes])
    axes = [node.operation.axis for node in nodes]

    dtype = model.inputs[0].dtype
    pixels = tf.TensorSpec((None, *model.input_shape[1:]), dtype)

    @tf.function(input_signature=[pixels], autograph=False)
    def sums(images: tf.Tensor) -> list[tuple[tf.Tensor, tf.Tensor]]:
        values = inputs(images, training=False)
        values = values if isinstance(values, list | tuple) else [values]
        moments = []
        for value, axis in zip(values, axes, strict=True):
            channel = axis % len(value.shape)
            reduced_axes = [i for i in range(len(value.shape)) if i != channel]
            float_value = tf.cast(value, tf.float32)
            mean = tf.reduce_mean(float_value, axis=reduced_axes)
            moments.append((mean, tf.reduce_mean(tf.square(float_value), axis=reduced_axes)))
        return moments

    totals: list[list[np.ndarray]] = [[np.zeros(()), np.zeros(())] for _ in nodes]
    traced = sums.get_concrete_function()
    for images, _ in split.dataset(shuffle=False, batch_size=_BATCH_SIZE):
        weight = len(images) / split.num_images
        for total, (first, second) in zip(totals, traced(tf.cast(images, dtype)), strict=True):
            total[0] = total[0] + weight * first.numpy().astype(np.float64)
            total[1] = total[1] + weight * second.numpy().astype(np.float64)
    return [(mean, np.maximum(square - mean**2, 0.0)) for mean, square in totals]


def _hellinger(
    mean: np.ndarray,
    variance: np.ndarray,
    stored_mean: np.ndarray,
    stored_variance: np.ndarray,
    epsilon: float,
) -> np.ndarray:
    """Returns Hellinger's distance of each channel; the layer adds epsilon to its variance."""
    first, second = variance + epsilon, stored_variance + epsilon
    variance_sum = first + second
    overlap = np.sqrt(2 * np.sqrt(first * second) / variance_sum)
    overlap *= np.exp(-((mean - stored_mean) ** 2) / (4 * variance_sum))
    return np.sqrt(np.maximum(1 - overlap, 0.0))


def _probe(
    model: keras.Model, split: ImageSplit, seed: int, cache: str | os.PathLike[str] | None
) -> ProbeScore:
    part = FrozenPart(below(model, feature_cut(model)))
    features = extract_features(part, split, exact=False, cache=cache)
    return probe(features.labelled(), seed=seed)


def _with_random_weights(model: keras.Model, seed: int) -> keras.Model:
    """Returns the network with newly initialised weights; initializers use Python's generator."""
    state = random.getstate()
    random.seed(seed)
    try:
        return with_same_vocabularies(model)
    finally:
        random.setstate(state)
