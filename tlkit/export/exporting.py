"""Export of models to deploy; each export is compared with the model before it is published."""

import dataclasses
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_sample_images

from tlkit.data.conversion import readable
from tlkit.data.images import ImageSplit
from tlkit.data.limits import MAX_PIXELS
from tlkit.data.reading import read_image
from tlkit.data.settings import GREY, RESIZES, RGB, STRETCH
from tlkit.errors import ArgumentError, ExportError, as_tuple, check_choice, check_count, check_path
from tlkit.evaluation.comparison import ComparisonReport
from tlkit.evaluation.image_files import (
    Paths,
    are_paths,
    check_image_files,
    list_files,
    pixels_of,
    resize_pixels,
)
from tlkit.evaluation.names import check_class_names, num_classes_of
from tlkit.evaluation.prediction import (
    decoder_for,
    image_shape_of,
    predictions_from,
)
from tlkit.evaluation.rejection import Rejection, check_rejection
from tlkit.evaluation.thresholds import THRESHOLD, Threshold, check_threshold
from tlkit.export.answers import Answering, Answers
from tlkit.export.example_model import (
    ExampleServing,
    check_example_formats,
    example_samples,
    run_example_model,
    sample_array,
    write_example_model,
)
from tlkit.export.export_images import ComparedImages, calibration_images
from tlkit.export.formats import EXPORT_FORMATS, check_needs_images, check_packages
from tlkit.export.labels import add_labels
from tlkit.export.litert import write_litert
from tlkit.export.onnx import write_onnx
from tlkit.export.parity import ParityReport, check_parity, difference_error
from tlkit.export.saved_model import Serving, run_saved_model, write_saved_model
from tlkit.models.graph import model_ends
from tlkit.models.heads import head_kind
from tlkit.models.model_spec import describe_model
from tlkit.models.vocabularies import config_with_vocabulary
from tlkit.utils.files import written_aside
from tlkit.utils.formatting import counted, megabytes
from tlkit.utils.text_repr import ShownAsText

FORMATS = tuple(EXPORT_FORMATS)
LARGEST_DIFFERENCE = 1e-5
_KERAS_FILE = EXPORT_FORMATS["keras"].path
_IN_PROCESS = ("saved_model", "keras")
_CPU = "CPU:0"
"""Device of the comparisons: a GPU may round products of float32 to TensorFloat-32."""


@dataclass(frozen=True)
class ExportedFormat(ShownAsText):
    """One exported format.

    Attributes:
        name: One of `FORMATS`.
        path: The SavedModel's folder, or the file.
        num_bytes: Its size.
        difference: Largest difference of a probability (and, with a rejection, of an OOD score)
            from the model in memory.
        accuracy_drop: Expected loss of accuracy by rounded weights, 0...1, computed from the
            probabilities of the model in memory, as the true labels are unknown; see
            `tlkit.export.parity.accuracy_drop`. `None` if no fresh process was used.
        load_seconds: Time to load it in a process that has only the format's runtime, or `None`.
        milliseconds_per_image: Time for one image there, or `None`.
        comparison: With `test` images, for a format that is held to the accuracy alone: the model
            in memory (first) compared with the export (second) on them. The difference and the
            loss of accuracy above are then measured on these images, too.
        num_calibrated: Number of images that the format was calibrated on; 0 for the others.
    """

    name: str
    path: Path
    num_bytes: int
    difference: float
    accuracy_drop: float | None = None
    load_seconds: float | None = None
    milliseconds_per_image: float | None = None
    comparison: ComparisonReport | None = None
    num_calibrated: int = 0

    def __str__(self) -> str:
        text = (
            f"{self.name}: {self.path}, {megabytes(self.num_bytes)}, "
            f"largest difference of a probability {self.difference:.1g}"
        )
        if self.load_seconds is not None:
            text += (
                f"; in a fresh process {self.load_seconds:.2f} s to load, "
                f"{self.milliseconds_per_image:.1f} ms per image"
            )
        if self.num_calibrated:
            text += f"; calibrated on {counted(self.num_calibrated, 'image')}"
        if self.comparison is not None:
            text += f"; model in memory (first) and export (second): {self.comparison}"
        elif self.accuracy_drop:
            text += f"; expected loss of accuracy {100 * self.accuracy_drop:.1f} points"
        return text


