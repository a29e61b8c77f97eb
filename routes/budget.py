"""How much time, work and reply a request may take: until its deadline, while its caller is there,
within MAX_REPLY_BYTES.
"""

import select
import socket
import ssl
from collections.abc import Callable

from flask import g, request

from context import services
from store.budget import Budget

# On Linux poll() reports that the client closed, even with unread bytes before the end.
HUNG_UP = getattr(select, "POLLRDHUP", 0)


def budget_of_request() -> Budget:
    """Return the request's budget, for the store."""
    return Budget(g.deadline, client_gone(), services().config.max_reply_bytes)


def client_gone() -> Callable[[], bool] | None:
    """Return a function that returns whether the caller hung up; None without gunicorn's socket."""
    sock = request.environ.get("gunicorn.socket")
    if not isinstance(sock, socket.socket):
        return None
    if not HUNG_UP and isinstance(sock, ssl.SSLSocket):  # encrypted bytes cannot be peeked at
        return None

    def gone() -> bool:
        try:
            poll = select.poll()  # select() takes no descriptor over 1023
            poll.register(sock, HUNG_UP or select.POLLIN)
            ready = bool(poll.poll(0))
            return ready and (bool(HUNG_UP) or sock.recv(1, socket.MSG_PEEK) == b"")
        except (OSError, ValueError):
            return True

    return gone
