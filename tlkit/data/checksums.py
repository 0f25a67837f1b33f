"""Whether a file holds the bytes that were checked: told in the graph, where it is read."""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tlkit.data.reading import CHANGED

_BUCKETS = 2**63 - 1
_KEY = [0x746C6B6974, 0x66696C6573]


def checksum(content: tf.Tensor) -> tf.Tensor:
    """Returns a hash of a scalar string, int64, by which its bytes are recognised.

    TensorFlow computes no digest that names a content for good (`content_digest`); this one, of
    63 bits, tells whether a file is still the one that has this digest.

    Example:
        >>> from tlkit.data.checksums import checksum
        >>> int(checksum(b"GIF89a")) == int(checksum(b"GIF87a"))
        False
    """
    return tf.strings.to_hash_bucket_strong(content, _BUCKETS, _KEY)


def file_reader(paths: Sequence[str], checksums: Sequence[int]) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a function from a file's number, int64, to its bytes, for use in a graph.

    It fails with `tf.errors.InvalidArgumentError` where a file holds other bytes than when it was
    checked: what is computed of them would be kept under another content's name.

    Args:
        paths: The files.
        checksums: Of what each must hold, see `checksum`; any content where there are none.
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
