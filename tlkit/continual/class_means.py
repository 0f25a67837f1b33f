"""Mean features of classes, to initialise the weights of new classes with."""

import os

import keras
import numpy as np

from tlkit.data.images import ImageSplit
from tlkit.errors import DataError
from tlkit.evaluation.data_checks import check_images
from tlkit.models.layer_spec import parse_graph
from tlkit.models.new_classes import find_head
from tlkit.training.features import extract_features
from tlkit.training.frozen import FrozenPart


def mean_features(
    model: keras.Model, images: ImageSplit, *, cache: str | os.PathLike[str] | None = None
) -> np.ndarray:
    """Returns the mean feature of each class of some images, for `add_classes`.

    The features are the inputs of the model's last Dense layer in inference mode; the network runs
    once for each image, and they are stored.

    Args:
        model: The classifier to add classes to; not changed.
        images: Images of the new classes only, such as `data.train`, each of one class.
        cache: Folder of the feature store.

    Returns:
        float32 `(num_classes, num_features)`, a row for each class that has images, in the order
        of their labels: the argument `class_means` of `add_classes`.

    Raises:
        ArgumentError: The model has no single classification head, or the images do not fit it.
        DataError: There is no image, or images have several labels.

    Example:
        >>> import numpy as np, tlkit
        >>> images = np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), "uint8")
        >>> new = tlkit.load_arrays(images, np.arange(8) % 2, ["cow", "hen"])
        >>> model = tlkit.build_classifier("resnet20", ["cat", "dog"], weights=None)
        >>> means = tlkit.mean_features(model, new.train)
        >>> tlkit.add_classes(model, new.class_names, class_means=means).output_shape
        (None, 4)

    Reference:
        Weight imprinting: see `add_classes`.
    """
    head, _ = find_head(parse_graph(model))
    if not isinstance(images, ImageSplit) or images.labels.ndim != 1 or not images.num_images:
        labels = getattr(images, "labels", np.empty(0))
        raise DataError(
            "`images` must be images with one label each, such as data.train. Received: "
            f"{type(images).__name__} with labels of shape {np.shape(labels)}. Load them with "
            "tlkit.load_folder or tlkit.load_arrays."
        )
    check_images("images", images, model, labels="given")
    part = FrozenPart(keras.Model(model.inputs[0], head.operation.input))
    features = extract_features(part, images, exact=False, cache=cache)
    rows, labels = features.load(), features.labels
    return np.stack([rows[labels == label].mean(axis=0) for label in np.unique(labels)]).astype(
        np.float32
    )
