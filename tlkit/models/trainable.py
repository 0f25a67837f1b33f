"""The `trainable` flags of a model's layers: who set them, and how they are put back.

Keras keeps a flag on every layer and on every variable. Setting a layer's sets those of all that
it holds; what trains is then told by each variable's own, and by that of the whole model. That
someone has set some is told by this: they are neither all on, as layers are made, nor as tlkit
itself left them last.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import keras

from tlkit.models.graph import parameters, with_nested

_LEFT: WeakKeyDictionary[keras.Model, tuple[bool, ...]] = WeakKeyDictionary()
"""What trained in each model when tlkit last set its flags."""


@dataclass(frozen=True, eq=False)
class Flags:
    """A model's flags as they were at one time.

    Attributes:
        model: Whose they are.
        layers: Each layer, the model first, with its flag.
        variables: Each variable that can train, with its flag.
        left: What trained when tlkit had last set them; `None` where it never had.
    """

    model: keras.Model
    layers: tuple[tuple[keras.layers.Layer, bool], ...]
    variables: tuple[tuple[keras.Variable, bool], ...]
    left: tuple[bool, ...] | None

    @classmethod
    def of(cls, model: keras.Model) -> "Flags":
        """Returns the flags as they are."""
        return cls(
            model,
            tuple((layer, layer.trainable) for layer in with_nested(model)),
            tuple((variable, variable.trainable) for variable in parameters(model)),
            _LEFT.get(model),
        )

    def restore(self) -> None:
        """Sets all flags to what they were; those set by hand count as set by hand again."""
        for layer, flag in self.layers:  # each after the layers it is nested in
            set_flag(layer, flag)
        for variable, flag in self.variables:
            variable.trainable = flag
        if self.left is None:
            _LEFT.pop(self.model, None)
        else:
            _LEFT[self.model] = self.left


def set_flag(layer: keras.layers.Layer, flag: bool) -> None:
    """Sets a layer's flag, and with it those of all that it holds.

    On TensorFlow, assigning the value that an attribute has already is skipped, and with it
    Keras's setter that would reach them; so the other value goes before.
    """
    layer.trainable = not flag
    layer.trainable = flag


def trains(model: keras.Model) -> tuple[bool, ...]:
    """Returns for each variable that can train whether it does."""
    moving = {id(variable) for variable in model.trainable_variables}
    return tuple(id(variable) in moving for variable in parameters(model))


def has_user_flags(model: keras.Model) -> bool:
    """Whether someone has set the flags: they are neither all on nor as tlkit left them.

    Flags that were saved in a file and loaded again count as set by hand.

    Example:
        >>> import tlkit
        >>> from tlkit.models.trainable import has_user_flags
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> before = has_user_flags(model)
        >>> model.get_layer("stage1_stem_conv").trainable = False
        >>> before, has_user_flags(model)
        (False, True)
    """
    now = trains(model)
    return now != _LEFT.get(model, (True,) * len(now))


def note_as_left(model: keras.Model) -> None:
    """Notes that tlkit has set the flags as they are, so that they are not taken for a person's."""
    _LEFT[model] = trains(model)


@contextmanager
def user_flags_restored(model: keras.Model) -> Iterator[None]:
    """Puts flags that were set by hand back after a block that sets others."""
    flags = Flags.of(model) if has_user_flags(model) else None
    try:
        yield
    finally:
        if flags is not None:
            flags.restore()
