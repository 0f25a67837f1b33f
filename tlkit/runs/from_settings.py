"""Runs whose settings are in a file."""

import os
from collections.abc import Callable, Sequence
from typing import Any

from tlkit.errors import ArgumentError, did_you_mean
from tlkit.runs.config import RunConfig, arguments_of
from tlkit.runs.directory import Run
from tlkit.runs.settings_file import read_settings
from tlkit.runs.train import make_run
from tlkit.tracking.tracker import Tracker


def train_from_config(
    config: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    resume: bool = True,
    distribute: str | None = None,
    trackers: str | Tracker | Sequence[str | Tracker] | None = None,
    log: Callable[[str], None] | None = None,
    **changes: object,
) -> Run:
    """Makes or resumes the run whose settings are in a file, such as the `run.toml` of a run.

    Args:
        config: A TOML file; each key is an argument of `train_run`, or an option of `tlkit train`
            without its dashes. `photos` is absolute, or relative to the current folder.
        out: See `train_run`.
        resume: See `train_run`.
        distribute: See `train_run`.
        trackers: See `train_run`; they are not in the file.
        log: See `train_run`.
        **changes: Arguments of `train_run` that replace those in the file.

    Returns:
        The finished run; see `train_run`, also for further errors.

    Raises:
        ArgumentError: `config` is no such file, or an argument does not exist or is missing.

    Example:
        >>> import tlkit
        >>> again = tlkit.train_from_config("run/run.toml", out="run2", seed=1)  # doctest: +SKIP
    """
    names = [field.name for field in arguments_of(RunConfig)]
    for name, value in changes.items():
        if name not in names:
            raise ArgumentError(
                f"`{name}` must be an argument of train_run. Received: {name}={value!r}."
                f"{did_you_mean(name, names)} See help(tlkit.train_run)."
            )
    settings: dict[str, Any] = {**read_settings(config), **changes}
    if "photos" not in settings:
        raise ArgumentError(
            "`photos` must be given, or be in the file. Received: no photos in "
            f"{os.fspath(config)!r}. Add photos = 'FOLDER' to it."
        )
    return make_run(
        RunConfig(**settings),
        out=out,
        resume=resume,
        distribute=distribute,
        trackers=trackers,
        log=log,
    )
