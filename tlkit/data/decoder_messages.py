"""Messages of TensorFlow's image decoders: their errors, and libjpeg's warnings on stderr."""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_STANDARD_ERROR = 2
_LOG_LINE = re.compile(r"[IWEF]\d{4} |\d{4}-\d\d-\d\d |WARNING: All log messages|\s*\[\[\{\{")
"""Beginnings of lines, and of continuation lines, of TensorFlow's log."""
_LIBJPEG = re.compile(
    r"Corrupt JPEG data: |Premature end of JPEG|Inconsistent progression sequence|Invalid SOS "
    r"parameters|Unknown Adobe color transform|Warning: unknown JFIF|Application transferred"
)
"""Beginnings of libjpeg's warnings, see its `jerror.h`."""
_HARMLESS = re.compile(r"Warning: unknown JFIF|Unknown Adobe color transform")
"""Warnings about an unusual header, which do not affect the pixels."""
_AFTER_FAILURE = re.compile(r"Improper call to JPEG library")
"""libjpeg's complaint about how TensorFlow cleans up after a failed decode."""
_NODE_PREFIX, _NODE_SUFFIX = (
    re.compile(r"^\{\{.*?\}\} "),
    re.compile(r"\s*\[(\[|Op:).*$", re.DOTALL),
)
_ASSERTION = re.compile(r"^assertion failed: \[(.*)\]$", re.DOTALL)
_CAPTURE_LOCK = Lock()


class CapturedLines:
    """The lines that libraries wrote to standard error during a capture."""

    def __init__(self) -> None:
        self.lines: tuple[str, ...] = ()


@contextmanager
def capture_stderr() -> Iterator[CapturedLines]:
    """Captures what libraries write to standard error in the block; `lines` is filled at its end.

    libjpeg writes its warnings there without naming the file. The standard error of the whole
    process is captured, by one block at a time, so blocks must be short. What Python writes to
    `sys.stderr`, such as a progress bar, is still shown. Lines that do not come from a decoder must
    be passed to `forward_lines`; if the block raises, that is done here. If standard error is
    closed, nothing is captured.
    """
    captured = CapturedLines()
    with _CAPTURE_LOCK, tempfile.TemporaryFile() as captured_file:
        try:
            visible = _VisibleStderr(os.dup(_STANDARD_ERROR))
        except OSError:  # closed, as in some services
            yield captured
            return
        python_stderr = sys.stderr
        if _is_standard_error(python_stderr):
            python_stderr.flush()
            sys.stderr = visible  # type: ignore[assignment]
        os.dup2(captured_file.fileno(), _STANDARD_ERROR)
        is_finished = False
        try:
            yield captured
            is_finished = True
        finally:
            os.dup2(visible.fileno(), _STANDARD_ERROR)
            sys.stderr = python_stderr
            captured_file.seek(0)
            captured.lines = tuple(captured_file.read().decode("utf-8", "replace").splitlines())
            if not is_finished:
                forward_lines(captured.lines)


def find_warning(lines: tuple[str, ...]) -> str:
    """Returns libjpeg's first warning about damaged pixels, or "".

    Example:
        >>> from tlkit.data.decoder_messages import find_warning
        >>> find_warning(("Corrupt JPEG data: bad Huffman code",))
        'Corrupt JPEG data: bad Huffman code'
    """
    found = (line for line in lines if _LIBJPEG.match(line) and not _HARMLESS.match(line))
    return next(found, "").strip()


def find_error(lines: tuple[str, ...]) -> str:
    """Returns libjpeg's last message about a file that it could not decode, or ""."""
    ignored = (_LOG_LINE, _HARMLESS, _AFTER_FAILURE)
    messages = (line.strip() for line in reversed(lines) if not any(p.match(line) for p in ignored))
    return next(filter(None, messages), "")


def plain_message(error: Exception) -> str:
    r"""Returns the message of a `tf.errors.OpError` without the names of graph nodes.

    Example:
        >>> from tlkit.data.decoder_messages import plain_message
        >>> plain_message(ValueError("Graph execution error:\n\nInvalid PNG [[{{node a}}]]"))
        'Invalid PNG'
    """
    message = _NODE_SUFFIX.sub("", str(getattr(error, "message", error))).strip()
    message = _NODE_PREFIX.sub("", message.splitlines()[-1] if message else "").strip()
    return _ASSERTION.sub(r"\1", message)


def drop_log_lines(lines: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the captured lines without those of TensorFlow's own log."""
    return tuple(line for line in lines if not _LOG_LINE.match(line))


def forward_lines(lines: tuple[str, ...]) -> None:
    """Writes the captured lines that are not libjpeg's warnings to standard error."""
    others = [f"{line}\n" for line in lines if not _LIBJPEG.match(line)]
    if others:
        os.write(_STANDARD_ERROR, "".join(others).encode())


class _VisibleStderr:
    """A stand-in for `sys.stderr` that still writes to the original standard error."""

    encoding = "utf-8"

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, text: str) -> int:
        os.write(self._descriptor, text.encode(errors="backslashreplace"))
        return len(text)

    def flush(self) -> None:
        """Does nothing: writes are unbuffered."""

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def __del__(self) -> None:
        os.close(self._descriptor)


def _is_standard_error(stream: object) -> bool:
    """Whether a Python stream is the process's standard error; in notebooks it is not."""
    try:
        return stream.fileno() == _STANDARD_ERROR  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False
