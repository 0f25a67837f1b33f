"""Requests that a page from elsewhere makes in somebody's browser: refused."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class OwnOriginOnly:
    """Refuses, with 403, what a browser sends for a page that is not this server's.

    Browsers name the page's origin in `Origin` with every request that may change something, and
    say in `Sec-Fetch-Site` whether it is another site's. Programs send neither, and are answered.

    Reference:
        https://fetch.spec.whatwg.org/#origin-header; https://www.w3.org/TR/fetch-metadata/
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] == "http" and _is_foreign(Headers(scope=scope)):
            refusal = "Pages from elsewhere may not ask this server. Open its own page."
            await JSONResponse({"error": refusal}, 403)(scope, receive, send)
            return
        await self.app(scope, receive, send)


def _is_foreign(headers: Headers) -> bool:
    origin = headers.get("origin")
    if origin is not None:
        return urlsplit(origin).netloc.lower() != headers.get("host", "").lower()
    is_followed_link = headers.get("sec-fetch-mode") == "navigate"
    return headers.get("sec-fetch-site") == "cross-site" and not is_followed_link
