"""The routes of the server, and the bounds within which it answers."""

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

BODIES = 16
"""So many bodies of the largest size may be in memory at once, or more that are smaller."""

REQUESTS = 128
"""Requests beyond these are answered with 503 at once."""

THREADS = 2
"""So many images are decoded at once: a PNG of 32 megapixels took 165 MB meanwhile."""

MODEL_SECONDS = 30.0
"""The longest that an image may wait for its turn and its answer."""

_CLIENT_LEFT = 499  # nobody hears it; the number that logs use for this
_SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; "
    "img-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def create_app(model: ServedModel, *, max_bytes: int, hosts: Sequence[str] = (ANY,)) -> Starlette:
    """Returns the server's application, of ASGI, which any such server runs.

    `GET /` is a page where one drops an image; `POST /predict` takes an image file as its body,
    or as the one file of a form, and answers in JSON what `ServedModel.answer` returns; `GET
    /health` says the model's classes and the bounds, `GET /ready` whether another image would be
    taken now (else 503), and `GET /metrics` what Prometheus collects. What goes wrong is said in
    JSON too, `{"error": "..."}`, with a status of 4xx: 400 no file, 403 asked for by a page from
    elsewhere, 408 too slow, 413 too many bytes or pixels, 415 no image; or with 503 where others
    send too much at once.

    Args:
        model: What answers.
        max_bytes: The most bytes of an image file.
        hosts: Names under which the server may be asked; "*" allows any. A server for this
            machine alone names itself, so that no page from elsewhere can reach it by a name of
            its own.
    """
    bodies, threads = Bodies(REQUESTS, BODIES * max_bytes), CapacityLimiter(THREADS)
    metrics = ServerMetrics(("/", "/page.js", "/health", "/ready", "/metrics", "/predict"))

    def answer(image: bytes) -> dict[str, object]:
        with metrics.model_call():
            return model.answer(image)

    async def predict(request: Request) -> Response:
        with bodies.share() as share:
            try:
                image = await read_image_body(request, max_bytes, share)
                async with asyncio.timeout(MODEL_SECONDS), threads:
                    if await request.is_disconnected():
                        return Response(status_code=_CLIENT_LEFT)
                    said = await to_thread.run_sync(answer, image, limiter=CapacityLimiter(1))
            except ClientDisconnect:
                return Response(status_code=_CLIENT_LEFT)
            except TimeoutError as error:
                raise too_busy() from error
            except TooManyPixelsError as error:
                raise HTTPException(413, str(error)) from error
            except DataError as error:
                raise HTTPException(415, str(error)) from error
        return JSONResponse(said)

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
        if not bodies.have_place():
            raise too_busy()
        return JSONResponse({"ready": True})

    async def figures(_: Request) -> Response:
        return metrics.response()

    # Starlette's own type has no room for handlers of one kind of error
    handlers: dict[Any, Any] = {HTTPException: _http_error, Exception: _server_error}
    return Starlette(
        routes=[
            Route("/", _file("page.html", "text/html")),
            Route("/page.js", _file("page.js", "text/javascript")),
            Route("/health", health),
            Route("/ready", ready),
            Route("/metrics", figures),
            Route("/predict", predict, methods=["POST"]),
        ],
        middleware=[
            Middleware(metrics.around),
            Middleware(ErrorsInJson),
            Middleware(OwnHostOnly, hosts=hosts),
            Middleware(OwnOriginOnly),
        ],
        exception_handlers=handlers,
    )


class ErrorsInJson:
    """Says in JSON what a part of the library says in plain text."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
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
    """What went wrong inside is logged by the server and is no business of who asked."""
    return JSONResponse({"error": "The server failed on this image."}, 500)
