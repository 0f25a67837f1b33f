r"""Exports for TensorFlow Serving: a folder of numbered versions, and images in JSON requests.

TensorFlow Serving looks for `MODEL/VERSION/saved_model.pb`, serves the highest version, and
switches to a new version when its folder appears:

    tlkit export RUN --to MODEL --format saved_model --version 1
    docker run -p 8501:8501 -v "$PWD/MODEL:/models/flowers" -e MODEL_NAME=flowers \
        tensorflow/serving --enable_batching \
        --batching_parameters_file=/models/flowers/batching.config
    echo '{"instances": [{"image_bytes": {"b64": "'$(base64 -w0 photo.jpg)'"}}]}' |
        curl -d @- http://localhost:8501/v1/models/flowers:predict

The response has one entry for each image:

    {"predictions": [{"probabilities": [0.02, 0.98], "label": "tulips", "class_id": 1}]}
"""

import base64
import os
from pathlib import Path

from tlkit.errors import ArgumentError, check_count
from tlkit.utils.files import written_aside

BATCHING_FILE = "batching.config"

_BATCHING = """\
# At most so many images are classified at once,
max_batch_size { value: 32 }
# and a request waits so many microseconds for others.
batch_timeout_micros { value: 5000 }
# Beyond so many waiting batches, requests are answered with the status 503.
max_enqueued_batches { value: 100 }
"""


def version_folder(to: str | os.PathLike[str], version: int) -> Path:
    """Returns the folder `to/version`, to which `export_model` should write the SavedModel.

    It is written atomically: until it is complete, it has a name that TensorFlow Serving ignores.

    Args:
        to: The model's folder; may hold other versions.
        version: A whole number of at least 1.

    Raises:
        ArgumentError: If `version` is invalid or exists already.

    Example:
        >>> from tlkit.export.tensorflow_serving import version_folder
        >>> version_folder("flowers", 1).as_posix()
        'flowers/1'

    Reference:
        https://www.tensorflow.org/tfx/serving/serving_config
    """
    check_count("version", version)
    folder = Path(to) / str(version)
    if folder.exists():
        numbers = [int(path.name) for path in Path(to).iterdir() if path.name.isdecimal()]
        raise ArgumentError(
            "`version` must be a version that does not exist yet. "
            f"Received: version={version!r} of {str(to)!r}. Give {max(numbers) + 1}."
        )
    return folder


def write_batching_file(to: str | os.PathLike[str]) -> Path:
    """Writes how TensorFlow Serving answers requests that wait, in one batch, beside the versions.

    A file that is there is kept, as it may have been adapted to the machine.

    Args:
        to: The model's folder.

    Returns:
        The file, `batching.config`, for the option `--batching_parameters_file`.

    Reference:
        https://github.com/tensorflow/serving/blob/master/tensorflow_serving/batching/README.md
    """
    file = Path(to) / BATCHING_FILE
    if not file.exists():
        with written_aside(file) as aside:
            aside.write_text(_BATCHING, encoding="utf-8")
    return file


def check_no_versions(folder: Path) -> None:
    """Raises `ArgumentError` if `folder` holds numbered versions instead of a SavedModel.

    Args:
        folder: The folder of a SavedModel.

    Example:
        >>> from pathlib import Path
        >>> from tlkit.export.tensorflow_serving import check_no_versions
        >>> check_no_versions(Path("flowers"))
    """
    versions = [
        int(file.parent.name)
        for file in folder.glob("*/saved_model.pb")
        if file.parent.name.isdecimal()
    ]
    if versions:
        raise ArgumentError(
            "`folder` must be the folder of one SavedModel. "
            f"Received: folder={str(folder)!r}, which holds numbered versions of a model. "
            f"Give {str(folder / str(max(versions)))!r}."
        )


def predict_request(*image_bytes: bytes) -> dict[str, object]:
    """Returns the JSON of a request to TensorFlow Serving for predictions of image files.

    It is sent to `http://HOST:8501/v1/models/NAME:predict` or `.../NAME/versions/1:predict`.

    Args:
        image_bytes: Contents of image files, at least one.

    Example:
        >>> from tlkit.export.tensorflow_serving import predict_request
        >>> predict_request(b"an image")["instances"]
        [{'image_bytes': {'b64': 'YW4gaW1hZ2U='}}]

    Reference:
        https://www.tensorflow.org/tfx/serving/api_rest#predict_api
    """
    encoded = [base64.b64encode(content).decode() for content in image_bytes]
    return {
        "signature_name": "serving_default",
        "instances": [{"image_bytes": {"b64": text}} for text in encoded],
    }
