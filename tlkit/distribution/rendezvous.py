"""The workers of a job wait for each other in words, before TensorFlow does so in silence."""

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
"""How long workers wait for each other to start."""

SAY_SECONDS = 5.0
"""How often they say for whom."""

_TRY_SECONDS = 0.5


def meet(
    cluster: Cluster, say: Callable[[str], None], *, wait_seconds: float = WAIT_SECONDS
) -> None:
    """Waits until every worker of the job listens at its address, and says for whom.

    TensorFlow waits too, but holds Python meanwhile: neither Ctrl-C nor SIGTERM would be heard.
    Each worker listens on its own port here, until it has reached all others.

    Args:
        cluster: Who takes part.
        say: Is told every few seconds who is missing.
        wait_seconds: How long to wait.

    Raises:
        ArgumentError: This worker's port is taken, or its address is no `HOST:PORT`.
        TrainingError: Some have not started in time.
    """
    missing = [address for index, address in enumerate(cluster.addresses) if index != cluster.index]
    for address in cluster.addresses:
        _split(address)
    started = said = time.monotonic()
    with _listening(cluster.addresses[cluster.index]):
        while missing := [address for address in missing if not _is_reached(address)]:
            now = time.monotonic()
            if now - started > wait_seconds:
                raise TrainingError(
                    f"All {len(cluster.addresses)} workers must be started within "
                    f"{wait_seconds:.0f} s of each other. Received: no answer from "
                    f"{', '.join(missing)}. Start the same command there, with the same "
                    f"{VARIABLE} but for the index, and see that no firewall is between."
                )
            if now - said > SAY_SECONDS:
                said = now
                say(
                    f"waiting for {len(missing)} of {len(cluster.addresses)} workers: "
                    f"{', '.join(missing)} ({now - started:.0f} of {wait_seconds:.0f} s)"
                )
            time.sleep(_TRY_SECONDS)


@contextmanager
def _listening(address: str) -> Iterator[None]:
    """Answers at a port, in IPv4 and IPv6, with nothing but that somebody is there.

    Raises:
        ArgumentError: The port is taken.
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
            f"`{VARIABLE}` must give this worker a port that is free. Received: {address!r} "
            f"({problem}). End that program, or name another port on every machine."
        ) from error
    answering = threading.Thread(target=_answer, args=(listener,), daemon=True)
    answering.start()
    try:
        yield
    finally:
        with suppress(OSError):  # wakes the thread; some systems refuse it to a listener
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        answering.join(timeout=_TRY_SECONDS)


def _answer(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # it was closed
            return
        connection.close()


def _is_reached(address: str) -> bool:
    try:
        socket.create_connection(_split(address), timeout=_TRY_SECONDS).close()
    except OSError:  # not yet started, or its name is not yet known
        return False
    return True


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16 or not _is_host(host):
        raise ArgumentError(
            f"`{VARIABLE}` must name workers as HOST:PORT. Received: {address!r}. Write "
            "host1:2222, say, and an address of IPv6 in brackets: [2001:db8::1]:2222."
        )
    if host.startswith("[") and not socket.has_dualstack_ipv6():
        raise ArgumentError(
            f"`{VARIABLE}` must name workers by addresses that this machine can reach. Received: "
            f"{address!r}, and it has no IPv6 here. Give names, or addresses of IPv4."
        )
    return host.removeprefix("[").removesuffix("]"), int(port)


def _is_host(text: str) -> bool:
    """Whether it is a name, an address of IPv4, or one of IPv6 in brackets."""
    if not text.startswith("["):
        return not set(text) & set(":[]/")
    try:
        ipaddress.IPv6Address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return text.endswith("]")
