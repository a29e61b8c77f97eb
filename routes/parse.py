"""Reads a request's body and query strictly: its type, its JSON, its fields.

Every refusal says what is wrong, where, and what is valid, and never repeats the input.
"""

import codecs
import json
from collections.abc import Iterator
from functools import cache
from io import BytesIO
from typing import Any, TypeVar, cast, get_args
from urllib.parse import parse_qsl, unquote_to_bytes

from flask import g, request
from pydantic import BaseModel, ValidationError
from pydantic_core import SchemaValidator, core_schema
from werkzeug.exceptions import NotFound, RequestEntityTooLarge
from werkzeug.formparser import FormDataParser

import cors
from auth import caller
from config.serving import Lane
from context import services
from errors import BadRequest, Invalid, ServiceError, TooLarge, UnsupportedMedia
from routes.body_limits import read_body, refuse_heavy
from routes.table import Dialect, Route
from schemas.known import lane_of

FIELDS = 20  # of a form; OAuth's for a password has six
# Half a surrogate pair is searched for in Python, which takes 0.3 s per megabyte of short lists.
SEARCHED = 1 << 20
# Values of Content-Encoding that change nothing; some clients send a charset.
PLAIN = {"", "identity", "utf-8", "utf8"}
# The fields in which other services take texts.
MEANT = {"input", "inputs", "sentences", "documents"}
# Tags of a union of forms, which pydantic puts into an error's path.
TAGS = {"text", "texts", "ids", "id_lists"}
Model = TypeVar("Model", bound=BaseModel)
Place = tuple[int | str, ...]


def check_url() -> None:
    """Raise BadRequest for a path or a query that is not UTF-8, where Werkzeug puts U+FFFD.

    Raises NotFound for a path that begins with two slashes, which Werkzeug takes for one.
    """
    path = request.environ.get("PATH_INFO", "").encode("latin-1")
    if path.startswith(b"//"):
        raise NotFound
    for name, raw in (("path", path), ("query", unquote_to_bytes(request.query_string))):
        try:
            raw.decode()
        except UnicodeDecodeError:
            raise BadRequest(
                f"the {name} has bytes that are not UTF-8; write text in it as UTF-8 with percent "
                "escapes (an é is %C3%A9)"
            ) from None


def read_json(*, optional: bool = False) -> bytes:
    """Return a body that says to be JSON. Raises BadRequest, UnsupportedMedia, TooLarge.

    If it is `optional`, a missing body is empty.
    """
    early = read_body() if optional else None
    if early == b"":
        return early
    if not _is_json():
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
    return body


def parse_body(model: type[Model], *, optional: bool = False) -> Model:
    """Return a JSON body. Raises BadRequest, Invalid, UnsupportedMedia, TooLarge.

    If it is `optional`, a missing body is the same as an empty object.
    """
    body = read_json(optional=optional)
    return model() if body == b"" else body_of(model, body)


def body_of(model: type[Model], body: bytes) -> Model:
    """Return what a body of JSON holds. Raises BadRequest, Invalid, TooLarge."""
    try:
        return model.model_validate_json(body)
    except ValidationError as exc:
        raise _explained(exc, model, body) from None


def choose(rows: list[Route], body: bytes) -> Route:
    """Return the row of an endpoint that takes this body: see `Route`. The last is the default."""
    if not any(b'"%s"' % key.encode() in body for row in rows for key in row.keys):
        return rows[-1]
    given = _keys_in(body, tuple(key for row in rows for key in row.keys))
    return next((row for row in rows if given.intersection(row.keys)), rows[-1])


def read_strictly(model: type[Model] | None, body: bytes) -> Model | None:
    """Return what a body of JSON holds if the model refuses fields of others, and takes it.

    So the default row of an endpoint costs no search for the keys of the others.
    """
    if model is None or model.model_config.get("extra") != "forbid":
        return None
    try:
        return model.model_validate_json(body)
    except (ValidationError, ServiceError):
        return None


def lane_in_header() -> str:
    """Return the word in the header X-Priority, not checked; empty without one."""
    return request.headers.get("X-Priority", "").strip().lower()


def parse_lane(body: BaseModel | None) -> Lane | None:
    """Return the lane that the request, its key or its role asks for; None leaves it to its size.

    The request asks by the header X-Priority or the body's `priority`. A key may be held to bulk,
    whatever they say. Raises BadRequest for another word in the header, and if they differ.
    """
    header = lane_in_header()
    if header and header not in get_args(Lane):
        raise BadRequest(
            f"X-Priority: {header[:40]!r} is refused; it is interactive or bulk", param="X-Priority"
        )
    meant = lane_of(getattr(body, "priority", None))
    if header and meant and header != meant:
        raise BadRequest(
            f"X-Priority {header} and priority contradict each other; send one of them",
            param="priority",
        )
    who, asked = caller(), cast(Lane, header) if header else meant
    if who.priority == "bulk" or asked is None:
        asked = who.priority
    of_role = who.role in services().settings.current.bulk_roles
    return asked or ("bulk" if of_role else None)


