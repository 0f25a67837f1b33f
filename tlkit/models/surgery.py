"""Networks that grow: further classes, wider layers, and all of it in plain layers in the end.

Nothing here changes the model that it is given. What comes back is a model of its own, with copies
of all weights, so that training the one never moves the other. New units are plain Keras layers
beside the old ones, joined by addition or concatenation; the old layers keep their names, and the
names of the new ones say what is new (see `tlkit.models.grown_names`, and `new_layers`), so that a
model that was saved and loaded can grow further. A compiled model comes back uncompiled, and
without regularizers that were set on its variables rather than on its layers.
"""

from collections.abc import Sequence

import keras
import numpy as np

from tlkit.errors import ArgumentError, check_seed
from tlkit.models.consolidation import consolidate_graph_spec
from tlkit.models.grown_names import grown_name_of
from tlkit.models.heads import head_kind
from tlkit.models.layer_spec import read
from tlkit.models.new_classes import (
    add_units,
    check_class_means,
    check_new_names,
    find_head,
    imprinted,
    initialized,
    row_norms,
    scaled_rows,
)
from tlkit.models.rebuild import build
from tlkit.models.separable import fuse_separable
from tlkit.models.widening import check_total, find_layer, units_of, widen, widenable


def add_classes(
    model: keras.Model,
    new_names: Sequence[str],
    class_names: Sequence[str] | None = None,
    *,
    initializer: str | keras.initializers.Initializer = "glorot_uniform",
    class_means: np.ndarray | None = None,
    seed: int = 0,
) -> keras.Model:
    """Returns a copy of a classifier with further classes behind those it has.

    The logits of the old classes are bit-identical to those of `model` (at equal batch shape): the
    new ones come from a Dense layer beside the old one, and both are concatenated. Probabilities
    of a softmax change, as the new classes take their share.

    A head with one logit z (`binary=True`, or a sigmoid) becomes one with two classes and their
    logits 0 and z, which softmax turns into exactly what the sigmoid made of z; the new classes
    come behind them. A sigmoid at the end becomes a softmax then.

    Args:
        model: A functional model that ends with one Dense layer, of logits or with an activation
            (as its own or as the next layer).
        new_names: The new classes, in the order of the new outputs.
        class_names: The old classes in the order of the outputs, so that a name that exists is
            refused.
        initializer: Of the new classes' weights, by Keras's name or an object of Keras; biases
            begin as the old layer's do.
        class_means: Instead of `initializer`: the mean feature of each new class,
            `(len(new_names), num_features)`, features as the last Dense layer reads them from the
            network's old layers. Each new class's weights point there, with the mean norm of the
            old classes' (weight imprinting).
        seed: Makes random weights repeat.

    Returns:
        A model with `len(new_names)` further outputs, the old ones first (two of them instead of
        the one of a binary head).

    Raises:
        ArgumentError: A name is empty, there twice or exists; the model has no single
            classification head; the features do not fit.

    Example:
        >>> import numpy as np, tlkit
        >>> from tlkit.models.surgery import add_classes
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> wider = add_classes(model, ["cow"], class_names=["cat", "dog"])
        >>> images = np.zeros((1, 32, 32, 3))
        >>> wider.output_shape, bool(np.all(wider(images)[:, :2] == model(images)))
        ((None, 3), True)

    Reference:
        Weight imprinting: Qi, Brown and Lowe (2018), Low-Shot Learning with Imprinted Weights,
        https://arxiv.org/abs/1712.07136, here without normalising features.
    """
    check_seed(seed)
    graph_spec = read(model)
    head, _ = find_head(graph_spec)
    is_binary = head_kind(model) == "binary"
    num_classes = 2 if is_binary else model.output_shape[-1]
    names = check_new_names(new_names, class_names, num_classes)
    if class_means is None:
        fill = initialized(initializer, seed)
    else:
        fill = imprinted(head, check_class_means(head, class_means, len(names)))
    add_units(graph_spec, len(names), is_binary=is_binary, fill=fill)
    return build(graph_spec)


