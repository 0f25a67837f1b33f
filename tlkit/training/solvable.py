"""Heads that can be solved: those whose logits are linear in the outputs of one Dense layer.

Operations before that layer count as part of the features, and those after it are inverted on the
solution if that is exact. All operations of a head are considered, not only its layers.
"""

from dataclasses import dataclass, replace

import keras
import numpy as np

from tlkit.models.graph import nodes_between, with_nested
from tlkit.models.heads import head_kind, outputs_logits, probabilities
from tlkit.utils.keras_private import node_of

MAX_DIFFERENCE = 0.01
"""Largest difference of a solved head's probabilities from the solution's: larger than rounding
causes, and smaller than a head that computes another function would show."""

_TOLERANCE = 1e-3
_MAX_CONDITION = 1e6
_PROBES = (1e-2, 1.0, 30.0)
_ROWS_AT_ONCE = 1024

_IDENTITY_AT_INFERENCE = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    keras.layers.AlphaDropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.Identity,
)
"""Layers that are the identity in inference, skipped to save time."""


@dataclass(frozen=True)
class SolvableHead:
    """The Dense layer of a head and the operations around it, or why it cannot be solved.

    With z = kernel^T x + bias, the Dense layer's outputs for its inputs x, the head's logits are
    slope^T z + shift; for a softmax up to a constant that is added to all logits of an image.

    Attributes:
        dense: The layer; `None` if the head cannot be solved.
        before: From the features to the layer's inputs; `None` if the inputs are the features.
        slope: `(dense.units, num_outputs)`; `None` if the logits are z itself.
        shift: `(num_outputs,)`.
        why_not: Why the head cannot be solved, in words; empty if it can.
    """

    dense: keras.layers.Dense | None
    before: keras.Model | None = None
    slope: np.ndarray | None = None
    shift: np.ndarray | None = None
    why_not: str = ""

    def read_by_dense(self, features: np.ndarray) -> np.ndarray:
        """Returns the Dense layer's inputs for `features`, the head's, `(n, num_read)`."""
        if self.before is None:
            return features
        return _in_slices(self.before, features)

    def weights_for(self, kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the Dense layer's weights for which the head's logits are kernel^T x + bias.

        Args:
            kernel: `(num_read, num_outputs)`.
            bias: `(num_outputs,)`.
        """
        if self.slope is None or self.shift is None:
            return kernel, bias
        wanted = np.concatenate([kernel, (bias - self.shift)[np.newaxis]]).astype(np.float64)
        solution = (wanted @ np.linalg.pinv(self.slope)).astype(np.float32)
        return solution[:-1], solution[-1]


def solvable_head(head: keras.Model, model: keras.Model) -> SolvableHead:
    """Finds the one layer of a head that can be solved, and the function of its outputs.

    It must be a Dense layer, the only trainable layer, called once and part of every path. Its
    inputs may be any function of one image's features; its outputs may be scaled (by any numbers
    but 0, also negative ones), shifted and mixed, as long as all logits remain reachable, and may
    pass through a softmax or sigmoid at the end.

    Args:
        head: From features to outputs, its `trainable` flags set.
        model: The whole classifier.
    """
    try:
        return _solvable(head, model)
    except _CannotBeSolvedError as error:
        return SolvableHead(None, why_not=str(error))


def is_solved(
    solvable: SolvableHead,
    head: keras.Model,
    model: keras.Model,
    *,
    features: np.ndarray,
    logits: np.ndarray,
) -> bool:
    """Whether a head with solved weights computes the probabilities of the solution.

    Args:
        solvable: What `solvable_head` returned for it.
        head: The head with the solved weights.
        model: The whole classifier.
        features: The head's inputs, `(n, ...)`.
        logits: The logits of the solution, `(n, num_outputs)`.
    """
    kind = head_kind(model)
    activate = keras.ops.softmax if kind == "softmax" else keras.ops.sigmoid
    wanted = keras.ops.convert_to_numpy(activate(keras.ops.convert_to_tensor(logits, "float32")))
    given = keras.ops.convert_to_numpy(probabilities(_in_slices(head, features), model))
    if kind == "binary":
        given = given[:, 1:]
    lower = solvable.dense is not None and solvable.dense.compute_dtype != "float32"
    difference = np.abs(given - wanted).max(initial=0.0)
    return bool(difference <= MAX_DIFFERENCE * (5 if lower else 1))


class _CannotBeSolvedError(Exception):
    """The reason why a head cannot be solved; caught in this file."""


def _solvable(head: keras.Model, model: keras.Model) -> SolvableHead:
    dense = _only_dense(head)
    start, logits = head.inputs[0], _logits(head, model)
    calls = [node for node in nodes_between(start, logits) or () if node.operation is dense]
    if len(calls) != 1:
        raise _CannotBeSolvedError(f"layer {dense.name!r} is called {len(calls)} times")
    read, computed = calls[0].input_tensors[0], calls[0].output_tensors[0]
    if len(read.shape) != 2:
        raise _CannotBeSolvedError(f"layer {dense.name!r} is applied at several positions")
    following = nodes_between(computed, logits)
    if following is None:
        raise _CannotBeSolvedError(f"a path bypasses layer {dense.name!r}")
    activation = getattr(dense.activation, "__name__", type(dense.activation).__name__)
    at_end = {"softmax", "sigmoid"} if computed is head.outputs[0] else set()
    if activation not in {"linear", *at_end}:
        raise _CannotBeSolvedError(f"layer {dense.name!r} has the activation {activation!r}")
    solvable = SolvableHead(dense)
    prior = nodes_between(start, read) or ()
    if any(not isinstance(node.operation, _IDENTITY_AT_INFERENCE) for node in prior):
        solvable = SolvableHead(dense, keras.Model(start, read))
        if not _is_row_wise(keras.Model(start, read)):
            raise _CannotBeSolvedError(
                f"the inputs of layer {dense.name!r} depend on other images of the batch"
            )
    if not following:
        return solvable
    names = ", ".join(repr(node.operation.name) for node in following)
    what = _what_follows(dense, keras.Model(computed, logits), head_kind(model), names)
    if np.array_equal(what.slope, np.eye(dense.units)) and not what.shift.any():
        return solvable
    return replace(solvable, slope=what.slope, shift=what.shift)


def _only_dense(head: keras.Model) -> keras.layers.Dense:
    """Returns the Dense layer that is the only trainable layer."""
    trained = [layer for layer in head.layers if layer.trainable_variables]
    if len(trained) != 1:
        names = ", ".join(repr(layer.name) for layer in trained) or "none"
        raise _CannotBeSolvedError(f"{len(trained)} of its layers are trainable: {names}")
    (layer,) = trained
    name = f"{type(layer).__name__} {layer.name!r}"
    if not isinstance(layer, keras.layers.Dense):
        raise _CannotBeSolvedError(f"{name} is not a Dense layer")
    own = {id(variable) for variable in (layer.kernel, layer.bias) if variable is not None}
    if not own == {id(v) for v in layer.weights} == {id(v) for v in layer.trainable_variables}:
        raise _CannotBeSolvedError(f"{name} has weights other than a trainable kernel and bias")
    if layer.kernel_constraint is not None or layer.bias_constraint is not None:
        raise _CannotBeSolvedError(f"the weights of {name} have a constraint")
    return layer


def _logits(head: keras.Model, model: keras.Model) -> keras.KerasTensor:
    """Returns the input of the softmax or sigmoid at the end of a head, else the output."""
    output = head.outputs[0]
    node = node_of(output)
    is_fused = isinstance(node.operation, keras.layers.Dense)
    is_plain = len(node.input_tensors) == 1 and len(with_nested(node.operation)) <= 1
    if outputs_logits(model) or is_fused or not is_plain:
        return output
    return node.input_tensors[0]


def _what_follows(
    dense: keras.layers.Dense, after: keras.Model, kind: str, names: str
) -> "_Linear":
    """Measures the function from the Dense layer's outputs to the logits, which must be linear."""
    what = _measured(after, dense.units)
    rank = after.output_shape[-1]
    if kind == "softmax" and not (what.is_linear and what.reaches(rank)):
        what = _measured(after, dense.units, is_centred=True)
        rank -= 1
    if not (what.is_linear and what.reaches(rank)):
        raise _CannotBeSolvedError(
            f"the operations after layer {dense.name!r} are not linear or not invertible: {names}"
        )
    if dense.bias is None and np.abs(what.shift).max() > _TOLERANCE * np.abs(what.slope).max():
        raise _CannotBeSolvedError(f"layer {dense.name!r} has no bias to compensate for {names}")
    return what


