"""Backbones from Keras models of the user's own, with or without their classifiers."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import keras
import numpy as np

from tlkit.errors import ArgumentError
from tlkit.models.backbone_files import KERAS_HUB, read_backbone_file
from tlkit.models.backbone_spec import (
    BackboneSpec,
    Preprocessing,
    Standardization,
    in_words,
    spec_of_own,
)
from tlkit.models.boundaries import segment
from tlkit.models.cuts import Cut
from tlkit.models.flattening import below, flat
from tlkit.models.graph import model_ends, sorted_nodes
from tlkit.models.heads import OUTPUT_NAMES
from tlkit.models.keras_files import KerasFileError, load_keras_file
from tlkit.models.keras_hub_presets import import_keras_hub, standardization_of
from tlkit.models.model_spec import UNIT, describe_inputs
from tlkit.models.needed_packages import needed_packages
from tlkit.models.plain_copies import cloned, not_copied, opened_model, plain_copy
from tlkit.models.tokens import token_grid
from tlkit.utils.formatting import counted
from tlkit.utils.progress import note
from tlkit.utils.text_repr import ShownAsText

_TO_UNIT = Standardization((0.0,), (255.0,))
_RESERVED = {"pixels", "preprocessing", "head_pool", "head_flatten", "head_dropout"}
_OPEN_SIDE = 224  # pixels of a side that is not fixed, while a model is described


@dataclass(frozen=True, eq=False)
class OwnBackbone(ShownAsText):
    """The part of a Keras model from its input to its last feature map, or its last tokens.

    Attributes:
        name: Name of the model or of its file.
        feature_shape: (rows, columns, channels) of the feature map, or (tokens, channels); `None`
            for sides that are not fixed.
        features_from: Name of the operation that computes it.
        cut_off: Names of the layers after it, which are left out.
        preprocessing: What is done to pixels 0...255 before the model; "none" if it does all of it.
        is_inside: Whether the model contains preprocessing.
        num_prefix_tokens: Number of tokens before those of the patches.
        has_pooling: Whether the tokens are pooled by attention, which belongs to the backbone.
    """

    name: str
    feature_shape: tuple[int | None, ...]
    features_from: str
    cut_off: tuple[str, ...]
    preprocessing: Preprocessing
    is_inside: bool
    num_prefix_tokens: int
    has_pooling: bool
    _model: keras.Model = field(repr=False)

    _left_out = ("_model",)

    def __str__(self) -> str:
        shape = " × ".join("?" if side is None else str(side) for side in self.feature_shape)
        if len(self.feature_shape) == 2:
            shape += f", {counted(self.num_prefix_tokens, 'token')} before those of patches"
        cut_off = f"cut off: {', '.join(self.cut_off)}" if self.cut_off else "nothing is cut off"
        parts = [f"{self.name}: features of {self.features_from} ({shape})", cut_off]
        if self.has_pooling:
            parts.append("it has attention pooling")
        if self.is_inside:
            parts.append("it contains its preprocessing")
        if self.preprocessing != "none":
            parts.append(f"preprocessing: {in_words(self.preprocessing)}")
        elif not self.is_inside:
            parts.append("no preprocessing, as given")
        return "; ".join(parts)

    @property
    def spec(self) -> BackboneSpec:
        """The backbone as one of the catalogue."""
        shape = self._model.inputs[0].shape[1:]
        return replace(
            spec_of_own(self.name, self.build, shape),
            num_prefix_tokens=self.num_prefix_tokens,
            build_pooled=partial(self.build, is_pooled=True) if self.has_pooling else None,
        )

    def build(
        self, pixels: keras.KerasTensor, weights: str | None, *, is_pooled: bool = False
    ) -> keras.Model:
        """Returns the backbone from pixels 0...255 to features, with copies of the layers.

        Args:
            pixels: A `keras.Input` `(batch, height, width, channels)`, float32.
            weights: "pretrained" for the weights of the model, `None` for random ones.
            is_pooled: Whether to return features `(batch, channels)` of its own pooling.

        Raises:
            ArgumentError: The layers take no images of this size.
        """
        height, width, _ = pixels.shape[1:]
        copy = _copy(self._model, self.name, has_weights=weights is not None)
        ends = _ends_of(copy, self.name)
        tensor = ends.features if ends.pooled is None or not is_pooled else ends.pooled
        own = copy.inputs[0].shape[1:3]
        is_own = all(
            side in (None, given) for side, given in zip(own, (height, width), strict=True)
        )
        try:
            built = plain_copy(below(copy, tensor), pixels, self.preprocessing, self.name)
            if not is_own:
                _check_rows(built)
        except Exception as error:  # whatever the layers raise
            if is_own and isinstance(error, ArgumentError):
                raise
            raise ArgumentError(
                f"`image_size` must be a size that the layers of the backbone {self.name!r} take. "
                f"Received: {height} × {width} pixels ({type(error).__name__}). Use the size that "
                f"it was trained at, {_size(copy)}."
            ) from error
        shape = self.feature_shape if is_pooled else built.output_shape[1:]
        note(str(replace(self, feature_shape=shape)))
        return built


def load_backbone(
    path: str | os.PathLike[str], preprocessing: Preprocessing | None = None
) -> OwnBackbone:
    """Reads the backbone in a `.keras` file, without running code from it.

    Args:
        path: A file that `keras.Model.save` wrote.
        preprocessing: See `own_backbone`.

    Raises:
        ArgumentError: See `own_backbone`; or the file is damaged, contains code, or layers of
            classes that are unknown.
    """
    file = read_backbone_file(path)
    if KERAS_HUB in needed_packages(path):
        import_keras_hub(f"a network of KerasHub in {os.fspath(path)!r}")
    try:
        model = load_keras_file(path)
    except KerasFileError as error:
        if error.is_damaged:
            raise ArgumentError(
                "`backbone` must be an intact .keras file. "
                f"Received: backbone={os.fspath(path)!r} ({error}). Save or copy it again."
            ) from error
        raise not_copied(f"{os.fspath(path)!r}, which cannot be loaded", error) from error
    return own_backbone(model, preprocessing, name=file.name)


def own_backbone(
    model: keras.Model, preprocessing: Preprocessing | None = None, *, name: str | None = None
) -> OwnBackbone:
    """Finds the backbone of a model: everything up to its last feature map or its last tokens.

    Args:
        model: A functional or Sequential model from images, with a classifier, with pooled
            features, with a feature map or with tokens as output; a network of KerasHub, too. It is
            not changed.
        preprocessing: What is to be done to pixels 0...255 before the model. Must be left out if
            the model contains preprocessing for pixels or for values 0...1, which is then found;
            replaces that of the preprocessor of a classifier of KerasHub; given otherwise.
        name: Name of the backbone; by default that of the model.

    Raises:
        ArgumentError: The model is not functional, does not take one batch of images, or has no
            feature map and no tokens of patches; `preprocessing` is missing, or is given although
            the model contains it.

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
    for node in sorted_nodes(flat(model).output):
        if getattr(node.operation, "data_format", None) == "channels_first":
            raise ArgumentError(
                "`backbone` must have layers with channels last. Received: "
                f"{name!r}, whose layer {node.operation.name!r} has channels first. Build it with "
                "data_format='channels_last', and load its weights."
            )
    ends = _ends_of(model, name)
    inside = describe_inputs(model).value_range
    if preprocessing is None and inside is None:
        preprocessing = _of_preprocessor(model)
    return OwnBackbone(
        name=name,
        feature_shape=tuple(ends.features.shape[1:]),
        features_from=flat(model).names[id(sorted_nodes(ends.features)[-1].operation)],
        cut_off=ends.cut_off,
        preprocessing=_preprocessing_before(name, inside, preprocessing),
        is_inside=inside is not None,
        num_prefix_tokens=_num_prefix_tokens(model, name) if len(ends.features.shape) == 3 else 0,
        has_pooling=ends.pooled is not None,
        _model=model,
    )