@dataclass(frozen=True)
class ExportReport(ShownAsText):
    """The formats that `export_model` wrote, and how closely they agree with the model in memory.

    Attributes:
        formats: The exported formats, in the order of the argument.
        num_samples: Number of compared images.
    """

    formats: tuple[ExportedFormat, ...]
    num_samples: int

    def __str__(self) -> str:
        lines = [str(exported) for exported in self.formats]
        return "\n".join(
            [*lines, f"compared with the model in memory on {self.num_samples} images"]
        )


def export_model(
    model: keras.Model,
    path: str | os.PathLike[str],
    class_names: Sequence[str],
    *,
    formats: Sequence[str] = ("saved_model",),
    samples: Sequence[str | os.PathLike[str]] | np.ndarray | None = None,
    threshold: float | Sequence[float] = THRESHOLD,
    max_pixels: int = MAX_PIXELS,
    rejection: Rejection | None = None,
    fresh_process: bool = True,
    resize: str = STRETCH,
    calibrate: ImageSplit | Sequence[str | os.PathLike[str]] | np.ndarray | None = None,
    test: ImageSplit | None = None,
) -> ExportReport:
    """Exports `model` to formats that need no tlkit, and compares each export with the model.

    With "saved_model" alone, `path` is the SavedModel itself. Otherwise it is a folder that holds
    the requested ones of `saved_model/`, `model.keras`, `model.tflite`, `model_float16.tflite`,
    `model_int8.tflite`, `model_full_int8.tflite` and `model.onnx`.

    The SavedModel of a model of images takes contents of image files, or pixels, and returns
    probabilities, class names and class numbers; see `tlkit.export.saved_model`. The other formats
    take pixels and include the preprocessing and the class names; see `tlkit.export.labels`. All
    compute in float32, whatever the model's policy for training is (except for the rounded weights
    of "litert_float16" and "litert_int8", and for "litert_full_int8", which computes in integers),
    and hold no training state. `model` is left unchanged.

    A model that takes no images is exported in the same way, but `samples` must be given: its
    SavedModel takes `texts`, strings, or `inputs`, numbers. Only "saved_model" and "keras" hold the
    vocabulary of a model that takes texts.

    Before anything is written to `path`, images are passed through the model in memory, the
    reloaded .keras file (which is written for this even if it was not requested) and both
    signatures of the reloaded SavedModel, in batches of the same shape, all on the CPU. Each
    probability must agree within 1e-5. Then each format is run and timed in a process of its own,
    in which nothing but its runtime can be imported, and must respect the bounds of
    `tlkit.export.formats`.

    Args:
        model: From pixels 0...255 of a fixed image size, or from inputs of another kind, to
            logits or probabilities.
        path: A folder that does not exist or is empty.
        class_names: Class names in the order of the model's outputs, each on one line.
        formats: One or several of "saved_model", "keras", "litert", "litert_float16",
            "litert_int8", "litert_full_int8" and "onnx". All but the first two need tlkit[export].
        samples: Images to compare on: files, or pixels 0...255 `(n, height, width, 3)`. By
            default, two images that come with scikit-learn, and six views of them. For other
            models, some of their inputs, `(n, ...)`, such as texts.
        threshold: Lowest probability, 0...1, for which a multi-label head gives a label: one for
            all labels, or one for each in their order. The SavedModel applies it; clients of the
            other formats must, and find it in the settings, as a number or a list.
        max_pixels: Largest number of pixels of an image file for the SavedModel.
        rejection: The result of `fit_rejection` for this model. Both signatures of the SavedModel
            then also return "known", bool `(n,)`, and "novelty", float32 `(n,)`, the OOD score,
            which must also agree within 1e-5; assets/serving.json holds the fraction of images
            that is wrongly rejected. The .keras file holds the classifier alone.
        fresh_process: Whether the SavedModel and the .keras file are also run in a process of their
            own. Otherwise the report has no times for them, and the seconds to import TensorFlow
            in that process are saved.
        resize: "stretch", "crop" or "pad", as the model's training images were resized; see
            `load_folder`. The SavedModel resizes image files in this way; clients of the other
            formats must, and find it in the settings.
        calibrate: Images from which "litert_full_int8" takes the range of each activation, and
            which it cannot be made without: a split such as `data.train`, files, or pixels. Up to
            128 of them are used, evenly spaced, so that every class of a split is among them.
        test: Labelled images, at the model's size, on which the accuracies of "litert_int8" and
            "litert_full_int8" are compared with that of the model in memory: up to 1,000 of them,
            evenly spaced. Without them, the loss of accuracy is estimated on `samples`.

    Raises:
        ArgumentError: If an argument is invalid, `path` is not empty, or `rejection` was fitted to
            other features than those of the model.
        DataError: If `samples` or `calibrate` are missing or cannot be decoded.
        ExportError: If an export cannot be loaded or does not agree; then nothing is written.

    Example:
        >>> import keras, tempfile, tlkit
        >>> model = keras.Sequential([
        ...     keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = tlkit.export_model(
        ...         model, f"{folder}/exported", ["ant", "bee"], formats=("keras",))
        ...     [exported.path.name for exported in report.formats], report.num_samples
        (['model.keras'], 8)
    """
    formats = _check_formats(formats)
    check_packages(formats)
    check_needs_images(formats, calibrate)
    path = _check_path(path)
    check_count("max_pixels", max_pixels)
    check_choice("resize", resize, RESIZES)
    given = _Given(
        class_names=_check_lines(check_class_names(class_names, num_classes_of(model))),
        threshold=check_threshold(threshold, num_classes_of(model)),
        max_pixels=max_pixels,
        rejection=None if rejection is None else check_rejection(rejection, model),
        resize=resize,
    )
    serving, compared = _serving_and_samples(model, formats, samples, given, test=test)
    ranges = None
    if calibrate is not None and isinstance(serving, Serving):
        ranges = calibration_images(calibrate, model, serving)
    model = _in_float32(model)
    with tf.device(_CPU):
        expected = serving.answers(model, compared.images)
        tested = None if test is None else ComparedImages.of(test, model)
    _check_finite(expected)
    with written_aside(path) as aside, tempfile.TemporaryDirectory() as scratch:
        paths = _paths(aside, formats)
        differences = {}
        about = {name: value for name, value in serving.as_dict().items() if name != "rejection"}
        file = paths.get("keras", Path(scratch) / _KERAS_FILE)
        answers = _write_and_run_keras(model, file, compared, serving, about)
        differences["keras"] = _compare("keras", answers, expected, serving)
        if "saved_model" in formats:
            answers = _write_and_run_saved_model(model, paths["saved_model"], compared, serving)
            differences["saved_model"] = _compare("saved_model", answers, expected, serving)
        for name in formats:
            _write_for_other_runtimes(
                model, name, aside, serving.class_names, about, calibrate=ranges
            )
        probabilities = expected["probabilities"].numpy()
        samples_there = ComparedImages(sample_array(compared.images), probabilities)
        checked = [name for name in formats if fresh_process or name not in _IN_PROCESS]
        parity = {
            name: _check_parity(name, paths[name], model, serving, samples_there, test=tested)
            for name in checked
        }
        sizes = {name: _num_bytes(written) for name, written in paths.items()}
    return ExportReport(
        formats=tuple(
            _report_format(
                ExportedFormat(name, written, sizes[name], differences.get(name, 0.0)),
                parity.get(name),
                num_calibrated=0 if ranges is None else len(ranges),
            )
            for name, written in _paths(path, formats).items()
        ),
        num_samples=len(compared.images),
    )


