"""The features that a head reads, and the head's outputs for them, for grown heads too."""

from collections.abc import Sequence

import keras
import numpy as np

from tlkit.models.flattening import below, flat_tensor, submodel
from tlkit.models.heads import feature_cut
from tlkit.models.layer_spec import Call, parse_graph
from tlkit.models.new_classes import find_head
from tlkit.models.surgery import newest_classes

_BATCH_SIZE = 256


def read_by_head(model: keras.Model) -> list[keras.KerasTensor]:
    """Returns the tensors that the head's rows read: one, and one for each added part.

    Example:
        >>> import tlkit
        >>> from tlkit.continual.head_features import read_by_head
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> [tensor.shape for tensor in read_by_head(model)]
        [(None, 96)]
    """
    tensors: dict[int, keras.KerasTensor] = {}
    for (part, _), layer_spec in sorted(_head(model).layer_specs.items(), key=lambda item: item[0]):
        tensors.setdefault(part, flat_tensor(model, layer_spec.operation.input))
    return list(tensors.values())


def newest_rows(grown: keras.Model) -> list[keras.layers.Dense]:
    """Returns the layers of the classes added last, one for each tensor of `read_by_head`.

    The first has the bias.
    """
    newest, layer_specs = newest_classes(grown), _head(grown).layer_specs
    return [layer_specs[key].operation for key in sorted(layer_specs) if key[1] == newest]


def assign_rows(layers: Sequence[keras.layers.Dense], kernel: np.ndarray, bias: np.ndarray) -> None:
    """Assigns one kernel over all features to layers that each read a part of them.

    Args:
        layers: The layers that `newest_rows` returned.
        kernel: `(features, classes)`, the features of the first layer first.
        bias: `(classes,)`; ignored if the first layer has none.
    """
    sizes = np.cumsum([layer.kernel.shape[0] for layer in layers])[:-1]
    for layer, own in zip(layers, np.split(kernel, sizes), strict=True):
        layer.kernel.assign(own)
    if layers[0].bias is not None:
        layers[0].bias.assign(bias)


def below_head(model: keras.Model) -> keras.Model:
    """Returns the model from pixels to the features that are stored for each image."""
    cuts = _cuts(model)
    together = cuts[0] if len(cuts) == 1 else keras.layers.Concatenate()(cuts)
    return below(model, together)


def run_head(model: keras.Model, tensor: keras.KerasTensor, rows: np.ndarray) -> np.ndarray:
    """Returns one of the head's tensors for some features, in inference mode.

    Args:
        model: A classifier.
        tensor: A tensor in its head, or one that `read_by_head` returned.
        rows: The outputs of `below_head`.
    """
    cuts, tensor = _cuts(model), flat_tensor(model, tensor)
    parts = [rows]
    if len(cuts) > 1:
        parts = np.split(rows, np.cumsum([cut.shape[-1] for cut in cuts])[:-1], axis=-1)
    for cut, part in zip(cuts, parts, strict=True):
        if cut is tensor:
            return part
    head = submodel(cuts if len(cuts) > 1 else cuts[0], tensor)
    outputs = []
    for start in range(0, len(rows), _BATCH_SIZE):
        batch = [part[start : start + _BATCH_SIZE] for part in parts]
        output = head(batch if len(cuts) > 1 else batch[0], training=False)
        outputs.append(keras.ops.convert_to_numpy(output))
    return np.concatenate(outputs)


def _cuts(model: keras.Model) -> list[keras.KerasTensor]:
    """Returns the tensors that are stored for each image, concatenated.

    Parts added in isolation run in parallel with the old ones up to the head, so that only the
    tensors that the head reads contain all features.
    """
    tensors = read_by_head(model)
    return tensors if len(tensors) > 1 else [feature_cut(model)]


def _head(model: keras.Model) -> Call:
    head, _ = find_head(parse_graph(model))
    return head
