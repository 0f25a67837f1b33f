"""Images that change or vanish after they were checked, and batches that do not fit."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from stat import S_ISFIFO
from threading import Event, Thread

from tlkit.data.file_checks import check_files
from tlkit.data.images import ImageSplit
from tlkit.data.reading import CHANGED
from tlkit.data.refusals import refusal_within
from tlkit.errors import DataError, some_of

WATCH_SECONDS, FILES_A_LOOK = 1.0, 2000
"""How often some files are looked at, and how many: little work, however many there are."""


@contextmanager
def missing_files_named(sources: Iterable[object]) -> Iterator[None]:
    """Names the files where the block fails because they can be read no longer, or are others now.

    Every file was checked once, before training. When reading fails later all the same, those
    that have changed since are checked again; if all are sound and the same, the failure has
    another cause and stays as it is. A pipe that was put in an image's place, which TensorFlow
    would wait for without end, fails too. Where a data set checks its own batches, what it refused
    is raised.

    Args:
        sources: What the block reads; splits among them are looked through, data sets are asked.

    Raises:
        DataError: Images have gone, hold another content, or cannot be read or decoded any
            longer; or a batch does not fit the model.
        ArgumentError: A batch does not fit the model.
    """
    import tensorflow as tf

    sources = tuple(sources)
    splits = [one for one in sources if isinstance(one, ImageSplit) and not one.is_in_memory]
    try:
        with _no_pipe_waited_for([path for split in splits for path in split.paths]):
            yield
    except (tf.errors.OpError, OSError) as error:
        for refused in filter(None, map(refusal_within, sources)):
            raise refused from error
        lost = [found for split in splits for found in _lost(split)]
        if not lost and CHANGED not in str(error):
            raise
        found = some_of(lost) or f"one that {CHANGED}, and has been put back since"
        raise DataError(
            f"Images must stay as they are while they are read. Received: {found}. Put them back, "
            "or begin anew without them."
        ) from error


def _lost(split: ImageSplit) -> Iterator[str]:
    checks = check_files(split.paths, max_pixels=split.source.max_pixels)
    for path, digest, checked in zip(split.paths, split.digests, checks, strict=True):
        if checked.reason or checked.digest != digest:
            yield f"{path!r} ({checked.reason or CHANGED})"


@contextmanager
def _no_pipe_waited_for(paths: list[str]) -> Iterator[None]:
    """Lets whoever waits for something to be written to a pipe among `paths` wait no longer."""
    if not paths or not hasattr(os, "mkfifo"):
        yield
        return
    ended = Event()
    watch = Thread(target=_end_waits, args=(paths, ended), daemon=True)
    watch.start()
    try:
        yield
    finally:
        ended.set()
        watch.join()


def _end_waits(paths: list[str], ended: Event) -> None:
    """Looks through the files, some at a time, and writes nothing to those that are pipes."""
    start = 0
    while not ended.wait(WATCH_SECONDS):
        for path in paths[start : start + FILES_A_LOOK]:
            with suppress(OSError):  # gone, or nobody waits for it
                if S_ISFIFO(os.stat(path).st_mode):
                    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        start = start + FILES_A_LOOK if start + FILES_A_LOOK < len(paths) else 0
