"""Makes every error body, in the shape of the route's dialect, and logs what is our own fault.

Native: `{"error": message, "error_type": code, "request_id": id}`, with `param` where one field is
at fault. On `/v1`: OpenAI's `{"error": {"message", "type", "param", "code"}}`.
"""

import logging
import math
import re
from typing import Any

import orjson
from flask import Flask, Response, g, request
from werkzeug.exceptions import (
    ClientDisconnected,
    HTTPException,
    MethodNotAllowed,
    RequestEntityTooLarge,
)

from auth import sees_all
from errors import ProviderError, ServiceError, TooLarge
from observability import metrics

log = logging.getLogger("errors")

# OpenAI's clients repeat 408, 409, 429 and 5xx unless this header forbids it.
PERMANENT = {409, 413, 501, 507}
PATH = re.compile(r"/[^\s/'\":;,]+(/[^\s'\":;,]*)+")  # of two parts at least
OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def register(app: Flask) -> None:
    """Handle every exception that a request can end with."""
    app.register_error_handler(ServiceError, _service_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)


def _service_error(exc: ServiceError) -> Response:
    status = exc.status
    if _openai() and isinstance(exc, TooLarge) and exc.param == "input":
        status = 400  # OpenAI's status for too many inputs
    message = _told(exc, status)
    if status >= 500 and (status != 503 or message != exc.message):
        log.error("%s: %s", exc.code, exc.message)
    response = _respond(status, exc.code, message, exc.param)
    if exc.retry_after_s is not None:
        response.headers["Retry-After"] = str(math.ceil(exc.retry_after_s))
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if status in PERMANENT or (isinstance(exc, ProviderError) and exc.permanent):
        response.headers["X-Should-Retry"] = "false"
    return response


def _told(exc: ServiceError, status: int) -> str:
    """Return what the caller may know of a failure of ours: of paths and hosts only an admin."""
    if status < 500 or sees_all():
        return exc.message
    return exc.short or PATH.sub("(a path)", exc.message)


def _http_error(exc: HTTPException) -> Response:
    """Answer what Werkzeug raises: no such path, wrong method, a body it could not read."""
    status = exc.code or 500
    messages = {
        404: f"there is no {request.path[:200]} here; {_hint()}see /docs for what there is",
        405: f"{request.method} is not allowed here",
        413: "the body is over the size limit",
    }
    if isinstance(exc, ClientDisconnected):
        messages[400] = (
            "the body did not come whole, or its chunks cannot be read; send all of it, with a "
            "Content-Length or in chunks as RFC 9112 has them"
        )
    message = messages.get(status, exc.description or exc.name)
    response = _respond(status, exc.name.lower().replace(" ", "_"), message, None)
    if isinstance(exc, MethodNotAllowed) and exc.valid_methods:
        response.headers["Allow"] = ", ".join(sorted(exc.valid_methods))
    if isinstance(exc, RequestEntityTooLarge):
        response.headers["Connection"] = "close"
    return response


def _hint() -> str:
    path = request.path
    wrong = "//" in path or path.endswith("/")
    return "slashes count: none comes twice in a row, or after a name at the end; " if wrong else ""


def _unexpected(exc: Exception) -> Response:
    log.error("unexpected %s (request %s)", type(exc).__name__, g.get("request_id"), exc_info=exc)
    message = "an unexpected error; the service's log has it under this request id"
    return _respond(500, "internal_error", message, None)


def _openai() -> bool:
    return request.path.startswith("/v1/")


def _respond(status: int, code: str, message: str, param: str | None) -> Response:
    metrics.ERRORS.labels(code).inc()
    body = _openai_body if _openai() else _native_body
    content = orjson.dumps(body(status, code, message, param))
    return Response(content, status, content_type="application/json")


def _native_body(status: int, code: str, message: str, param: str | None) -> dict[str, Any]:
    body = {"error": message, "error_type": code, "request_id": g.get("request_id")}
    return body if param is None else {**body, "param": param}


def _openai_body(status: int, code: str, message: str, param: str | None) -> dict[str, Any]:
    kind = OPENAI_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
