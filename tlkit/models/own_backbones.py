"""Backbones from Keras models of the user's own, with or without their classifiers."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras

from tlkit.errors import ArgumentError
from tlkit.models.backbone_files import read_backbone_file
from tlkit.models.backbone_spec import Preprocessing, Standardization
from tlkit.models.boundaries import segment
from tlkit.models.flattening import below, flat, on_input
from tlkit.models.graph import model_ends, sorted_nodes
from tlkit.models.heads import OUTPUT_NAMES
from tlkit.models.model_spec import UNIT, describe_inputs
from tlkit.models.opening import opened
from tlkit.models.preprocessing import preprocess
from tlkit.models.trainable import set_flag
from tlkit.utils.progress import note
from tlkit.utils.text_repr import ShownAsText

_TO_UNIT = Standardization((0.0,), (255.0,))
_RESERVED = {"pixels", "preprocessing", "head_pool", "head_flatten", "head_dropout"}


@dataclass(frozen=True, eq=False)
class OwnBackbone(ShownAsText):
    """The part of a Keras model from its input to its last feature map.

    Attributes:
        name: Name of the model or of its file.
        feature_shape: (rows, columns, channels) of the feature map; `None` for sides that are not
            fixed.
        features_from: Name of the operation that computes it.
        cut_off: Names of the layers after it, which are left out.
        preprocessing: What is done to pixels 0...255 before the model; "none" if it does all of it.
        is_inside: Whether the model contains preprocessing.
    """

    name: str
    feature_shape: tuple[int | None, ...]
    features_from: str
    cut_off: tuple[str, ...]
    preprocessing: Preprocessing
    is_inside: bool
    _model: keras.Model = field(repr=False)

    _left_out = ("_model",)

    def __str__(self) -> str:
        shape = " × ".join("?" if side is None else str(side) for side in self.feature_shape)
        cut_off = f"cut off: {', '.join(self.cut_off)}" if self.cut_off else "nothing is cut off"
        parts = [f"{self.name}: features of {self.features_from} ({shape})", cut_off]
        if self.is_inside:
            parts.append("it contains its preprocessing")
        if self.preprocessing != "none":
            parts.append(f"preprocessing: {_in_words(self.preprocessing)}")
        elif not self.is_inside:
            parts.append("no preprocessing, as given")
        return "; ".join(parts)

    def build(self, pixels: keras.KerasTensor, weights: str | None) -> keras.Model:
        """Returns the backbone from pixels 0...255 to features, with copies of the layers.

        Args:
            pixels: A `keras.Input` `(batch, height, width, channels)`, float32.
            weights: "pretrained" for the weights of the model, `None` for random ones.

        Raises:
            ArgumentError: The layers take no images of this size.
        """
        height, width, channels = pixels.shape[1:]
        model = _clone(self._model, self.name)  # the user's own gets no new calls
        if weights is not None:
            model.set_weights(self._model.get_weights())
        _name_uniquely(model)
        tensor, _ = _feature_map(model, self.name)
        try:
            resized = keras.Input((height, width, channels), dtype=model.inputs[0].dtype)
            prepared = preprocess(resized, self.preprocessing)
            inlined = keras.Model(resized, on_input(below(model, tensor), prepared))
            found = opened(inlined, resized)
            flattened = keras.Model(resized, found.output)
        except Exception as error:  # whatever the layers raise
            raise ArgumentError(
                f"`image_size` must be a size that the layers of the backbone {self.name!r} take. "
                f"Received: {height} × {width} pixels ({type(error).__name__}). Use the size that "
                f"it was trained at, {_size(model)}."
            ) from error
        note(str(replace(self, feature_shape=flattened.output_shape[1:])))
        if found.closed:
            note(f"{self.name}: layers that stay whole: {', '.join(found.closed)}")
        return copied_onto(flattened, pixels, self.name)


def load_backbone(
    path: str | os.PathLike[str], preprocessing: Preprocessing | None = None
) -> OwnBackbone:
    """Reads the backbone in a `.keras` file, without running code from it.

    Args:
        path: A file that `keras.Model.save` wrote.
        preprocessing: See `own_backbone`.

    Raises:
        ArgumentError: See `own_backbone`; or the file contains code, or layers of classes that are
            unknown.
    """
    file = read_backbone_file(path)
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except (ValueError, TypeError, OSError, KeyError) as error:
        raise _not_copied(f"{os.fspath(path)!r}, which cannot be loaded", error) from error
    return own_backbone(model, preprocessing, name=file.name)


def own_backbone(
    model: keras.Model, preprocessing: Preprocessing | None = None, *, name: str | None = None
) -> OwnBackbone:
    """Finds the backbone of a model: everything up to its last feature map.

    Args:
        model: A functional or Sequential model from images, with a classifier, with pooled
            features or with a feature map as output. It is not changed.
        preprocessing: What is to be done to pixels 0...255 before the model. Must be left out if
            the model contains preprocessing for pixels or for values 0...1, which is then found,
            and given otherwise.
        name: Name of the backbone; by default that of the model.

    Raises:
        ArgumentError: The model is not functional, does not take one batch of images, or has no
            feature map; `preprocessing` is missing, or is given although the model contains it.

    Example:
        >>> import keras
        >>> from tlkit.models.own_backbones import own_backbone
        >>> model = keras.Sequential(
        ...     [
        ...         keras.Input((64, 64, 3)),
        ...         keras.layers.Rescaling(1 / 255),
        ...         keras.layers.Conv2D(8, 3, strides=2, name="conv"),
        ...         keras.layers.GlobalAveragePooling2D(name="pool"),
        ...         keras.layers.Dense(10, name="classes"),
        ...     ],
        ...     name="small",
        ... )
        >>> print(own_backbone(model))
        small: features of conv (31 × 31 × 8); cut off: pool, classes; it contains its preprocessing
    """
    if not isinstance(model, keras.Model):
        raise ArgumentError(
            "`backbone` must be a name of tlkit.list_backbones(), the path of a .keras file, or a "
            f"keras.Model. Received: backbone of type {type(model).__name__}. Give one of these."
        )
    name = name or model.name
    source, _ = model_ends(model)
    if len(source.shape) != 4 or source.shape[-1] is None:
        raise ArgumentError(
            "`backbone` must be a model of images (batch, height, width, channels). "
            f"Received: {name!r} with inputs {tuple(source.shape)}. Use a model of images."
        )
    tensor, cut_off = _feature_map(model, name)
    inside = describe_inputs(model).value_range
    return OwnBackbone(
        name=name,
        feature_shape=tuple(tensor.shape[1:]),
        features_from=flat(model).names[id(sorted_nodes(tensor)[-1].operation)],
        cut_off=cut_off,
        preprocessing=_preprocessing_before(name, inside, preprocessing),
        is_inside=inside is not None,
        _model=model,
    )


def copied_onto(model: keras.Model, pixels: keras.KerasTensor, name: str) -> keras.Model:
    """Returns a model of copies of the layers, each called once, all of them trainable.

    Args:
        model: A functional model of layers that may be called elsewhere, too.
        pixels: The copy's `keras.Input`.
        name: Name of the copy.

    Raises:
        ArgumentError: A layer cannot be created from its settings.
    """
    copy = _clone(model, name, input_tensors=pixels)
    copy.set_weights(model.get_weights())
    set_flag(copy, True)
    return keras.Model(pixels, copy.outputs[0], name=name)


def _clone(model: keras.Model, name: str, **arguments: Any) -> keras.Model:
    try:
        return keras.models.clone_model(model, **arguments)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise _not_copied(f"{name!r}, whose layers cannot be copied", error) from error


def _not_copied(what: str, error: Exception) -> ArgumentError:
    reason = " ".join(str(error).split())[:200]
    return ArgumentError(
        "`backbone` must consist of layers that Keras creates from their settings, without running "
        f"code from a file. Received: backbone={what} ({reason}). Replace Lambda layers by plain "
        "ones, and register classes of your own with keras.saving.register_keras_serializable."
    )


def _preprocessing_before(
    name: str, inside: tuple[float, float] | None, given: Preprocessing | None
) -> Preprocessing:
    """Returns what is done to pixels before a model that takes the values `inside`, or any."""
    if inside is None:
        if given is not None:
            return given
        raise ArgumentError(
            "`preprocessing` must be given for a backbone in which none is found. "
            f"Received: {name!r}, whose first layer with weights reads its inputs as they are. "
            "Give what it was trained with: 'tf', 'torch', 'caffe', '127,128' for (pixels - 127) / "
            "128, or 'none' for raw pixels."
        )
    found: Preprocessing = _TO_UNIT if inside == UNIT else "none"
    if given not in (None, found):
        low, high = inside
        raise ArgumentError(
            "`preprocessing` must be left out for a backbone that contains its preprocessing. "
            f"Received: preprocessing={_in_words(given)!r}, and {name!r} scales values "
            f"{low:g}...{high:g} itself. Leave it out."
        )
    return found


def _feature_map(model: keras.Model, name: str) -> tuple[keras.KerasTensor, tuple[str, ...]]:
    """Returns the last feature map, in the flat graph, and the names of the layers after it."""
    output = flat(model).output
    if len(output.shape) == 4:
        return output, ()
    segmentation = segment(model)
    index = segmentation.starts[-1]
    cut = segmentation.cuts[index]
    before = segmentation.cuts[: index + 1]
    if len(cut.shape) != 3 or not cut.is_whole or not any(one.parameters for one in before):
        raise ArgumentError(
            "`backbone` must have a last feature map (batch, rows, columns, channels) that every "
            f"path leads through. Received: {name!r}, in which none is found before the outputs "
            f"{tuple(output.shape)}. Give a convolutional network, or keras.Model(model.input, "
            "FEATURE_MAP)."
        )
    after = [operation for one in segmentation.cuts[index + 1 :] for operation in one.between]
    return cut.tensor, tuple(operation.name for operation in after)


def _name_uniquely(model: keras.Model) -> None:
    """Renames operations, also nested ones, whose names are not unique or those of tlkit's layers.

    A flat graph with these operations can then be saved together with a head.
    """
    taken = {*_RESERVED, *OUTPUT_NAMES.values()}
    graph = flat(model)
    for node in sorted_nodes(graph.output):
        operation = node.operation
        unique = name = graph.names.get(id(operation), operation.name).replace("/", "_")
        number = 1
        while unique in taken:
            number += 1
            unique = f"{name}_{number}"
        taken.add(unique)
        operation.name = unique


def _in_words(preprocessing: Preprocessing) -> str:
    if callable(preprocessing):
        return getattr(preprocessing, "__name__", type(preprocessing).__name__)
    return str(preprocessing)


def _size(model: keras.Model) -> str:
    sides: Sequence[int | None] = model.inputs[0].shape[1:3]
    return " × ".join("any" if side is None else str(side) for side in sides)
