"""`/openapi.json`: the API's description, made of the route table and the bodies' own schemas.

OpenAPI 3.1 (spec.openapis.org/oas/v3.1.0). Nothing here is written twice: paths, parameters and
statuses come from the table, so the description cannot forget a route.
"""

import re
from functools import lru_cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from context import services
from routes.table import ROUTES, Route, route

REF = "#/components/schemas/{model}"
# Statuses that any route may answer: what gunicorn, the size cap and the error handler say.
ANYWHERE = (400, 500)
MEANINGS = {
    200: "Done.",
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


@route("GET", "/openapi.json", access="public", tag="service")
def openapi() -> dict[str, Any]:
    """Describe every route as OpenAPI does."""
    return description(services().version)


@lru_cache(maxsize=1)
def description(version: str) -> dict[str, Any]:
    """Return the OpenAPI document of the whole route table."""
    bodies = {m for row in described() for m in (row.body, row.query) if m}
    replies = {row.reply for row in described() if row.reply}
    modes = [(m, "validation") for m in _sorted(bodies)]
    modes += [(m, "serialization") for m in _sorted(replies)]
    names, schemas = models_json_schema(modes, ref_template=REF)  # type: ignore[arg-type]
    components = dict(schemas.get("$defs", {}))
    paths: dict[str, Any] = {}
    for row in described():
        operation = _operation(row, names, components)
        paths.setdefault(_path(row.path), {})[row.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "Embedding Service", "version": version},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def described() -> list[Route]:
    """Return every route but those of the pages, which answer no JSON."""
    return [row for row in ROUTES if row.tag != "web"]


def _sorted(models: set[type[BaseModel]]) -> list[type[BaseModel]]:
    return sorted(models, key=lambda model: (model.__module__, model.__name__))


def _path(rule: str) -> str:
    return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule)


def _operation(row: Route, names: Any, components: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": row.summary,
        "operationId": f"{row.method.lower()}_{row.handler.__module__[7:]}_{row.handler.__name__}",
        "tags": [row.tag],
        "responses": _responses(row, names),
    }
    parameters = [_in_path(name) for name in re.findall(r"<(?:\w+:)?(\w+)>", row.path)]
    if row.query is not None:
        schema = _resolved(names[row.query, "validation"], components)
        parameters += _in_query(schema)
    if parameters:
        operation["parameters"] = parameters
    if row.body is not None:
        content = {"application/json": {"schema": names[row.body, "validation"]}}
        operation["requestBody"] = {"required": True, "content": content}
    if row.access != "public":
        operation["security"] = [{}, {"bearer": []}, {"key": []}]
    return operation


def _responses(row: Route, names: Any) -> dict[str, Any]:
    schema = names[row.reply, "serialization"] if row.reply else {}
    answers = {
        str(status): {
            "description": MEANINGS[200],
            "content": {"application/json": {"schema": schema}},
        }
        for status in row.success
    }
    if row.access != "public":
        statuses = {*row.errors, *ANYWHERE, 401, 403, 429}
    else:
        statuses = {*row.errors, *ANYWHERE}
    if row.body is not None or row.query is not None:
        statuses |= {413, 415, 422}
    if "<" in row.path:
        statuses.add(404)
    for status in sorted(statuses):
        answers[str(status)] = {"description": MEANINGS.get(status, "An error.")}
    return answers


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
