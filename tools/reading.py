"""Reads the rows of a file as its layout says, with values of the types that it says."""

import hashlib
import itertools
import json
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from datetime import date, time
from pathlib import Path
from typing import Any, TextIO

from tools.layout import Layout, Type, is_date
from tools.parquet import decoded, parquet_columns, parquet_count, parquet_records
from tools.records import Record, Stop, named, open_text, read_array, read_cells, read_lines
from tools.rows import (
    MOST_KEYS,
    Refused,
    Row,
    Unfit,
    check_stored,
    id_of,
    merged,
    number,
    plain,
    sound,
)

MOST_FIELDS = 10_000  # of one object of JSON
WORDS = {"true": True, "yes": True, "y": True, "t": True, "1": True,
         "false": False, "no": False, "n": False, "f": False, "0": False}  # fmt: skip


class Reader:
    """The rows of a file. Raises Stop if it cannot be read as the layout says.

    `columns` are the names of its columns as they can be stored: without dots, no two alike. In
    files of JSON they are known as far as the file was read.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        self.layout = layout
        self.columns: list[str] = []
        self._path = path
        self._names: dict[str, str] = {}  # of the file: as they are stored
        self._free = _Free()
        self._unnamed: set[str] = set()  # columns of a CSV whose header is empty
        self._chosen = None if layout.metadata is None else {*layout.metadata}
        self._file: TextIO | None = None
        self._bytes = max(1, path.stat().st_size)
        self._rows = 0  # of Parquet
        self._read = 0
        if layout.kind == "parquet":
            self._own = parquet_columns(path)
            self._rows = max(1, parquet_count(path))
            self.columns = [self._column(name) for name in self._own]
        elif layout.kind == "txt":
            self.columns = ["text"]

    @property
    def share(self) -> float:
        """How much of the file was read, 0 to 1."""
        if self._rows:
            return min(1.0, self._read / self._rows)
        if self._file is None or self._file.closed:
            return 1.0 if self._read else 0.0
        return min(1.0, self._file.buffer.tell() / self._bytes)

    def records(self) -> Iterator[Record]:
        """Yield every record, blank ones too. What cannot be read is a record with a problem."""
        made = self._of_parquet() if self.layout.kind == "parquet" else self._of_text()
        with closing(made):
            for record in made:
                self._read += 1
                if self.layout.kind != "csv" and isinstance(record.content, dict):
                    record = self._columns_of(record)
                yield record

    def _columns_of(self, record: Record) -> Record:
        """Return an object with its names as they are stored."""
        content = record.content
        if len(content) > MOST_FIELDS and self.layout.kind != "parquet":
            problem = f"has over {MOST_FIELDS} keys; at most {MOST_KEYS} are stored: take some out"
            return Record(record.line, dict(itertools.islice(content.items(), 100)), problem)
        return record._replace(content={self._column(k): v for k, v in content.items()})

    def _of_parquet(self) -> Generator[Record, None, None]:
        yield from parquet_records(self._path, self._own)

    def _of_text(self) -> Generator[Record, None, None]:
        kind, csv = self.layout.kind, self.layout.kind == "csv"
        with open_text(self._path, "" if csv else None, self.layout.encoding) as file:
            self._file = file
            if csv:
                yield from self._of_csv(read_cells(file, self.layout.delimiter or ","))
            elif kind == "json":
                yield from read_array(file)
            else:
                yield from read_lines(file, json_lines=kind == "jsonl")

    def _of_csv(self, rows: Iterator[Record]) -> Iterator[Record]:
        names: list[str] = []
        for record in rows:
            if not names and self.layout.header and record.problem:
                raise Stop(f"line {record.line} {record.problem}: it has the names of the columns")
            if not names and not record.problem:
                cells = [cell.strip() for cell in record.content]
                if not any(cells):
                    yield Record(record.line, None)
                    continue
                if not self.layout.header:
                    cells = [f"column_{i}" for i in range(1, len(cells) + 1)]
                names = self._header(cells)
                if self.layout.header:
                    continue
            record = named(record, names)
            if self._unnamed and isinstance(record.content, dict):  # a comma at the line's end
                kept = {k: v for k, v in record.content.items() if v or k not in self._unnamed}
                record = record._replace(content=kept)
            yield record

    def _header(self, cells: list[str]) -> list[str]:
        """Return the names of a header's columns; an empty one is named by its place."""
        free = _Free()
        given = [free.name(stored_name(cell)) if cell else "" for cell in cells]
        self.columns = [name or free.name(f"column_{i}") for i, name in enumerate(given, 1)]
        self._unnamed = {*self.columns} - {*given}
        return self.columns

    def _column(self, name: str) -> str:
        known = self._names.get(name)
        if known is None:
            known = self._names[name] = self._free.name(stored_name(name))
            if self.layout.kind != "parquet" and len(self.columns) < MOST_KEYS:
                self.columns.append(known)
        return known

    def row(self, index: int, record: Record) -> Row:
        """Return a record as it will be stored. Raises Unfit."""
        layout, content = self.layout, record.content
        if record.problem:
            raise Unfit(self._told(record.problem))
        try:
            if isinstance(content, str):
                text, id_, rest = content, None, {}
            else:
                parts = [_text(content.get(name)) for name in layout.text]
                text = "\n".join(part for part in parts if part.strip())
                id_ = id_of(content.get(layout.id)) if layout.id else None
                rest = self._rest(content)
            if not text.strip():
                raise Unfit(f"has no text in {' or '.join(map(repr, layout.text)) or 'it'}")
            sound(text, "text")
            if id_ is not None:
                sound(id_, "id")
            check_stored(id_, text, rest)
        except RecursionError:
            raise Unfit("is nested too deeply") from None
        return Row(index, text, id_, rest, record.line)

    def _told(self, problem: str) -> str:
        coding = self.layout.encoding
        if "is not UTF-8" in problem and coding != "utf-8":
            return f"has a byte that is none of {coding}: choose another encoding"
        return problem

    def _rest(self, content: dict[str, Any]) -> dict[str, Any]:
        layout = self.layout
        own = {*layout.text, layout.id}
        if self._chosen is None and len(content) - len(own) > MOST_KEYS:
            raise Unfit(f"has an object of over {MOST_KEYS} keys: take fields out")
        rest: dict[str, Any] = {}
        for name, value in content.items():
            if name in own if self._chosen is None else name not in self._chosen:
                continue
            kind = layout.types.get(name)
            if kind is not None and kind != "text" and value == "":
                continue  # an empty cell has no number, and no date
            if kind is not None:
                if not isinstance(value, str):
                    plain(value, name)  # refuses NaN, which is no number and no text either
                value = converted(value, kind, name)
            rest[name] = plain(value, name)
        return merged(rest)


