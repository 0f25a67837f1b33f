"""Chooses the size of the images that a fine-tuned model is used on, which may be a larger one."""

import dataclasses
from dataclasses import dataclass

import keras

from tlkit.advice.choosing import candidate_sizes
from tlkit.advice.timing import seconds_per_image
from tlkit.data.class_weighting import ClassWeighting, ClassWeightLike, weighting_of
from tlkit.data.images import ImageData, ImageSplit
from tlkit.errors import ArgumentError
from tlkit.evaluation.forward import forward_of
from tlkit.models.input_size import at_image_size
from tlkit.training.candidates import Candidate, evaluate_candidate
from tlkit.training.checks import check_class_weight
from tlkit.training.criterion import criterion_for
from tlkit.utils.formatting import percent
from tlkit.utils.text_repr import ShownAsText


@dataclass(frozen=True)
class SizeTrial:
    """A trained model on validation images of one size.

    Attributes:
        pixels: Height and width of the images.
        milliseconds: Time for one image, in batches.
        candidate: The model's losses and score.
    """

    pixels: int
    milliseconds: float
    candidate: Candidate


@dataclass(frozen=True)
class InferenceSize(ShownAsText):
    """The size at which a model is to be used, and why.

    Attributes:
        pixels: Height and width of the images.
        reason: Why, with the figures of all sizes that were tried.
    """

    pixels: int
    reason: str

    def __str__(self) -> str:
        return f"{self.pixels} pixels: {self.reason}"


def choose_inference_size(
    model: keras.Model, data: ImageData, *, class_weight: ClassWeightLike = None
) -> InferenceSize:
    """Chooses the image size at which a trained model is used, by validation images.

    A network that was trained on random crops sees enlarged objects, and may be more accurate on
    images that are larger than those of training (Touvron et al. 2019,
    https://arxiv.org/abs/1906.06423). From the size of training upwards, a larger one is taken if
    the cross-entropy there is lower than at the size taken so far by more than one standard error
    of the difference, paired by image; each has the temperature that fits it best.

    Args:
        model: The trained model, for square images; it is left unchanged.
        data: The images at the model's size; only validation images are used.
        class_weight: How classes count, see `tlkit.ClassWeighting`.

    Example:
        >>> import numpy as np, tlkit
        >>> from tlkit.advice.inference_size import choose_inference_size
        >>> images = np.random.default_rng(0).integers(0, 255, (40, 32, 32, 3), "uint8")
        >>> data = tlkit.load_arrays(images, np.arange(40) % 2, ["a", "b"], splits=(1, 0, 0))
        >>> model = tlkit.build_classifier("resnet20", data.class_names, weights=None)
        >>> print(choose_inference_size(model, data))
        32 pixels: there are no validation images to try a larger size on
    """
    own, *larger = candidate_sizes(data.image_size[0])
    images = data.validation
    if images is None:
        return InferenceSize(own, "there are no validation images to try a larger size on")
    weighting = check_class_weight(weighting_of(class_weight), model, data)
    taken = _trial(model, images, weighting)
    name = criterion_for(images, weighting).name
    described = [_described(taken, name)]
    for pixels in larger:
        try:
            resized = at_image_size(model, pixels)
        except ArgumentError:
            described.append(f"the model does not take {pixels} pixels")
            continue
        enlarged = dataclasses.replace(images, image_size=(pixels, pixels))
        trial = _trial(resized, enlarged, weighting)
        gain, error = trial.candidate.gain_over(taken.candidate)
        what = f"lower by {gain:.3f}" if gain > 0 else f"higher by {-gain:.3f}"
        described.append(
            f"{_described(trial, name)}, cross-entropy {what} ± {error:.3f} than at {taken.pixels}"
        )
        if gain > error:
            taken = trial
    reason = f"on {images.num_images:,} validation images, trained at {own}: {'; '.join(described)}"
    return InferenceSize(taken.pixels, reason)


def _trial(model: keras.Model, images: ImageSplit, weighting: ClassWeighting) -> SizeTrial:
    shape, dtype = model.input_shape[1:], model.inputs[0].dtype
    seconds = seconds_per_image(forward_of(model), shape, dtype, batch_size=images.batch_size)
    candidate = evaluate_candidate(model, images, weighting)
    return SizeTrial(images.image_size[0], 1000 * seconds, candidate)


def _described(trial: SizeTrial, name: str) -> str:
    return (
        f"{trial.pixels} pixels {name} {percent(trial.candidate.score.value)}, "
        f"{trial.milliseconds:.1f} ms per image"
    )
