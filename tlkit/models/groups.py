"""Groups of layers, derived from the graph, and setting which of them are trainable."""

from dataclasses import dataclass, field
from math import prod

import keras

from tlkit.errors import ArgumentError, check_choice
from tlkit.models.boundaries import name_groups, segment
from tlkit.models.cuts import find_cuts
from tlkit.models.flattening import flat
from tlkit.models.graph import FIXED_LAYER, count_parameters, parameters, with_nested
from tlkit.models.group_choice import (
    AS_IS,
    NEW,
    first_group,
    index_of,
    members_of,
    newest_layers,
)
from tlkit.models.norm_statistics import check_batch_norm
from tlkit.models.part_names import PARTS
from tlkit.models.recompiling import recompile
from tlkit.models.trainable import Flags, record_flags, set_flag
from tlkit.utils.formatting import counted
from tlkit.utils.keras_private import inner_layers, own_trainable_variables
from tlkit.utils.text_repr import ShownAsText

_NORMALISATIONS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
)


@dataclass(frozen=True)
class LayerGroup(ShownAsText):
    """A run of layers between two cuts.

    Attributes:
        name: "head" for the last group; the common prefix of its layers (`block5`), else `group_N`,
            N counted from the input.
        layers: Names of its layers, input side first. Every layer is in exactly one group. Layers
            of nested models are included; if a name is not unique, it is prefixed with the nested
            model's name (`base/conv1`).
        num_parameters: Number of values in the weights of its layers.
        boundary: Name of the layer (or operation) whose output is the cut at the end of the group.
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
    """The trainable groups after `set_trainable`, from the model's trainable variables.

    Attributes:
        groups: Names of the groups with trainable weights, input side first.
        frozen_groups: Names of the other groups.
        layers: Names of the layers with trainable weights, as in `LayerGroup`.
        num_trainable: Number of trainable parameters.
        num_frozen: Number of frozen parameters (including moving averages of batch
            normalisation, even if they are updated).
        batch_norm: "frozen" in every group; in the trainable groups "affine" (scales and offsets
            only), "offsets" (only these) or "train"; "none" if the model has no batch
            normalisation.
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
            f"{self.num_trainable:,} of {total:,} parameters trainable, in "
            f"{counted(len(self.layers), 'layer')}",
            f"  trainable: {', '.join(self.groups)}",
            f"  frozen: {', '.join(self.frozen_groups) or 'no group'}",
        ]
        if self.batch_norm == "frozen":
            lines.append("  batch normalisation: frozen in all groups")
        if self.batch_norm == "affine":
            lines.append("  batch normalisation: scales and offsets trainable, statistics frozen")
        if self.batch_norm == "offsets":
            lines.append("  batch normalisation: offsets trainable, scales and statistics frozen")
        return "\n".join(lines)


def layer_groups(model: keras.Model) -> tuple[LayerGroup, ...]:
    """Returns the groups of a functional (or Sequential) model, input side first, "head" last.

    Groups end at cuts, tensors that every path from input to output crosses, one for each change
    of resolution, and in transformers one before the attention of each block; so a group never ends
    inside a residual block of a convolutional network. The head consists of all layers from the
    global pooling, the class token or flattening on.

    A grown model (`add_classes`, `widen_layer`, `expand`) has the groups that it had before; an
    added layer is in the group of the layer that it extends. The layers of nested models
    (`Sequential([base, Flatten(), Dense(2)])`) are treated like layers of the model itself; a
    nested model with a `call` of its own counts as one layer.

    Args:
        model: A functional model.

    Raises:
        ArgumentError: The model is not functional, has several inputs or outputs, or a layer with
            weights is called both in the head and before it.

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
    part after it; nothing else connects the two. For a model with nested models the parts are
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

    If added layers run in parallel with the original ones there, a group reads several tensors;
    then it is the last tensor before them that every path crosses.

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
    """Returns the index in `layer_groups(model)` of the first group that `unfreeze` selects.

    Args:
        model: A functional model.
        unfreeze: A group's name, "head", "all", "new", "as_is", or a number of groups counted from
            the output (1 is the head).

    Raises:
        ArgumentError: There is no such group; near matches and all groups are listed. Or "new" was
            given for a model without added layers, or "as_is" for a frozen model.

    Example:
        >>> import tlkit
        >>> from tlkit.models.groups import resolve_group
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> resolve_group(model, 2), resolve_group(model, "head"), resolve_group(model, "all")
        (2, 3, 0)
    """
    return first_group(model, members_of(segment(model)), unfreeze)


@dataclass(frozen=True)
class Parts:
    """Which weights of the chosen layers are trained; those of the head always are.

    Attributes:
        kind: One of `PARTS`.
        groups: Names of the groups that it is limited to; `None` for all chosen ones.
        argument: The argument that named them, in errors.
    """

    kind: str = "all"
    groups: tuple[str, ...] | None = None
    argument: str = field(default="train", compare=False)

    def has(self, layer: keras.layers.Layer, variable: keras.Variable, group: str) -> bool:
        """Whether a layer's variable, in a group before the head, is one of them."""
        if self.groups is not None and group not in self.groups:
            return False
        if self.kind == "bias":
            return str(variable.name).endswith(("bias", "beta"))
        if self.kind == "norm":
            return isinstance(layer, _NORMALISATIONS)
        return self.kind == "all" or is_kernel(variable)


