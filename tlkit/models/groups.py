"""Groups of layers, found from the graph, and which of them train."""

from dataclasses import dataclass
from math import prod

import keras

from tlkit.errors import ArgumentError, check_choice
from tlkit.models.boundaries import name_groups, segment
from tlkit.models.cuts import find_cuts
from tlkit.models.flattening import flat
from tlkit.models.graph import count_parameters, parameters, with_nested
from tlkit.models.group_choice import (
    AS_IS,
    NEW,
    first_group,
    index_of,
    members_of,
    newest_layers,
)
from tlkit.models.recompiling import compile_again
from tlkit.models.trainable import Flags, note_as_left, set_flag
from tlkit.utils.text_repr import ShownAsText


@dataclass(frozen=True)
class LayerGroup(ShownAsText):
    """A run of layers between two cuts.

    Attributes:
        name: "head" for the last group; the prefix its layers share (`block5`), else `group_N`,
            N counted from the input.
        layers: Names of its layers, input side first. Every layer is in exactly one group. Layers
            of nested models stand here like those of the model; where several bear one name, with
            the nested model's before it (`base/conv1`).
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
        layers: Names of the layers with something that trains, as in `LayerGroup`.
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
    before; what was added is in the group of the layer that it stands beside. Of models nested in
    it (`Sequential([base, Flatten(), Dense(2)])`) the layers count, as if they stood in the model
    itself; a nested model with a `call` of its own counts as one layer.

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
    members = members_of(segmentation)
    names, layer_names = name_groups(members), flat(model).names
    return tuple(
        LayerGroup(
            name=name,
            layers=tuple(layer_names[id(layer)] for layer in layers),
            num_parameters=count_parameters(layers),
            boundary=segmentation.cuts[end].operation.name,
        )
        for name, layers, end in zip(names, members, segmentation.ends, strict=True)
    )


def cuts(model: keras.Model) -> list[keras.KerasTensor]:
    """Returns the tensors that every path from input to output crosses, input and output included.

    `keras.Model(model.input, cut)` is the part before a cut, `keras.Model(cut, model.output)` the
    part behind it; nothing else connects the two. Where models are nested in it, the parts are
    `tlkit.models.flattening.below(model, cut)` and `above(model, cut)`.

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
    group = index_of(name_groups(members_of(segmentation)), group_name, "group_name")
    return segmentation.whole_cut(segmentation.starts[group]).tensor


def resolve_group(model: keras.Model, unfreeze: str | int) -> int:
    """Returns the index in `layer_groups(model)` of the first group that `unfreeze` means.

    Args:
        model: A functional model.
        unfreeze: A group's name, "head", "all", "new", "as_is", or a number of groups counted from
            the output (1 is the head).

    Raises:
        ArgumentError: There is no such group; near matches and all groups are given. Or nothing
            was added to the model that "new" could mean, or nothing trains as it is.

    Example:
        >>> import tlkit
        >>> from tlkit.models.groups import resolve_group
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> resolve_group(model, 2), resolve_group(model, "head"), resolve_group(model, "all")
        (2, 3, 0)
    """
    return first_group(model, members_of(segment(model)), unfreeze)


def set_trainable(
    model: keras.Model, unfreeze: str | int, *, batch_norm: str = "frozen"
) -> TrainableReport:
    """Lets a group and all after it train, freezes the rest, and reports what will move.

    It reaches into nested models. What it sets counts as set by hand: `fine_tune` keeps to it
    unless told otherwise. A model that is compiled is compiled again as it was, with a new
    optimizer of the same settings, for Keras would go on with what trained before.

    Args:
        model: A functional model; its layers are changed in place.
        unfreeze: A group's name, "head", "all", or a number of groups counted from the output (1
            is the head). Of a model that has grown, "new": what the last `add_classes` added, and
            all that was added after it, wherever it stands, and nothing else (without added classes
            all that was added). What grew in isolation then never moves an old output. "as_is":
            what trains by the layers' `trainable` flags, which are left as they are.
        batch_norm: "frozen" freezes batch normalisation everywhere, which then also computes with
            its moving averages during training; "train" lets it train in the groups that do. Of no
            effect with "as_is".

    Raises:
        ArgumentError: There is no such group, or it has nothing that could train; nothing was
            added that "new" could mean; nothing trains as it is. The model is unchanged then.

    Example:
        >>> import tlkit
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> print(tlkit.set_trainable(model, "head"))
        194 of 591,090 parameters train, in 1 layer
          trains: head
          frozen: stage1, stage2, stage3
          batch normalisation: frozen in all groups
    """
    report = let_train(model, unfreeze, batch_norm=batch_norm)
    compile_again(model)
    return report


