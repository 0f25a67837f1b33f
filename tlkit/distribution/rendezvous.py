"""The rendezvous of a job's workers: they report for whom they wait, which TensorFlow does not."""

import errno
import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tlkit.distribution.cluster import VARIABLE, Cluster
from tlkit.errors import ArgumentError, TrainingError

WAIT_SECONDS = 600.0
"""Seconds for which workers wait for each other to start."""

SAY_SECONDS = 5.0
"""Seconds between reports on missing workers."""

_TRY_SECONDS = 0.5


def meet(
    cluster: Cluster, say: Callable[[str], None], *, wait_seconds: float = WAIT_SECONDS
) -> None:
    """Waits until every worker of the job listens at its address, and reports who is missing.

    TensorFlow waits too, but blocks Python meanwhile: Ctrl-C and SIGTERM would have no effect. Here
    each worker listens on its own port until it has reached all others.

    Args:
        cluster: The workers.
        say: Called every few seconds with a message on the missing workers.
        wait_seconds: Maximum time to wait, in seconds.

    Raises:
        ArgumentError: This worker's port is in use, or an address is not of the form `HOST:PORT`.
        TrainingError: Some workers have not started in time.
    """
    missing = [address for index, address in enumerate(cluster.addresses) if index != cluster.index]
    for address in cluster.addresses:
        _split(address)
    started = last_report = time.monotonic()
    with _listening(cluster.addresses[cluster.index]):
        while missing := [address for address in missing if not _is_reached(address)]:
            now = time.monotonic()
            if now - started > wait_seconds:
                raise TrainingError(
                    f"All {len(cluster.addresses)} workers must be started within "
                    f"{wait_seconds:.0f} s of each other. Received: no answer from "
                    f"{', '.join(missing)}. Start the same command there, with the same "
                    f"{VARIABLE} except for the index, and check that no firewall blocks the "
                    "ports."
                )
            if now - last_report > SAY_SECONDS:
                last_report = now
                say(
                    f"waiting for {len(missing)} of {len(cluster.addresses)} workers: "
                    f"{', '.join(missing)} ({now - started:.0f} of {wait_seconds:.0f} s)"
                )
            time.sleep(_TRY_SECONDS)


@contextmanager
def _listening(address: str) -> Iterator[None]:
    """Accepts connections on a port, in IPv4 and IPv6, and closes them at once.

    Raises:
        ArgumentError: The port is in use.
    """
    _, port = _split(address)
    is_dual = socket.has_dualstack_ipv6()  # as TensorFlow's own server listens
    family = socket.AF_INET6 if is_dual else socket.AF_INET
    try:
        listener = socket.create_server(
            ("", port), family=family, backlog=128, dualstack_ipv6=is_dual
        )
    except OSError as error:
        problem = "another program listens there" if error.errno == errno.EADDRINUSE else str(error)
        raise ArgumentError(
            f"`{VARIABLE}` must have a free port for this worker. Received: {address!r} "
            f"({problem}). End that program, or set another port on every machine."
        ) from error
    answering = threading.Thread(target=_answer, args=(listener,), daemon=True)
    answering.start()
    try:
        yield
    finally:
        with suppress(OSError):  # wakes the thread; not supported for listeners on some systems
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        answering.join(timeout=_TRY_SECONDS)


def _answer(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # the listener was closed
            return
        connection.close()


def _is_reached(address: str) -> bool:
    try:
        socket.create_connection(_split(address), timeout=_TRY_SECONDS).close()
    except OSError:  # not yet started, or its name cannot be resolved yet
        return False
    return True


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16 or not _is_host(host):
        raise ArgumentError(
            f"`{VARIABLE}` must have addresses of the form HOST:PORT. Received: {address!r}. Write "
            "for example host1:2222, and IPv6 addresses in brackets: [2001:db8::1]:2222."
        )
    if host.startswith("[") and not socket.has_dualstack_ipv6():
        raise ArgumentError(
            f"`{VARIABLE}` must have addresses that this machine can reach. Received: "
            f"{address!r}, and this machine has no IPv6. Give host names, or IPv4 addresses."
        )
    return host.removeprefix("[").removesuffix("]"), int(port)


def _is_host(text: str) -> bool:
    """Whether a text is a host name, an IPv4 address, or an IPv6 address in brackets."""
    if not text.startswith("["):
        return not set(text) & set(":[]/")
    try:
        ipaddress.IPv6Address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return text.endswith("]")
