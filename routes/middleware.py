"""What happens to every request around its handler, in this order.

begin: clock, request id, trace -> view: who, how many at once, how often, which collections, body
-> handler -> JSON -> finish: headers, metrics, log line -> end.
"""

import logging
import re
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import orjson
from flask import Flask, Response, g, request
from werkzeug.routing import PathConverter

import cors
from auth import allow_collection, caller, identify, logged, sees_all, session_token
from context import services
from observability import metrics, tracing
from observability.logs import line
from rate_limits import Permit, add_headers, throttle
from routes.body_limits import read_body
from routes.parse import (
    body_of,
    check_url,
    choose,
    lane_in_header,
    parse_body,
    parse_lane,
    parse_query,
    read_json,
    read_strictly,
)
from routes.table import Reply, Route, by_endpoint

access_log = logging.getLogger("access")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class AnyText(PathConverter):
    """The rest of a path, whatever it is: an id may begin with a slash or hold a line feed."""

    regex = "(?s:.+)"
    part_isolating = False


def register(app: Flask, rows: list[Route]) -> None:
    """Make each endpoint a rule of Flask's, with the hooks around it."""
    # A path is taken as it came: with slashes merged, `/c/vectors//a` would be the record `a`.
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = False
    app.url_map.converters["path"] = AnyText
    app.before_request(_begin)
    app.before_request(check_url)
    for endpoint, variants in by_endpoint(rows).items():
        row = variants[-1]
        # A slash at the end does not count, except after a name: `/collections/c/` may be what a
        # client made of `/collections/c/vectors/..`, and must not delete the collection.
        rule: dict[str, Any] = {"methods": [row.method], "strict_slashes": row.path.endswith(">")}
        app.add_url_rule(row.path, endpoint, _view(variants), **rule)
    every_page = {row.endpoint for row in rows if row.any_page}
    app.after_request(lambda response: _finish(response, every_page))
    app.teardown_request(_end)


def _begin() -> None:
    g.started = time.monotonic()
    metrics.IN_FLIGHT.inc()
    g.deadline = g.started + services().settings.current.request_deadline_s
    given = request.headers.get("X-Request-ID", "")
    g.trace = tracing.begin(f"{_method()} {_path()}", request.headers.get)
    g.request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _view(rows: list[Route]) -> Callable[..., Response]:
    row = rows[-1]  # who may call, and within what limits, is the same for all

    def view(**values: Any) -> Response:
        g.probe, g.dialect = row.probe, row.dialect
        identify(row.access, own_account=row.own_account)
        if not row.any_page and caller().role == "anonymous":
            cors.keep_out_pages()
        with _permit() if row.works else nullcontext() as g.permit:
            answer = _handle(rows, values)
        reply = answer if isinstance(answer, Reply) else Reply(answer)
        # A model's name may have any letters, and a header only those of ASCII.
        headers = {
            name: value.encode("ascii", "backslashreplace").decode()
            for name, value in reply.headers.items()
        }
        if isinstance(reply.body, bytes):
            return Response(reply.body, reply.status, headers)
        content = orjson.dumps(reply.body, option=orjson.OPT_SERIALIZE_NUMPY)
        response = Response(content, reply.status, content_type="application/json")
        response.headers.extend(headers)
        return response

    return view


def _permit() -> AbstractContextManager[Permit]:
    """Return leave to run. Raises QueueFull if there is none when it is entered.

    What its header or its key makes bulk is refused before its body is read, so that repeated
    requests do not take the permits of interactive ones meanwhile.
    """
    bulk = caller().priority == "bulk" or lane_in_header() == "bulk"
    if bulk:
        tracing.describe(lane="bulk")
    return throttle().permits.one(bulk=bulk)


def _handle(rows: list[Route], values: dict[str, Any]) -> Any:
    """Count a request, check its scope, parse its body and query, and call its handler."""
    row, raw, body = rows[-1], None, None
    if row.counted:
        throttle().count_request()
    for name in row.scope:
        if name in values:
            allow_collection(values[name])
    request.max_content_length = row.most_bytes(services().config.max_request_bytes)
    if len(rows) > 1:
        raw = read_json()
        body = read_strictly(row.body, raw)
        row = choose(rows, raw) if body is None else row
        g.dialect = row.dialect
    elif row.body is None and row.optional_body is None and not row.file:
        read_body()  # not wanted, but read to its end within the limit
    if row.query is not None:
        values["query"] = parse_query(row.query)
    if row.body is not None:
        if body is None:
            body = parse_body(row.body) if raw is None else body_of(row.body, raw)
        values["body"] = body
        for name in row.scope:
            if name not in values:
                allow_collection(getattr(body, name))
    if row.works:
        g.lane = parse_lane(body)
    return row.handler(**values)


def _finish(response: Response, every_page: set[str]) -> Response:
    response.headers["X-Request-ID"] = g.request_id
    response.headers["X-Content-Type-Options"] = "nosniff"
    if lane := g.trace.facts.get("lane"):
        response.headers["X-Priority"] = lane
    add_headers(response)
    cors.let_pages_read(response, every_page)
    if session_token():  # caches between know Authorization, but no cookie of ours
        response.headers.setdefault("Cache-Control", "no-store")
    _measure(response)
    facts = {
        "method": request.method,
        "path": request.path,
        **g.get("facts", {}),
        **logged(),
        "status": response.status_code,
        "ms": round((time.monotonic() - g.started) * 1000, 1),
        "id": g.request_id,
        **({"trace": g.trace.id} if g.trace.id else {}),
    }
    # A line for each good answer to a probe would be most of the log.
    quiet = g.get("probe", False) and response.status_code < 300
    level = logging.DEBUG if quiet else logging.INFO
    access_log.log(level, line(facts), extra={"facts": facts})
    return response


def _measure(response: Response) -> None:
    """Measure a request by its route, never by its path, and add `Server-Timing`."""
    took = time.monotonic() - g.started
    # Stages show whether a text was cached. Where callers have accounts, only admins may know.
    stages = bool(g.trace.times) and (not services().accounts.enabled or sees_all())
    response.headers["Server-Timing"] = g.trace.server_timing(took, stages=stages)
    metrics.REQUESTS.labels(_path(), _method(), response.status_code).inc()
    kind = f"{response.status_code // 100}xx"
    metrics.REQUEST_SECONDS.labels(_path(), kind).observe(took)
    facts = {
        "http.request.method": _method(),
        "http.route": _path(),
        "http.response.status_code": response.status_code,
        "embedding.request_id": g.request_id,
    }
    g.trace.end(facts, failed=response.status_code >= 500)


def _path() -> str:
    return request.url_rule.rule if request.url_rule else "none"


def _method() -> str:
    return request.method if request.method in METHODS else "other"


def _end(_: BaseException | None) -> None:
    if "started" in g:
        metrics.IN_FLIGHT.dec()
    tracing.forget()