def let_train(
    model: keras.Model, unfreeze: str | int, *, batch_norm: str = "frozen"
) -> TrainableReport:
    """Does what `set_trainable` does, and leaves it to the caller what Keras is to know of it.

    Raises:
        ArgumentError: See `set_trainable`.
    """
    check_choice("batch_norm", batch_norm, ("frozen", "train"))
    members = members_of(segment(model))
    first = resolve_group(model, unfreeze)
    if unfreeze == AS_IS:
        return _report(model, members, None)
    chosen = (
        newest_layers(model) if unfreeze == NEW else [one for g in members[first:] for one in g]
    )
    is_chosen = {id(layer) for layer in chosen}
    before = Flags.of(model)

    of_groups = {id(one) for layers in members for layer in layers for one in with_nested(layer)}
    for layer in with_nested(model):  # a model round others would hide what they train
        set_flag(layer, any(id(one) in of_groups for one in with_nested(layer)))
    for layer in (layer for layers in members for layer in layers):
        for nested in with_nested(layer):
            is_kept = batch_norm == "frozen" and isinstance(nested, keras.layers.BatchNormalization)
            set_flag(nested, id(layer) in is_chosen and not is_kept)

    report = _report(model, members, batch_norm)
    names = name_groups(members)
    if names[first] not in report.groups:
        before.restore()
        raise ArgumentError(
            "`unfreeze` must be a group with something that can train. "
            f"Received: unfreeze={unfreeze!r}, and the group {names[first]!r} has no such weights "
            f"(batch normalisation: {batch_norm}). "
            f"Groups that have: {', '.join(report.groups) or 'none of those after it'}."
        )
    return report


def choose_trainable(
    model: keras.Model, unfreeze: str | int, *, batch_norm: str = "frozen"
) -> TrainableReport:
    """Does what `let_train` does, for a purpose of tlkit's own: not as if set by hand."""
    report = let_train(model, unfreeze, batch_norm=batch_norm)
    if unfreeze != AS_IS:
        note_as_left(model)
    return report


def _report(
    model: keras.Model, members: list[list[keras.layers.Layer]], batch_norm: str | None
) -> TrainableReport:
    """Says what trains as the flags are; `None` looks what batch normalisation does by them."""
    moving = {id(variable) for variable in model.trainable_variables}
    names, layer_names = name_groups(members), flat(model).names
    trains = [
        [layer for layer in layers if any(id(v) in moving for v in parameters(layer))]
        for layers in members
    ]
    norms = [one for one in with_nested(model) if isinstance(one, keras.layers.BatchNormalization)]
    if batch_norm is None:
        batch_norm = "train" if any(layer.trainable for layer in norms) else "frozen"
    num_trainable = sum(prod(variable.shape) for variable in model.trainable_variables)
    return TrainableReport(
        groups=tuple(name for name, layers in zip(names, trains, strict=True) if layers),
        frozen_groups=tuple(name for name, layers in zip(names, trains, strict=True) if not layers),
        layers=tuple(layer_names[id(layer)] for layers in trains for layer in layers),
        num_trainable=num_trainable,
        num_frozen=model.count_params() - num_trainable,
        batch_norm=batch_norm if norms else "none",
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
    return tuple(tuple(layers) for layers in members_of(segment(model)))
