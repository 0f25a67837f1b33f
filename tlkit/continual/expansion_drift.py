"""The drift of each unit in a probe of a new task, and the number of units its layer gains."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tlkit.continual.anchors import anchor_weights
from tlkit.continual.expansion_reports import LayerDrift
from tlkit.continual.expansion_steps import fit_task, task_model
from tlkit.data.images import ImageData
from tlkit.models.graph import with_nested
from tlkit.models.layer_spec import SEPARABLE, GraphSpec, parse_graph
from tlkit.models.rebuild import build
from tlkit.models.surgery import widenable_layers
from tlkit.models.trainable import set_flag


def probe_drift(
    grown: keras.Model,
    data: ImageData,
    *,
    strength: float,
    settings: Mapping[str, Any],
) -> tuple[LayerDrift, ...]:
    """Trains a copy of the whole network, and returns the drift of each unit.

    Every layer except batch normalisation is trainable, so that there is no frozen part whose
    activations could be stored.
    """
    copy = build(parse_graph(grown))
    for layer in with_nested(copy):
        set_flag(layer, not isinstance(layer, keras.layers.BatchNormalization))
    task = task_model(copy)
    anchor = anchor_weights(task, strength, groups="all")
    fit_task(task, data, hooks=[anchor], **settings)
    before, after = parse_graph(grown), parse_graph(copy)
    return tuple(
        drift_of(name, incoming_weights(before, name), incoming_weights(after, name))
        for name in widenable_layers(grown)
    )


def incoming_weights(graph_spec: GraphSpec, name: str) -> list[np.ndarray]:
    """Returns the incoming weights of each unit of a layer, including all its parts.

    Biases are excluded. For a separable convolution they are the weights of its 1x1 convolution, as
    the depthwise one belongs to its inputs.
    """
    (call,) = (call for call in graph_spec.calls if call.name == name)
    units: list[np.ndarray] = []
    for part in call.parts:
        kernels = [
            keras.ops.convert_to_numpy(_kernel_of(layer_spec.operation))
            for (_, own), layer_spec in sorted(call.layer_specs.items(), key=lambda item: item[0])
            if own == part
        ]
        rows = [kernel.reshape(-1, kernel.shape[-1]) for kernel in kernels]
        units.extend(np.concatenate(rows).T)
    return units


def _kernel_of(layer: keras.layers.Layer) -> keras.Variable:
    return layer.pointwise_kernel if type(layer) in SEPARABLE else layer.kernel


def drift_of(name: str, before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> LayerDrift:
    """Returns the drift of each unit, from its incoming weights before and after."""
    absolute = [float(np.linalg.norm(b - a)) for a, b in zip(before, after, strict=True)]
    norms = [float(np.linalg.norm(a)) for a in before]
    relative = [
        d / n if n else float("inf" if d else 0.0) for d, n in zip(absolute, norms, strict=True)
    ]
    return LayerDrift(name, tuple(relative), tuple(absolute))


def first_sizes(grown: keras.Model) -> dict[str, int]:
    """Returns the original number of units of each layer that can be widened."""
    names = set(widenable_layers(grown))
    return {c.name: c.layer_spec.num_units for c in parse_graph(grown).calls if c.name in names}


def sizes_of(
    drift: Sequence[LayerDrift],
    threshold: float,
    num_units: int | None,
    *,
    isolate: bool,
    at_most: Mapping[str, int],
) -> dict[str, int]:
    """Returns the number of units each layer gains, input side first.

    It is `num_units` or, if that is `None`, the number of drifted units, at most `at_most`. In
    isolation only new units read new units: a layer without drift gains as many as the last
    layer before it with drift, so that the new units reach the output.
    """
    sizes: dict[str, int] = {}
    before = 0
    for one in drift:
        drifted = min(one.num_drifted(threshold), at_most[one.name])
        number = (num_units or drifted) if drifted else (before if isolate else 0)
        if number:
            sizes[one.name] = before = number
    return sizes
