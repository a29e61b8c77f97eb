"""Settings of the cache, and of Redis, which workers and machines share."""

from typing import Literal
from urllib.parse import quote

from pydantic import BaseModel, SecretStr, field_validator

from config.addresses import Host, check_redis
from config.fields import setting

CacheKind = Literal["memory", "redis", "none"]


class CacheSettings(BaseModel):
    """Where computed vectors are kept for the next time, and Redis for what workers share."""

    cache: CacheKind | None = setting(
        None,
        "CACHE",
        help="Where vectors are kept for texts that come again: memory (of each worker), redis or "
        "none; unset means redis where that is enabled, else memory.",
    )
    cache_max_bytes: int = setting(
        256 * 1024 * 1024,
        "CACHE_MAX_BYTES",
        ge=1024,
        help="Most bytes a worker's memory cache takes; what was used longest ago goes first. "
        "Redis has its own maxmemory.",
    )
    cache_ttl_s: float = setting(
        86400, "CACHE_TTL", gt=0, le=31_536_000, help="Seconds a vector is kept at most."
    )
    redis_enabled: bool = setting(
        False, "REDIS_ENABLED", help="Whether Redis is used: true or false."
    )
    redis_host: Host = setting("localhost", "REDIS_HOST", help="Redis's host.")
    redis_port: int = setting(6379, "REDIS_PORT", ge=1, le=65535, help="Redis's port.")
    redis_url: SecretStr | None = setting(
        None,
        "REDIS_URL",
        help="redis://user:password@host:port/0 (rediss:// for TLS) instead of the single settings",
    )
    redis_password: SecretStr | None = setting(None, "REDIS_PASSWORD", help="Redis's password.")
    redis_tls: bool = setting(
        False, "REDIS_TLS", help="Whether Redis is spoken to over TLS: true or false."
    )

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
        """The URL of Redis, password included: never to be shown."""
        if self.redis_url:
            return self.redis_url.get_secret_value()
        secret = self.redis_password
        login = f":{quote(secret.get_secret_value(), safe='')}@" if secret else ""
        scheme = "rediss" if self.redis_tls else "redis"
        host = f"[{self.redis_host}]" if ":" in self.redis_host else self.redis_host
        return f"{scheme}://{login}{host}:{self.redis_port}/0"
