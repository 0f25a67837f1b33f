"""The anchor: a constraint of fine-tuning that keeps weights near their initial values."""

from collections.abc import Mapping, Sequence
from math import hypot, prod
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tlkit.continual.weight_anchor import RegularizerSum, WeightAnchor, anchors_in, check_strength
from tlkit.errors import ArgumentError, as_tuple, check_choice, did_you_mean
from tlkit.models.graph import check_model, parameters
from tlkit.models.groups import group_layers, layer_groups
from tlkit.models.variable_names import variable_names
from tlkit.training.resume import ESTIMATE
from tlkit.training.step import StepHook

MODES = ("penalty", "proximal")
_HEAD = "head"
_NUM_LISTED = 5


class Anchor(StepHook):
    """The anchor that `anchor_weights` returns: pass it to `fine_tune`, inspect it, release it.

    Every epoch's log has means over its steps: `anchor_GROUP`, the penalty of each group, and
    `anchor_share`, the fraction of the total loss that the penalties make up.

    Attributes:
        strength: The factor before the sum.
        mode: "penalty" or "proximal".
        groups: Names of the groups with an anchored weight, input side first.
        num_anchored: Number of anchored values.
        notes: Notes on what was anchored, what was not, and why.
        report: The report of `choose_anchor` on the strength; `None` if it was given.
    """

    report: Any = None
    works_on_replicas = True

    def __init__(
        self,
        anchored: Mapping[str, Sequence[tuple[keras.Variable, WeightAnchor]]],
        *,
        strength: float,
        mode: str,
        notes: Sequence[str] = (),
    ) -> None:
        self.strength, self.mode, self.groups = strength, mode, tuple(anchored)
        self._anchored = {group: tuple(pairs) for group, pairs in anchored.items()}
        self._anchors = {id(v): a for pairs in anchored.values() for v, a in pairs}
        self.undecayed = [v for pairs in anchored.values() for v, _ in pairs]
        self.variables = [v for anchor in self._anchors.values() for v in anchor.variables]
        self.num_anchored = sum(prod(variable.shape) for variable in self.undecayed)
        self.notes = (
            f"{self.num_anchored:,} values in {', '.join(anchored)} anchored with strength "
            f"{strength:.3g} ({mode}); weight decay is off on them",
            *notes,
        )
        self._by_group = {group: keras.metrics.Mean(name=f"anchor_{group}") for group in anchored}
        self._share = keras.metrics.Mean(name="anchor_share")
        self.metrics = (*self._by_group.values(), self._share)
        if mode == "penalty":
            for anchor in self._anchors.values():
                anchor.hooks = (self,)

    def penalties(self) -> dict[str, float]:
        """Returns the penalty of each group at its current weights, frozen or not."""
        return {
            group: float(sum(float(anchor(variable)) for variable, anchor in pairs))
            for group, pairs in self._anchored.items()
        }

    def release(self) -> None:
        """Removes the anchor: it no longer penalises or pulls any weight of the model."""
        for pairs in self._anchored.values():
            for variable, anchor in pairs:
                variable.regularizer = _without(variable.regularizer, anchor)
        self._anchored = dict.fromkeys(self._anchored, ())
        self._anchors, self.undecayed, self.variables = {}, [], []

    def check(self, model: keras.Model) -> None:
        """Raises `ArgumentError` if it was released, or anchors another model's weights."""
        if not self.undecayed:
            raise ArgumentError(
                "`anchor` must have anchored weights. Received: an anchor that was released. "
                "Create a new one: tlkit.anchor_weights(model, strength)."
            )
        own = {id(variable) for variable in model.variables}
        foreign = [variable.path for variable in self.undecayed if id(variable) not in own]
        if foreign:
            raise ArgumentError(
                "`anchor` must anchor the model that is trained. Received: an anchor with "
                f"{len(foreign)} weights of another model, such as "
                f"{', '.join(foreign[:_NUM_LISTED])}. Call tlkit.anchor_weights on this model."
            )

    def notes_of_stage(self) -> Sequence[str]:
        """Returns the notes, with another one if no anchored weight is trainable."""
        if any(variable.trainable for variable in self.undecayed):
            return self.notes
        return (*self.notes, "no anchored weight is trainable: the anchor has no effect")

    def identity(self) -> dict[str, object]:
        """Returns the strength, the mode, and each group's norm of importance, if given.

        A norm rather than a digest, because a repeated estimate differs in its last bits.
        """
        return {
            "name": "anchor_weights",
            "strength": self.strength,
            "mode": self.mode,
            "importance": {
                ESTIMATE: {group: _norm(pairs) for group, pairs in self._anchored.items()}
            },
        }

    def loss(self, images: Any, outputs: Any, loss: tf.Tensor) -> None:
        """Logs the penalties, which Keras has already added to the loss."""
        penalties = {
            group: tf.add_n(
                [tf.constant(0.0)] + [self._penalty_of(v, a) for v, a in pairs if v.trainable]
            )
            for group, pairs in self._anchored.items()
        }
        num_images = tf.shape(tf.nest.flatten(images)[0])[0]
        for group, penalty in penalties.items():
            self._by_group[group].update_state(penalty, sample_weight=num_images)
        total = tf.add_n([tf.constant(0.0), *penalties.values()])
        total_loss = loss if self.mode == "penalty" else loss + total
        # weighted by the loss of each step, the mean is the ratio of the sums
        self._share.update_state(
            tf.math.divide_no_nan(total, total_loss),
            sample_weight=total_loss * tf.cast(num_images, tf.float32),
        )

    def after_update(self, variables: Sequence[keras.Variable], rates: Sequence[tf.Tensor]) -> None:
        """Makes the proximal step, in proximal mode."""
        if self.mode != "proximal":
            return
        for variable, rate in zip(variables, rates, strict=True):
            if (anchor := self._anchors.get(id(variable))) is not None:
                variable.assign(tf.cast(anchor.proximal_step(variable, rate), variable.dtype))

    def __str__(self) -> str:
        lines = [f"  {group}: {penalty:.4g}" for group, penalty in self.penalties().items()]
        return "\n".join([*self.notes, "current penalty:", *lines])

    def _penalty_of(self, variable: keras.Variable, anchor: WeightAnchor) -> tf.Tensor:
        # in penalty mode it has just been computed for Keras's loss
        return anchor.take_latest() if self.mode == "penalty" else anchor(variable)


