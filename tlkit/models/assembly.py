"""Assembly of classifiers from a backbone and a head, as one flat graph."""

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras

from tlkit.errors import (
    ArgumentError,
    WeightsError,
    as_tuple,
    check_count,
    check_image_size,
    check_seed,
)
from tlkit.models.backbone_spec import (
    SHIPPED_BACKBONE,
    BackboneSpec,
    Preprocessing,
    preprocessing_of,
)
from tlkit.models.catalogue import find_backbone
from tlkit.models.channels import with_channels
from tlkit.models.compiling import compile_classifier
from tlkit.models.graph import count_parameters, model_ends
from tlkit.models.heads import OUTPUT_NAMES
from tlkit.models.own_backbones import own_backbone
from tlkit.models.pooling import pooled, pooling_of
from tlkit.models.preprocessing import preprocess
from tlkit.models.weights import PRETRAINED, check_weights_file, load_weights_file
from tlkit.utils.keras_settings import check_building
from tlkit.utils.tensorflow_logging import grow_gpu_memory


def build_classifier(
    backbone: "str | os.PathLike[str] | keras.Model",
    class_names: Sequence[str],
    *,
    preprocessing: Preprocessing | Sequence[Any] | None = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    weights: str | os.PathLike[str] | None = "pretrained",
    pooling: str | None = None,
    hidden: Sequence[int] = (),
    dropout: float = 0.2,
    binary: bool = False,
    multi_label: bool = False,
    seed: int = 0,
) -> keras.Model:
    """Builds a classifier from pixels to logits, with every layer in one functional graph.

    The graph consists of the backbone's preprocessing, the backbone's layers (not a nested model),
    and the head: pooling, hidden layers, dropout and a Dense layer. It loads in plain Keras.

    It is compiled with the cross-entropy and the accuracy that fit its head, so that Keras's `fit`
    and `evaluate` can be called at once, and with stochastic gradient descent (rate 0.01, gradients
    clipped to a norm of 1). To use another optimizer, pass the loss on: `compile("adam",
    model.loss)`.

    Args:
        backbone: A name of `tlkit.list_backbones()`; or a model of your own, with or without its
            classifier, which is cut off: a functional Keras model, or the path of a `.keras` file,
            from which no code is run. Its layers are copied. Which layers are cut off and what
            preprocessing is found is shown, see `tlkit.models.own_backbones.own_backbone`. Or
            "keras_hub:PRESET", a preset of KerasHub by its name or its folder
            (`pip install 'tlkit[hub]'`): its layers become plain Keras layers, those inside blocks
            of transformers, too, so that the model needs no KerasHub to be loaded.
        class_names: Names of the classes in the order of the outputs, at least two, all distinct.
        preprocessing: What is done to pixels 0...255 before the backbone: "tf", "torch", "caffe" or
            "none", see `BackboneSpec`; "MEAN,DEVIATION" or (mean, deviation) for
            (pixels - mean) / deviation, each one number or three; or a function that returns a
            Keras layer. Needed for a model of your own in which none is found. For a backbone of
            the catalogue it replaces its own, for weights that were trained in another way.
        image_size: Height and width in pixels, or one number for both; by default the backbone's.
        channels: Number of channels of the images; by default those of the backbone, 3 for all of
            the catalogue. For another number only the kernel of the first convolution changes: it
            is summed for 1, so that a grey image has the features of the same image in RGB, and
            extended with zeros for more than 3, after red, green and blue; what was done is shown.
            See `tlkit.models.channels.with_channels`.
        weights: "pretrained" (or "imagenet") for the backbone's published weights, `None` for
            random weights, else the path of a weights file without classifier. The published
            weights of a model of your own are those that it has.
        pooling: "avg" or "max" over all positions, or "flatten" to keep all positions; for
            transformers also "class_token", or "attention" for the pooling that the backbone was
            trained with. By default that of the backbone: its attention pooling, else its class
            token, else the mean.
        hidden: Numbers of units of Dense layers with ReLU between pooling and logits.
        dropout: Dropout rate before the last layer, 0 <= dropout < 1; no dropout layer for 0.
        binary: Whether to have one logit, for the second of two classes, instead of two.
        multi_label: Whether to have an independent logit (with a sigmoid) per class, for images
            that may have several classes.
        seed: Seed of random weights; the same seed gives the same weights; 0 to 2**32 - 1.

    Returns:
        A model from `(batch, height, width, channels)`, float32, 0...255, to float32 logits
        `(batch, num_classes)`, or `(batch, 1)` if `binary`. The last layer is called "logits",
        "binary_logit" or "label_logits".

    Raises:
        ArgumentError: An argument is invalid, the image size is below the backbone's minimum, the
            backbone cannot be adapted to so many channels, or a registered backbone does not build
            on the given tensor.
        WeightsError: The weights cannot be downloaded, or belong to another backbone.
        KerasSettingsError: Keras is set to channels first, or to weights that are not float32.

    Example:
        >>> import tlkit
        >>> model = tlkit.build_classifier("mobilenet_025", ["cat", "dog"], weights=None)
        >>> model.input_shape, model.output_shape
        ((None, 224, 224, 3), (None, 2))
    """
    check_building()
    grow_gpu_memory()
    given = None if preprocessing is None else preprocessing_of(preprocessing)
    if isinstance(backbone, keras.Model):
        spec = own_backbone(backbone, given).spec
    else:
        spec = find_backbone(backbone, given, is_loaded=True)
    num_outputs = _check_classes(class_names, binary=binary, multi_label=multi_label)
    height, width = _check_image_size(spec, image_size)
    pooling = pooling_of(spec, pooling)
    _check_head(hidden, dropout)
    check_seed(seed)
    num_channels = _check_channels(spec, channels)
    path = _check_weights(spec, weights)

    with _seeded(seed):
        pixels = keras.Input((height, width, spec.channels), name="pixels", dtype="float32")
        prepared = preprocess(pixels, spec.preprocessing)
        pretrained = "pretrained" if weights is not None and path is None else None
        own_pooling = spec.build_pooled if pooling == "attention" else None
        features = (own_pooling or spec.build)(prepared, pretrained)
        _check_backbone(spec, features, pixels, is_pooled=own_pooling is not None)
        if path is not None:
            load_weights_file(features, path)
        features = with_channels(features, num_channels)
        x = pooled(features.outputs[0], pooling, spec.num_prefix_tokens)
        for position, units in enumerate(hidden, start=1):
            x = keras.layers.Dense(units, activation="relu", name=f"head_dense_{position}")(x)
        if dropout > 0:
            x = keras.layers.Dropout(dropout, name="head_dropout")(x)
        kind = "binary" if binary else "multi_label" if multi_label else "softmax"
        # Logits stay float32 under any precision policy: a loss in half precision overflows
        last = keras.layers.Dense(num_outputs, dtype="float32", name=OUTPUT_NAMES[kind])
        model = keras.Model(features.inputs[0], last(x), name=spec.name)
    compile_classifier(model)
    return model


