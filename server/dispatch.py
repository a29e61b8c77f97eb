"""Which request gets the next thread, and how much memory unread replies may take."""

import threading
import time
from collections import deque
from collections.abc import Callable

from server.connection import Connection
from server.slots import Slots

# Two threads answer `urgent` requests only: a health probe never waits for other requests.
FOR_PROBES = 2
# Bytes of replies that clients have not read: beyond it threads wait, and slow readers are cut off.
# Waiting threads may hold `HELD_LIMIT` more.
UNSENT_LIMIT, HELD_LIMIT = 256 << 20, 128 << 20
STALLED_S = 1.0  # a client that has read nothing for so long may be cut off then
CHECK_EVERY_S = 0.25


class ThreadQueue:
    """Complete requests that wait for a thread. Only the main thread uses it."""

    def __init__(self, threads: int, slots: Slots, start: Callable[[Connection], None]) -> None:
        self.probes: deque[Connection] = deque()
        self.ready: deque[Connection] = deque()
        self.large: deque[Connection] = deque()  # their bodies are still to be read
        self.reading: set[Connection] = set()  # in a thread that still reads the body
        self.busy = 0
        self._threads, self._slots, self._start = threads, slots, start

    def add(self, conn: Connection, urgent: bool) -> None:
        """Queue a request. An urgent one overtakes all others if its body is here."""
        if conn.buffer.complete and urgent:
            self.probes.append(conn)
        elif conn.buffer.large and not conn.buffer.complete:
            self.large.append(conn)
        else:
            self.ready.append(conn)
        self.feed()

    def feed(self) -> None:
        """Start requests while threads are free. At most half of them read large bodies."""
        while self.probes and self.busy < self._threads + FOR_PROBES:
            self._begin(self.probes.popleft())
        while (self.large or self.ready) and self.busy < self._threads and self._slots.is_free():
            if self.large and len(self.reading) < max(1, self._threads // 2):
                # The one that has sent most is the least likely to stall.
                conn = max(self.large, key=lambda conn: conn.received)
                self.large.remove(conn)
                self.reading.add(conn)
                self._begin(conn)
            elif self.ready:
                self._begin(self.ready.popleft())
            else:
                return

    def _begin(self, conn: Connection) -> None:
        self.busy += 1
        self._slots.count(1)
        self._start(conn)

    def body_read(self, conn: Connection) -> None:
        """Note that a thread has read the last of a body."""
        self.reading.discard(conn)
        self.feed()

    def finish(self, conn: Connection) -> None:
        """Note that a thread is done. Call `feed` when the connection is taken care of."""
        self.busy -= 1
        self.reading.discard(conn)


class ReplyBudget:
    """Bounds the bytes of replies that clients have not read yet. Threads share it."""

    def __init__(self, threads: int) -> None:
        self.unsent = self.held = 0  # bytes the main thread sends, and those that threads hold
        self._holding, self._most_holding = 0, max(1, threads // 2)
        self._lock = threading.Lock()

    def is_over(self) -> bool:
        """Return whether the held replies do not fit yet."""
        return self.unsent + self.held > UNSENT_LIMIT

    def add(self, conn: Connection) -> bool:
        """Count what is unsent of a reply, if there is room for it; return whether there is."""
        with self._lock:
            if self.unsent + conn.unsent > UNSENT_LIMIT:
                return False
            self.unsent += conn.unsent
            return True

    def remove(self, size: int) -> None:
        """Count bytes that were sent, or are not sent any more."""
        with self._lock:
            self.unsent -= size

    def wait(self, conn: Connection) -> None:
        """Hold a reply in this thread until there is room for it, and send what the client takes.

        The client is given up if it stalls, or where too many threads or bytes are held already.
        """
        size = conn.unsent
        with self._lock:
            fits = not self.held or self.held + size <= HELD_LIMIT
            if not fits or self._holding >= self._most_holding:
                conn.give_up()
                return
            self._holding += 1
            self.held += size
        while not self.add(conn):
            conn.flush_within(CHECK_EVERY_S)
            now = time.monotonic()
            if now - conn.moved_at > STALLED_S or now > conn.deadline:
                conn.give_up()
        with self._lock:
            self._holding -= 1
            self.held -= size
