"""One connection to the server: closed where it dawdles, or where others need its place.

uvicorn takes a class of connections by its documented setting `http`, and promises nothing of the
class that it has itself; this file alone builds on that. No setting of uvicorn's bounds the time or
the length of a request's head, or lets a new connection take the place of an idle one. See
https://github.com/encode/uvicorn/blob/master/uvicorn/protocols/http/httptools_impl.py;
tests/test_private_api.py says when it lacks what is read or overridden here.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 10.0
"""The longest that the head of a request, its first line and its headers, may take to arrive."""

HEAD_BYTES = 64 * 2**10
"""The most bytes of a head, about."""


class Connection(HttpToolsProtocol):
    """uvicorn's connection, with bounds that uvicorn has not.

    A request's head must arrive within `HEAD_SECONDS` and `HEAD_BYTES`. Where there are as many
    connections as the server may have, a new one takes the place of the one that has been without a
    request for longest: clients that open connections and send nothing, or that end no head, keep
    nobody out. A connection whose request is being answered is left alone.

    uvicorn parses with llhttp, in C: a body in a million chunks of one byte holds nobody up. It
    refuses a request with both `Content-Length` and `Transfer-Encoding`, which read either way
    would be another one (RFC 9112, section 6.3).
    """

    transport: asyncio.Transport
    _deadline: asyncio.TimerHandle | None = None
    _is_answering = False
    _is_in_body = False
    _num_head_bytes = 0
    _idle_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes a place, that of another connection if need be."""
        # uvicorn counts this one too, and answers 503 from the limit on
        if self.limit_concurrency is not None and len(self.connections) + 2 > (
            self.limit_concurrency
        ):
            self._close_longest_idle()
        super().connection_made(transport)
        self._idle_since = self.loop.time()
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Gives the place up."""
        self._expect_nothing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Reads on; a head that is too long ends the connection."""
        if not self._is_in_body:
            self._num_head_bytes += len(data)
            self._expect_head()
        super().data_received(data)
        if self._num_head_bytes > HEAD_BYTES and not self._is_in_body:
            self._refuse(431, "The head of a request must be shorter.")

    def on_headers_complete(self) -> None:
        """The head of a request is there."""
        self._expect_nothing()
        self._is_answering = self._is_in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is there too."""
        self._is_in_body, self._num_head_bytes = False, 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """A request is answered."""
        self._is_answering, self._idle_since = False, self.loop.time()
        super().on_response_complete()
        if not self.cycle.response_complete:  # it was sent ahead, and is answered now
            self._is_answering = True

    def _expect_head(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if self._is_answering:  # the answer to an earlier request comes first
            self._expect_head()
        elif self._num_head_bytes:
            self._refuse(408, f"The head of a request must arrive within {HEAD_SECONDS:g} seconds.")
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
            self.connections.discard(longest)  # it is told of its end later
