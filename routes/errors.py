"""Turns exceptions into error replies in the route's dialect, and logs the service's own faults."""

import logging
import math
import re

import orjson
from flask import Flask, Response, g, request
from werkzeug.exceptions import (
    ClientDisconnected,
    HTTPException,
    MethodNotAllowed,
    RequestEntityTooLarge,
)

from auth import sees_all
from errors import ProviderError, ServiceError
from observability import metrics
from routes.assets import HTML, template, wants_page
from routes.table import NATIVE, ROUTES, Dialect, Failure

log = logging.getLogger("errors")

# OpenAI's clients repeat 408, 409, 429 and 5xx, unless X-Should-Retry forbids it.
PERMANENT = {409, 413, 501, 507}
# Of the page that a browser gets at an unknown address: its style and its icon, and no script.
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
PATH = re.compile(r"/[^\s/'\":;,]+(/[^\s'\":;,]*)+")  # of at least two parts


def register(app: Flask) -> None:
    """Handle every exception that a request can end with."""
    app.register_error_handler(ServiceError, _service_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)


def _service_error(exc: ServiceError) -> Response:
    status = exc.status
    message = str(exc)  # with "input 3: " before it where an input is at fault
    if status >= 500 and not sees_all():  # only admins see paths and hosts
        message = exc.short or PATH.sub("(a path)", message)
    if status >= 500 and (status != 503 or message != str(exc)):
        log.error("%s: %s", exc.code, exc)
    response = _respond(status, exc.code, message, exc.param, exc)
    status = response.status_code  # the dialect's
    if exc.retry_after_s is not None:
        response.headers["Retry-After"] = str(math.ceil(exc.retry_after_s))
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if status in PERMANENT or (isinstance(exc, ProviderError) and exc.permanent):
        response.headers["X-Should-Retry"] = "false"
    return response


def _http_error(exc: HTTPException) -> Response:
    """Answer what Werkzeug raises: an unknown path, a wrong method, an unreadable body."""
    status, path = exc.code or 500, request.path
    slashes = "slashes count: none comes twice in a row, or after a name at the end; "
    hint = slashes if "//" in path or path.endswith("/") else ""
    messages = {
        404: f"there is no {path[:200]} here; {hint}see /docs for what there is",
        405: f"{request.method} is not allowed here",
        413: "the body is over the size limit",
    }
    if isinstance(exc, ClientDisconnected):
        messages[400] = (
            "the body is incomplete, or its chunks cannot be read; send all of it, with a "
            "Content-Length or in chunks as in RFC 9112"
        )
    message = messages.get(status, exc.description or exc.name)
    response = _respond(status, exc.name.lower().replace(" ", "_"), message, None, exc)
    if status == 404:
        response.vary.add("Accept")
        if request.method == "GET" and wants_page():
            response.data, response.mimetype = template("unknown.html"), HTML
            response.headers["Content-Security-Policy"] = POLICY
    if isinstance(exc, MethodNotAllowed) and exc.valid_methods:
        response.headers["Allow"] = ", ".join(sorted(exc.valid_methods))
    if isinstance(exc, RequestEntityTooLarge):
        response.headers["Connection"] = "close"
    return response


def _unexpected(exc: Exception) -> Response:
    log.error("unexpected %s (request %s)", type(exc).__name__, g.get("request_id"), exc_info=exc)
    message = "an unexpected error; the service's log has it under this request id"
    return _respond(500, "internal_error", message, None, exc)


def _respond(status: int, code: str, message: str, param: str | None, exc: Exception) -> Response:
    metrics.ERRORS.labels(code).inc()
    failure = Failure(status, code, message, param, g.get("request_id"), exc)
    status, body = dialect_of(request.path).error(failure)
    return Response(orjson.dumps(body), status, content_type="application/json")


def dialect_of(path: str) -> Dialect:
    """Return the dialect of the request's route, or where there is none that of its path."""
    chosen: Dialect | None = g.get("dialect")
    if chosen is not None:
        return chosen
    dialects = {row.dialect.name: row.dialect for row in ROUTES}.values()
    fitting = [(len(begin), each) for each in dialects for begin in each.prefixes
               if path.startswith(begin)]  # fmt: skip
    return max(fitting, key=lambda pair: pair[0], default=(0, NATIVE))[1]
