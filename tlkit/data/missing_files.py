"""Errors for images that change or vanish after they were checked, and for invalid batches."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from stat import S_ISFIFO
from threading import Event, Thread

from tlkit.data.file_checks import check_files
from tlkit.data.image_places import shown_path
from tlkit.data.images import ImageSplit
from tlkit.data.reading import CHANGED
from tlkit.data.refusals import take_refusal
from tlkit.errors import DataError, some_of

WATCH_SECONDS, FILES_PER_CHECK = 1.0, 2000
"""The interval at which files are checked for pipes, and the number of files each time."""


@contextmanager
def missing_files_named(sources: Iterable[object]) -> Iterator[None]:
    """Raises an error that names the changed or missing files if the block fails to read them.

    Every file was checked before training. If reading fails later, changed files are checked again;
    if all are valid and unchanged, the original error is raised. A pipe that has replaced an image,
    for which TensorFlow would wait forever, fails too. If a data set checks its own batches, the
    error of that check is raised.

    Args:
        sources: The splits and data sets that the block reads; other objects are ignored.

    Raises:
        DataError: Images are missing, have changed, or can no longer be read or decoded; or a batch
            does not fit the model.
        ArgumentError: A batch does not fit the model.
    """
    import tensorflow as tf

    sources = tuple(sources)
    splits = [one for one in sources if isinstance(one, ImageSplit) and not one.is_in_memory]
    try:
        with _release_blocked_readers([path for split in splits for path in split.paths]):
            yield
    except (tf.errors.OpError, OSError) as error:
        for refusal in filter(None, map(take_refusal, sources)):
            raise refusal from error
        changed = [found for split in splits for found in _changed_files(split)]
        if not changed and CHANGED not in str(error):
            raise
        found = some_of(changed) or f"a file that {CHANGED}, but has been restored since"
        raise DataError(
            f"Images must not change while they are read. Received: {found}. Restore them, or "
            "start again without them."
        ) from error


def _changed_files(split: ImageSplit) -> Iterator[str]:
    checks = check_files(split.paths, max_pixels=split.source.max_pixels)
    for path, digest, checked in zip(split.paths, split.digests, checks, strict=True):
        if checked.reason or checked.digest != digest:
            yield f"{shown_path(path)!r} ({checked.reason or CHANGED})"


@contextmanager
def _release_blocked_readers(paths: list[str]) -> Iterator[None]:
    """Makes reads fail that would block because a path has become a pipe without a writer."""
    if not paths or not hasattr(os, "mkfifo"):
        yield
        return
    stop = Event()
    watch = Thread(target=_watch_for_pipes, args=(paths, stop), daemon=True)
    watch.start()
    try:
        yield
    finally:
        stop.set()
        watch.join()


def _watch_for_pipes(paths: list[str], stop: Event) -> None:
    """Opens and closes pipes among the files, some at a time, which ends blocked reads."""
    start = 0
    while not stop.wait(WATCH_SECONDS):
        for path in paths[start : start + FILES_PER_CHECK]:
            with suppress(OSError):  # the file is missing, or nobody reads the pipe
                if S_ISFIFO(os.stat(path).st_mode):
                    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        start = start + FILES_PER_CHECK if start + FILES_PER_CHECK < len(paths) else 0
