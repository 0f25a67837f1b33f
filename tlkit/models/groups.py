"""Groups of layers, found from the graph, and which of them train."""

from dataclasses import dataclass
from math import prod
from numbers import Integral

import keras

from tlkit.errors import ArgumentError, check_choice, did_you_mean
from tlkit.models.boundaries import Segmentation, name_groups, segment
from tlkit.models.composition import read
from tlkit.models.graph import count_parameters, find_cuts, with_nested
from tlkit.models.grown_names import grown_name_of
from tlkit.showing import ShownAsText

NEW = "new"
"""Stands for what was added last, where a group could be named."""


@dataclass(frozen=True)
class LayerGroup(ShownAsText):
    """A run of layers between two cuts.

    Attributes:
        name: "head" for the last group; the prefix its layers share (`block5`), else `group_N`,
            N counted from the input.
        layers: Names of its layers, input side first. Every layer is in exactly one group.
        num_parameters: Number of values in the weights of its layers.
        boundary: Name of the layer (or operation) whose output is the cut this group ends with.
    """

    name: str
    layers: tuple[str, ...]
    num_parameters: int
    boundary: str

    def __str__(self) -> str:
        return (
            f"{self.name}: {len(self.layers)} layers, {self.num_parameters:,} parameters, "
            f"up to {self.boundary}"
        )


@dataclass(frozen=True)
class TrainableReport(ShownAsText):
    """What trains after `set_trainable`, counted from the model's trainable variables.

    Attributes:
        groups: Names of the groups with something that trains, input side first.
        frozen_groups: Names of the others.
        layers: Names of the layers with something that trains.
        num_trainable: Number of values that training moves.
        num_frozen: Number of values in weights that it does not (moving averages of batch
            normalisation count here even where they are updated).
        batch_norm: "frozen" in every group, "train" in the groups that do, or "none" when the
            model has no batch normalisation.
    """

    groups: tuple[str, ...]
    frozen_groups: tuple[str, ...]
    layers: tuple[str, ...]
    num_trainable: int
    num_frozen: int
    batch_norm: str

    def __str__(self) -> str:
        total = self.num_trainable + self.num_frozen
        lines = [
            f"{self.num_trainable:,} of {total:,} parameters train, in {len(self.layers)} "
            f"layer{'' if len(self.layers) == 1 else 's'}",
            f"  trains: {', '.join(self.groups)}",
            f"  frozen: {', '.join(self.frozen_groups) or 'no group'}",
        ]
        if self.batch_norm == "frozen":
            lines.append("  batch normalisation: frozen in all groups")
        return "\n".join(lines)


def layer_groups(model: keras.Model) -> tuple[LayerGroup, ...]:
    """Returns the groups of a functional (or Sequential) model, input side first, "head" last.

    Groups end at cuts, tensors that every path from input to output crosses, one for each change
    of resolution; so a group never ends inside a residual block. The head is what follows the
    last cut with positions, from the global pooling or flattening on.

    A model that has grown (`add_classes`, `widen_layer`, `expand`) has the groups that it had
    before; what was added is in the group of the layer that it stands beside.

    Args:
        model: A functional model.

    Raises:
        ArgumentError: The model is not functional, has several inputs or outputs, or a layer with
            weights stands both in the head and before it.

    Example:
        >>> import tlkit
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> print(tlkit.layer_groups(model)[-1])
        head: 3 layers, 194 parameters, up to logits
        >>> [group.name for group in tlkit.layer_groups(model)]
        ['stage1', 'stage2', 'stage3', 'head']
    """
    segmentation = segment(model)
    members = _members(segmentation)
    names = name_groups(members)
    return tuple(
        LayerGroup(
            name=name,
            layers=tuple(layer.name for layer in layers),
            num_parameters=count_parameters(layers),
            boundary=segmentation.cuts[end].operation.name,
        )
        for name, layers, end in zip(names, members, segmentation.ends, strict=True)
    )


