"""One client's connection: the request that arrives on it, and the reply still to be sent.

The socket never blocks. The worker's main thread reads until a whole request is there, and writes
what the client did not take at once. A thread waits here only for a body that is too large for
that, or whose end only gunicorn's parser can find.
"""

import io
import re
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any

from gunicorn.http.errors import (  # type: ignore[import-untyped]
    ChunkMissingTerminator,
    LimitRequestHeaders,
    ParseException,
)
from gunicorn.http.parser import RequestParser  # type: ignore[import-untyped]
from gunicorn.http.unreader import SocketUnreader  # type: ignore[import-untyped]

from server import slots

HEAD_LIMIT = 64 * 1024  # bytes of the request line and the headers
# A body up to the first size is read before a thread is used, as `routes.table.SMALL`; up to the
# second one while there is room.
SMALL_BODY, GATHERED_BODY = 64 * 1024, 1 << 20
CHUNK_LINE_LIMIT = 8190  # as in gunicorn
READ_SIZE = 64 * 1024
# A client that sends less than this in that time is cut off where others wait for its place.
LEAST_BYTES, LEAST_IN_S = 16 * 1024, 1.0
DEADLINE_CHECK_S = 0.5  # a waiting thread looks so often whether its deadline was moved

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
WOULD_BLOCK = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_FRAMING = re.compile(rb"\r\n(?:content-length|transfer-encoding|expect)[^\r\n]*", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*", re.IGNORECASE)
_EXPECT = re.compile(rb"\r\nexpect:[ \t]*100-continue[ \t]*", re.IGNORECASE)
_BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")
_BLANK_LINES = re.compile(rb"(?:\r\n)+")
_CHUNK = re.compile(rb"([0-9a-fA-F]+)[ \t]*(?:;[^\r\n]*)?\r\n")


class RequestBuffer:
    """The bytes received of one request, and where its head and body end.

    Only plain framing is read here. Everything else goes to gunicorn's parser, in a thread that may
    wait for the client: so what is called complete here must be complete for that parser too.
    """

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.method = self.target = b""
        self.complete = False  # the body is here, read or not
        self.large = False  # a thread has to wait for the body
        self.expects_continue = False
        self._searched = self._chunks_at = 0
        self._body_at: int | None = None
        self._length: int | None = None
        self._last_chunk = False

    def is_blank(self) -> bool:
        """Remove empty lines before the request; return whether nothing else has arrived."""
        if blank := _BLANK_LINES.match(self.data):
            del self.data[: blank.end()]
        return not self.data or self.data == b"\r"

    def is_ready(self, body_limit: int) -> bool:
        """Return whether a thread can start: complete, malformed, or a body over `body_limit`."""
        data = self.data
        if self._body_at is None:
            end = data.find(b"\r\n\r\n", max(0, self._searched - 3))
            if end < 0:
                malformed = _BARE_LINE_FEED.search(data, self._searched)
                self._searched = len(data)
                return malformed is not None or len(data) > HEAD_LIMIT
            self._body_at = self._chunks_at = end + 4
            self._read_head(bytes(data[: end + 4]))
        if self.expects_continue:  # the application may refuse the body unsent
            body_limit = SMALL_BODY
        size = len(data) - self._body_at
        if self._length is not None:
            self.complete = size >= self._length
            self.large |= not self.complete and self._length > body_limit
        elif not self.large:
            self.complete = self._has_last_chunk(data)
            self.large |= not self.complete and size > body_limit
        return self.complete or self.large

    def _read_head(self, head: bytes) -> None:
        self.method, self.target = (*head.split(None, 2), b"", b"")[:2]
        every = _FRAMING.findall(head)
        framing = [line for line in every if not _EXPECT.fullmatch(line)]
        is_1_1 = head.split(b"\r\n")[0].endswith(b" HTTP/1.1")
        self.expects_continue = len(framing) < len(every) and is_1_1
        if not framing:
            self._length = 0
        elif len(framing) == 1 and (found := _LENGTH.fullmatch(framing[0])):
            self._length = int(found[1])
        else:
            self.large = len(framing) > 1 or _CHUNKED.fullmatch(framing[0]) is None
        self.large |= _BARE_LINE_FEED.search(head) is not None

    def _has_last_chunk(self, data: bytearray) -> bool:
        while not self._last_chunk:
            chunk = _CHUNK.match(data, self._chunks_at)
            if chunk is None:
                line = data.find(b"\r\n", self._chunks_at)
                self.large = line >= 0 or len(data) - self._chunks_at > CHUNK_LINE_LIMIT
                return False
            size = int(chunk[1], 16)
            self._last_chunk = size == 0
            self._chunks_at = chunk.end() + (size + 2 if size else 0)
        return data.find(b"\r\n\r\n", self._chunks_at - 2) >= 0


class Stage(Enum):
    """What the main thread waits for on a connection, in the order in which they are closed."""

    LINGERING = "its end, or the rest of a body that is not read"
    NEW = "its first byte"
    RECEIVING = "the rest of a request"
    IDLE = "its next request"
    WRITING = "the client to take its reply"


class Connection:
    """A client's connection. gunicorn takes it for the socket itself."""

    stage: Stage | None = None
    deadline = 0.0  # in time.monotonic(), of the stage or of the thread that has it
    request: Any = None  # gunicorn's, once it is parsed
    keep_alive = False
    broken = False  # nothing can be sent any more
    timed_out = False  # a thread has waited in vain for the client
    reply_began = moved_at = 0.0  # when the client last took something
    linger_until = 0.0
    received = sent = unsent = drained = 0  # bytes
    gathered = 0  # bytes of a request that no thread has yet
    _watched_at = 0.0
    _received_then = 0
    _continued = False

    def __init__(self, cfg: Any, sock: socket.socket, client: Any, server: Any) -> None:
        sock.setblocking(False)
        self.socket, self.client, self.server = sock, client, server
        self.parser = RequestParser(cfg, sock, client)
        self.parser.unreader = _Unreader(self)
        self.buffer = RequestBuffer()
        self._out: deque[memoryview] = deque()

    @property
    def sock(self) -> "Connection":
        """What gunicorn uses as the socket."""
        return self

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self.socket.fileno()

    def receive(self, limit: int = READ_SIZE) -> bytes | None:
        """Return what has arrived: None if nothing has, b"" at the end. Raises OSError."""
        try:
            data = self.socket.recv(limit)
            while isinstance(self.socket, ssl.SSLSocket) and (rest := self.socket.pending()):
                data += self.socket.recv(rest)  # the poller does not know of it
        except WOULD_BLOCK:
            return None
        self.received += len(data)
        return data

    def stalls(self, now: float) -> bool:
        """Return whether the client sends hardly anything. Ask again and again."""
        if not LEAST_IN_S <= now - self._watched_at < 2 * LEAST_IN_S:
            if now - self._watched_at < LEAST_IN_S:
                return False
            self._received_then = self.received - LEAST_BYTES  # not watched lately
        few = self.received - self._received_then < LEAST_BYTES
        self._watched_at, self._received_then = now, self.received
        return few

    def start_parsing(self) -> None:
        """Give what was received to gunicorn's parser."""
        self.parser.unreader.unread(bytes(self.buffer.data))
        self.parser.unreader.in_head = True
        self.buffer.data.clear()

    def read_more(self, limit: int) -> bytes:
        """Wait for more of a large body; return b"" at its end or at the deadline."""
        if self.buffer.complete or not self.buffer.large:  # this thread may not wait
            raise ChunkMissingTerminator(b"")
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        while not self.timed_out:
            if (data := self.receive(limit)) is not None:
                return data
            arrived: object = None
            with slots.away():  # the main thread may move the deadline
                while not arrived and (left := self.deadline - time.monotonic()) > 0:
                    arrived = poll.poll(min(left, DEADLINE_CHECK_S) * 1000)
            self.timed_out = not arrived
        return b""

    def next_request(self) -> None:
        """Start a new request with what the parser has read beyond the last one."""
        self.buffer = RequestBuffer(self.parser.unreader.take_buffered())
        self.request, self.sent, self._continued = None, 0, False

    def sendall(self, data: bytes) -> None:
        """Queue a part of the reply; `flush` sends it."""
        if self._out and self.unsent + len(data) <= SMALL_BODY:
            data = b"".join((*self._out, data))  # one packet
            self.discard()
        self._out.append(memoryview(data))
        self.unsent += len(data)

    def send(self, data: bytes) -> int:
        """Send gunicorn's `100 Continue` at once, unless it was sent or the body is here."""
        return len(data) if self._continued or self.buffer.complete else self.socket.send(data)

    def send_continue(self) -> None:
        """Send `100 Continue` while the main thread gathers the body."""
        if self.buffer.expects_continue and not self._continued:
            self._continued = True
            self.sendall(CONTINUE)
            self.flush()

    def flush(self) -> None:
        """Send what the client takes now."""
        try:
            while self._out:
                count = self.socket.send(self._out[0])
                self.sent += count
                self.unsent -= count
                self.moved_at = time.monotonic()
                if count == len(self._out[0]):
                    self._out.popleft()
                else:
                    self._out[0] = self._out[0][count:]
        except WOULD_BLOCK:
            pass
        except OSError:
            self.give_up()

    def flush_within(self, limit_s: float) -> None:
        """Wait at most `limit_s` until the client takes more, and send that."""
        poll = select.poll()
        poll.register(self.socket, select.POLLOUT)
        with slots.away():
            poll.poll(limit_s * 1000)
        self.flush()

    def give_up(self) -> None:
        """Send nothing more."""
        self.broken = True
        self.discard()

    def discard(self) -> None:
        """Drop what is unsent."""
        self._out.clear()
        self.unsent = 0

    def lags(self, now: float, limit_s: float) -> bool:
        """Return whether the client reads its reply too slowly to finish within the limit."""
        took = now - self.reply_began
        return took > 1 and self.sent / took < (self.sent + self.unsent) / limit_s

    def close(self) -> None:
        """Close the socket."""
        self.discard()
        self.socket.close()


class _Unreader(SocketUnreader):  # type: ignore[misc]
    """What gunicorn's parser reads from."""

    in_head = False

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._connection = connection

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Return more of the body. Raises LimitRequestHeaders: a head is here whole or too long."""
        if self.in_head:
            raise LimitRequestHeaders("the head is too long")
        return self._connection.read_more(min(max(size_hint or 0, READ_SIZE), 4 * READ_SIZE))


class Body(io.IOBase):
    """A request's body as the application reads it; calls `on_end` once all of it was read."""

    def __init__(self, environ: dict[str, Any], on_end: Callable[[], None]) -> None:
        self._input, self._on_end = environ["wsgi.input"], on_end
        chunked = "HTTP_TRANSFER_ENCODING" in environ
        self._left = None if chunked else int(environ.get("CONTENT_LENGTH") or 0)
        if self._left == 0:
            on_end()

    def read(self, size: int | None = -1) -> bytes:
        """Read up to `size` bytes, all without one. Raises OSError for malformed chunks."""
        size = -1 if size is None else size
        try:
            data: bytes = self._input.read(size)
        except ParseException as exc:  # frameworks do not know it: it would become a 500
            raise OSError("the body's chunks cannot be read") from exc
        if self._left is not None:
            self._left -= len(data)
        if self._left == 0 or (not data and size != 0) or (self._left is None and size < 0):
            self._on_end()
        return data