def _check_finite(expected: Answers) -> None:
    probabilities = expected["probabilities"].numpy()
    if not np.isfinite(probabilities).all():
        raise ExportError(
            "`model` must give finite probabilities. Received: NaN or infinite ones on "
            f"{len(probabilities)} images. Train it again with a lower learning rate."
        )


def _check_parity(
    name: str,
    path: Path,
    model: keras.Model,
    serving: Answering,
    samples: ComparedImages,
    *,
    test: ComparedImages | None,
) -> ParityReport:
    is_tested = test is not None and EXPORT_FORMATS[name].is_held_to_accuracy
    compared = test if test is not None and is_tested else samples
    return check_parity(
        name,
        path,
        compared.images,
        compared.expected,
        model=model,
        threshold=serving.threshold,
        labels=compared.labels,
    )


def _report_format(
    exported: ExportedFormat, parity: ParityReport | None, *, num_calibrated: int
) -> ExportedFormat:
    """Returns the report on a format with the results of its fresh process, if there was one."""
    if parity is None:
        return exported
    return dataclasses.replace(
        exported,
        difference=max(parity.difference, exported.difference),
        accuracy_drop=parity.accuracy_drop,
        load_seconds=parity.load_seconds,
        milliseconds_per_image=parity.milliseconds_per_image,
        comparison=parity.comparison,
        num_calibrated=num_calibrated if EXPORT_FORMATS[exported.name].needs_images else 0,
    )