def _norm(pairs: Sequence[tuple[keras.Variable, WeightAnchor]]) -> float | None:
    """Returns the Euclidean norm of all importance; `None` if all weights have the same.

    Rounded to six digits, because workers compare it, and processors differ in the order of sums.
    """
    given = [anchor.importance for _, anchor in pairs if anchor.importance is not None]
    norms = [float(np.linalg.norm(one.numpy().astype(np.float64))) for one in given]
    return float(f"{hypot(*norms):.6g}") if norms else None


def anchor_weights(
    model: keras.Model,
    strength: float,
    importance: Mapping[str, np.ndarray] | None = None,
    *,
    groups: str | Sequence[str] | None = None,
    mode: str = "penalty",
) -> Anchor:
    """Anchors a model's weights to their current values in all later gradient-based training.

    L(w) = L_new(w) + strength * sum of importance * (w - w_now)**2, without 1/2. As a penalty it is
    part of `model.losses`, so plain Keras's `fit` adds it too, and `fine_tune` uses it even if it
    is not passed; frozen weights add nothing. `fine_tune` excludes anchored weights from weight
    decay, which would pull them to zero; plain `fit` does not, if its optimizer has weight decay
    (AdamW): call `optimizer.exclude_from_weight_decay(anchor.undecayed)` before it. `train_head`
    solves the head without it. Several anchors on one weight add up, and an existing regularizer
    is kept. A saved model does not contain the anchor.

    Args:
        model: A functional model, built.
        strength: The factor, 0 or more.
        importance: From a variable's path to an array of its shape, as `estimate_importance`
            returns it; 1 everywhere by default.
        groups: Names of the groups to anchor, or "all"; by default all except the head.
        mode: "penalty" adds to the loss. "proximal" makes a proximal step after each step of the
            optimizer instead, which is stable at any strength and has an effect only through
            `fine_tune(..., anchor=...)`. The proximal step uses s = 2 * `strength`, as the
            derivative of the penalty does, so that both agree under plain gradient descent;
            adaptive optimizers rescale the gradient of a penalty, but not a proximal step.

    Returns:
        The anchor. Weights that are never trainable, such as the moving averages of batch
        normalisation, are not anchored.

    Raises:
        ArgumentError: `strength` is negative or above 1e30; a group does not exist or has no
            weights to anchor; the model is not built; `importance` is that of another model.

    Example:
        >>> import tlkit
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> anchor = tlkit.anchor_weights(model, strength=0.01)
        >>> anchor.groups
        ('stage1', 'stage2', 'stage3')
        >>> sum(anchor.penalties().values())  # nothing has changed
        0.0
        >>> anchor.release()
    """
    check_strength(strength)
    check_choice("mode", mode, MODES)
    chosen = anchorable(model, groups)
    if importance is not None:
        if not isinstance(importance, Mapping):
            raise ArgumentError(
                "`importance` must map the path of each weight to an array. "
                f"Received: importance={importance!r}. Give what "
                "tlkit.estimate_importance(model, data) returns."
            )
        chosen, notes = with_importance(model, chosen, importance)
    else:
        notes = []
    values, names = dict(importance or {}), variable_names(model)
    anchored = {
        group: [
            (variable, WeightAnchor(strength, variable.numpy(), values.get(names[id(variable)])))
            for variable in variables
        ]
        for group, variables in chosen.items()
    }
    if mode == "penalty":
        for pairs in anchored.values():
            for variable, anchor in pairs:
                before = variable.regularizer
                variable.regularizer = anchor if before is None else RegularizerSum(before, anchor)
    return Anchor(anchored, strength=float(strength), mode=mode, notes=notes)


