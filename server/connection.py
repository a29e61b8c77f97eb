"""One client's connection: what has come of its request, and what it has yet to take of its reply.

The socket never blocks. The worker's main thread reads into it until a whole request is there, and
writes what the client did not take at once; a thread waits here only for a body too large for that.
gunicorn takes this for the socket itself. Knows nothing of the application.
"""

import re
import select
import socket
import ssl
import time
from collections import deque
from enum import Enum
from typing import Any

from gunicorn.http.errors import LimitRequestHeaders  # type: ignore[import-untyped]
from gunicorn.http.parser import RequestParser  # type: ignore[import-untyped]
from gunicorn.http.unreader import SocketUnreader  # type: ignore[import-untyped]

from server import turns

HEAD_MOST = 64 * 1024  # bytes of a request's line and headers
# A body up to this size is read before a thread has to do with it. As `routes.table.SMALL`.
BODY_WAITED_FOR = 64 * 1024
PIECE = 64 * 1024  # bytes read at once
WOULD_BLOCK = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

_FRAMING = re.compile(rb"\r\n(?:content-length|transfer-encoding|expect)[^\r\n]*", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*", re.IGNORECASE)
_BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,16})[ \t]*(?:;[^\r\n]*)?\r\n")
CHUNK_LINE_MOST = 4096


class Stage(Enum):
    """What the main thread waits for on a connection. In the order in which they make room."""

    LINGERING = "its end, or the rest of a body that nobody reads"
    NEW = "its first byte"
    RECEIVING = "the rest of a request"
    IDLE = "its next request"
    WRITING = "the client to take its reply"


