"""Recompiling a model with its own settings, so that changes since then take effect."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import tensorflow as tf

from tlkit.utils.keras_private import compile_arguments

_BOUND = ("build", "quantize")
"""Attributes that `keras.layers.Layer.__new__` sets to functions of the object itself."""


def recompile(model: keras.Model) -> None:
    """Recompiles a compiled model with the same settings and a new optimizer.

    Keras's training step and optimizer keep the variables that were trainable when the step was
    first run; so flags changed since then have no effect, or only a partial one. Loss, metrics and
    all other settings are kept. The optimizer is made from the settings of the old one, with a new
    state if the old one had a state. A model that is not compiled, or whose class overrides
    `compile`, is not changed.
    """
    if not model.compiled or type(model).compile is not keras.Model.compile:
        return
    _compile(model, compile_arguments(model), model.optimizer)


def become(model: keras.Model, other: keras.Model) -> Callable[[], None]:
    """Makes a functional model have the graph of another one of the same class, in place.

    References to the model then see the other graph. If the model is compiled, it stays so, with
    the same settings and a new optimizer.

    Args:
        model: The model that changes.
        other: The model with the new graph; not to be used afterwards.

    Returns:
        A function that undoes it.
    """
    before = dict(vars(model))
    compiled = (compile_arguments(model), model.optimizer) if model.compiled else None
    vars(model).clear()
    # `Layer.__new__` stores functions that are bound to the object itself
    vars(model).update({**vars(other), **{name: before[name] for name in _BOUND if name in before}})
    if compiled is not None:
        _compile(model, *compiled)

    def undo() -> None:
        vars(model).clear()
        vars(model).update(before)

    return undo


def _compile(
    model: keras.Model, settings: dict[str, Any], optimizer: keras.optimizers.Optimizer
) -> None:
    """Compiles a model with some settings and a new optimizer that is like the given one."""
    old = getattr(optimizer, "inner_optimizer", optimizer)  # of loss scaling
    with training_scope(model):
        new = type(old).from_config(old.get_config())
        model.compile(**{**settings, "optimizer": new})
        if old.built:  # or a saved file would lack the state that Keras expects when loading
            model.optimizer.build(model.trainable_variables)


def training_scope(model: keras.Model) -> AbstractContextManager[object]:
    """Returns the scope of the strategy that a model was created under, else an empty context."""
    strategy = model.distribute_strategy
    is_default = strategy is tf.distribute.get_strategy() and not tf.distribute.has_strategy()
    return nullcontext() if is_default else strategy.scope()
