"""Refusal of requests with another server's name, and of those sent by other sites' pages."""

import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

ANY = "*"
"""Accepts every name."""

_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:@/\s]+))(?::([0-9]*))?", re.ASCII)


def own_hosts(address: str) -> tuple[str, ...]:
    """Returns the names that a server at an address accepts in the `Host` header.

    For a loopback address, IPv4 or IPv6, they are "localhost" and the address itself, so that
    another site's page cannot reach the server by DNS rebinding. Any other address is open to the
    network and may have unknown names.

    Example:
        >>> from tlkit.serving.origins import own_hosts
        >>> own_hosts("::1"), own_hosts("0.0.0.0")
        (('localhost', '::1'), ('*',))
    """
    plain = _plain(address)
    try:
        is_loopback = ipaddress.ip_address(plain).is_loopback
    except ValueError:  # not an IP address, such as one with a zone
        is_loopback = False
    return ("localhost", plain) if is_loopback else (ANY,)


class OwnHostOnly:
    """Refuses, with 400, requests whose `Host` is not one of the server's names.

    Args:
        app: The application for all other requests.
        hosts: Names and addresses, without ports or brackets; "*" accepts any.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self.app = app
        self.hosts = None if ANY in hosts else {_plain(host) for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["type"] == "http" and not self._is_own(Headers(scope=scope).getlist("host")):
            refusal = f"The host must be {' or '.join(sorted(self.hosts or ()))}."
            await JSONResponse({"error": refusal}, 400)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _is_own(self, values: list[str]) -> bool:
        if self.hosts is None:
            return True
        authorities = [_authority(value) for value in values]
        return (
            len(authorities) == 1 and authorities[0] is not None and authorities[0][0] in self.hosts
        )


class OwnOriginOnly:
    """Refuses, with 403, requests that a browser sends for another site's page.

    Browsers give the page's origin in `Origin` with every request that may change something, and
    tell in `Sec-Fetch-Site` whether it is another site. Programs send neither and are accepted.

    Reference:
        https://fetch.spec.whatwg.org/#origin-header; https://www.w3.org/TR/fetch-metadata/
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["type"] == "http" and _is_foreign(Headers(scope=scope)):
            refusal = "Pages of other sites may not use this server. Open its own page."
            await JSONResponse({"error": refusal}, 403)(scope, receive, send)
            return
        await self.app(scope, receive, send)


def _is_foreign(headers: Headers) -> bool:
    origin = headers.get("origin")
    if origin is not None:
        own = _authority(headers.get("host", ""))
        return own is None or _origin(origin) != own
    is_followed_link = headers.get("sec-fetch-mode") == "navigate"
    return headers.get("sec-fetch-site") == "cross-site" and not is_followed_link


def _origin(text: str) -> tuple[str, str] | None:
    """Returns host and port of an origin; `None` for "null" and for invalid text."""
    try:
        return _authority(urlsplit(text).netloc)
    except ValueError:  # brackets around something that is not an address
        return None


def _authority(text: str) -> tuple[str, str] | None:
    """Returns the host and the port, or "", of `HOST`, `HOST:PORT` or `[ADDRESS]:PORT`."""
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        return None
    address, name, port = match.groups()
    return _plain(address or name), port or ""


def _plain(host: str) -> str:
    """Returns a name in lower case, and an address in its canonical form.

    An IPv4 address written as IPv6 (::ffff:127.0.0.1) becomes the IPv4 address.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a name
        return host.lower()
    mapped = getattr(address, "ipv4_mapped", None)
    return str(address if mapped is None else mapped)
