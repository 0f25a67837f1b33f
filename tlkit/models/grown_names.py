"""Names of the layers that growing adds: the record of what is new, which every saved model keeps.

Growing a network changes none of its layers; it puts plain layers beside them. Each call of
`add_classes` or `widen_layer` adds a *part*, numbered from 1; what was there from the start is part
0. Beside the layer `fc`:

    fc__grown2          its units of part 2, which read what `fc` reads
    fc__grown2__reads1  how those units read the units of part 1 before them
    fc__reads2          how the units of part 0 read those of part 2 before them
    fc__sum             part 0 as the sum of `fc` and all `fc__readsN`
    fc__activation      the activation of `fc` behind that sum
    fc__grown2__sum, fc__grown2__activation    the same of part 2
    fc__classes         all parts of the logits side by side

What lies between (`relu`, say) has a copy of its own for each part: `relu__grown2`.
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
    """The name of a layer, taken apart.

    Attributes:
        base: Name of the layer it stands beside; its own name for a layer of the start.
        part: Number of the part whose units it computes.
        reads: Number of the part whose units it reads.
        role: "sum", "activation" or "classes" for what joins other layers' outputs, else "".
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
        """Whether the layer was there from the start."""
        return not (self.part or self.reads or self.role)

    @property
    def number(self) -> int:
        """Number of the part with which the layer was added; 0 for one from the start."""
        return max(self.part, self.reads)


def parse_name(name: str, names: Collection[str]) -> GrownName:
    """Returns a name taken apart; a plain one if there is no layer that it would stand beside.

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
    """Returns an operation's name taken apart; names that only look like grown ones are plain."""
    name = parse_name(operation.name, names)
    joins = {
        "sum": keras.layers.Add,
        "activation": keras.layers.Activation,
        "classes": keras.layers.Concatenate,
    }
    if name.role and not isinstance(operation, joins[name.role]):
        return GrownName(operation.name)
    return name
