"""Starting and stopping the server."""

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
MAX_CONNECTIONS = 512
"""Beyond this number a new connection replaces an idle one; half of the usual system limit."""

BACKLOG = 2048
GRACE_SECONDS = 75
"""Time that a stop waits for open requests: longer than a body and its answer may take."""

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
"""Logging configuration; both logs go to standard error."""


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
    """Classifies images over HTTP until Ctrl-C or SIGTERM.

    The port accepts connections as soon as the model is loaded. When the server is stopped, open
    requests are answered first; a second Ctrl-C stops it at once.

    Args:
        folder: A run or an exported SavedModel.
        port: The port to listen on; 0 takes a free one.
        host: The address to listen on. The default and "::1" are reachable from this machine only;
            "0.0.0.0" is open to the network, without password or encryption.
        max_megabytes: Largest size of an image file, in 2**20 bytes.
        max_megapixels: Largest size of an image, in 2**20 pixels.
        safe: Use `model.keras` in Keras's safe mode instead of the SavedModel, which is a program
            that TensorFlow executes: for models from untrusted sources.
        access_log: Whether each request is logged to standard error.
        log: Gets the address.

    Raises:
        ArgumentError: If there is no model in `folder`, `port` is not available, a package is
            missing, or another argument is invalid.

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
            log(f"Open http://{name}:{chosen}/ and drop an image there. Ctrl-C stops the server.")
        # uvicorn shuts down cleanly, then raises the interrupt again
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that has reserved the port and accepts no connections yet.

    Raises:
        ArgumentError: If `port` is invalid or not available.
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
    """Accepts connections from now on; clients wait until they are answered.

    Raises:
        ArgumentError: Another server has opened the port in the meantime.
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
        limit_concurrency=MAX_CONNECTIONS,
        backlog=BACKLOG,
        log_config=_LOGGING,
        access_log=access_log,
        server_header=False,
        ws="none",
        lifespan="off",
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    return uvicorn.Server(config)


def skip_teardown() -> Callable[[], None]:
    """Returns a function that, once called, lets the process exit without tearing down TensorFlow.

    The teardown takes a second and is not needed. Functions that are registered with `atexit` after
    this call still run.
    """
    is_done = False

    def exit_if_done() -> None:
        if is_done:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)

    def set_done() -> None:
        nonlocal is_done
        is_done = True

    atexit.register(exit_if_done)
    return set_done


def check_packages() -> None:
    """Raises `ArgumentError` unless the packages for serving are installed."""
    missing = [package for module, package in _PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise ArgumentError(
            "The packages for serving must be installed. Received: an environment without "
            f'{", ".join(missing)}. Install with: pip install "tlkit[serve]".'
        )
