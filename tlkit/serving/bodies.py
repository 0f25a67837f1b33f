"""The picture in the body of a request, read within bounds of bytes and seconds."""

import asyncio
from collections.abc import Awaitable, Callable

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

SECONDS = 30.0
"""The longest that a body may take to arrive."""

_DRAINED = 8
"""So many times the allowed bytes are read and dropped, so that the answer is still heard."""

_FORM_BYTES = 64 * 2**10
"""What a form may add around its file."""


async def read_picture(request: Request, max_bytes: int) -> bytes:
    """Returns the file that a request sends: as its body, or as the one file of a form.

    Args:
        request: The body is a whole picture file of any `Content-Type`, or
            `multipart/form-data` with one file under any name.
        max_bytes: The most bytes of the file.

    Raises:
        HTTPException: 400 where there is not just one file, 408 where it does not arrive in time,
            413 where it is too large.
    """
    is_form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    allowed = max_bytes + (_FORM_BYTES if is_form else 0)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > _DRAINED * allowed:
        raise _too_large(max_bytes)
    try:
        async with asyncio.timeout(SECONDS):
            body = await _body(request, allowed, max_bytes)
    except TimeoutError as error:
        detail = f"The body must arrive within {SECONDS:g} seconds. Send it again."
        raise HTTPException(408, detail) from error
    picture = await _one_file(request, body) if is_form else body
    if len(picture) > max_bytes:
        raise _too_large(max_bytes)
    if not picture:
        raise HTTPException(400, "The body must be a picture file. Received: nothing.")
    return picture


async def _body(request: Request, allowed: int, max_bytes: int) -> bytes:
    chunks: list[bytes] = []
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received <= allowed:
            chunks.append(chunk)
        else:
            chunks.clear()
        if received > _DRAINED * allowed:
            break
    if received > allowed:
        raise _too_large(max_bytes)
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


def _too_large(max_bytes: int) -> HTTPException:
    return HTTPException(413, f"The picture must have at most {max_bytes:,} bytes. Send a smaller.")