def _keys_in(body: bytes, keys: tuple[str, ...]) -> set[str]:
    """Return which of these keys the body's object has, not null."""
    try:
        _only_null(keys).validate_json(body)
    except ValidationError as exc:
        errors = exc.errors(include_input=False, include_url=False)
        if errors[0]["type"] == "json_invalid":  # whoever wrote it meant this
            return {key for key in keys if b'"%s"' % key.encode() in body}
        return {str(error["loc"][0]) for error in errors if error["loc"]}
    return set()


@cache
def _only_null(keys: tuple[str, ...]) -> SchemaValidator:
    """Return what refuses each of these keys unless it is null, and makes no object of others."""
    null = core_schema.typed_dict_field(core_schema.none_schema(), required=False)
    return SchemaValidator(
        core_schema.typed_dict_schema(dict.fromkeys(keys, null), extra_behavior="ignore")
    )


def _is_json() -> bool:
    """Return whether the body is JSON by its type, or has none, as LiteLLM's for Voyage.

    Pages of other origins may send a body without a type unasked, as they may send text/plain.
    """
    kind = request.mimetype
    if kind == "application/json" or kind.endswith("+json"):
        return True
    dialect: Dialect | None = g.get("dialect")
    any_type = not kind or (dialect is not None and dialect.any_type)
    return any_type and not cors.from_another_origin()


def parse_form(model: type[Model]) -> Model:
    """Return a form. Raises BadRequest, Invalid, TooLarge."""
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
        raise BadRequest("the form has bytes that are not UTF-8") from None
    except (ValueError, RequestEntityTooLarge):  # the library says neither what nor where
        raise BadRequest(f"the form cannot be read; it may have {FIELDS} fields") from None
    return _of_fields(model, fields)


def parse_query(model: type[Model]) -> Model:
    """Return the query string. Raises Invalid."""
    return _of_fields(model, list(request.args.items(multi=True)))


def _of_fields(model: type[Model], fields: list[tuple[str, str]]) -> Model:
    given = dict(fields)
    if len(given) < len(fields):
        names = [name for name, _ in fields]
        twice = next(name for name in given if names.count(name) > 1)[:64]
        raise Invalid(f"{twice}: it is given more than once; give it once", param=twice)
    try:
        return model.model_validate(given)
    except ValidationError as exc:
        raise _explained(exc, model, b"") from None


def _explained(
    exc: ValidationError, model: type[BaseModel], body: bytes
) -> BadRequest | Invalid | TooLarge:
    """Return what is wrong in one sentence, without the input itself."""
    errors = exc.errors(include_input=False, include_url=False)
    first = errors[0]
    if first["type"] == "json_invalid":
        if "hex escape" in first["msg"]:
            lone = _surrogate_in(body) or "a string of the body"
            return Invalid(f"{lone} has half a surrogate pair, which is not Unicode text")
        return BadRequest(
            f"the body is not valid JSON: {first['msg'].removeprefix('Invalid JSON: ')}"
        )
    where = _path(first["loc"])
    if first["type"] == "too_long" and first["ctx"]["field_type"] == "List":
        most = first["ctx"]["max_length"]
        return TooLarge(f"{where}: over {most} items; at most {most} in one call", param=where)
    message = first["msg"].replace("Input should", "it should")
    if first["type"] == "extra_forbidden":
        message = f"there is no such field; {_valid_fields(model, first['loc'])}"
    message += " (and more)" if len(errors) > 1 else ""
    return Invalid(f"{where}: {message}" if where else message, param=where or None)


def _valid_fields(model: type[BaseModel], loc: Place) -> str:
    """Return the fields of the object in which an unknown one is, or the one that was meant."""
    for step in loc[:-1]:
        if step in model.model_fields:
            model = _model_in(model.model_fields[str(step)].annotation) or model
    if loc[-1] in MEANT and "texts" in model.model_fields:
        return "the texts go into texts"
    return f"the fields are {', '.join(model.model_fields)}"


def _model_in(kind: Any) -> type[BaseModel] | None:
    """Return the model in a field's type, if there is one."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    return next(filter(None, map(_model_in, get_args(kind))), None)


def _path(loc: Place) -> str:
    """Return a location as `texts.3`."""
    return ".".join(str(p)[:64] for i, p in enumerate(loc) if not (i == 1 and p in TAGS))


def _surrogate_in(body: bytes) -> str | None:
    """Return the field and index with half a surrogate pair, in a body that is JSON otherwise."""
    if len(body) > SEARCHED:
        return None
    try:
        return next((_path(p) or "the body" for p in _surrogates(json.loads(body), ())), None)
    except (ValueError, RecursionError):
        return None


def _surrogates(value: Any, place: Place) -> Iterator[Place]:
    if isinstance(value, str):
        if any("\ud800" <= char <= "\udfff" for char in value):
            yield place
    elif isinstance(value, dict | list) and len(place) <= 4:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(inner, str | dict | list):
                yield from _surrogates(inner, (*place, key))
