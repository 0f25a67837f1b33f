"""Runs the server until it is interrupted."""

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING

from tlkit.errors import ArgumentError, check_count
from tlkit.quiet import load_tensorflow_quietly

if TYPE_CHECKING:
    import uvicorn

    from tlkit.serving.model import ServedModel

LOOPBACK = "127.0.0.1"
PORT = 8000
MAX_PORT = 65535
MAX_MEGABYTES = 16
MAX_MEGAPIXELS = 32
CONNECTIONS = 1024
"""Connections beyond these are refused by uvicorn itself, whether they send a request or not."""

_PACKAGES = {"starlette": "starlette", "uvicorn": "uvicorn", "python_multipart": "python-multipart"}


def serve(
    folder: str | os.PathLike[str],
    *,
    port: int = PORT,
    host: str = LOOPBACK,
    max_megabytes: int = MAX_MEGABYTES,
    max_megapixels: int = MAX_MEGAPIXELS,
    say: Callable[[str], None] | None = None,
) -> None:
    """Answers over HTTP what is in pictures, until Ctrl-C.

    Args:
        folder: A run, or an exported SavedModel.
        port: Where to listen; 0 takes one that is free.
        host: The address to listen at. Only this machine reaches the default; "0.0.0.0" is open
            to the network, with no password and no encryption.
        max_megabytes: The most a picture file may have, in 2**20 bytes.
        max_megapixels: The most a picture may have, in 2**20 pixels.
        say: Is told the address.

    Raises:
        ArgumentError: If there is no model in `folder`, `port` cannot be had, a package is
            missing, or another argument breaks its rule.

    Example:
        >>> from tlkit.serving.server import serve
        >>> serve("run", port=8000)                                              # doctest: +SKIP
    """
    check_packages()
    check_count("max_megabytes", max_megabytes)
    check_count("max_megapixels", max_megapixels)
    with listen(host, port) as listener:
        load_tensorflow_quietly()
        from tlkit.serving.model import ServedModel

        model = ServedModel(folder, max_megapixels * 2**20)
        server = make_server(model, listener, max_bytes=max_megabytes * 2**20)
        address, chosen = listener.getsockname()[:2]
        if say:
            say(f"Open http://{address}:{chosen}/ and drop a picture there; Ctrl-C ends it.")
        # uvicorn ends in order, then raises the interrupt once more
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens, before time is spent on loading a model.

    Raises:
        ArgumentError: If `port` is no port, or cannot be had.
    """
    check_count("port", port, minimum=0)
    if port > MAX_PORT:
        raise ArgumentError(f"`port` must be at most {MAX_PORT}. Received: port={port!r}.")
    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise ArgumentError(
            f"`port` must be free, and `host` an address of this machine. Received: host={host!r}, "
            f"port={port!r} ({error.strerror or error}). Give another, or 0 for any port."
        ) from error


def make_server(
    model: "ServedModel", listener: socket.socket, *, max_bytes: int
) -> "uvicorn.Server":
    """Returns a server for the socket; `run(sockets=[listener])` runs it."""
    import uvicorn

    from tlkit.serving.app import create_app

    address = listener.getsockname()[0]
    is_local = address.startswith("127.")
    app = create_app(
        model,
        max_bytes=max_bytes,
        hosts=("localhost", address) if is_local else ("*",),
    )
    config = uvicorn.Config(
        app,
        limit_concurrency=CONNECTIONS,
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=5,
    )
    return uvicorn.Server(config)


def check_packages() -> None:
    """Raises `ArgumentError` unless all that serving needs is installed."""
    missing = [package for module, package in _PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise ArgumentError(
            f"Serving needs packages that must be installed. Received: no {', '.join(missing)}. "
            'Install with: pip install "tlkit[serve]".'
        )
