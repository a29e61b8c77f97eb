"""The replies to requests that gunicorn's parser refuses: the application never sees them.

They have the shape of `routes/errors.py`, and nothing of what the client sent is in them.
"""

import json
import uuid
from http import HTTPStatus
from typing import Any

from gunicorn.http import errors  # type: ignore[import-untyped]

_CHUNKS = "the body's chunks cannot be read: send them as RFC 9112 says, or a Content-Length"
_INTERNAL = (500, "internal_error", "an unexpected error: the service's log has it")
# The first that fits: status, code and message.
KINDS: tuple[tuple[type[Exception], tuple[int, str, str]], ...] = (
    (errors.LimitRequestLine, (414, "uri_too_long",
     "the request line is too long: at most 8,190 bytes; put long values into the body")),
    (errors.LimitRequestHeaders, (431, "headers_too_large",
     "the headers are too large: at most 100, of 8,190 bytes each and 64 KB in all; send fewer")),
    (errors.UnsupportedTransferCoding, (501, "not_implemented",
     "the only known transfer coding is `chunked`: send a Content-Length, or chunks")),
    (errors.ExpectationFailed, (417, "expectation_failed",
     "the only known expectation is `100-continue`: leave the Expect header out")),
    (errors.InvalidRequestMethod, (400, "bad_request",
     "the method is not valid: it is a word in capitals, such as GET or POST")),
    (errors.InvalidHTTPVersion, (400, "bad_request",
     "the HTTP version is not supported: use HTTP/1.1 or HTTP/1.0")),
    (errors.InvalidRequestLine, (400, "bad_request",
     "the request line cannot be read: it must be `METHOD /path HTTP/1.1` and end in CRLF, "
     "and all but printable ASCII in the path must be percent-encoded")),
    (errors.InvalidChunkSize, (400, "bad_request", _CHUNKS)),
    (errors.ChunkMissingTerminator, (400, "bad_request", _CHUNKS)),
    (errors.ConfigurationProblem, (404, "not_found",
     "nothing is here: the path must begin with the service's SCRIPT_NAME")),
    (errors.InvalidResponseHeader, _INTERNAL),
    (errors.InvalidResponseHeaderName, _INTERNAL),
    (errors.ParseException, (400, "bad_request",
     "a header cannot be read, or two contradict each other: each is `Name: value` on one line "
     "that ends in CRLF, the name of letters, digits and hyphens, the value without control "
     "characters; Host, Content-Length and Content-Type come once, and not with chunks")),
    (Exception, _INTERNAL),
)  # fmt: skip


def check_coding(request: Any) -> None:
    """Raise UnsupportedTransferCoding for codings besides chunks, such as `gzip, chunked`."""
    for name, value in request.headers:
        if name == "TRANSFER-ENCODING" and value.strip().lower() != "chunked":
            raise errors.UnsupportedTransferCoding(value)


def explain(exc: Exception, target: bytes, method: bytes = b"") -> tuple[int, str, bytes]:
    """Return an error's status, the request id in the reply, and the whole reply."""
    facts = next(facts for kind, facts in KINDS if isinstance(exc, kind))
    request_id = uuid.uuid4().hex
    return facts[0], request_id, _reply(*facts, target, method, request_id)


def too_slow(target: bytes, limit_s: float, method: bytes = b"") -> bytes:
    """Return the reply to a request that has not arrived in time."""
    message = (
        f"the request did not arrive within {limit_s:g} s: "
        "send it again, in smaller parts if the connection is slow"
    )
    return _reply(408, "request_timeout", message, target, method, uuid.uuid4().hex)


def _reply(
    status: int, code: str, message: str, target: bytes, method: bytes, request_id: str
) -> bytes:
    body: dict[str, object] = {"error": message, "error_type": code, "request_id": request_id}
    if target.startswith((b"/v1/", b"/v2/", b"/embeddings")):
        kind = "invalid_request_error" if status < 500 else "server_error"
        nested = {"message": message, "type": kind, "param": None, "code": code}
        body = {"error": nested, "message": message, "detail": message, "code": status}
        body["type"] = kind
    content = json.dumps(body, separators=(",", ":")).encode()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nServer: gunicorn\r\n"
        f"Connection: close\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        f"X-Request-ID: {request_id}\r\nX-Content-Type-Options: nosniff\r\n\r\n"
    )
    return head.encode() + (b"" if method == b"HEAD" else content)
