"""Reads JSONL, CSV and TXT files record by record, each with the line it begins on.

An unreadable line is a record with a problem, so it never hides the lines after it.
"""

import csv
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

MAX_CELL = 64 << 20  # characters: an unclosed quote would otherwise swallow the rest of the file
UTF16 = (b"\xff\xfe", b"\xfe\xff")
# A cell and the comma behind it, as RFC 4180 and Python's reader have them.
_CELL = re.compile(r'(?:"(?:[^"]|"")*+"|[^",\r\n][^,\r\n]*+)?,')
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of such bytes


class Stop(Exception):
    """The run cannot continue; the message says why and what to do."""


class Record(NamedTuple):
    """The object or text of a line; None if it is blank; or the problem with it."""

    line: int
    content: Any
    problem: str = ""


def lines_of(path: Path, kind: str) -> Iterator[Record]:
    """Yield the records of a TXT or JSONL file."""
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            text = line.rstrip("\n")
            if not text.strip():
                yield Record(number, None)
            elif problem := not_utf8(text):
                yield Record(number, text, problem)
            else:
                yield Record(number, text) if kind == ".txt" else _json(number, text)


def _json(number: int, text: str) -> Record:
    try:
        content = json.loads(text)
    except RecursionError:
        return Record(number, text, "is nested too deeply")
    except ValueError as exc:
        where = str(exc)
        if isinstance(exc, json.JSONDecodeError):
            where = f"{exc.msg}, at character {exc.pos + 1}"
        array = "; give an object a line, not one array" if text.lstrip()[0] == "[" else ""
        return Record(number, text, f"is not JSON ({where}){array}")
    if not isinstance(content, dict | str):
        return Record(number, text, "is neither an object nor a string")
    return Record(number, content)


def csv_columns(path: Path) -> list[str]:
    """Return the column names of a CSV; an empty list for an empty file. Raises Stop."""
    with _open(path, newline="") as file:
        return _header(path, _Lines(file))


def csv_records(path: Path) -> Iterator[Record]:
    """Yield the rows of a CSV as objects; columns without a name are left out."""
    with _open(path, newline="") as file:
        lines = _Lines(file)
        names = _header(path, lines)
        while record := lines.record():
            cells = record.content
            if record.problem:
                yield record
            elif not any(cell.strip() for cell in cells):
                yield Record(record.line, None)
            elif len(cells) != len(names):
                counts = f"{len(cells)}, not {len(names)}"
                problem = f"has another number of cells than the header: {counts}"
                yield Record(record.line, cells, problem)
            else:
                row = {name: cell for name, cell in zip(names, cells, strict=True) if name}
                yield Record(record.line, row, not_utf8(*cells))


def separator_of(names: list[str]) -> str:
    """Return a hint at the separator of a header that has no comma, or an empty string."""
    for separator, shown in {";": "';'", "\t": "a tab", "|": "'|'"}.items():
        if len(names) == 1 and separator in names[0]:
            return f"; its cells seem to be separated by {shown}, and must be by commas"
    return ""


def _header(path: Path, lines: "_Lines") -> list[str]:
    while record := lines.record():
        cells = [] if record.problem else [cell.strip() for cell in record.content]
        problem = record.problem or not_utf8(*cells)
        names = [cell for cell in cells if cell]
        if (twice := first_twice(names)) is not None:
            problem = f"names the column {twice!r} twice; each needs a name of its own"
        if problem:
            raise Stop(f"{path}: line {record.line} {problem}")
        if names:
            return cells
    return []


class _Lines:
    """The rows of a CSV, and the lines they are made of."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._again: deque[str] = deque()
        self._taken: list[str] = []
        self._number = 0
        csv.field_size_limit(MAX_CELL)
        self._reader = csv.reader(self, strict=True)

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._file)
        self._number += 1
        self._taken.append(line)
        return line

    def record(self) -> Record | None:
        """Return the next row as a list of cells. Reading resumes behind a broken row."""
        self._taken.clear()
        begins = self._number + 1
        try:
            cells = next(self._reader, None)
        except csv.Error as exc:
            self._reader = csv.reader(self, strict=True)
            broken, at = 0, _opening("".join(self._taken))
            while at >= len(self._taken[broken]):
                at -= len(self._taken[broken])
                broken += 1
            content = "".join(self._taken[: broken + 1])
            left = self._taken[broken + 1 :]
            self._again.extendleft(reversed(left))
            self._number -= len(left)
            problem = "opens a quote that is never closed"
            if "end of data" not in str(exc) and "limit" not in str(exc):
                problem = "opens a quote that is not closed before a comma or the line's end"
            return Record(begins + broken, content, problem)
        return None if cells is None else Record(begins, cells)


def _opening(text: str) -> int:
    """Return the offset of the first unreadable cell."""
    at = 0
    while match := _CELL.match(text, at):
        at = match.end()
    return at


def not_utf8(*texts: str) -> str:
    """Return what is wrong with the first byte that is not UTF-8, or an empty string."""
    for text in texts:
        if not text.isascii() and (found := _NOT_UTF8.search(text)):
            byte = ord(found[0]) - 0xDC00
            return f"is not UTF-8 (byte 0x{byte:02x}): save the file as UTF-8"
    return ""


def _open(path: Path, newline: str | None = None) -> TextIO:
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(UTF16) or head.count(0) * 4 > len(head):
        raise Stop(f"{path}: line 1 is UTF-16, or no text at all: save the file as UTF-8")
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def first_twice(names: Iterable[str]) -> str | None:
    """Return the first name that occurs twice, if any."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
