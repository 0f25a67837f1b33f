"""Reading the image in a request's body, within limits of memory and time."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

BODY_SECONDS = 30.0
"""Longest time in which a body must be received."""

SLOW_SECONDS = 3.0
"""Age after which an unfinished body is dropped if a new request needs its slot."""

_DRAIN_FACTOR = 8
"""Bodies of up to this many times the limit are read to the end, so that clients get the answer."""

_FORM_BYTES = 64 * 2**10
"""Bytes that a form may have in addition to its file."""


class Bodies:
    """The bodies that are in memory at once, complete ones and the received parts of others.

    Requests never wait for each other, so that slow clients do not delay others: a body takes as
    many bytes as have been received, and a request that would exceed the limit is refused. If the
    number of requests is at its limit, a new one replaces the oldest request whose body has been
    unfinished for more than `SLOW_SECONDS`.

    Args:
        max_number: Largest number of requests.
        max_bytes: Largest number of bytes of all bodies together.
    """

    def __init__(self, max_number: int, max_bytes: int) -> None:
        self.max_number, self.max_bytes = max_number, max_bytes
        self._reservations: set[Reservation] = set()

    @contextmanager
    def reserve(self) -> Iterator["Reservation"]:
        """Counts a request and its bytes until it is answered.

        Raises:
            HTTPException: 503 if the number of requests is at its limit.
        """
        if not self.can_accept():
            raise too_busy()
        if len(self._reservations) >= self.max_number:
            oldest = min(self._slow(), key=lambda reservation: reservation.since)
            self._reservations.discard(oldest)
            oldest.cancel()
        reservation = Reservation(self)
        self._reservations.add(reservation)
        try:
            yield reservation
        finally:
            self._reservations.discard(reservation)

    def can_accept(self) -> bool:
        """Whether another request is accepted now."""
        return len(self._reservations) < self.max_number or bool(self._slow())

    def _slow(self) -> list["Reservation"]:
        limit = time.monotonic() - SLOW_SECONDS
        return [one for one in self._reservations if one.is_receiving and one.since < limit]

    def has_memory_for(self, num_bytes: int) -> bool:
        """Whether this many more bytes are within the limit."""
        used = sum(reservation.num_bytes for reservation in self._reservations)
        return used + num_bytes <= self.max_bytes


@dataclass(eq=False)
class Reservation:
    """The slot and the memory that one request takes."""

    bodies: Bodies
    num_bytes: int = 0
    since: float = field(default_factory=time.monotonic)
    _deadline: asyncio.Timeout | None = None

    @property
    def is_receiving(self) -> bool:
        """Whether the body is still being received."""
        return self._deadline is not None

    @asynccontextmanager
    async def receiving(self) -> AsyncIterator[None]:
        """Limits the block, in which the body is received, to `BODY_SECONDS`.

        Raises:
            TimeoutError: It takes longer, or the reservation was cancelled.
        """
        try:
            async with asyncio.timeout(BODY_SECONDS) as self._deadline:
                yield
        finally:
            self._deadline = None

    def cancel(self) -> None:
        """Stops receiving the body."""
        if self._deadline is not None:
            self._deadline.reschedule(asyncio.get_running_loop().time())

    def take(self, num_bytes: int) -> bool:
        """Reserves bytes if they are within the limit; returns whether they are."""
        has_memory = self.bodies.has_memory_for(num_bytes)
        self.num_bytes += num_bytes * has_memory
        return has_memory


async def read_image_body(request: Request, max_bytes: int, reservation: Reservation) -> bytes:
    """Returns the image file of a request: its body, or the only file of a form.

    Args:
        request: Its body is an image file with any `Content-Type`, or `multipart/form-data` with
            one file of any name.
        max_bytes: Largest number of bytes of the file.
        reservation: Counts the received bytes.

    Raises:
        HTTPException: 400 if there is not exactly one file, 408 if it is not received in time, 413
            if it is too large, 503 if there is no memory for it.
    """
    is_form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    allowed = max_bytes + (_FORM_BYTES if is_form else 0)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > _DRAIN_FACTOR * allowed:
        raise _too_large(max_bytes)
    try:
        async with reservation.receiving():
            body = await _read_body(request, allowed, max_bytes, reservation)
    except TimeoutError as error:
        detail = (
            f"The body must be sent within {BODY_SECONDS:g} seconds, or within {SLOW_SECONDS:g} if "
            "the server is busy. Send it again."
        )
        raise HTTPException(408, detail) from error
    image = await _read_form_file(request, body) if is_form else body
    if len(image) > max_bytes:
        raise _too_large(max_bytes)
    if not image:
        raise HTTPException(400, "The body must be an image file. Received: nothing.")
    return image


async def _read_body(
    request: Request, allowed: int, max_bytes: int, reservation: Reservation
) -> bytes:
    chunks: list[bytes] = []
    received, is_kept = 0, True
    async for chunk in request.stream():
        received += len(chunk)
        is_kept = is_kept and received <= allowed and reservation.take(len(chunk))
        if is_kept:
            chunks.append(chunk)
        else:
            chunks.clear()
            reservation.num_bytes = 0
        if received > _DRAIN_FACTOR * allowed:
            break
    if received > allowed:
        raise _too_large(max_bytes)
    if not is_kept:
        raise too_busy()
    return b"".join(chunks)


async def _read_form_file(request: Request, body: bytes) -> bytes:
    replayed = Request(request.scope, _receive_once(body))
    async with replayed.form(max_files=2, max_fields=8, max_part_size=_FORM_BYTES) as form:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if len(files) != 1:
            raise HTTPException(
                400, f"The form must contain one file. Received: {len(files)}. Send one at a time."
            )
        return await files[0].read()


def _receive_once(body: bytes) -> Callable[[], Awaitable[Message]]:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def too_busy() -> HTTPException:
    """Returns the error for a request for which the server has no capacity."""
    return HTTPException(
        503,
        "The server is busy with other images. Send this one again in a few seconds.",
        headers={"Retry-After": "5"},
    )


def _too_large(max_bytes: int) -> HTTPException:
    return HTTPException(
        413, f"The image must have at most {max_bytes:,} bytes. Send a smaller image."
    )