@dataclass(frozen=True)
class _Linear:
    """The slope and shift of a function, and whether they describe it at other points too."""

    slope: np.ndarray
    shift: np.ndarray
    is_linear: bool

    def reaches(self, rank: int) -> bool:
        """Whether all logits are reachable, that is, whether the slope has this rank."""
        if not np.isfinite(self.slope).all() or min(self.slope.shape) < rank:
            return False
        sizes = np.linalg.svd(self.slope, compute_uv=False)[:rank]
        return bool(sizes[-1] * _MAX_CONDITION > sizes[0] > 0)


def _measured(after: keras.Model, num_units: int, *, is_centred: bool = False) -> _Linear:
    """Measures a function at the unit vectors, and checks it at small, large and single points.

    Args:
        after: The function.
        num_units: Number of its inputs.
        is_centred: Whether to subtract the mean of an image's logits, which a softmax ignores.
    """

    def logits_of(points: np.ndarray) -> np.ndarray:
        values = np.asarray(_in_slices(after, points), np.float64)
        return values - values.mean(axis=1, keepdims=True) if is_centred else values

    axes = np.eye(num_units, dtype=np.float32)
    shift = logits_of(np.zeros_like(axes))[0]
    slope = logits_of(axes) - shift
    random = np.random.default_rng(0).normal(size=(16, num_units)).astype(np.float32)
    points = np.concatenate([random * np.float32(size) for size in _PROBES])
    together = logits_of(points)
    alone = np.concatenate([logits_of(points[index : index + 1]) for index in range(0, 48, 16)])
    size = np.abs(points) @ np.abs(slope) + np.abs(shift) + 1e-30
    is_exact = {after.inputs[0].dtype, after.outputs[0].dtype} <= {"float32", "float64"}
    allowed = (1 if is_exact else 10) * _TOLERANCE * size
    is_linear = bool(
        np.isfinite(together).all()
        and np.all(np.abs(together - points @ slope - shift) <= allowed)
        and np.all(np.abs(alone - together[::16]) <= allowed[::16])
    )
    return _Linear(slope, shift, is_linear)


def _is_row_wise(before: keras.Model) -> bool:
    """Whether the outputs for an image are independent of the other images in its batch."""
    shape = [size or 1 for size in before.input_shape[1:]]
    some = np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32)
    together = _in_slices(before, some)
    alone = np.concatenate([_in_slices(before, row[np.newaxis]) for row in some])
    return np.allclose(alone, together, rtol=1e-3, atol=1e-5, equal_nan=True)


def _in_slices(model: keras.Model, rows: np.ndarray) -> np.ndarray:
    """Returns a model's outputs in inference mode, `(n, ...)`."""
    parts = [
        keras.ops.convert_to_numpy(model(rows[start : start + _ROWS_AT_ONCE], training=False))
        for start in range(0, len(rows), _ROWS_AT_ONCE)
    ]
    return np.concatenate(parts)
