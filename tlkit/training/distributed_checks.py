"""What training on several replicas asks of its arguments, and says of itself."""

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


def check_spread(
    strategy: tf.distribute.Strategy,
    recipe: Recipe,
    images: Images,
    *,
    loss: keras.losses.Loss | None,
    metrics: Sequence[keras.metrics.Metric],
    hooks: Sequence[StepHook],
) -> None:
    """Raises `ArgumentError` where several replicas would not do what one device does.

    Args:
        strategy: The model's; with one replica everything works.
        recipe: What is asked for.
        images: What is trained on; each replica must have some of a batch.
        loss: Must be a mean over the images.
        metrics: Must add up over the replicas.
        hooks: Must say that they work so, and their metrics add up.
    """
    number = int(strategy.num_replicas_in_sync)
    if number == 1:
        return
    resolve_precision(recipe.precision, number)
    if recipe.batch_norm == "train":
        raise ArgumentError(
            "`batch_norm` must be 'frozen' on several replicas: each would keep the statistics of "
            f"its own share. Received: batch_norm='train' and {number} replicas. Leave it out, or "
            "train on one device."
        )
    if isinstance(images, ImageSplit) and images.batch_size < number:
        raise ArgumentError(
            "`batch_size` must be at least the number of replicas, for they share out each batch. "
            f"Received: batch_size={images.batch_size} and {number} replicas. Load the data with "
            f"batch_size={8 * number}, say."
        )
    reduction = getattr(loss, "reduction", _REDUCTIONS[0])
    if reduction not in _REDUCTIONS:
        raise ArgumentError(
            f"`loss` must be reduced by {' or '.join(map(repr, _REDUCTIONS))} on several replicas. "
            f"Received: {type(loss).__name__} with reduction={reduction!r}. Leave `reduction` out."
        )
    _check_add_up(strategy, metrics, "metrics")
    for hook in hooks:
        if not hook.works_on_replicas:
            raise ArgumentError(
                "`anchor` must be a constraint that works on several replicas. Received: a "
                f"{type(hook).__name__}, which sees one device's share of the batch and takes it "
                "for the whole. Train on one device."
            )
        _check_add_up(strategy, hook.metrics, "anchor")


def batch_notes(strategy: tf.distribute.Strategy, images: Images) -> list[str]:
    """Says how batches were shared out and what rates mean; nothing on one device."""
    number = int(strategy.num_replicas_in_sync)
    if number == 1:
        return []
    workers = Workers(strategy).num_workers
    where = f"{workers} workers" if workers > 1 else "one machine"
    size = ""
    if isinstance(images, ImageSplit):
        size = f" of {images.batch_size} images, {images.batch_size / number:.3g} on each"
    return [
        f"batches{size}, shared out among {number} replicas on {where}; steps and rates are those "
        "of one device with the same batches: rates are not scaled. Where larger batches are to "
        "make use of the replicas, the square root of their growth is usual for AdamW's rate"
    ]


def _check_add_up(
    strategy: tf.distribute.Strategy, metrics: Sequence[keras.metrics.Metric], argument: str
) -> None:
    for metric in metrics:
        for variable in metric.variables:
            value = variable.value
            if getattr(value, "distribute_strategy", None) is not strategy:
                raise ArgumentError(
                    f"`{argument}` must be made under the strategy of the model, so that it counts "
                    f"the images of all replicas. Received: {metric.name!r}, made outside. Make it "
                    "within `with strategy.scope():`."
                )
            if variable.aggregation not in ("sum", "mean"):
                raise ArgumentError(
                    f"`{argument}` must hold metrics whose values can be added up over replicas. "
                    f"Received: {metric.name!r}, whose {variable.name!r} is aggregated by "
                    f"{variable.aggregation!r}. Leave it out, or train on one device."
                )
