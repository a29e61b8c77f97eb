"""The route table: every path with its method, body, reply, access rule and dialect.

A handler is declared with `@Route(...)`. The Flask rules and the API description are made from
this table, so neither can miss a route. Handlers get parsed bodies and return a reply's dictionary,
or a `Reply` where the status or the headers differ. What a route takes and answers is read from the
annotations of its handler.
"""

import functools
import operator
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel

from accounts.users import Access
from schemas.service import ErrorReply

Handler = TypeVar("Handler", bound=Callable[..., Any])
Body = TypeVar("Body")
SMALL = 64 * 1024  # bytes of a body, where the route does not allow large ones


class Failure(NamedTuple):
    """What is wrong with a request, which each dialect says in its own words and statuses."""

    status: int
    code: str  # the kind of error, for programs
    message: str
    param: str | None = None  # the field at fault
    request_id: str | None = None
    exc: Exception | None = None  # what was raised


@dataclass(frozen=True)
class Dialect:
    """Whose clients a route is for: what `error` makes of a failure is its status and its body.

    `error`'s annotation names the body's type. A path without a route that begins with one of
    `prefixes` is answered in this dialect too. With `any_type` a body is JSON whatever it says to
    be, unless a page of another origin sends it: curl calls it a form if it is told nothing.
    """

    name: str
    error: Callable[[Failure], tuple[int, Any]]
    prefixes: tuple[str, ...] = ()
    any_type: bool = False

    @property
    def reply(self) -> Any:
        """The type of its error bodies."""
        return get_args(self.error.__annotations__["return"])[1]


def _native(failure: Failure) -> tuple[int, ErrorReply]:
    body: ErrorReply = {
        "error": failure.message,
        "error_type": failure.code,
        "request_id": failure.request_id,
    }
    if failure.param is not None:
        body["param"] = failure.param
    return failure.status, body


NATIVE = Dialect("native", _native)


@dataclass(frozen=True)
class Reply(Generic[Body]):
    """A handler's answer. `body` is anything that the JSON writer takes, numpy rows included.

    Bytes are sent as they are; their `Content-Type` is then among the headers.
    """

    body: Body
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(eq=False)
class Route:
    """One row of the table, and the decorator that adds it. `path` is in Flask's notation.

    Several rows may have one method and path: they differ in `keys`. Of these the first takes the
    request that has one of its keys in the body's object, not null; the one without keys takes any
    other. Who may call and within what limits is the same for all of them.
    """

    method: str
    path: str
    _: KW_ONLY
    access: Access
    tag: str  # the section of the API description
    optional_body: type[BaseModel] | None = None  # the handler reads it: it may be missing
    form: bool = False  # `optional_body` may also be a form, and may not be missing
    other: str | None = None  # a media type that the route answers besides JSON
    success: tuple[int, ...] = (200,)
    errors: tuple[int, ...] = ()
    same: tuple[int, ...] = ()  # errors that have the reply's body
    dialect: Dialect = NATIVE
    keys: tuple[str, ...] = ()
    # Path values and body fields that name a collection: the caller's key must be valid for each.
    scope: tuple[str, ...] = ()
    # Whether it embeds, stores or searches: only such routes are refused under overload.
    works: bool = False
    # Whether it counts against the requests a minute. Probes and pages do not: a refused probe
    # would make an orchestrator restart the service.
    counted: bool = True
    # Whether a body may have MAX_REQUEST_BYTES, because the route embeds, writes or searches.
    large: bool = False
    # Whether the body is a file, which the handler itself reads, up to MAX_FILE_MB.
    file: bool = False
    # Whether `*` in CORS_ORIGINS allows it to every page in a browser, because it only computes or
    # is public. Other routes answer pages of named origins, or callers with a credential.
    any_page: bool = False
    # Whether callers change their own account here: their credential is then read from the
    # database, not from the row cache.
    own_account: bool = False
    # Whether it is asked every few seconds: success is logged at DEBUG.
    probe: bool = False
    handler: Callable[..., Any] = field(init=False)
    body: type[BaseModel] | None = field(init=False)
    query: type[BaseModel] | None = field(init=False)
    reply: Any = field(init=False)  # a typed dictionary, or one of several; None for files

    def __call__(self, handler: Handler) -> Handler:
        """Add a handler to the table. It is called with `body=`, `query=` and the path's values."""
        self.handler, kinds = handler, handler.__annotations__
        self.body, self.query = kinds.get("body"), kinds.get("query")
        bodies = [body for body in _bodies(kinds["return"]) if body is not bytes]
        self.reply = functools.reduce(operator.or_, bodies) if bodies else None
        ROUTES.append(self)
        return handler

    @property
    def endpoint(self) -> str:
        """The method and the path: Flask's endpoint."""
        return f"{self.method} {self.path}"

    @property
    def name(self) -> str:
        """The endpoint, and the keys of the body by which this row is chosen."""
        return " ".join((self.endpoint, *(f"{key}=" for key in self.keys)))

    @property
    def summary(self) -> str:
        """The handler's one-line description."""
        return (self.handler.__doc__ or "").strip().splitlines()[0]

    def most_bytes(self, large: int) -> int:
        """Return how many bytes a body may have; `large` is the limit of large bodies."""
        return large if self.large else min(SMALL, large)


def _bodies(annotation: Any) -> Iterator[Any]:
    """Yield the bodies of a handler's replies: of `Reply[A] | Reply[B]` A and B."""
    if isinstance(annotation, types.UnionType) or get_origin(annotation) in (Reply, Union):
        for part in get_args(annotation):
            yield from _bodies(part)
    else:
        yield annotation


ROUTES: list[Route] = []


def by_endpoint(rows: Iterable[Route]) -> dict[str, list[Route]]:
    """Return the rows of each endpoint: those with keys first, and the one without them last."""
    found: dict[str, list[Route]] = {}
    for row in sorted(rows, key=lambda row: not row.keys):
        found.setdefault(row.endpoint, []).append(row)
    return found