def _check_classes(class_names: Sequence[str], *, binary: bool, multi_label: bool) -> int:
    """Returns the number of outputs."""
    names = list(as_tuple(class_names))
    repeated = sorted({str(name) for name in names if names.count(name) > 1})
    if len(names) < 2 or repeated or not all(isinstance(name, str) for name in names):
        raise ArgumentError(
            "`class_names` must be at least two distinct names. "
            f"Received: class_names={names!r}"
            f"{f', with {repeated} repeated' if repeated else ''}. "
            "Give the name of each class once, in the order of the outputs."
        )
    if binary and multi_label:
        raise ArgumentError(
            "`binary` must not be combined with `multi_label`. "
            "Received: binary=True, multi_label=True. Choose one: binary for one of two classes, "
            "multi_label for any number of classes in one image."
        )
    if binary and len(names) != 2:
        raise ArgumentError(
            "`binary` must be used with exactly two class names. "
            f"Received: binary=True, {len(names)} class names. Leave `binary` out."
        )
    return 1 if binary else len(names)


def _check_image_size(
    spec: BackboneSpec, image_size: int | tuple[int, int] | None
) -> tuple[int, int]:
    sides = check_image_size(spec.default_image_size if image_size is None else image_size)
    spec.check_minimum_size("image_size", sides if image_size is None else image_size)
    return sides


