"""What `doctor` finds out about the service here: settings, models, folders, ports, servers."""

import errno
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests
import sqlalchemy as sa

from cache.redis import connect
from commands.findings import Finding, ok, problem, warning
from config import Config, ConfigError, ModelSpec, load_config
from config.addresses import driver_url
from embedders import adapter_of, hub, kinds, weights
from embedders.files import read_files
from embedders.providers import KEYS, environment_keys
from errors import ModelUnavailable, ServiceError
from sql.database import Database, Schema
from sql.sqlite import file_of
from store.local_disk import check_folder

FULL, NEARLY_FULL = 1 << 30, 5 << 30  # bytes free on a disk
HUB_S, SERVER_S = 5.0, 3.0  # seconds that a reply may take
AS_IT_IS = Schema(lambda _: True, lambda _: None)  # no table is made
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def settings() -> tuple[Config | None, tuple[ModelSpec, ...], list[Finding]]:
    """Return the settings and models that the service would start with, and what is wrong.

    The settings are None where it would not start.
    """
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    handler.setLevel(logging.WARNING)
    log = logging.getLogger("config")
    log.addHandler(handler)
    log.propagate = False
    try:
        config = load_config()
        specs, default = config.catalogue()
    except ConfigError as exc:
        do = "mend it in the environment, .env or model_config.json; docs/configuration.md has all"
        return None, (), [problem("settings", each, do) for each in exc.problems]
    finally:
        log.removeHandler(handler)
        log.propagate = True
    found = [warning("settings", each, "leave it out, or write the name as meant") for each in said]
    names = ", ".join(spec.id for spec in specs)
    return config, specs, [*found, ok("settings", f"models {names}; default {default}")]


def access(config: Config) -> list[Finding]:
    """Tell who may use the service."""
    where = f"on {config.host}:{config.port}"
    if config.auth_enabled:
        return [ok("access", f"{where}, with a key or a sign-in")]
    if config.host in LOOPBACK:
        return [ok("access", f"{where}, this machine only, without a key")]
    do = "ask for a key: embedding-service serve --key ..., or --host 127.0.0.1 for this machine"
    return [warning("access", f"{where}: who reaches the port needs no key", do)]


def models(config: Config, specs: tuple[ModelSpec, ...]) -> tuple[list[Finding], list[str]]:
    """Tell where each model's files are; return also the names of those that need the hub."""
    found, absent = [], []
    keys = environment_keys(config)
    for spec in specs:
        name = f"model {spec.id}"
        if spec.type == "fake":
            found.append(ok(name, "a fake one, for tests"))
        elif adapter := adapter_of(spec):
            provider = spec.provider or ("azure" if spec.api_version else adapter.provider)
            if keys(provider) or spec.base_url or spec.base_urls:
                found.append(ok(name, f"by {provider}"))
            else:
                variable = KEYS[provider][0] if provider in KEYS else "its key"
                do = f"set {variable}, or store it: POST /providers/{provider}/api-key"
                found.append(warning(name, f"no key of {provider} in the environment", do))
        else:
            here, needs_hub = _local(name, spec, config)
            found.append(here)
            absent += [spec.model_name] if needs_hub else []
    return found, absent


def _local(name: str, spec: ModelSpec, config: Config) -> tuple[Finding, bool]:
    """Tell where a local model's files are, and whether the hub is needed."""
    own = weights.here(spec.model_name, spec.revision)
    folder = own or hub.cached(spec.model_name, spec.revision, config.model_cache_dir)
    pull = f"embedding-service pull {spec.model_name}"
    if folder is None:
        return warning(name, f"{spec.model_name} is not downloaded yet", pull), True
    try:
        weights.whole(folder, spec.model_name)
    except ModelUnavailable as exc:
        do = "copy the whole folder again" if own else pull
        return problem(name, exc.message, do), own is None
    try:
        kinds.identify(folder, spec.model_name, spec.type)
    except ModelUnavailable as exc:
        return problem(name, exc.message, "choose another model (docs/models.md)"), False
    files = read_files(spec, config)
    size = f", {files.size / 1e6:,.0f} MB" if files else ""
    return ok(name, f"{folder}{size}"), False


def hub_reached(absent: list[str]) -> list[Finding]:
    """Tell whether the hub answers, which is a problem only where a model needs it."""
    from huggingface_hub import constants

    bad = problem if absent else warning
    wanted = f"; needed for {', '.join(absent)}" if absent else ""
    if constants.HF_HUB_OFFLINE:
        if not absent:
            return [ok("hub", "not used: HF_HUB_OFFLINE is set, and every model is here")]
        do = "unset HF_HUB_OFFLINE, or copy the models into the cache"
        return [problem("hub", f"HF_HUB_OFFLINE forbids it{wanted}", do)]
    try:
        with requests.get(constants.ENDPOINT, timeout=HUB_S, stream=True):
            return [ok("hub", f"{constants.ENDPOINT} answers{wanted}")]
    except requests.RequestException as exc:
        do = "check the network, HTTPS_PROXY and HF_ENDPOINT; without a hub set HF_HUB_OFFLINE=1"
        fact = f"{constants.ENDPOINT} cannot be reached ({type(exc).__name__}){wanted}"
        return [bad("hub", fact, do)]


