"""The names that a server accepts, and the pages that may use it."""

import asyncio
import socket

import pytest

pytest.importorskip("starlette", reason="needs starlette")
from starlette.responses import PlainTextResponse

from tlkit.serving.origins import OwnHostOnly, OwnOriginOnly, own_hosts
from tlkit.serving.server import listen, make_server


def status(app, *headers):
    """The status of the response to a request with these headers."""
    sent = []

    async def send(message):
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in headers]
    scope = {"type": "http", "method": "GET", "path": "/", "headers": raw}
    asyncio.run(app(scope, None, send))
    return sent[0]["status"]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1", ("localhost", "127.0.0.1")),
        ("127.8.0.1", ("localhost", "127.8.0.1")),
        ("::1", ("localhost", "::1")),
        ("::ffff:127.0.0.1", ("localhost", "127.0.0.1")),
        ("0.0.0.0", ("*",)),
        ("::", ("*",)),
        ("192.168.1.5", ("*",)),
        ("fe80::1%eth0", ("*",)),
    ],
)
def test_a_loopback_address_of_either_family_accepts_its_own_names(address, expected):
    assert own_hosts(address) == expected


@pytest.mark.parametrize(
    ("address", "host", "expected"),
    [
        ("::1", "[::1]:8000", 200),
        ("::1", "[::1]", 200),
        ("::1", "[0:0:0:0:0:0:0:1]:8000", 200),
        ("::1", "LOCALHOST:8000", 200),
        ("::1", "evil.example:8000", 400),
        ("::1", "127.0.0.1:8000", 400),
        ("::1", "[::2]:8000", 400),
        ("::1", "[::1", 400),
        ("::1", "[::1]evil.example", 400),
        ("::1", "[::1]:8000@evil.example", 400),
        ("::1", "", 400),
        ("127.0.0.1", "127.0.0.1:8000", 200),
        ("127.0.0.1", "localhost", 200),
        ("127.0.0.1", "127.0.0.1.evil.example", 400),
        ("127.0.0.1", "[::1]:8000", 400),
        ("::ffff:127.0.0.1", "[::ffff:7f00:1]:8000", 200),
        ("0.0.0.0", "anything.example", 200),
        ("::", "[2001:db8::1]:80", 200),
    ],
)
def test_only_the_servers_own_names_are_accepted_at_loopback(address, host, expected):
    app = OwnHostOnly(PlainTextResponse("yes"), own_hosts(address))
    assert status(app, ("host", host)) == expected


def test_a_request_without_a_name_or_with_two_is_refused_at_loopback():
    app = OwnHostOnly(PlainTextResponse("yes"), own_hosts("::1"))
    assert status(app) == 400
    assert status(app, ("host", "localhost"), ("host", "evil.example")) == 400


@pytest.mark.parametrize(
    ("origin", "host", "expected"),
    [
        ("http://[::1]:8000", "[::1]:8000", 200),
        ("http://[::1]:8000", "[0:0:0:0:0:0:0:1]:8000", 200),
        ("http://[::1]", "[::1]", 200),
        ("http://[::1]:8001", "[::1]:8000", 403),
        ("http://[::2]:8000", "[::1]:8000", 403),
        ("http://[::1", "[::1]:8000", 403),
        ("http://[evil.example]:8000", "[::1]:8000", 403),
        ("http://localhost:8000", "LocalHost:8000", 200),
        ("http://x@localhost:8000", "localhost:8000", 403),
        ("null", "", 403),
        ("null", "[::1]:8000", 403),
        ("", "[::1]:8000", 403),
    ],
)
def test_a_page_is_the_servers_own_if_host_and_port_are_equal(origin, host, expected):
    app = OwnOriginOnly(PlainTextResponse("yes"))
    assert status(app, ("origin", origin), ("host", host)) == expected


def test_a_server_at_ipv6_loopback_refuses_other_names():
    try:
        listener = listen("::1", 0)
    except ValueError:
        pytest.skip("this machine has no IPv6 address")
    with listener:
        assert listener.family == socket.AF_INET6
        app = make_server(None, listener, max_bytes=9).config.app
        assert status(app, ("host", "evil.example")) == 400