def align_new_classes(model: keras.Model) -> keras.Model:
    """Returns a copy in which the classes added last weigh as much as the others do.

    Trained on many images of new classes and few of old ones, the new classes' weights come out
    larger, and with them their logits. All of them are multiplied by the one factor
    mean(|old row|) / mean(|new row|), where a row is all weights that a class's logit reads
    through, and |.| the Euclidean norm. Biases stay.

    Args:
        model: What `add_classes` returned, after training, before `consolidate`.

    Raises:
        ArgumentError: No classes were added to the model, or their weights are all zero.

    Example:
        >>> import numpy as np, tlkit
        >>> from tlkit.models.surgery import add_classes, align_new_classes
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> aligned = align_new_classes(add_classes(model, ["cow"], initializer="ones"))
        >>> old = np.linalg.norm(aligned.get_layer("logits").kernel, axis=0).mean()
        >>> new = np.linalg.norm(aligned.get_layer("logits__grown1").kernel, axis=0).mean()
        >>> bool(np.isclose(old, new))
        True

    Reference:
        Weight aligning: Zhao et al. (2020), Maintaining Discrimination and Fairness in Class
        Incremental Learning, section 4.3, https://arxiv.org/abs/1911.07053.
    """
    graph_spec = read(model)
    newest = graph_spec.newest_classes
    if not newest:
        raise ArgumentError(
            "`model` must have classes that were added. Received: "
            f"model={model.name!r}, a model without. Give what tlkit.add_classes returned, before "
            "it is consolidated."
        )
    head, _ = find_head(graph_spec)
    old = np.concatenate([row_norms(head, part) for part in head.parts if part != newest])
    new = row_norms(head, newest)
    if not new.any():
        raise ArgumentError(
            "`model` must have weights other than zero for its new classes. Received: "
            f"model={model.name!r}, whose new classes have none. Train them first."
        )
    factor = old.mean() / new.mean()
    for (reads, own), layer_spec in head.layer_specs.items():
        if own == newest:
            head.layer_specs[reads, own] = scaled_rows(layer_spec, factor)
    return build(graph_spec)


def widen_layer(
    model: keras.Model, name: str, num_units: int, *, isolate: bool = False, seed: int = 0
) -> keras.Model:
    """Returns a copy of a model in which one layer has more units; it computes the same function.

    The new units are a layer beside the old one that reads what that reads, with its activation.
    What lies between it and the layers that read it (batch normalisation, activations, pooling,
    dropout, depthwise convolutions, flattening, concatenation) gets a copy for them. Each layer
    that reads it is joined by one that reads the new units and begins with zeros, and the two are
    added. So the outputs stay the same to the bit (at equal batch shape) until training moves those
    zeros. New incoming weights are drawn from a normal distribution and scaled to the mean norm of
    the old units', never zero, so that there is a gradient; where the layer reads units that were
    added before it, it begins to with zeros too.

    Inside a `tf.function`, TensorFlow may compute a Dense layer and its tanh, sigmoid, gelu or elu
    at once where it can no longer do so behind a sum; the last bit may differ then, but not with
    `isolate`.

    Separable convolutions that take part are split into a depthwise and a 1x1 convolution, which
    compute the same to the bit; new units read the depthwise part of the old ones.

    Args:
        model: A functional model with one input and one output.
        name: A Dense layer, a convolution or a separable convolution; for one that has grown, its
            first name.
        num_units: How many units (filters) it shall have in all, more than it has.
        isolate: Only what was added by the last `add_classes` or after it reads the new units: old
            units and old logits never do, so that no training of new units changes what they
            compute. Add the classes first, then widen layers from the output to the input.
        seed: Makes random weights repeat.

    Raises:
        ArgumentError: There is no such layer, it has as many units or more, or it cannot be
            widened: a shared layer, a grouped convolution, one whose units are the outputs, go
            into a residual sum, or through a layer that normalises over them or that tlkit does
            not know; or nothing new could read the units, with `isolate`.

    Example:
        >>> import numpy as np, tlkit
        >>> from tlkit.models.surgery import widen_layer
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> wider = widen_layer(model, "stage1_block1_1_conv", 20)
        >>> images = np.zeros((1, 32, 32, 3))
        >>> bool(np.all(wider(images) == model(images)))
        True
        >>> wider.get_layer("stage1_block1_1_conv__grown1").filters
        4

    Reference:
        Networks that grow and keep their function: Chen et al. (2016), Net2Net,
        https://arxiv.org/abs/1511.05641 (there new units copy old ones; here they are drawn, and
        their outgoing weights are zero).
    """
    check_seed(seed)
    graph_spec = read(model)
    call = find_layer(graph_spec, name)
    num_new = check_total(call, num_units)
    random = np.random.default_rng((seed, graph_spec.next_part))
    widen(graph_spec, call, num_new, isolate=isolate, random=random)
    return build(graph_spec)


