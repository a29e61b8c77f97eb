"""Settings of Redis, which shares limits and cached vectors between workers and machines."""

from urllib.parse import quote

from pydantic import BaseModel, SecretStr

from config.fields import setting


class CacheSettings(BaseModel):
    """Redis, for what workers share."""

    redis_enabled: bool = setting(
        False, "REDIS_ENABLED", help="Whether Redis is used: true or false."
    )
    redis_host: str = setting("localhost", "REDIS_HOST", help="Redis's host.")
    redis_port: int = setting(6379, "REDIS_PORT", ge=1, le=65535, help="Redis's port.")
    redis_url: SecretStr | None = setting(
        None, "REDIS_URL", help="redis://:password@host:port/0, instead of the single settings."
    )
    redis_password: SecretStr | None = setting(None, "REDIS_PASSWORD", help="Redis's password.")
    redis_tls: bool = setting(
        False, "REDIS_TLS", help="Whether Redis is spoken to over TLS: true or false."
    )

    @property
    def redis_address(self) -> str:
        """The URL of Redis, password included: never to be shown."""
        if self.redis_url:
            return self.redis_url.get_secret_value()
        secret = self.redis_password
        login = f":{quote(secret.get_secret_value(), safe='')}@" if secret else ""
        scheme = "rediss" if self.redis_tls else "redis"
        return f"{scheme}://{login}{self.redis_host}:{self.redis_port}/0"
