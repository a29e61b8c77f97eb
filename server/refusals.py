"""What is answered to a request that gunicorn's parser refuses: the application never sees it.

The bodies have the shapes of `routes/errors.py`. Nothing that the client sent is in them.
"""

import json
import uuid
from typing import Any

from gunicorn.http import errors  # type: ignore[import-untyped]

ASK_ANEW = "send the request again on a new connection"
# By kind, the more special first: status, reason, code and message.
KINDS: tuple[tuple[type[Exception], int, str, str, str], ...] = (
    (errors.LimitRequestLine, 414, "URI Too Long", "uri_too_long",
     "the request's first line is too long: at most 8,190 bytes; what is long goes into the body"),
    (errors.LimitRequestHeaders, 431, "Request Header Fields Too Large", "headers_too_large",
     "the headers are too large: at most 100, of 8,190 bytes each and 64 KB in all; send fewer"),
    (errors.UnsupportedTransferCoding, 501, "Not Implemented", "not_implemented",
     "of the transfer codings only `chunked` is known here; send a Content-Length, or chunks"),
    (errors.ExpectationFailed, 417, "Expectation Failed", "expectation_failed",
     "of the expectations only `100-continue` is known here; leave the Expect header out"),
    (errors.InvalidRequestMethod, 400, "Bad Request", "bad_request",
     "the method is none: it is a word in capitals, such as GET or POST"),
    (errors.InvalidHTTPVersion, 400, "Bad Request", "bad_request",
     "the HTTP version is not spoken here: it must be HTTP/1.1 or HTTP/1.0"),
    (errors.InvalidRequestLine, 400, "Bad Request", "bad_request",
     "the request's first line cannot be read: it must be `METHOD /path HTTP/1.1`, ended by CRLF, "
     "and all but printable ASCII in the path must be percent-encoded"),
    (errors.InvalidChunkSize, 400, "Bad Request", "bad_request",
     "the body's chunks cannot be read; send them as RFC 9112 has them, or a Content-Length"),
    (errors.ChunkMissingTerminator, 400, "Bad Request", "bad_request",
     "the body's chunks cannot be read; send them as RFC 9112 has them, or a Content-Length"),
    (errors.ConfigurationProblem, 404, "Not Found", "not_found",
     "there is nothing here: the path must begin with the service's SCRIPT_NAME"),
    (errors.InvalidResponseHeader, 500, "Internal Server Error", "internal_error",
     "an unexpected error; the service's log has it"),
    (errors.InvalidResponseHeaderName, 500, "Internal Server Error", "internal_error",
     "an unexpected error; the service's log has it"),
    (errors.ParseException, 400, "Bad Request", "bad_request",
     "a header cannot be read, or two contradict each other: each is `Name: value` on one line "
     "ended by CRLF, the name of letters, digits and hyphens, the value without control "
     "characters; Host, Content-Length and Content-Type come once, and not with chunks"),
    (Exception, 500, "Internal Server Error", "internal_error",
     "an unexpected error; the service's log has it"),
)  # fmt: skip


def check_coding(request: Any) -> None:
    """Raise UnsupportedTransferCoding for `gzip, chunked`, too: nobody here would unpack it."""
    for name, value in request.headers:
        if name == "TRANSFER-ENCODING" and value.strip().lower() != "chunked":
            raise errors.UnsupportedTransferCoding(value)


def explain(exc: Exception, target: bytes, method: bytes = b"") -> tuple[int, str, bytes]:
    """Return the status for an error, the id that the reply bears, and the whole reply."""
    _, status, reason, code, message = next(kind for kind in KINDS if isinstance(exc, kind[0]))
    request_id = uuid.uuid4().hex
    return status, request_id, _reply(status, reason, code, message, target, method, request_id)


def too_slow(target: bytes, limit_s: float, method: bytes = b"") -> bytes:
    """Return the reply to a request that has not come whole in time."""
    message = (
        f"the request did not come whole within {limit_s:g} s; "
        "send it again, in smaller parts if the line is slow"
    )
    request_id = uuid.uuid4().hex
    return _reply(408, "Request Timeout", "request_timeout", message, target, method, request_id)


def _reply(
    status: int,
    reason: str,
    code: str,
    message: str,
    target: bytes,
    method: bytes,
    request_id: str,
) -> bytes:
    body: dict[str, object] = {"error": message, "error_type": code, "request_id": request_id}
    if target.startswith(b"/v1/"):
        kind = "invalid_request_error" if status < 500 else "server_error"
        body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    content = json.dumps(body, separators=(",", ":")).encode()
    head = (
        f"HTTP/1.1 {status} {reason}\r\nServer: gunicorn\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        f"X-Request-ID: {request_id}\r\nX-Content-Type-Options: nosniff\r\n\r\n"
    )
    return head.encode() + (b"" if method == b"HEAD" else content)
