"""Settings of where data is stored: collections, SQL, the cache and Redis."""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote, urlsplit

from pydantic import SecretStr, field_validator

from config.addresses import Host, check_redis, check_sql
from config.fields import Port, Section, setting

CacheKind = Literal["memory", "redis", "none"]


class StoreSettings(Section):
    """Where collections are stored."""

    store_url: SecretStr | None = setting(None, "STORE_URL")
    """postgresql://user:password@host/database for PostgreSQL with pgvector, or file:///folder;
    unset means files in STORE_DIR."""
    store_dir: Path = setting(Path("data/store"), "STORE_DIR")
    """Folder of the file store and of its jobs."""
    store_fsync: Literal["always", "interval", "never"] = setting("always", "STORE_FSYNC")
    """File store: when a write reaches the disk: before its reply, within a second, or when the
    system chooses. The difference shows only after a power cut."""
    store_lock_timeout_s: float = setting(10.0, "STORE_LOCK_TIMEOUT", gt=0, le=600)
    """File store: seconds a write waits for other writes; after that it gets 503."""
    store_shards: int = setting(0, "STORE_SHARDS", ge=0, le=1024)
    """Number of shards of each new collection on a Citus cluster; 0 and 1 mean none."""
    store_ann_above: int = setting(0, "STORE_ANN_ABOVE", ge=0)
    """File store: rows from which a collection is searched approximately, by a usearch index; 0
    means never."""
    max_collections: int = setting(100_000, "MAX_COLLECTIONS", ge=1)
    """Collections at most; creating more is refused with 409."""

    @property
    def spool_dir(self) -> Path:
        """Where files are kept until their rows are stored: beside the store's own."""
        parts = urlsplit(self.store_url.get_secret_value() if self.store_url else "")
        return (Path(unquote(parts.path)) if parts.scheme == "file" else self.store_dir) / "files"

    @field_validator("store_ann_above")
    @classmethod
    def _can_index(cls, value: int) -> int:
        if value and find_spec("usearch") is None:
            raise ValueError("not installed: pip install usearch")
        return value

    @field_validator("store_url")
    @classmethod
    def _names_a_store(cls, value: SecretStr | None) -> SecretStr | None:
        text = value.get_secret_value() if value else ""
        scheme = text.partition(":")[0].partition("+")[0].lower()
        if scheme == "file":
            parts = urlsplit(text)
            if parts.netloc or not parts.path.startswith("/"):
                raise ValueError("names no folder; write file:///folder")
        elif scheme in ("postgresql", "postgres"):
            check_sql(text)
        elif text:
            raise ValueError("must begin with postgresql:// or file:///")
        return value


class SqlSettings(Section):
    """The SQL database for accounts, settings and providers' keys."""

    db_url: SecretStr = setting(SecretStr("sqlite:///data/service.db"), "EMBEDDING_DB_URL")
    """sqlite:///data/service.db, mysql://user:password@host/name (MySQL and MariaDB) or
    postgresql://user:password@host/name. In a password write @ : / ? # % as %40 %3A %2F %3F %23
    %25."""
    use_db_settings: bool = setting(False, "EMBEDDING_USE_DB_SETTINGS")
    """Whether settings that are changed at run time are stored in SQL, for all workers and the next
    start: true or false."""

    @field_validator("db_url")
    @classmethod
    def _can_be_connected_to(cls, value: SecretStr) -> SecretStr:
        check_sql(value.get_secret_value())
        return value


class CacheSettings(Section):
    """The cache of computed vectors, and Redis, which workers and machines share."""

    cache: CacheKind | None = setting(None, "CACHE")
    """Where computed vectors are cached: memory, redis or none; unset means redis if REDIS_ENABLED
    is true, else memory. Workers that share a model process share its memory cache."""
    cache_max_bytes: int = setting(256 * 1024 * 1024, "CACHE_MAX_BYTES", ge=1024)
    """Largest size in bytes of a memory cache; the least recently used vectors are dropped first.
    Redis has its own maxmemory."""
    cache_ttl_s: float = setting(86400, "CACHE_TTL", gt=0, le=31_536_000)
    """Seconds a vector stays in the cache."""
    redis_enabled: bool = setting(False, "REDIS_ENABLED")
    """Whether Redis is used: true or false."""
    redis_host: Host = setting("localhost", "REDIS_HOST")
    """Host of Redis."""
    redis_port: Port = setting(6379, "REDIS_PORT")
    """Port of Redis."""
    redis_url: SecretStr | None = setting(None, "REDIS_URL")
    """redis://user:password@host:port/0 (rediss:// for TLS), in place of host, port, password and
    TLS."""
    redis_password: SecretStr | None = setting(None, "REDIS_PASSWORD")
    """Password of Redis."""
    redis_tls: bool = setting(False, "REDIS_TLS")
    """Whether the connection to Redis uses TLS: true or false."""

    @field_validator("redis_url")
    @classmethod
    def _is_an_address(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            check_redis(value.get_secret_value())
        return value

    @property
    def cache_kind(self) -> CacheKind:
        """The cache that is used."""
        return self.cache or ("redis" if self.redis_enabled else "memory")

    @property
    def redis_address(self) -> str:
        """The URL of Redis, with its password: never show it."""
        if self.redis_url:
            return self.redis_url.get_secret_value()
        secret = self.redis_password
        login = f":{quote(secret.get_secret_value(), safe='')}@" if secret else ""
        scheme = "rediss" if self.redis_tls else "redis"
        host = f"[{self.redis_host}]" if ":" in self.redis_host else self.redis_host
        return f"{scheme}://{login}{host}:{self.redis_port}/0"
