"""The image in the body of a request, read within bounds of bytes and seconds."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

SECONDS = 30.0
"""The longest that a body may take to arrive."""

PATIENCE = 3.0
"""Seconds after which a body that still arrives gives way where others find no place."""

_DRAINED = 8
"""So many times the allowed bytes are read and dropped, so that the answer is still heard."""

_FORM_BYTES = 64 * 2**10
"""What a form may add around its file."""


class Bodies:
    """The bodies that are in memory at once, whole ones and what has arrived of others.

    None ever waits for another, so that clients that dawdle hold nobody up: they take as many bytes
    as they have sent, and beyond a bound whoever sends more is asked to come again. Where there are
    as many requests as there may be, one that has been sending its body for longest, and for more
    than `PATIENCE`, gives way to a new one.

    Args:
        max_number: The most requests.
        max_bytes: The most bytes of all of them together.
    """

    def __init__(self, max_number: int, max_bytes: int) -> None:
        self.max_number, self.max_bytes = max_number, max_bytes
        self._shares: set[Share] = set()

    @contextmanager
    def share(self) -> Iterator["Share"]:
        """Counts a request, and the bytes it takes, until it is answered.

        Raises:
            HTTPException: 503 where there are as many already.
        """
        if not self.have_place():
            raise too_busy()
        if len(self._shares) >= self.max_number:
            oldest = min(self._slow(), key=lambda share: share.since)
            self._shares.discard(oldest)
            oldest.give_way()
        share = Share(self)
        self._shares.add(share)
        try:
            yield share
        finally:
            self._shares.discard(share)

    def have_place(self) -> bool:
        """Whether another request may come."""
        return len(self._shares) < self.max_number or bool(self._slow())

    def _slow(self) -> list["Share"]:
        since = time.monotonic() - PATIENCE
        return [share for share in self._shares if share.is_arriving and share.since < since]

    def have_room(self, num_bytes: int) -> bool:
        """Whether so many more bytes may arrive."""
        return sum(share.num_bytes for share in self._shares) + num_bytes <= self.max_bytes


@dataclass(eq=False)
class Share:
    """What one request takes of the memory for bodies."""

    of: Bodies
    num_bytes: int = 0
    since: float = field(default_factory=time.monotonic)
    _deadline: asyncio.Timeout | None = None

    @property
    def is_arriving(self) -> bool:
        """Whether the body is still being sent."""
        return self._deadline is not None

    @asynccontextmanager
    async def arriving(self) -> AsyncIterator[None]:
        """The body is being sent, for `SECONDS` at most.

        Raises:
            TimeoutError: It takes longer, or has to give way.
        """
        try:
            async with asyncio.timeout(SECONDS) as self._deadline:
                yield
        finally:
            self._deadline = None

    def give_way(self) -> None:
        """Ends the sending of the body now."""
        if self._deadline is not None:
            self._deadline.reschedule(asyncio.get_running_loop().time())

    def take(self, num_bytes: int) -> bool:
        """Takes bytes, unless there is no room for them."""
        has_room = self.of.have_room(num_bytes)
        self.num_bytes += num_bytes * has_room
        return has_room


async def read_image_body(request: Request, max_bytes: int, share: Share) -> bytes:
    """Returns the file that a request sends: as its body, or as the one file of a form.

    Args:
        request: The body is a whole image file of any `Content-Type`, or
            `multipart/form-data` with one file under any name.
        max_bytes: The most bytes of the file.
        share: Is told what arrives.

    Raises:
        HTTPException: 400 where there is not just one file, 408 where it does not arrive in time,
            413 where it is too large, 503 where there is no room for it.
    """
    is_form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    allowed = max_bytes + (_FORM_BYTES if is_form else 0)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > _DRAINED * allowed:
        raise _too_large(max_bytes)
    try:
        async with share.arriving():
            body = await _body(request, allowed, max_bytes, share)
    except TimeoutError as error:
        detail = (
            f"The body must arrive within {SECONDS:g} seconds, or {PATIENCE:g} where others wait. "
            "Send it again."
        )
        raise HTTPException(408, detail) from error
    image = await _one_file(request, body) if is_form else body
    if len(image) > max_bytes:
        raise _too_large(max_bytes)
    if not image:
        raise HTTPException(400, "The body must be an image file. Received: nothing.")
    return image


async def _body(request: Request, allowed: int, max_bytes: int, share: Share) -> bytes:
    chunks: list[bytes] = []
    received, is_kept = 0, True
    async for chunk in request.stream():
        received += len(chunk)
        is_kept = is_kept and received <= allowed and share.take(len(chunk))
        if is_kept:
            chunks.append(chunk)
        else:
            chunks.clear()
            share.num_bytes = 0
        if received > _DRAINED * allowed:
            break
    if received > allowed:
        raise _too_large(max_bytes)
    if not is_kept:
        raise too_busy()
    return b"".join(chunks)


async def _one_file(request: Request, body: bytes) -> bytes:
    replayed = Request(request.scope, _receive_once(body))
    async with replayed.form(max_files=2, max_fields=8, max_part_size=_FORM_BYTES) as form:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if len(files) != 1:
            raise HTTPException(
                400, f"The form must hold one file. Received: {len(files)}. Send one at a time."
            )
        return await files[0].read()


def _receive_once(body: bytes) -> Callable[[], Awaitable[Message]]:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def too_busy() -> HTTPException:
    """What is answered where others take all there is."""
    return HTTPException(
        503,
        "The server is busy with other images. Send this one again in some seconds.",
        headers={"Retry-After": "5"},
    )


def _too_large(max_bytes: int) -> HTTPException:
    return HTTPException(413, f"The image must have at most {max_bytes:,} bytes. Send a smaller.")
