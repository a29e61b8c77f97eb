"""Builds the application: its lines are in the order in which a request meets them.

size cap -> request id and clock -> route table -> parse -> handler -> JSON -> headers -> log line.
"""

import functools
import logging
import re
import time
import uuid
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import orjson
from flask import Flask, Response, g, request
from pydantic import SecretStr
from werkzeug.routing import PathConverter

import cors
import embedders
import routes.errors
from accounts import Accounts
from accounts.provider_keys import Vault
from auth import allow_collection, caller, identify, logged, sees_all
from cache import open_cache
from config import Config, load_config
from context import KEY, Services, services
from documents import Library
from documents.reembed import Reembedder
from embedders.providers import Providers, environment_keys
from engine import Engine
from observability import metrics, tracing
from observability.logs import line
from rate_limits import Throttle, add_headers, throttle
from recall import Recall
from routes import ROUTES, health
from routes.parse import check_url, parse_body, parse_query, read_body
from routes.table import Reply, Route, guarded
from server import master, rolling_reload, worker
from server.proxies import Proxies
from serving.health import watch, wind_up
from serving.registry import Build, Registry
from settings import open_settings
from settings.apply import Follower, models_of
from store import VectorStore, open_store
from store.instrumented import metered
from store.lazy import open_or_wait

access_log = logging.getLogger("access")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
FOR_EVERY_PAGE = {f"{row.method} {row.path}" for row in ROUTES if row.any_page}
# Asked every few seconds: a line for each answer that all is well would be most of the log.
PROBES = ("/health", "/health/live", "/health/ready", "/metrics")
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class AnyText(PathConverter):
    """The rest of a path, whatever it is: an id may begin with a slash or hold a line feed."""

    regex = "(?s:.+)"
    part_isolating = False


