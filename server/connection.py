"""One client's connection: what has come of its request, and what it has yet to take of its reply.

The socket never blocks. The worker's main thread reads into it until a whole request is there, and
writes what the client did not take at once; a thread waits here only for a body too large for that,
or one whose end only gunicorn's parser can find.
gunicorn takes this for the socket itself. Knows nothing of the application.
"""

import select
import socket
import ssl
import time
from collections import deque
from enum import Enum
from typing import Any

from gunicorn.http.errors import (  # type: ignore[import-untyped]
    ChunkMissingTerminator,
    LimitRequestHeaders,
)
from gunicorn.http.parser import RequestParser  # type: ignore[import-untyped]
from gunicorn.http.unreader import SocketUnreader  # type: ignore[import-untyped]

from server import turns
from server.incoming import BODY_WAITED_FOR, Incoming

# Who sends less than this in so long is cut off where others wait for a place or for room.
LEAST, LEAST_IN_S = 16 * 1024, 1.0
PIECE = 64 * 1024  # bytes read at once
LOOK_UP_S = 0.5  # for a deadline that has changed
WOULD_BLOCK = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Stage(Enum):
    """What the main thread waits for on a connection. In the order in which they make room."""

    LINGERING = "its end, or the rest of a body that nobody reads"
    NEW = "its first byte"
    RECEIVING = "the rest of a request"
    IDLE = "its next request"
    WRITING = "the client to take its reply"


class Connection(Incoming):
    """A connection of a client."""

    stage: Stage | None = None
    deadline = 0.0  # in time.monotonic(), of the stage or of the thread that has it
    request: Any = None  # gunicorn's, once it is parsed
    keeps = False  # whether another request may follow the reply
    broken = False  # whether nothing can be sent any more
    late = False  # whether a thread has waited in vain for the client
    ended = False  # whether the client has said all that it will
    reply_began = 0.0
    moved_at = 0.0  # when the client last took something
    linger_until = 0.0
    gathered = 0  # bytes of a request that no thread has yet
    came = _came_then = 0  # bytes
    _watched_at = 0.0
    _invited = False

    def __init__(self, cfg: Any, sock: socket.socket, client: Any, server: Any) -> None:
        sock.setblocking(False)
        self.socket, self.client, self.server = sock, client, server
        self.parser = RequestParser(cfg, sock, client)
        self.parser.unreader = _Received(self)
        super().__init__()
        self._out: deque[memoryview] = deque()
        self.unsent = self.sent = self.drained = 0

    @property
    def sock(self) -> "Connection":
        """What gunicorn takes for the socket."""
        return self

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self.socket.fileno()

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
        self.came += len(data)
        return data

    def stalls(self, now: float) -> bool:
        """Tell whether the client sends hardly anything, if asked again and again."""
        if not LEAST_IN_S <= now - self._watched_at < 2 * LEAST_IN_S:
            if now - self._watched_at < LEAST_IN_S:
                return False
            self._came_then = self.came - LEAST  # nobody has watched
        few = self.came - self._came_then < LEAST
        self._watched_at, self._came_then = now, self.came
        return few

    def hand_over(self) -> None:
        """Give what came to gunicorn's parser."""
        self.parser.unreader.unread(bytes(self.received))
        self.parser.unreader.in_head = True
        self.received.clear()

    def read_more(self, most: int) -> bytes:
        """Wait for more of the body; nothing is its end, or that of the client's time."""
        if self.body_came or not self.large:  # this thread does not count as one that waits
            raise ChunkMissingTerminator(b"")
        while not self.late:
            if (data := self.receive(most)) is not None:
                return data
            self._wait()
        return b""

    def _wait(self) -> None:
        """Wait for the client until the deadline, which the main thread may bring forward."""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        with turns.away():
            while (left := self.deadline - time.monotonic()) > 0:
                if poll.poll(min(left, LOOK_UP_S) * 1000):
                    return
        self.late = True

    def next_request(self) -> None:
        """Begin anew, with what the parser has read beyond the last request."""
        self.received = bytearray(self.parser.unreader.take_buffered())
        self.request = None
        self.sent = 0
        self._invited = False
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
        """Send something at once: that the body may come, if that has not been said."""
        return len(data) if self._invited or self.body_came else self.socket.send(data)

    def invite(self) -> None:
        """Send it now, where the client waits for that and no thread has the request yet."""
        if self.expects and not self._invited:
            self._invited = True
            self.sendall(CONTINUE)
            self.flush()

    def flush(self) -> None:
        """Send what the client takes now."""
        try:
            while self._out:
                count = self.socket.send(self._out[0])
                self.sent += count
                self.moved_at = time.monotonic()
                self.unsent -= count
                if count == len(self._out[0]):
                    self._out.popleft()
                else:
                    self._out[0] = self._out[0][count:]
        except WOULD_BLOCK:
            pass
        except OSError:
            self.give_up()

    def flush_within(self, limit_s: float) -> None:
        """Wait so long at most until the client takes more, and send that."""
        poll = select.poll()
        poll.register(self.socket, select.POLLOUT)
        with turns.away():
            poll.poll(limit_s * 1000)
        self.flush()

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
