"""Models to give away, each proven on real images before it appears."""

import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_sample_images

from tlkit.data.decoding import decoder
from tlkit.data.limits import MAX_PIXELS
from tlkit.data.reading import read_image
from tlkit.errors import ArgumentError, ExportError, as_tuple, check_choice, check_count, check_path
from tlkit.evaluation.image_files import are_paths, check_image_files, list_files, pixels_of
from tlkit.evaluation.names import check_class_names, num_classes_of
from tlkit.evaluation.outputs import THRESHOLD
from tlkit.evaluation.prediction import (
    check_threshold,
    image_size_of,
    predictions_from,
)
from tlkit.evaluation.rejection import Rejection, check_rejection
from tlkit.export.formats import EXPORT_FORMATS, check_packages
from tlkit.export.labels import add_labels
from tlkit.export.litert import write_litert
from tlkit.export.onnx import write_onnx
from tlkit.export.parity import ParityReport, check_parity
from tlkit.export.saved_model import Answers, Serving, ask_saved_model, write_saved_model
from tlkit.models.graph import model_ends
from tlkit.models.heads import head_kind
from tlkit.utils.files import written_aside
from tlkit.utils.formatting import megabytes
from tlkit.utils.text_repr import ShownAsText

FORMATS = tuple(EXPORT_FORMATS)
LARGEST_DIFFERENCE = 1e-5
_KERAS_FILE = EXPORT_FORMATS["keras"].place
_IN_PROCESS = ("saved_model", "keras")
_CPU = "CPU:0"
"""Where answers are compared: a GPU may round products of float32 to TensorFloat-32."""


@dataclass(frozen=True)
class ExportedFormat(ShownAsText):
    """One thing that was written.

    Attributes:
        name: One of `FORMATS`.
        path: The SavedModel's folder, or the file.
        num_bytes: Its size.
        difference: Largest difference of a probability (and, with a rejection, of a novelty) from
            the model in memory.
        accuracy_drop: What rounded weights are expected to cost of accuracy, 0...1, by what the
            model in memory says of the images compared, whose labels are not known; see
            `tlkit.export.parity.accuracy_drop`. `None` where no fresh process was asked.
        load_seconds: Time to load it in a process that has only the format's runtime, or `None`.
        milliseconds_per_image: Time for one image there, or `None`.
    """

    name: str
    path: Path
    num_bytes: int
    difference: float
    accuracy_drop: float | None = None
    load_seconds: float | None = None
    milliseconds_per_image: float | None = None

    def __str__(self) -> str:
        text = (
            f"{self.name}: {self.path}, {megabytes(self.num_bytes)}, "
            f"probabilities within {self.difference:.1g}"
        )
        if self.load_seconds is not None:
            text += (
                f"; in a fresh process {self.load_seconds:.2f} s to load, "
                f"{self.milliseconds_per_image:.1f} ms an image"
            )
        if self.accuracy_drop:
            text += f", {100 * self.accuracy_drop:.1f} points of accuracy expected to be lost"
        return text


@dataclass(frozen=True)
class ExportReport(ShownAsText):
    """What `export_model` wrote, and how closely it agrees with the model in memory.

    Attributes:
        formats: What was written, in the order asked for.
        num_samples: Number of images that were compared.
    """

    formats: tuple[ExportedFormat, ...]
    num_samples: int

    def __str__(self) -> str:
        lines = [str(exported) for exported in self.formats]
        return "\n".join([*lines, f"compared on {self.num_samples} images after loading"])


