"""`/openapi.json`: the API description, made from the route table, its bodies and its replies.

OpenAPI 3.1 (spec.openapis.org/oas/v3.1.0). The examples are calls that were made.
"""

import re
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, cast

import orjson
from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from auth import identify
from context import services
from routes.table import ROUTES, Route
from schemas.service import DescriptionReply, ErrorReply, OpenAIErrorReply

REF = "#/components/schemas/{model}"
# Statuses of any route: of gunicorn, the size limit and the error handler.
ANYWHERE = (400, 413, 500)
# Made by `python -m tests.routes.examples`.
EXAMPLES = Path(__file__).parent / "examples.json"
ABOUT = (
    "Text in, vectors out. Every example is a call that was made; `...` stands for a secret, and a "
    "long vector is cut to its first four numbers."
)
MEANINGS = {
    200: "Done.",
    201: "Created.",
    202: "Started; the job shows the progress.",
    400: "The request cannot be understood.",
    401: "The credential is missing or not valid.",
    403: "The caller may not do this.",
    404: "It does not exist.",
    405: "The method is not allowed.",
    409: "It conflicts with what exists.",
    413: "The request is too large.",
    415: "The body's media type is not supported.",
    422: "A value is not allowed.",
    429: "Too many requests; Retry-After says when to come back.",
    500: "An unexpected error; the log has it under the request id.",
    502: "A provider failed.",
    503: "Not ready; Retry-After says when to come back.",
    504: "The request's deadline passed.",
    507: "No space is left.",
}
BYTES = "application/octet-stream"
# The headers of a reply that is the bytes of an array.
OF_BYTES = {
    "X-Embedding-Shape": "Of a reply in bytes: the array's rows and columns, as `3,384`.",
    "X-Embedding-Dtype": "Of a reply in bytes: the type of its numbers, as numpy names it.",
    "X-Embedding-Tokens": "Of a reply in bytes: the tokens that the model read.",
}


@Route("GET", "/openapi.json", access="public", tag="service", any_page=True, counted=False)
def openapi() -> DescriptionReply:
    """Return the API description (OpenAPI)."""
    if not services().config.docs_public:
        identify("embed")
    return description(services().version, services().accounts.enabled)


@lru_cache(maxsize=2)
def description(version: str, auth: bool = False) -> DescriptionReply:
    """Return the OpenAPI document of the whole route table; `auth` is whether callers sign in."""
    rows = described()
    kinds: dict[JsonSchemaMode, set[Any]] = {
        "validation": {m for r in rows for m in (r.body, r.optional_body, r.query) if m},
        "serialization": {r.reply for r in rows} | {ErrorReply, OpenAIErrorReply},
    }
    shapes = [
        (model, mode, TypeAdapter(model))
        for mode, models in kinds.items()
        for model in sorted(models, key=str)
    ]
    names, schemas = TypeAdapter.json_schemas(shapes, ref_template=REF)
    components = schemas.get("$defs", {})
    paths: dict[str, Any] = {}
    for row in rows:
        operation = _operation(row, names, components, auth)
        paths.setdefault(described_path(row.path), {})[row.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "Embedding Service", "version": version, "description": ABOUT},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


@cache
def examples() -> dict[str, dict[str, Any]]:
    """Return the example calls by route: what was sent and what was answered."""
    return cast(dict[str, dict[str, Any]], orjson.loads(EXAMPLES.read_bytes()))


def described_path(rule: str) -> str:
    """Return a path of the table in OpenAPI's notation: `/users/{username}`."""
    return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule)


def statuses(row: Route) -> list[int]:
    """Return the statuses that a route may answer besides success."""
    found = {*row.errors, *row.same, *ANYWHERE}
    if row.access != "public":
        found |= {401, 403, 429}
    if row.body or row.query or row.optional_body:
        found |= {413, 415, 422}
    if "<" in row.path:
        found.add(404)
    return sorted(found)


def described() -> list[Route]:
    """Return every route that answers JSON, which the files of the pages do not."""
    return [row for row in ROUTES if row.reply is not None]


def _operation(row: Route, names: Any, components: dict[str, Any], auth: bool) -> dict[str, Any]:
    shown = examples().get(row.name, {})
    operation: dict[str, Any] = {
        "summary": row.summary,
        "operationId": f"{row.method.lower()}_{row.handler.__module__[7:]}_{row.handler.__name__}",
        "tags": [row.tag],
        "responses": _responses(row, names, shown),
    }
    if parameters := _parameters(row, names, components, shown):
        operation["parameters"] = parameters
    model = row.body or row.optional_body
    if model is not None:
        kinds = ["application/json"] + (["application/x-www-form-urlencoded"] if row.form else [])
        content = _content(names[model, "validation"], shown.get("body"))
        operation["requestBody"] = {
            "required": row.body is not None or row.form,
            "content": dict.fromkeys(kinds, content),
        }
    if row.access != "public":
        operation["security"] = [{"bearer": []}, {"key": []}] + ([] if auth else [{}])
    return operation


def _parameters(
    row: Route, names: Any, components: dict[str, Any], shown: dict[str, Any]
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True,
         "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"<(?:\w+:)?(\w+)>", row.path)
    ]  # fmt: skip
    if row.query is not None:
        schema = components[names[row.query, "validation"]["$ref"].rpartition("/")[2]]
        required = schema.get("required", ())
        found += [
            {"name": name, "in": "query", "required": name in required, "schema": part}
            for name, part in schema.get("properties", {}).items()
        ]
    for parameter in found:
        values = shown.get(parameter["in"], {})
        if parameter["name"] in values:
            parameter["example"] = values[parameter["name"]]
    return found


def _responses(row: Route, names: Any, shown: dict[str, Any]) -> dict[str, Any]:
    schema = names[row.reply, "serialization"]
    wrong = names[OpenAIErrorReply if row.dialect == "openai" else ErrorReply, "serialization"]
    answers: dict[str, Any] = {}
    for status in (*row.success, *statuses(row)):
        good = status in row.success
        example = shown.get("reply") if good and shown.get("status") == status else None
        body = schema if good or status in row.same else wrong
        content: dict[str, Any] = {"application/json": _content(body, example)}
        answers[str(status)] = {"description": MEANINGS[status], "content": content}
        if good and row.other is not None:
            content[row.other] = {"schema": {"type": "string"}}
        if good and row.other == BYTES:
            content[BYTES] = {"schema": {"type": "string", "format": "binary"}}
            answers[str(status)]["headers"] = {
                name: {"description": meaning, "schema": {"type": "string"}}
                for name, meaning in OF_BYTES.items()
            }
    return answers


def _content(schema: Any, example: Any) -> dict[str, Any]:
    return {"schema": schema} if example is None else {"schema": schema, "example": example}