@dataclass(frozen=True)
class _Given:
    """The arguments of `export_model` on serving, checked."""

    class_names: tuple[str, ...]
    threshold: Threshold
    max_pixels: int
    rejection: Rejection | None
    resize: str


def _serving_and_samples(
    model: keras.Model,
    formats: tuple[str, ...],
    samples: Any,
    given: _Given,
    *,
    test: ImageSplit | None,
) -> "tuple[Serving | ExampleServing, _ParitySamples]":
    """Returns how the model's outputs become answers, and the inputs to compare on."""
    kind, spec = head_kind(model), describe_model(model)
    if not spec.takes_images:
        check_example_formats(formats, spec, given.resize, test)
        inputs = example_samples(samples, spec)
        shape, dtype = spec.input_shape[1:], spec.input_dtype
        answering = ExampleServing(
            given.class_names, kind, shape, dtype, given.threshold, given.rejection
        )
        return answering, _ParitySamples((), inputs)
    image_shape = image_shape_of(model)
    _check_channels(image_shape, formats)
    serving = Serving(
        class_names=given.class_names,
        kind=kind,
        image_size=image_shape[:2],
        channels=image_shape[-1],
        threshold=given.threshold,
        max_pixels=given.max_pixels,
        rejection=given.rejection,
        resize=given.resize,
    )
    return serving, _ParitySamples.of(samples, serving)


def _check_channels(image_shape: tuple[int, int, int], formats: Sequence[str]) -> None:
    if image_shape[-1] not in (GREY, RGB) and "saved_model" in formats:
        raise ArgumentError(
            "`formats` must not have 'saved_model' for a model of images with "
            f"{image_shape[-1]} channels. Received: formats={tuple(formats)}, and a SavedModel "
            "decodes image files, which are RGB or grey. Choose 'keras', 'litert' or 'onnx', and "
            f"give samples of the shape (n, {', '.join(map(str, image_shape))})."
        )


def _write_for_other_runtimes(
    model: keras.Model,
    name: str,
    folder: Path,
    class_names: tuple[str, ...],
    about: dict[str, object],
    *,
    calibrate: np.ndarray | None,
) -> None:
    spec = EXPORT_FORMATS[name]
    if spec.runtime == "ai_edge_litert":
        write_litert(
            model,
            folder,
            class_names,
            quantization=spec.quantization,
            calibrate=calibrate if spec.needs_images else None,
            about=about,
        )
    elif spec.runtime == "onnxruntime":
        write_onnx(model, folder, class_names, about=about)