def export_model(
    model: keras.Model,
    path: str | os.PathLike[str],
    class_names: Sequence[str],
    *,
    formats: Sequence[str] = ("saved_model",),
    samples: Sequence[str | os.PathLike[str]] | np.ndarray | None = None,
    threshold: float = THRESHOLD,
    max_pixels: int = MAX_PIXELS,
    rejection: Rejection | None = None,
    fresh_process: bool = True,
) -> ExportReport:
    """Writes `model` for people who have never heard of tlkit, and proves what was written.

    With "saved_model" alone, `path` is the SavedModel itself; else a folder that holds
    `saved_model/`, `model.keras`, `model.tflite`, `model_float16.tflite`, `model_int8.tflite`,
    `model.onnx`, as many of them as were asked for.

    The SavedModel takes whole image files or pixels and gives probabilities, names and numbers of
    classes; see `tlkit.export.saved_model`. The others take pixels, and hold the preprocessing and
    the names of classes too; see `tlkit.export.labels` for where. All compute in float32, whatever
    the model's policy for training is (but for the rounded weights of "litert_float16" and
    "litert_int8"), and hold no state of training. `model` stays as it is.

    Before anything appears at `path`, images go through the model in memory, the reloaded
    .keras (written for this even when it is not asked for) and both signatures of the reloaded
    SavedModel, as batches of the same shape, all on the CPU. Each probability must agree within
    1e-5. Then each format is asked in a process of its own in which nothing but its runtime can be
    imported, which is timed, and held to the bounds of `tlkit.export.formats`.

    Args:
        model: Takes pixels 0...255 of one fixed size; gives logits or probabilities.
        path: A folder that does not exist yet or is empty.
        class_names: In the order of the model's outputs, each on one line.
        formats: One or several of "saved_model", "keras", "litert", "litert_float16",
            "litert_int8" and "onnx". Those behind the first two need tlkit[export].
        samples: Images to compare on: files, or pixels 0...255 `(n, height, width, 3)`. When
            not given: two images that come with scikit-learn, and six views of them.
        threshold: From this probability on, 0...1, a multi-label head gives a label.
        max_pixels: The most pixels an image file may have for the SavedModel.
        rejection: What `fit_rejection` found for this model. Both signatures of the SavedModel
            then also give "known", bool `(n,)`, and "novelty", float32 `(n,)`, which must agree
            within 1e-5 too; assets/serving.json says how many images are wrongly rejected. The
            .keras file stays the classifier alone.
        fresh_process: Whether SavedModel and .keras, too, are asked in a process of their own.
            Without, the report has no times of them, and some seconds are saved, which it takes
            there to import TensorFlow.

    Raises:
        ArgumentError: If an argument breaks its rule; if `path` is not empty; if `rejection` was
            fitted to other features than the model's.
        DataError: If `samples` are missing or cannot be decoded.
        ExportError: If what was written cannot be loaded or does not agree; nothing is left then.

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
    path = _check_place(path)
    check_threshold(threshold)
    check_count("max_pixels", max_pixels)
    serving = Serving(
        class_names=_check_lines(check_class_names(class_names, num_classes_of(model))),
        kind=head_kind(model),
        image_size=image_size_of(model),
        threshold=float(threshold),
        max_pixels=max_pixels,
        rejection=None if rejection is None else check_rejection(rejection, model),
    )
    proof = _ParitySamples.of(samples, serving)
    model = _in_float32(model)
    with tf.device(_CPU):
        expected = serving.answers(model, proof.images)
    if not np.isfinite(expected["probabilities"]).all():
        raise ExportError(
            "`model` must give finite probabilities. Received: NaN or infinite ones on "
            f"{len(proof.image_bytes)} images. Train it again with a lower learning rate."
        )
    with written_aside(path) as aside, tempfile.TemporaryDirectory() as scratch:
        places = _places(aside, formats)
        differences = {}
        about = {name: fact for name, fact in serving.as_dict().items() if name != "rejection"}
        file = places.get("keras", Path(scratch) / _KERAS_FILE)
        answers = _through_keras(model, file, proof, serving, about)
        differences["keras"] = _compare("keras", answers, expected, serving)
        if "saved_model" in formats:
            answers = _through_saved_model(model, places["saved_model"], proof, serving)
            differences["saved_model"] = _compare("saved_model", answers, expected, serving)
        for name in formats:
            _write_for_other_runtimes(model, name, aside, serving.class_names, about)
        measured = {
            name: check_parity(
                name,
                places[name],
                proof.images.numpy(),
                expected["probabilities"].numpy(),
                model=model,
                threshold=serving.threshold,
            )
            for name in formats
            if fresh_process or name not in _IN_PROCESS
        }
        sizes = {name: _num_bytes(place) for name, place in places.items()}
    places = _places(path, formats)
    return ExportReport(
        formats=tuple(
            _exported(name, places[name], sizes[name], differences.get(name), measured.get(name))
            for name in formats
        ),
        num_samples=len(proof.image_bytes),
    )


def _exported(
    name: str, place: Path, size: int, difference: float | None, parity: ParityReport | None
) -> ExportedFormat:
    if parity is None:
        return ExportedFormat(name, place, size, difference or 0.0)
    return ExportedFormat(
        name,
        place,
        size,
        difference=max(parity.difference, difference or 0.0),
        accuracy_drop=parity.accuracy_drop,
        load_seconds=parity.load_seconds,
        milliseconds_per_image=parity.milliseconds_per_image,
    )


def _write_for_other_runtimes(
    model: keras.Model,
    name: str,
    folder: Path,
    class_names: tuple[str, ...],
    about: dict[str, object],
) -> None:
    spec = EXPORT_FORMATS[name]
    if spec.runtime == "ai_edge_litert":
        write_litert(model, folder, class_names, quantization=spec.quantization, about=about)
    elif spec.runtime == "onnxruntime":
        write_onnx(model, folder, class_names, about=about)


@dataclass(frozen=True)
class _ParitySamples:
    """What the proof is made on: files, and the same decoded, uint8 (n, height, width, 3)."""

    image_bytes: tuple[bytes, ...]
    images: tf.Tensor

    @classmethod
    def of(
        cls, samples: Sequence[str | os.PathLike[str]] | np.ndarray | None, serving: Serving
    ) -> "_ParitySamples":
        if samples is None:
            image_bytes = _bundled_images(serving.max_pixels)
        elif are_paths(samples):
            paths = list_files(samples, "samples")
            check_image_files(paths, serving.max_pixels, "samples")
            image_bytes = tuple(read_image(path) for path in paths)
        else:
            image_bytes = tuple(
                tf.io.encode_png(image).numpy() for image in pixels_of(samples, "samples")
            )
        if not image_bytes:
            raise ArgumentError(
                "`samples` must hold at least one image. Received: none. "
                "Leave it out to use images that come with scikit-learn."
            )
        decode = decoder(serving.image_size, serving.max_pixels)
        return cls(image_bytes, tf.stack([decode(tf.constant(one)) for one in image_bytes]))


def _bundled_images(max_pixels: int) -> tuple[bytes, ...]:
    """The two images of scikit-learn as files, and six views of them: flipped and cropped.

    Where they have more than `max_pixels`, every other pixel is taken, or every third...
    """
    files, views = [], []
    bundled = load_sample_images()
    for file, image in zip(bundled.filenames, bundled.images, strict=True):
        height, width, _ = image.shape
        step = math.ceil(math.sqrt(height * width / max_pixels))
        small = image[::step, ::step]
        kept = Path(file).read_bytes() if step == 1 else tf.io.encode_jpeg(small).numpy()
        files.append(kept)
        height, width, _ = small.shape
        views += [small[:, ::-1], small[::-1], small[: height // 2, : width // 3]]
    return (*files, *(tf.io.encode_jpeg(view).numpy() for view in views))


def _in_float32(model: keras.Model) -> keras.Model:
    """Returns the same function and weights without optimizer and losses, in float32.

    It shares the layers of a model that computes in float32 anyway, and copies those of another.
    """
    if all(layer.dtype_policy.name == "float32" for layer in _all_layers(model)):
        return keras.Model(*model_ends(model), name=model.name)

    def rebuild(layer: keras.layers.Layer) -> keras.layers.Layer:
        return type(layer).from_config({**layer.get_config(), "dtype": "float32"})

    copy = keras.models.clone_model(model, clone_function=rebuild, recursive=True)
    copy.set_weights(model.get_weights())
    return copy


def _all_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        yield layer
        yield from _all_layers(layer) if isinstance(layer, keras.Model) else ()


def _through_keras(
    model: keras.Model,
    file: Path,
    proof: _ParitySamples,
    serving: Serving,
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
            "Register its own classes with `keras.saving.register_keras_serializable`."
        ) from error
    with tf.device(_CPU):
        return (serving.answers(loaded, proof.images),)


def _through_saved_model(
    model: keras.Model, folder: Path, proof: _ParitySamples, serving: Serving
) -> tuple[Answers, ...]:
    write_saved_model(model, folder, serving)
    with tf.device(_CPU):
        return ask_saved_model(folder, proof.image_bytes, proof.images)


def _compare(name: str, answers: tuple[Answers, ...], expected: Answers, serving: Serving) -> float:
    """Returns the largest difference of a probability, or of a novelty.

    Labels are held against the probabilities they came with, not against those expected: of two
    classes equally probable within the tolerance either may be named.
    """
    differences = [0.0]
    for output, what in {"probabilities": "probabilities", "novelty": "novelties"}.items():
        if output not in expected:
            continue
        found = np.stack([one[output].numpy() for one in answers])
        difference = float(np.abs(found - expected[output].numpy()).max())
        if not difference <= LARGEST_DIFFERENCE:  # NaN too
            raise ExportError(
                f"The exported {name} does not compute what the model in memory computes: "
                f"{what} differ by up to {difference:.3g}, at most {LARGEST_DIFFERENCE:g} is "
                "allowed. Nothing was written. Report this with the model's summary."
            )
        differences.append(difference)
    for one in answers:
        if not _is_known_as_its_novelty_says(one, serving.rejection):
            raise ExportError(
                f"The exported {name} calls other images known than their novelty says. "
                "Nothing was written. Report this with the model's summary."
            )
        if not _are_consistent(one, serving):
            raise ExportError(
                f"The exported {name} names other classes than its probabilities say. "
                "Nothing was written. Report this with the model's summary."
            )
    return max(differences)


def _is_known_as_its_novelty_says(answers: Answers, rejection: Rejection | None) -> bool:
    if rejection is None:
        return "known" not in answers
    expected = answers["novelty"].numpy() <= np.float32(rejection.threshold)
    return np.array_equal(answers["known"].numpy(), expected)


def _are_consistent(answers: Answers, serving: Serving) -> bool:
    shares = answers["probabilities"].numpy()
    predictions = predictions_from(
        shares, serving.class_names, serving.kind, serving.threshold, (None,) * len(shares)
    )
    labels = [label.decode() for label in answers["label"].numpy()]
    return labels == [prediction.label for prediction in predictions] and bool(
        (answers["class_id"].numpy() == shares.argmax(axis=1)).all()
    )


def _check_formats(formats: Sequence[str]) -> tuple[str, ...]:
    wanted = tuple(dict.fromkeys(as_tuple(formats)))
    if not wanted:
        raise ArgumentError(
            f"`formats` must name at least one format. Received: formats={formats!r}. "
            f"Give some of {FORMATS}."
        )
    for name in wanted:
        check_choice("formats", name, FORMATS)
    return wanted


def _check_place(given: str | os.PathLike[str]) -> Path:
    check_path("path", given)
    path = Path(given)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ArgumentError(
            "`path` must be a folder that does not exist yet or is empty. "
            f"Received: path={str(path)!r}. Give another, or remove what is there."
        )
    return path


def _check_lines(class_names: tuple[str, ...]) -> tuple[str, ...]:
    for name in class_names:
        if name.splitlines() != [name]:
            raise ArgumentError(
                "`class_names` must each be one line of text, for class_names.txt. "
                f"Received: {name!r}. Rename this class."
            )
    return class_names


def _places(path: Path, formats: tuple[str, ...]) -> dict[str, Path]:
    """Where each format lies when `path` is the export."""
    if formats == ("saved_model",):
        return {"saved_model": path}
    return {name: path / EXPORT_FORMATS[name].place for name in formats}


def _num_bytes(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
