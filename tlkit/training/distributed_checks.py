"""Checks and report notes of training on several replicas."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from tlkit.data.images import ImageSplit
from tlkit.distribution.workers import Workers
from tlkit.errors import ArgumentError
from tlkit.evaluation.data_checks import Images
from tlkit.training.precision import resolve_precision
from tlkit.training.recipe import Recipe
from tlkit.training.step import StepHook

_REDUCTIONS = ("sum_over_batch_size", "mean")


def check_distributed_training(
    workers: Workers,
    recipe: Recipe,
    images: Images,
    *,
    loss: keras.losses.Loss | None,
    metrics: Sequence[keras.metrics.Metric],
    hooks: Sequence[StepHook],
) -> None:
    """Raises `ArgumentError` if several replicas would not compute what one device computes.

    Args:
        workers: The model's workers; with one replica nothing is checked.
        recipe: The arguments of training.
        images: The training images; each replica must get some of every batch.
        loss: Must be a mean over the images.
        metrics: Must be sums or means over the replicas.
        hooks: Must support several replicas, and so must their metrics.
    """
    number = workers.num_replicas
    if number == 1:
        return
    resolve_precision(recipe.precision, number)
    if recipe.batch_norm == "train":
        raise ArgumentError(
            "`batch_norm` must be 'affine' or 'frozen' on several replicas: each would update the "
            f"statistics from its own shard. Received: batch_norm='train' and {number} replicas. "
            "Leave it out, or train on one device."
        )
    if isinstance(images, ImageSplit) and images.batch_size < number:
        raise ArgumentError(
            "`batch_size` must be at least the number of replicas, as each batch is sharded over "
            f"them. Received: batch_size={images.batch_size} and {number} replicas. Load the data "
            f"with batch_size={8 * number}, for example."
        )
    reduction = getattr(loss, "reduction", _REDUCTIONS[0])
    if reduction not in _REDUCTIONS:
        raise ArgumentError(
            f"`loss` must be reduced by {' or '.join(map(repr, _REDUCTIONS))} on several replicas. "
            f"Received: {type(loss).__name__} with reduction={reduction!r}. Leave `reduction` out."
        )
    _check_add_up(workers.strategy, metrics, "metrics")
    for hook in hooks:
        if not hook.works_on_replicas:
            raise ArgumentError(
                "`anchor` must be a constraint that works on several replicas. Received: a "
                f"{type(hook).__name__}, which would treat one device's shard as the whole batch. "
                "Train on one device."
            )
        _check_add_up(workers.strategy, hook.metrics, "anchor")


def batch_notes(workers: Workers, images: Images) -> list[str]:
    """Returns a note on how batches are sharded and what the rates mean; none on one device."""
    number = workers.num_replicas
    if number == 1:
        return []
    where = f"{workers.num_workers} workers" if workers.num_workers > 1 else "one machine"
    size = ""
    if isinstance(images, ImageSplit):
        size = f" of {images.batch_size} images, {images.batch_size / number:.3g} on each"
    return [
        f"batches{size}, sharded over {number} replicas on {where}; steps and learning rates are "
        "those of one device with the same batches, and not scaled. If you enlarge the batches to "
        "make use of the replicas, it is usual to scale AdamW's rate by the square root"
    ]


def _check_add_up(
    strategy: tf.distribute.Strategy, metrics: Sequence[keras.metrics.Metric], argument: str
) -> None:
    for metric in metrics:
        for variable in metric.variables:
            value = variable.value
            if getattr(value, "distribute_strategy", None) is not strategy:
                raise ArgumentError(
                    f"`{argument}` must be created under the model's strategy, to count the images "
                    f"of all replicas. Received: {metric.name!r}, created outside. Create it "
                    "within `with strategy.scope():`."
                )
            if variable.aggregation not in ("sum", "mean"):
                raise ArgumentError(
                    f"`{argument}` must contain metrics whose values can be summed over replicas. "
                    f"Received: {metric.name!r}, whose {variable.name!r} is aggregated by "
                    f"{variable.aggregation!r}. Leave it out, or train on one device."
                )
