"""Prints `docs/api.md` from the route table and its models: `python -m routes > docs/api.md`."""

import json
from typing import Any

from routes.openapi import described_path, description, statuses
from routes.table import ROUTES, Route

HEAD = """\
# The API

Every route, from the route table; a test holds this page to it. The same is in `/openapi.json`, to
read at `/redoc` and to try at `/docs` on your own service, with an example of each call. All of it
works without a network.

Who: *anyone*; *callers*, who may embed; *readers* and *writers* of collections; *admins*. With
authentication off everybody is a caller, a reader and a writer, and this very machine an admin.

With `DOCS_PUBLIC=false` and `AUTH_ENABLED=true`, `/openapi.json` is for callers only. `/docs` and
`/redoc` then ask for a username and a password, or a key, before they show anything; what they are
given stays in the page's memory and is gone when it is left.

A body has at most 64 KB, and `MAX_REQUEST_BYTES` where texts or vectors are embedded, stored,
searched for or named by ids. An object in it has at most 1,000 names; all of it at most 500,000
lists, objects and names, and 5,000,000 values. Null is the same as leaving a field out. A reply of
vectors or records has at most `MAX_REPLY_BYTES`. What is over a limit is answered 413.

A path is taken as it comes: slashes count, two at its beginning are a 404, and ids are
percent-encoded as UTF-8.

Errors are `{"error", "error_type", "request_id"}`, and on `/v1` as OpenAI writes them; the last
column has each route's. Any route may also answer 500, which is a fault of the service.

![A collection searched, with its map](img/collections-light.png)
"""
WHO = {"public": "anyone", "embed": "callers", "read": "readers", "write": "writers",
       "admin": "admins"}  # fmt: skip
# The sections, the first that a newcomer needs first; a tag that is not named here comes last.
ORDER = ("embed", "openai", "collections", "models", "accounts", "providers", "settings")
TITLES = {"openai": "OpenAI"}


def page() -> str:
    """Return the text of `docs/api.md`."""
    parts = [HEAD]
    tags = {row.tag for row in ROUTES}
    for tag in [*ORDER, *sorted(tags - set(ORDER))]:
        parts += [f"## {TITLES.get(tag, tag.capitalize())}", _table(tag)]
    parts += ["## Bodies and replies", "A `?` marks what may be left out.", _models()]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _table(tag: str) -> str:
    lines = [
        "| route | what it does | who | body | reply | statuses |",
        "|---|---|---|---|---|---|",
    ]
    for row in (row for row in ROUTES if row.tag == tag):
        path = described_path(row.path)
        asked = _asked(row)
        replied = _link(row.reply.__name__) if row.reply else "a file"
        errors = ", ".join(str(status) for status in statuses(row) if status != 500)
        done = ", ".join(map(str, row.success))
        lines.append(
            f"| `{row.method} {path}` | {row.summary} | {WHO[row.access]} | {asked} | {replied} "
            f"| {done}; {errors} |"
        )
    return "\n".join(lines)


def _asked(row: Route) -> str:
    parts = [_link(model.__name__) for model in (row.body, row.reads) if model]
    if row.form:
        parts[-1] += ", or as a form"
    elif row.reads:
        parts[-1] += ", or nothing"
    if row.query:
        names = ", ".join(f"`{name}`" for name in row.query.model_fields)
        parts.append(f"query: {names}")
    return "; ".join(parts) or "none"


def _link(name: str) -> str:
    return f"[{name}](#{name.lower()})"


def _models() -> str:
    schemas = description("").get("components", {})["schemas"]
    shown = {model.__name__ for row in ROUTES for model in (row.query,) if model}
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
    """Write a schema in words: `string`, `list of integer`, a link to a model."""
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
