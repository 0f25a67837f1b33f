"""The routes of the server, and its limits."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tlkit.errors import DataError
from tlkit.serving.bodies import Bodies, read_image_body, too_busy
from tlkit.serving.metrics import ServerMetrics
from tlkit.serving.model import ServedModel, TooManyPixelsError
from tlkit.serving.origins import ANY, OwnHostOnly, OwnOriginOnly

MAX_BODIES = 16
"""Number of bodies of the largest size that fit in memory at once, or more smaller ones."""

MAX_REQUESTS = 128
"""Number of requests at once; further ones are answered with 503."""

NUM_THREADS = 2
"""Number of images that are decoded at once: a PNG of 32 megapixels takes 165 MB for that."""

MODEL_SECONDS = 30.0
"""Longest time that an image may wait for a thread and for its answer."""

_CLIENT_LEFT = 499  # for the log only: the client is gone
_SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; "
    "img-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def create_app(model: ServedModel, *, max_bytes: int, hosts: Sequence[str] = (ANY,)) -> Starlette:
    """Returns the server's ASGI application.

    `GET /` is a page on which users drop an image. `POST /predict` takes an image file as its body,
    or as the only file of a form, and returns `ServedModel.answer` in JSON. `GET /health` returns
    the model's classes and the limits, `GET /ready` returns 503 if another image would be refused
    now, and `GET /metrics` is for Prometheus. Errors are JSON, `{"error": "..."}`, with a status of
    4xx (400 no file, 403 sent by another site's page, 408 too slow, 413 too many bytes or pixels,
    415 not an image), or 503 if the server is too busy.

    Args:
        model: The model.
        max_bytes: Largest number of bytes of an image file.
        hosts: Accepted names in the `Host` header; "*" accepts any. A server for this machine alone
            accepts its own names only, so that no other site's page can reach it by DNS rebinding.
    """
    bodies = Bodies(MAX_REQUESTS, MAX_BODIES * max_bytes)
    threads = CapacityLimiter(NUM_THREADS)
    metrics = ServerMetrics(("/", "/page.js", "/health", "/ready", "/metrics", "/predict"))

    def answer(image: bytes) -> dict[str, object]:
        with metrics.model_call():
            return model.answer(image)

    async def predict(request: Request) -> Response:
        with bodies.reserve() as reservation:
            try:
                image = await read_image_body(request, max_bytes, reservation)
                async with asyncio.timeout(MODEL_SECONDS), threads:
                    if await request.is_disconnected():
                        return Response(status_code=_CLIENT_LEFT)
                    content = await to_thread.run_sync(answer, image, limiter=CapacityLimiter(1))
            except ClientDisconnect:
                return Response(status_code=_CLIENT_LEFT)
            except TimeoutError as error:
                raise too_busy() from error
            except TooManyPixelsError as error:
                raise HTTPException(413, str(error)) from error
            except DataError as error:
                raise HTTPException(415, str(error)) from error
        return JSONResponse(content)

    async def health(_: Request) -> Response:
        return JSONResponse(
            {
                "status": "ok",
                "class_names": model.class_names,
                "max_bytes": max_bytes,
                "max_pixels": model.max_pixels,
            }
        )

    async def ready(_: Request) -> Response:
        if not bodies.can_accept():
            raise too_busy()
        return JSONResponse({"ready": True})

    async def metrics_page(_: Request) -> Response:
        return metrics.response()

    # Starlette's own type does not allow handlers for subclasses of Exception
    handlers: dict[Any, Any] = {HTTPException: _http_error, Exception: _server_error}
    return Starlette(
        routes=[
            Route("/", _file("page.html", "text/html")),
            Route("/page.js", _file("page.js", "text/javascript")),
            Route("/health", health),
            Route("/ready", ready),
            Route("/metrics", metrics_page),
            Route("/predict", predict, methods=["POST"]),
        ],
        middleware=[
            Middleware(metrics.count_requests),
            Middleware(ErrorsInJson),
            Middleware(OwnHostOnly, hosts=hosts),
            Middleware(OwnOriginOnly),
        ],
        exception_handlers=handlers,
    )


class ErrorsInJson:
    """Converts plain-text errors of the libraries to JSON."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        started: Message | None = None
        text = b""

        async def send_in_json(message: Message) -> None:
            nonlocal started, text
            if message["type"] == "http.response.start" and _is_plain_error(message):
                started = message
            elif started is None:
                await send(message)
            else:
                text += message.get("body", b"")
                if not message.get("more_body", False):
                    response = JSONResponse({"error": text.decode()}, started["status"])
                    await response(scope, receive, send)

        await self.app(scope, receive, send_in_json)


def _is_plain_error(start: Message) -> bool:
    kind = Headers(raw=start["headers"]).get("content-type", "")
    return start["status"] >= 400 and kind.startswith("text/plain")


def _file(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    content = (Path(str(resources.files("tlkit.serving"))) / name).read_bytes()

    async def send(_: Request) -> Response:
        return Response(content, media_type=media_type, headers=_SECURITY)

    return send


async def _http_error(_: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


async def _server_error(_: Request, error: Exception) -> Response:
    """Hides the cause of an internal error from the client; the server logs it."""
    return JSONResponse({"error": "The server failed on this image."}, 500)