def rows_of(
    reader: Reader, refused: Callable[[Refused], object]
) -> Iterator[tuple[int, Record, Row | None]]:
    """Yield each record with its number and its row; None if it is blank, or was refused."""
    for index, record in enumerate(reader.records()):
        row = None
        if record.content is not None:
            try:
                row = reader.row(index, record)
            except Unfit as exc:
                refused(Refused(index, record.line, str(exc), record.content))
        yield index, record, row


def key_of(reader: Reader, record: Record) -> tuple[bytes, bool]:
    """Return what tells a record from others, of 16 bytes, and whether that is an id of its own.

    Without an id it is made of all that the file says of the record, whatever is stored of it.
    """
    content = record.content
    if isinstance(content, dict) and reader.layout.id:
        try:
            id_ = id_of(content.get(reader.layout.id))
        except Unfit:
            id_ = None
        if id_ is not None:
            return hashlib.blake2b(
                id_.encode(errors="surrogatepass"), digest_size=16
            ).digest(), True
    written = json.dumps(content, sort_keys=True, default=str)
    return hashlib.blake2b(written.encode(), digest_size=16).digest(), False


def stored_name(name: str) -> str:
    """Return a name that a filter can use for a column of this name."""
    whole = name.encode(errors="replace").decode()  # `?` for what the encoding does not have
    return whole.replace("\0", "").replace(".", "_").lstrip("$")[:500] or "column"


class _Free:
    """Gives names of which no two are alike, each in constant time."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._next: dict[str, int] = {}

    def name(self, wanted: str) -> str:
        """Return the name that is wanted; if it was given before, with a number behind it."""
        free = wanted
        while free in self._taken:
            count = self._next[wanted] = self._next.get(wanted, 1) + 1
            free = f"{wanted}_{count}"
        self._taken.add(free)
        return free


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        value = decoded(value)
    return value if isinstance(value, str) else ""


def converted(value: Any, kind: Type, name: str) -> Any:
    """Return a value as a type that was chosen for its column. Raises Unfit."""
    if value is None:
        return value
    if kind == "date":
        if isinstance(value, date | time) or (isinstance(value, str) and is_date(value.strip())):
            return value
        raise Unfit(f"has no date in {name!r} ({str(value)[:40]!r})")
    if kind == "text":
        return value if isinstance(value, str) else written(value)
    if kind == "json":
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            raise Unfit(f"has no JSON in {name!r}") from None
    found: object = None
    if kind == "boolean":
        found = value if isinstance(value, bool) else WORDS.get(str(value).strip().lower())
    elif isinstance(value, str):
        found = number(value.strip())
    elif isinstance(value, int | float) and not isinstance(value, bool):
        found = value
    if found is None:
        raise Unfit(f"has no {kind} in {name!r} ({str(value)[:40]!r})")
    return found


def written(value: Any) -> str:
    """Return a value as text."""
    if isinstance(value, bool | dict | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
