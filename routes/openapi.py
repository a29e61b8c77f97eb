"""`/openapi.json`: the API description, made from the route table, its bodies and its replies.

OpenAPI 3.1 (spec.openapis.org/oas/v3.1.0). The examples are calls that were made.
"""

import re
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, cast

import orjson
from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from auth import identify
from context import services
from routes.assets import ASK, Asset, served
from routes.table import ROUTES, Failure, Reply, Route, by_endpoint
from schemas.service import DescriptionReply

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
    424: "The model is not of the kind that this needs.",
    429: "Too many requests; Retry-After says when to come back.",
    500: "An unexpected error; the log has it under the request id.",
    502: "A provider failed.",
    503: "Not ready; Retry-After says when to come back.",
    504: "The request's deadline passed.",
    507: "No space is left.",
}
# The order of the sections; those that are not listed here come last.
ORDER = (
    "embed", "openai", "rerank", "tei", "cohere", "voyage", "ollama", "vllm", "collections",
    "models", "accounts", "providers", "settings",
)  # fmt: skip
BYTES = "application/octet-stream"
# The headers of a reply that is the bytes of an array.
OF_BYTES = {
    "X-Embedding-Shape": "Of a reply in bytes: the array's rows and columns, as `3,384`.",
    "X-Embedding-Dtype": "Of a reply in bytes: the type of its numbers, as numpy names it.",
    "X-Embedding-Tokens": "Of a reply in bytes: the tokens that the model read.",
}


@Route("GET", "/openapi.json", access="public", tag="service", any_page=True, counted=False)
def openapi() -> Reply[DescriptionReply] | Reply[bytes]:
    """Return the API description (OpenAPI)."""
    is_public = services().config.docs_public
    if not is_public:
        identify("embed")
    document = _document(services().version, services().accounts.enabled)
    return served(document, "default-src 'none'", keep=ASK if is_public else f"private, {ASK}")


@lru_cache(maxsize=2)
def _document(version: str, auth: bool) -> Asset:
    """Return the description as it goes over the wire: compressed it is a tenth of 470 kB."""
    return Asset.of(orjson.dumps(description(version, auth)), "application/json")


@lru_cache(maxsize=2)
def description(version: str, auth: bool = False) -> DescriptionReply:
    """Return the OpenAPI document of the whole route table; `auth` is whether callers sign in."""
    names, components = shapes()
    paths: dict[str, Any] = {}
    for variants in by_endpoint(described()).values():
        operation = _operation(variants, names, components, auth)
        row = variants[-1]
        paths.setdefault(described_path(row.path), {})[row.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "Embedding Service", "version": version, "description": ABOUT},
        "tags": [{"name": tag} for tag in tags(described())],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "azure": {"type": "apiKey", "in": "header", "name": "api-key"},
            },
        },
    }


@cache
def shapes() -> tuple[Any, dict[str, Any]]:
    """Return the schema of each body and reply by its type and mode, and what these refer to."""
    rows = described()
    kinds: dict[JsonSchemaMode, set[Any]] = {
        "validation": {m for r in rows for m in (r.body, r.optional_body, r.query) if m},
        "serialization": {kind for r in rows for kind in (r.reply, r.dialect.reply)},
    }
    wanted = [
        (model, mode, TypeAdapter(model))
        for mode, models in kinds.items()
        for model in sorted(models, key=str)
    ]
    names, schemas = TypeAdapter.json_schemas(wanted, ref_template=REF)
    return names, schemas.get("$defs", {})


@cache
def examples() -> dict[str, dict[str, Any]]:
    """Return the example calls by route: what was sent and what was answered."""
    return cast(dict[str, dict[str, Any]], orjson.loads(EXAMPLES.read_bytes()))


def described_path(rule: str) -> str:
    """Return a path of the table in OpenAPI's notation: `/users/{username}`."""
    return re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule)


def statuses(row: Route) -> list[int]:
    """Return the statuses that a route may answer besides success."""
    value = row.dialect.error(Failure(422, "", ""))[0]  # the dialect's status of a wrong value
    found = {value if status == 422 else status for status in (*row.errors, *row.same, *ANYWHERE)}
    if row.access != "public":
        found |= {401, 403, 429}
    if row.body or row.query or row.optional_body:
        found |= {413, 415, value}
    if "<" in row.path:
        found.add(404)
    return sorted(found)