class Connection:
    """A connection of a client."""

    stage: Stage | None = None
    deadline = 0.0  # in time.monotonic(), of the stage or of the thread that has it
    request: Any = None  # gunicorn's, once it is parsed
    keeps = False  # whether another request may follow the reply
    broken = False  # whether nothing can be sent any more
    late = False  # whether a thread has waited in vain for the client
    ended = False  # whether the client has said all that it will
    reply_began = 0.0
    linger_until = 0.0

    def __init__(self, cfg: Any, sock: socket.socket, client: Any, server: Any) -> None:
        sock.setblocking(False)
        self.socket, self.client, self.server = sock, client, server
        self.parser = RequestParser(cfg, sock, client)
        self.parser.unreader = _Received(self)
        self.received = bytearray()
        self._out: deque[memoryview] = deque()
        self.unsent = self.sent = self.drained = 0
        self._begin()

    @property
    def sock(self) -> "Connection":
        """What gunicorn takes for the socket."""
        return self

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self.socket.fileno()

    def _begin(self) -> None:
        self._searched = self._chunks_at = 0
        self._body_at: int | None = None
        self._length: int | None = None
        self._last_chunk = False
        self.method = self.target = b""
        self.large = False  # whether a thread has to wait for its body
        self.body_came = False  # whether the body is here, read or not

    # What comes.

    def receive(self, most: int = PIECE) -> bytes | None:
        """Read what is there; None if that is nothing. Raises OSError."""
        try:
            data = self.socket.recv(most)
            while isinstance(self.socket, ssl.SSLSocket) and (rest := self.socket.pending()):
                data += self.socket.recv(rest)  # of which the poller knows nothing
        except WOULD_BLOCK:
            return None
        self.ended = not data
        return data

    def is_ready(self) -> bool:
        """Tell whether the request can be handed to a thread: whole, wrong, or large."""
        data = self.received
        if self._body_at is None:
            at = data.find(b"\r\n\r\n", max(0, self._searched - 3))
            if at < 0:
                wrong = _BARE_LINE_FEED.search(data, self._searched)
                self._searched = len(data)
                return wrong is not None or len(data) > HEAD_MOST
            self._read_head(bytes(data[: at + 4]))
        assert self._body_at is not None
        size = len(data) - self._body_at
        if self._length is not None:
            self.body_came = size >= self._length
        elif not self.large:
            self.body_came = self._chunks_came(data)
            self.large = not self.body_came and size > BODY_WAITED_FOR
        return self.body_came or self.large

    def _read_head(self, head: bytes) -> None:
        """Note how long the body is. What is not plain is left to gunicorn's parser at once."""
        self._body_at = self._chunks_at = len(head)
        self.method, self.target = (*head.split(None, 2), b"", b"")[:2]
        framing = _FRAMING.findall(head)
        if not framing:
            self._length = 0
        elif len(framing) == 1 and (found := _LENGTH.fullmatch(framing[0])):
            self._length = int(found[1])
            self.large = self._length > BODY_WAITED_FOR
        else:
            self.large = len(framing) > 1 or _CHUNKED.fullmatch(framing[0]) is None
        self.large |= _BARE_LINE_FEED.search(head) is not None

    def _chunks_came(self, data: bytearray) -> bool:
        """Tell whether the last chunk is there, or one that is none."""
        while not self._last_chunk:
            chunk = _CHUNK.match(data, self._chunks_at)
            if chunk is None:
                line = data.find(b"\r\n", self._chunks_at)
                return line >= 0 or len(data) - self._chunks_at > CHUNK_LINE_MOST
            size = int(chunk[1], 16)
            self._last_chunk = size == 0
            self._chunks_at = chunk.end() + (size + 2 if size else 0)
        return data.find(b"\r\n\r\n", self._chunks_at - 2) >= 0

    def hand_over(self) -> None:
        """Give what came to gunicorn's parser."""
        self.parser.unreader.unread(bytes(self.received))
        self.parser.unreader.in_head = True
        self.received.clear()

    def read_more(self, most: int) -> bytes:
        """Wait for more of the body; nothing is its end, or that of the client's time."""
        while not self.late:
            if (data := self.receive(most)) is not None:
                return data
            self._wait(select.POLLIN)
        return b""

    def _wait(self, event: int) -> None:
        left = self.deadline - time.monotonic()
        poll = select.poll()
        poll.register(self.socket, event)
        with turns.away():
            self.late = left <= 0 or not poll.poll(left * 1000)

    def next_request(self) -> None:
        """Begin anew, with what the parser has read beyond the last request."""
        self.received = bytearray(self.parser.unreader.take_buffered())
        self.request = None
        self.sent = 0
        self._begin()

    # What goes.

    def sendall(self, data: bytes) -> None:
        """Take a part of the reply. It is sent by `flush`."""
        if self._out and self.unsent + len(data) <= BODY_WAITED_FOR:
            data = b"".join((*self._out, data))  # one packet
            self._out.clear()
            self.unsent = 0
        self._out.append(memoryview(data))
        self.unsent += len(data)

    def send(self, data: bytes) -> int:
        """Send something at once: that the body may come."""
        return self.socket.send(data)

    def flush(self) -> None:
        """Send what the client takes now."""
        try:
            while self._out:
                count = self.socket.send(self._out[0])
                self.sent += count
                self.unsent -= count
                if count == len(self._out[0]):
                    self._out.popleft()
                else:
                    self._out[0] = self._out[0][count:]
        except WOULD_BLOCK:
            pass
        except OSError:
            self.give_up()

    def flush_all(self) -> None:
        """Wait until the client has taken all, or its time is up."""
        while self.unsent and not self.late:
            self._wait(select.POLLOUT)
            self.flush()
        if self.late:
            self.give_up()

    def give_up(self) -> None:
        """Send nothing more."""
        self.broken = True
        self.drop()

    def drop(self) -> None:
        """Let go of what is unsent."""
        self._out.clear()
        self.unsent = 0

    def lags(self, now: float, limit_s: float) -> bool:
        """Tell whether the client takes its reply too slowly to have it within the limit."""
        took = now - self.reply_began
        return took > 1 and self.sent / took < (self.sent + self.unsent) / limit_s

    def end_reply(self) -> None:
        """Tell the client that nothing more comes."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.broken = True

    def close(self) -> None:
        """Close it."""
        self._out.clear()
        self.socket.close()


class _Received(SocketUnreader):  # type: ignore[misc]
    """What gunicorn's parser reads from: the head is there, or it is too long."""

    in_head = False

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._connection = connection

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Return more of the body."""
        if self.in_head:
            raise LimitRequestHeaders("the head is too long")
        return self._connection.read_more(min(max(size_hint or 0, PIECE), 4 * PIECE))
