"""What the service writes to its log: one line a request, and never a text, a key or a body.

A thread of its own writes the lines, so a log that is not read, or whose disk hangs or is full,
delays no request. Lines wait for it in memory; those that find no room are counted, and the log
says how many.
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

BARE = re.compile(r'[^ "=\\]+')  # a value that needs no quotes, if all of it is printable
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# Lines that wait: some 3 MB, ten seconds of the busiest service.
ROOM = 20_000
FLUSH_S = 1.0
RETRY_S = 0.5  # between two attempts to write, as on a full disk
STDERR = 2  # the descriptor itself: a stream's buffer would keep or drop what it failed to write
LONGEST = 200  # characters of one fact of a request, such as its path

Settings = dict[str, Any]  # as `logging.config` takes them


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object on one line, whatever its message holds."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON. Facts whose length a client may choose are cut."""
        time_ = self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z")
        row = {"time": time_, "level": record.levelname, "logger": record.name}
        facts = getattr(record, "facts", None)
        if facts is None:
            row["message"] = record.getMessage()
        else:
            row |= {k: v[:LONGEST] if isinstance(v, str) else v for k, v in facts.items()}
        if record.exc_info:
            row["exception"] = self.formatException(record.exc_info)
        return json.dumps(row, default=str)


class LineFormatter(logging.Formatter):
    """Formats a record as one line, whatever its message holds; a traceback is indented below it.

    So no other line begins as a record does.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the line with control characters escaped: they could make it look like two."""
        if not record.message.isprintable():
            record.message = "".join(
                c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode()
                for c in record.message
            )
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """Return the traceback, indented."""
        return textwrap.indent(super().formatException(ei), "  ", lambda _: True)


class BackgroundHandler(logging.Handler):
    """Writes to a descriptor from a thread, and tries again what cannot be written.

    The standard library's QueueHandler and QueueListener would need a subclass each for that.
    """

    def __init__(self, room: int = ROOM, descriptor: int = STDERR) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._lines: queue.Queue[str] = queue.Queue(room)
        self._lost = 0  # since the start; only `emit` changes it, under the handler's lock
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line, or count it as lost where there is no room."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self._lost += 1

    def flush(self) -> None:
        """Wait at most `FLUSH_S` for the queued lines, as at the end of the process."""
        end = time.monotonic() + FLUSH_S
        while self._lines.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.005)

    def _run(self) -> None:
        reported = 0
        what = "%d lines could not be written in time"
        while True:
            self._write(self._lines.get())
            lost = self._lost - reported
            if lost and self._lines.empty():  # not through the queue, which may be full
                loss = logging.LogRecord("log", logging.WARNING, __file__, 0, what, (lost,), None)
                self._write(self.format(loss))
                reported += lost
            self._lines.task_done()

    def _write(self, text: str) -> None:
        """Write a line, however long it takes: a disk may be emptied, a pipe read again."""
        data = (text + "\n").encode(errors="backslashreplace")
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except OSError:
                time.sleep(RETRY_S)


def configure(level: str, form: str = "line") -> None:
    """Send every log of this process to standard error in one format: `line` or `json`."""
    handler = {"()": BackgroundHandler, "formatter": form}
    # libraries that log every download and every connection
    names = ("sentence_transformers", "transformers", "httpx", "urllib3")
    loggers: dict[str, Settings] = {name: {"level": "WARNING"} for name in names}
    loggers["gunicorn.error"] = {"handlers": [], "propagate": True}
    logging.config.dictConfig(_settings(level, handler, loggers))
    logging.raiseExceptions = False  # a log that cannot be written never fails a request


def of_the_master(level: str, form: str) -> Settings:
    """Return the logging of gunicorn's master: the same format, but no thread, as it forks."""
    handler = {"class": "logging.StreamHandler", "formatter": form}
    loggers = {"gunicorn.error": {"handlers": ["stderr"], "propagate": False}}
    return _settings(level, handler, loggers)


def _settings(level: str, handler: Settings, loggers: dict[str, Settings]) -> Settings:
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": LineFormatter, "fmt": FORMAT}, "json": {"()": JsonFormatter}},
        "handlers": {"stderr": handler},
        "root": {"level": level, "handlers": ["stderr"]},
        "loggers": loggers,
    }


def line(facts: Mapping[str, object]) -> str:
    """Return facts as `name=value` pairs on one line (logfmt); None is left out.

    A value that is empty or holds a blank, `=`, quotes or what cannot be printed is quoted and
    escaped as in JSON, so that no value can be read as a pair.
    """
    return " ".join(f"{name}={_value(value)}" for name, value in facts.items() if value is not None)


def _value(value: object) -> str:
    text = str(value)[:LONGEST]
    if text.isprintable() and BARE.fullmatch(text):
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())
