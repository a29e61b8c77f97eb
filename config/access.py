"""Settings of who may call the service, from where and how often."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from config.fields import BLANKS, Commas, Section, setting

# What examples of settings have in place of a secret, and what people type without thinking.
PLACEHOLDER = re.compile(
    r"(?i)[<{\[$%]?(your|change|replace|insert|todo|xxx|example|sample|dummy|default|placeholder"
    r"|(fill|put|enter)[-_ ]|password|passw0rd|123456|abcdef|qwert"
    r"|((my|a|the|some)[-_ ]?)?(secret|password|key|token)[^a-z0-9]*$)"
)
MAKE_ONE = "make one with: python -c 'import secrets; print(secrets.token_urlsafe(48))'"
SHORTEST = 16  # characters of a fixed key: wrong guesses at it are not counted
SHORTEST_SIGNING = 32  # bytes of what signs or encrypts: an attacker can guess at it offline
SHORTEST_PASSWORD, LONGEST_PASSWORD = 8, 1024  # characters; hashing a longer one takes too long
NAME_RULE = "1 to 64 printable characters, no / and no blank at either end, and is not . or .."

# -- origins of web pages --------------------------------------------------------------------------

ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://"
    r"(?P<host>\[[0-9a-f:.]+\]|[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?)"
    r"(:(?P<port>[0-9]{1,5}))?/?",
    re.IGNORECASE | re.ASCII,
)
DEFAULT_PORTS = {"http": 80, "https": 443}
NEVER = {"file", "ftp", "ws", "wss"}  # browsers send no such origin: that of a file is null
ORIGIN_RULE = (
    "each must be * or scheme://host[:port], such as https://example.org: no path, no user, no * "
    "in a host, letters beyond ASCII as xn--, and not null, which every sandboxed page sends"
)


def as_sent(text: str) -> str:
    """Return an origin as browsers write it in `Origin`. Raises ValueError if none ever sends it.

    Browsers write small letters, no default port and no slash at the end.
    """
    found = ORIGIN.fullmatch(text.strip(BLANKS))
    if found is None:
        raise ValueError("is no origin")
    scheme, host = found["scheme"].lower(), found["host"].lower()
    port = int(found["port"]) if found["port"] else None
    if scheme in NEVER or (port or 0) > 65535:
        raise ValueError("is no origin")
    if host.startswith("["):
        host = f"[{ipaddress.IPv6Address(host[1:-1]).compressed}]"
    # Browsers read a host whose last part is a number as an IPv4 address.
    elif re.fullmatch(r"(.*\.)?(\d+|0x[0-9a-f]*)\.?", host):
        host = str(ipaddress.IPv4Address(host))
    shown = "" if port is None or port == DEFAULT_PORTS.get(scheme) else f":{port}"
    return f"{scheme}://{host}{shown}"


def _all_as_sent(values: tuple[str, ...]) -> tuple[str, ...]:
    found = []
    for at, value in enumerate(values, 1):
        try:
            found.append("*" if value.strip(BLANKS) == "*" else as_sent(value))
        except ValueError:  # the item is not shown: it may hold a password
            raise ValueError(f"item {at} is the origin of no page; {ORIGIN_RULE}") from None
    return tuple(dict.fromkeys(found))


Origins = Annotated[tuple[str, ...], Commas, AfterValidator(_all_as_sent)]
Limit = Annotated[int, Field(ge=0)]

# -- secrets and names -----------------------------------------------------------------------------


def secrets_of(value: SecretStr | None) -> list[str]:
    """Return the secrets of a comma list, the newest first; empty if unset."""
    raw = value.get_secret_value() if value else ""
    return [part.strip() for part in raw.split(",") if part.strip()]


def is_weak(secret: str) -> bool:
    """Whether a secret that signs or encrypts is too short or a placeholder."""
    return len(secret.encode()) < SHORTEST_SIGNING or PLACEHOLDER.match(secret) is not None


def check_key(name: str, value: SecretStr | None) -> None:
    """Raise ValueError for a fixed key that can be guessed, or that no header can hold."""
    key = value.get_secret_value() if value else ""
    if not (key.isascii() and key.isprintable()):
        raise ValueError(f"{name} must be of printable ASCII, as headers are; {MAKE_ONE}")
    if key and (len(key) < SHORTEST or PLACEHOLDER.match(key)):
        raise ValueError(
            f"{name} must be at least {SHORTEST} characters and no placeholder; {MAKE_ONE}"
        )


def is_username(text: str) -> bool:
    """Whether a user may have this name.

    MySQL and MariaDB ignore blanks at the end: `admin ` would be `admin`. Clients resolve `.` and
    `..` in a path before they send it.
    """
    plain = text.isprintable() and "/" not in text and text == text.strip()
    return plain and 1 <= len(text) <= 64 and text not in (".", "..")


BulkRoles = Annotated[tuple[Literal["admin", "user", "reader", "anonymous"], ...], Commas]


class AccessSettings(Section):
    """Who may call, from where and how often."""

    auth_enabled: bool = setting(False, "AUTH_ENABLED", "REQUIRE_AUTH")
    """Whether callers must sign in or send an API key: true or false. If false, admin routes answer
    only callers on this machine and those that send ADMIN_TOKEN."""
    jwt_secret_key: SecretStr | None = setting(None, "JWT_SECRET_KEY")
    """Signs access tokens; at least 32 bytes. To replace it, give a comma list: the first secret
    signs, all are accepted."""
    token_lifetime_s: int = setting(3600, "TOKEN_LIFETIME", ge=60, le=86400 * 30)
    """Seconds until an access token expires."""
    api_key_secret: SecretStr | None = setting(None, "API_KEY_SECRET")
    """One fixed bearer key with the role user; at least 16 characters."""
    admin_token: SecretStr | None = setting(None, "ADMIN_TOKEN")
    """A bearer key for admin routes while AUTH_ENABLED is false; at least 16 characters."""
    admin_username: str = setting("admin", "ADMIN_USERNAME")
    """Name of the admin that the first start creates."""
    admin_password: SecretStr | None = setting(None, "ADMIN_PASSWORD")
    """Password of the first admin; if unset, a random one is written to a file in DATA_DIR."""
    data_dir: Path = setting(Path("data"), "DATA_DIR")
    """Folder for files that the service creates for itself."""
    cors_origins: Origins = setting(("*",), "CORS_ORIGINS")
    """Comma list of the origins whose web pages may call this service. * lets every page embed and
    read what is public; collections, accounts and settings are open only to pages of origins that
    are named here, and to requests with a key."""
    docs_public: bool = setting(True, "DOCS_PUBLIC")
    """Whether everybody may read the API description: true or false. If false and AUTH_ENABLED is
    true, /openapi.json, /docs and /redoc need the same sign-in as embedding."""
    metrics_public: bool = setting(False, "METRICS_PUBLIC")
    """Whether everybody may read /metrics while AUTH_ENABLED is true: true or false."""
    trusted_proxy_hops: int = setting(0, "TRUSTED_PROXY_HOPS", ge=0, le=10)
    """Number of your own proxies in front of the service, 0 to 10; 0 means that X-Forwarded-For is
    ignored."""
    # By default one caller may use a whole GPU: twice the 23,300 texts of 60 tokens a second, in
    # 730 requests, that all-MiniLM-L6-v2 is to reach on an H200.
    requests_per_minute_admin: Limit = setting(0, "REQUESTS_PER_MINUTE_ADMIN")
    """Requests per minute of an admin; 0 means no limit."""
    requests_per_minute_user: Limit = setting(60_000, "REQUESTS_PER_MINUTE_USER")
    """Requests per minute of a user; 0 means no limit."""
    requests_per_minute_reader: Limit = setting(60_000, "REQUESTS_PER_MINUTE_READER")
    """Requests per minute of a reader; 0 means no limit."""
    requests_per_minute_anonymous: Limit = setting(0, "REQUESTS_PER_MINUTE_ANONYMOUS")
    """Requests per minute of an address, while AUTH_ENABLED is false; 0 means no limit."""
    texts_per_minute_admin: Limit = setting(0, "TEXTS_PER_MINUTE_ADMIN")
    """Texts per minute of an admin; 0 means no limit."""
    texts_per_minute_user: Limit = setting(3_000_000, "TEXTS_PER_MINUTE_USER")
    """Texts per minute of a user; 0 means no limit."""
    texts_per_minute_reader: Limit = setting(3_000_000, "TEXTS_PER_MINUTE_READER")
    """Texts per minute of a reader; 0 means no limit."""
    texts_per_minute_anonymous: Limit = setting(0, "TEXTS_PER_MINUTE_ANONYMOUS")
    """Texts per minute of an address, while AUTH_ENABLED is false; 0 means no limit."""
    bulk_roles: BulkRoles = setting((), "BULK_ROLES")
    """Comma list of the roles whose requests are bulk unless they ask to be interactive: admin,
    user, reader, anonymous."""

    @model_validator(mode="after")
    def _can_be_used(self) -> Self:
        """Refuse secrets that can be guessed, and a first admin that no user may be."""
        if not self.auth_enabled:
            check_key("ADMIN_TOKEN", self.admin_token)
            return self
        keys = secrets_of(self.jwt_secret_key)
        missing = not keys and self.api_key_secret is None  # the fixed key needs no sign-in
        if missing or any(map(is_weak, keys)):
            raise ValueError(
                f"JWT_SECRET_KEY must be set to secrets of at least {SHORTEST_SIGNING} bytes that "
                f"are no placeholders when AUTH_ENABLED is true; {MAKE_ONE}"
            )
        check_key("API_KEY_SECRET", self.api_key_secret)
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
