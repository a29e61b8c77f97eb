"""Reads a request's body and query strictly: its type, its size, its JSON, its fields.

Every refusal says what was wrong, where, and what is valid; no input is ever echoed.
"""

import json
import select
import socket
from collections.abc import Callable
from typing import Any, TypeVar

from flask import request
from pydantic import BaseModel, ValidationError

from context import services
from errors import BadRequest, Invalid, TooLarge, UnsupportedMedia

FORM_MOST = 16 * 1024  # bytes: a name and a password
Model = TypeVar("Model", bound=BaseModel)


def read_body() -> bytes:
    """Return the body's bytes. Raises UnsupportedMedia or TooLarge before anything is parsed."""
    encoding = request.headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity":
        raise UnsupportedMedia("compressed bodies are not read; send the body as it is")
    limit = services().config.max_request_bytes
    declared = request.content_length
    if declared is not None and declared > limit:
        raise TooLarge(f"the body has {declared} bytes; the limit is {limit}")
    body = request.get_data(cache=False)
    if declared is None and len(body) >= limit:  # a chunked body is cut at the limit, not refused
        raise TooLarge(f"the body has {limit} bytes or more; the limit is {limit}")
    return body


def parse_body(model: type[Model]) -> Model:
    """Read and validate a JSON body. Raises BadRequest, Invalid, UnsupportedMedia, TooLarge."""
    if request.mimetype != "application/json" and not request.mimetype.endswith("+json"):
        raise UnsupportedMedia(
            "the body must be JSON, sent with Content-Type: application/json "
            "(with curl: -H 'Content-Type: application/json')"
        )
    body = read_body()
    if not body.strip():
        raise BadRequest("the body is empty; a JSON object is needed")
    try:
        return model.model_validate_json(body)
    except ValidationError as exc:
        raise _explained(exc, body) from None


def parse_form(model: type[Model]) -> Model:
    """Validate a form. Raises Invalid, TooLarge."""
    if (request.content_length or 0) > FORM_MOST:
        raise TooLarge(f"the form has over {FORM_MOST} bytes")
    try:
        return model.model_validate(request.form.to_dict())
    except ValidationError as exc:
        raise _explained(exc, b"") from None


def parse_query(model: type[Model]) -> Model:
    """Validate the query string. Raises Invalid."""
    try:
        return model.model_validate(request.args.to_dict())
    except ValidationError as exc:
        raise _explained(exc, b"") from None


def _explained(exc: ValidationError, body: bytes) -> BadRequest | Invalid | TooLarge:
    """Say in one sentence what is wrong, never with the input itself."""
    errors = exc.errors(include_input=False, include_url=False)
    first = errors[0]
    if first["type"] == "json_invalid":
        if lone := _surrogate_at(body):
            return Invalid(f"{lone} has half a surrogate pair, which is no Unicode text")
        return BadRequest(f"the body is not valid JSON: {_position(first['msg'])}")
    where = _path(first["loc"])
    if first["type"] == "too_long" and first["ctx"]["field_type"] == "List":
        count, most = first["ctx"]["actual_length"], first["ctx"]["max_length"]
        return TooLarge(f"{where}: {count} items; at most {most} in one call", param=where)
    others = len(errors) - 1
    more = f" (and {others} more problem{'s' * (others > 1)})" if others else ""
    message = first["msg"].replace("Input should", "it should")
    if first["type"] == "extra_forbidden":
        message = "there is no such field"
    return Invalid(f"{where}: {message}{more}" if where else message + more, param=where or None)


def _position(message: str) -> str:
    return message.removeprefix("Invalid JSON: ")


# Tags of a union of forms, which pydantic puts into an error's path but no caller wrote.
_TAGS = {"text", "texts", "ids", "id_lists"}


def _path(loc: tuple[int | str, ...]) -> str:
    """Write a location as `texts.3`."""
    parts = [str(p) for i, p in enumerate(loc) if not (i == 1 and p in _TAGS)]
    return ".".join(part[:64] for part in parts)


def _surrogate_at(body: bytes) -> str | None:
    """Name the field and index that hold a lone surrogate, in a body that is JSON but for that."""
    try:
        return _find_surrogate(json.loads(body), ()) if b"\\u" in body else None
    except (ValueError, RecursionError):
        return None


def _find_surrogate(value: Any, path: tuple[int | str, ...]) -> str | None:
    if isinstance(value, str):
        lone = any("\ud800" <= ch <= "\udfff" for ch in value)
        return (_path(path) or "the body") if lone else None
    items = value.items() if isinstance(value, dict) else enumerate(value)
    if not isinstance(value, dict | list) or len(path) > 4:
        return None
    for key, inner in items:
        if isinstance(inner, str | dict | list):
            found = _find_surrogate(inner, (*path, key))
            if found:
                return found
    return None


def client_gone() -> Callable[[], bool] | None:
    """Return a check for whether the caller hung up, where the server gives us its socket."""
    sock = request.environ.get("gunicorn.socket")
    if not isinstance(sock, socket.socket):
        return None

    def gone() -> bool:
        try:
            poll = select.poll()  # select() itself knows no descriptor over 1023
            poll.register(sock, select.POLLIN)
            return bool(poll.poll(0)) and sock.recv(1, socket.MSG_PEEK) == b""
        except (OSError, ValueError):
            return True

    return gone
