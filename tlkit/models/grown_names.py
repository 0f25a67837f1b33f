"""Names of added layers: they record how a model has grown, and are kept in every saved model.

Growing a network changes none of its layers; it adds plain layers in parallel. Each call of
`add_classes` or `widen_layer` adds a *part*, numbered from 1; the original layers are part 0. For
the layer `fc`:

    fc__grown2          its units of part 2, which have the inputs of `fc`
    fc__grown2__reads1  the weights of those units for inputs from part 1
    fc__reads2          the weights of the units of part 0 for inputs from part 2
    fc__sum             part 0 as the sum of `fc` and all `fc__readsN`
    fc__activation      the activation of `fc` after that sum
    fc__grown2__sum, fc__grown2__activation    the same for part 2
    fc__classes         the concatenation of all parts of the logits

Layers in between (such as `relu`) have a copy for each part: `relu__grown2`.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

import keras

_PATTERN = re.compile(
    r"(?P<base>.+?)(?:__grown(?P<part>\d+))?"
    r"(?:__(?:reads(?P<reads>\d+)|(?P<role>sum|activation|classes)))?"
)


@dataclass(frozen=True)
class GrownName:
    """A parsed layer name.

    Attributes:
        base: Name of the layer that it extends; its own name for an original layer.
        part: Number of the part whose units it computes.
        reads: Number of the part whose units it reads.
        role: "sum", "activation" or "classes" for a layer that joins others' outputs, else "".
    """

    base: str
    part: int = 0
    reads: int = 0
    role: str = ""

    def __str__(self) -> str:
        grown = f"__grown{self.part}" if self.part else ""
        reads = f"__reads{self.reads}" if self.reads else ""
        return f"{self.base}{grown}{reads}{f'__{self.role}' if self.role else ''}"

    @property
    def is_plain(self) -> bool:
        """Whether it is an original layer."""
        return not (self.part or self.reads or self.role)

    @property
    def number(self) -> int:
        """Number of the part with which the layer was added; 0 for an original layer."""
        return max(self.part, self.reads)


def parse_name(name: str, names: Collection[str]) -> GrownName:
    """Returns the parsed name; a plain name if there is no layer that it would extend.

    Args:
        name: A layer's name.
        names: The names of all layers of the model.

    Example:
        >>> from tlkit.models.grown_names import parse_name
        >>> parse_name("fc__grown2__reads1", ["fc", "fc__grown2", "fc__grown2__reads1"])
        GrownName(base='fc', part=2, reads=1, role='')
        >>> parse_name("my__sum", ["my__sum"]).is_plain
        True
    """
    match = _PATTERN.fullmatch(name)
    if match is None or match["base"] not in names:
        return GrownName(name)
    return GrownName(
        match["base"], int(match["part"] or 0), int(match["reads"] or 0), match["role"] or ""
    )


def grown_name_of(operation: keras.Operation, names: Collection[str]) -> GrownName:
    """Returns an operation's parsed name; names that only look like added ones are plain."""
    name = parse_name(operation.name, names)
    joins = {
        "sum": keras.layers.Add,
        "activation": keras.layers.Activation,
        "classes": keras.layers.Concatenate,
    }
    if name.role and not isinstance(operation, joins[name.role]):
        return GrownName(operation.name)
    return name
