"""Checksums that verify in the graph that a file has not changed since it was checked."""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tlkit.data.reading import CHANGED

_BUCKETS = 2**63 - 1
_KEY = [0x746C6B6974, 0x66696C6573]


def checksum(content: tf.Tensor) -> tf.Tensor:
    """Returns a 63-bit hash, int64, of a scalar string.

    TensorFlow has no op for a cryptographic hash such as `content_digest`; this weaker one is
    enough to detect that a file with a known digest has changed.

    Example:
        >>> from tlkit.data.checksums import checksum
        >>> int(checksum(b"GIF89a")) == int(checksum(b"GIF87a"))
        False
    """
    return tf.strings.to_hash_bucket_strong(content, _BUCKETS, _KEY)


def file_reader(paths: Sequence[str], checksums: Sequence[int]) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a function that maps a file's index, int64, to its bytes, for use in a graph.

    The function raises `tf.errors.InvalidArgumentError` if a file has changed since it was checked:
    results computed from it would be cached under the wrong digest.

    Args:
        paths: The paths of the files.
        checksums: The expected `checksum` of each file; if empty, any content is accepted.
    """
    with tf.device("CPU:0"):
        names = tf.constant(paths, tf.string, shape=(len(paths),))
        expected = tf.constant(np.array(checksums, np.int64))

    def read(row: tf.Tensor) -> tf.Tensor:
        path = tf.gather(names, row)
        content = tf.io.read_file(path)
        if not checksums:
            return content
        is_same = checksum(content) == tf.gather(expected, row)
        with tf.control_dependencies([tf.debugging.Assert(is_same, [path, CHANGED])]):
            return tf.identity(content)

    return read