def _copy(model: keras.Model, name: str, *, has_weights: bool = True) -> keras.Model:
    """Returns a model of copied layers with unique names; the user's own gets no new calls."""
    if type(model).__module__.startswith(f"{KERAS_HUB}."):
        # whose layers are not all created from their own settings
        copy = type(model).from_config(model.get_config())
    else:
        copy = cloned(model, name)
    if has_weights:
        copy.set_weights(model.get_weights())
    _name_uniquely(copy)
    return copy


def _check_rows(model: keras.Model) -> None:
    """Checks that a model returns a row for each image.

    Raises:
        ValueError: It does not: patches were reshaped to a number of tokens that is fixed.
    """
    outputs = model(np.zeros((2, *model.input_shape[1:]), np.float32), training=False)
    if outputs.shape[0] != 2:
        raise ValueError(f"{outputs.shape[0]} rows of features for two images")


def _of_preprocessor(model: keras.Model) -> Standardization | None:
    """Returns what the preprocessor of a classifier of KerasHub does to pixels."""
    converter = getattr(getattr(model, "preprocessor", None), "image_converter", None)
    return None if converter is None else standardization_of(converter.get_config())


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
            f"Received: preprocessing={in_words(given)!r}, and {name!r} scales values "
            f"{low:g}...{high:g} itself. Leave it out."
        )
    return found


