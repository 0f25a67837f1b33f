"""What ran, on what, by which command, when and where: the top of a run's page."""

import os
import platform
import shlex
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from tlkit.data.limits import MAX_PIXELS
from tlkit.runs.record import settled_arguments

_DECIDED_BY_RUN = ("weights", "image_size", "backbone")
_USUAL = {"weights": "pretrained", "max_pixels": MAX_PIXELS}
"""What is left out of a command: it is so anyway."""


def summary_of(record: Mapping[str, Any], out: Path) -> dict[str, str]:
    """Returns what stands at the top of a run's page, by name.

    Args:
        record: Content of `run.json`.
        out: The run directory, as the user named it.
    """
    return {
        "what ran": _what_ran(record),
        "on": _data(record),
        "command": command_of(record, out),
        "date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "machine": machine(),
    }


def command_of(record: Mapping[str, Any], out: Path) -> str:
    """Returns the command that makes such a run: all that it was given, and its seed.

    Example:
        >>> from pathlib import Path
        >>> from tlkit.runs.page_summary import command_of
        >>> given = {"photos": "my photos", "from_run": None, "backbone": "vgg16", "seed": 0}
        >>> command_of({"arguments": given}, Path("run"))
        "tlkit train 'my photos' --out run --backbone vgg16 --seed 0"
    """
    given = dict(record["arguments"])
    photos, earlier = given.pop("photos"), given.pop("from_run", None)
    if "growth" in record or "exemplars" in given:
        words = ["tlkit", "add-classes", earlier, photos, "--out", str(out)]
    else:
        words = ["tlkit", "train", photos, "--out", str(out)]
        if earlier is not None:
            words += ["--from", earlier]
            given = {name: value for name, value in given.items() if name not in _DECIDED_BY_RUN}
    return shlex.join([*words, *_options(given)])


def _options(given: Mapping[str, Any]) -> Iterator[str]:
    for name, value in given.items():
        option = f"--{name.replace('_', '-')}"
        if name == "weights" and value is None:
            yield from (option, "none")
        elif value is True:
            yield option
        elif value is not None and value is not False and _USUAL.get(name) != value:
            yield option
            yield ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def machine() -> str:
    """Returns the system, the processors and the GPUs of this machine in one line."""
    import tensorflow as tf

    count = os.cpu_count() or 1
    parts = [
        f"{platform.system()} {platform.release()} ({platform.machine()})",
        f"{count} processor{'' if count == 1 else 's'}",
    ]
    gpus = tf.config.list_physical_devices("GPU")
    names = [
        tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus
    ]
    return ", ".join([*parts, *(names or ["no GPU"])])


def _what_ran(record: Mapping[str, Any]) -> str:
    arguments = settled_arguments(record)
    if "exemplars" in arguments:
        return f"further classes, added to {arguments['from_run']}"
    model = arguments["backbone"] or f"the model of {arguments['from_run']}"
    how = {"head": "a head on", "fine-tune": "fine-tuning of"}.get(arguments["mode"], "training of")
    height, width = record["image_size"]
    return f"{how} {model}, at {height} × {width} pixels"


def _data(record: Mapping[str, Any]) -> str:
    numbers = record["data"]["num_images"]
    counted = ", ".join(f"{number:,} {name}" for name, number in numbers.items())
    return f"{record['arguments']['photos']}: {counted} images"
