"""Over which devices and machines a model's training is spread."""

import sys
from contextlib import AbstractContextManager, nullcontext

import keras
import tensorflow as tf

from tlkit.distribution.cluster import KINDS, VARIABLE, read_cluster
from tlkit.distribution.rendezvous import meet
from tlkit.distribution.workers import Workers
from tlkit.errors import ArgumentError, check_choice
from tlkit.utils.signals import hear_again
from tlkit.utils.tensorflow_logging import grow_gpu_memory
from tlkit.utils.tensorflow_private import has_started


def distribution_strategy(kind: str = "auto") -> tf.distribute.Strategy:
    """Returns the `tf.distribute` strategy under which a model is to be made and trained.

    Make the model, its constraints and metrics within `strategy.scope()`; `train_head`,
    `fine_tune` and `evaluate` then share their work out. The batch size of the data stays the size
    of the whole batch: each device takes its share of it, so steps and rates are those of one
    device, and only the time differs.

    With several machines, the same program runs on each of them, with the same images, and the
    environment variable `TF_CONFIG` names them all. Call this first, before TensorFlow computes
    anything. Only the first of them, the chief, writes. They wait ten minutes for each other to be
    started, and say every few seconds for whom.

    Args:
        kind: "mirrored": all GPUs of this machine (without any, its logical processors).
            "multi-worker": all machines that `TF_CONFIG` names, with all their GPUs. "auto":
            "multi-worker" where `TF_CONFIG` names several workers, "mirrored" where there are
            several GPUs, else TensorFlow's default, which is one device.

    Raises:
        ArgumentError: `kind` is none of these; there is only one device to mirror to; `TF_CONFIG`
            is missing or wrong, or the port it gives this worker is taken; TensorFlow has computed
            something already.
        TrainingError: Other workers were not started in time.

    Example:
        >>> import tlkit
        >>> strategy = tlkit.distribution_strategy()
        >>> with strategy.scope():
        ...     model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> strategy.num_replicas_in_sync
        1

    Reference:
        https://www.tensorflow.org/guide/distributed_training
    """
    return strategy_for(kind, "kind")


def strategy_for(kind: str, argument: str) -> tf.distribute.Strategy:
    """Returns what `distribution_strategy` does, for a kind that came as another argument.

    Args:
        kind: As there.
        argument: What messages call it.

    Raises:
        ArgumentError: As there.
    """
    check_choice(argument, kind, KINDS)
    grow_gpu_memory()
    cluster = read_cluster() if kind != "mirrored" else None
    several_workers = cluster is not None and len(cluster.addresses) > 1
    if kind == "multi-worker" and not several_workers:
        number = "nothing" if cluster is None else "one worker only"
        raise ArgumentError(
            f"`{argument}` must be 'auto' or 'mirrored' unless TF_CONFIG names several workers. "
            f"Received: {argument}='multi-worker', and {VARIABLE} names {number}. Set it on each "
            "machine."
        )
    if cluster is not None and several_workers:
        if has_started():
            raise _too_late(argument, "its context is initialized")
        meet(cluster, _say)
        return _multi_worker(argument)
    if kind == "auto" and len(tf.config.list_physical_devices("GPU")) < 2:
        return tf.distribute.get_strategy()
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) == 1:
        raise ArgumentError(
            f"`{argument}` must be 'auto' where there is one device. Received: "
            f"{argument}='mirrored', and TensorFlow sees {devices[0].name} alone. Use 'auto'."
        )
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def strategy_of(model: keras.Model) -> tf.distribute.Strategy:
    """Returns the strategy under which a model was made, TensorFlow's default if under none.

    Raises:
        ArgumentError: Another strategy's scope is entered now.
    """
    values = [variable.value for variable in model.variables]
    spread = [value for value in values if isinstance(value, tf.distribute.DistributedValues)]
    own = spread[0].distribute_strategy if spread else None
    if tf.distribute.has_strategy() and own is not tf.distribute.get_strategy() and values:
        made = "under no strategy" if own is None else f"under another {type(own).__name__}"
        raise ArgumentError(
            "`model` must be made under the strategy whose scope is entered. Received: a model "
            f"made {made}. Build or load it within `with strategy.scope():`."
        )
    return own or tf.distribute.get_strategy()


def workers_of(model: keras.Model) -> Workers:
    """Returns the workers of the strategy under which a model was created.

    Raises:
        ArgumentError: As `strategy_of`.
    """
    return Workers(strategy_of(model))


def scope_of(model: keras.Model) -> AbstractContextManager[object]:
    """Returns the scope in which variables are made that belong to the model's training."""
    strategy = strategy_of(model)
    is_default = strategy is tf.distribute.get_strategy() and not tf.distribute.has_strategy()
    return nullcontext() if is_default else strategy.scope()


def check_one_device(model: keras.Model, what: str) -> None:
    """Raises `ArgumentError` where a model is spread over several devices."""
    strategy = strategy_of(model)
    if strategy.num_replicas_in_sync > 1:
        raise ArgumentError(
            f"`model` must be made under no strategy for {what}, which runs on one device. "
            f"Received: a model on {strategy.num_replicas_in_sync} replicas. Save it, and load it "
            "outside the scope of the strategy."
        )


def _say(text: str) -> None:
    print(f"tlkit: {text}", file=sys.stderr, flush=True)


def _multi_worker(argument: str) -> tf.distribute.Strategy:
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise _too_late(argument, str(error)) from error
    finally:
        hear_again()


def _too_late(argument: str, reason: str) -> ArgumentError:
    return ArgumentError(
        f"`{argument}` must be 'multi-worker' before TensorFlow computes anything. "
        f"Received: {argument}='multi-worker' after that ({reason}). Call "
        "tlkit.distribution_strategy() first in the program."
    )