def cuts(model: keras.Model) -> list[keras.KerasTensor]:
    """Returns the tensors that every path from input to output crosses, input and output included.

    `keras.Model(model.input, cut)` is the part before a cut, `keras.Model(cut, model.output)` the
    part behind it; nothing else connects the two.

    Raises:
        ArgumentError: The model is not functional, or has several inputs or outputs.

    Example:
        >>> import keras
        >>> from tlkit.models.groups import cuts
        >>> x = keras.Input((8,))
        >>> y = keras.layers.Dense(8)(x)
        >>> z = keras.layers.Add()([x, y])
        >>> len(cuts(keras.Model(x, z)))  # y is bypassed
        2
    """
    return [cut.tensor for cut in find_cuts(model) if cut.is_whole]


def cut_before(model: keras.Model, group_name: str) -> keras.KerasTensor:
    """Returns the tensor that the group `group_name` reads; the model's input for the first.

    Where layers that were added run beside those of the start there, a group reads several; it is
    the last tensor before them that every path crosses then.

    Raises:
        ArgumentError: There is no such group.

    Example:
        >>> import tlkit
        >>> from tlkit.models.groups import cut_before
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> cut_before(model, "stage3").shape
        (None, 16, 16, 48)
    """
    segmentation = segment(model)
    group = _resolve(name_groups(_members(segmentation)), group_name, "group_name")
    return segmentation.whole_cut(segmentation.starts[group]).tensor


def resolve_group(model: keras.Model, unfreeze: str | int) -> int:
    """Returns the index in `layer_groups(model)` of the first group that `unfreeze` means.

    Args:
        model: A functional model.
        unfreeze: A group's name, "head", "all", "new", or a number of groups counted from the
            output (1 is the head).

    Raises:
        ArgumentError: There is no such group; near matches and all groups are given. Or nothing
            was added to the model that "new" could mean.

    Example:
        >>> import tlkit
        >>> from tlkit.models.groups import resolve_group
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> resolve_group(model, 2), resolve_group(model, "head"), resolve_group(model, "all")
        (2, 3, 0)
    """
    members = _members(segment(model))
    if unfreeze == NEW:
        new = {id(layer) for layer in _newest_layers(model)}
        return min(i for i, layers in enumerate(members) if any(id(one) in new for one in layers))
    return _resolve(name_groups(members), unfreeze, "unfreeze")


