"""Settings of who may call, and how often."""

import re
from pathlib import Path
from typing import Self

from pydantic import BaseModel, SecretStr, model_validator

from config.fields import setting

# What examples of settings have in place of a secret, and what a keyboard gives first.
PLACEHOLDER = re.compile(
    r"(?i)[<{\[$%]?(your|change|replace|insert|todo|xxx|example|sample|dummy|default|placeholder"
    r"|(fill|put|enter)[-_ ]|password|passw0rd|123456|abcdef|qwert"
    r"|((my|a|the|some)[-_ ]?)?(secret|password|key|token)[^a-z0-9]*$)"
)
MAKE_ONE = "make one with: python -c 'import secrets; print(secrets.token_urlsafe(48))'"
SHORTEST = 16  # characters of a fixed key: nobody counts wrong guesses at it
SHORTEST_SIGNING = 32  # bytes of what signs or encrypts: it can be guessed at without the service
SHORTEST_PASSWORD, LONGEST_PASSWORD = 8, 1024  # characters; a megabyte of password is an attack
NAME_RULE = "1 to 64 printable characters, no / and no blank at either end, and is not . or .."
LIMIT = "a minute; 0 is no limit."


def secrets_of(value: SecretStr | None) -> list[str]:
    """Split a secret that may be a comma list: the first signs, all verify."""
    raw = value.get_secret_value() if value else ""
    return [part.strip() for part in raw.split(",") if part.strip()]


def is_username(text: str) -> bool:
    """Tell whether a user may be named so.

    MySQL and MariaDB overlook blanks at the end: `admin ` would be taken for `admin`. Clients take
    `.` and `..` in a path for a folder and the one above it.
    """
    plain = text.isprintable() and "/" not in text and text == text.strip()
    return plain and 1 <= len(text) <= 64 and text not in (".", "..")


class AccessSettings(BaseModel):
    """Who may call, and how often."""

    auth_enabled: bool = setting(
        False,
        "AUTH_ENABLED",
        "REQUIRE_AUTH",
        help="Whether callers must sign in or have a key: true or false. When false, admin routes "
        "answer only this machine, or whoever has ADMIN_TOKEN.",
    )
    jwt_secret_key: SecretStr | None = setting(
        None,
        "JWT_SECRET_KEY",
        help="Signs access tokens; at least 32 bytes. A comma list rotates: the first signs, all "
        "are accepted.",
    )
    token_lifetime_s: int = setting(
        3600, "TOKEN_LIFETIME", ge=60, le=86400 * 30, help="Seconds an access token is good for."
    )
    api_key_secret: SecretStr | None = setting(
        None,
        "API_KEY_SECRET",
        help="One fixed bearer key that may do what a user may; at least 16 characters.",
    )
    admin_token: SecretStr | None = setting(
        None,
        "ADMIN_TOKEN",
        help="A bearer key for admin routes while AUTH_ENABLED is false; at least 16 characters.",
    )
    admin_username: str = setting(
        "admin", "ADMIN_USERNAME", help="The first admin, made when there is no user yet."
    )
    admin_password: SecretStr | None = setting(
        None,
        "ADMIN_PASSWORD",
        help="The first admin's password; unset, a random one is written to a file once.",
    )
    data_dir: Path = setting(
        Path("data"), "DATA_DIR", help="The folder of files that the service makes for itself."
    )
    trusted_proxy_hops: int = setting(
        0,
        "TRUSTED_PROXY_HOPS",
        ge=0,
        le=10,
        help="How many proxies in front may be believed about the caller's address, 0 to 10.",
    )
    requests_per_minute_admin: int = setting(
        0, "REQUESTS_PER_MINUTE_ADMIN", ge=0, help=f"Requests of an admin {LIMIT}"
    )
    requests_per_minute_user: int = setting(
        6000, "REQUESTS_PER_MINUTE_USER", ge=0, help=f"Requests of a user {LIMIT}"
    )
    requests_per_minute_reader: int = setting(
        6000, "REQUESTS_PER_MINUTE_READER", ge=0, help=f"Requests of a reader {LIMIT}"
    )
    requests_per_minute_anonymous: int = setting(
        0, "REQUESTS_PER_MINUTE_ANONYMOUS", ge=0,
        help=f"Requests of one address, while nobody must sign in, {LIMIT}",
    )  # fmt: skip
    texts_per_minute_admin: int = setting(
        0, "TEXTS_PER_MINUTE_ADMIN", ge=0, help=f"Texts of an admin {LIMIT}"
    )
    texts_per_minute_user: int = setting(
        600_000, "TEXTS_PER_MINUTE_USER", ge=0, help=f"Texts of a user {LIMIT}"
    )
    texts_per_minute_reader: int = setting(
        600_000, "TEXTS_PER_MINUTE_READER", ge=0, help=f"Texts of a reader {LIMIT}"
    )
    texts_per_minute_anonymous: int = setting(
        0, "TEXTS_PER_MINUTE_ANONYMOUS", ge=0,
        help=f"Texts of one address, while nobody must sign in, {LIMIT}",
    )  # fmt: skip

    @model_validator(mode="after")
    def _secrets_are_secret(self) -> Self:
        """Refuse secrets that everybody knows or that can be guessed, where they matter."""
        if not self.auth_enabled:
            check_key("ADMIN_TOKEN", self.admin_token)
            return self
        keys = secrets_of(self.jwt_secret_key)
        missing = not keys and self.api_key_secret is None  # with one fixed key nobody signs in
        if missing or any(map(is_weak, keys)):
            raise ValueError(
                f"JWT_SECRET_KEY must be set to secrets of at least {SHORTEST_SIGNING} bytes that "
                f"are no placeholders when AUTH_ENABLED is true; {MAKE_ONE}"
            )
        check_key("API_KEY_SECRET", self.api_key_secret)
        return self

    @model_validator(mode="after")
    def _first_admin_can_be_made(self) -> Self:
        """Refuse a name or a password that no user may have."""
        if not self.auth_enabled:
            return self
        if not is_username(self.admin_username):
            raise ValueError(f"ADMIN_USERNAME must be {NAME_RULE}; leave it out for 'admin'")
        password = self.admin_password.get_secret_value() if self.admin_password else ""
        if password and not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
            raise ValueError(
                f"ADMIN_PASSWORD must have {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters; "
                f"leave it out for a random one, or {MAKE_ONE}"
            )
        if PLACEHOLDER.match(password):
            raise ValueError(f"ADMIN_PASSWORD is a placeholder; {MAKE_ONE}")
        return self


def is_weak(secret: str) -> bool:
    """Tell whether a secret that signs or encrypts is too short, or everybody's."""
    return len(secret.encode()) < SHORTEST_SIGNING or PLACEHOLDER.match(secret) is not None


def check_key(name: str, value: SecretStr | None) -> None:
    """Raise ValueError for a fixed key that can be guessed."""
    key = value.get_secret_value() if value else ""
    if key and (len(key) < SHORTEST or PLACEHOLDER.match(key)):
        raise ValueError(
            f"{name} must be at least {SHORTEST} characters and no placeholder; {MAKE_ONE}"
        )