ALL_PARTS = Parts()


def is_kernel(variable: keras.Variable) -> bool:
    """Whether a variable is a kernel, by Keras's names: "kernel", "depthwise_kernel" and so on."""
    return len(variable.shape) > 1 and str(variable.name).endswith("kernel")


def set_trainable(
    model: keras.Model, unfreeze: str | int, *, batch_norm: str = "frozen", train: str = "all"
) -> TrainableReport:
    """Makes a group and all groups after it trainable, freezes the rest, and reports the result.

    It also sets layers of nested models. The flags count as explicitly set: `fine_tune` respects
    them by default. A compiled model is recompiled with the same settings and a new optimizer,
    because Keras would continue to train the variables that were trainable before.

    Args:
        model: A functional model; its layers are changed in place.
        unfreeze: A group's name, "head", "all", or a number of groups counted from the output (1
            is the head). "new" (for a grown model): only the layers added by the last `add_classes`
            and after it, in any group (all added layers without added classes); with layers grown
            in isolation this never changes an old output. "as_is": the layers whose `trainable`
            flags are set, which are not changed.
        batch_norm: "frozen" freezes batch normalisation everywhere, which then also uses its moving
            averages during training; "train" makes it trainable in the trainable groups; "affine"
            does so, too, for training code that calls it in inference mode, as `fine_tune` does:
            scales and offsets are then trained, and the statistics stay. Ignored with "as_is".
        train: "all" weights of these groups; "bias": only biases and the offsets of normalisation;
            "norm": only scales and offsets of normalisation; "kernel": only kernels. The head is
            always trained as a whole. Ignored with "as_is".

    Raises:
        ArgumentError: There is no such group, or it has no weights that can be trainable; "new" was
            given for a model without added layers, or "as_is" for a frozen model. The model is
            unchanged then.

    Example:
        >>> import tlkit
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> print(tlkit.set_trainable(model, "head"))
        194 of 591,090 parameters trainable, in 1 layer
          trainable: head
          frozen: stage1, stage2, stage3
          batch normalisation: frozen in all groups
    """
    check_choice("train", train, PARTS)
    report = set_trainable_flags(model, unfreeze, batch_norm=batch_norm, parts=Parts(train))
    recompile(model)
    return report


