"""Reads JSONL, JSON, CSV and TXT files record by record, each with the line it begins on.

An unreadable line is a record with a problem, so it never hides the lines after it.
"""

import codecs
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
_CELL = r'(?:"(?:[^"]|"")*+"|[^"{0}\r\n][^{0}\r\n]*+)?{0}'
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of such bytes
_BETWEEN = re.compile(r"[\s,]*")
PIECE = 1 << 20  # characters of an array that are read at once
# UTF-16 has undecodable units below 0x80, which `surrogateescape` does not take.
codecs.register_error("marked", lambda exc: ("\udcff", getattr(exc, "end", 0)))


class Stop(Exception):
    """The run cannot continue; the message says why and what to do."""


class Record(NamedTuple):
    """The object or text of a line; None if it is blank; or the problem with it."""

    line: int
    content: Any
    problem: str = ""


def lines_of(path: Path, kind: str) -> Iterator[Record]:
    """Yield the records of a TXT or JSONL file."""
    with open_text(path) as file:
        yield from read_lines(file, json_lines=kind != ".txt")


def read_lines(file: TextIO, *, json_lines: bool) -> Iterator[Record]:
    """Yield the lines of an open file, each a text or JSON."""
    for number, line in enumerate(file, 1):
        text = line.rstrip("\n")
        if not text.strip():
            yield Record(number, None)
        elif problem := not_utf8(text):
            yield Record(number, text, problem)
        else:
            yield _json(number, text) if json_lines else Record(number, text)


def read_array(file: TextIO) -> Iterator[Record]:
    """Yield the parts of an open file of JSON arrays, without reading it whole.

    Objects and strings between the arrays are records too. What follows a part that is not JSON
    cannot be read: it is one record with the problem.
    """
    decoder, line, held, at = json.JSONDecoder(), 1, "", 0
    inside = ended = False
    while True:
        gap = _BETWEEN.match(held, at)
        after = gap.end() if gap else at
        line += held.count("\n", at, after)
        at = after
        if at < len(held) and held[at] == ("]" if inside else "["):
            inside, at = not inside, at + 1
            continue
        try:
            if at == len(held):
                raise ValueError
            content, end = decoder.raw_decode(held, at)
            if end == len(held) and not ended:  # a number may go on
                raise ValueError
        except RecursionError:
            yield Record(line, held[at : at + 100], f"is nested too deeply{_REST}")
            return
        except ValueError as exc:
            if not ended:
                # Twice as much each time, so that a large part is not parsed again and again.
                more = file.read(max(PIECE, len(held) - at)) if len(held) - at <= MAX_CELL else ""
                held, at, ended = held[at:] + more, 0, not more
                continue
            if at < len(held):
                why = exc.msg if isinstance(exc, json.JSONDecodeError) else "it ends early"
                yield Record(line, held[at : at + 100], f"is not JSON ({why}){_REST}")
            elif inside:
                yield Record(line, "", f"ends without a ]{_REST}")
            return
        yield _checked(line, content, held[at:end])
        line += held.count("\n", at, end)
        at = end


_REST = "; what follows cannot be read"


def _checked(line: int, content: Any, text: str) -> Record:
    """Return an object or text as a record; anything else with its problem."""
    if problem := not_utf8(text):
        return Record(line, text, problem)
    if not isinstance(content, dict | str):
        return Record(line, text, "is neither an object nor a string")
    return Record(line, content)


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
    return _checked(number, content, text)


def csv_columns(path: Path) -> list[str]:
    """Return the column names of a CSV; an empty list for an empty file. Raises Stop."""
    with open_text(path, newline="") as file:
        return _header(path, _Lines(file))


def csv_records(path: Path) -> Iterator[Record]:
    """Yield the rows of a CSV as objects; columns without a name are left out."""
    with open_text(path, newline="") as file:
        lines = _Lines(file)
        names = _header(path, lines)
        while record := lines.record():
            yield named(record, names)


def read_cells(file: TextIO, delimiter: str) -> Iterator[Record]:
    """Yield the rows of an open CSV file as lists of cells."""
    lines = _Lines(file, delimiter)
    while record := lines.record():
        yield record


def named(record: Record, names: list[str]) -> Record:
    """Return a list of cells as an object; columns without a name are left out."""
    cells = record.content
    if record.problem:
        return record
    if not any(cell.strip() for cell in cells):
        return Record(record.line, None)
    if len(cells) != len(names):
        counts = f"{len(cells)}, not {len(names)}"
        problem = f"has another number of cells than the header: {counts}"
        return Record(record.line, cells, problem)
    row = {name: cell for name, cell in zip(names, cells, strict=True) if name}
    return Record(record.line, row, not_utf8(*cells))


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

    def __init__(self, file: TextIO, delimiter: str = ",") -> None:
        self._file, self._delimiter = file, delimiter
        self._again: deque[str] = deque()
        self._taken: list[str] = []
        self._number = 0
        csv.field_size_limit(MAX_CELL)
        self._reader = csv.reader(self, strict=True, delimiter=delimiter)

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
            self._reader = csv.reader(self, strict=True, delimiter=self._delimiter)
            broken, at = 0, _opening("".join(self._taken), self._delimiter)
            while at >= len(self._taken[broken]):
                at -= len(self._taken[broken])
                broken += 1
            content = "".join(self._taken[: broken + 1])
            left = self._taken[broken + 1 :]
            self._again.extendleft(reversed(left))
            self._number -= len(left)
            problem = "opens a quote that is never closed"
            if "end of data" not in str(exc) and "limit" not in str(exc):
                end = "a comma" if self._delimiter == "," else repr(self._delimiter)
                problem = f"opens a quote that is not closed before {end} or the line's end"
            return Record(begins + broken, content, problem)
        return None if cells is None else Record(begins, cells)


def _opening(text: str, delimiter: str) -> int:
    """Return the offset of the first unreadable cell."""
    at, cell = 0, re.compile(_CELL.format(re.escape(delimiter)))
    while match := cell.match(text, at):
        at = match.end()
    return at


def not_utf8(*texts: str) -> str:
    """Return what is wrong with the first byte that is not UTF-8, or an empty string."""
    for text in texts:
        if not text.isascii() and (found := _NOT_UTF8.search(text)):
            byte = ord(found[0]) - 0xDC00
            return f"is not UTF-8 (byte 0x{byte:02x}): save the file as UTF-8"
    return ""


def open_text(path: Path, newline: str | None = None, encoding: str | None = None) -> TextIO:
    """Open a file of text; bytes that its encoding does not have become halves of surrogates.

    Without an encoding it is UTF-8. Raises Stop if it is not.
    """
    if encoding is None:
        with path.open("rb") as file:
            head = file.read(4096)
        if head.startswith(UTF16) or head.count(0) * 4 > len(head):
            raise Stop(f"{path}: line 1 is UTF-16, or no text at all: save the file as UTF-8")
        encoding = "utf-8"
    if encoding == "utf-16":
        with path.open("rb") as file:
            if file.read(2) not in UTF16:
                raise Stop("has no byte order mark: choose utf-16-le or utf-16-be as its encoding")
    errors = "marked" if encoding.startswith("utf-16") else "surrogateescape"
    name = "utf-8-sig" if encoding == "utf-8" else encoding
    return path.open(encoding=name, errors=errors, newline=newline)


def first_twice(names: Iterable[str]) -> str | None:
    """Return the first name that occurs twice, if any."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
