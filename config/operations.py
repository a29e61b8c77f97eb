"""Settings of running it: what it shows of itself, and how long it lets others and itself take."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from config.fields import setting


class OperationsSettings(BaseModel):
    """Metrics, the log's form, and the deadlines against slow clients and hung models."""

    enable_metrics: bool = setting(
        False,
        "ENABLE_METRICS",
        help="Serve Prometheus metrics on a port of their own too: true or false. /metrics on the "
        "main port is always there.",
    )
    metrics_port: int = setting(
        8002, "METRICS_PORT", ge=1, le=65535, help="Port of the metrics, 1 to 65535."
    )
    metrics_dir: Path | None = setting(
        None,
        "METRICS_DIR",
        help="Where several workers add their metrics up; default: a new directory in memory. A "
        "full disk there ends the workers.",
    )
    log_format: Literal["line", "json"] = setting(
        "line", "LOG_FORMAT", help="One of line (name=value pairs) or json (an object a line)."
    )
    read_timeout_s: float = setting(
        30,
        "READ_TIMEOUT",
        gt=0,
        help="Seconds a client may take to send a request, body included; then it is cut off.",
    )
    write_timeout_s: float = setting(
        60,
        "WRITE_TIMEOUT",
        gt=0,
        help="Seconds a client may take to read a reply; then it is cut off.",
    )
