"""Low-rank adapters: kernels change by a product of two small matrices, which are trained instead.

The usual form adds the product to the outputs of a frozen kernel. Here it is added to the kernel
itself after each step: the factors get the gradients that they have in the usual form, by the chain
rule, so that every kernel can be adapted, whatever its layer computes; and the model has ordinary
weights at any time. Nothing has to be merged in the end.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tlkit.errors import ArgumentError
from tlkit.models.graph import parameters
from tlkit.models.group_choice import index_of
from tlkit.models.groups import TrainableReport, group_layers, is_kernel, layer_groups
from tlkit.training.lora import Lora
from tlkit.utils.formatting import counted, megabytes

_NUM_NAMED = 5


@dataclass(frozen=True, eq=False)
class _Factors:
    """The factors of one kernel's change."""

    kernel: keras.Variable
    left: keras.Variable
    right: keras.Variable

    def product(self) -> tf.Tensor:
        return tf.matmul(self.left.value, self.right.value)

    def gradients(self, gradient: tf.Tensor, scale: float) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the gradients of both factors, from that of the kernel."""
        matrix = tf.reshape(gradient, (self.left.shape[0], self.right.shape[1])) * scale
        return (
            tf.matmul(matrix, self.right.value, transpose_b=True),
            tf.matmul(self.left.value, matrix, transpose_a=True),
        )


class LowRankUpdates:
    """The factors of a stage of training, and its steps.

    Args:
        lora: The settings.
        kernels: The kernels that are adapted.
        seed: Seed of the left factors; the right ones are zero, so that no kernel changes at first.
        whole: Names of the kernels that are trained as they are.
    """

    def __init__(
        self,
        lora: Lora,
        kernels: Sequence[keras.Variable],
        seed: int,
        whole: Sequence[str] = (),
    ) -> None:
        self.scale = lora.scale
        self._whole = tuple(whole)
        self._factors: dict[int, _Factors] = {}
        for number, kernel in enumerate(kernels):
            rows, columns = matrix_shape(kernel.shape)
            left = keras.initializers.HeUniform(seed=seed + number)((rows, lora.rank))
            names = (f"{kernel.name}_left", f"{kernel.name}_right")
            self._factors[id(kernel)] = _Factors(
                kernel,
                keras.Variable(left, name=names[0]),
                keras.Variable(np.zeros((lora.rank, columns), np.float32), name=names[1]),
            )

    @property
    def variables(self) -> list[keras.Variable]:
        """All factors, which are restored when a run is resumed."""
        return [one for factors in self._factors.values() for one in (factors.left, factors.right)]

    def trained(self, variables: Sequence[keras.Variable]) -> list[keras.Variable]:
        """Returns the variables that the optimizer updates: factors instead of their kernels."""
        trained: list[keras.Variable] = []
        for variable in variables:
            factors = self._factors.get(id(variable))
            trained += [variable] if factors is None else [factors.left, factors.right]
        return trained

    def kernels(self) -> Iterator[tuple[keras.Variable, keras.Variable]]:
        """Yields each factor with its kernel."""
        for factors in self._factors.values():
            yield factors.left, factors.kernel
            yield factors.right, factors.kernel

    def notes(self, state_bytes: int, checkpoint_bytes: int | None) -> tuple[str, ...]:
        """Returns notes for the report: how many numbers are trained instead of how many.

        Args:
            state_bytes: Size of the optimizer's state.
            checkpoint_bytes: Size of the checkpoint; `None` without.
        """
        own, instead_of = self._numbers()
        sizes = f"the optimizer's state takes {megabytes(state_bytes)}"
        if checkpoint_bytes is not None:
            sizes += f", the checkpoint with all weights {megabytes(checkpoint_bytes)}"
        adapted = (
            f"low-rank adapters of {counted(len(self._factors), 'kernel')}: {own:,} numbers are "
            f"trained instead of {instead_of:,}; {sizes}"
        )
        if not self._whole:
            return (adapted,)
        whole = f"kernels no larger than their factors, trained whole: {_some(self._whole)}"
        return (adapted, whole)

    def counted(self, report: TrainableReport) -> TrainableReport:
        """Returns a report in which factors count instead of their kernels."""
        own, instead_of = self._numbers()
        return dataclasses.replace(
            report,
            num_trainable=report.num_trainable - instead_of + own,
            num_frozen=report.num_frozen + instead_of,
        )

    def _numbers(self) -> tuple[int, int]:
        """Returns the numbers in all factors, and in their kernels."""
        kernels = [factors.kernel for factors in self._factors.values()]
        return tuple(
            sum(prod(variable.shape) for variable in some) for some in (self.variables, kernels)
        )

    def update(
        self,
        optimizer: keras.optimizers.Optimizer,
        gradients: Sequence[Any],
        variables: Sequence[keras.Variable],
    ) -> None:
        """Runs one step of the optimizer, and changes the kernels by what it changes.

        Args:
            optimizer: Built with `trained(variables)`.
            gradients: The gradients of `variables`, scaled if the optimizer scales the loss.
            variables: The trainable variables of the model.
        """
        of_trained: list[Any] = []
        for gradient, variable in zip(gradients, variables, strict=True):
            factors = self._factors.get(id(variable))
            if factors is None:
                of_trained.append(gradient)
            else:
                of_trained += factors.gradients(tf.convert_to_tensor(gradient), self.scale)
        before = {key: factors.product() for key, factors in self._factors.items()}
        pairs = zip(of_trained, self.trained(variables), strict=True)
        optimizer.apply_gradients(pairs)
        for key, factors in self._factors.items():
            change = self.scale * (factors.product() - before[key])
            factors.kernel.assign_add(tf.reshape(change, factors.kernel.shape))


@dataclass(frozen=True, eq=False)
class KernelChoice:
    """The trainable kernels before the head.

    Attributes:
        adapted: Those that are adapted.
        whole: Names of the layers whose kernels are no larger than their factors.
    """

    adapted: tuple[keras.Variable, ...]
    whole: tuple[str, ...]


def choose_kernels(model: keras.Model, lora: Lora) -> KernelChoice:
    """Returns the trainable kernels that are adapted; those of the head are not.

    Raises:
        ArgumentError: A group does not exist, or no kernel can be adapted.
    """
    names = check_groups(model, lora)
    wanted = set(names[:-1] if lora.groups is None else lora.groups)
    members = group_layers(model)
    kernels = {
        id(variable): (layer.name, variable)
        for name, layers in zip(names[:-1], members[:-1], strict=True)
        if name in wanted
        for layer in layers
        for variable in parameters(layer)
        if variable.trainable and is_kernel(variable)
    }
    adapted = [one for _, one in kernels.values() if _is_smaller(one, lora.rank)]
    if not adapted:
        raise ArgumentError(
            "`adapters` must fit at least one trainable kernel before the head. Received: "
            f"adapters={lora}, and no kernel in {', '.join(names[:-1]) or 'any group'} that is "
            "trainable has more numbers than its factors. Lower the rank, or unfreeze more groups."
        )
    whole = [name for name, one in kernels.values() if not _is_smaller(one, lora.rank)]
    return KernelChoice(tuple(adapted), tuple(dict.fromkeys(whole)))


def check_groups(model: keras.Model, lora: Lora) -> list[str]:
    """Returns the names of the model's groups.

    Raises:
        ArgumentError: A group of the adapters does not exist, or is the head.
    """
    names = [group.name for group in layer_groups(model)]
    for name in lora.groups or ():
        if index_of(names, name, "groups") == len(names) - 1:
            raise ArgumentError(
                "`groups` must be groups before the head, which is trained as a whole. "
                f"Received: groups={lora.groups!r}. Choose among {', '.join(names[:-1])}."
            )
    return names


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Returns the rows and columns of the most nearly square matrix with a kernel's numbers.

    Example:
        >>> from tlkit.training.adapters import matrix_shape
        >>> matrix_shape((3, 3, 64, 128)), matrix_shape((3, 3, 256, 1)), matrix_shape((768, 12, 64))
        ((576, 128), (9, 256), (768, 768))
    """
    splits = [(prod(shape[:place]), prod(shape[place:])) for place in range(1, len(shape))]
    return min(splits, key=lambda split: abs(math.log(split[0] / split[1])))


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NUM_NAMED
    return ", ".join(names[:_NUM_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _is_smaller(kernel: keras.Variable, rank: int) -> bool:
    rows, columns = matrix_shape(kernel.shape)
    return rank * (rows + columns) < rows * columns
