"""Settings of the server and of its operation: addresses, limits, timeouts, logs, metrics."""

import ipaddress
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, SecretStr, field_validator, model_validator

from config.access import check_key
from config.addresses import ListenHost
from config.fields import LONGEST_S, Port, Seconds, Section, setting, split_list

TRACING = {  # module -> the package that has it
    "opentelemetry.sdk": "opentelemetry-sdk",
    "opentelemetry.exporter.otlp.proto.http": "opentelemetry-exporter-otlp-proto-http",
}


def networks(value: object) -> object:
    """Return the networks of a comma list of addresses and networks. Raises ValueError."""
    parts = split_list(value)
    return tuple(map(ipaddress.ip_network, parts)) if isinstance(parts, tuple) else parts


Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Networks = Annotated[tuple[Network, ...], BeforeValidator(networks)]
# What a request is: a person waits for an interactive one, a program for bulk.
Lane = Literal["interactive", "bulk"]
LogLevel = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"],
    BeforeValidator(lambda value: str(value).upper()),
]


class ServingSettings(Section):
    """Where the service listens and what it accepts."""

    # Every address, since a container must be reachable from outside.
    host: ListenHost = setting("0.0.0.0", "EMBEDDING_HOST", "HOST")  # nosec B104
    """Address or name to listen on, without a port: 0.0.0.0 is every IPv4 address, :: every IPv4
    and IPv6 address, 127.0.0.1 only this machine."""
    port: Port = setting(8001, "EMBEDDING_PORT", "EMBEDDINGS_PORT", "PORT")
    """Port to listen on, 1 to 65535."""
    trusted_proxies: Networks = setting(networks("127.0.0.1,::1"), "TRUSTED_PROXIES")
    """Comma list of addresses and networks of your proxies, such as 10.0.0.0/8: X-Forwarded-For and
    X-Forwarded-Proto are trusted only from them, and only if TRUSTED_PROXY_HOPS is set."""
    max_workers: int | None = setting(None, "MAX_WORKERS", ge=1, le=256)
    """Worker processes, 1 to 256; unset means 1, with a GPU half the cores, at most 8."""
    model_process: Literal["auto", "on", "off"] = setting("auto", "MODEL_PROCESS")
    """Whether the workers share one process for each device, which alone holds models: on, off
    (each worker loads its own copy) or auto, on where there are several workers."""
    threads: int = setting(128, "THREADS", ge=2, le=4096)
    """Request threads per worker, 2 to 4096. Requests that wait for a model share its passes, so
    more threads mean larger batches. One eighth stays free for health checks and refusals: when the
    others are busy, further requests get 429 at once."""
    timeout_s: int = setting(120, "TIMEOUT", ge=1, le=LONGEST_S)
    """Seconds without a heartbeat after which gunicorn replaces a worker."""
    graceful_timeout_s: int = setting(60, "GRACEFUL_TIMEOUT", ge=1, le=LONGEST_S)
    """Seconds that running requests have to finish when the service stops."""
    request_deadline_s: Seconds = setting(120, "REQUEST_DEADLINE")
    """Seconds a request may take, waiting included; after that it gets 504."""
    read_timeout_s: Seconds = setting(30, "READ_TIMEOUT")
    """Seconds a client may take to send a request with its body; then the connection is closed."""
    write_timeout_s: Seconds = setting(60, "WRITE_TIMEOUT")
    """Seconds a client may take to read a reply; then the connection is closed."""
    max_request_bytes: int = setting(64 * 1024 * 1024, "MAX_REQUEST_BYTES", ge=1024)
    """Largest body in bytes, at least 1024, of requests that embed, store or search; other bodies
    may have 64 KB. A larger one gets 413."""
    max_file_mb: int = setting(1024, "MAX_FILE_MB", ge=1, le=1 << 20)
    """Largest file in MB whose rows a collection may be given. It is kept in STORE_DIR until they
    are stored. A larger one gets 413."""
    max_reply_bytes: int = setting(64 * 1024 * 1024, "MAX_REPLY_BYTES", ge=1024)
    """Largest reply in bytes, at least 1024. A request for more gets 413; a scroll ends its page
    early."""
    max_texts: int = setting(2048, "MAX_TEXTS_PER_REQUEST", ge=1, le=100_000)
    """Most texts in one request, 1 to 100000; the default is OpenAI's limit."""
    interactive_max_tokens: int = setting(2048, "INTERACTIVE_MAX_TOKENS", ge=1)
    """Most tokens of an interactive request, at least 1: a larger one is bulk, whatever it asks
    for."""

    @property
    def workers(self) -> int:
        """The workers of this service. In one of them it is the number that really runs."""
        return self.max_workers or 1


class OperationsSettings(Section):
    """Logs, metrics and traces."""

    log_level: LogLevel = setting("INFO", "LOG_LEVEL")
    """One of DEBUG, INFO, WARNING, ERROR, CRITICAL."""
    log_format: Literal["line", "json"] = setting("line", "LOG_FORMAT")
    """line (name=value pairs) or json (one object per line)."""
    enable_metrics: bool = setting(False, "ENABLE_METRICS")
    """Whether Prometheus metrics are also served on METRICS_PORT: true or false. The main port
    always serves /metrics."""
    metrics_port: Port = setting(8002, "METRICS_PORT")
    """Port of the metrics, 1 to 65535."""
    metrics_host: ListenHost = setting("127.0.0.1", "METRICS_HOST")
    """Address or name on which METRICS_PORT listens, written as in EMBEDDING_HOST."""
    metrics_token: SecretStr | None = setting(None, "METRICS_TOKEN")
    """Bearer token that METRICS_PORT asks for; at least 16 characters."""
    metrics_dir: Path | None = setting(None, "METRICS_DIR")
    """Folder in which the workers add up their metrics, each service in its own new folder; unset
    means in memory. A full disk there ends the workers."""
    otel_enabled: bool = setting(False, "OTEL_ENABLED")
    """Whether a trace of each request is sent to an OpenTelemetry collector: true or false. Needs
    two more packages (docs/deploy.md)."""
    otel_endpoint: str = setting(
        "http://localhost:4318", "OTEL_EXPORTER_OTLP_ENDPOINT", pattern="^https?://"
    )
    """Address of the collector for OTLP over HTTP; /v1/traces is added to it."""
    otel_service_name: str = setting("embedding-service", "OTEL_SERVICE_NAME")
    """Name of this service in traces."""

    @field_validator("metrics_token")
    @classmethod
    def _token_cannot_be_guessed(cls, value: SecretStr | None) -> SecretStr | None:
        check_key("METRICS_TOKEN", value)
        return value

    @model_validator(mode="after")
    def _metrics_have_their_own_port(self) -> Self:
        port = getattr(self, "port", None)  # of `ServingSettings`
        if self.enable_metrics and self.metrics_port == port:
            raise ValueError(f"METRICS_PORT={port} is also EMBEDDING_PORT; choose another one")
        return self

    @field_validator("otel_enabled")
    @classmethod
    def _packages_are_installed(cls, wanted: bool) -> bool:
        missing = [package for module, package in TRACING.items() if not _is_installed(module)]
        if wanted and missing:
            raise ValueError(f"not installed: pip install {' '.join(missing)}")
        return wanted


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False
