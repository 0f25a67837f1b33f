"""Requests under another name than the server's, or by a page from elsewhere: refused."""

import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

ANY = "*"
"""Allows every name."""

_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:@/\s]+))(?::([0-9]*))?", re.ASCII)


def own_hosts(address: str) -> tuple[str, ...]:
    """Returns the names under which a server that listens at an address may be asked.

    At a loopback address, of IPv4 or IPv6, these are "localhost" and the address; a page from
    elsewhere whose own name leads to this machine (DNS rebinding) then gets no answer. Any other
    address is open to the network, and may have names that nobody here knows.

    Example:
        >>> from tlkit.serving.origins import own_hosts
        >>> own_hosts("::1"), own_hosts("0.0.0.0")
        (('localhost', '::1'), ('*',))
    """
    plain = _plain(address)
    try:
        is_loopback = ipaddress.ip_address(plain).is_loopback
    except ValueError:  # no address of the internet's: nothing is known of who reaches it
        is_loopback = False
    return ("localhost", plain) if is_loopback else (ANY,)


class OwnHostOnly:
    """Refuses, with 400, what is asked under a name that is not the server's.

    Args:
        app: What answers the rest.
        hosts: Names and addresses, without ports or brackets; "*" allows any.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self.app = app
        self.hosts = None if ANY in hosts else {_plain(host) for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] == "http" and not self._is_own(Headers(scope=scope).getlist("host")):
            refusal = f"The server must be asked as {' or '.join(sorted(self.hosts or ()))}."
            await JSONResponse({"error": refusal}, 400)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _is_own(self, given: list[str]) -> bool:
        if self.hosts is None:
            return True
        asked = [_authority(text) for text in given]
        return len(asked) == 1 and asked[0] is not None and asked[0][0] in self.hosts


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
        own = _authority(headers.get("host", ""))
        return own is None or _origin(origin) != own
    is_followed_link = headers.get("sec-fetch-mode") == "navigate"
    return headers.get("sec-fetch-site") == "cross-site" and not is_followed_link


def _origin(text: str) -> tuple[str, str] | None:
    """Returns host and port of an origin; `None` for "null", and for what is none."""
    try:
        return _authority(urlsplit(text).netloc)
    except ValueError:  # brackets round what is no address
        return None


def _authority(text: str) -> tuple[str, str] | None:
    """Returns host and port, "" without one, of `HOST`, `HOST:PORT` or `[ADDRESS]:PORT`."""
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        return None
    address, name, port = found.groups()
    return _plain(address or name), port or ""


def _plain(host: str) -> str:
    """Returns a name in lower case, an address in the one way to write it.

    An address of IPv4 in the form of IPv6 (::ffff:127.0.0.1) is that of IPv4.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a name
        return host.lower()
    mapped = getattr(address, "ipv4_mapped", None)
    return str(address if mapped is None else mapped)
