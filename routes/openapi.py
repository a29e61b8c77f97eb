"""`/openapi.json`: the API's description, made of the route table and the bodies' own schemas.

OpenAPI 3.1 (spec.openapis.org/oas/v3.1.0). Nothing here is written twice: paths, parameters and
statuses come from the table, so the description cannot forget a route; the examples are calls that
were made.
"""

import re
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from context import services
from routes.table import ROUTES, Route, route
from schemas.status import DescriptionReply, ErrorReply, OpenAIErrorReply

REF = "#/components/schemas/{model}"
# Statuses that any route may answer: what gunicorn, the size cap and the error handler say.
ANYWHERE = (400, 413, 500)
# Made by `python -m tests.routes.examples`.
EXAMPLES = Path(__file__).parent / "examples.json"
ABOUT = (
    "Text in, vectors out. Every example is of a call that was made; `...` stands for what was "
    "secret, and of a long vector the first four numbers are shown."
)
MEANINGS = {
    200: "Done.",
    201: "Made.",
    202: "Begun; the job tells how far it is.",
    400: "The request cannot be understood.",
    401: "Nobody known is calling.",
    403: "The caller may not do this.",
    404: "There is no such thing.",
    405: "Not this method.",
    409: "It conflicts with what is there.",
    413: "The request is too large.",
    415: "The body's type is not read.",
    422: "A value is not allowed.",
    429: "Too many requests; Retry-After says when to come back.",
    500: "An unexpected error; the log has it under the request's id.",
    502: "A provider failed.",
    503: "Not ready; Retry-After says when to come back.",
    504: "The request's deadline passed.",
    507: "No room is left.",
}


@route("GET", "/openapi.json", access="public", any_page=True, reply=DescriptionReply,
       tag="service")  # fmt: skip
def openapi() -> dict[str, Any]:
    """Describe every route as OpenAPI does."""
    return description(services().version, services().accounts.enabled)


@lru_cache(maxsize=2)
def description(version: str, auth: bool = False) -> dict[str, Any]:
    """Return the OpenAPI document of the whole route table; `auth` says who must sign in."""
    rows = described()
    bodies: set[type[BaseModel]] = {
        m for row in rows for m in (row.body, row.reads, row.query) if m
    }
    replies: set[type[BaseModel]] = {row.reply for row in rows if row.reply}
    replies |= {ErrorReply, OpenAIErrorReply}
    modes = [(m, "validation") for m in _sorted(bodies)]
    modes += [(m, "serialization") for m in _sorted(replies)]
    names, schemas = models_json_schema(modes, ref_template=REF)  # type: ignore[arg-type]
    components = dict(schemas.get("$defs", {}))
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
    """Return the real calls that are shown, by route: what was asked and what was answered."""
    found: dict[str, dict[str, Any]] = orjson.loads(EXAMPLES.read_bytes())
    return found


def described_path(rule: str) -> str:
    """Write a rule of the table as OpenAPI does: `/users/{username}`."""
    return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule)


def statuses(row: Route) -> list[int]:
    """Return every status but success that a route may answer."""
    found = {*row.errors, *row.same, *ANYWHERE}
    if row.access != "public":
        found |= {401, 403, 429}
    if row.body or row.query or row.reads:
        found |= {413, 415, 422}
    if "<" in row.path:
        found.add(404)
    return sorted(found)


def described() -> list[Route]:
    """Return every route but those of the pages, which answer no JSON."""
    return [row for row in ROUTES if row.tag != "web"]


def _sorted(models: set[type[BaseModel]]) -> list[type[BaseModel]]:
    return sorted(models, key=lambda model: (model.__module__, model.__name__))


def _operation(row: Route, names: Any, components: dict[str, Any], auth: bool) -> dict[str, Any]:
    shown = examples().get(f"{row.method} {row.path}", {})
    operation: dict[str, Any] = {
        "summary": row.summary,
        "operationId": f"{row.method.lower()}_{row.handler.__module__[7:]}_{row.handler.__name__}",
        "tags": [row.tag],
        "responses": _responses(row, names, shown),
    }
    parameters = [_in_path(name) for name in re.findall(r"<(?:\w+:)?(\w+)>", row.path)]
    if row.query is not None:
        schema = _resolved(names[row.query, "validation"], components)
        parameters += _in_query(schema)
    if parameters:
        operation["parameters"] = [_with_example(each, shown) for each in parameters]
    model = row.body or row.reads
    if model is not None:
        schema = names[model, "validation"]
        kinds = ["application/json"] + (["application/x-www-form-urlencoded"] if row.form else [])
        content = {kind: _shown(schema, shown.get("body")) for kind in kinds}
        required = row.body is not None or row.form
        operation["requestBody"] = {"required": required, "content": content}
    if row.access != "public":
        operation["security"] = [{"bearer": []}, {"key": []}] + ([] if auth else [{}])
    return operation


def _responses(row: Route, names: Any, shown: dict[str, Any]) -> dict[str, Any]:
    schema = names[row.reply, "serialization"] if row.reply else {}
    wrong = OpenAIErrorReply if row.dialect == "openai" else ErrorReply
    answers = {}
    for status in row.success:
        example = shown.get("reply") if shown.get("status") == status else None
        answers[str(status)] = _answer(status, schema, example, row.other)
    for status in statuses(row):
        body = schema if status in row.same else names[wrong, "serialization"]
        answers[str(status)] = _answer(status, body)
    return answers


def _answer(status: int, schema: Any, example: Any = None, other: str | None = None) -> Any:
    content = {"application/json": _shown(schema, example)}
    if other is not None:
        content[other] = {"schema": {"type": "string"}}
    return {"description": MEANINGS[status], "content": content}


def _shown(schema: Any, example: Any) -> dict[str, Any]:
    return {"schema": schema} if example is None else {"schema": schema, "example": example}


def _with_example(parameter: dict[str, Any], shown: dict[str, Any]) -> dict[str, Any]:
    values = shown.get(parameter["in"], {})
    name = parameter["name"]
    return {**parameter, "example": values[name]} if name in values else parameter


def _in_path(name: str) -> dict[str, Any]:
    schema = {"type": "string", "minLength": 1}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _in_query(schema: dict[str, Any]) -> list[dict[str, Any]]:
    required = schema.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": part}
        for name, part in schema.get("properties", {}).items()
    ]


def _resolved(schema: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = components[schema["$ref"].rpartition("/")[2]]
    return found