def consolidate(model: keras.Model) -> keras.Model:
    """Returns the same network in plain layers: each of them one, as wide as all its parts.

    Outputs agree within float error, about 1e-5 relative to the largest: the wider layers sum the
    same numbers in another order. It ends isolation: what a part did not read becomes zeros in
    the kernel, which further training moves like any other weight. The layers have their first
    names again, but that of a binary head that has gained classes ("logits").

    Args:
        model: A model that has grown; one that has not is copied.

    Raises:
        ArgumentError: The model is not functional, or has several inputs or outputs.

    Example:
        >>> import tlkit
        >>> from tlkit.models.surgery import add_classes, consolidate
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> plain = consolidate(add_classes(model, ["cow"]))
        >>> plain.get_layer("logits").units, len(plain.layers) == len(model.layers)
        (3, True)
    """
    graph_spec = read(model)
    consolidate_graph_spec(graph_spec)
    fuse_separable(graph_spec)
    return build(graph_spec)


def new_layers(model: keras.Model, since: int = 1) -> list[keras.layers.Layer]:
    """Returns the layers that `add_classes` and `widen_layer` have added, input side first.

    Args:
        model: A model that has grown, or has been saved and loaded since.
        since: Number of the call from which on they count; the first call is number 1.

    Example:
        >>> import tlkit
        >>> from tlkit.models.surgery import add_classes, new_layers
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> [layer.name for layer in new_layers(add_classes(model, ["cow"]))]
        ['logits__grown1']
    """
    names = {layer.name for layer in model.layers}
    return [layer for layer in model.layers if grown_name_of(layer, names).number >= since]


def newest_classes(model: keras.Model) -> int:
    """Returns the number of the call that added classes last, for `new_layers`; 0 if none did.

    Example:
        >>> import tlkit
        >>> from tlkit.models.surgery import add_classes, newest_classes
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> newest_classes(model), newest_classes(add_classes(model, ["cow"]))
        (0, 1)
    """
    return read(model).newest_classes


def widenable_layers(model: keras.Model) -> tuple[str, ...]:
    """Returns the names of the layers that `widen_layer` can widen, input side first.

    Example:
        >>> import tlkit
        >>> from tlkit.models.surgery import widenable_layers
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> widenable_layers(model)[:2]
        ('stage1_block1_1_conv', 'stage1_block2_1_conv')
    """
    return tuple(widenable(read(model)))


def count_units(model: keras.Model, name: str) -> int:
    """Returns how many units (filters) a layer has, those that it has gained included.

    Raises:
        ArgumentError: There is no such layer, or it has no units of its own.

    Example:
        >>> import tlkit
        >>> from tlkit.models.surgery import count_units, widen_layer
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> count_units(widen_layer(model, "stage1_block1_1_conv", 20), "stage1_block1_1_conv")
        20
    """
    return units_of(find_layer(read(model), name))
