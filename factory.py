"""Builds the application from its parts. What happens to a request is in `routes/middleware.py`."""

import functools
import os
from pathlib import Path

from flask import Flask

import embedders
from accounts import Accounts
from accounts.provider_keys import ProviderKeys
from cache import open_cache
from config import Config, load_config
from context import KEY, Services
from documents import Documents
from documents.files import Loader
from documents.reembed import Reembedder
from embedders.providers import Providers, environment_keys
from engine import Engine
from rate_limits import Throttle
from routes import ROUTES, errors, health, history, middleware
from server import master, rolling_reload, worker
from server.proxies import Proxies
from serving.health import drain, watch
from serving.loader import Build
from serving.model_process.processes import Processes, runs_here
from serving.registry import Registry
from serving.residency import Size
from settings import open_settings
from settings.apply import Applier, lanes_of, models_of
from store import VectorStore, open_store
from store.instrumented import InstrumentedStore
from store.lazy import open_or_wait
from tools.places import version


def create_app(
    config: Config | None = None,
    *,
    build: Build | None = None,
    wait: bool = False,
    pause_s: float = 0.0,
) -> Flask:
    """Return the service. Its models load in a thread, `pause_s` seconds from now.

    With `wait` they are loaded before this returns, as tests and scripts need.
    """
    config = config or load_config()
    app = Flask("embedding-service", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = config.max_request_bytes
    settings = open_settings(config)
    provider_keys = ProviderKeys(config.db_url.get_secret_value(), config, environment_keys(config))
    shared = os.environ.get(master.MULTIPROC)
    providers = Providers(config, provider_keys.get_key, Path(shared) if shared else None)
    specs, default = models_of(settings.state)
    call = None  # calls what all workers share
    size: Size | None = embedders.size_of  # of what may be unloaded in this process
    if build is None:
        build = functools.partial(embedders.build, providers=providers)
        if config.model_process == "on":
            processes = Processes()
            build, size = processes.build(build), None  # it is that process that decides
            call = processes.call if any(map(runs_here, specs)) else None
    registry = Registry(specs, default, settings.current, build, size)
    cache = open_cache(config, call)
    engine = Engine(registry, settings.current.truncate, cache, lanes_of(settings.current))
    settings.bind(Applier(engine, settings.state).prepare)
    store = _store(config)
    limits = Throttle(app, config)
    parts = app.extensions[KEY] = Services(
        config=config,
        accounts=Accounts(config),
        engine=engine,
        cache=cache,
        settings=settings,
        providers=providers,
        provider_keys=provider_keys,
        documents=(documents := Documents(engine, store)),
        reembedder=Reembedder(engine, store, limits.count_for),
        loader=Loader(documents, config.spool_dir, limits.count_for),
        version=version(),
    )
    proxies = Proxies(app.wsgi_app, config.trusted_proxy_hops, config.trusted_proxies)
    app.wsgi_app = proxies  # type: ignore[method-assign]
    middleware.register(app, ROUTES)
    errors.register(app)
    provider_keys.renew()
    if wait:
        registry.load_now()
    else:
        registry.start(pause_s)
    parts.reembedder.resume()
    parts.loader.resume()
    settings.follow()
    parts.accounts.start()
    return app


def create_worker(config: Config, *, build: Build | None = None) -> Flask:
    """Return the service for a gunicorn worker: watched, and drained before the worker stops."""
    # Where another process loads the models, a worker that died says nothing of them.
    pause_s = 0.0 if config.model_process == "on" else master.pause_s()
    app = create_app(config, build=build, pause_s=pause_s)
    registry = app.extensions[KEY].engine.registry
    watch(registry, settled=master.settle, ready=rolling_reload.take_over)
    health.watch(app.extensions[KEY], app.extensions["throttle"])
    history.watch()
    worker.near_the_end.append(lambda: drain(registry))
    return app


def _store(config: Config) -> VectorStore:
    url = config.store_url.get_secret_value() if config.store_url else None
    opened = functools.partial(
        open_store,
        url,
        config.store_dir,
        shards=config.store_shards,
        ann_above=config.store_ann_above,
        fsync=config.store_fsync,
        lock_timeout_s=config.store_lock_timeout_s,
        max_collections=config.max_collections,
    )
    return InstrumentedStore(open_or_wait(opened))
