"""Reads a request's body and query strictly: its type, its size, its JSON, its fields.

Every refusal says what was wrong, where, and what is valid; no input is ever echoed.
"""

import codecs
import json
import select
import socket
import ssl
from collections.abc import Callable
from io import BytesIO
from typing import Any, TypeVar, get_args
from urllib.parse import parse_qsl, unquote_to_bytes

from flask import request
from pydantic import BaseModel, ValidationError
from werkzeug.exceptions import NotFound, RequestEntityTooLarge
from werkzeug.formparser import FormDataParser

from errors import BadRequest, Invalid, TooLarge, UnsupportedMedia
from routes.weigh import refuse_heavy

FIELDS = 20  # of a form: OAuth's for a password has six
# Half a surrogate pair is looked for in Python, which takes 0.3 s a megabyte of short lists.
SEARCHED = 1 << 20
PLAIN = {"", "identity", "utf-8", "utf8"}  # contents that are not encoded; UTF-8 is a charset
# Where the field of another service's body belongs here.
MEANT = {"input": "texts", "inputs": "texts", "sentences": "texts", "documents": "texts"}
# Where poll() tells of it: a client's end, though bytes that nobody has read lie before it (Linux).
HUNG_UP = getattr(select, "POLLRDHUP", 0)
Model = TypeVar("Model", bound=BaseModel)


def check_url() -> None:
    """Refuse a path or a query that is no UTF-8. Werkzeug puts U+FFFD there, which is text, too.

    And a path that begins with two slashes, for all of which Werkzeug puts one.
    """
    path = request.environ.get("PATH_INFO", "").encode("latin-1")
    if path.startswith(b"//"):
        raise NotFound
    for name, raw in (("path", path), ("query", unquote_to_bytes(request.query_string))):
        try:
            raw.decode()
        except UnicodeDecodeError:
            raise BadRequest(
                f"the {name} has bytes that are no UTF-8; write text in it as UTF-8 with percent "
                "escapes (an é is %C3%A9)"
            ) from None


def read_body() -> bytes:
    """Return the body's bytes. Raises TooLarge, where its length is told before any is read."""
    most = request.max_content_length or 0  # of this route
    declared = request.content_length
    if declared is not None and declared > most:
        raise TooLarge(f"the body has {declared} bytes; the limit here is {most}")
    request.max_content_length = most + 1  # Werkzeug cuts a chunked body there without a word
    body = request.get_data(cache=False)
    if len(body) > most:
        raise TooLarge(f"the body has over {most} bytes, which is the limit here")
    return body


def parse_body(model: type[Model], *, optional: bool = False) -> Model:
    """Read and validate a JSON body. Raises BadRequest, Invalid, UnsupportedMedia, TooLarge.

    No body at all is the same as an empty object where it is `optional`.
    """
    early = read_body() if optional else None
    if early == b"":
        return model()
    if request.mimetype != "application/json" and not request.mimetype.endswith("+json"):
        raise UnsupportedMedia(
            "the body must be JSON, sent with Content-Type: application/json "
            "(with curl: -H 'Content-Type: application/json')"
        )
    if request.headers.get("Content-Encoding", "").strip().lower() not in PLAIN:
        raise UnsupportedMedia(
            "Content-Encoding: compressed bodies are not read, nor is any other encoding; send the "
            "body as it is, without this header"
        )
    body = (read_body() if early is None else early).removeprefix(codecs.BOM_UTF8)
    if not body.strip():
        raise BadRequest("the body is empty; a JSON object is needed")
    refuse_heavy(body)
    try:
        return model.model_validate_json(body)
    except ValidationError as exc:
        raise _explained(exc, model, body) from None


def parse_form(model: type[Model]) -> Model:
    """Validate a form. Raises BadRequest, Invalid, TooLarge."""
    body = read_body()
    try:
        text = body.decode()
        if request.mimetype == "multipart/form-data":
            parser = FormDataParser(max_form_parts=FIELDS, silent=False)
            options = request.mimetype_params
            form = parser.parse(BytesIO(body), request.mimetype, len(body), options)[1]
            fields = list(form.items(multi=True))
        else:
            fields = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=FIELDS)
    except UnicodeDecodeError:
        raise BadRequest("the form has bytes that are no UTF-8") from None
    except (ValueError, RequestEntityTooLarge):  # of the library, which says neither what nor where
        raise BadRequest(f"the form cannot be read; it may have {FIELDS} fields") from None
    return _of_fields(model, fields)


def parse_query(model: type[Model]) -> Model:
    """Validate the query string. Raises Invalid."""
    return _of_fields(model, list(request.args.items(multi=True)))


def _of_fields(model: type[Model], fields: list[tuple[str, str]]) -> Model:
    given = dict(fields)
    if len(given) < len(fields):
        names = [name for name, _ in fields]
        twice = next(name for name in names if names.count(name) > 1)[:64]
        raise Invalid(f"{twice}: it is given more than once; give it once", param=twice)
    try:
        return model.model_validate(given)
    except ValidationError as exc:
        raise _explained(exc, model, b"") from None


def _explained(
    exc: ValidationError, model: type[BaseModel], body: bytes
) -> BadRequest | Invalid | TooLarge:
    """Say in one sentence what is wrong, never with the input itself."""
    errors = exc.errors(include_input=False, include_url=False)
    first = errors[0]
    if first["type"] == "json_invalid":
        if "hex escape" in first["msg"]:
            lone = _surrogate_at(body) or "a string of the body"
            return Invalid(f"{lone} has half a surrogate pair, which is no Unicode text")
        return BadRequest(f"the body is not valid JSON: {_position(first['msg'])}")
    where = _path(first["loc"])
    if first["type"] == "too_long" and first["ctx"]["field_type"] == "List":
        most = first["ctx"]["max_length"]
        return TooLarge(f"{where}: over {most} items; at most {most} in one call", param=where)
    message = first["msg"].replace("Input should", "it should")
    if first["type"] == "extra_forbidden":
        message = f"there is no such field; {_fields_there_are(model, first['loc'])}"
    message += " (and more)" if len(errors) > 1 else ""
    return Invalid(f"{where}: {message}" if where else message, param=where or None)


def _fields_there_are(model: type[BaseModel], loc: tuple[int | str, ...]) -> str:
    """Name the fields of the object in which an unknown one stands, or the one that was meant."""
    for step in loc[:-1]:
        if isinstance(step, str) and step in model.model_fields:
            model = _model_in(model.model_fields[step].annotation) or model
    meant = MEANT.get(str(loc[-1]))
    if meant in model.model_fields:
        return f"the texts go into {meant}"
    return f"the fields are {', '.join(model.model_fields)}"


def _model_in(kind: Any) -> type[BaseModel] | None:
    """Return the model that a field's type speaks of, if it does."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    return next(filter(None, map(_model_in, get_args(kind))), None)


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
    if len(body) > SEARCHED:
        return None
    try:
        return _find_surrogate(json.loads(body), ())
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
    if not HUNG_UP and isinstance(sock, ssl.SSLSocket):  # whose bytes cannot be looked at
        return None

    def gone() -> bool:
        try:
            poll = select.poll()  # select() itself knows no descriptor over 1023
            poll.register(sock, HUNG_UP or select.POLLIN)
            ready = bool(poll.poll(0))
            return ready and (bool(HUNG_UP) or sock.recv(1, socket.MSG_PEEK) == b"")
        except (OSError, ValueError):
            return True

    return gone
