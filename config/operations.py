"""Settings of running it: what it shows of itself, and how long it lets others and itself take."""

from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, SecretStr, field_validator, model_validator

from config.access import check_key
from config.addresses import ListenHost
from config.fields import LONGEST_S, setting

TRACING = {  # module -> what to install for it
    "opentelemetry.sdk": "opentelemetry-sdk",
    "opentelemetry.exporter.otlp.proto.http": "opentelemetry-exporter-otlp-proto-http",
}


class OperationsSettings(BaseModel):
    """Metrics, traces, the log's form, and the deadlines against slow clients and hung models."""

    enable_metrics: bool = setting(
        False,
        "ENABLE_METRICS",
        help="Serve Prometheus metrics on a port of their own too: true or false. /metrics on the "
        "main port is always there.",
    )
    metrics_port: int = setting(
        8002, "METRICS_PORT", ge=1, le=65535, help="Port of the metrics, 1 to 65535."
    )
    metrics_host: ListenHost = setting(
        "127.0.0.1",
        "METRICS_HOST",
        help="Address or name on which METRICS_PORT listens, as EMBEDDING_HOST; only this machine "
        "unless set.",
    )
    metrics_token: SecretStr | None = setting(
        None,
        "METRICS_TOKEN",
        help="A bearer token without which METRICS_PORT answers 401; at least 16 characters.",
    )
    metrics_dir: Path | None = setting(
        None,
        "METRICS_DIR",
        help="The folder in which workers add their metrics up, each service in a new folder of "
        "its own; default: in memory. A full disk there ends the workers.",
    )
    log_format: Literal["line", "json"] = setting(
        "line", "LOG_FORMAT", help="One of line (name=value pairs) or json (an object a line)."
    )
    otel_enabled: bool = setting(
        False,
        "OTEL_ENABLED",
        help="Whether each request's spans go to an OpenTelemetry collector: true or false. Needs "
        "its packages (docs/deploy.md).",
    )
    otel_endpoint: str = setting(
        "http://localhost:4318",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        help="The collector's address, for OTLP over HTTP; /v1/traces is put behind it.",
        pattern="^https?://",
    )
    otel_service_name: str = setting(
        "embedding-service", "OTEL_SERVICE_NAME", help="What this service is called in traces."
    )
    read_timeout_s: float = setting(
        30,
        "READ_TIMEOUT",
        gt=0,
        le=LONGEST_S,
        help="Seconds a client may take to send a request, body included; then it is cut off.",
    )
    write_timeout_s: float = setting(
        60,
        "WRITE_TIMEOUT",
        gt=0,
        le=LONGEST_S,
        help="Seconds a client may take to read a reply; then it is cut off.",
    )

    @field_validator("metrics_token")
    @classmethod
    def _token_cannot_be_guessed(cls, value: SecretStr | None) -> SecretStr | None:
        check_key("METRICS_TOKEN", value)
        return value

    @model_validator(mode="after")
    def _has_a_port_of_its_own(self) -> Self:
        port = getattr(self, "port", None)  # a setting of config/serving.py
        if self.enable_metrics and self.metrics_port == port:
            raise ValueError(f"METRICS_PORT={port} is EMBEDDING_PORT too; give it another one")
        return self

    @field_validator("otel_enabled")
    @classmethod
    def _can_trace(cls, wanted: bool) -> bool:
        missing = [package for module, package in TRACING.items() if not _is_there(module)]
        if wanted and missing:
            raise ValueError(f"not installed: pip install {' '.join(missing)}")
        return wanted


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package it would be in
        return False
