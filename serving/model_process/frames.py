"""Frames over a Unix socket: a JSON head and raw parts, one reply to each call, and no pickle.

A frame is a fixed header, the sizes of the parts, the head and the parts. All of them begin at
multiples of eight bytes of what follows the header, so that arrays are read where they lie. A
connection carries one call at a time; whoever gives up on a reply closes the connection.
"""

import contextlib
import functools
import select
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from typing_extensions import Buffer

import errors
from errors import ServiceError, TooLarge
from server.peers import peer_of

VERSION = 1
MAGIC = b"EMBD"
HEADER = struct.Struct("<4sHHIQ")  # magic, version, parts, bytes of the head, bytes that follow
MOST_PARTS = 16
MOST_HEAD = 16 << 20
MOST = 1 << 30  # bytes of a frame
ALIGN = 8
EAGER = 16 << 20  # bytes that are allocated for a frame before any of it has arrived
FIRST = 1 << 16  # bytes of the first read: most requests whole
BUFFER = 1 << 20  # of each socket: a reply of 32 vectors leaves in one call
# How often whoever waits for the other side looks whether to wait on. A request that a stopped
# process holds is answered within twice this; each look costs 20 us.
TICK_S = 0.2

Head = dict[str, Any]
Part = bytes | memoryview | NDArray[Any]
Parts = Sequence[memoryview]
Idle = Callable[[], object]  # called at each tick of a wait; what it raises ends the wait


class Malformed(Exception):
    """What arrived is no frame of this version."""


class Closed(ConnectionError):
    """The other side closed the connection."""


class Connection:
    """One end of a connection. For one thread at a time."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._wait_s = connected.gettimeout()
        self._first = memoryview(bytearray(FIRST))
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            connected.setsockopt(socket.SOL_SOCKET, option, BUFFER)

    @property
    def peer(self) -> int | None:
        """The process at the other end, where the system says it."""
        return peer_of(self._socket)[0]

    def call(
        self, operation: str, head: Head, *parts: Part, idle: Idle | None = None
    ) -> tuple[Head, Parts]:
        """Return the reply. Raises OSError or Malformed, and then this connection is of no use."""
        self.send({"operation": operation, **head}, parts, idle)
        return self.receive(idle)

    def send(self, head: Head, parts: Sequence[Part] = (), idle: Idle | None = None) -> None:
        """Send a frame. Raises TooLarge and then has sent nothing."""
        packed = orjson.dumps(head, option=orjson.OPT_SERIALIZE_NUMPY)
        views = [_bytes_of(part) for part in parts]
        body: list[Buffer] = [struct.pack(f"<{len(views)}Q", *map(len, views))]
        total = 8 * len(views)
        for each in (memoryview(packed), *views):
            rest = -len(each) % ALIGN
            body += [each, bytes(rest)]
            total += len(each) + rest
        if total > MOST or len(packed) > MOST_HEAD or len(views) > MOST_PARTS:
            raise TooLarge("this is more than one call to the model process may carry; send less")
        body.insert(0, HEADER.pack(MAGIC, VERSION, len(views), len(packed), total))
        sent = self._patiently(functools.partial(self._socket.sendmsg, body), idle)
        if sent == HEADER.size + total:
            return
        left = memoryview(b"".join(body))[sent:]
        while left:
            left = left[self._patiently(functools.partial(self._socket.send, left), idle) :]

    def receive(self, idle: Idle | None = None) -> tuple[Head, Parts]:
        """Return the next frame. Raises Closed, another OSError, or Malformed."""
        first = self._first
        got = self._read(first, 0, HEADER.size, idle)
        magic, version, count, size, total = HEADER.unpack_from(first)
        if magic != MAGIC:
            raise Malformed("it does not begin as a frame does")
        if version != VERSION:
            raise Malformed(f"it is of version {version}, not {VERSION}")
        if total > MOST or size > MOST_HEAD or count > MOST_PARTS:
            raise Malformed("its header says more than a frame may hold")
        if got - HEADER.size > total:
            raise Malformed("more follows it")
        have = got - HEADER.size
        body = bytearray(min(total, EAGER))
        body[:have] = first[HEADER.size : got]
        while True:
            with memoryview(body) as room:
                have = self._read(room, have, len(body), idle)
            if have == total:
                return _parsed(memoryview(body), count, size)
            body += bytes(min(total - have, have))  # no more than has arrived

    def is_closed(self, wait_s: float = 0.0) -> bool:
        """Whether the other side has closed the connection, or does so within `wait_s`."""
        try:
            if wait_s:
                poll = select.poll()
                poll.register(self._socket, select.POLLIN)
                poll.poll(wait_s * 1000)
            return not self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except (BlockingIOError, TimeoutError):
            return False
        except (OSError, ValueError):
            return True

    def close(self) -> None:
        """Close this end. A thread that waits at it is told."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _read(self, into: memoryview, have: int, needed: int, idle: Idle | None) -> int:
        """Return how much of the buffer is filled, at least `needed` bytes."""
        while have < needed:
            got = self._patiently(functools.partial(self._socket.recv_into, into[have:]), idle)
            if not got:
                raise Closed("the other side closed the connection")
            have += got
        return have

    def _patiently(self, step: Callable[[], int], idle: Idle | None) -> int:
        wait_s = None if idle is None else TICK_S
        if self._wait_s != wait_s:  # a call of the system each time
            self._socket.settimeout(wait_s)
            self._wait_s = wait_s
        while True:
            try:
                return step()
            except TimeoutError:
                if idle is not None:
                    idle()


def _bytes_of(part: Part) -> memoryview:
    """Return a part as bytes, little-endian as all machines are that torch runs on."""
    if isinstance(part, np.ndarray):
        part = np.ascontiguousarray(part).data if part.size else b""
    return memoryview(part).cast("B")


def _parsed(body: memoryview, count: int, size: int) -> tuple[Head, Parts]:
    try:
        sizes = struct.unpack_from(f"<{count}Q", body)
    except struct.error:
        raise Malformed("it ends before its sizes") from None
    start = 8 * count
    pieces: list[memoryview] = []
    for length in (size, *sizes):
        pieces.append(body[start : start + length])
        start += length + -length % ALIGN
    if start != len(body):
        raise Malformed("its sizes are not what follows")
    try:
        head = orjson.loads(pieces[0])
    except orjson.JSONDecodeError:
        raise Malformed("its head is no JSON") from None
    if not isinstance(head, dict):
        raise Malformed("its head is no object")
    return head, pieces[1:]


# ---- errors


# Every kind of error that may cross, by name.
KINDS: dict[str, type[ServiceError]] = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, ServiceError)
}
SAID = ("short", "index", "param", "retry_after_s", "permanent")


def error_head(error: ServiceError) -> Head:
    """Return an error as the head of a reply."""
    kind = next(each.__name__ for each in type(error).__mro__ if each in KINDS.values())
    said = {name: getattr(error, name, None) for name in SAID}
    return {"error": {"kind": kind, "message": error.message, **said}}


def raise_error(head: Head) -> None:
    """Raise the error that a reply's head holds, as the class that it had there."""
    if (said := head.get("error")) is None:
        return
    error = KINDS.get(said["kind"], ServiceError)(said["message"])
    for name in SAID:
        if hasattr(error, name):
            setattr(error, name, said[name])
    raise error