@dataclass(frozen=True, eq=False)
class _Ends:
    """Where a backbone ends, in the flat graph of its model.

    Attributes:
        features: Its feature map `(batch, rows, columns, channels)` or tokens
            `(batch, tokens, channels)`.
        pooled: The features `(batch, channels)` of attention pooling; `None` without.
        cut_off: Names of the layers after the last of these.
    """

    features: keras.KerasTensor
    pooled: keras.KerasTensor | None
    cut_off: tuple[str, ...]


def _ends_of(model: keras.Model, name: str) -> _Ends:
    output = flat(model).output
    if len(output.shape) in (3, 4):
        return _Ends(output, None, ())
    segmentation = segment(model)
    cuts, last = segmentation.cuts, segmentation.starts[-1]
    if _is_pooled(cuts[last]) and cuts[last].is_spatial and not cuts[last + 1].parameters:
        last += 1  # takes the only token
    index = next(
        index for index in range(last, -1, -1) if index == 0 or not _is_pooled(cuts[index])
    )
    cut, pooled = cuts[index], cuts[last]
    whole = cut.is_whole and pooled.is_whole and (index == last or len(pooled.shape) == 1)
    if not whole or not any(one.parameters for one in cuts[: index + 1]):
        raise ArgumentError(
            "`backbone` must have a last feature map (batch, rows, columns, channels), or last "
            "tokens of patches (batch, tokens, channels), that every path leads through. "
            f"Received: {name!r}, in which none is found before the outputs "
            f"{tuple(output.shape)}. Give a network for images, or keras.Model(model.input, "
            "FEATURES)."
        )
    after = [operation for one in cuts[last + 1 :] for operation in one.between]
    return _Ends(
        features=cut.tensor,
        pooled=None if last == index else pooled.tensor,
        cut_off=tuple(operation.name for operation in after),
    )


def _is_pooled(cut: Cut) -> bool:
    """Whether there are no positions, or one token, that of attention pooling."""
    return cut.num_positions == 1 and len(cut.shape) < 3


def _num_prefix_tokens(model: keras.Model, name: str) -> int:
    """Returns the number of tokens before those of the patches."""
    copy = _copy(model, name)
    features = _ends_of(copy, name).features
    height, width, channels = (side or _OPEN_SIDE for side in copy.inputs[0].shape[1:])
    plain = opened_model(below(copy, features), (height, width, channels)).model
    grid = token_grid(plain, plain.outputs[0])
    if grid is None:
        raise ArgumentError(
            "`backbone` must compute its tokens from a feature map of patches. "
            f"Received: {name!r}, whose tokens {tuple(features.shape)} come from something else. "
            "Give a network whose first layer is a convolution over patches."
        )
    return grid.num_prefix_tokens


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


def _size(model: keras.Model) -> str:
    sides: Sequence[int | None] = model.inputs[0].shape[1:3]
    return " × ".join("any" if side is None else str(side) for side in sides)
