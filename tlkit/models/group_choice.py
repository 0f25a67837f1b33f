"""The choice of a group of layers: by name, by number, "new" layers, or the `trainable` flags."""

from numbers import Integral

import keras

from tlkit.errors import ArgumentError, did_you_mean
from tlkit.models.boundaries import Segmentation, name_groups, segment
from tlkit.models.graph import parameters, with_nested
from tlkit.models.grown_names import grown_name_of
from tlkit.models.layer_spec import parse_graph

ALL = "all"
"""The value of `unfreeze` that selects every group."""

NEW = "new"
"""The value of `unfreeze` that selects the layers added last."""

AS_IS = "as_is"
"""The value of `unfreeze` that selects what the layers' `trainable` flags select."""


def members_of(segmentation: Segmentation) -> list[list[keras.layers.Layer]]:
    """Returns the layers of each group; a reused layer without weights is in its first group."""
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


def first_group(
    model: keras.Model, members: list[list[keras.layers.Layer]], unfreeze: str | int
) -> int:
    """Returns the index of the first trainable group, see `tlkit.models.groups.resolve_group`.

    Raises:
        ArgumentError: There is no such group.
    """
    if unfreeze == NEW:
        new = {id(layer) for layer in newest_layers(model)}
        return min(i for i, layers in enumerate(members) if any(id(one) in new for one in layers))
    if unfreeze == AS_IS:
        return _first_as_is(model, members)
    return index_of(name_groups(members), unfreeze, "unfreeze")


def newest_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns the layers of the last added classes, and all layers added after them.

    Raises:
        ArgumentError: No layer was added.
    """
    names = {layer.name for layer in model.layers}
    since = parse_graph(model).newest_classes or 1
    new = [layer for layer in model.layers if grown_name_of(layer, names).number >= since]
    if not new:
        raise ArgumentError(
            "`unfreeze` must be 'new' only for a model with added layers. "
            f"Received: unfreeze='new', and model={model.name!r} without any. Add some "
            "(tlkit.add_classes, tlkit.expand), or name a group: "
            f"{', '.join(name_groups(members_of(segment(model))))}."
        )
    return new


def index_of(names: list[str], group: str | int, argument: str) -> int:
    """Returns the index of the first group that a name or a number selects.

    Raises:
        ArgumentError: There is no such group.
    """
    if group == ALL:
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


def _first_as_is(model: keras.Model, members: list[list[keras.layers.Layer]]) -> int:
    """Returns the index of the first group that training changes with the current flags."""
    trainable = {id(variable) for variable in model.trainable_variables}
    for index, layers in enumerate(members):
        for layer in (one for member in layers for one in with_nested(member)):
            has_statistics = isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
            if has_statistics or any(id(v) in trainable for v in parameters(layer)):
                return index
    groups = ", ".join(name_groups(members))
    if not model.trainable:
        raise ArgumentError(
            "`model` must have trainable weights if `unfreeze` is 'as_is', its default for a model "
            f"with explicitly set flags. Received: model={model.name!r}, which is frozen as a "
            "whole: its own model.trainable is False, set explicitly or before it was saved. Set "
            "model.trainable = True, or name the groups to train, which overrides it: "
            f"unfreeze='all', or one of {groups}."
        )
    raise ArgumentError(
        "`model` must have trainable weights if `unfreeze` is 'as_is', its default for a model "
        f"with explicitly set flags. Received: model={model.name!r}, all of whose layers have "
        "trainable=False, set explicitly or before it was saved. Set layer.trainable = True for "
        "the layers to train, or name the groups to train, which overrides the flags: "
        f"unfreeze='all', or one of {groups}."
    )
