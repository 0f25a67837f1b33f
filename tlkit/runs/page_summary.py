"""The summary at the top of a run's page: task, data, command, date and machine."""

import os
import platform
import shlex
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from tlkit.data.limits import MAX_PIXELS
from tlkit.runs.add_classes_config import AddClassesConfig
from tlkit.runs.forget_config import ForgetConfig
from tlkit.runs.record import RunRecord
from tlkit.utils.formatting import counted

_DECIDED_BY_PARENT = {"weights", "image_size", "backbone", "preprocessing", "resize", "channels"}
_ADD_CLASSES_OPTIONS = ("method", "exemplars", "align", "batch_size", "max_pixels")
_FORGET_OPTIONS = ("batch_size", "max_pixels")
"""The options of `tlkit add-classes` and `forget`; the parent run decides all others."""
_MAY_BE_REFUSED = {"keep_statistics"}
"""Options that the run decides on if neither they nor `--no-...`, without "keep", are given."""
_NAMES = {"formats": "format"}
"""Options that are not named like the argument."""
_DEFAULTS = {"weights": "pretrained", "max_pixels": MAX_PIXELS}
"""Default values that are left out of a command."""


def summary_of(record: RunRecord, out: Path) -> dict[str, str]:
    """Returns the entries of the summary at the top of a run's page, by name.

    Args:
        record: Content of `run.json`.
        out: The run directory, as the user wrote it.
    """
    return {
        "task": _task(record),
        "data": _data(record),
        "command": command_of(record, out),
        "date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "machine": machine(),
    }


def command_of(record: RunRecord, out: Path) -> str:
    """Returns the command that makes the same run, with all its arguments and the seed.

    Images that were forgotten are not named; LIST stands for the file that named them.

    Example:
        >>> from pathlib import Path
        >>> from tlkit.runs.config import RunConfig
        >>> from tlkit.runs.page_summary import command_of
        >>> from tlkit.runs.record import DataRecord, RunRecord
        >>> config = RunConfig(photos="/my photos", backbone="vgg16", mode="head")
        >>> data = DataRecord("7588f85d", {"train": 40})
        >>> record = RunRecord(config=config, seed=0, image_size=(224, 224), data=data)
        >>> print(command_of(record, Path("run")))
        tlkit train '/my photos' --out run --backbone vgg16 --image-size 224 --mode head
        --batch-size 32 --seed 0
    """
    config = record.config
    given = config.to_json()
    if isinstance(config, ForgetConfig):
        words = ["tlkit", "forget", config.from_run, "--out", str(out)]
        words += ["--images", "LIST"] if config.num_images else []
        words += [word for name in config.class_names for word in ("--class", name)]
        given = {name: getattr(config, name) for name in _FORGET_OPTIONS}
    elif isinstance(config, AddClassesConfig):
        words = ["tlkit", "add-classes", config.from_run, config.photos, "--out", str(out)]
        given = {name: getattr(config, name) for name in _ADD_CLASSES_OPTIONS}
        given["exemplars"] = config.exemplars or None
    else:
        words = ["tlkit", "train", config.photos, "--out", str(out)]
        left_out = {"photos", "from_run"}
        if config.from_run is not None:
            words += ["--from", config.from_run]
            left_out |= _DECIDED_BY_PARENT
        given = {name: value for name, value in given.items() if name not in left_out}
    return shlex.join([*words, *_options(given)])


def _options(given: Mapping[str, Any]) -> Iterator[str]:
    for name, value in given.items():
        option = f"--{_NAMES.get(name, name.replace('_', '-'))}"
        if name == "weights" and value is None:
            yield from (option, "none")
        elif value is True:
            yield option
        elif value is False and name in _MAY_BE_REFUSED:
            yield option.replace("--keep-", "--no-", 1)
        elif value is not None and value is not False and _DEFAULTS.get(name) != value:
            yield option
            yield ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def machine() -> str:
    """Returns the operating system, number of processors and GPUs of this machine in one line."""
    import tensorflow as tf

    count = os.cpu_count() or 1
    parts = [
        f"{platform.system()} {platform.release()} ({platform.machine()})",
        counted(count, "processor"),
    ]
    gpus = tf.config.list_physical_devices("GPU")
    names = [
        tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus
    ]
    return ", ".join([*parts, *(names or ["no GPU"])])


def _task(record: RunRecord) -> str:
    config = record.resolved
    if isinstance(config, AddClassesConfig):
        return f"classes added to {config.from_run}"
    if isinstance(config, ForgetConfig):
        return f"images forgotten by {config.from_run}"
    model = config.backbone or f"the model of {config.from_run}"
    height, width = record.image_size
    size = f"at {height} × {width} pixels"
    if record.state:
        return f"training of {model}, {size}; {record.state}"
    what = {"head": "head trained on", "fine-tune": "fine-tuning of"}.get(
        config.mode, "training of"
    )
    return f"{what} {model}, {size}"


def _data(record: RunRecord) -> str:
    numbers = record.data.num_images
    counted = ", ".join(f"{number:,} {name}" for name, number in numbers.items())
    return f"{record.config.photos}: {counted} images"
