"""What a running service holds: its models and collections, and what a search of one finds."""

import json
from typing import Annotated, Any
from urllib.parse import quote

import typer

from tools.answers import Json, say, table, told
from tools.service import HERE, Key, Service, Url

opt = typer.Option
QUIET: dict[str, Any] = {
    "add_completion": False, "pretty_exceptions_enable": False, "rich_markup_mode": None,
}  # fmt: skip
models_app, collections_app, search_app = (typer.Typer(**QUIET) for _ in range(3))
PAGE = 1000  # collections that one request lists
TEXT_SHOWN = 100  # characters of a text in a table

MODELS = """\b
examples:
  embedding-service models
  embedding-service models --url http://gpu-box:8001 --json
"""
COLLECTIONS = """\b
examples:
  embedding-service collections
  embedding-service collections --json
"""
SEARCH = """\b
examples:
  embedding-service search docs "how do I cancel my order"
  embedding-service search docs refund -k 3 --filter '{"lang": "en"}' --json
"""


@models_app.command(epilog=MODELS)
def models(url: Url = HERE, key: Key = None, as_json: Json = False) -> None:
    """List the models of a running service; * marks the default."""
    with told(as_json):
        service = Service(url, key)
        reply = service.ask("GET", "/models")
        try:
            rows = [_model(row, reply["default"]) for row in reply["data"]]
        except (LookupError, TypeError):
            raise service.stranger() from None
        head = ("MODEL", "STATUS", "KIND", "DIM", "TOKENS", "DEVICE", "DTYPE", "WHY NOT")
        say(reply, table(head, rows), as_json)


def _model(row: dict[str, Any], default: str) -> tuple[str, ...]:
    facts = ("kind", "dimension", "max_seq_length", "device", "dtype")
    known = tuple("-" if row[name] is None else str(row[name]) for name in facts)
    mark = " *" if row["id"] == default else ""
    return (row["id"] + mark, row["status"], *known, row["reason"] or "")


@collections_app.command(epilog=COLLECTIONS)
def collections(url: Url = HERE, key: Key = None, as_json: Json = False) -> None:
    """List the collections of a running service."""
    rows: list[dict[str, Any]] = []
    damaged: list[str] = []
    with told(as_json):
        service = Service(url, key)
        path: str | None = f"/collections?limit={PAGE}"
        try:
            while path:
                reply = service.ask("GET", path)
                rows += reply["collections"]
                damaged += reply["damaged"]
                cursor = reply["next_cursor"]
                path = cursor and f"/collections?limit={PAGE}&cursor={quote(cursor, safe='')}"
            cells = [_collection(row) for row in rows]
        except (LookupError, TypeError):
            raise service.stranger() from None
        cells += [(name, "DAMAGED", "-", "-", "-", "-") for name in damaged]
        head = ("COLLECTION", "TEXTS", "DIM", "METRIC", "MODEL", "ALIASES")
        nothing = "no collections yet; embedding-service embed FILE --store NAME makes one"
        text = table(head, cells) if cells else nothing
        say({"collections": rows, "damaged": damaged}, text, as_json)


def _collection(row: dict[str, Any]) -> tuple[str, ...]:
    aliases = ", ".join(row["aliases"]) or "-"
    return (row["name"], f"{row['count']:,}", str(row["dimension"]), row["metric"],
            row["model"] or "-", aliases)  # fmt: skip


@search_app.command(epilog=SEARCH)
def search(
    collection: Annotated[str, typer.Argument(help="Name or alias of the collection.")],
    text: Annotated[str, typer.Argument(help="What to look for, in words.")],
    count: Annotated[int, opt("-k", "--count", min=1, help="Most results.")] = 10,
    filter: Annotated[str | None, opt(
        metavar="JSON", help="Only records with such metadata (docs/store.md).")] = None,
    min_score: Annotated[float | None, opt(help="Only results with this score or more.")] = None,
    url: Url = HERE,
    key: Key = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Search a collection by meaning: the nearest texts, the best first."""
    body: dict[str, Any] = {"text": text, "k": count}
    if filter is not None:
        try:
            body["filter"] = json.loads(filter)
        except ValueError as exc:
            example = """as in '{"lang": "en"}'"""
            raise typer.BadParameter(f"--filter must be JSON, {example} ({exc})") from None
    if min_score is not None:
        body["min_score"] = min_score
    with told(as_json):
        service = Service(url, key)
        reply = service.ask("POST", f"/collections/{quote(collection, safe='')}/search", body)
        try:
            rows = [(f"{row['score']:.3f}", row["id"], _shown(row)) for row in reply["results"]]
        except (LookupError, TypeError, ValueError):
            raise service.stranger() from None
        say(reply, table(("SCORE", "ID", "TEXT"), rows) if rows else "nothing found", as_json)


def _shown(row: dict[str, Any]) -> str:
    text = " ".join((row.get("text") or "").split())
    return text if len(text) <= TEXT_SHOWN else text[: TEXT_SHOWN - 1] + "…"
