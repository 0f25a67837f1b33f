"""A compiled model compiled again as it was, so that what has changed since holds."""

from contextlib import AbstractContextManager, nullcontext

import keras
import tensorflow as tf

from tlkit.utils.keras_private import compile_arguments


def compile_again(model: keras.Model) -> None:
    """Compiles a model that is compiled once more, with the same settings and a new optimizer.

    Keras's training step remembers which variables trained when it was first run, and the optimizer
    knows those alone; so flags that were changed since have no effect, or half of one. Loss,
    metrics and all other settings are the ones it had. The optimizer is made from the settings of
    the old one, with its state at the start where the old one had any. A model that is not
    compiled, or whose class compiles in a way of its own, is left.
    """
    if not model.compiled or type(model).compile is not keras.Model.compile:
        return
    old = getattr(model.optimizer, "inner_optimizer", model.optimizer)  # of loss scaling
    with training_scope(model):
        optimizer = type(old).from_config(old.get_config())
        model.compile(**{**compile_arguments(model), "optimizer": optimizer})
        if old.built:  # or a file of the model would lack what Keras makes when it is loaded
            model.optimizer.build(model.trainable_variables)


def training_scope(model: keras.Model) -> AbstractContextManager[object]:
    """Returns the scope of the strategy that a model was made under, an empty one for none."""
    strategy = model.distribute_strategy
    is_default = strategy is tf.distribute.get_strategy() and not tf.distribute.has_strategy()
    return nullcontext() if is_default else strategy.scope()