def create_app(
    config: Config | None = None,
    *,
    build: Build | None = None,
    wait: bool = False,
    pause_s: float = 0.0,
) -> Flask:
    """Build the service. Its models load in a thread, `pause_s` from now.

    `wait` loads them before returning, as tests and scripts need.
    """
    config = config or load_config()
    app = Flask("embedding-service", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = config.max_request_bytes
    # A path is taken as it came: with slashes merged, `/c/vectors//a` would be the record `a`.
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = False
    app.url_map.converters["path"] = AnyText
    settings = open_settings(config)
    vault = Vault(config.db_url.get_secret_value(), config, environment_keys(config))
    providers = Providers(config, vault.get_key)
    build = build or functools.partial(embedders.build, providers=providers)
    registry = Registry(*models_of(settings.state), settings.current, build)
    cache = open_cache(config)
    engine = Engine(registry, settings.current.truncate, Recall(cache) if cache else None)
    settings.bind(Follower(engine, settings.state).prepare)
    store = _store(config)
    limits = Throttle(app, config)
    app.extensions[KEY] = Services(
        config=config,
        accounts=Accounts(config),
        engine=engine,
        cache=cache,
        settings=settings,
        providers=providers,
        vault=vault,
        library=Library(engine, store),
        reembedder=Reembedder(engine, store, limits.count_for),
        version=version(),
    )
    proxies = Proxies(app.wsgi_app, config.trusted_proxy_hops, config.trusted_proxies)
    app.wsgi_app = proxies  # type: ignore[method-assign]
    app.before_request(_begin)
    app.before_request(check_url)
    for row in guarded(ROUTES, docs_public=config.docs_public):
        _add(app, row)
    routes.errors.register(app)
    app.after_request(_finish)
    app.teardown_request(_end)
    vault.renew()
    if wait:
        registry.load_now()
    else:
        registry.start(pause_s)
    app.extensions[KEY].reembedder.resume()
    settings.follow()
    app.extensions[KEY].accounts.start()
    return app


def create_worker(config: Config, *, build: Build | None = None) -> Flask:
    """Build the service as a worker of gunicorn runs it: watched, relieved, told of its stop."""
    app = create_app(config, build=build, pause_s=master.pause_s())
    registry = app.extensions[KEY].engine.registry
    watch(registry, settled=master.settle, ready=rolling_reload.take_over)
    health.watch(app.extensions[KEY], app.extensions["throttle"])
    worker.near_the_end.append(lambda: wind_up(registry))
    return app


def _store(config: Config) -> VectorStore:
    """Open the vector store that is configured; every call on it is counted."""
    url, folder = secret(config.store_url), config.store_dir
    options: dict[str, Any] = {
        "shards": config.store_shards,
        "ann_above": config.store_ann_above,
        "fsync": config.store_fsync,
        "lock_timeout_s": config.store_lock_timeout_s,
    }
    return metered(open_or_wait(lambda: open_store(url, folder, **options)))


def version() -> str:
    """Return the version: the top heading of the change log."""
    changes = (Path(__file__).parent / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.search(r"^## (\S+)", changes, re.MULTILINE)
    return found[1] if found else "unknown"


def secret(value: SecretStr | None) -> str | None:
    """Return what a secret setting holds."""
    return value.get_secret_value() if value else None


def _begin() -> None:
    g.started = time.monotonic()
    metrics.IN_FLIGHT.inc()
    g.deadline = g.started + services().settings.current.request_deadline_s
    given = request.headers.get("X-Request-ID", "")
    g.trace = tracing.begin(f"{_method()} {_route()}", request.headers.get)
    g.request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _add(app: Flask, row: Route) -> None:
    """Make a row of the table a rule of Flask's.

    A slash at the end does not count, but after a name: there it is what a client leaves of
    `/collections/c/vectors/..`, and to take it for `/collections/c` would delete the collection.
    """
    name, exactly = f"{row.method} {row.path}", row.path.endswith(">")
    app.add_url_rule(row.path, name, _view(row), methods=[row.method], strict_slashes=exactly)


def _view(row: Route) -> Callable[..., Response]:
    """Wrap a handler: who, how many at once, then `_handle`, then write its answer."""

    def view(**values: Any) -> Response:
        identify(row.access)
        if not row.any_page and caller().role == "anonymous":
            cors.keep_out_pages()
        with throttle().permits.one() if row.works else nullcontext():
            answer = _handle(row, values)
        reply = answer if isinstance(answer, Reply) else Reply(answer)
        if isinstance(reply.body, bytes):  # written already, in a form of its own
            return Response(reply.body, reply.status, dict(reply.headers))
        content = orjson.dumps(reply.body, option=orjson.OPT_SERIALIZE_NUMPY)
        response = Response(content, reply.status, content_type="application/json")
        response.headers.extend(reply.headers)
        return response

    return view


def _handle(row: Route, values: dict[str, Any]) -> Any:
    """Count it, parse what the handler declared, call it."""
    if row.counted:
        throttle().count_request()
    if row.tag == "collections" and "name" in values:
        allow_collection(values["name"])
    request.max_content_length = row.most_bytes(services().config.max_request_bytes)
    if row.body is None and row.reads is None:
        read_body()  # which nobody asked for: it is bounded, and read to its end
    if row.query is not None:
        values["query"] = parse_query(row.query)
    if row.body is not None:
        values["body"] = parse_body(row.body)
    return row.handler(**values)


def _finish(response: Response) -> Response:
    response.headers["X-Request-ID"] = g.request_id
    response.headers["X-Content-Type-Options"] = "nosniff"
    add_headers(response)
    cors.let_pages_read(response, FOR_EVERY_PAGE)
    _count(response)
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
    quiet = _route() in PROBES and response.status_code < 300
    level = logging.DEBUG if quiet else logging.INFO
    access_log.log(level, line(facts), extra={"facts": facts})
    return response


def _count(response: Response) -> None:
    """Measure a request by its route, never by its path, and tell the client what it took."""
    took = time.monotonic() - g.started
    # Stages tell whether a text was cached, which is nobody's to know where callers have accounts.
    stages = bool(g.trace.times) and (not services().accounts.enabled or sees_all())
    response.headers["Server-Timing"] = g.trace.server_timing(took, stages=stages)
    metrics.REQUESTS.labels(_route(), _method(), response.status_code).inc()
    kind = f"{response.status_code // 100}xx"
    metrics.REQUEST_SECONDS.labels(_route(), kind).observe(took)
    facts = {
        "http.request.method": _method(),
        "http.route": _route(),
        "http.response.status_code": response.status_code,
        "embedding.request_id": g.request_id,
    }
    g.trace.end(facts, failed=response.status_code >= 500)


def _route() -> str:
    return request.url_rule.rule if request.url_rule else "none"


def _method() -> str:
    return request.method if request.method in METHODS else "other"


def _end(_: BaseException | None) -> None:
    if "started" in g:
        metrics.IN_FLIGHT.dec()
    tracing.forget()
