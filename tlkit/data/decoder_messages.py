"""What TensorFlow's image decoders say of a file: their errors, and libjpeg's warnings."""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_STANDARD_ERROR = 2
_LOG_LINE = re.compile(r"[IWEF]\d{4} |\d{4}-\d\d-\d\d |WARNING: All log messages|\s*\[\[\{\{")
"""How lines of TensorFlow's log begin, or go on."""
_LIBJPEG = re.compile(
    r"Corrupt JPEG data: |Premature end of JPEG|Inconsistent progression sequence|Invalid SOS "
    r"parameters|Unknown Adobe color transform|Warning: unknown JFIF|Application transferred"
)
"""How libjpeg's warnings begin, see its `jerror.h`."""
_HARMLESS = re.compile(r"Warning: unknown JFIF|Unknown Adobe color transform")
"""Warnings of an unusual header; no pixel is amiss."""
_FOLLOWS = re.compile(r"Improper call to JPEG library")
"""What libjpeg says once it has failed, of how TensorFlow leaves it."""
_BEFORE, _BEHIND = re.compile(r"^\{\{.*?\}\} "), re.compile(r"\s*\[(\[|Op:).*$", re.DOTALL)
_ASSERTED = re.compile(r"^assertion failed: \[(.*)\]$", re.DOTALL)
_ALONE = Lock()


class Heard:
    """What libraries wrote to standard error in the meantime, line by line."""

    def __init__(self) -> None:
        self.lines: tuple[str, ...] = ()


@contextmanager
def listening() -> Iterator[Heard]:
    """Keeps what libraries write to standard error in the block, and hands it over at its end.

    libjpeg writes its warnings there, by itself and without a file's name. The whole process is
    listened to, one block at a time, so blocks must be short. What Python writes to `sys.stderr`,
    such as a progress bar, is shown as ever. What is not a decoder's must be given to `pass_on`;
    where the block fails, that is done here. Without a standard error nothing is heard.
    """
    heard = Heard()
    with _ALONE, tempfile.TemporaryFile() as kept:
        try:
            shown = _Shown(os.dup(_STANDARD_ERROR))
        except OSError:  # closed, as that of some services is
            yield heard
            return
        python_writes_to = sys.stderr
        if _is_standard_error(python_writes_to):
            python_writes_to.flush()
            sys.stderr = shown  # type: ignore[assignment]
        os.dup2(kept.fileno(), _STANDARD_ERROR)
        is_finished = False
        try:
            yield heard
            is_finished = True
        finally:
            os.dup2(shown.fileno(), _STANDARD_ERROR)
            sys.stderr = python_writes_to
            kept.seek(0)
            heard.lines = tuple(kept.read().decode("utf-8", "replace").splitlines())
            if not is_finished:
                pass_on(heard.lines)


def warning_in(lines: tuple[str, ...]) -> str:
    """Returns the first of libjpeg's warnings that says pixels are amiss, or "".

    Example:
        >>> from tlkit.data.decoder_messages import warning_in
        >>> warning_in(("Corrupt JPEG data: bad Huffman code",))
        'Corrupt JPEG data: bad Huffman code'
    """
    found = (line for line in lines if _LIBJPEG.match(line) and not _HARMLESS.match(line))
    return next(found, "").strip()


def error_in(lines: tuple[str, ...]) -> str:
    """Returns what libjpeg said last of a file that it could not decode, or ""."""
    passed_over = (_LOG_LINE, _HARMLESS, _FOLLOWS)
    said = (line.strip() for line in reversed(lines) if not any(p.match(line) for p in passed_over))
    return next(filter(None, said), "")


def plain_message(error: Exception) -> str:
    r"""Returns the message of a `tf.errors.OpError` without the names of the graph's parts.

    Example:
        >>> from tlkit.data.decoder_messages import plain_message
        >>> plain_message(ValueError("Graph execution error:\n\nInvalid PNG [[{{node a}}]]"))
        'Invalid PNG'
    """
    message = _BEHIND.sub("", str(getattr(error, "message", error))).strip()
    message = _BEFORE.sub("", message.splitlines()[-1] if message else "").strip()
    return _ASSERTED.sub(r"\1", message)


def without_log(lines: tuple[str, ...]) -> tuple[str, ...]:
    """Returns what was heard without TensorFlow's own log, which no decoder writes to."""
    return tuple(line for line in lines if not _LOG_LINE.match(line))


def pass_on(lines: tuple[str, ...]) -> None:
    """Writes to standard error what was heard and is no warning of libjpeg's."""
    others = [f"{line}\n" for line in lines if not _LIBJPEG.match(line)]
    if others:
        os.write(_STANDARD_ERROR, "".join(others).encode())


class _Shown:
    """The standard error that people see, in place of `sys.stderr`, for as long as it is used."""

    encoding = "utf-8"

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, text: str) -> int:
        os.write(self._descriptor, text.encode(errors="backslashreplace"))
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def __del__(self) -> None:
        os.close(self._descriptor)


def _is_standard_error(stream: object) -> bool:
    """Whether Python writes there what libraries write; notebooks have a stream of their own."""
    try:
        return stream.fileno() == _STANDARD_ERROR  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False
