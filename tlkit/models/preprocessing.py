"""Preprocessing of pixels 0...255 for a backbone, with plain layers in the model's graph."""

import keras

from tlkit.models.backbone_spec import Preprocessing, Standardization

# ImageNet's statistics: of RGB in 0...1, and of BGR in 0...255
RGB_MEAN = (0.485, 0.456, 0.406)
RGB_STANDARD_DEVIATION = (0.229, 0.224, 0.225)
BGR_MEAN = (103.939, 116.779, 123.68)


def preprocess(images: keras.KerasTensor, preprocessing: Preprocessing) -> keras.KerasTensor:
    """Returns the inputs of a backbone, computed from raw pixels within the graph.

    Equal to `keras.applications.imagenet_utils.preprocess_input(images, mode=preprocessing)`
    within float32 rounding, and loads in plain Keras. Computes in float32 under any precision
    policy: bfloat16 rounds neighbouring pixel values to the same.

    Args:
        images: RGB pixels `(batch, height, width, 3)`, 0...255.
        preprocessing: "tf", "torch", "caffe" or "none", see `BackboneSpec`; a `Standardization`; or
            a function without arguments that returns a Keras layer.

    Example:
        >>> import keras
        >>> from tlkit.models.preprocessing import preprocess
        >>> preprocess(keras.Input((8, 8, 3)), "caffe").shape
        (None, 8, 8, 3)
    """
    if isinstance(preprocessing, Standardization):
        scale = [1 / deviation for deviation in preprocessing.deviation]
        offset = [-mean * factor for mean, factor in zip(preprocessing.mean, scale, strict=True)]
        return _rescaling(scale, offset)(images)
    if callable(preprocessing):
        return preprocessing()(images)
    if preprocessing == "tf":
        return _rescaling(1 / 127.5, -1.0)(images)
    if preprocessing == "torch":
        pairs = list(zip(RGB_MEAN, RGB_STANDARD_DEVIATION, strict=True))
        scale = [1 / (255 * deviation) for _, deviation in pairs]
        return _rescaling(scale, [-mean / deviation for mean, deviation in pairs])(images)
    if preprocessing == "caffe":
        return _rescaling(1.0, [-mean for mean in BGR_MEAN])(images[..., ::-1])
    return images


def _rescaling(scale: float | list[float], offset: float | list[float]) -> keras.layers.Layer:
    return keras.layers.Rescaling(scale, offset=offset, dtype="float32", name="preprocessing")
