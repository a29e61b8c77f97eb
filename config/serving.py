"""Settings of the server itself: where it listens, how much it accepts, what it logs."""

import ipaddress
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator

from config.addresses import ListenHost
from config.fields import LONGEST_S, setting
from config.origins import Origins


def split_list(value: object) -> object:
    """Read a comma list; surrounding quotes and blanks around items do not count."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.strip("\"'[]").split(",") if part.strip("\"' "))
    return value


def networks(value: object) -> object:
    """Read a comma list of addresses and networks."""
    parts = split_list(value)
    return tuple(map(ipaddress.ip_network, parts)) if isinstance(parts, tuple) else parts


def upper(value: object) -> object:
    """Let `info` mean `INFO`."""
    return value.upper() if isinstance(value, str) else value


Network = ipaddress.IPv4Network | ipaddress.IPv6Network
CommaList = Annotated[tuple[str, ...], BeforeValidator(split_list)]
LogLevel = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(upper)
]


class ServingSettings(BaseModel):
    """Where the service listens and what it accepts."""

    host: ListenHost = setting(
        "0.0.0.0",  # nosec B104
        "EMBEDDING_HOST",
        "HOST",
        help="Address or name to listen on: 0.0.0.0 is every IPv4 address, :: every IPv4 and IPv6 "
        "address, 127.0.0.1 this machine alone. No port.",
    )  # the seeds' documented default: a container must be reachable from outside
    port: int = setting(
        8001,
        "EMBEDDING_PORT",
        "EMBEDDINGS_PORT",
        "PORT",
        ge=1,
        le=65535,
        help="Port to listen on, 1 to 65535.",
    )
    trusted_proxies: Annotated[tuple[Network, ...], BeforeValidator(networks)] = setting(
        networks("127.0.0.1,::1"),
        "TRUSTED_PROXIES",
        help="Comma list of the addresses and networks of your proxies, as 10.0.0.0/8: with "
        "TRUSTED_PROXY_HOPS, X-Forwarded-For and X-Forwarded-Proto are believed from them alone.",
    )
    max_workers: int = setting(
        1,
        "MAX_WORKERS",
        ge=1,
        le=256,
        help="Worker processes, 1 to 256. Each loads its own copy of every model: "
        "1 is right for one GPU and for a CPU.",
    )
    threads: int = setting(
        128,
        "THREADS",
        ge=2,
        le=4096,
        help="Request threads per worker, 2 to 4096. They wait for the model together, so more "
        "threads mean larger batches. An eighth of them is kept for probes and for refusals: with "
        "more requests than the rest under way, further ones are answered 429 at once.",
    )
    timeout_s: int = setting(
        120,
        "TIMEOUT",
        ge=1,
        le=LONGEST_S,
        help="Seconds without a heartbeat after which gunicorn replaces a worker.",
    )
    graceful_timeout_s: int = setting(
        60,
        "GRACEFUL_TIMEOUT",
        ge=1,
        le=LONGEST_S,
        help="Seconds that running requests get to finish on a stop.",
    )
    request_deadline_s: float = setting(
        120,
        "REQUEST_DEADLINE",
        gt=0,
        le=LONGEST_S,
        help="Seconds a request may take, waiting included; then it is answered 504.",
    )
    max_request_bytes: int = setting(
        64 * 1024 * 1024,
        "MAX_REQUEST_BYTES",
        ge=1024,
        help="Largest request body in bytes, at least 1024, where texts or vectors are embedded, "
        "stored or searched; other bodies have at most 64 KB. A larger one is answered 413.",
    )
    max_reply_bytes: int = setting(
        64 * 1024 * 1024,
        "MAX_REPLY_BYTES",
        ge=1024,
        help="Largest reply in bytes, at least 1024; a request for more is answered 413, a scroll "
        "ends its page early.",
    )
    max_texts: int = setting(
        2048,
        "MAX_TEXTS_PER_REQUEST",
        ge=1,
        le=100_000,
        help="Most texts in one request, 1 to 100000; OpenAI's limit is the default.",
    )
    cors_origins: Origins = setting(
        ("*",),
        "CORS_ORIGINS",
        help="Comma list of origins whose pages may call this service from a browser. * lets every "
        "page embed and read what is public; what is stored, accounts and settings are only for "
        "pages of origins that are named here, and for requests with a key.",
    )
    log_level: LogLevel = setting(
        "INFO", "LOG_LEVEL", help="One of DEBUG, INFO, WARNING, ERROR, CRITICAL."
    )
