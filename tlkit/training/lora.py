"""The settings of low-rank adapters; importing this module loads no Keras."""

import re
from dataclasses import dataclass

from tlkit.errors import ArgumentError, as_tuple, check_count, check_positive

_TEXT = re.compile(r"lora(?::(?P<rank>[1-9]\d*))?")


@dataclass(frozen=True)
class Lora:
    """Low-rank adaptation: of each kernel, only two small factors of its change are trained.

    A kernel of `rows × columns` numbers changes by `scale` times the product of a matrix of
    `rows × rank` numbers and one of `rank × columns`. Kernels of more than two dimensions are taken
    as the most nearly square matrix of their numbers in order; a kernel for which the factors would
    have more numbers than itself, such as small depthwise ones, is trained as a whole. Biases and
    normalisation stay unchanged.

    Args:
        rank: Largest rank of the change, at least 1.
        scale: Factor of the product; alpha / rank in the notation of the reference.
        groups: Names of the groups of layers with adapters; by default all that `unfreeze` names.

    Raises:
        ArgumentError: A value is invalid.

    Example:
        >>> import tlkit
        >>> tlkit.Lora(rank=4)
        Lora(rank=4, scale=1.0, groups=None)

    Reference:
        Hu et al. (2021), https://arxiv.org/abs/2106.09685, equation 3.
    """

    rank: int = 8
    scale: float = 1.0
    groups: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_count("rank", self.rank)
        check_positive("scale", self.scale)
        if self.groups is not None:
            object.__setattr__(self, "groups", as_tuple(self.groups))

    def identity(self) -> dict[str, object]:
        """Returns plain values that identify the adapters in a checkpoint."""
        return {"rank": self.rank, "scale": self.scale, "groups": self.groups}


def adapters_of(value: object) -> Lora | None:
    """Returns the adapters that an argument `adapters` stands for.

    Args:
        value: A `Lora`; "lora" or "lora:RANK"; or `None`.

    Raises:
        ArgumentError: It is none of these.

    Example:
        >>> from tlkit.training.lora import adapters_of
        >>> adapters_of("lora:4").rank
        4
    """
    if value is None or isinstance(value, Lora):
        return value
    found = _TEXT.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ArgumentError(
            "`adapters` must be 'lora', 'lora:RANK' or a tlkit.Lora. "
            f"Received: adapters={value!r}. Write 'lora:8', for example."
        )
    return Lora() if found["rank"] is None else Lora(rank=int(found["rank"]))