def set_trainable(
    model: keras.Model, unfreeze: str | int, *, batch_norm: str = "frozen"
) -> TrainableReport:
    """Lets a group and all after it train, freezes the rest, and reports what will move.

    A compiled model must be compiled again before it trains.

    Args:
        model: A functional model; its layers are changed in place.
        unfreeze: A group's name, "head", "all", or a number of groups counted from the output (1
            is the head). Of a model that has grown, "new": what the last `add_classes` added, and
            all that was added after it, wherever it stands, and nothing else (without added classes
            all that was added). What grew in isolation then never moves an old output.
        batch_norm: "frozen" freezes batch normalisation everywhere, which then also computes with
            its moving averages during training; "train" lets it train in the groups that do.

    Raises:
        ArgumentError: There is no such group, or it has nothing that could train; nothing was
            added that "new" could mean. The model is unchanged then.

    Example:
        >>> import tlkit
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> print(tlkit.set_trainable(model, "head"))
        194 of 591,090 parameters train, in 1 layer
          trains: head
          frozen: stage1, stage2, stage3
          batch normalisation: frozen in all groups
    """
    check_choice("batch_norm", batch_norm, ("frozen", "train"))
    members = _members(segment(model))
    names = name_groups(members)
    first = resolve_group(model, unfreeze)
    chosen = (
        _newest_layers(model) if unfreeze == NEW else [one for g in members[first:] for one in g]
    )
    is_chosen = {id(layer) for layer in chosen}
    before = [(layer, layer.trainable) for layer in with_nested(model)]

    model.trainable = True  # would otherwise hide what its layers train
    for layer in (layer for layers in members for layer in layers):
        # Each nested layer by itself: on TensorFlow, assigning the value that an attribute
        # has already is skipped, and with it Keras's setter that would reach them
        for nested in with_nested(layer):
            is_kept = batch_norm == "frozen" and isinstance(nested, keras.layers.BatchNormalization)
            nested.trainable = id(layer) in is_chosen and not is_kept

    has_batch_norm = any(
        isinstance(layer, keras.layers.BatchNormalization) for layer in with_nested(model)
    )
    moving = {id(variable) for variable in model.trainable_variables}
    trains = [
        [layer for layer in layers if any(id(v) in moving for v in layer.trainable_variables)]
        for layers in members
    ]
    if not trains[first]:
        for layer, trainable in before:
            layer.trainable = trainable
        usable = [name for name, layers in zip(names, trains, strict=True) if layers]
        raise ArgumentError(
            "`unfreeze` must be a group with something that can train. "
            f"Received: unfreeze={unfreeze!r}, and the group {names[first]!r} has no such weights "
            f"(batch normalisation: {batch_norm}). "
            f"Groups that have: {', '.join(usable) or 'none of those after it'}."
        )
    num_trainable = sum(prod(variable.shape) for variable in model.trainable_variables)
    return TrainableReport(
        groups=tuple(name for name, layers in zip(names, trains, strict=True) if layers),
        frozen_groups=tuple(name for name, layers in zip(names, trains, strict=True) if not layers),
        layers=tuple(layer.name for layers in trains for layer in layers),
        num_trainable=num_trainable,
        num_frozen=model.count_params() - num_trainable,
        batch_norm=batch_norm if has_batch_norm else "none",
    )


def group_layers(model: keras.Model) -> tuple[tuple[keras.layers.Layer, ...], ...]:
    """Returns the layers themselves of each group, in the order of `layer_groups(model)`.

    Example:
        >>> import tlkit
        >>> from tlkit.models.groups import group_layers
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> [layer.name for layer in group_layers(model)[-1]]
        ['head_pool', 'head_dropout', 'logits']
    """
    return tuple(tuple(layers) for layers in _members(segment(model)))


def _members(segmentation: Segmentation) -> list[list[keras.layers.Layer]]:
    """Returns the layers of each group; one without weights that is reused, in its first group."""
    placed: set[int] = set()
    members: list[list[keras.layers.Layer]] = []
    for index in range(len(segmentation.ends)):
        layers = [
            operation
            for operation in segmentation.operations(index)
            if isinstance(operation, keras.layers.Layer) and id(operation) not in placed
        ]
        placed |= {id(layer) for layer in layers}
        members.append(layers)
    return members


def _newest_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns what the last classes that were added brought, and all that was added after them."""
    names = {layer.name for layer in model.layers}
    since = read(model).newest_classes or 1
    new = [layer for layer in model.layers if grown_name_of(layer, names).number >= since]
    if not new:
        raise ArgumentError(
            "`unfreeze` must be 'new' only where the model has layers that were added. "
            f"Received: unfreeze='new', and model={model.name!r} has none. Add some "
            "(tlkit.add_classes, tlkit.expand), or name a group: "
            f"{', '.join(name_groups(_members(segment(model))))}."
        )
    return new


def _resolve(names: list[str], group: str | int, argument: str) -> int:
    if group == "all":
        return 0
    if isinstance(group, str) and group in names:
        return names.index(group)
    if isinstance(group, Integral) and not isinstance(group, bool) and 1 <= group <= len(names):
        return len(names) - group
    raise ArgumentError(
        f"`{argument}` must be the name of a group, 'head', 'all', or a number of groups from 1 "
        f"to {len(names)} counted from the output. Received: {argument}={group!r}."
        f"{did_you_mean(group, names)} Groups, input side first: {', '.join(names)}."
    )
