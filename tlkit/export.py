"""Models to give away, each proven on real pictures before it appears."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_sample_images

from tlkit.data.limits import MAX_PIXELS
from tlkit.errors import ArgumentError, ExportError, check_choice, check_count
from tlkit.evaluation.names import check_class_names, num_classes_of
from tlkit.evaluation.pictures import are_paths, check_pictures, decoder, list_files, pixels_of
from tlkit.evaluation.prediction import (
    THRESHOLD,
    check_threshold,
    image_size_of,
    predictions_from,
)
from tlkit.files import written_aside
from tlkit.models.graph import model_ends
from tlkit.models.heads import head_kind
from tlkit.saved_model import Answers, Serving, ask_saved_model, write_saved_model

FORMATS = ("saved_model", "keras")
LARGEST_DIFFERENCE = 1e-5
_KERAS_FILE = "model.keras"
_SAVED_MODEL_FOLDER = "saved_model"


@dataclass(frozen=True)
class ExportedFormat:
    """One thing that was written.

    Attributes:
        name: "saved_model" or "keras".
        path: The SavedModel's folder, or the .keras file.
        num_bytes: Its size.
        difference: Largest difference of a probability from the model in memory.
    """

    name: str
    path: Path
    num_bytes: int
    difference: float

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.path}, {self.num_bytes / 1e6:.1f} MB, "
            f"probabilities within {self.difference:.1g}"
        )


@dataclass(frozen=True)
class ExportReport:
    """What `export_model` wrote, and how closely it agrees with the model in memory.

    Attributes:
        formats: What was written, in the order asked for.
        num_samples: Number of pictures that were compared.
    """

    formats: tuple[ExportedFormat, ...]
    num_samples: int

    def __str__(self) -> str:
        lines = [str(exported) for exported in self.formats]
        return "\n".join([*lines, f"compared on {self.num_samples} pictures after loading"])


def export_model(
    model: keras.Model,
    path: str | os.PathLike[str],
    class_names: Sequence[str],
    *,
    formats: Sequence[str] = ("saved_model",),
    samples: Sequence[str | os.PathLike[str]] | np.ndarray | None = None,
    threshold: float = THRESHOLD,
    max_pixels: int = MAX_PIXELS,
) -> ExportReport:
    """Writes `model` for people who have never heard of tlkit, and proves what was written.

    With one format, `path` is the SavedModel itself, or a folder that holds `model.keras`. With
    both, it is a folder that holds `saved_model/` and `model.keras`.

    The SavedModel takes whole picture files or pixels and gives probabilities, names and numbers
    of classes; see `tlkit.saved_model`. Both formats compute in float32, whatever the model's
    policy for training is, and hold no state of training. `model` stays as it is.

    Before anything appears at `path`, pictures go through the model in memory, the reloaded
    .keras (written for this even when it is not asked for) and both signatures of the reloaded
    SavedModel, as batches of the same shape. Each probability must agree within 1e-5.

    Args:
        model: Takes pixels 0...255 of one fixed size; gives logits or probabilities.
        path: A folder that does not exist yet or is empty.
        class_names: In the order of the model's outputs, each on one line.
        formats: "saved_model", "keras" or both.
        samples: Pictures to compare on: files, or pixels 0...255 `(n, height, width, 3)`. When
            not given: two photographs that come with scikit-learn, and six views of them.
        threshold: From this probability on, 0...1, a multi-label head gives a label.
        max_pixels: The most pixels a picture file may have for the SavedModel.

    Raises:
        ArgumentError: If an argument breaks its rule; if `path` is not empty.
        DataError: If `samples` are missing or cannot be decoded.
        ExportError: If what was written cannot be loaded or does not agree; nothing is left then.

    Example:
        >>> import keras, tempfile, tlkit
        >>> model = keras.Sequential([
        ...     keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = tlkit.export_model(
        ...         model, f"{folder}/exported", ["ant", "bee"], formats=("saved_model", "keras"))
        ...     [exported.path.name for exported in report.formats], report.num_samples
        (['saved_model', 'model.keras'], 8)
    """
    path = Path(path)
    formats = _check_formats(formats)
    _check_place(path)
    check_threshold(threshold)
    check_count("max_pixels", max_pixels)
    serving = Serving(
        class_names=_check_lines(check_class_names(class_names, num_classes_of(model))),
        kind=head_kind(model),
        image_size=image_size_of(model),
        threshold=float(threshold),
        max_pixels=max_pixels,
    )
    pictures = _Pictures.of(samples, serving)
    model = _in_float32(model)
    expected = serving.answers(model, pictures.images)
    if not np.isfinite(expected["probabilities"]).all():
        raise ExportError(
            "`model` must give finite probabilities. Received: NaN or infinite ones on "
            f"{len(pictures.image_bytes)} pictures. Train it again with a lower learning rate."
        )
    with written_aside(path) as aside, tempfile.TemporaryDirectory() as scratch:
        places = _places(aside, formats)
        differences = {}
        file = places.get("keras", Path(scratch) / _KERAS_FILE)
        answers = _through_keras(model, file, pictures, serving)
        differences["keras"] = _compare("keras", answers, expected, serving)
        if "saved_model" in formats:
            answers = _through_saved_model(model, places["saved_model"], pictures, serving)
            differences["saved_model"] = _compare("saved_model", answers, expected, serving)
        sizes = {name: _num_bytes(place) for name, place in places.items()}
    places = _places(path, formats)
    return ExportReport(
        formats=tuple(
            ExportedFormat(name, places[name], sizes[name], differences[name]) for name in formats
        ),
        num_samples=len(pictures.image_bytes),
    )


@dataclass(frozen=True)
class _Pictures:
    """What the proof is made on: files, and the same decoded, uint8 (n, height, width, 3)."""

    image_bytes: tuple[bytes, ...]
    images: tf.Tensor

    @classmethod
    def of(
        cls, samples: Sequence[str | os.PathLike[str]] | np.ndarray | None, serving: Serving
    ) -> "_Pictures":
        if samples is None:
            image_bytes = _bundled_pictures()
        elif are_paths(samples):
            paths = list_files(samples, "samples")
            check_pictures(paths, serving.max_pixels, "samples")
            image_bytes = tuple(Path(path).read_bytes() for path in paths)
        else:
            image_bytes = tuple(
                tf.io.encode_png(image).numpy() for image in pixels_of(np.asarray(samples))
            )
        if not image_bytes:
            raise ArgumentError(
                "`samples` must hold at least one picture. Received: none. "
                "Leave it out to use pictures that come with scikit-learn."
            )
        decode = decoder(serving.image_size, serving.max_pixels)
        return cls(image_bytes, tf.stack([decode(tf.constant(one)) for one in image_bytes]))


def _bundled_pictures() -> tuple[bytes, ...]:
    """The two photographs of scikit-learn as files, and six views of them: flipped and cropped."""
    files, views = [], []
    bundled = load_sample_images()
    for file, image in zip(bundled.filenames, bundled.images, strict=True):
        height, width, _ = image.shape
        files.append(Path(file).read_bytes())
        views += [image[:, ::-1], image[::-1], image[: height // 2, : width // 3]]
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
    model: keras.Model, file: Path, pictures: _Pictures, serving: Serving
) -> tuple[Answers, ...]:
    file.parent.mkdir(exist_ok=True)
    model.save(file)
    try:
        loaded = keras.saving.load_model(file, compile=False)
    except (TypeError, ValueError) as error:
        raise ExportError(
            f"The .keras file of this model cannot be loaded: {error} "
            "Register its own classes with `keras.saving.register_keras_serializable`."
        ) from error
    return (serving.answers(loaded, pictures.images),)


def _through_saved_model(
    model: keras.Model, folder: Path, pictures: _Pictures, serving: Serving
) -> tuple[Answers, ...]:
    write_saved_model(model, folder, serving)
    return ask_saved_model(folder, pictures.image_bytes, pictures.images)


def _compare(name: str, answers: tuple[Answers, ...], expected: Answers, serving: Serving) -> float:
    """Returns the largest difference of a probability.

    Labels are held against the probabilities they came with, not against those expected: of two
    classes equally probable within the tolerance either may be named.
    """
    shares = np.stack([one["probabilities"].numpy() for one in answers])
    difference = float(np.abs(shares - expected["probabilities"].numpy()).max())
    if not difference <= LARGEST_DIFFERENCE:  # NaN too
        raise ExportError(
            f"The exported {name} does not compute what the model in memory computes: "
            f"probabilities differ by up to {difference:.3g}, at most {LARGEST_DIFFERENCE:g} is "
            "allowed. Nothing was written. Report this with the model's summary."
        )
    for one in answers:
        if not _are_consistent(one, serving):
            raise ExportError(
                f"The exported {name} names other classes than its probabilities say. "
                "Nothing was written. Report this with the model's summary."
            )
    return difference


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
    wanted = (formats,) if isinstance(formats, str) else tuple(dict.fromkeys(formats))
    if not wanted:
        raise ArgumentError(
            f"`formats` must name at least one format. Received: formats={formats!r}. "
            f"Give some of {FORMATS}."
        )
    for name in wanted:
        check_choice("formats", name, FORMATS)
    return wanted


def _check_place(path: Path) -> None:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ArgumentError(
            "`path` must be a folder that does not exist yet or is empty. "
            f"Received: path={str(path)!r}. Give another, or remove what is there."
        )


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
    places = {"saved_model": path / _SAVED_MODEL_FOLDER, "keras": path / _KERAS_FILE}
    if formats == ("saved_model",):
        places["saved_model"] = path
    return {name: places[name] for name in formats}


def _num_bytes(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