@dataclass(frozen=True)
class _ParitySamples:
    """The images to compare on: contents of files, and decoded, uint8 (n, height, width, channels).

    There are no files of images with other channels than 3 and 1, nor of inputs of another kind.
    """

    image_bytes: tuple[bytes, ...]
    images: tf.Tensor

    @classmethod
    def of(
        cls, samples: Sequence[str | os.PathLike[str]] | np.ndarray | None, serving: Serving
    ) -> "_ParitySamples":
        image_bytes: tuple[bytes, ...] = ()
        images: list[tf.Tensor] = []
        if samples is None or are_paths(samples):
            image_bytes = _image_files(samples, serving.max_pixels)
        else:
            pixels = pixels_of(samples, "samples", serving.channels)
            if serving.channels in (GREY, RGB):
                image_bytes = tuple(tf.io.encode_png(one).numpy() for one in pixels)
            else:
                images = [resize_pixels(one, serving.image_size, serving.resize) for one in pixels]
        if image_bytes:
            decode = decoder_for(serving.image_shape, serving.max_pixels, serving.resize, "samples")
            images = [decode(tf.constant(content)) for content in image_bytes]
        if not images:
            raise ArgumentError(
                "`samples` must contain at least one image. Received: none. "
                "Leave it out to use images that come with scikit-learn."
            )
        return cls(image_bytes, tf.stack(images))


def _image_files(samples: Paths | None, max_pixels: int) -> tuple[bytes, ...]:
    """Returns the contents of image files, by default of those that come with scikit-learn."""
    if samples is None:
        return _bundled_images(max_pixels)
    paths = list_files(samples, "samples")
    check_image_files(paths, max_pixels, "samples")
    return tuple(readable(read_image(path), max_pixels) for path in paths)


