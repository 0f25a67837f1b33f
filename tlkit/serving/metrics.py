"""The server's metrics in Prometheus's text format."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_OTHER = "other"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class ServerMetrics:
    """Counts requests by path and status, and measures their times and those of the model.

    Args:
        paths: The server's paths; all others are counted as "other", so that requests for random
            paths make no new series.
    """

    def __init__(self, paths: tuple[str, ...]) -> None:
        self._paths = frozenset(paths)
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "tlkit_http_requests", "Answered requests.", ["path", "status"], registry=registry
        )
        self._seconds = Histogram(
            "tlkit_http_request_seconds",
            "Seconds from the head of a request to the end of its answer.",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._in_progress = Gauge(
            "tlkit_http_requests_in_progress", "Requests not yet answered.", registry=registry
        )
        self._model_seconds = Histogram(
            "tlkit_model_seconds",
            "Seconds of decoding and inference for one image.",
            buckets=_SECONDS,
            registry=registry,
        )

    @contextmanager
    def model_call(self) -> Iterator[None]:
        """Measures one call of the model."""
        with self._model_seconds.time():
            yield

    def response(self) -> Response:
        """Returns all metrics."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)

    def count_requests(self, app: ASGIApp) -> ASGIApp:
        """Returns an application that passes requests to `app` and counts them."""

        async def counting_app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            path = scope["path"] if scope["path"] in self._paths else _OTHER
            status = "none"

            async def send_and_note_status(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = str(message["status"])
                await send(message)

            started = time.perf_counter()
            with self._in_progress.track_inprogress():
                try:
                    await app(scope, receive, send_and_note_status)
                finally:
                    self._requests.labels(path, status).inc()
                    self._seconds.labels(path).observe(time.perf_counter() - started)

        return counting_app
