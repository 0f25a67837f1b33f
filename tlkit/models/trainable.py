"""The `trainable` flags of a model's layers: whether the user set them, and restoring them.

Keras has a flag on every layer and on every variable. Setting a layer's flag sets those of all its
nested layers and variables; a variable is trainable if its own flag and that of the whole model are
set. Flags count as set by the user if they are neither all set, the default of layers, nor as tlkit
last set them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import keras

from tlkit.models.graph import parameters, with_nested

_LAST_SET: WeakKeyDictionary[keras.Model, tuple[bool, ...]] = WeakKeyDictionary()
"""The trainable mask of each model when tlkit last set its flags."""


@dataclass(frozen=True, eq=False)
class Flags:
    """A snapshot of a model's flags.

    Attributes:
        model: The model.
        layers: Each layer, the model first, with its flag.
        variables: Each variable that can be trainable, with its flag.
        last_set: The trainable mask when tlkit last set the flags; `None` if it never did.
    """

    model: keras.Model
    layers: tuple[tuple[keras.layers.Layer, bool], ...]
    variables: tuple[tuple[keras.Variable, bool], ...]
    last_set: tuple[bool, ...] | None

    @classmethod
    def of(cls, model: keras.Model) -> "Flags":
        """Returns a snapshot of the current flags."""
        return cls(
            model,
            tuple((layer, layer.trainable) for layer in with_nested(model)),
            tuple((variable, variable.trainable) for variable in parameters(model)),
            _LAST_SET.get(model),
        )

    def restore(self) -> None:
        """Restores all flags, and whether they count as set by the user."""
        for layer, flag in self.layers:  # outer layers before nested ones
            set_flag(layer, flag)
        for variable, flag in self.variables:
            variable.trainable = flag
        if self.last_set is None:
            _LAST_SET.pop(self.model, None)
        else:
            _LAST_SET[self.model] = self.last_set


def set_flag(layer: keras.layers.Layer, flag: bool) -> None:
    """Sets the flags of a layer, its nested layers and its variables.

    On TensorFlow, assigning the value that an attribute already has is skipped, and with it Keras's
    setter for nested layers; so the other value is assigned first.
    """
    layer.trainable = not flag
    layer.trainable = flag


def trainable_mask(model: keras.Model) -> tuple[bool, ...]:
    """Returns for each variable that can be trainable whether it is."""
    trainable = {id(variable) for variable in model.trainable_variables}
    return tuple(id(variable) in trainable for variable in parameters(model))


def has_user_flags(model: keras.Model) -> bool:
    """Whether the user has set the flags: they are neither all set nor as tlkit last set them.

    Flags that were saved and loaded count as set by the user.

    Example:
        >>> import tlkit
        >>> from tlkit.models.trainable import has_user_flags
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> before = has_user_flags(model)
        >>> model.get_layer("stage1_stem_conv").trainable = False
        >>> before, has_user_flags(model)
        (False, True)
    """
    now = trainable_mask(model)
    return now != _LAST_SET.get(model, (True,) * len(now))


def record_flags(model: keras.Model) -> None:
    """Records the current flags as set by tlkit, so that they do not count as set by the user."""
    _LAST_SET[model] = trainable_mask(model)


@contextmanager
def user_flags_restored(model: keras.Model) -> Iterator[None]:
    """Restores flags that the user has set after a block that sets others."""
    flags = Flags.of(model) if has_user_flags(model) else None
    try:
        yield
    finally:
        if flags is not None:
            flags.restore()
