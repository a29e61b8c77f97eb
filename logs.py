"""What the service writes to its log: one line a request, and never a text, a key or a body."""

import json
import logging
import logging.config
from collections.abc import Mapping

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class JsonFormatter(logging.Formatter):
    """Writes each record as one JSON object on one line, whatever its message holds."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON."""
        facts = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "logger": record.name,
            **getattr(record, "facts", {"message": record.getMessage()}),
        }
        if record.exc_info:
            facts["exception"] = self.formatException(record.exc_info)
        return json.dumps(facts, default=str)


def configure(level: str, form: str = "line") -> None:
    """Send every log to standard error in one format: `line` or `json`."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": {"format": FORMAT}, "json": {"()": JsonFormatter}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": form}},
            "root": {"level": level, "handlers": ["stderr"]},
            # libraries that narrate every download and every connection
            "loggers": {
                name: {"level": "WARNING"}
                for name in ("sentence_transformers", "transformers", "httpx", "urllib3")
            },
        }
    )
    logging.raiseExceptions = False  # a log that cannot be written never fails a request


def line(facts: Mapping[str, object]) -> str:
    """Write facts as `name=value` pairs on one line, whatever the values hold."""
    return " ".join(f"{name}={_safe(value)}" for name, value in facts.items() if value is not None)


def _safe(value: object) -> str:
    text = str(value)[:200]
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