def tags(rows: Sequence[Route]) -> list[str]:
    """Return the sections of these routes, in the order in which they are shown."""
    found = {row.tag for row in rows}
    return [*(tag for tag in ORDER if tag in found), *sorted(found - set(ORDER))]


def described() -> list[Route]:
    """Return every route that answers JSON, which the files of the pages do not."""
    return [row for row in ROUTES if row.reply is not None]


def _operation(
    rows: list[Route], names: Any, components: dict[str, Any], auth: bool
) -> dict[str, Any]:
    """Return the operation of an endpoint, whose rows take different bodies."""
    row = rows[-1]  # the one without keys
    name = f"{row.method.lower()}_{row.handler.__module__[7:]}_{row.handler.__name__}"
    operation: dict[str, Any] = {
        "summary": row.summary,
        "operationId": name.replace(".", "_") + (_word(row.path) if _is_twice(row) else ""),
        "tags": list(dict.fromkeys(each.tag for each in reversed(rows))),
        "responses": _responses(rows, names),
    }
    if len(rows) > 1:
        keyed = (f"With {' or '.join(f'`{k}`' for k in r.keys)}: {r.summary}" for r in rows[:-1])
        operation["description"] = " ".join((row.summary, *keyed))
    if parameters := _parameters(row, names, components, examples().get(row.name, {})):
        operation["parameters"] = parameters
    bodies = {r.name: model for r in reversed(rows) if (model := r.body or r.optional_body)}
    if bodies:
        kinds = ["application/json"] + (["application/x-www-form-urlencoded"] if row.form else [])
        shown = {name: examples().get(name, {}).get("body") for name in bodies}
        content = _content([names[model, "validation"] for model in bodies.values()], shown)
        operation["requestBody"] = {
            "required": row.body is not None or row.form,
            "content": dict.fromkeys(kinds, content),
        }
    if row.file:
        binary = {"schema": {"type": "string", "format": "binary"}}
        operation["requestBody"] = {"required": True, "content": {BYTES: binary}}
    if row.access != "public":
        operation["security"] = [{"bearer": []}, {"key": []}, {"azure": []}] + (
            [] if auth else [{}]
        )
    return operation


def _is_twice(row: Route) -> bool:
    """Return whether the handler has several paths, so that its name alone is no id."""
    return sum(other.handler is row.handler for other in ROUTES) > 1


def _word(path: str) -> str:
    return "_" + re.sub(r"\W+", "_", path).strip("_")


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


def _responses(rows: list[Route], names: Any) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    successes = list(dict.fromkeys(status for row in rows for status in row.success))
    others = sorted({status for row in rows for status in statuses(row)} - {*successes})
    for status in (*successes, *others):
        bodies, shown = [], {}
        for row in reversed(rows):
            good, example = status in row.success, examples().get(row.name, {})
            if good and example.get("status") == status:
                shown[row.name] = example.get("reply")
            if good or status in statuses(row):
                kind = row.reply if good or status in row.same else row.dialect.reply
                bodies.append(names[kind, "serialization"])
        content: dict[str, Any] = {"application/json": _content(bodies, shown)}
        answers[str(status)] = {"description": MEANINGS[status], "content": content}
        other = rows[-1].other if status in rows[-1].success else None
        if other is not None:
            content[other] = {"schema": {"type": "string"}}
        if other == BYTES:
            content[BYTES] = {"schema": {"type": "string", "format": "binary"}}
            answers[str(status)]["headers"] = {
                name: {"description": meaning, "schema": {"type": "string"}}
                for name, meaning in OF_BYTES.items()
            }
    return answers


def _content(schemas: list[Any], shown: dict[str, Any]) -> dict[str, Any]:
    """Return a body that has one of these forms, with its examples by the rows' names."""
    different = list({orjson.dumps(each): each for each in schemas}.values())
    content = {"schema": different[0] if len(different) == 1 else {"anyOf": different}}
    given = {name: example for name, example in shown.items() if example is not None}
    if len(given) == 1:
        return {**content, "example": next(iter(given.values()))}
    if given:
        content["examples"] = {name: {"value": example} for name, example in given.items()}
    return content
