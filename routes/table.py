"""The one route table: every path with its method, body, reply, access rule and dialect.

A handler declares itself with `@route`; the factory turns the table into Flask rules, and the API
description is generated from it, so neither can forget a route. Handlers get parsed bodies and
return plain values or a `Reply`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import BaseModel

from accounts.access import Access

# Whose error bodies the route speaks.
Dialect = Literal["native", "openai"]
SMALL = 64 * 1024  # bytes: the most that a body may have, unless its route says otherwise


@dataclass(frozen=True)
class Reply:
    """A handler's answer. `body` is anything the JSON writer takes, numpy rows included.

    Bytes are sent as they are; their `Content-Type` is then among the headers.
    """

    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Route:
    """One row of the table. `path` is in Flask's notation."""

    method: str
    path: str
    handler: Callable[..., Any]
    access: Access
    body: type[BaseModel] | None
    query: type[BaseModel] | None
    reply: type[BaseModel] | None
    dialect: Dialect
    errors: tuple[int, ...]
    tag: str
    success: tuple[int, ...] = (200,)
    reads: type[BaseModel] | None = None  # a body that the handler reads itself: it may be missing
    form: bool = False  # that body may be a form, too, and may not be missing
    same: tuple[int, ...] = ()  # errors that have the reply's body
    other: str | None = None  # what else is answered than JSON
    large: bool = False  # whether a body may have MAX_REQUEST_BYTES: it embeds, writes or searches
    # Whether `*` in CORS_ORIGINS opens it to every page of a browser: it computes, or is public to
    # read. Any other answers only pages of origins that are named, or a caller with a credential.
    any_page: bool = False

    @property
    def summary(self) -> str:
        """The handler's one-line description."""
        return (self.handler.__doc__ or "").strip().splitlines()[0]

    @property
    def works(self) -> bool:
        """Whether it embeds, stores or searches. Only that is refused under overload.

        A scrape is let in: its numbers are wanted most just then.
        """
        embeds = self.tag in ("embed", "openai") and self.method == "POST"
        return embeds or self.tag == "collections"

    def most_bytes(self, large: int) -> int:
        """Return how many bytes a body may have, of the route's own or of the `large` ones."""
        return large if self.large else min(SMALL, large)

    @property
    def counted(self) -> bool:
        """Whether it counts against the caller's requests a minute.

        Probes and pages do not: whoever is refused a probe takes the service for dead, and ends it.
        """
        return self.access != "public" or self.path == "/token"


ROUTES: list[Route] = []


def guarded(rows: Iterable[Route], *, docs_public: bool) -> list[Route]:
    """Return the routes, the API's description for everybody or for whoever may embed.

    The pages at `/docs` and `/redoc` stay open: they hold nothing, and ask for a sign-in.
    """
    if docs_public:
        return list(rows)
    return [replace(row, access="embed") if row.path == "/openapi.json" else row for row in rows]


def route(
    method: str,
    path: str,
    *,
    access: Access,
    body: type[BaseModel] | None = None,
    query: type[BaseModel] | None = None,
    reply: type[BaseModel] | None = None,
    dialect: Dialect = "native",
    errors: tuple[int, ...] = (),
    tag: str = "service",
    success: tuple[int, ...] = (200,),
    reads: type[BaseModel] | None = None,
    form: bool = False,
    same: tuple[int, ...] = (),
    other: str | None = None,
    large: bool = False,
    any_page: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare a handler as a route. It is called with `body=`, `query=` and the path's values."""

    def declare(handler: Callable[..., Any]) -> Callable[..., Any]:
        ROUTES.append(
            Route(
                method,
                path,
                handler,
                access,
                body,
                query,
                reply,
                dialect,
                errors,
                tag,
                success,
                reads,
                form,
                same,
                other,
                large,
                any_page,
            )  # fmt: skip
        )
        return handler

    return declare
