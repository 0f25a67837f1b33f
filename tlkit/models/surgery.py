"""Growing networks: adding classes, widening layers, and consolidating them to plain layers.

No function changes the model that it is given. Each returns an independent model with copies of all
weights, so that training one never changes the other. New units are plain Keras layers in parallel
with the old ones, joined by addition or concatenation; old layers keep their names, and the names
of new layers identify them (see `tlkit.models.grown_names`, and `new_layers`), so that a saved and
loaded model can grow further. The returned model is not compiled, and lacks regularizers that were
set on variables rather than on layers.
"""

from collections.abc import Sequence

import keras
import numpy as np

from tlkit.errors import ArgumentError, check_seed
from tlkit.models.consolidation import consolidate_graph_spec
from tlkit.models.grown_names import grown_name_of
from tlkit.models.heads import head_kind
from tlkit.models.layer_spec import parse_graph
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
    """Returns a copy of a classifier with new classes after the old ones.

    The logits of the old classes are bit-identical to those of `model` (at equal batch shape): the
    new logits come from a Dense layer in parallel with the old one, and both are concatenated.
    Softmax probabilities of old classes change, as new classes get some of the probability.

    A head with one logit z (`binary=True`, or a sigmoid) becomes a head with two classes and the
    logits 0 and z, whose softmax equals the sigmoid of z; the new classes follow. A sigmoid at the
    end is then replaced by a softmax.

    Args:
        model: A functional model that ends with one Dense layer, with logits or an activation (of
            the layer, or as the next layer).
        new_names: The new classes, in the order of the new outputs.
        class_names: The old classes in the order of the outputs, so that existing names can be
            refused.
        initializer: Initializer of the new classes' weights, a Keras initializer or its name;
            biases are initialised as those of the old layer.
        class_means: Instead of `initializer`: the mean feature of each new class,
            `(len(new_names), num_features)`, where features are the inputs of the last Dense layer
            from the original layers. Each new class's weights have this direction, and the mean
            norm of the old classes' weights (weight imprinting).
        seed: Seed of random weights.

    Returns:
        A model with `len(new_names)` additional outputs, the old ones first (two for a binary
        head).

    Raises:
        ArgumentError: A name is empty, repeated or exists; the model has no single classification
            head; the features do not fit.

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
    graph_spec = parse_graph(model)
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
    """Returns a copy in which the weights of the classes added last have the norm of the others.

    After training on many images of new classes and few of old ones, the new classes' weights, and
    therefore their logits, are larger. They are multiplied by one factor,
    mean(|old row|) / mean(|new row|), where a row consists of all weights of a class's logit, and
    |.| is the Euclidean norm. Biases are unchanged.

    Args:
        model: A model from `add_classes`, after training and before `consolidate`.

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
    graph_spec = parse_graph(model)
    newest = graph_spec.newest_classes
    if not newest:
        raise ArgumentError(
            "`model` must have added classes. Received: "
            f"model={model.name!r}, a model without any. Give what tlkit.add_classes returned, "
            "before it is consolidated."
        )
    head, _ = find_head(graph_spec)
    old = np.concatenate([row_norms(head, part) for part in head.parts if part != newest])
    new = row_norms(head, newest)
    if not new.any():
        raise ArgumentError(
            "`model` must have nonzero weights for its new classes. Received: "
            f"model={model.name!r}, whose new classes have only zeros. Train them first."
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

    The new units are a layer in parallel with the old one, with the same inputs and activation. The
    layers between it and its readers (batch normalisation, activations, pooling, dropout, depthwise
    convolutions, flattening, concatenation) get a copy for them. Each reader gets a parallel layer
    that reads the new units with zero weights, and the two are added. So the outputs stay
    bit-identical (at equal batch shape) until training changes these zeros. New incoming weights
    are drawn from a normal distribution and scaled to the mean norm of the old units' weights;
    they are nonzero, so that there is a gradient. Weights for inputs from units that were added
    earlier are initially zero too.

    Inside a `tf.function`, TensorFlow may fuse a Dense layer with its tanh, sigmoid, gelu or elu,
    which it cannot do after a sum; the last bit may then differ, but not with `isolate`.

    Separable convolutions on the route are split into a depthwise and a 1x1 convolution, whose
    outputs are bit-identical; new units read the old depthwise convolution.

    Args:
        model: A functional model with one input and one output.
        name: A Dense layer, a convolution or a separable convolution; for a grown layer its
            original name.
        num_units: New total number of units (filters), more than it has.
        isolate: Whether only layers added by the last `add_classes` or later read the new units:
            old units and old logits never do, so that training new units never changes them. Add
            the classes first, then widen layers from the output to the input.
        seed: Seed of random weights.

    Raises:
        ArgumentError: There is no such layer, it already has as many units, or it cannot be
            widened: it is a shared layer or a grouped convolution, its units are the outputs, they
            go into a residual sum, or through a layer that normalises over them or is unknown to
            tlkit; or, with `isolate`, no new layer could read the units.

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
        Growing networks that keep their function: Chen et al. (2016), Net2Net,
        https://arxiv.org/abs/1511.05641 (there new units copy old ones; here they are random, and
        their outgoing weights are zero).
    """
    check_seed(seed)
    graph_spec = parse_graph(model)
    call = find_layer(graph_spec, name)
    num_new = check_total(call, num_units)
    random = np.random.default_rng((seed, graph_spec.next_part))
    widen(graph_spec, call, num_new, isolate=isolate, random=random)
    return build(graph_spec)


def consolidate(model: keras.Model) -> keras.Model:
    """Returns the same network in plain layers, each as wide as all its parts.

    Outputs agree within float error, about 1e-5 relative to the largest: the wider layers sum the
    same numbers in another order. Isolation ends: weights between parts that did not read each
    other become zeros in the kernel, which further training changes like any other weight. The
    layers have their original names, except for a binary head that has gained classes ("logits").

    Args:
        model: A grown model; any other is copied.

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
    graph_spec = parse_graph(model)
    consolidate_graph_spec(graph_spec)
    fuse_separable(graph_spec)
    return build(graph_spec)


def new_layers(model: keras.Model, since: int = 1) -> list[keras.layers.Layer]:
    """Returns the layers that `add_classes` and `widen_layer` have added, input side first.

    Args:
        model: A grown model, also one that was saved and loaded.
        since: Number of the first call to include; the first call is number 1.

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
    """Returns the number of the call that added classes last, for `new_layers`; 0 without any.

    Example:
        >>> import tlkit
        >>> from tlkit.models.surgery import add_classes, newest_classes
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> newest_classes(model), newest_classes(add_classes(model, ["cow"]))
        (0, 1)
    """
    return parse_graph(model).newest_classes


def widenable_layers(model: keras.Model) -> tuple[str, ...]:
    """Returns the names of the layers that `widen_layer` can widen, input side first.

    Example:
        >>> import tlkit
        >>> from tlkit.models.surgery import widenable_layers
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> widenable_layers(model)[:2]
        ('stage1_block1_1_conv', 'stage1_block2_1_conv')
    """
    return tuple(widenable(parse_graph(model)))


def count_units(model: keras.Model, name: str) -> int:
    """Returns the number of units (filters) of a layer, including added ones.

    Raises:
        ArgumentError: There is no such layer, or it has no units.

    Example:
        >>> import tlkit
        >>> from tlkit.models.surgery import count_units, widen_layer
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> count_units(widen_layer(model, "stage1_block1_1_conv", 20), "stage1_block1_1_conv")
        20
    """
    return units_of(find_layer(parse_graph(model), name))