def folders(config: Config, absent: list[str]) -> list[Finding]:
    """Write to each folder that the service writes to, and tell how much room is there."""
    from huggingface_hub import constants

    cache = (config.model_cache_dir or Path(constants.HF_HUB_CACHE)).expanduser()
    found = [*_folder("model folder", cache, "EMBEDDING_MODEL_CACHE_DIR", bool(absent))]
    found += _folder("data folder", config.data_dir, "DATA_DIR", True)
    file = _sqlite_file(config)
    if file is not None and file.parent.absolute() != config.data_dir.absolute():
        found += _folder("database folder", file.parent, "EMBEDDING_DB_URL", True)
    url = urlsplit(config.store_url.get_secret_value() if config.store_url else "")
    if url.scheme in ("", "file"):
        store = Path(unquote(url.path)) if url.path else config.store_dir
        found += _folder("store folder", store, "STORE_DIR", True)
        try:
            check_folder(_there(store))
        except ServiceError as exc:
            do = "set STORE_DIR to a folder of this user on a local disk"
            found.append(problem("store folder", exc.message, do))
    return found


def _folder(name: str, folder: Path, setting: str, needed: bool) -> Iterator[Finding]:
    there, bad = _there(folder), problem if needed else warning
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as exc:
        do = f"give this user the right to write there, or set {setting} to another folder"
        yield bad(name, f"{folder} cannot be written ({os.strerror(exc.errno or 0)})", do)
        return
    free = shutil.disk_usage(there).free
    shown = f"{folder}, {free / 1e9:,.1f} GB free"
    do = f"make room, or set {setting} to a folder on another disk"
    if free < FULL:
        yield bad(name, shown, do)
    elif free < NEARLY_FULL:
        yield warning(name, shown, do)
    else:
        yield ok(name, shown if there == folder.absolute() else f"{shown}; made at the start")


def _there(folder: Path) -> Path:
    """Return a folder, or where it is not there yet the one in which it would be made."""
    whole = folder.absolute()
    return next(path for path in (whole, *whole.parents) if path.exists())


def _sqlite_file(config: Config) -> Path | None:
    url = driver_url(config.db_url.get_secret_value())
    return file_of(url) if url.get_backend_name() == "sqlite" else None


def ports(config: Config) -> list[Finding]:
    """Try to listen where the service would; a service that runs there already is well."""
    wanted = [("port", config.host, config.port, "EMBEDDING_PORT, or --port")]
    if config.enable_metrics:
        wanted.append(("metrics port", config.metrics_host, config.metrics_port, "METRICS_PORT"))
    found, runs = [], False
    for name, host, port, setting in wanted:
        why = _bound(host, port)
        if why == 0:
            found.append(ok(name, f"{port} on {host} is free"))
        elif why == errno.EADDRINUSE and (runs or _is_ours(host, port)):
            found.append(ok(name, f"{port} on {host}: this service runs there"))
            runs = True
        elif why == errno.EADDRINUSE:
            do = f"`ss -ltnp` shows what listens there; end it, or choose another: {setting}"
            found.append(problem(name, f"{port} on {host} is taken", do))
        else:
            do = f"choose a port above 1023 ({setting}) and an address of this machine"
            found.append(problem(name, f"{port} on {host}: {os.strerror(why)}", do))
    return found


def _bound(host: str, port: int) -> int:
    """Return 0 if a socket can listen there, else the error's number."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, proto) as made:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
            made.listen()
    except socket.gaierror:
        return errno.EADDRNOTAVAIL
    except OSError as exc:
        return exc.errno or errno.EADDRNOTAVAIL
    return 0


def _is_ours(host: str, port: int) -> bool:
    """Return whether this service answers on a port."""
    near = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # nosec B104
    try:
        reply = requests.get(f"http://{near}:{port}/", timeout=SERVER_S)
        return "X-Request-ID" in reply.headers and "available_models" in reply.json()
    except (requests.RequestException, ValueError, TypeError):
        return False


def database(config: Config) -> list[Finding]:
    """Connect to the SQL database of accounts and settings."""
    file = _sqlite_file(config)
    if file is not None and not file.exists():
        return [ok("database", f"SQLite, {file}: made at the start")]
    do = "start it, or mend EMBEDDING_DB_URL (user, password, host, name)"
    if file is not None:
        do = "see who holds the file, or restore it from a backup"
    return [_connected("database", config.db_url.get_secret_value(), "SELECT 1", do)[0]]


def store(config: Config) -> list[Finding]:
    """Connect to the vector store, if it is a server: pgvector has to be there."""
    url = config.store_url.get_secret_value() if config.store_url else ""
    if urlsplit(url).scheme in ("", "file"):
        return []
    do = "start it, or mend STORE_URL (user, password, host, name)"
    query = "SELECT default_version FROM pg_available_extensions WHERE name = 'vector'"
    finding, version = _connected("vector store", url, query, do)
    if finding.state == "ok" and not version:
        do = "install pgvector on the database server"
        return [problem("vector store", "PostgreSQL answers, without pgvector", do)]
    return [finding]


def _connected(name: str, url: str, query: str, do: str) -> tuple[Finding, object]:
    """Ask a database one thing, and make nothing in it."""
    with closing(Database(url, AS_IT_IS, name=f"the {name}")) as made:
        try:
            answer = made.read(lambda connection: connection.execute(sa.text(query)).scalar())
        except ServiceError as exc:
            return problem(name, exc.message, do), None
        return ok(name, f"{made.kind} answers"), answer


def redis(config: Config) -> list[Finding]:
    """Ask Redis, if it is used."""
    if not config.redis_enabled and config.cache_kind != "redis":
        return []
    from redis.exceptions import RedisError

    where = urlsplit(config.redis_address)
    shown = f"{where.hostname}:{where.port or 6379}"
    with closing(connect(config.redis_address, SERVER_S)) as client:
        try:
            client.ping()
        except (RedisError, OSError) as exc:
            do = "start it, or mend REDIS_URL; until then each worker limits and caches for itself"
            return [problem("Redis", f"{shown} does not answer ({type(exc).__name__})", do)]
    return [ok("Redis", f"{shown} answers")]
