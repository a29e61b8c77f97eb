"""Prints `docs/api.md` from the route table and its models: `python -m routes > docs/api.md`."""

import json
from typing import Any

from routes.openapi import described_path, shapes, statuses, tags
from routes.table import ROUTES, Route

HEAD = """\
# The API

This page lists every route; it is made from the route table, and a test keeps it up to date. Your
own service has the same at `/redoc` to read, at `/docs` to try, and at `/openapi.json` for
programs, with an example of each call. All of it works without a network.

Who may call: *anyone*; *callers*, who may embed; *readers* and *writers* of collections; *admins*.
Without authentication everyone is a caller, a reader and a writer, and requests from the machine
itself are an admin's.

With `DOCS_PUBLIC=false` and `AUTH_ENABLED=true`, `/openapi.json` is for callers only. `/docs` and
`/redoc` then ask for a username and a password, or a key, before they show anything. They keep the
credential in the page's memory until the page is left.

A body may have 64 KB, or `MAX_REQUEST_BYTES` where texts or vectors are embedded, stored, searched
for or named by ids. An object in it may have 1,000 names; a whole body may have 500,000 lists,
objects and names, and 5,000,000 values. Null is the same as no field. A reply of vectors or records
has at most `MAX_REPLY_BYTES`. Anything over a limit is answered with 413.

A path is used as it is sent: slashes count, and a path that begins with two of them is a 404. Ids
in a path are UTF-8 with percent escapes.

Errors of our own routes are `{"error", "error_type", "request_id"}`; those of other services'
routes are what their clients read. The last column lists the statuses of each route. Any route may
also answer 500, which is a fault of the service.

A route *with* keys takes the bodies that have one of these keys, not null; the same path without
keys takes all others.

![A collection searched, with its map](img/collections-light.png)
"""
WHO = {"public": "anyone", "metrics": "callers, or anyone", "embed": "callers", "read": "readers",
       "write": "writers", "admin": "admins"}  # fmt: skip
TITLES = {"openai": "OpenAI", "tei": "TEI", "vllm": "vLLM"}


def page() -> str:
    """Return the text of `docs/api.md`."""
    parts = [HEAD]
    for tag in tags(ROUTES):
        parts += [f"## {TITLES.get(tag, tag.capitalize())}", _table(tag)]
    parts += ["## Bodies and replies", "A `?` marks an optional field.", _models()]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _table(tag: str) -> str:
    lines = ["| route | what it does | who | body | reply | statuses |", "|---" * 6 + "|"]
    for row in (row for row in ROUTES if row.tag == tag):
        replied = _kind(shapes()[0][row.reply, "serialization"]) if row.reply else "a file"
        replied += f", or {row.other}" if row.reply and row.other else ""
        errors = ", ".join(str(status) for status in statuses(row) if status != 500)
        done = ", ".join(map(str, row.success))
        lines.append(
            f"| {label(row)} | {row.summary} | {WHO[row.access]} "
            f"| {_asked(row)} | {replied} | {done}; {errors} |"
        )
    return "\n".join(lines)


def label(row: Route) -> str:
    """Return a route's name in the tables: its path, and its keys if it has some."""
    keys = " or ".join(f"`{key}`" for key in row.keys)
    return f"`{row.method} {described_path(row.path)}`" + (f" with {keys}" if keys else "")


def _asked(row: Route) -> str:
    parts = [_link(model.__name__) for model in (row.body, row.optional_body) if model]
    parts += ["a file"] * row.file
    if row.form:
        parts[-1] += ", or as a form"
    elif row.optional_body:
        parts[-1] += ", or nothing"
    if row.query:
        parts.append("query: " + ", ".join(f"`{name}`" for name in row.query.model_fields))
    return "; ".join(parts) or "none"


def _link(name: str) -> str:
    return f"[{name}](#{name.lower()})"


def _models() -> str:
    schemas = shapes()[1]
    shown = {row.query.__name__ for row in ROUTES if row.query}
    return "\n\n".join(
        _model(name, schema) for name, schema in sorted(schemas.items()) if name not in shown
    )


def _model(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", ())
    lines = [f"### {name}", "", schema.get("description", "").replace("\n", " "), ""]
    lines += ["| field | type | |", "|---|---|---|"]
    for field, part in schema.get("properties", {}).items():
        mark = "" if field in required else "?"
        says = part.get("description", "").replace("\n", " ").replace("|", "\\|")
        lines.append(f"| `{field}`{mark} | {_kind(part)} | {says}{_limits(part)} |")
    return "\n".join(lines)


def _kind(part: dict[str, Any]) -> str:
    """Return a schema in words: `string`, `list of integer`, a link to a model."""
    if "$ref" in part:
        return _link(part["$ref"].rpartition("/")[2])
    if "anyOf" in part or "oneOf" in part:
        kinds = dict.fromkeys(_kind(each) for each in part.get("anyOf") or part["oneOf"])
        return " or ".join(kinds)
    if "enum" in part or "const" in part:
        values = part.get("enum", [part.get("const")])
        return ", ".join(f"`{v if isinstance(v, str) else json.dumps(v)}`" for v in values)
    if part.get("type") == "array":
        return f"list of {_kind(part.get('items', {}))}"
    return str(part.get("type", "anything"))


def _limits(part: dict[str, Any]) -> str:
    default = part.get("default")
    return "" if default in (None, "", [], {}) else f" Default: `{json.dumps(default)}`."


if __name__ == "__main__":
    print(page(), end="")
