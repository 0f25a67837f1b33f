"""A connection to the server, closed if it is too slow or if a new one needs its slot.

uvicorn takes a connection class by its documented setting `http`, but its own class, on which only
this file builds, is not a stable interface. No setting of uvicorn limits the time or the length of
a request's head, or lets a new connection replace an idle one. See
https://github.com/encode/uvicorn/blob/master/uvicorn/protocols/http/httptools_impl.py;
tests/test_private_api.py fails if it lacks what is used or overridden here.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 10.0
"""Longest time in which a request's head, its first line and headers, must be received."""

HEAD_BYTES = 64 * 2**10
"""Approximate largest number of bytes of a head."""


class Connection(HttpToolsProtocol):
    """uvicorn's connection with additional limits.

    A request's head must be received within `HEAD_SECONDS` and have at most `HEAD_BYTES`. If the
    number of connections is at its limit, a new connection replaces the one that has been idle for
    longest, so that clients that open connections and send nothing, or never finish a head, do not
    keep others out. A connection whose request is being answered is not closed.

    uvicorn parses with llhttp, in C, so that a body in a million chunks of one byte delays no one.
    It refuses a request with both `Content-Length` and `Transfer-Encoding`, which servers read in
    different ways (RFC 9112, section 6.3).
    """

    transport: asyncio.Transport
    _deadline: asyncio.TimerHandle | None = None
    _is_answering = False
    _is_in_body = False
    _num_head_bytes = 0
    _idle_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the connection; closes an idle one if the limit is reached."""
        # uvicorn counts this connection too, and answers 503 at the limit
        if self.limit_concurrency is not None and len(self.connections) + 2 > (
            self.limit_concurrency
        ):
            self._close_longest_idle()
        super().connection_made(transport)
        self._idle_since = self.loop.time()
        self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the connection."""
        self._cancel_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Reads data; a head that is too long closes the connection."""
        if not self._is_in_body:
            self._num_head_bytes += len(data)
            self._start_deadline()
        super().data_received(data)
        if self._num_head_bytes > HEAD_BYTES and not self._is_in_body:
            self._refuse(431, "The head of a request must be shorter.")

    def on_headers_complete(self) -> None:
        """Called when a request's head is complete."""
        self._cancel_deadline()
        self._is_answering = self._is_in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Called when a request's body is complete."""
        self._is_in_body, self._num_head_bytes = False, 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Called when a request is answered."""
        self._is_answering, self._idle_since = False, self.loop.time()
        super().on_response_complete()
        if not self.cycle.response_complete:  # a pipelined request is being answered now
            self._is_answering = True

    def _start_deadline(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self._end_overdue)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end_overdue(self) -> None:
        self._deadline = None
        if self._is_answering:  # the answer to an earlier request comes first
            self._start_deadline()
        elif self._num_head_bytes:
            self._refuse(
                408, f"The head of a request must be sent within {HEAD_SECONDS:g} seconds."
            )
        else:
            self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        if self._is_answering or self.transport.is_closing():
            self.transport.close()
            return
        head = (
            f"HTTP/1.1 {status} \r\ncontent-type: text/plain; charset=utf-8\r\n"
            f"content-length: {len(message)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write((head + message).encode("ascii"))
        self.transport.close()

    def _close_longest_idle(self) -> None:
        idle = [
            one
            for one in self.connections
            if isinstance(one, Connection)
            and not one._is_answering
            and not one.transport.is_closing()
        ]
        if idle:
            longest = min(idle, key=lambda one: one._idle_since)
            longest.transport.abort()
            self.connections.discard(longest)  # its `connection_lost` is called later
