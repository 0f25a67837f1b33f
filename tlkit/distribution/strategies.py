"""Strategies: the devices and machines that a model's training is distributed over."""

import sys
from contextlib import AbstractContextManager, nullcontext

import keras
import tensorflow as tf

from tlkit.distribution.cluster import KINDS, VARIABLE, read_cluster
from tlkit.distribution.rendezvous import meet
from tlkit.distribution.workers import Workers
from tlkit.errors import ArgumentError, check_choice
from tlkit.utils.signals import restore_handlers
from tlkit.utils.tensorflow_logging import grow_gpu_memory
from tlkit.utils.tensorflow_private import has_started


def distribution_strategy(kind: str = "auto") -> tf.distribute.Strategy:
    """Returns the `tf.distribute` strategy under which to create and train a model.

    Create the model, its constraints and metrics within `strategy.scope()`; `train_head`,
    `fine_tune` and `evaluate` then distribute their work. The batch size of the data is that of the
    whole batch: each device gets a shard of it, so that steps and rates are those of one device,
    and only the speed differs.

    With several machines, run the same program on each of them, with the same images and with the
    addresses of all in the environment variable `TF_CONFIG`. Call this first, before TensorFlow
    computes anything. Only the first machine, the chief, writes. The machines wait up to ten
    minutes for each other to start, and report every few seconds which are missing.

    Args:
        kind: "mirrored": all GPUs of this machine (without GPUs, its logical CPUs).
            "multi-worker": all machines in `TF_CONFIG`, with all their GPUs. "auto":
            "multi-worker" if `TF_CONFIG` has several workers, "mirrored" if there are several
            GPUs, else TensorFlow's default, which is one device.

    Raises:
        ArgumentError: `kind` is none of these; there is only one device to mirror to; `TF_CONFIG`
            is missing or invalid, or the port of this worker is in use; TensorFlow has already
            computed something.
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
    """Returns the same as `distribution_strategy`, for an argument of another name.

    Args:
        kind: See `distribution_strategy`.
        argument: The name of the argument in error messages.

    Raises:
        ArgumentError: See `distribution_strategy`.
    """
    check_choice(argument, kind, KINDS)
    grow_gpu_memory()
    cluster = read_cluster() if kind != "mirrored" else None
    several_workers = cluster is not None and len(cluster.addresses) > 1
    if kind == "multi-worker" and not several_workers:
        number = "nothing" if cluster is None else "one worker only"
        raise ArgumentError(
            f"`{argument}` must be 'auto' or 'mirrored' unless TF_CONFIG has several workers. "
            f"Received: {argument}='multi-worker', and {VARIABLE} has {number}. Set it on each "
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
            f"`{argument}` must be 'auto' if there is only one device. Received: "
            f"{argument}='mirrored', and TensorFlow has only {devices[0].name}. Use 'auto'."
        )
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def strategy_of(model: keras.Model) -> tf.distribute.Strategy:
    """Returns the strategy under which a model was created, else TensorFlow's default.

    Raises:
        ArgumentError: The current scope is that of another strategy.
    """
    values = [variable.value for variable in model.variables]
    distributed = [v for v in values if isinstance(v, tf.distribute.DistributedValues)]
    own = distributed[0].distribute_strategy if distributed else None
    if tf.distribute.has_strategy() and own is not tf.distribute.get_strategy() and values:
        created = "under no strategy" if own is None else f"under another {type(own).__name__}"
        raise ArgumentError(
            "`model` must be created under the strategy of the current scope. Received: a model "
            f"created {created}. Build or load it within `with strategy.scope():`."
        )
    return own or tf.distribute.get_strategy()


def workers_of(model: keras.Model) -> Workers:
    """Returns the workers of the strategy under which a model was created.

    Raises:
        ArgumentError: See `strategy_of`.
    """
    return Workers(strategy_of(model))


def scope_of(model: keras.Model) -> AbstractContextManager[object]:
    """Returns the scope in which to create variables for the model's training."""
    strategy = strategy_of(model)
    is_default = strategy is tf.distribute.get_strategy() and not tf.distribute.has_strategy()
    return nullcontext() if is_default else strategy.scope()


def check_one_device(model: keras.Model, what: str) -> None:
    """Raises `ArgumentError` if a model is distributed over several devices."""
    strategy = strategy_of(model)
    if strategy.num_replicas_in_sync > 1:
        raise ArgumentError(
            f"`model` must not be created under a strategy for {what}, which runs on one device. "
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
        restore_handlers()


def _too_late(argument: str, reason: str) -> ArgumentError:
    return ArgumentError(
        f"`{argument}` must be set to 'multi-worker' before TensorFlow computes anything. "
        f"Received: {argument}='multi-worker' after that ({reason}). Call "
        "tlkit.distribution_strategy() first in the program."
    )