def anchors_of(variable: keras.Variable) -> list[WeightAnchor]:
    """Returns the anchors whose penalties on this weight are part of the loss."""
    return anchors_in(variable.regularizer)


def anchorable(
    model: keras.Model, groups: str | Sequence[str] | None = None
) -> dict[str, list[keras.Variable]]:
    """Returns the weights that `anchor_weights` anchors, by group.

    Raises:
        ArgumentError: A group does not exist or has no weights to anchor, or the model is not
            built.
    """
    check_model("model", model)
    by_group = _parameters_by_group(model)
    if groups is None:
        wanted = [name for name in by_group if name != _HEAD]
    elif groups == "all":
        wanted = list(by_group)
    else:
        wanted = list(as_tuple(groups))
    for name in wanted:
        if name not in by_group:
            raise ArgumentError(
                f"`groups` must be names of groups with weights, or 'all'. "
                f"Received: {name!r}.{did_you_mean(name, by_group)} "
                f"Groups with weights: {', '.join(by_group)}."
            )
    if not wanted:
        raise ArgumentError(
            "`groups` must name a group with weights; by default the head is excluded, and this "
            f"model has no other group. Received: groups={groups!r}. Give groups='all'."
        )
    return {name: by_group[name] for name in by_group if name in wanted}


def _parameters_by_group(model: keras.Model) -> dict[str, list[keras.Variable]]:
    """Returns the weights of each group that can be trainable; each weight once."""
    seen: set[int] = set()
    by_group: dict[str, list[keras.Variable]] = {}
    for group, layers in zip(layer_groups(model), group_layers(model), strict=True):
        weights = [variable for layer in layers for variable in parameters(layer)]
        weights = [variable for variable in weights if id(variable) not in seen]
        seen |= {id(variable) for variable in weights}
        if weights:
            by_group[group.name] = weights
    return by_group


def with_importance(
    model: keras.Model,
    chosen: Mapping[str, Sequence[keras.Variable]],
    importance: Mapping[str, np.ndarray],
) -> tuple[dict[str, list[keras.Variable]], list[str]]:
    """Returns the weights to anchor, without those of the head that `importance` lacks.

    Raises:
        ArgumentError: `importance` lacks a weight outside the head, or all weights.
    """
    names = variable_names(model)
    shapes = {
        id(v): _shape(importance, names[id(v)]) for variables in chosen.values() for v in variables
    }
    fitting = {
        group: [v for v in variables if shapes[id(v)] == tuple(v.shape)]
        for group, variables in chosen.items()
    }
    foreign = [
        f"{names[id(v)]} {tuple(v.shape)} (importance: {shapes[id(v)] or 'none'})"
        for group, variables in chosen.items()
        for v in variables
        if group != _HEAD and shapes[id(v)] != tuple(v.shape)
    ]
    if foreign:
        more = f" and {len(foreign) - _NUM_LISTED} more" if len(foreign) > _NUM_LISTED else ""
        raise ArgumentError(
            "`importance` must be that of this model, with an array of the right shape for every "
            f"anchored weight. Received: none for {'; '.join(foreign[:_NUM_LISTED])}{more}; "
            f"it has {_listed(importance)}. "
            "Estimate it on this model (tlkit.estimate_importance), or name other `groups`."
        )
    fits = {id(v) for variables in fitting.values() for v in variables}
    if not fits:
        raise ArgumentError(
            "`importance` must have an array for at least one anchored weight. Received: "
            f"{_listed(importance)}, none of which fits the head. Estimate it on this model "
            "(tlkit.estimate_importance), or name other `groups`."
        )
    left_out = [names[id(v)] for v in chosen.get(_HEAD, []) if id(v) not in fits]
    notes = []
    if left_out:
        notes.append(
            f"the head was replaced after its importance was estimated: {', '.join(left_out)} "
            "not anchored"
        )
    return {group: variables for group, variables in fitting.items() if variables}, notes


def _listed(importance: Mapping[str, np.ndarray]) -> str:
    """Returns the first names and shapes, in words."""
    first = [f"{path} {np.shape(importance[path])}" for path in list(importance)[:_NUM_LISTED]]
    more = len(importance) - len(first)
    return "; ".join(first) + (f" and {more} more" if more else "")


def _shape(importance: Mapping[str, np.ndarray], name: str) -> tuple[int, ...] | None:
    values = importance.get(name)
    return None if values is None else tuple(np.shape(values))


def _without(
    regularizer: keras.regularizers.Regularizer | None, anchor: WeightAnchor
) -> keras.regularizers.Regularizer | None:
    if regularizer is anchor:
        return None
    if not isinstance(regularizer, RegularizerSum):
        return regularizer
    left = [
        one for one in (_without(r, anchor) for r in (regularizer.first, regularizer.second)) if one
    ]
    return RegularizerSum(*left) if len(left) == 2 else (left[0] if left else None)
