"""Pictures that change or vanish after they were checked."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from tlkit.data.images import ImageSplit
from tlkit.data.verdicts import check_files
from tlkit.errors import DataError, some_of


@contextmanager
def lost_pictures_named(sources: Iterable[object]) -> Iterator[None]:
    """Names the files where TensorFlow fails in the block because they can be read no longer.

    Every file was checked once, before training. When reading fails later all the same, those
    that have changed since are checked again; if all are sound, the failure has another cause
    and stays as it is.

    Args:
        sources: What the block reads; the splits among them are looked through.

    Raises:
        DataError: Pictures have gone, or cannot be read or decoded any longer.
    """
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        lost = [
            f"{path!r} ({verdict.reason})"
            for split in sources
            if isinstance(split, ImageSplit) and split._pixels is None
            for path, verdict in zip(
                split.paths, check_files(split.paths, max_pixels=split._max_pixels), strict=True
            )
            if verdict.reason
        ]
        if not lost:
            raise
        raise DataError(
            "The photographs must stay as they are while they are read. Received: "
            f"{some_of(lost)}. Put them back, or begin anew without them."
        ) from error
