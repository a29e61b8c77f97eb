"""The metrics' own port: a further listener of gunicorn's that answers with the metrics alone.

So whatever holds for clients of the main port holds for those of this one. Only `gunicorn.conf.py`
calls it, and the worker asks which connections came by it.
"""

import hmac
import logging
from collections.abc import Callable, Iterable
from typing import Any

from gunicorn.sock import TCP6Socket, TCPSocket  # type: ignore[import-untyped]

from server.sockets import addresses_of

log = logging.getLogger("gunicorn.error")

# By the names of the sockets, as `getsockname` gives them. The configuration file is executed again
# on a reload, this module is not.
_listeners: dict[Any, Any] = {}


def listen(server: Any, host: str, port: int) -> None:
    """Open the port in gunicorn's master `server`. If it is taken the log says so, no more."""
    if any(each in server.LISTENERS for each in _listeners.values()):
        return  # a reload that has not closed them
    _listeners.clear()
    for address in addresses_of(host):
        kind = TCP6Socket if ":" in address else TCPSocket
        try:
            opened = kind((address, port), server.cfg, server.log)
            _listeners[opened.getsockname()] = opened
        except OSError as exc:
            what = "METRICS_PORT %d cannot be opened on %s (%s); /metrics still answers"
            log.error(what, port, address, exc.strerror)
    server.LISTENERS.extend(_listeners.values())


def leave_out(server: Any) -> None:
    """Keep the port from a new master, which would take it for a port of the service."""
    ours = list(_listeners.values())
    server.LISTENERS = [each for each in server.LISTENERS if each not in ours]


def owns(name: Any) -> bool:
    """Return whether a connection to the socket of this name came by the metrics' port."""
    return name in _listeners


def beside(
    application: Any, exposition: Callable[[], bytes], content_type: str, token: str | None
) -> Any:
    """Return the application with the metrics on their port; with a token, only to its bearer."""
    ours = {(name[0], str(name[1])) for name in _listeners}

    def either(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if (environ["SERVER_NAME"], environ["SERVER_PORT"]) not in ours:
            answer: Iterable[bytes] = application(environ, start_response)
            return answer
        scheme, _, given = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode("latin-1"), (token or "").encode())
        if token and not (scheme.lower() == "bearer" and right):
            start_response("401 Unauthorized", [("WWW-Authenticate", "Bearer")])
            return [b"send METRICS_TOKEN as a bearer token\n"]
        start_response("200 OK", [("Content-Type", content_type)])
        return [exposition()]

    return either
