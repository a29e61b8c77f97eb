"""What the service writes to its log: one line a request, and never a text, a key or a body.

Lines are written by a thread of their own, so that a log which nobody reads, or whose disk hangs or
is full, never holds a request; lines wait for it, and those that find no room are counted and told.
"""

import json
import logging
import logging.config
import os
import queue
import re
import textwrap
import threading
import time
from collections.abc import Mapping
from typing import Any

BARE = re.compile(r'[^ "=\\]+')  # what needs no quotes as a value, if all of it is printable
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# Lines that wait for the log: some 3 MB, ten seconds of the busiest service.
ROOM = 20_000
FLUSH_S = 1.0
RETRY_S = 0.5  # between two attempts to write what cannot be written, as on a full disk
STDERR = 2  # the descriptor itself: a stream's buffer keeps or drops what it failed to write
LONGEST = 200  # characters of one fact of a request, such as its path


class JsonFormatter(logging.Formatter):
    """Writes each record as one JSON object on one line, whatever its message holds."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON."""
        facts = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "logger": record.name,
            **_facts(record),
        }
        if record.exc_info:
            facts["exception"] = self.formatException(record.exc_info)
        return json.dumps(facts, default=str)


class LineFormatter(logging.Formatter):
    """Writes each record on one line, whatever its message holds; a traceback below it, indented.

    So no line but a record's own begins as a record does.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the line, without control characters."""
        record.message = _printable(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """Return the traceback."""
        return textwrap.indent(super().formatException(ei), "  ", lambda _: True)


def _facts(record: logging.LogRecord) -> Mapping[str, object]:
    """Return what a record says; what a client may choose the length of is cut."""
    facts: Mapping[str, object] | None = getattr(record, "facts", None)
    if facts is None:
        return {"message": record.getMessage()}
    return {k: v[:LONGEST] if isinstance(v, str) else v for k, v in facts.items()}


class Aside(logging.Handler):
    """Writes to a descriptor from a thread of its own; what cannot be written is tried again."""

    def __init__(self, room: int = ROOM, descriptor: int = STDERR) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._lines: queue.Queue[str] = queue.Queue(room)
        self._lost = 0  # since the start; changed by `emit` alone, under the handler's lock
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a line over, or count it as lost where there is no room."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self._lost += 1

    def flush(self) -> None:
        """Wait a moment for the lines that were handed over, as at the end of the process."""
        end = time.monotonic() + FLUSH_S
        while self._lines.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.005)

    def _write(self) -> None:
        told = 0
        while True:
            self._put(self._lines.get())
            lost = self._lost - told
            if lost and self._lines.empty():
                self._put(self.format(_loss(lost)))  # not through the queue, which may be full
                told += lost
            self._lines.task_done()

    def _put(self, text: str) -> None:
        """Write a line, however long it takes: a full disk is emptied, a pipe may be read again."""
        data = (text + "\n").encode(errors="backslashreplace")
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except OSError:
                time.sleep(RETRY_S)


def _loss(lines: int) -> logging.LogRecord:
    message = "%d lines could not be written in time"
    return logging.LogRecord("log", logging.WARNING, __file__, 0, message, (lines,), None)


def configure(level: str, form: str = "line") -> None:
    """Send every log of this process aside to standard error in one format: `line` or `json`."""
    handler = {"()": Aside, "formatter": form}
    # libraries that narrate every download and every connection
    names = ("sentence_transformers", "transformers", "httpx", "urllib3")
    loggers: dict[str, dict[str, Any]] = {name: {"level": "WARNING"} for name in names}
    loggers["gunicorn.error"] = {"handlers": [], "propagate": True}
    logging.config.dictConfig(_settings(level, form, handler, loggers))
    logging.raiseExceptions = False  # a log that cannot be written never fails a request


def of_the_master(level: str, form: str) -> dict[str, Any]:
    """Return how gunicorn's master logs: the same format, but no thread in a process that forks."""
    handler = {"class": "logging.StreamHandler", "formatter": form}
    loggers = {"gunicorn.error": {"handlers": ["stderr"], "propagate": False}}
    return _settings(level, form, handler, loggers)


def _settings(
    level: str, form: str, handler: dict[str, Any], loggers: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": LineFormatter, "fmt": FORMAT}, "json": {"()": JsonFormatter}},
        "handlers": {"stderr": handler},
        "root": {"level": level, "handlers": ["stderr"]},
        "loggers": loggers,
    }


def line(facts: Mapping[str, object]) -> str:
    """Write facts as `name=value` pairs on one line, so that no value can be taken for a pair.

    As logfmt has it: a value that is empty or holds a blank, `=`, quotes or what cannot be printed
    stands in double quotes, escaped as in JSON.
    """
    return " ".join(f"{name}={_value(value)}" for name, value in facts.items() if value is not None)


def _value(value: object) -> str:
    text = str(value)[:LONGEST]
    if text.isprintable() and BARE.fullmatch(text):
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _printable(text: str) -> str:
    """Escape what cannot be printed: with it a line could be made to look like two."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode("ascii")
        for c in text
    )