def _bundled_images(max_pixels: int) -> tuple[bytes, ...]:
    """Returns the two images of scikit-learn as files, and six flipped or cropped views of them.

    If they have more than `max_pixels`, every second (third, ...) pixel is taken.
    """
    files, views = [], []
    bundled = load_sample_images()
    for file, image in zip(bundled.filenames, bundled.images, strict=True):
        height, width, _ = image.shape
        step = math.ceil(math.sqrt(height * width / max_pixels))
        small = image[::step, ::step]
        files.append(Path(file).read_bytes() if step == 1 else tf.io.encode_jpeg(small).numpy())
        height, width, _ = small.shape
        views += [small[:, ::-1], small[::-1], small[: height // 2, : width // 3]]
    return (*files, *(tf.io.encode_jpeg(view).numpy() for view in views))


def _in_float32(model: keras.Model) -> keras.Model:
    """Returns the model with the same weights in float32, without optimizer and losses.

    A model that already computes in float32 shares its layers with the result; layers of others
    are copied.
    """
    if not any(map(_is_in_other_floats, _all_layers(model))):
        return keras.Model(*model_ends(model), name=model.name)

    def rebuild(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = config_with_vocabulary(layer)
        return type(layer).from_config(
            config | ({"dtype": "float32"} if _is_in_other_floats(layer) else {})
        )

    copy = keras.models.clone_model(model, clone_function=rebuild, recursive=True)
    copy.set_weights(model.get_weights())
    return copy


def _is_in_other_floats(layer: keras.layers.Layer) -> bool:
    """Whether a layer computes in other floating-point numbers; layers of words in none at all."""
    policy = layer.dtype_policy
    return policy.name != "float32" and "float" in str(policy.compute_dtype)


def _all_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        yield layer
        yield from _all_layers(layer) if isinstance(layer, keras.Model) else ()


def _write_and_run_keras(
    model: keras.Model,
    file: Path,
    compared: _ParitySamples,
    serving: Answering,
    about: dict[str, object],
) -> tuple[Answers, ...]:
    file.parent.mkdir(exist_ok=True)
    model.save(file)
    add_labels(file, serving.class_names, about)
    try:
        with tf.device(_CPU):
            loaded = keras.saving.load_model(file, compile=False)
    except (TypeError, ValueError) as error:
        raise ExportError(
            f"The .keras file of this model cannot be loaded: {error} "
            "Register its custom classes with `keras.saving.register_keras_serializable`."
        ) from error
    with tf.device(_CPU):
        return (serving.answers(loaded, compared.images),)


def _write_and_run_saved_model(
    model: keras.Model, folder: Path, compared: _ParitySamples, serving: Serving | ExampleServing
) -> tuple[Answers, ...]:
    if isinstance(serving, ExampleServing):
        write_example_model(model, folder, serving)
        with tf.device(_CPU):
            return run_example_model(folder, compared.images)
    write_saved_model(model, folder, serving)
    with tf.device(_CPU):
        return run_saved_model(folder, compared.image_bytes, compared.images)


def _compare(
    name: str, all_answers: tuple[Answers, ...], expected: Answers, serving: Answering
) -> float:
    """Returns the largest difference of a probability or OOD score; raises if it is too large.

    Labels are checked against the export's own probabilities, not against those expected: of two
    classes that are equally probable within the tolerance, either may be the label.
    """
    differences = [0.0]
    for output, what in {"probabilities": "probabilities", "novelty": "OOD scores"}.items():
        if output not in expected:
            continue
        exported = np.stack([answers[output].numpy() for answers in all_answers])
        difference = float(np.abs(exported - expected[output].numpy()).max())
        if not difference <= LARGEST_DIFFERENCE:  # also for NaN
            raise difference_error(name, what, difference, LARGEST_DIFFERENCE)
        differences.append(difference)
    for answers in all_answers:
        if not _is_known_consistent(answers, serving.rejection):
            raise ExportError(
                f"The exported {name} must give `known` as its OOD scores and threshold determine. "
                "Received: another result for some images. Nothing was written. Report this with "
                "the model's summary."
            )
        if not _are_labels_consistent(answers, serving):
            raise ExportError(
                f"The exported {name} must give the labels that its probabilities determine. "
                "Received: other labels for some images. Nothing was written. Report this with the "
                "model's summary."
            )
    return max(differences)


def _is_known_consistent(answers: Answers, rejection: Rejection | None) -> bool:
    if rejection is None:
        return "known" not in answers
    expected = answers["novelty"].numpy() <= np.float32(rejection.threshold)
    return np.array_equal(answers["known"].numpy(), expected)


def _are_labels_consistent(answers: Answers, serving: Answering) -> bool:
    probabilities = answers["probabilities"].numpy()
    predictions = predictions_from(
        probabilities,
        serving.class_names,
        serving.kind,
        serving.threshold,
        (None,) * len(probabilities),
    )
    labels = [label.decode() for label in answers["label"].numpy()]
    return labels == [prediction.label for prediction in predictions] and bool(
        (answers["class_id"].numpy() == probabilities.argmax(axis=1)).all()
    )


def _check_formats(formats: Sequence[str]) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(as_tuple(formats)))
    if not names:
        raise ArgumentError(
            f"`formats` must name at least one format. Received: formats={formats!r}. "
            f"Give some of {FORMATS}."
        )
    for name in names:
        check_choice("formats", name, FORMATS)
    return names


def _check_path(given: str | os.PathLike[str]) -> Path:
    check_path("path", given)
    path = Path(given)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ArgumentError(
            "`path` must be a folder that does not exist or is empty. "
            f"Received: path={str(path)!r}. Choose another folder, or remove its content."
        )
    return path


def _check_lines(class_names: tuple[str, ...]) -> tuple[str, ...]:
    for name in class_names:
        if name.splitlines() != [name]:
            raise ArgumentError(
                "`class_names` must be names of one line of text each, for class_names.txt. "
                f"Received: {name!r}. Rename this class."
            )
    return class_names


def _paths(path: Path, formats: tuple[str, ...]) -> dict[str, Path]:
    """Returns the path of each format in an export to `path`."""
    if formats == ("saved_model",):
        return {"saved_model": path}
    return {name: path / EXPORT_FORMATS[name].path for name in formats}


def _num_bytes(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
