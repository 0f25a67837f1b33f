"""Runs the server until it is interrupted."""

import atexit
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING

from tlkit.errors import ArgumentError, check_count
from tlkit.utils.renamed import renamed_argument
from tlkit.utils.tensorflow_logging import load_tensorflow_quietly

if TYPE_CHECKING:
    import uvicorn

    from tlkit.serving.model import ServedModel

LOOPBACK = "127.0.0.1"
PORT = 8000
MAX_PORT = 65535
MAX_MEGABYTES = 16
MAX_MEGAPIXELS = 32
CONNECTIONS = 512
"""Beyond these a new connection takes the place of an idle one; half of what systems allow."""

BACKLOG = 2048
GRACE_SECONDS = 75
"""How long a stop waits for what is in flight: more than a body and its answer may take."""

_PACKAGES = {
    "starlette": "starlette",
    "uvicorn": "uvicorn",
    "httptools": "httptools",
    "python_multipart": "python-multipart",
    "prometheus_client": "prometheus-client",
}
_LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "plain": {"format": "%(asctime)s %(levelname)s %(message)s"},
        "access": {"format": "%(asctime)s %(message)s"},
    },
    "handlers": {
        name: {"class": "logging.StreamHandler", "formatter": name} for name in ("plain", "access")
    },
    "loggers": {
        "uvicorn.error": {"handlers": ["plain"], "level": "WARNING", "propagate": False},
        "uvicorn.access": {"handlers": ["access"], "level": "INFO", "propagate": False},
    },
}
"""Both logs go to standard error."""


@renamed_argument("say", "log")
def serve(
    folder: str | os.PathLike[str],
    *,
    port: int = PORT,
    host: str = LOOPBACK,
    max_megabytes: int = MAX_MEGABYTES,
    max_megapixels: int = MAX_MEGAPIXELS,
    access_log: bool = True,
    safe: bool = False,
    log: Callable[[str], None] | None = None,
) -> None:
    """Answers over HTTP what is in images, until Ctrl-C or SIGTERM.

    The port takes connections once the model is loaded. What is in flight when it ends is answered
    first; a second Ctrl-C ends it at once.

    Args:
        folder: A run, or an exported SavedModel.
        port: Where to listen; 0 takes one that is free.
        host: The address to listen at. Only this machine reaches the default, or "::1"; "0.0.0.0"
            is open to the network, with no password and no encryption.
        max_megabytes: The most an image file may have, in 2**20 bytes.
        max_megapixels: The most an image may have, in 2**20 pixels.
        safe: Take `model.keras` in Keras's safe mode instead of the SavedModel, which is a program
            that TensorFlow runs: for models of somebody you do not trust.
        access_log: Whether standard error gets a line for each request.
        log: Is told the address.

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

        model = ServedModel(folder, max_megapixels * 2**20, safe=safe)
        server = make_server(
            model, listener, max_bytes=max_megabytes * 2**20, access_log=access_log
        )
        open_port(listener)
        address, chosen = listener.getsockname()[:2]
        name = f"[{address}]" if ":" in address else address
        if log:
            log(f"Open http://{name}:{chosen}/ and drop an image there; Ctrl-C ends it.")
        # uvicorn ends in order, then raises the interrupt once more
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that has the port but is not open yet, before a model is loaded.

    Raises:
        ArgumentError: If `port` is no port, or cannot be had.
    """
    check_count("port", port, minimum=0)
    if port > MAX_PORT:
        raise ArgumentError(f"`port` must be at most {MAX_PORT}. Received: port={port!r}.")
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise _cannot_listen(host, port, error) from error
    try:
        if os.name == "posix":  # elsewhere it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _cannot_listen(host, port, error) from error
    return listener


def open_port(listener: socket.socket) -> None:
    """Lets clients connect, who wait from now on until they are answered.

    Raises:
        ArgumentError: Another server has opened the port meanwhile.
    """
    host, port = listener.getsockname()[:2]
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        raise _cannot_listen(host, port, error) from error


def _cannot_listen(host: str, port: int, error: OSError) -> ArgumentError:
    return ArgumentError(
        f"`port` must be free, and `host` an address of this machine. Received: host={host!r}, "
        f"port={port!r} ({error.strerror or error}). Give another, or 0 for any port."
    )


def make_server(
    model: "ServedModel", listener: socket.socket, *, max_bytes: int, access_log: bool = False
) -> "uvicorn.Server":
    """Returns a server for the socket; `run(sockets=[listener])` runs it."""
    import uvicorn

    from tlkit.serving.app import create_app
    from tlkit.serving.connections import Connection
    from tlkit.serving.origins import own_hosts

    app = create_app(model, max_bytes=max_bytes, hosts=own_hosts(listener.getsockname()[0]))
    config = uvicorn.Config(
        app,
        http=Connection,
        limit_concurrency=CONNECTIONS,
        backlog=BACKLOG,
        log_config=_LOGGING,
        access_log=access_log,
        server_header=False,
        ws="none",
        lifespan="off",
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    return uvicorn.Server(config)


def quick_end() -> Callable[[], None]:
    """Returns what to call when all is done: the process then ends without further ado.

    Taking TensorFlow apart takes a second, and brings nothing. What is registered with `atexit`
    runs as ever, if this was called before.
    """
    is_done = False

    def leave() -> None:
        if is_done:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)

    def done() -> None:
        nonlocal is_done
        is_done = True

    atexit.register(leave)
    return done


def check_packages() -> None:
    """Raises `ArgumentError` unless all that serving needs is installed."""
    missing = [package for module, package in _PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise ArgumentError(
            f"Serving needs packages that must be installed. Received: no {', '.join(missing)}. "
            'Install with: pip install "tlkit[serve]".'
        )
