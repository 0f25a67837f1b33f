"""What TensorFlow Serving wants: a folder of numbered versions, and images in JSON.

It looks for `MODEL/VERSION/saved_model.pb`, serves the highest number, and goes over to a new
version when its folder appears:

    tlkit export RUN --to MODEL --format saved_model --version 1
    docker run -p 8501:8501 -v "$PWD/MODEL:/models/flowers" -e MODEL_NAME=flowers tensorflow/serving
    echo '{"instances": [{"image_bytes": {"b64": "'$(base64 -w0 photo.jpg)'"}}]}' |
        curl -d @- http://localhost:8501/v1/models/flowers:predict

The answer holds one entry for each image:

    {"predictions": [{"probabilities": [0.02, 0.98], "label": "tulips", "class_id": 1}]}
"""

import base64
import os
from pathlib import Path

from tlkit.errors import ArgumentError, check_count


def version_folder(to: str | os.PathLike[str], version: int) -> Path:
    """Returns the folder `to/version`, where `export_model` is to write the SavedModel.

    It appears whole: what is being written has a name that TensorFlow Serving passes over.

    Args:
        to: The model's folder; may hold other versions.
        version: A whole number of at least 1.

    Raises:
        ArgumentError: If `version` is no such number, or stands there already.

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
        numbers = [int(one.name) for one in Path(to).iterdir() if one.name.isdecimal()]
        raise ArgumentError(
            "`version` must be one that is not there yet. "
            f"Received: version={version!r} of {str(to)!r}. Give {max(numbers) + 1}."
        )
    return folder


def check_no_versions(folder: Path) -> None:
    """Raises `ArgumentError` where `folder` is none of the versions but what holds them.

    Args:
        folder: Where a SavedModel is looked for.

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
            "`folder` must be that of one SavedModel. "
            f"Received: folder={str(folder)!r}, which holds numbered versions of one. "
            f"Give {str(folder / str(max(versions)))!r}."
        )


def predict_request(*image_bytes: bytes) -> dict[str, object]:
    """Returns the JSON that asks TensorFlow Serving about image files.

    It goes to `http://HOST:8501/v1/models/NAME:predict`, or to `.../NAME/versions/1:predict`.

    Args:
        image_bytes: Whole image files, at least one.

    Example:
        >>> from tlkit.export.tensorflow_serving import predict_request
        >>> predict_request(b"an image")["instances"]
        [{'image_bytes': {'b64': 'YSBwaWN0dXJl'}}]

    Reference:
        https://www.tensorflow.org/tfx/serving/api_rest#predict_api
    """
    encoded = [base64.b64encode(one).decode() for one in image_bytes]
    return {
        "signature_name": "serving_default",
        "instances": [{"image_bytes": {"b64": one}} for one in encoded],
    }
