"""The boundaries of groups of layers: cuts, one per change of resolution."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import log2

import keras
import numpy as np

from tlkit.errors import ArgumentError
from tlkit.models.cuts import Cut, find_cuts
from tlkit.models.graph import FIRST_OF_KERNEL, parameters, with_nested
from tlkit.utils.keras_private import is_graph_operation

SIZE_MARGIN = 2  # a cut up to this factor larger than the smallest still counts as small
NAME_FRACTION = 0.8  # fraction of a group's layers with a prefix that makes it the group's name

_PADDING = tuple(
    getattr(keras.layers, f"{kind}{n}D") for kind in ("ZeroPadding", "Cropping") for n in (1, 2, 3)
)
_GLOBAL_POOLING = tuple(
    getattr(keras.layers, f"Global{kind}Pooling{n}D")
    for kind in ("Average", "Max")
    for n in (1, 2, 3)
)
_TOKENS = 2  # dimensions of tokens and channels
_ATTENTION = (
    keras.layers.AdditiveAttention,
    keras.layers.Attention,
    keras.layers.GroupQueryAttention,
    keras.layers.MultiHeadAttention,
    keras.layers.Softmax,
)
_ATTENTION_CODE = {"DotProductAttention", "Softmax"}
_NOISE = (
    keras.layers.Dropout,
    keras.layers.AlphaDropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
)


@dataclass(frozen=True)
class Segmentation:
    """A model's cuts, and the indices of those at which its groups end.

    Attributes:
        cuts: All cuts except those after padding, input first, output last.
        ends: Ascending indices into `cuts`, one per group; the last is that of the output.
    """

    cuts: tuple[Cut, ...]
    ends: tuple[int, ...]

    @property
    def starts(self) -> tuple[int, ...]:
        """The index of the cut that each group reads; the first group reads the input."""
        return (0, *self.ends[:-1])

    def whole_cut(self, index: int) -> Cut:
        """Returns the cut at an index, or the last one before it that is a single tensor.

        There always is one, as the input is a single tensor.
        """
        return next(cut for cut in reversed(self.cuts[: index + 1]) if cut.is_whole)

    def operations(self, group: int) -> list[keras.Operation]:
        """Returns the operations of one group, each once, in order."""
        first = 0 if group == 0 else self.ends[group - 1] + 1
        cuts = self.cuts[first : self.ends[group] + 1]
        return list({id(op): op for cut in cuts for op in cut.between}.values())


def segment(model: keras.Model) -> Segmentation:
    """Finds the groups of a functional model.

    A grown model has the groups that it had before; an added layer is in the group of the layer
    that it extends.

    The last group, the head, consists of all layers after the last cut with positions (rows,
    columns, time steps) before global pooling or flattening; in a network without positions, it is
    the last layer with weights. Before it, a group ends where the resolution halves: after the
    pooling that halves it, else at the last small cut before the layer that halves it, which in a
    residual network is the end of a block. In a transformer, where most blocks have one resolution,
    each block is a group: one ends before each part with attention between positions.

    Raises:
        ArgumentError: The model is not functional, has several inputs or outputs, or a layer with
            weights is called both in the head and before it.
    """
    cuts = _without_padding(find_cuts(model))
    head_start = _head_start(cuts)
    ends = [*_resolution_ends(cuts[: head_start + 1]), *_block_ends(cuts[: head_start + 1])]
    ends = [*sorted(set(ends) - {head_start}), head_start]
    shared = _shared_layers(cuts)
    for name, first, last in shared:
        if first <= head_start < last:
            raise ArgumentError(
                "`model` must have a head that shares no layer with the backbone. Received: "
                f"model={model.name!r}, whose layer {name!r} is called both in the head and "
                "before it. Use two layers, or `keras.models.clone_model` one of them."
            )
    ends = [end for end in ends if not any(first <= end < last for _, first, last in shared)]
    return Segmentation(tuple(cuts), (*_with_parameters(cuts, ends), len(cuts) - 1))


def head_feature_index(segmentation: Segmentation) -> int | None:
    """Returns the index of the cut that the head's first weighted or dropout layer reads.

    A closed-form head counts from its first layer on, which standardises the features.
    """
    start = segmentation.starts[-1]
    for index in range(start + 1, len(segmentation.cuts)):
        cut = segmentation.cuts[index]
        if cut.parameters or _has_noise(cut) or _is_first_of_kernel(cut):
            return index - 1
    return None


def name_groups(groups: Sequence[Sequence[keras.layers.Layer]]) -> list[str]:
    """Names groups by the common prefix of their layers, else `group_N`; the last is "head".

    Layers with automatic names of Keras are ignored, since those names depend on what else was
    built in the process.

    Example:
        >>> import keras
        >>> from tlkit.models.boundaries import name_groups
        >>> layers = [keras.layers.Dense(1, name=name) for name in ("block2a_fc", "block2b_fc")]
        >>> model = keras.Sequential([keras.Input((4,)), *layers])
        >>> name_groups([model.layers, []])
        ['block2', 'head']
    """
    shared = [_shared_prefix([layer for layer in group if parameters(layer)]) for group in groups]
    counts = Counter(shared)
    fallbacks = [f"group_{position}" for position in range(1, len(groups) + 1)]
    names = [
        prefix if prefix and counts[prefix] == 1 and prefix not in fallbacks else fallback
        for prefix, fallback in zip(shared, fallbacks, strict=True)
    ]
    return [*names[:-1], "head"]


def _is_first_of_kernel(cut: Cut) -> bool:
    """Whether the first layer of a closed-form head computes a cut."""
    return any(operation.name == FIRST_OF_KERNEL for operation in cut.between)


def _without_padding(cuts: list[Cut]) -> list[Cut]:
    """Merges cuts after padding or cropping with the next, as they never end a block."""
    merged: list[Cut] = []
    waiting: tuple[keras.Operation, ...] = ()
    for cut in cuts:
        if isinstance(cut.operation, _PADDING) and cut is not cuts[-1]:
            waiting += cut.between
            continue
        merged.append(replace(cut, between=waiting + cut.between))
        waiting = ()
    return merged


def _head_start(cuts: list[Cut]) -> int:
    """Returns the index of the cut that the head reads."""
    for index in range(1, len(cuts)):
        gives_up_positions = not cuts[index].is_spatial or isinstance(
            cuts[index].operation, _GLOBAL_POOLING
        )
        if cuts[index - 1].is_spatial and gives_up_positions:
            if _has_attention(cuts[index]):  # a pretrained pooling belongs to the backbone
                return index
            if any(cut.parameters for cut in cuts[:index]):
                return index - 1
            break  # flattened before the first layer with weights: a stack of Dense layers
    weighted = [index for index, cut in enumerate(cuts) if cut.parameters]
    # without positions, all layers of a closed-form head belong to it, not only its last one
    kernel = [index for index, cut in enumerate(cuts) if _is_first_of_kernel(cut)]
    start = [*weighted, *kernel][-1] - 1 if weighted else 0
    while start > 0 and _has_noise(cuts[start]) and not cuts[start].parameters:
        start -= 1
    return max(start, 0)


def _resolution_ends(cuts: list[Cut]) -> list[int]:
    """Returns the indices of the cuts before the head at which a resolution ends."""
    levels = _levels(cuts)
    ends: list[int] = []
    for index in range(1, len(cuts)):
        before, after = levels[index - 1], levels[index]
        if before is None or after is None or before == after:
            continue
        end = index
        if cuts[index].parameters:
            end = _last_small_cut(cuts, levels, index - 1)
        if not ends or end > ends[-1]:
            ends.append(end)
    return [end for end in ends if end < len(cuts) - 1]


def _block_ends(cuts: list[Cut]) -> list[int]:
    """Returns the indices of the cuts between tokens and the attention that reads them."""
    return [
        index - 1
        for index in range(1, len(cuts))
        if len(cuts[index - 1].shape) == _TOKENS and _has_attention(cuts[index])
    ]


def _levels(cuts: list[Cut]) -> list[int | None]:
    """Returns the number of halvings of the resolution at each cut; `None` without positions."""
    spatial = [cut for cut in cuts if cut.is_spatial]
    if not spatial:
        return [None] * len(cuts)
    num_sides = len(spatial[0].shape) - 1
    return [
        round(log2(spatial[0].num_positions / cut.num_positions) / num_sides)
        if cut.is_spatial
        else None
        for cut in cuts
    ]


def _last_small_cut(cuts: list[Cut], levels: list[int | None], last: int) -> int:
    """Returns the last small cut after the last spatial kernel at the resolution of `last`."""
    first = last
    while first > 0 and levels[first - 1] == levels[last] and not _has_spatial_kernel(cuts[first]):
        first -= 1
    candidates = range(first, last + 1)
    smallest = min(cuts[index].num_values for index in candidates)
    return max(i for i in candidates if cuts[i].num_values <= SIZE_MARGIN * smallest)


def _has_spatial_kernel(cut: Cut) -> bool:
    layers = [layer for operation in cut.between for layer in with_nested(operation)]
    return any(np.max(getattr(layer, "kernel_size", 1)) > 1 for layer in layers)


def _has_attention(cut: Cut) -> bool:
    """Whether positions are mixed with weights that are computed from them."""
    return any(
        isinstance(one, _ATTENTION)
        or (is_graph_operation(one) and type(one).__name__ in _ATTENTION_CODE)
        for operation in cut.between
        for one in (operation, *with_nested(operation))
    )


def _has_noise(cut: Cut) -> bool:
    return any(isinstance(operation, _NOISE) for operation in cut.between)


def _shared_layers(cuts: list[Cut]) -> list[tuple[str, int, int]]:
    """Returns the name, first and last cut of each layer with weights that is called repeatedly."""
    calls: dict[int, list[int]] = {}
    names: dict[int, str] = {}
    for index, cut in enumerate(cuts):
        for operation in cut.between:
            if parameters(operation):
                calls.setdefault(id(operation), []).append(index)
                names[id(operation)] = operation.name
    return [(names[key], found[0], found[-1]) for key, found in calls.items() if len(found) > 1]


def _with_parameters(cuts: list[Cut], ends: Iterable[int]) -> list[int]:
    """Merges groups without parameters with the next group, by dropping their ends.

    A group right before the head is merged with the previous group instead.
    """
    kept: list[int] = []
    start = 0
    for end in ends:
        if any(cut.parameters for cut in cuts[start : end + 1]):
            kept.append(end)
            start = end + 1
        elif end == max(ends) and kept:
            kept[-1] = end
    return kept


def _shared_prefix(layers: list[keras.layers.Layer]) -> str | None:
    """Returns the longest prefix that ends with a number and that enough of the layers share."""
    votes = Counter(
        prefix
        for layer in layers
        if not _has_automatic_name(layer)
        for prefix in _numbered_prefixes(layer.name)
    )
    needed = NAME_FRACTION * sum(not _has_automatic_name(layer) for layer in layers)
    agreed = [prefix for prefix, count in votes.items() if count >= needed]
    return max(agreed, key=len, default=None)


def _numbered_prefixes(name: str) -> list[str]:
    """Returns the prefixes that end with a digit, before "_", a letter or the end of the name."""
    return [name[: m.end()] for m in re.finditer(r"\d(?=_|[A-Za-z]|$)", name)]


def _has_automatic_name(layer: keras.layers.Layer) -> bool:
    words = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", type(layer).__name__)
    snake_case = re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()
    return re.fullmatch(rf"{re.escape(snake_case)}(_\d+)?", layer.name) is not None
