"""Which heads can be solved: those whose logits are linear in what one Dense layer computes.

Operations before that layer are a part of the features, and those behind it are undone on the
solution where that is exact. All of a head's operations count, not its layers alone.
"""

from dataclasses import dataclass, replace

import keras
import numpy as np

from tlkit.models.graph import nodes_between, with_nested
from tlkit.models.heads import head_kind, outputs_logits, probabilities
from tlkit.utils.keras_private import node_of

MAX_DIFFERENCE = 0.01
"""Of probabilities: more than rounding does to those of the solved head, and less than another
function than the one that was solved."""

_TOLERANCE = 1e-3
_MAX_CONDITION = 1e6
_PROBES = (1e-2, 1.0, 30.0)
_ROWS_AT_ONCE = 1024

_IDLE = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    keras.layers.AlphaDropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.Identity,
)
"""Layers that change nothing outside training; merely no time is spent on them."""


@dataclass(frozen=True)
class SolvableHead:
    """A Dense layer with what stands before and behind it in a head; or why it cannot be solved.

    With z = kernel^T x + bias, the Dense layer's outputs for what it reads, the head's logits are
    slope^T z + shift; of a softmax up to a number that all logits of an image share.

    Attributes:
        dense: The layer; `None` where the head cannot be solved.
        before: From features to what the layer reads; `None` where it reads the features.
        slope: `(dense.units, num_outputs)`; `None` where the logits are z itself.
        shift: `(num_outputs,)`.
        why_not: Why the head cannot be solved, in words; empty where it can.
    """

    dense: keras.layers.Dense | None
    before: keras.Model | None = None
    slope: np.ndarray | None = None
    shift: np.ndarray | None = None
    why_not: str = ""

    def read_by_dense(self, features: np.ndarray) -> np.ndarray:
        """Returns what the Dense layer reads where the head reads `features`, `(n, num_read)`."""
        if self.before is None:
            return features
        return _in_slices(self.before, features)

    def weights_for(self, kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the Dense layer's weights with which the logits are kernel^T x + bias.

        Args:
            kernel: `(num_read, num_outputs)`.
            bias: `(num_outputs,)`.
        """
        if self.slope is None or self.shift is None:
            return kernel, bias
        wanted = np.concatenate([kernel, (bias - self.shift)[np.newaxis]]).astype(np.float64)
        found = (wanted @ np.linalg.pinv(self.slope)).astype(np.float32)
        return found[:-1], found[-1]


def solvable_head(head: keras.Model, model: keras.Model) -> SolvableHead:
    """Finds the one layer of a head that can be solved, and what its outputs become.

    That is a Dense layer which alone of all trains, is called once, and is on every path. What it
    reads may be any function of one image's features; its outputs may then be scaled (by any
    numbers but 0, negative ones too), shifted and mixed, as long as every logit can still be had,
    and go through a softmax or sigmoid at the end.

    Args:
        head: From features to outputs; what trains is set.
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
    """Whether a head gives the probabilities that were solved for, and not something else.

    Args:
        solvable: What was found of it.
        head: With the solved weights in it.
        model: The whole classifier.
        features: What the head reads, `(n, ...)`.
        logits: What was solved for, `(n, num_outputs)`.
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
    """Why a head cannot be solved; caught in this file."""


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
        raise _CannotBeSolvedError(f"a path leads past layer {dense.name!r}")
    activation = getattr(dense.activation, "__name__", type(dense.activation).__name__)
    at_end = {"softmax", "sigmoid"} if computed is head.outputs[0] else set()
    if activation not in {"linear", *at_end}:
        raise _CannotBeSolvedError(f"layer {dense.name!r} has the activation {activation!r}")
    found = SolvableHead(dense)
    prior = nodes_between(start, read) or ()
    if any(not isinstance(node.operation, _IDLE) for node in prior):
        found = SolvableHead(dense, keras.Model(start, read))
        if not _sees_rows_alone(keras.Model(start, read)):
            raise _CannotBeSolvedError(f"what layer {dense.name!r} reads mixes images of a batch")
    if not following:
        return found
    names = ", ".join(repr(node.operation.name) for node in following)
    what = _what_follows(dense, keras.Model(computed, logits), head_kind(model), names)
    if np.array_equal(what.slope, np.eye(dense.units)) and not what.shift.any():
        return found
    return replace(found, slope=what.slope, shift=what.shift)


def _only_dense(head: keras.Model) -> keras.layers.Dense:
    """Returns the Dense layer that alone of all trains."""
    trained = [layer for layer in head.layers if layer.trainable_variables]
    if len(trained) != 1:
        names = ", ".join(repr(layer.name) for layer in trained) or "none"
        raise _CannotBeSolvedError(f"{len(trained)} of its layers train: {names}")
    (layer,) = trained
    name = f"{type(layer).__name__} {layer.name!r}"
    if not isinstance(layer, keras.layers.Dense):
        raise _CannotBeSolvedError(f"{name} is no Dense layer")
    own = {id(variable) for variable in (layer.kernel, layer.bias) if variable is not None}
    if not own == {id(v) for v in layer.weights} == {id(v) for v in layer.trainable_variables}:
        raise _CannotBeSolvedError(f"{name} has other weights than a kernel and a bias that train")
    if layer.kernel_constraint is not None or layer.bias_constraint is not None:
        raise _CannotBeSolvedError(f"the weights of {name} have a constraint")
    return layer


def _logits(head: keras.Model, model: keras.Model) -> keras.KerasTensor:
    """Returns the tensor that the softmax or sigmoid at a head's end reads, else the output."""
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
    """Measures what makes logits of the Dense layer's outputs, which must be linear."""
    what = _measured(after, dense.units)
    rank = after.output_shape[-1]
    if kind == "softmax" and not (what.is_linear and what.reaches(rank)):
        what = _measured(after, dense.units, is_centred=True)
        rank -= 1
    if not (what.is_linear and what.reaches(rank)):
        raise _CannotBeSolvedError(
            f"behind layer {dense.name!r} is what bends its outputs: {names}"
        )
    if dense.bias is None and np.abs(what.shift).max() > _TOLERANCE * np.abs(what.slope).max():
        raise _CannotBeSolvedError(f"layer {dense.name!r} has no bias to make up for {names}")
    return what


@dataclass(frozen=True)
class _Linear:
    """A function as slope and shift, and whether it is what they say at other points too."""

    slope: np.ndarray
    shift: np.ndarray
    is_linear: bool

    def reaches(self, rank: int) -> bool:
        """Whether any logits can be had, of a softmax but for what it ignores."""
        if not np.isfinite(self.slope).all() or min(self.slope.shape) < rank:
            return False
        sizes = np.linalg.svd(self.slope, compute_uv=False)[:rank]
        return bool(sizes[-1] * _MAX_CONDITION > sizes[0] > 0)


def _measured(after: keras.Model, num_units: int, *, is_centred: bool = False) -> _Linear:
    """Measures a function at the axes, and tries it elsewhere: close to zero, far off, alone.

    Args:
        after: The function.
        num_units: Of how many numbers.
        is_centred: Whether the mean of an image's logits is taken from them, which no softmax sees.
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


def _sees_rows_alone(before: keras.Model) -> bool:
    """Whether what comes of an image does not depend on others in its batch."""
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