def set_trainable_flags(
    model: keras.Model,
    unfreeze: str | int,
    *,
    batch_norm: str = "frozen",
    parts: Parts = ALL_PARTS,
) -> TrainableReport:
    """Does the same as `set_trainable`, without recompiling the model.

    Raises:
        ArgumentError: See `set_trainable`.
    """
    check_batch_norm(batch_norm, model)
    if batch_norm == "train" and parts != ALL_PARTS:
        raise ArgumentError(
            f"`batch_norm` must be 'affine' or 'frozen' with `{parts.argument}`, which trains only "
            "parts of the layers. Received: batch_norm='train'. Leave it out."
        )
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
    for layer in with_nested(model):  # a frozen enclosing model would freeze its layers
        set_flag(layer, any(id(one) in of_groups for one in with_nested(layer)))
    for layer in (layer for layers in members for layer in layers):
        for nested in with_nested(layer):
            is_norm = isinstance(nested, keras.layers.BatchNormalization)
            # The mode of a layer within another one follows from that one's
            is_kept = is_norm and (
                batch_norm == "frozen" or (batch_norm == "affine" and nested is not layer)
            )
            is_kept |= nested.name == FIXED_LAYER
            set_flag(nested, id(layer) in is_chosen and not is_kept)
    names = name_groups(members)
    _freeze_other_parts(names, members, parts)

    report = _report(model, members, batch_norm)
    if parts != ALL_PARTS and report.groups in ((), (names[-1],)):
        before.restore()
        what = parts.kind if parts.groups is None else f"{parts.kind} in {list(parts.groups)}"
        raise ArgumentError(
            f"`{parts.argument}` must fit weights that the unfrozen groups before the head have. "
            f"Received: {parts.argument} for {what}, and there are none in "
            f"{', '.join(names[first:-1]) or 'any'} (batch normalisation: {batch_norm}). Unfreeze "
            f"more groups, or leave `{parts.argument}` out."
        )
    if parts == ALL_PARTS and names[first] not in report.groups:
        before.restore()
        raise ArgumentError(
            "`unfreeze` must be a group with weights that can be trainable. "
            f"Received: unfreeze={unfreeze!r}, and the group {names[first]!r} has none "
            f"(batch normalisation: {batch_norm}). "
            f"Groups with such weights: {', '.join(report.groups) or 'none of those after it'}."
        )
    return report


def _freeze_other_parts(
    names: list[str], members: list[list[keras.layers.Layer]], parts: Parts
) -> None:
    """Freezes the variables before the head that are not among `parts`."""
    if parts == ALL_PARTS:
        return
    for name, layers in zip(names[:-1], members[:-1], strict=True):
        for layer in (nested for one in layers for nested in with_nested(one)):
            own = own_trainable_variables(layer)
            others = [variable for variable in own if not parts.has(layer, variable, name)]
            if own and len(others) == len(own) and not inner_layers(layer):
                set_flag(layer, False)  # batch normalisation then keeps its statistics, too
            for variable in others:
                variable.trainable = False


def choose_trainable(
    model: keras.Model,
    unfreeze: str | int,
    *,
    batch_norm: str = "frozen",
    parts: Parts = ALL_PARTS,
) -> TrainableReport:
    """Does the same for tlkit's own purposes: the flags do not count as explicitly set."""
    report = set_trainable_flags(model, unfreeze, batch_norm=batch_norm, parts=parts)
    if unfreeze != AS_IS:
        record_flags(model)
    return report


def _report(
    model: keras.Model, members: list[list[keras.layers.Layer]], batch_norm: str | None
) -> TrainableReport:
    """Returns the report for the current flags; `batch_norm=None` derives it from the flags."""
    trainable = {id(variable) for variable in model.trainable_variables}
    names, layer_names = name_groups(members), flat(model).names
    trainable_layers = [
        [layer for layer in layers if any(id(v) in trainable for v in parameters(layer))]
        for layers in members
    ]
    norms = [one for one in with_nested(model) if isinstance(one, keras.layers.BatchNormalization)]
    if batch_norm is None:
        batch_norm = "train" if any(layer.trainable for layer in norms) else "frozen"
    elif batch_norm == "affine" and not any(id(layer.gamma) in trainable for layer in norms):
        has_offsets = any(id(layer.beta) in trainable for layer in norms)
        batch_norm = "offsets" if has_offsets else "frozen"
    num_trainable = sum(prod(variable.shape) for variable in model.trainable_variables)
    return TrainableReport(
        groups=tuple(name for name, layers in zip(names, trainable_layers, strict=True) if layers),
        frozen_groups=tuple(
            name for name, layers in zip(names, trainable_layers, strict=True) if not layers
        ),
        layers=tuple(layer_names[id(layer)] for layers in trainable_layers for layer in layers),
        num_trainable=num_trainable,
        num_frozen=model.count_params() - num_trainable,
        batch_norm=batch_norm if norms else "none",
    )


def group_layers(model: keras.Model) -> tuple[tuple[keras.layers.Layer, ...], ...]:
    """Returns the layer objects of each group, in the order of `layer_groups(model)`.

    Example:
        >>> import tlkit
        >>> from tlkit.models.groups import group_layers
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> [layer.name for layer in group_layers(model)[-1]]
        ['head_pool', 'head_dropout', 'logits']
    """
    return tuple(tuple(layers) for layers in members_of(segment(model)))
