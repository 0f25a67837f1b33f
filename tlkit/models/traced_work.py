"""The multiply-adds of the operations of a traced graph."""

from math import prod
from typing import Any

import tensorflow as tf

from tlkit.utils.tensorflow_private import function_graph

_BY_OUTPUT = ("Conv2D", "Conv3D", "DepthwiseConv2dNative")
_BY_INPUT = ("Conv2DBackpropInput", "Conv3DBackpropInputV2")
"""Transposed convolutions."""

_PRODUCTS = ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")


def work_of_graph(graph: Any, steps: int = 1) -> int:
    """Returns the multiply-adds of all operations that the outputs need, also in called functions.

    A loop counts its body times the maximum number of iterations in the graph. Of several branches
    the one with the most multiply-adds counts. A size that is not fixed counts as 1.

    Args:
        graph: The graph of a traced function.
        steps: Number of iterations of a loop for which the graph does not contain it.

    Example:
        >>> import tensorflow as tf
        >>> from tlkit.models.traced_work import work_of_graph
        >>> product = tf.function(tf.matmul)
        >>> traced = product.get_concrete_function(tf.zeros((2, 3)), tf.zeros((3, 5)))
        >>> work_of_graph(traced.graph)
        30
    """
    return sum(_work_of(operation, graph, steps) for operation in _needed(graph))


def _needed(graph: Any) -> list[Any]:
    """Returns the operations that the outputs depend on; others never run."""
    needed: dict[int, Any] = {}
    waiting = [tensor.op for tensor in graph.outputs]
    while waiting:
        operation = waiting.pop()
        if id(operation) not in needed:
            needed[id(operation)] = operation
            waiting += [tensor.op for tensor in operation.inputs]
    return list(needed.values())


def _work_of(operation: Any, graph: Any, steps: int) -> int:
    kind = operation.type
    if kind in _PRODUCTS:
        return _of_product(operation)
    if kind == "Einsum":
        return _of_einsum(operation)
    if kind in _BY_OUTPUT:
        kernel, output = _sides(operation.inputs[1]), _sides(operation.outputs[0])
        return prod(output) * prod(kernel[:-2] if kind.startswith("Depthwise") else kernel[:-1])
    if kind in _BY_INPUT:
        kernel, given = _sides(operation.inputs[1]), _sides(operation.inputs[2])
        return prod(given) * prod(kernel[:-1])
    return _of_functions(operation, graph, steps)


def _of_product(operation: Any) -> int:
    is_turned = operation.get_attr("transpose_a" if operation.type == "MatMul" else "adj_x")
    inner = _sides(operation.inputs[0])[-2 if is_turned else -1]
    return prod(_sides(operation.outputs[0])) * inner


def _of_functions(operation: Any, graph: Any, steps: int) -> int:
    """Returns the multiply-adds of the functions that an operation calls; 0 if it calls none."""
    kind = operation.type.removeprefix("Stateless").removeprefix("Stateful")

    def work(attribute: Any) -> int:
        return work_of_graph(function_graph(graph, attribute.name), steps)

    if kind == "While":
        times = tf.get_static_value(operation.inputs[1])
        is_known = times is not None and times >= 0
        return work(operation.get_attr("body")) * (int(times) if is_known else steps)
    if kind == "If":
        return max(work(operation.get_attr(name)) for name in ("then_branch", "else_branch"))
    if kind == "Case":
        return max(map(work, operation.get_attr("branches")))
    return work(operation.get_attr("f")) if kind == "PartitionedCall" else 0


def _of_einsum(operation: Any) -> int:
    """Returns the product of the sizes of all named axes, each once."""
    equation = operation.get_attr("equation").decode()
    sides: dict[str, int] = {}
    gap: list[int] = []
    for names, tensor in zip(equation.split("->")[0].split(","), operation.inputs, strict=True):
        shape = _sides(tensor)
        before, has_gap, after = names.partition("...")
        end = len(shape) - len(after)
        sides |= dict(zip(before, shape, strict=False))
        sides |= dict(zip(after, shape[end:], strict=True))
        if has_gap and len(shape[len(before) : end]) >= len(gap):
            gap = shape[len(before) : end]
    return prod(sides.values()) * prod(gap) if len(operation.inputs) > 1 else 0


def _sides(tensor: Any) -> list[int]:
    return [side or 1 for side in tensor.shape.as_list()]