def _check_channels(spec: BackboneSpec, channels: int | None) -> int:
    """Returns the number of channels of the images."""
    if channels is None:
        return spec.channels
    check_count("channels", channels)
    return channels


def _check_head(hidden: Sequence[int], dropout: float) -> None:
    if not isinstance(hidden, Sequence) or isinstance(hidden, str):
        raise ArgumentError(
            "`hidden` must be a sequence of numbers of units. "
            f"Received: hidden={hidden!r}. Write hidden=(256,) for one layer of 256 units."
        )
    for units in hidden:
        check_count("hidden", units)
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise ArgumentError(
            "`dropout` must be a number of at least 0 and below 1. "
            f"Received: dropout={dropout!r}. Write for example dropout=0.2."
        )


def _check_weights(spec: BackboneSpec, weights: str | os.PathLike[str] | None) -> Path | None:
    """Returns the path if `weights` is one; called before any slow work."""
    if weights is None:
        return None
    if not isinstance(weights, str | os.PathLike):
        raise ArgumentError(
            "`weights` must be 'pretrained', None or the path of a file. "
            f"Received: weights={weights!r}. Give one of these."
        )
    if weights not in PRETRAINED:
        return check_weights_file(weights)
    if spec.weights is None:
        raise WeightsError(
            "`weights` must be a file or None for a backbone without pretrained weights. "
            f"Received: weights={weights!r} (backbone={spec.name!r}). Give weights=PATH or "
            f"weights=None, or use the backbone {SHIPPED_BACKBONE!r}, whose weights are included "
            "in tlkit."
        )
    return None


def _check_backbone(
    spec: BackboneSpec, backbone: keras.Model, pixels: keras.KerasTensor, *, is_pooled: bool
) -> None:
    """Checks that a registered builder returned one flat graph from the pixels to features."""
    remedy = (
        "Build on the given tensor: call the layers themselves on `input_tensor` (for Keras's own "
        "builders pass input_tensor=input_tensor) and return "
        "keras.Model(keras.utils.get_source_inputs(input_tensor)[0], features)."
    )
    if not isinstance(backbone, keras.Model):
        raise ArgumentError(
            "`build` must return a keras.Model. "
            f"Received: {type(backbone).__name__} from the builder of {spec.name!r}. {remedy}"
        )
    source, output = model_ends(backbone)
    if source is not pixels:
        raise ArgumentError(
            "`build` must return a model of the tensor it is given. "
            f"Received: a model with an input of its own from the builder of {spec.name!r}. "
            f"{remedy}"
        )
    nested = [layer for layer in backbone.layers if isinstance(layer, keras.Model)]
    if count_parameters(nested) > count_parameters([backbone]) / 2:
        raise ArgumentError(
            "`build` must return one flat graph. Received: a model with the nested model "
            f"{nested[0].name!r} from the builder of {spec.name!r}, whose layers could not be "
            f"grouped. {remedy}"
        )
    if len(output.shape) not in ((2,) if is_pooled else (3, 4)):
        raise ArgumentError(
            "`build` must return a model with outputs (batch, rows, columns, channels), or tokens "
            "(batch, tokens, channels). "
            f"Received: outputs {tuple(output.shape)} from the builder of {spec.name!r}. "
            "Leave pooling and classifier out."
        )


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Makes the seeds that Keras draws reproducible, and restores the state of Python's generator.

    An initializer or dropout layer without a seed draws one from Python's generator, and the
    backbones of `keras.applications` take no seed.
    """
    state = random.getstate()
    random.seed(int(seed))
    try:
        yield
    finally:
        random.setstate(state)
